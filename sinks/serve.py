"""Runs the sinks of one process until SIGTERM or SIGINT: Postgres, ClickHouse, or both.

Each store has a loop and a thread of its own; what stops one stops the process, with the reason as its last line, so
that a supervisor starts it anew.
"""

import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import FrameType
from typing import Any, Final

from headrace import kafka, metrics
from headrace.clock import SystemClock
from headrace.errors import ConfigurationError, HeadraceError
from headrace.log import get_logger
from headrace.memory import calm_collector
from headrace.settings import Settings
from headrace.shards.router import Router
from sinks import postgres
from sinks.consumer import ConsumerLoop
from sinks.live import LiveNotices
from sinks.retention import Retention

EXIT_FAILED: Final = 1
STOP_WAIT_S: Final = 30.0

log = get_logger(__name__)


def run(settings: Settings, which: str | None = None) -> int:
    """Serve; `which` is "postgres", "clickhouse" or "all" (default: the setting `sinks`). Returns the exit code."""
    which = which or settings.sinks
    stopping = threading.Event()
    calm_collector()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _setter(stopping))
    try:
        with ExitStack() as stack:
            loops = _open_loops(settings, which, stopping, stack)
            return _serve(settings, loops, stopping)
    except HeadraceError as error:
        log.error("sink_stopped", error=str(error))
        return error.exit_code
    except kafka.KafkaException as error:
        log.error("sink_stopped", error=str(error))
        return EXIT_FAILED


def _open_loops(
    settings: Settings, which: str, stopping: threading.Event, stack: ExitStack
) -> Mapping[str, ConsumerLoop]:
    loops: dict[str, ConsumerLoop] = {}
    notices = LiveNotices(settings)
    stack.callback(notices.close)
    if which in ("postgres", "all"):
        router = stack.enter_context(Router(settings))
        retention = Retention(settings, router, SystemClock())
        retention.start()
        stack.callback(retention.stop)
        loops["postgres"] = postgres.consumer_loop(settings, router, notices, stopping)
    if which == "clickhouse" and not settings.clickhouse:
        raise ConfigurationError(
            "clickhouse is not set", remedy="set HEADRACE_CLICKHOUSE or run the other sinks alone"
        )
    if which in ("clickhouse", "all") and settings.clickhouse:
        from sinks.clickhouse import consumer_loop

        loops["clickhouse"] = consumer_loop(settings, notices, stopping)
    return loops


def _serve(settings: Settings, loops: Mapping[str, ConsumerLoop], stopping: threading.Event) -> int:
    failures: dict[str, BaseException] = {}
    threads = [
        threading.Thread(target=_guarded, args=(name, loop.run, failures, stopping), name=name)
        for name, loop in loops.items()
    ]

    def waiting() -> Mapping[str, Any] | None:
        unassigned = [name for name, loop in loops.items() if not loop.ready]
        return {"unassigned": unassigned} if unassigned else None

    stop_metrics = metrics.serve_metrics(settings, live=lambda: None, ready=waiting)
    try:
        for thread in threads:
            thread.start()
        log.info("sink_started", sinks=list(loops))
        for thread in threads:
            thread.join()
    finally:
        stopping.set()
        stop_metrics()
    for name, failure in failures.items():
        log.error("sink_stopped", sink=name, error=str(failure))
    if failures:
        first = next(iter(failures.values()))
        return first.exit_code if isinstance(first, HeadraceError) else EXIT_FAILED
    log.info("sink_stopped")
    return 0


def _guarded(
    name: str, run_loop: Callable[[], None], failures: dict[str, BaseException], stopping: threading.Event
) -> None:
    try:
        run_loop()
    except Exception as error:  # a thread's edge: whatever ends one sink ends the process, which is then started anew
        log.error("sink_failed", sink=name, error=str(error), exc_info=not isinstance(error, HeadraceError))
        failures[name] = error
        stopping.set()


def _setter(event: threading.Event) -> Callable[[int, FrameType | None], None]:
    return lambda _number, _frame: event.set()
