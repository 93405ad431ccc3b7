"""The Segment HTTP tracking API, with RudderStack's and jitsu's dialects of it.

Servers send `/v1/batch`; browsers send one event to a short or long path, or batches to `/v1/b`. Nothing is judged
by its Content-Type. A message's own `sentAt` comes before the body's, the body's before RudderStack's header.
"""
# ruff: noqa: ARG002 (the signatures are the seam's, see decoder.py)

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from producers.gateway.answers import Answer, Refusal, Rejection, json_answer, refusal_answer
from producers.gateway.json_body import BodyError, Unusable, parse, too_many
from producers.gateway.protocols.decoder import Decoded, Events, RawEvent, Request, Route, not_an_object
from producers.gateway.protocols.segment_columns import SegmentColumns, of_batch
from producers.gateway.protocols.segment_documents import AnalyticsSettings, RudderSourceConfig
from producers.gateway.protocols.segment_pixel import SegmentPixel

PROTOCOL: Final = "segment-v1"
SINGLE_PATHS: Final[Mapping[str, str]] = {
    "/v1/t": "track",
    "/v1/track": "track",
    "/v1/i": "identify",
    "/v1/identify": "identify",
    "/v1/p": "page",
    "/v1/page": "page",
    "/v1/s": "screen",
    "/v1/screen": "screen",
    "/v1/g": "group",
    "/v1/group": "group",
    "/v1/a": "alias",
    "/v1/alias": "alias",
}
BATCH_PATHS: Final = ("/v1/batch", "/v1/b", "/v1/import", "/beacon/v1/batch")
SHARED_CONTEXT_BYTES_MAX: Final = 32 * 1024
"""Of a batch's context: what Segment takes for a whole event."""
SHARED_CONTEXT_COPIES_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of all the copies of it that one request may ask for."""

_ENCODE = msgspec.json.Encoder().encode
_POST = frozenset(("POST",))
_GET = frozenset(("GET",))
_TRAIT_TYPES = frozenset(("identify", "group"))
_VOLATILE = frozenset(("sentAt",))
_SUCCESS = json_answer({"success": True})
_RETRY_HEADERS = ("x-retry-count", "rsa-retry-attempt")


class Segment:
    """Answers in Segment's way; `decode` is left to the kinds of path below."""

    name = PROTOCOL
    volatile_keys = _VOLATILE

    def success(self, request: Request, decoded: Decoded, rejections: Sequence[Rejection]) -> Answer:
        """`{"success":true}`, with the rejected events' indexes and reasons if there are any."""
        if not rejections:
            return _SUCCESS
        return json_answer({"success": True, "rejected": [item.told() for item in rejections]})

    def failure(self, request: Request, refusal: Refusal) -> Answer:
        return refusal_answer(refusal)


class SegmentBatch(Segment):
    """`{batch: [message, …], sentAt, writeKey?, context?}`."""

    def decode(self, request: Request, events_max: int) -> Decoded:
        parsed = parse(request.body, events_max, lenient=request.lenient)
        body = parsed.value
        if isinstance(body, Unusable):
            raise BodyError(body.reason, body.message)
        messages = body.get("batch") if isinstance(body, dict) else None
        if not isinstance(messages, list):
            raise BodyError("batch_missing", 'the body must be an object with a list "batch"')
        if len(messages) > events_max:
            raise too_many(len(messages), events_max)
        shared = shared_context(body.get("context"), len(messages))
        sent_at = body.get("sentAt") or request.headers.get("sentat")
        events = Messages(messages, None, sent_at, shared, attempt_of(request.headers))
        return Decoded(events, body_keys(body), parsed.cleaned)

    def columns(self, request: Request, events_max: int) -> SegmentColumns | None:
        """The same by columns; None where that cannot be."""
        return of_batch(request.body, events_max, request.headers, attempt_of(request.headers))


class SegmentSingle(Segment):
    """One message as the body; the path says its type if the message does not."""

    def __init__(self, type_: str) -> None:
        self._type = type_

    def decode(self, request: Request, events_max: int) -> Decoded:
        parsed = parse(request.body, events_max, lenient=request.lenient)
        body = parsed.value
        if isinstance(body, Unusable):
            return Decoded([body])
        if not isinstance(body, dict):
            raise BodyError("not_an_object", "the body must be one JSON object")
        for item in body.values():
            if isinstance(item, list):
                for element in item:
                    if isinstance(element, Unusable):
                        return Decoded([Unusable(element.reason, element.message, request.body)], body_keys(body))
        sent_at = request.headers.get("sentat")
        events = Messages([body], self._type, sent_at, None, attempt_of(request.headers))
        return Decoded(events, body_keys(body), parsed.cleaned)


class Messages(Events):
    """Messages as raw events, each made when it is asked for: a shared context is merged into one at a time, and
    what goes wrong with one goes wrong with it alone."""

    def __init__(
        self,
        messages: Sequence[Any],
        path_type: str | None,
        sent_at: Any,
        shared: Mapping[str, Any] | None,
        attempt: int,
    ) -> None:
        super().__init__(messages)
        self._path_type = path_type
        self._sent_at = sent_at
        self._shared = shared
        self._attempt = attempt

    def made(self, item: Any, index: int) -> RawEvent | Unusable:
        if not isinstance(item, dict):
            return not_an_object(item)
        return to_event(item, self._path_type, self._sent_at, self._shared, self._attempt)


def shared_context(context: Any, messages: int) -> Mapping[str, Any] | None:
    """The batch's context for its messages, if it has one. Raises BodyError: each message is stored with a copy, so
    a small body could become gigabytes."""
    if not isinstance(context, dict) or not context:
        return None
    try:
        size = len(_ENCODE(context))
    except RecursionError:
        raise BodyError("too_deep", "the batch's context nests too deep") from None
    if size > SHARED_CONTEXT_BYTES_MAX or size * messages > SHARED_CONTEXT_COPIES_BYTES_MAX:
        raise BodyError(
            "body_too_large",
            f"the batch's context of {size} bytes is too large for {messages} messages: at most"
            f" {SHARED_CONTEXT_BYTES_MAX} bytes, and {SHARED_CONTEXT_COPIES_BYTES_MAX} in all its copies",
            status=413,
        )
    return context


def to_event(
    message: Mapping[str, Any], path_type: str | None, sent_at: Any, shared_context: Any, attempt: int
) -> RawEvent:
    """A message as a raw event; `path_type` is the type that the path says, if it does."""
    get = message.get
    type_ = get("type") or path_type
    if not isinstance(type_, str):
        type_ = ""
    context = get("context")
    if shared_context is not None and (context is None or isinstance(context, dict)):
        context = {**shared_context, **context} if context else shared_context
    if type_ in _TRAIT_TYPES:
        properties = get("traits")
        if properties is None and isinstance(context, dict):
            properties = context.get("traits")  # rudder-python has them only there
    else:
        properties = get("properties")
    timestamp = get("timestamp")
    if timestamp is None or timestamp == "":
        timestamp = get("originalTimestamp")
    session = get("sessionId")
    if session is None and isinstance(context, dict):
        session = context.get("sessionId")
    return RawEvent(
        type_,
        get("event") if type_ == "track" else get("name") if type_ in ("page", "screen") else None,
        get("messageId"),
        get("userId"),
        get("anonymousId"),
        get("groupId"),
        get("previousId"),
        session,
        timestamp,
        get("sentAt") or sent_at,
        properties,
        context,
        attempt,
        message,
    )


def body_keys(body: Mapping[str, Any]) -> list[str]:
    """The write key in a body, if there is one."""
    key = body.get("writeKey")
    return [key] if isinstance(key, str) and key else []


def attempt_of(headers: Mapping[str, str]) -> int:
    """Which try of the sender this is, from 1; 0 when it does not say."""
    for name in _RETRY_HEADERS:
        count = headers.get(name, "")
        if count.isascii() and count.isdigit() and len(count) <= 6:
            return int(count) + 1
    return 0


def routes() -> list[Route]:
    """The paths of this family."""
    batch = SegmentBatch()
    found = [Route(path, _POST, "Segment: a batch of events", batch, columns=batch.columns) for path in BATCH_PATHS]
    found += [
        Route(path, _POST, f"Segment: one {type_} event", SegmentSingle(type_))
        for path, type_ in SINGLE_PATHS.items()
    ]
    found += [
        Route(f"/pixel/v1/{type_}", _GET, f"RudderStack: one {type_} event as an image", SegmentPixel(type_))
        for type_ in ("track", "page")
    ]
    settings, source = AnalyticsSettings(), RudderSourceConfig()
    found.append(Route("/v1/projects/{write_key}/settings", _GET, "analytics.js: its settings", document=settings))
    found.append(Route("/sourceConfig", _GET, "RudderStack: its source's configuration", document=source))
    return found
