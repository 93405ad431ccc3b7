"""One child process: started, watched, stopped, with nothing left of it.

A child lives in a session of its own (the terminal's Ctrl-C does not reach it), logs to a bounded file in the data
folder, and is killed by the kernel when its supervisor dies. The kernel ties that to the *thread* that started
the child, so start children from a thread that lives as long as they may: the main thread.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headrace.errors import FatalError

READY_POLL_S = 0.02
GROUP_TIMEOUT_S = 5.0
LOG_BYTES_MAX = 32 * 1024 * 1024  # per child; one older file of the same size is kept
TAIL_BYTES = 16 * 1024
TAIL_LINES = 15
ROOM_BYTES_MIN = 16 * 1024 * 1024  # a segment of Postgres' log: with less, no engine gets far
LAUNCHER = Path(__file__).with_name("launch.py")
# What engines may see of our environment; services get theirs from `service_environment`.
PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "JAVA_HOME", "XDG_CACHE_HOME")


class PartFailedError(FatalError):
    """A child ended, or did not answer in time, when it should have been running."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The unprivileged user a child runs as when we are root. `search`: may pass folders closed to it."""

    uid: int
    gid: int
    search: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """How to run one child. `argv[0]` is an absolute path; `folder` is its working directory."""

    name: str
    argv: tuple[str, ...]
    log_file: Path
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)  # added to PASSED_ON
    stop_signal: signal.Signals = signal.SIGTERM
    orphan_signal: signal.Signals = signal.SIGKILL
    ready_timeout_s: float = 60.0
    stop_timeout_s: float = 15.0
    owner: Owner | None = None


class Process:
    """A running (or ended) child. Not thread-safe: `start` and `stop` belong to the thread that owns it."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.started_at = 0.0  # monotonic seconds
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The child's process id, also its process group's. Only after `start`."""
        assert self._child is not None, "not started"
        return self._child.pid

    def start(self) -> None:
        """Start the child; returns at once. Raises PartFailedError when it cannot be executed."""
        command = self.command
        try:
            command.log_file.parent.mkdir(parents=True, exist_ok=True)
            self.bound_log()
            descriptor = os.open(command.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise PartFailedError(f"{command.name} could not be started: no log can be written: {error}") from error
        try:
            self._child = subprocess.Popen(
                launch_arguments(command.argv, owner=command.owner, orphan_signal=command.orphan_signal),
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=subprocess.STDOUT,
                env=engine_environment() | dict(command.environment),
                cwd=command.folder,
                start_new_session=True,
            )
        except OSError as error:
            raise PartFailedError(f"{command.name} could not be started: {error}") from error
        finally:
            os.close(descriptor)
        self.started_at = time.monotonic()

    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return None if self._child is None else self._child.poll()

    def wait_ready(self, answers: Callable[[], bool]) -> float:
        """Block until `answers` returns True; the seconds since the start.

        Raises PartFailedError with the child's last lines when it ends first or exceeds `ready_timeout_s`.
        """
        deadline = self.started_at + self.command.ready_timeout_s
        while not answers():
            code = self.exit_code()
            if code is not None:
                raise PartFailedError(f"{self.command.name} {describe_exit(code)} while starting\n{self.tail()}")
            if time.monotonic() > deadline:
                raise PartFailedError(
                    f"{self.command.name} did not answer within {self.command.ready_timeout_s:g} s\n{self.tail()}"
                )
            time.sleep(READY_POLL_S)
        return time.monotonic() - self.started_at

    def terminate(self) -> None:
        """Ask for a clean stop; returns at once."""
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(self.command.stop_signal)

    def stop(self) -> None:
        """Clean stop, then SIGKILL to the whole group once `stop_timeout_s` is over. Safe to repeat."""
        if self._child is None:
            return
        self.terminate()
        try:
            self._child.wait(self.command.stop_timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self.clear_group()

    def kill(self) -> None:
        """SIGKILL to the child and whatever it started, and wait for the child's end."""
        if self._child is not None and self._child.poll() is None:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
        self.clear_group()

    def clear_group(self) -> None:
        """Wait until what an ended child had started is gone too (Postgres' backends outlive it for a moment).

        After GROUP_TIMEOUT_S they are killed: a successor could not have their ports or shared memory.
        """
        if self._child is None:
            return
        deadline = time.monotonic() + GROUP_TIMEOUT_S
        while group_lives(self._child.pid):
            if time.monotonic() > deadline:
                os.killpg(self._child.pid, signal.SIGKILL)
                return
            time.sleep(READY_POLL_S)

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines of the log, each indented, for error messages. On a full volume, which may have kept the
        child from saying so itself, they say that too."""
        try:
            with self.command.log_file.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
                text = log.read().decode("utf-8", "replace")
        except OSError:
            return f"    (no log at {self.command.log_file}){no_room(self.command.log_file.parent)}"
        kept = "\n".join(f"    {line}" for line in text.splitlines()[-lines:])
        return f"{kept}\n    (log: {self.command.log_file}){no_room(self.command.log_file.parent)}"

    def bound_log(self) -> None:
        """Keep the log below LOG_BYTES_MAX. Lines written during the copy may be lost: intended, it is a log.
        So is the copy, on a full volume."""
        log = self.command.log_file
        try:
            if log.stat().st_size <= LOG_BYTES_MAX:
                return
        except FileNotFoundError:
            return
        older = log.with_name(log.name + ".1")
        try:
            shutil.copyfile(log, older)
        except OSError:
            older.unlink(missing_ok=True)
        os.truncate(log, 0)  # the child appends, so it goes on at the new end


def no_room(folder: Path) -> str:
    """A line that says so, when the volume of `folder` is all but full; else nothing."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return ""
    if free >= ROOM_BYTES_MIN:
        return ""
    return f"\n    the disk is full: {free} bytes are free at {folder}; make room there"


def group_lives(group: int) -> bool:
    """Whether the process group has a member."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def launch_arguments(argv: Sequence[str], *, owner: Owner | None, orphan_signal: signal.Signals) -> list[str]:
    """`argv` behind launch.py, which arms it in the child and becomes it."""
    user = f"{owner.uid}:{owner.gid}" if owner else "-"
    search = "1" if owner and owner.search else "0"
    armed = [str(os.getpid()), str(int(orphan_signal)), user, search]
    return [sys.executable, "-I", "-S", str(LAUNCHER), *armed, *argv]


def engine_environment() -> dict[str, str]:
    """The little of our own environment that a child may see."""
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {"TZ": "UTC"}


def our_packages() -> dict[str, str]:
    """Environment in which a Python child finds the same `headrace` as we did, installed or in a checkout.

    PYTHONSAFEPATH keeps the working directory out: five of our packages have names that others may use.
    """
    return {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONSAFEPATH": "1"}


def describe_exit(code: int) -> str:
    """`ended with code 3`, or `was killed by SIGKILL`."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner may read, from its first byte on."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
