"""The stream worker's process: wiring, signals, health, and the one way out when something is wrong."""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from headrace import metrics
from headrace.clock import SystemClock
from headrace.errors import FatalError, HeadraceError
from headrace.log import configure, get_logger
from headrace.memory import calm_collector
from headrace.settings import Settings
from streams.app import build_app
from streams.assignment import Assignment
from streams.flusher import Flusher
from streams.fold import FoldRules
from streams.folder import Folder
from streams.measures import Measures
from streams.snapshotter import Snapshotter
from streams.watchdog import Watchdog

EXIT_FATAL: Final = 70
"""EX_SOFTWARE: a supervisor starts the worker again; what it cannot mend stops it again, with the same line."""
STOP_TIMEOUT_S: Final = 15.0
TEARDOWN_S: Final = 5.0
"""What threads and tasks have, after that, to end by themselves. Faust's own may never, when they are stopped while
they start: its threads are no daemons, and it waits for them without a limit, on the event loop, so that no timeout
of the loop's fires either."""

log = get_logger(__name__)


def run(settings: Settings) -> int:
    """Run a worker until SIGTERM or SIGINT; gives the exit code. Blocks."""
    configure(settings, "streams")
    calm_collector()
    return asyncio.run(_Worker(settings).run())


def stop_process(error: BaseException) -> NoReturn:
    """Log why and end the process at once, from any thread: nothing that is under way may be completed."""
    known = isinstance(error, HeadraceError)
    log.critical(
        "worker_stopped",
        reason=str(error) or type(error).__name__,
        kind=type(error).__name__,
        exc_info=None if known else error,
    )
    _exit(EXIT_FATAL)


def end_process() -> NoReturn:
    """End the process although something in it does not. Only once all that was folded is durable."""
    log.warning("worker_did_not_end", remedy="nothing is lost; what hung ends with the process")
    _exit(0)


def _exit(code: int) -> NoReturn:
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)


class _Worker:
    """One process's worth of partitions."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = asyncio.Event()
        self._watchdog = Watchdog(stop_process, limit_s=settings.watchdog_s)
        measures = Measures()
        self._assignment = Assignment(settings, rules_of(settings), measures, self._watchdog)
        self._folder = Folder(settings, self._assignment.get, measures)
        self._snapshotter = Snapshotter(settings, self._assignment, measures)
        self._flusher = Flusher(
            settings, self._assignment, self._snapshotter, measures, self._watchdog, SystemClock(), stop_process
        )
        self._app: Any = None

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        stop_metrics = metrics.serve_metrics(self._settings, live=self._live, ready=self._ready)
        self._watchdog.start()
        self._app = build_app(self._settings, self._assignment, self._folder, self._flusher, stop_process)
        log.info("worker_starting", fold_version=self._assignment.rules.version)
        starting = loop.create_task(self._app.start())
        await self._until_stopped(starting)
        await self._stop(starting)
        stop_metrics()
        return 0

    async def _until_stopped(self, starting: asyncio.Task[Any]) -> None:
        """Wait for a signal; a start that fails or an app that crashes ends the process."""
        stopping = asyncio.ensure_future(self._stopping.wait())
        crashed = asyncio.ensure_future(self._app._crashed.wait())
        waiting: set[asyncio.Future[Any]] = {stopping, crashed, starting}
        while not stopping.done():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if starting in done and starting.exception() is not None:
                stop_process(FatalError(f"Faust did not start: {starting.exception()!r}"))
            if crashed in done:
                stop_process(FatalError(f"Faust crashed: {self._app.crash_reason!r}"))
        crashed.cancel()

    async def _stop(self, starting: asyncio.Task[Any]) -> None:
        """Last frames, then Faust: it leaves the group, so that others need not wait for a time-out."""
        log.info("worker_stopping")
        try:
            await self._assignment.close()
            self._flusher.stop()
        except Exception as error:  # a process edge: what is not acknowledged is folded again by the next worker
            stop_process(error)
        hard_end = threading.Timer(STOP_TIMEOUT_S + TEARDOWN_S, end_process)
        hard_end.daemon = True
        hard_end.start()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._app.consumer.commit()
                await self._app.stop()
        except Exception as error:  # all is durable by now; the group notices our absence by itself
            log.warning("faust_did_not_stop", reason=repr(error))
        self._watchdog.stop()
        starting.cancel()

    def _live(self) -> Mapping[str, Any] | None:
        return None

    def _ready(self) -> Mapping[str, Any] | None:
        if self._app is None or not self._assignment.restored_once:
            return {"reason": "not joined and restored yet"}
        if self._app.rebalancing:
            return {"reason": "rebalancing"}
        return None


def rules_of(settings: Settings) -> FoldRules:
    """The fold's rules, as the settings say."""
    return FoldRules(
        grace_s=settings.grace_s,
        skew_s=settings.skew_s,
        bound_s=settings.watermark_bound_s,
        dedupe_window_h=settings.dedupe_window_h,
        cardinality_max=settings.cardinality_max,
        minute_retention_h=settings.minute_retention_h,
        hour_retention_d=settings.hour_retention_d,
        partitions=settings.events_partitions,
    )
