"""HAProxy with the committed configuration, in front of whatever a test names; and API replicas to put behind it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from headrace.runtime.ports import LOOPBACK, free_ports
from headrace.settings import Settings

CONFIGURATION = Path(__file__).parents[2] / "deploy/haproxy/haproxy.cfg"
SEARCHED = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
READY_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Balancer:
    """Where it listens."""

    api_url: str
    ingest_url: str


@contextmanager
def replica(settings: Settings, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """One API process, ready to serve; killed at the end if it still runs."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
    with (folder / f"api-{settings.api_port}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "headrace", "run", "api"],
            env=inherited | settings.as_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: httpx.get(f"http://127.0.0.1:{settings.api_port}/readyz", timeout=2).status_code == 200)
        yield process
    finally:
        process.kill()
        process.wait(10)


@contextmanager
def balancer(
    folder: Path, *, api: tuple[str, str] | None = None, ingest: tuple[str, str] | None = None, resolver: str = ""
) -> Iterator[Balancer]:
    """HAProxy in front of two replicas each (host:port; None: nothing is there). Does not wait for them."""
    program = shutil.which("haproxy", path=SEARCHED)
    assert program, "haproxy is missing: `make test` as root installs it, otherwise apt-get install haproxy"
    api_port, ingest_port, nothing = free_ports(3)
    nowhere = (f"{LOOPBACK}:{nothing}", f"{LOOPBACK}:{nothing}")
    environment = {
        "API_BIND": f"{LOOPBACK}:{api_port}",
        "INGEST_BIND": f"{LOOPBACK}:{ingest_port}",
        **dict(zip(("API_1", "API_2"), api or nowhere, strict=True)),
        **dict(zip(("INGEST_1", "INGEST_2"), ingest or nowhere, strict=True)),
    }
    if resolver:
        environment["RESOLVER"] = resolver
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-f", str(CONFIGURATION)], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    found = Balancer(f"http://{LOOPBACK}:{api_port}", f"http://{LOOPBACK}:{ingest_port}")
    try:
        wait_until(lambda: httpx.get(f"{found.api_url}/metrics", timeout=2).status_code == 404)
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        finally:
            process.kill()


def wait_until(condition: Callable[[], bool], timeout_s: float = READY_TIMEOUT_S) -> None:
    """Poll; a refused connection counts as not yet."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if condition():
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, "not ready"
        time.sleep(0.05)
