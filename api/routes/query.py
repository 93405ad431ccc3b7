"""`/v1/query` and `/v1/schema/*`."""

import asyncio
import base64
import binascii
import hashlib
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Query, Request, Response

from api.auth.access import Customer
from api.problems import Fault, ProblemError
from api.query import model, question
from api.query.answer import Answer, AnswerBatch
from api.query.question import Question
from api.query.terms import Dimension, TermError
from api.routes.answers import json_answer, trace_id_of

router = APIRouter(tags=["query"])

BODY_TIMEOUT_S: Final = 10.0
PREFIX_CHARS_MAX: Final = 200

_QUERY_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/QueryRequest"}}},
    }
}


@router.post(
    "/v1/query",
    summary="Ask one question, or several at once",
    response_model=Answer | AnswerBatch,
    openapi_extra=_QUERY_BODY,
)
async def post_query(request: Request, customer_id: Customer) -> Response:
    """A body with `kind` gets one answer, a body with `queries` gets `answers` in the same order.

    In a batch, a query that fails while it is answered is `{"error": problem}` in its place; a batch of which one
    cannot be understood is refused whole.
    """
    deps = request.app.state.deps
    body = await _body(request)
    parsed = model.parse_body(body, batch_max=deps.settings.query_batch_max)
    now_us = deps.clock.now_us()
    if not isinstance(parsed, list):
        return json_answer(await deps.queries.answer(question.resolve(parsed, now_us), customer_id))
    questions = [question.resolve(query, now_us, at=f"/queries/{i}") for i, query in enumerate(parsed)]
    answers = await deps.queries.answers(questions, customer_id)
    trace_id = trace_id_of(request)
    return json_answer(
        {
            "answers": [
                {"error": answer.document(trace_id)} if isinstance(answer, ProblemError) else answer
                for answer in answers
            ]
        }
    )


@router.get("/v1/query", summary="Ask one question by a link", response_model=Answer)
async def get_query(
    request: Request,
    customer_id: Customer,
    q: Annotated[str, Query(max_length=16_384, description="base64url of the JSON that POST takes, one query")],
) -> Response:
    """The same as POST with one query; answers 304 while neither the question nor the data has changed."""
    deps = request.app.state.deps
    try:
        body = base64.b64decode(q.encode("ascii") + b"=" * (-len(q) % 4), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError) as error:
        raise ProblemError("invalid-request", "q is not base64url", errors=[Fault("/q", "not base64url")]) from error
    parsed = model.parse_body(body, batch_max=0)
    assert not isinstance(parsed, list), "a batch of at most no queries is refused"
    asked = question.resolve(parsed, deps.clock.now_us())
    etag = await _etag(deps.queries, asked, customer_id)
    headers = {"ETag": etag, "Cache-Control": "private, no-cache", "Vary": "Authorization, Cookie"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return json_answer(await deps.queries.answer(asked, customer_id), headers=headers)


@router.get("/v1/schema/events", summary="Names of events, for autocomplete")
async def schema_events(
    request: Request, customer_id: Customer, prefix: Annotated[str, Query(max_length=PREFIX_CHARS_MAX)] = ""
) -> Response:
    """Names that occurred in the last 30 days, most frequent first, at most 200."""
    deps = request.app.state.deps
    return json_answer({"items": await deps.lookup.events(customer_id, _clean(prefix), deps.clock.now_us())})


@router.get("/v1/schema/properties", summary="Names of properties, for autocomplete")
async def schema_properties(
    request: Request,
    customer_id: Customer,
    event: Annotated[str | None, Query(max_length=1000)] = None,
    prefix: Annotated[str, Query(max_length=PREFIX_CHARS_MAX)] = "",
) -> Response:
    """Properties in a sample of the newest events (of one name, if given), as `props.NAME`."""
    deps = request.app.state.deps
    name = None if event is None else _clean(event)
    items = await deps.lookup.properties(customer_id, name, _clean(prefix), deps.clock.now_us())
    return json_answer({"items": items})


@router.get("/v1/schema/values", summary="Values of a dimension, for autocomplete")
async def schema_values(
    request: Request,
    customer_id: Customer,
    dimension: Annotated[str, Query(max_length=300)],
    prefix: Annotated[str, Query(max_length=PREFIX_CHARS_MAX)] = "",
) -> Response:
    """Values that occurred in the last 30 days, most frequent first, at most 200."""
    deps = request.app.state.deps
    try:
        known = Dimension.parse(dimension)
    except TermError as error:
        raise ProblemError("invalid-request", str(error), errors=[Fault("/dimension", str(error))]) from error
    items = await deps.lookup.values(customer_id, known, _clean(prefix), deps.clock.now_us())
    return json_answer({"items": items})


async def _body(request: Request) -> bytes:
    """The body, whose size api.app bounds; a sender that stalls is not waited for."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.body()
    except TimeoutError as error:
        raise ProblemError("invalid-request", f"the body did not come within {BODY_TIMEOUT_S} s") from error


async def _etag(queries: Any, asked: Question, customer_id: int) -> str:
    """Weak: the block that says how fresh an answer is changes without its numbers."""
    positions = await queries.positions(asked, customer_id)
    data = " ".join("-" if at is None else f"{at.topic_id}:{at.next_offset}" for at in positions)
    written = msgspec.json.encode(asked.written(), order="sorted").decode()
    digest = hashlib.sha256(f"{customer_id}\n{written}\n{data}".encode()).hexdigest()
    return f'W/"{digest[:32]}"'


def _clean(text: str) -> str:
    """Text that a store takes: unpaired surrogates and U+0000 cannot be in an event."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")
