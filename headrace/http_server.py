"""The HTTP server under the gateway and the API: Granian, embedded, in one process with one event loop.

Guarantees: the process is the server (kill -9 of it leaves nothing behind); SIGTERM and SIGINT first tell the
application (`on_stop`: readiness off, streams ended), go on accepting for `drain_s` so that a load balancer can
notice, then stop accepting and let requests finish, for at most `shutdown_grace_s`; a second signal ends the wait.
Nothing of the application outlives that: a start-up that fails and tasks that ignore their end exit with an error.
Refuses a port that somebody listens on, where Granian alone would share it silently (SO_REUSEPORT).
"""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.errors import FatalError as GranianFatalError
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.embed import Server

from headrace.errors import ConfigurationError, FatalError
from headrace.log import get_logger
from headrace.memory import calm_collector

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADER_READ_TIMEOUT_MS = 65_000
"""A client that has not sent its next headers by then is cut off, idle kept-alive ones too: longer than the minute
that load balancers and SDKs keep idle connections, so that it is they who close them."""
BACKLOG = 1024
READY_POLL_S = 0.02
TASKS_END_S = 2.0
"""A task of the application that still runs after its shutdown gets so long to end once it is cancelled."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)

# Granian brings its own handlers for stdout; its records go to ours instead (headrace.log). It has one warning at
# every start, that embedding is experimental: tests/integration/test_gateway_server.py watches over what we use.
_LOGGING: dict[str, Any] = {
    "formatters": {},
    "handlers": {},
    "loggers": {
        "_granian": {"handlers": [], "level": "ERROR", "propagate": True},
        "granian.access": {"handlers": [], "level": "WARNING", "propagate": True},
    },
}

log = get_logger(__name__)


def run(
    app: AsgiApp,
    *,
    host: str,
    port: int,
    on_ready: Callable[[], None] | None = None,
    on_stop: Callable[[], None] | None = None,
    drain_s: float = 0.0,
    shutdown_grace_s: float = 10.0,
    connections_max: int = 4096,
) -> int:
    """Serve `app` until SIGTERM or SIGINT; returns the process's exit code (0). Call from the main thread.

    `app` gets ASGI's lifespan events on the loop that serves it. `on_ready` is called once connections are
    accepted, `on_stop` at the signal. At most `connections_max` connections are served at once, the next wait in
    the kernel's queue. Raises ConfigurationError when the address cannot be bound, FatalError when the
    application's start-up fails.
    """
    _check_address(host, port)
    calm_collector()
    return uvloop.run(_serve(app, host, port, on_ready, on_stop, drain_s, shutdown_grace_s, connections_max))


async def _serve(
    app: AsgiApp,
    host: str,
    port: int,
    on_ready: Callable[[], None] | None,
    on_stop: Callable[[], None] | None,
    drain_s: float,
    shutdown_grace_s: float,
    connections_max: int,
) -> int:
    server = Server(
        app,
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=BACKLOG,
        backpressure=connections_max,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_READ_TIMEOUT_MS),
        log_level=LogLevels.error,
        log_dictconfig=_LOGGING,
    )
    stop_accepting: Callable[[], None] = server.stop
    loop = asyncio.get_running_loop()
    stop, now = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (now if stop.is_set() else stop).set()

    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal)
    serving = asyncio.create_task(server.serve(), name="http-server")
    stopping = asyncio.create_task(stop.wait())
    try:
        announcing = asyncio.create_task(_announce(host, port, on_ready))
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        announcing.cancel()
        if not serving.done():
            log.info("http_stopping", host=host, port=port)
            if on_stop is not None:
                on_stop()
            await _wait(now.wait(), drain_s)
            stop_accepting()
            await _finish(serving, now, shutdown_grace_s)
        if serving.done() and not serving.cancelled():
            serving.result()
        return 0
    except GranianFatalError as error:
        raise FatalError(f"the HTTP service for {host}:{port} did not start: {error}") from error
    finally:
        stopping.cancel()
        for number in SIGNALS:  # from here on a signal ends the process, whatever hangs
            loop.remove_signal_handler(number)
        await _end_tasks()


async def _finish(serving: asyncio.Task[None], now: asyncio.Event, grace_s: float) -> None:
    """Wait for the open requests, at most `grace_s` or until a second signal."""
    hurry = asyncio.create_task(now.wait())
    await asyncio.wait((serving, hurry), timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if not serving.done():
        log.warning("http_requests_cut", grace_s=grace_s, remedy="a client holds its request open past the grace")
        serving.cancel()
        await asyncio.wait((serving,), timeout=1.0)


async def _end_tasks() -> None:
    """Cancel what the application left running; leave the process hard when that does not end."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        _, pending = await asyncio.wait(tasks, timeout=TASKS_END_S)
        if pending:
            log.error(
                "http_tasks_left", tasks=[task.get_name() for task in pending], remedy="they ignore cancellation"
            )
            os._exit(1)  # asyncio.run would wait for them for ever


async def _wait(event: Awaitable[Any], timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event
    except TimeoutError:
        return


async def _announce(host: str, port: int, on_ready: Callable[[], None] | None) -> None:
    """Call `on_ready` as soon as a connection is accepted; ends with the server."""
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 — where to look, not to listen
    while True:
        try:
            _, writer = await asyncio.open_connection(target, port)
        except OSError:
            await asyncio.sleep(READY_POLL_S)
            continue
        writer.close()
        log.info("http_listening", host=host, port=port)
        if on_ready is not None:
            on_ready()
        return


def _check_address(host: str, port: int) -> None:
    """Raises ConfigurationError when `host:port` cannot be bound by us alone."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"cannot listen on {host}:{port}: {error}",
                remedy="stop what listens there or choose another port",
            ) from error
