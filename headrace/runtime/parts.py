"""What the supervisor runs: parts, each an engine or a service, and how a set of them is started.

`prepare` may be slow (format a folder, fetch jars) and runs in threads; children are started by the calling
thread, which must outlive them (process.py says why).
"""

from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Protocol

from headrace.runtime.process import Command, PartFailedError, Process, no_room


class Part(Protocol):
    """One child of the supervisor."""

    @property
    def name(self) -> str:
        """Unique within a supervisor; also the name of its log file and its key in `pids`."""

    def prepare(self) -> None:
        """Make its folder ready. Idempotent; may block; called before every start."""

    def command(self) -> Command:
        """How to run it. Pure."""

    def answers(self) -> bool:
        """Whether it serves, asked over its own protocol. Must return or time out within a second."""

    def complete(self) -> None:
        """What is left to do once it answers (roles, databases). Idempotent; may block."""


def start(part: Part) -> Process:
    """Prepare, start, wait until it answers, complete. On failure nothing of it is left running."""
    return start_all([part])[0]


def start_all(parts: Sequence[Part]) -> list[Process]:
    """The same for several parts at once; all of them run or none. The first failure stops the others at once."""
    with ThreadPoolExecutor(max_workers=max(1, len(parts))) as threads:
        list(threads.map(prepare, parts))
        processes = [Process(part.command()) for part in parts]
        try:
            for process in processes:
                process.start()
            finishing = [threads.submit(finish, *pair) for pair in zip(parts, processes, strict=True)]
            done, _ = wait(finishing, return_when=FIRST_EXCEPTION)
            for each in done:
                each.result()
        except BaseException:
            stop_all(processes)  # which also ends the threads that still wait for one of them
            raise
    return processes


def prepare(part: Part) -> None:
    """Make the part's folder ready. Raises PartFailedError that names the part and a full disk."""
    try:
        part.prepare()
    except OSError as error:
        full = no_room(part.command().log_file.parent)
        raise PartFailedError(f"{part.name} could not make its folder ready: {error}{full}") from error


def finish(part: Part, process: Process) -> None:
    """Wait until the started part answers, then complete it."""
    process.wait_ready(part.answers)
    part.complete()


def stop_all(processes: Sequence[Process]) -> None:
    """Ask all to stop, then wait for each, the last started first."""
    for process in reversed(processes):
        process.terminate()
    for process in reversed(processes):
        process.stop()
