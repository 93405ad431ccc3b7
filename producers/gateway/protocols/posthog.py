"""PostHog's capture, the one of old (v0: `/batch`, `/e`, `/capture`, `/i/v0/e`) and the new one (v1).

v0 takes on each of its paths what any SDK ever sent to one of them: an object with a list `batch`, a list of events,
or one event. `sent_at` stands in the body or, in milliseconds, in the query as `_`; the write key in the body, in an
event, in an event's properties (only where nothing else names one), or in the query. v1 has its key and its times in
headers, and answers for each event.

Session recordings are not taken: their path answers, and nothing of them is stored.

What is refused for good has a status that no PostHog SDK retries: 400, 401, 413 (posthog-node sends the halves) and
415. They come again after 408, 429 and 5xx, posthog-js not after 429; the Python SDK's v1 also after a 404, which
therefore is never the answer of an event path.
"""
# ruff: noqa: ARG002 (the signatures are the seam's, see decoder.py)

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from producers.gateway.answers import Answer, Refusal, Rejection, json_answer, refusal_answer
from producers.gateway.json_body import BodyError, Unusable, parse, too_many
from producers.gateway.protocols.decoder import Decoded, Document, Request, Route
from producers.gateway.protocols.posthog_body import payload
from producers.gateway.protocols.posthog_documents import (
    RemoteConfig,
    RemoteConfigScript,
    flag_definitions,
    flags,
    recording,
)
from producers.gateway.protocols.posthog_events import PostHogEvents, Sender, key_of

PROTOCOL_V0: Final = "posthog-v0"
PROTOCOL_V1: Final = "posthog-v1"
V1_PATH: Final = "/i/v1/analytics/events"
CAPTURE_PATHS: Final = ("/e", "/capture", "/i/v0/e")
AI_BATCH_PATH: Final = "/i/v0/ai/batch"
"""Where server SDKs send their `$ai_…` events; the body is a batch like any other."""

_GET = frozenset(("GET",))
_POST = frozenset(("POST",))
_GET_POST = frozenset(("GET", "POST"))
_VOLATILE = frozenset(("sent_at",))
_TAKEN = json_answer({"status": 1})
_OK: Final[Mapping[str, str]] = {"result": "ok"}
_DIGITS_MAX: Final = 16
_ATTEMPTS_MAX: Final = 10_000
_UUID = re.compile(rb'"uuid"\s*:\s*"([0-9A-Za-z-]{1,100})"')


class Capture:
    """v0."""

    name = PROTOCOL_V0
    volatile_keys = _VOLATILE

    def decode(self, request: Request, events_max: int) -> Decoded:
        parsed = parse(payload(request), events_max, lenient=request.lenient)
        body = parsed.value
        if isinstance(body, Unusable):
            return Decoded([body], _query_keys(request))
        envelope, items = _split(body)
        if len(items) > events_max:
            raise too_many(len(items), events_max)
        key = key_of(envelope, in_properties=False)
        undeclared = key is None
        if undeclared:
            found = (key_of(item, in_properties=True) for item in items if isinstance(item, dict))
            key = next((item_key for item_key in found if item_key), None)
        keys = _query_keys(request) if key is None else [key]
        if items and items[0] is body:
            fault = _fault_within(body)
            if fault is not None:
                return Decoded([Unusable(fault.reason, fault.message, request.body)], keys)
        sender = Sender(
            keys[0] if keys else None,
            envelope.get("sent_at") or _milliseconds(request.query.get("_", "")),
            request.received_at_us,
            _attempt(request.query.get("retry_count", ""), retries=True),
            key_in_properties=undeclared,
        )
        return Decoded(PostHogEvents(items, sender), keys, parsed.cleaned)

    def success(self, request: Request, decoded: Decoded, rejections: Sequence[Rejection]) -> Answer:
        """`{"status":1}`: the SDKs look at nothing but the status; for people, also what was set aside and why."""
        if not rejections:
            return _TAKEN
        told = [{"index": item.index, "reason": item.reason} for item in rejections]
        return json_answer({"status": 1, "rejected": told})

    def failure(self, request: Request, refusal: Refusal) -> Answer:
        return refused(refusal)


class CaptureV1:
    """v1: its key is the Bearer of the Authorization header, which the receiver reads."""

    name = PROTOCOL_V1
    volatile_keys = _VOLATILE

    def decode(self, request: Request, events_max: int) -> Decoded:
        parsed = parse(request.body, events_max, lenient=request.lenient)
        body = parsed.value
        if isinstance(body, Unusable):
            raise BodyError(body.reason, body.message)
        batch = body.get("batch") if isinstance(body, dict) else None
        if not isinstance(batch, list):
            raise BodyError("batch_missing", 'the body must be an object with a list "batch"')
        if len(batch) > events_max:
            raise too_many(len(batch), events_max)
        headers = request.headers
        key = key_of(body, in_properties=False)
        keys = _query_keys(request) if key is None else [key]
        sender = Sender(
            keys[0] if keys else None,
            headers.get("posthog-request-timestamp"),
            request.received_at_us,
            _attempt(headers.get("posthog-attempt", ""), retries=False),
            library=headers.get("posthog-sdk-info", ""),
        )
        return Decoded(PostHogEvents(batch, sender), keys, parsed.cleaned)

    def success(self, request: Request, decoded: Decoded, rejections: Sequence[Rejection]) -> Answer:
        """What became of each event: "ok", or "drop" with the reason, which no SDK sends again."""
        events = decoded.events
        items = events.items if isinstance(events, PostHogEvents) else ()
        results: dict[str, Mapping[str, str]] = {}
        for item in items:
            name = _uuid_of(item)
            if name:
                results[name] = _OK
        for rejection in rejections:
            name = _uuid_of(items[rejection.index]) if rejection.index < len(items) else None
            if name:
                results[name] = {"result": "drop", "details": rejection.reason}
        return json_answer({"results": results})

    def failure(self, request: Request, refusal: Refusal) -> Answer:
        return refused(refusal)


BATCH: Final = Capture()
CAPTURE: Final = BATCH
"""For the paths that other protocols have too, `/batch` and `/track`: one decoder, since each takes all shapes."""


def refused(refusal: Refusal) -> Answer:
    """The error body that all SDKs understand, and the sentence where PostHog's own look for it."""
    return refusal_answer(refusal, detail=refusal.message, error_description=refusal.message)


def routes() -> list[Route]:
    """PostHog's own paths."""
    found = [Route(path, _GET_POST, "PostHog: events of browsers and phones", CAPTURE) for path in CAPTURE_PATHS]
    found.append(Route(AI_BATCH_PATH, _POST, "PostHog: a batch of AI events", BATCH))
    found.append(Route(V1_PATH, _POST, "PostHog: a batch of events, answered one by one", CaptureV1()))
    documents: tuple[tuple[str, Document], ...] = (
        ("/array/{write_key}/config", RemoteConfig()),
        ("/array/{write_key}/config.js", RemoteConfigScript()),
    )
    found += [Route(path, _GET, "posthog-js: its configuration", document=document) for path, document in documents]
    found += [Route(path, _GET_POST, "PostHog: no feature flags", fixed=flags) for path in ("/flags", "/decide")]
    found.append(Route("/flags/definitions", _GET, "PostHog: no feature flags", fixed=flag_definitions))
    found += [
        Route(path, _GET_POST, "PostHog: session recordings, which are not taken", fixed=recording)
        for path in ("/s", "/i/v0/s")
    ]
    return found


def _split(body: Any) -> tuple[Mapping[str, Any], Sequence[Any]]:
    """What is said of all events, and the events. Raises BodyError."""
    if isinstance(body, list):
        return {}, body
    if not isinstance(body, dict):
        raise BodyError("not_an_object", "the body must be a JSON object or a list of them")
    batch = body.get("batch")
    if isinstance(batch, list):
        return body, batch
    if "event" not in body:
        raise BodyError("batch_missing", 'the body has neither a list "batch" nor an "event"')
    return {}, [body]


def _fault_within(event: Mapping[str, Any]) -> Unusable | None:
    """What is wrong with a body that is one event, where a list in it was taken for a list of events."""
    for item in event.values():
        if isinstance(item, list):
            for element in item:
                if isinstance(element, Unusable):
                    return element
    return None


def _query_keys(request: Request) -> list[str]:
    return [key for name in ("api_key", "token") if (key := request.query.get(name, "").strip())]


def _milliseconds(text: str) -> int | None:
    """posthog-js's time of sending."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX else None


def _attempt(text: str, *, retries: bool) -> int:
    """Which try of the sender this is, from 1; 0 when it does not say."""
    count = _milliseconds(text[:_DIGITS_MAX])
    if count is None or count > _ATTEMPTS_MAX:
        return 0
    return count + retries


def _uuid_of(item: Any) -> str | None:
    """By what an SDK knows its event; for one that could not be parsed, as far as it can be seen."""
    if isinstance(item, Unusable):
        seen = _UUID.search(item.raw)
        return seen[1].decode() if seen else None
    found = item.get("uuid") if isinstance(item, dict) else None
    return found if isinstance(found, str) else None
