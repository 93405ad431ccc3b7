"""The embedded HTTP server's life: one process, graceful at SIGTERM, never hanging."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import psutil
import pytest

from headrace.runtime.ports import free_ports

WAIT_S = 20.0
Server = tuple["subprocess.Popen[str]", str]


def start(port: int, mode: str = "") -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.integration.http_application", str(port), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture
def server() -> Iterator[Server]:
    port = free_ports(1)[0]
    process = start(port)
    try:
        assert process.stdout is not None
        while "ready" not in process.stdout.readline():
            assert process.poll() is None
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.communicate(timeout=WAIT_S)


def test_a_request_under_way_is_finished_and_the_exit_is_clean(server: Server) -> None:
    process, url = server
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(httpx.get(f"{url}/slow", timeout=WAIT_S).status_code))
    thread.start()
    time.sleep(0.4)
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_S) == 0
    thread.join(WAIT_S)
    assert answers == [200]


def test_a_request_that_never_ends_is_cut_after_the_grace(server: Server) -> None:
    process, url = server
    outcome = hang(url)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_S) == 0
    assert 1.5 < time.monotonic() - started < 8
    assert outcome() != "200"


def test_a_second_signal_ends_the_wait(server: Server) -> None:
    process, url = server
    outcome = hang(url)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(WAIT_S) == 0
    assert time.monotonic() - started < 1.2, "the grace is two seconds"
    assert outcome() != "200"


def hang(url: str) -> Callable[[], str]:
    """Begin a request that the server never answers; gives what tells its outcome."""
    outcomes: list[str] = []

    def ask() -> None:
        try:
            outcomes.append(str(httpx.get(f"{url}/hang", timeout=WAIT_S).status_code))
        except httpx.HTTPError as error:
            outcomes.append(type(error).__name__)

    def outcome() -> str:
        thread.join(WAIT_S)
        return outcomes[0]

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.4)
    return outcome


def test_one_process_is_all_there_is(server: Server) -> None:
    process, url = server
    assert psutil.Process(process.pid).children(recursive=True) == []
    process.kill()
    process.wait(WAIT_S)
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


@pytest.mark.parametrize(("mode", "named"), [("fails", "did not start"), ("fails-stubborn", "http_tasks_left")])
def test_a_start_that_fails_ends_the_process_with_an_error(mode: str, named: str) -> None:
    process = start(free_ports(1)[0], mode)
    output, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert named in output


def test_a_port_that_is_taken_is_refused_and_never_shared(server: Server) -> None:
    _, url = server
    process = start(int(url.rpartition(":")[2]))
    output, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert "Address already in use" in output
    assert httpx.get(url).text == "ok"
