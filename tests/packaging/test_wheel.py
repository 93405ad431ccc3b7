"""The wheel, installed into an empty environment outside the checkout, runs the demo and finds every total equal."""

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.packaging.compose import ROOT

PACKAGES = ("headrace", "schemas", "producers", "streams", "sinks", "api")
INSTALL_TIMEOUT_S = 600
DEMO_TIMEOUT_S = 400


@pytest.fixture(scope="module", name="wheel")
def _wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


def test_it_holds_everything_that_runs_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == set(PACKAGES)
    tracked = subprocess.run(
        ["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True, timeout=20
    ).stdout.splitlines()
    assert set(tracked) - set(names) == set()


def test_bundled_data_is_what_its_attribution_names(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        told = files.read("producers/data/ATTRIBUTION.md").decode()
        content = files.read("producers/data/online_retail.csv.gz")
    assert "Creative Commons Attribution 4.0" in told and "Daqing Chen" in told
    assert f"SHA-256: {hashlib.sha256(content).hexdigest()}" in told


def test_no_other_distribution_provides_our_top_level_names() -> None:
    providers = importlib.metadata.packages_distributions()
    assert "fastapi" in providers
    others = {name: set(providers.get(name, [])) - {"headrace"} for name in PACKAGES}
    assert others == {name: set() for name in PACKAGES}


def test_the_demo_is_exact_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    pip = [str(environment / "bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    run([sys.executable, "-m", "venv", str(environment)], tmp_path)
    runtime = ROOT / "requirements/runtime.txt"
    run([*pip, "--require-hashes", "--only-binary=:all:", "-r", str(runtime)], tmp_path)
    run([*pip, str(wheel)], tmp_path)
    answer = run([str(environment / "bin/headrace"), "demo", "--check", "--json"], tmp_path, DEMO_TIMEOUT_S)
    assert json.loads(answer)["equal"] is True


def run(command: list[str], folder: Path, timeout_s: float = INSTALL_TIMEOUT_S) -> str:
    """Run outside the checkout, without anything of ours in the environment; gives its output."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HEADRACE_", "PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        command,
        cwd=folder,
        env=kept | {"PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout
