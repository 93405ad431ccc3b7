"""`/v1/live`: server-sent events."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse

from api.auth.access import Asking, Customer

router = APIRouter(tags=["live"])


@router.get("/v1/live", summary="What changes, as it changes", response_class=StreamingResponse)
async def live(
    request: Request,
    principal: Asking,
    customer_id: Customer,
    last_event_id: Annotated[str | None, Header(max_length=64)] = None,
) -> StreamingResponse:
    """Server-sent events `stats`, `events` and `resync`.

    Ends when the token does, a few seconds after a revocation or sign-out; the browser reconnects.
    """
    deps = request.app.state.deps
    until_us = principal.expires_s * 1_000_000
    chunks = await deps.live.stream(customer_id, last_event_id, until_us, partial(deps.verifier.recheck, principal))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(chunks, media_type="text/event-stream", headers=headers)
