"""The API as an ASGI application. `create_app` connects nothing: what it needs comes in as `Deps`.

Owns the order of routes, the way from exceptions to problem documents, the headers of every answer, and the
contract (openapi.json). Refuses to show why something of ours failed: that goes to the log under the trace id.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.auth.access import is_secure
from api.auth.sessions import Sessions
from api.auth.store import ControlStore
from api.auth.tokens import Verifier
from api.dashboard.site import dashboard_site
from api.live import LiveHub
from api.problems import Fault, ProblemError, pointer
from api.query.clickhouse import RawSource
from api.query.model import Query, QueryBatch
from api.query.service import QueryService
from api.routes import health, live, plan, query, registry, session
from api.routes.answers import problem_answer, trace_id_of
from api.schema_lookup import SchemaLookup
from api.violations import Violations
from headrace import __version__, metrics
from headrace.clock import Clock
from headrace.log import get_logger
from headrace.settings import Settings
from headrace.shards.router import AsyncRouter

SECURITY_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Of every answer that does not say otherwise; the page has a policy of its own."""
BODY_BYTES_MAX: Final = 512 * 1024
DRAIN_BYTES_MAX: Final = 64 * 1024 * 1024
DRAIN_S: Final = 5.0
HSTS: Final = "max-age=31536000"

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Deps:
    """All that requests need, made once by api.serve."""

    settings: Settings
    clock: Clock
    router: AsyncRouter
    control: ControlStore
    verifier: Verifier
    sessions: Sessions | None
    queries: QueryService
    lookup: SchemaLookup
    live: LiveHub
    violations: Violations
    raw: RawSource | None
    close_redis: Callable[[], Awaitable[None]] | None = None


def create_app(deps: Deps) -> FastAPI:
    """The application over `deps`, which it opens and closes with its own lifespan."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await deps.control.open()
        async with deps.router:
            yield
            await deps.live.close()
        await deps.control.close()
        if deps.raw is not None:
            await deps.raw.close()
        if deps.close_redis is not None:
            await deps.close_redis()

    app = FastAPI(
        title="Headrace",
        version=__version__,
        summary="Exact, live analytics: questions in, answers that say how complete they are.",
        lifespan=lifespan,
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
    )
    app.state.deps = deps
    app.state.stopping = False
    app.state.was_ready = False
    app.state.readiness = health.Readiness()
    for routes in (query, live, plan, session, registry, health):
        app.include_router(routes.router)
    # As routes and not as a mount at "/", which would swallow every unknown path and wrong method.
    app.router.routes.extend(dashboard_site().routes)
    _handle_errors(app)
    _describe(app)
    app.add_middleware(_Outermost, settings=deps.settings)
    return app


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(ProblemError)
    async def problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, ProblemError)
        return problem_answer(error, request)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        faults = [Fault(pointer(item["loc"][1:]), str(item["msg"])) for item in error.errors()]
        slug = "invalid-json" if any(item["type"] == "json_invalid" for item in error.errors()) else "invalid-request"
        return problem_answer(ProblemError(slug, faults[0].detail, errors=faults), request)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        slug = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "invalid-request")
        headers = dict(error.headers or {})
        return problem_answer(ProblemError(slug, f"{request.method} {request.url.path}", headers=headers), request)

    @app.exception_handler(Exception)
    async def internal(request: Request, error: Exception) -> Response:
        # The edge of the process: whatever was not foreseen is logged whole and shown as nothing but its trace id.
        log.error("request_failed", path=request.url.path, trace_id=trace_id_of(request), exc_info=error)
        return problem_answer(ProblemError("internal", "the log has more, under this trace id"), request)


def _describe(app: FastAPI) -> None:
    """Add to openapi.json what the routes cannot say themselves: the union of queries, problems, authentication."""
    plain: Callable[[], dict[str, Any]] = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        document = plain()
        schemas = document["components"]["schemas"]
        request_schema = TypeAdapter(Query | QueryBatch).json_schema(ref_template="#/components/schemas/{model}")
        schemas |= request_schema.pop("$defs")
        schemas["QueryRequest"] = request_schema
        schemas.pop("HTTPValidationError", None)
        schemas.pop("ValidationError", None)
        schemas["Problem"] = _PROBLEM
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            "session": {"type": "apiKey", "in": "cookie", "name": "headrace_session"},
        }
        for path, methods in document["paths"].items():
            for operation in methods.values():
                operation["responses"].pop("422", None)
                operation["responses"]["default"] = _PROBLEM_RESPONSE
                if path.startswith("/v1/") and (path, operation["summary"]) != ("/v1/session", _SIGN_IN):
                    operation["security"] = [{"bearer": []}, {"session": []}]
        return document

    app.openapi = described  # type: ignore[method-assign]


_SIGN_IN: Final = "Sign in with a one-time code"
_PROBLEM: Final[dict[str, Any]] = {
    "title": "Problem",
    "description": "RFC 9457",
    "type": "object",
    "required": ["type", "title", "status", "detail", "trace_id"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "trace_id": {"type": "string"},
        "retry_after_s": {"type": "number"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}
_PROBLEM_RESPONSE: Final = {
    "description": "A problem",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


class _Outermost:
    """Headers and the duration of every answer. Plain ASGI, so that streams pass through untouched."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        status = "500"
        received = 0

        async def receive_bounded() -> Message:
            """A body has at most BODY_BYTES_MAX, whatever its route does with it."""
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > BODY_BYTES_MAX:
                    await _drain(receive)
                    raise ProblemError("query-too-large", f"a request has at most {BODY_BYTES_MAX} bytes")
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
                _add_headers(message, secure=is_secure(self._settings, scope.get("scheme", "")))
            await send(message)

        try:
            if _declared_length(scope) > BODY_BYTES_MAX:
                problem = ProblemError("query-too-large", f"a request has at most {BODY_BYTES_MAX} bytes")
                await _drain(receive)
                await problem_answer(problem, Request(scope))(scope, receive, send_with_headers)
            else:
                await self._app(scope, receive_bounded, send_with_headers)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", None) or "other"
            metrics.histogram("http_server_request_duration_seconds", "api", path, status).observe(
                time.monotonic() - started
            )


async def _drain(receive: Receive) -> None:
    """Read on and forget, for a while: a client that is still sending would not see an answer, only a reset."""
    drained = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            while drained < DRAIN_BYTES_MAX:
                message = await receive()
                drained += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


def _add_headers(message: Message, *, secure: bool) -> None:
    headers = message["headers"] = list(message["headers"])
    present = {name.lower() for name, _ in headers}
    for name, value in SECURITY_HEADERS.items():
        if name.encode() not in present:
            headers.append((name.encode(), value.encode()))
    if secure:
        headers.append((b"strict-transport-security", HSTS.encode()))
