"""`headrace demo` as a newcomer runs it: the proof holds, Ctrl-C ends it, and nothing stays behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

TIMEOUT_S = 240


def demo(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a demo whose temporary folder lies in `folder`."""
    return subprocess.Popen(
        [sys.executable, "-m", "headrace", "demo", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(folder)},
    )  # fmt: skip


def left_over(folder: Path) -> list[str]:
    """Files of the demo, and processes that still name its folder."""
    found = [str(path) for path in folder.iterdir() if path.name.startswith("headrace-demo-")]
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = [*(process.info["cmdline"] or []), process.info["cwd"] or ""]
        if any(f"{folder}/headrace-demo-" in word for word in words):
            found.append(" ".join(words))
    return found


def test_the_check_proves_every_total_and_leaves_nothing(tmp_path: Path) -> None:
    running = demo(tmp_path, "--check", "--json", "--seed", "7")
    out, err = running.communicate(timeout=TIMEOUT_S)
    document = json.loads(out or "{}")
    assert running.returncode == 0 and document["equal"], f"{out}\n{err}"
    names = {line["name"] for line in document["lines"]}
    assert {"events", "revenue", "users (raw, exact)", "per day", "per country", "per product (raw)"} <= names
    assert all(line["equal"] for line in document["lines"])
    assert left_over(tmp_path) == []


def test_the_demo_shows_live_numbers_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    running = demo(tmp_path, "--json")
    assert running.stdout is not None and running.stderr is not None
    try:
        place = json.loads(running.stdout.readline())
        assert place["admin_token"] and "#code=" in place["dashboard_url"]
        assert httpx.get(place["api_url"] + "/readyz", trust_env=False).status_code == 200
        deadline = time.monotonic() + 60
        while "live traffic flows" not in running.stderr.readline():
            assert time.monotonic() < deadline and running.poll() is None
        time.sleep(2)
        assert running.poll() is None
    finally:
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    assert left_over(tmp_path) == []
