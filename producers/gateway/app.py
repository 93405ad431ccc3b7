"""The gateway's HTTP surface: FastAPI for /livez, /readyz, /startupz, /metrics and /openapi.json, and for all other
paths, the event paths, one raw ASGI application.

The composition root of the gateway: clients are made when the server starts, on its event loop, and closed when it
stops.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from starlette.routing import Route

from headrace import __version__, metrics
from headrace.clock import Clock, SystemClock
from headrace.http_server import AsgiApp, Receive, Scope, Send
from headrace.settings import Settings
from producers.gateway.auth import ControlDirectory, WriteKeys
from producers.gateway.encode import warm_up
from producers.gateway.privacy import Privacies
from producers.gateway.protocols import RouteTable, routes
from producers.gateway.protocols.posthog_scripts import Scripts
from producers.gateway.publish import Publisher
from producers.gateway.quota_ledger import RedisLedger
from producers.gateway.quotas import Quotas
from producers.gateway.receiver import Receiver
from producers.gateway.sender import Senders

PROBE_CACHE_S: Final = 1.0
"""How long an answer of /readyz is repeated, so that probes cost the stores nothing."""


class Gateway:
    """One gateway process: its clients, its event paths, and whether it is ready."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        # Settings that cannot be are refused before anything listens.
        self._table = routes(Scripts.of(settings))
        Senders(settings)
        Privacies.of_settings(settings)
        self._directory = ControlDirectory(settings)
        self._publisher: Publisher | None = None
        self._receiver: Receiver | None = None
        self._stopping = False
        self._was_ready = False
        self._looking: asyncio.Task[None] | None = None
        self._probed_at_s = float("-inf")
        self._probed: dict[str, str] = {}
        self._probing = asyncio.Lock()

    def stop(self) -> None:
        """Not ready from now on; answers end their connections so that clients go elsewhere."""
        self._stopping = True
        if self._receiver is not None:
            self._receiver.replies.stopping = True

    def app(self) -> AsgiApp:
        """The application to serve."""
        api = FastAPI(
            title="Headrace ingest", version=__version__, docs_url=None, redoc_url=None, lifespan=self._lifespan
        )

        @api.get("/livez", summary="Whether the process works")
        async def livez() -> dict[str, bool]:
            return {"ok": True}

        @api.get("/readyz", summary="Whether this gateway should get requests; the body tells what is away")
        async def readyz() -> JSONResponse:
            return await self._readiness()

        @api.get("/startupz", summary="As /readyz: 503 until Kafka and the control database answered once")
        async def startupz() -> JSONResponse:
            return await self._readiness()

        @api.get("/metrics", summary="Prometheus metrics")
        async def exposition() -> Response:
            body, content_type = metrics.exposition()
            return Response(body, media_type=content_type)

        describe_control_paths = api.openapi

        def openapi() -> dict[str, Any]:
            description = describe_control_paths()
            return {**description, "paths": description["paths"] | event_paths(self._table)}

        api.openapi = openapi  # type: ignore[method-assign]
        own_paths = {route.path for route in api.routes if isinstance(route, Route)}

        async def gateway(scope: Scope, receive: Receive, send: Send) -> None:
            # Past FastAPI's middleware: an event path needs none of it.
            if scope["type"] == "http" and scope["path"] not in own_paths:
                await self._events(scope, receive, send)
            else:
                await api(scope, receive, send)

        return gateway

    async def _events(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._receiver is not None, "the server starts the lifespan before it accepts"
        await self._receiver(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        warm_up()
        await self._directory.open()
        self._publisher = Publisher(self._settings, self._clock)
        write_keys = WriteKeys(self._directory, self._settings, self._clock)
        quotas = Quotas(RedisLedger(self._settings.redis) if self._settings.redis else None, self._clock)
        reporting = asyncio.create_task(quotas.run(), name="quotas")
        self._receiver = Receiver(self._table, write_keys, quotas, self._publisher, self._settings, self._clock)
        self._receiver.lookup.start()
        try:
            yield
        finally:
            self._receiver.lookup.close()
            if self._looking is not None:
                await self._looking
            await self._publisher.close()
            await self._receiver.close()
            reporting.cancel()
            await quotas.close()
            await self._directory.close()

    async def _readiness(self) -> JSONResponse:
        """503 while it stops, or before all it needs answered once. Later a dependency that is away does not count:
        every gateway would leave the balancer at once, known write keys serve on without the control database, and
        without Kafka senders need our 503 with its Retry-After."""
        if self._stopping:
            return JSONResponse({"ok": False, "wrong": {"process": "stopping"}}, status_code=503)
        if not self._was_ready:
            async with self._probing:
                await self._probe()
        elif not self._probing.locked():  # told from the last look, so that a slow dependency slows no probe
            self._looking = asyncio.create_task(self._look())
        self._was_ready = self._was_ready or not self._probed
        return JSONResponse({"ok": not self._probed, "wrong": self._probed}, 200 if self._was_ready else 503)

    async def _look(self) -> None:
        async with self._probing:
            await self._probe()

    async def _probe(self) -> None:
        """Ask what events need, unless that was done a moment ago."""
        assert self._publisher is not None
        if self._clock.monotonic() - self._probed_at_s < PROBE_CACHE_S:
            return
        of_kafka, of_control = await asyncio.gather(asyncio.to_thread(self._publisher.probe), self._directory.probe())
        found = {"kafka": of_kafka, "postgres_control": of_control}
        self._probed = {name: wrong for name, wrong in found.items() if wrong is not None}
        self._probed_at_s = self._clock.monotonic()


def event_paths(table: RouteTable) -> dict[str, Any]:
    """The event paths as OpenAPI path items."""
    answers = {
        "200": {"description": "taken; `rejected` names events that were set aside"},
        "400": {"description": "nothing of the body could be parsed"},
        "401": {"description": "no write key, or an unknown one"},
        "413": {"description": "too large, as sent or inflated, or too many events"},
        "429": {"description": "over the customer's quota: see Retry-After"},
        "503": {"description": "Kafka or the control database is away, or too much is under way: see Retry-After"},
    }
    paths: dict[str, Any] = {}
    for route in table.routes:
        for method in sorted(route.methods):
            item: dict[str, Any] = {"summary": route.summary, "responses": answers}
            if method == "POST":
                item["requestBody"] = {"content": {"application/json": {"schema": {"type": "object"}}}}
            paths.setdefault(route.path, {})[method.lower()] = item
    return paths
