"""A thread that notices when something that should go on does not.

A restore that hung inside Faust once stopped a worker silently. Each watch is a name that somebody touches; one
that is not touched for its limit ends the process, and the next one starts from the log.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from headrace.errors import FatalError

CHECK_INTERVAL_S: Final = 1.0
LIMIT_S: Final = 120.0


@dataclass(slots=True)
class _Watch:
    touched_s: float
    limit_s: float


class Watchdog:
    """Watches by name. Any thread may call; `on_hang` is called from the watchdog's own thread."""

    def __init__(self, on_hang: Callable[[FatalError], object], *, limit_s: float = LIMIT_S) -> None:
        self._on_hang = on_hang
        self._limit_s = limit_s
        self._watches: dict[str, _Watch] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; may be called twice."""
        self._stopped.set()

    def touch(self, name: str, *, limit_s: float | None = None) -> None:
        """`name` is alive; from now on it has to be touched again within its limit."""
        with self._lock:
            self._watches[name] = _Watch(time.monotonic(), limit_s or self._limit_s)

    def done(self, name: str) -> None:
        """`name` needs no watching any more."""
        with self._lock:
            self._watches.pop(name, None)

    def overdue(self, now_s: float) -> str | None:
        """What hangs, as words; None when all is well."""
        with self._lock:
            for name, watch in self._watches.items():
                if now_s - watch.touched_s > watch.limit_s:
                    return f"{name} has made no progress for {now_s - watch.touched_s:.0f} s"
        return None

    def _run(self) -> None:
        last_s = time.monotonic()
        while not self._stopped.wait(CHECK_INTERVAL_S):
            now_s = time.monotonic()
            if now_s - last_s > CHECK_INTERVAL_S * 5:
                self._forgive(now_s)  # the whole process stood still (SIGSTOP, a suspended machine)
            last_s = now_s
            hanging = self.overdue(now_s)
            if hanging is not None:
                self._on_hang(FatalError(hanging, remedy="the process stops; its supervisor starts it again"))
                return

    def _forgive(self, now_s: float) -> None:
        with self._lock:
            for watch in self._watches.values():
                watch.touched_s = now_s
