"""Children start together or not at all, come back when they die, and never outlive their supervisor."""

import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from headrace.runtime.parts import start_all
from headrace.runtime.process import LOG_BYTES_MAX, Command, PartFailedError, Process, write_secret
from headrace.runtime.supervisor import BACKOFF_MAX_S, Supervisor, backoff_s

READY = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + READY
BROKEN = "import sys; print('the disk is on fire', file=sys.stderr); sys.exit(7)"
NEVER = "import time; time.sleep(60)"
PARENT = "import subprocess, sys; subprocess.Popen(['sleep', '60']);" + READY


@dataclass(frozen=True)
class Script:
    """A part made of a line of Python; it is ready when it has made its file."""

    name: str
    folder: Path
    code: str
    ready_timeout_s: float = 20.0

    @property
    def mark(self) -> Path:
        return self.folder / f"{self.name}.ready"

    def prepare(self) -> None:
        self.mark.unlink(missing_ok=True)

    def command(self) -> Command:
        return Command(
            name=self.name,
            argv=(sys.executable, "-c", self.code, str(self.mark)),
            log_file=self.folder / f"{self.name}.log",
            folder=self.folder,
            ready_timeout_s=self.ready_timeout_s,
            stop_timeout_s=0.5,
        )

    def answers(self) -> bool:
        return self.mark.exists()

    def complete(self) -> None:
        pass


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    supervisor = Supervisor()
    yield supervisor
    supervisor.stop()


def tend_until(supervisor: Supervisor, name: str, old_pid: int) -> int:
    deadline = time.monotonic() + 20
    while supervisor.pids()[name] == old_pid:
        assert time.monotonic() < deadline, f"{name} was not restarted"
        supervisor.tend()
        time.sleep(0.01)
    return supervisor.pids()[name]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_killed_part_comes_back_and_the_others_stay(supervisor: Supervisor, tmp_path: Path) -> None:
    told: list[str] = []
    supervisor.on_restart = told.append
    supervisor.start([Script("a", tmp_path, READY), Script("b", tmp_path, READY)])
    before = dict(supervisor.pids())

    os.kill(before["a"], signal.SIGKILL)
    after = tend_until(supervisor, "a", before["a"])

    assert told == ["a"]
    assert supervisor.pids() == {"a": after, "b": before["b"]}
    supervisor.stop()
    assert gone(after) and gone(before["b"])


def test_a_failing_part_is_named_with_its_last_words_and_stops_the_others_at_once(tmp_path: Path) -> None:
    parts = [Script("good", tmp_path, READY), Script("slow", tmp_path, NEVER), Script("bad", tmp_path, BROKEN)]
    began = time.monotonic()
    with pytest.raises(PartFailedError, match=r"bad ended with code 7[^$]*the disk is on fire"):
        start_all(parts)
    assert time.monotonic() - began < 10, "the failure waited for the part that never answers"


def test_a_part_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(PartFailedError, match=r"slow did not answer within 0\.3 s"):
        start_all([Script("slow", tmp_path, NEVER, ready_timeout_s=0.3)])


def test_a_part_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    [process] = start_all([Script("deaf", tmp_path, DEAF)])
    began = time.monotonic()
    process.stop()
    assert process.exit_code() == -signal.SIGKILL
    assert 0.4 < time.monotonic() - began < 10


def test_what_a_part_started_goes_with_it(tmp_path: Path) -> None:
    [process] = start_all([Script("parent", tmp_path, PARENT)])
    process.kill()
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_a_missing_program_is_a_clear_failure(tmp_path: Path) -> None:
    command = Command(name="ghost", argv=("/does/not/exist",), log_file=tmp_path / "log", folder=tmp_path)
    process = Process(command)
    process.start()
    with pytest.raises(
        PartFailedError, match=r"ghost ended with code 1 while starting[^$]*/does/not/exist|No such file"
    ):
        process.wait_ready(lambda: False)


def test_children_see_nothing_of_our_environment_but_the_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_KAFKA", "elsewhere:9092")
    monkeypatch.setenv("SECRET_OF_OURS", "x")
    code = "import os; print(sorted(os.environ), flush=True);" + READY
    [process] = start_all([Script("nosy", tmp_path, code)])
    process.stop()
    assert "HEADRACE_KAFKA" not in process.tail() and "SECRET_OF_OURS" not in process.tail()
    assert "'PATH'" in process.tail()


def test_logs_are_bounded(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * (LOG_BYTES_MAX + 1))
    Process(Command(name="p", argv=("/bin/true",), log_file=log, folder=tmp_path)).bound_log()
    assert log.stat().st_size == 0
    assert (tmp_path / "log.1").stat().st_size == LOG_BYTES_MAX + 1


def test_waits_between_restarts_grow_to_a_bound() -> None:
    waits = [backoff_s(number) for number in range(40)]
    assert waits[:4] == [0.0, 0.5, 1.0, 2.0]
    assert waits == sorted(waits)
    assert waits[-1] == BACKOFF_MAX_S


def test_a_part_that_keeps_dying_is_not_restarted_in_a_tight_loop(supervisor: Supervisor, tmp_path: Path) -> None:
    flaky = tmp_path / "flaky"
    code = f"import pathlib, sys; p = pathlib.Path({str(flaky)!r}); sys.exit(3) if p.exists() else None;" + READY
    restarts: list[str] = []
    supervisor.on_restart = restarts.append
    supervisor.start([Script("flaky", tmp_path, code)])
    flaky.touch()
    os.kill(supervisor.pids()["flaky"], signal.SIGKILL)
    stopping = threading.Event()
    threading.Timer(1.3, stopping.set).start()
    supervisor.watch(stopping)
    assert 1 <= len(restarts) <= 3


def test_secrets_are_never_readable_by_others_even_over_an_open_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)
    write_secret(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == "new"
