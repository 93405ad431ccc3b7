"""Runs parts in dependency order, restarts each that dies, and stops all of them.

Guarantees: parts started together run all or none; a part that ends unasked is named in the log and started again,
at once at first, then with a growing, bounded wait; after `stop` no child is left. Children belong to the thread
that calls `start` and `tend` (process.py says why): keep it alive.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from headrace.log import get_logger
from headrace.runtime.parts import Part, start_all, stop_all
from headrace.runtime.process import PartFailedError, Process, describe_exit

TEND_INTERVAL_S = 0.1
BACKOFF_S = 0.5  # the wait before the second restart in a row; doubles
BACKOFF_MAX_S = 10.0
SETTLED_S = 30.0  # a part that ran this long has recovered: its next restart is at once again
LOG_CHECK_INTERVAL_S = 30.0

log = get_logger(__name__)


@dataclass(slots=True)
class _Child:
    part: Part
    process: Process
    restarts_in_a_row: int = 0
    restart_at: float | None = None  # monotonic; None: it runs


@dataclass(slots=True)
class Supervisor:
    """`on_restart` is called after each restart, with the part's name."""

    on_restart: Callable[[str], None] = lambda _name: None
    _groups: list[list[_Child]] = field(default_factory=list)
    _logs_checked_at: float = 0.0

    def start(self, parts: Sequence[Part]) -> None:
        """Start a group of parts and wait until all answer. Raises PartFailedError with the failing one's words."""
        began = time.monotonic()
        processes = start_all(parts)
        self._groups.append([_Child(part, process) for part, process in zip(parts, processes, strict=True)])
        seconds = round(time.monotonic() - began, 2)
        log.info("parts_started", parts=[part.name for part in parts], seconds=seconds)

    def pids(self) -> Mapping[str, int]:
        """The process id of each part, by name."""
        return {child.part.name: child.process.pid for group in self._groups for child in group}

    def watch(self, stopping: threading.Event) -> None:
        """Tend the parts until `stopping` is set."""
        while not stopping.wait(TEND_INTERVAL_S):
            self.tend()

    def tend(self) -> None:
        """One look at every part: restart what ended, keep logs bounded. Returns soon."""
        now = time.monotonic()
        for group in self._groups:
            for child in group:
                self._tend_child(child, now)
        if now - self._logs_checked_at > LOG_CHECK_INTERVAL_S:
            self._logs_checked_at = now
            for group in self._groups:
                for child in group:
                    child.process.bound_log()

    def stop(self) -> None:
        """Stop the groups, the last started first. Safe to repeat."""
        while self._groups:
            group = self._groups.pop()
            stop_all([child.process for child in group])
            log.info("parts_stopped", parts=[child.part.name for child in group])

    def _tend_child(self, child: _Child, now: float) -> None:
        if child.restart_at is None:
            code = child.process.exit_code()
            if code is None:
                return
            if now - child.process.started_at > SETTLED_S:
                child.restarts_in_a_row = 0
            wait_s = backoff_s(child.restarts_in_a_row)
            child.restart_at = now + wait_s
            log.warning(
                "part_ended",
                part=child.part.name,
                pid=child.process.pid,
                how=describe_exit(code),
                restart_in_s=wait_s,
                last_lines=child.process.tail(5),
            )
        if now >= child.restart_at:
            self._restart(child)

    def _restart(self, child: _Child) -> None:
        child.restarts_in_a_row += 1
        child.restart_at = None
        child.process.clear_group()
        process = Process(child.part.command())
        try:
            process.start()
        except PartFailedError as error:
            child.restart_at = time.monotonic() + BACKOFF_MAX_S
            log.error("part_not_restarted", part=child.part.name, error=str(error))
            return
        child.process = process
        log.warning("part_restarted", part=child.part.name, pid=child.process.pid)
        self.on_restart(child.part.name)


def backoff_s(restarts_in_a_row: int) -> float:
    """0 for the first restart, then doubling from BACKOFF_S up to BACKOFF_MAX_S."""
    if restarts_in_a_row == 0:
        return 0.0
    return min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** min(restarts_in_a_row - 1, 16))
