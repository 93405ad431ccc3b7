"""A settings file with a typo stops every verb before it does anything: exit code 78, and what was probably meant."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("verb", [["up", "--data", "data"], ["run", "sink"], ["topics", "create"]])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('kafak = "127.0.0.1:9092"\n', "did you mean kafka"),
        ('log_level = "inof"\n', "did you mean info"),
        ('events_partitions = "many"\n', "events_partitions must be of type int"),
        ("kafka = \n", "headrace.toml"),
    ],
)
def test_a_typo_in_the_file(tmp_path: Path, verb: list[str], text: str, says: str) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text(text)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    refused = subprocess.run(
        [sys.executable, "-m", "headrace", *verb],
        env=environment | {"HEADRACE_CONFIG": str(file), "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 78, refused.stderr
    assert says in refused.stderr and str(file) in refused.stderr
    assert "Traceback" not in refused.stderr
    assert list(tmp_path.iterdir()) == [file]
