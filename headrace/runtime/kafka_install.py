"""Apache Kafka's jars: fetched once from Maven's repository into a cache folder, and checked.

Guarantees: a folder that `installed_jars` returns holds exactly the committed jars, each with its committed
SHA-256; an interrupted or concurrent installation leaves no half-filled folder. Refuses to guess: without
Java or Maven it says what to install.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from headrace.errors import ConfigurationError, HeadraceError
from headrace.log import get_logger

KAFKA_VERSION = "4.3.1"
JAVA_MIN = 17
JAVA_PACKAGE = "default-jre-headless"  # 17 on Debian 12, 21 on Debian 13 and Ubuntu 24.04
MAVEN_PACKAGE = "maven"
MAVEN_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
MAVEN_TIMEOUT_S = 600
MATERIAL = Path(__file__).parent / "kafka"
POM = MATERIAL / "pom.xml"
CHECKSUMS = MATERIAL / "jars.sha256"

log = get_logger(__name__)


class MissingProgramError(ConfigurationError):
    """Java or Maven is not there, or too old."""


class InstallFailedError(HeadraceError):
    """Maven could not bring the jars, or brought others than the committed ones."""


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/headrace/kafka-VERSION`, by default under ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "headrace" / f"kafka-{KAFKA_VERSION}"


def require_programs() -> None:
    """Raise MissingProgramError that names everything Kafka still lacks here, so that one command installs it all."""
    lacking: list[tuple[str, str]] = []
    try:
        find_java()
    except MissingProgramError as error:
        lacking.append((error.message, JAVA_PACKAGE))
    if not cache_folder().is_dir():
        try:
            find_maven()
        except MissingProgramError as error:
            lacking.append((error.message, MAVEN_PACKAGE))
    if lacking:
        raise MissingProgramError(
            "; ".join(message for message, _ in lacking), remedy=apt_remedy(*(package for _, package in lacking))
        )


def find_java() -> Path:
    """The `java` to run, from JAVA_HOME or PATH, at least version 17. Raises MissingProgramError."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin")) if home else None
    found = found or shutil.which("java")
    if found is None:
        raise MissingProgramError(
            "Apache Kafka needs Java and there is no `java` here", remedy=apt_remedy(JAVA_PACKAGE)
        )
    version = java_version(Path(found))
    if version < JAVA_MIN:
        raise MissingProgramError(
            f"Apache Kafka needs Java {JAVA_MIN} or newer; {found} is version {version} "
            "(JAVA_HOME says which one is taken)",
            remedy=apt_remedy(JAVA_PACKAGE),
        )
    return Path(found)


def java_version(java: Path) -> int:
    """The major version that `java -version` tells; 0 when it tells none."""
    told = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)
    match = re.search(r'version "(?:1\.)?(\d+)', told.stderr)
    return int(match[1]) if match else 0


def find_maven() -> Path:
    """The `mvn` to run. Raises MissingProgramError."""
    found = shutil.which("mvn")
    if found is None:
        raise MissingProgramError(
            "Apache Kafka's jars are fetched with Maven and there is no `mvn` here",
            remedy=apt_remedy(MAVEN_PACKAGE),
        )
    return Path(found)


def apt_remedy(*packages: str) -> str:
    """The command that installs Debian packages, for the user we are."""
    sudo = "" if os.geteuid() == 0 else "sudo "
    what = "it" if len(packages) == 1 else "them"
    return f"install {what}: `{sudo}apt-get install {' '.join(packages)}` (Debian 12, Ubuntu 24.04 or newer)"


def installed_jars() -> Path:
    """The folder of the jars; fetches them when they are not there yet (some 60 MB, once)."""
    folder = cache_folder()
    if not folder.is_dir():
        install(folder)
    return folder


def install(folder: Path) -> None:
    """Fetch into `folder`, whole or not at all. Waits for another process that does the same."""
    maven = find_maven()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return
        log.info("kafka_fetching", version=KAFKA_VERSION, folder=str(folder))
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as scratch:
            fetched = Path(scratch) / "jars"
            run_maven(maven, fetched, Path(scratch) / "pom.xml")
            wrong = wrong_jars(fetched)
            if wrong:
                raise InstallFailedError(
                    f"Maven's jars differ from the committed list: {', '.join(wrong)}",
                    remedy="try again; if it stays so, do not use them and report it",
                )
            fetched.rename(folder)


def run_maven(maven: Path, target: Path, pom: Path) -> None:
    """Copy the pom's runtime dependencies into `target`; checksum mismatches on the way are fatal (-C)."""
    shutil.copyfile(POM, pom)  # Maven wants a writable folder beside the pom
    command = [str(maven), "-q", "-B", "-C", "-f", str(pom), f"{MAVEN_PLUGIN}:copy-dependencies"]
    arguments = [f"-DoutputDirectory={target}", "-DincludeScope=runtime"]
    try:
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=MAVEN_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InstallFailedError(
            f"Maven did not finish within {MAVEN_TIMEOUT_S} s", remedy="check the network and try again"
        ) from error
    if done.returncode != 0:
        told = "\n".join((done.stdout + done.stderr).splitlines()[:5])
        raise InstallFailedError(
            f"Maven could not fetch Apache Kafka {KAFKA_VERSION}:\n{told}",
            remedy="check the network and Maven's settings, then `headrace kafka install` again",
        )


def wrong_jars(folder: Path) -> list[str]:
    """Names of jars that are missing, surplus, or of another content than committed; sorted."""
    lines = CHECKSUMS.read_text(encoding="ascii").splitlines()
    expected = {name: digest for digest, name in (line.split() for line in lines)}
    found = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in folder.glob("*.jar")}
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
