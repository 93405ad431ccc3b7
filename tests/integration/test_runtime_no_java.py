"""`headrace up` on a machine without Java or Maven: exit code 78, what to install and how, and nothing made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.runtime.kafka_install import KAFKA_VERSION

JRE, MAVEN = "default-jre-headless", "maven"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder that is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def put(folder: Path, name: str, script: str) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def up(programs: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    home = programs.parent
    return subprocess.run(
        [sys.executable, "-m", "headrace", "up", "--data", str(home / "data")],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": str(programs), "HOME": str(home), "XDG_CACHE_HOME": str(cache)},
        check=False,
    )


def assert_refused(refused: subprocess.CompletedProcess[str], home: Path, *packages: str) -> None:
    sudo = "" if os.geteuid() == 0 else "sudo "
    assert refused.returncode == 78, refused.stderr
    assert f"`{sudo}apt-get install {' '.join(packages)}`" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (home / "data").exists()


def test_without_java_and_maven_one_command_brings_both(programs: Path, tmp_path: Path) -> None:
    refused = up(programs, tmp_path / "cache")
    assert_refused(refused, tmp_path, JRE, MAVEN)
    assert "no `java` here" in refused.stderr and "no `mvn` here" in refused.stderr


def test_maven_is_not_asked_for_when_the_jars_are_there(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "cache" / "headrace" / f"kafka-{KAFKA_VERSION}").mkdir(parents=True)
    refused = up(programs, tmp_path / "cache")
    assert_refused(refused, tmp_path, JRE)
    assert "mvn" not in refused.stderr


def test_without_maven_alone(programs: Path, tmp_path: Path) -> None:
    put(programs, "java", "echo 'openjdk version \"21.0.2\"' >&2")
    refused = up(programs, tmp_path / "cache")
    assert_refused(refused, tmp_path, MAVEN)
    assert JRE not in refused.stderr


def test_an_old_java_is_named_with_its_version(programs: Path, tmp_path: Path) -> None:
    put(programs, "java", "echo 'java version \"1.8.0_302\"' >&2")
    put(programs, "mvn", "exit 1")
    refused = up(programs, tmp_path / "cache")
    assert_refused(refused, tmp_path, JRE)
    assert f"needs Java 17 or newer; {programs / 'java'} is version 8" in refused.stderr
