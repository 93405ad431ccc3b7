"""JSON answers and the trace id that goes with every one."""

import re
import secrets
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from fastapi import Request, Response

from api.problems import MEDIA_TYPE, ProblemError

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def json_answer(document: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The document as JSON."""
    return Response(
        msgspec.json.encode(document),
        status_code=status,
        media_type="application/json",
        headers=dict(headers) if headers else None,
    )


def problem_answer(problem: ProblemError, request: Request) -> Response:
    """The problem as problem+json."""
    return Response(
        msgspec.json.encode(problem.document(trace_id_of(request), request.url.path)),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=problem.http_headers(),
    )


def trace_id_of(request: Request) -> str:
    """The request's trace id: of its W3C `traceparent`, else a new one; the same for all of one request."""
    known = getattr(request.state, "trace_id", None)
    if known is None:
        match = _TRACEPARENT.fullmatch(request.headers.get("traceparent", ""))
        known = match[1] if match else secrets.token_hex(16)
        request.state.trace_id = known
    return str(known)
