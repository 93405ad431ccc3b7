"""Time limits for many short waits with one timer for all, where `asyncio.timeout` costs one each.

A wait that is over its time ends up to SWEEP_S later.
"""

import asyncio
from collections import deque
from types import TracebackType
from typing import Final, Self

SWEEP_S: Final = 1.0


class Deadlines:
    """Time limits of `seconds` each. Use it on one event loop only."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._open: deque[Deadline] = deque()
        self._sweeping = False

    def limit(self) -> "Deadline":
        """A context for the current task; leaving it late raises TimeoutError, as with `asyncio.timeout`."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None, "limits are for tasks"
        deadline = Deadline(loop.time() + self._seconds, task)
        self._open.append(deadline)
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(SWEEP_S, self._sweep)
        return deadline

    def _sweep(self) -> None:
        """Forget what has ended, end what is late. All have the same time, so they come in its order."""
        loop = asyncio.get_running_loop()
        now, waiting = loop.time(), self._open
        while waiting and (waiting[0].ended or waiting[0].at <= now):
            waiting.popleft().expire()
        self._sweeping = bool(waiting)
        if waiting:
            loop.call_later(SWEEP_S, self._sweep)


class Deadline:
    """One of them."""

    __slots__ = ("_cancelling", "_expired", "_task", "at", "ended")

    def __init__(self, at: float, task: "asyncio.Task[object]") -> None:
        self.at = at
        self.ended = False
        self._task = task
        self._expired = False
        self._cancelling = task.cancelling()

    def expire(self) -> None:
        """End the wait, if it has not ended."""
        if not self.ended:
            self._expired = True
            self._task.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.ended = True
        # Somebody else's cancellation, at the same time, goes on.
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
