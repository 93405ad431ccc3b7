"""`/livez`, `/readyz`, `/metrics`, and the public keys."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from fastapi import APIRouter, Request, Response

from api.routes.answers import json_answer
from headrace import metrics
from headrace.errors import ConfigurationError, UnavailableError

router = APIRouter(tags=["operation"])


READY_CACHE_S: Final = 1.0


@dataclass(slots=True)
class Readiness:
    """What the last look found."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    looked_at: float = float("-inf")
    wrong: str | None = None


@router.get("/livez", summary="Whether this process works at all")
async def livez() -> Response:
    """200 while the event loop turns; says nothing of any store."""
    return json_answer({"ok": True})


@router.get("/readyz", summary="Whether this replica should get requests")
async def readyz(request: Request) -> Response:
    """503 while it stops, or before it ever read the shard map and keys. A sick shard or Redis does not count:
    every replica would leave at once, and the other shards' customers with them."""
    state = request.app.state
    wrong: str | None
    if state.stopping:
        wrong = "stopping"
    else:
        async with state.readiness.lock:  # anybody may ask, at any rate: one looks, the others take what it found
            now = state.deps.clock.monotonic()
            if now - state.readiness.looked_at >= READY_CACHE_S:
                state.readiness.wrong = await _wrong(request)
                state.readiness.looked_at = now
            wrong = state.readiness.wrong
    body = {"ok": wrong is None} if wrong is None else {"ok": False, "reason": wrong}
    return json_answer(body, status=200 if wrong is None else 503)


async def _wrong(request: Request) -> str | None:
    """Why this replica should get no requests; None where it should."""
    deps = request.app.state.deps
    try:
        await deps.router.map()
        await deps.control.public_keys()
    except (UnavailableError, ConfigurationError) as error:
        if request.app.state.was_ready:
            return None
        return error.message if isinstance(error, ConfigurationError) else "control database"
    request.app.state.was_ready = True
    return None


@router.get("/startupz", summary="Whether this replica has started")
async def startupz(request: Request) -> Response:
    """503 until it was ready once."""
    if not request.app.state.was_ready:
        return await readyz(request)
    return json_answer({"ok": True})


@router.get("/metrics", summary="Prometheus series of this process")
async def prometheus() -> Response:
    """Text exposition; no label names a customer."""
    body, kind = metrics.exposition()
    return Response(body, media_type=kind)


@router.get("/.well-known/jwks.json", summary="The keys that tokens are verified with")
async def jwks(request: Request) -> Response:
    """A JSON Web Key Set (RFC 7517)."""
    keys = await request.app.state.deps.verifier.jwks()
    return json_answer(keys, headers={"Cache-Control": "public, max-age=60"})
