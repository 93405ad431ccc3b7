"""Snowplow's tracker protocol 2: batches by POST, single events as an image's query by GET. `aid` is the write key.

What trackers do with an answer rules here: 400, 401, 403, 410 and 422 make them drop the events, every other status
that is no success makes them send the same again, the Python tracker for ever. So what can never pass is answered
with one of the first, or, when it is too large, with 200 and a body that says what was dropped; it is counted as
refused all the same. Trackers read no body.
"""
# ruff: noqa: ARG002 (the signatures are the seam's, see decoder.py)

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from producers.gateway.answers import JSON, Answer, Refusal, Rejection, json_answer, refusal_answer
from producers.gateway.json_body import BodyError, Unusable, clean_text, parse, too_many
from producers.gateway.protocols.decoder import Decoded, RawEvent, Request, Route
from producers.gateway.protocols.segment_pixel import GIF
from producers.gateway.protocols.snowplow_event import UNIDENTIFYING, to_event
from producers.gateway.protocols.snowplow_json import InnerJson

PROTOCOL: Final = "snowplow-tp2"
POST_PATH: Final = "/com.snowplowanalytics.snowplow/tp2"
GET_PATH: Final = "/i"

DROPPED_STATUSES: Final[Mapping[int, int]] = {413: 200, 415: 400}
"""What is answered instead of a status that trackers would take for a reason to send the same again."""

NO_EVENT_BYTES_MAX: Final = 1000
"""Kept of what stands in a batch without being an event."""

_ENCODE = msgspec.json.Encoder().encode
_SUCCESS = json_answer({"success": True})
_NOT_IN_EVENTS = frozenset(("writeKey",))
"""Parameters of a GET that are the gateway's, not the event's."""


class Snowplow:
    """What both ways of sending share: how requests are refused."""

    name = PROTOCOL
    volatile_keys = UNIDENTIFYING

    def failure(self, request: Request, refusal: Refusal) -> Answer:
        """A refusal, with a status by which trackers repeat exactly what may pass later."""
        answer = refusal_answer(refusal)
        status = DROPPED_STATUSES.get(refusal.status, refusal.status)
        if status == refusal.status:
            return answer
        told = {**msgspec.json.decode(answer.body), "dropped": "all events of the request"}
        return Answer(status, _ENCODE(told), JSON, answer.headers)


class SnowplowPost(Snowplow):
    """`{schema, data: [event, …]}`; the values of an event are texts."""

    def decode(self, request: Request, events_max: int) -> Decoded:
        parsed = parse(request.body, events_max, lenient=request.lenient)
        body = parsed.value
        if isinstance(body, Unusable):
            raise BodyError(body.reason, body.message)
        messages = body.get("data") if isinstance(body, dict) else None
        if not isinstance(messages, list):
            raise BodyError("data_missing", 'the body must be an object with a list "data"')
        if len(messages) > events_max:
            raise too_many(len(messages), events_max)
        key = first_key(messages)
        inner = InnerJson(request, request.body, events_max)
        events = [_event(message, key, inner) for message in messages]
        return Decoded(events, [key] if key else [], parsed.cleaned or inner.cleaned)

    def success(self, request: Request, decoded: Decoded, rejections: Sequence[Rejection]) -> Answer:
        """`{"success":true}`, with the rejected events' indexes and reasons if there are any."""
        if not rejections:
            return _SUCCESS
        return json_answer({"success": True, "rejected": [item.told() for item in rejections]})


class SnowplowGet(Snowplow):
    """One event in the query; the answer is an image, a refusal still has its status."""

    def decode(self, request: Request, events_max: int) -> Decoded:
        message = {
            clean_text(name): clean_text(value) for name, value in request.query.items() if name not in _NOT_IN_EVENTS
        }
        key = first_key([message])
        inner = InnerJson(request, _ENCODE({"aid": key}), events_max)
        return Decoded([_event(message, key, inner)], [key] if key else [], inner.cleaned)

    def success(self, request: Request, decoded: Decoded, rejections: Sequence[Rejection]) -> Answer:
        headers: tuple[tuple[bytes, bytes], ...] = ((b"cache-control", b"no-store"),)
        if rejections:
            headers += ((b"x-headrace-rejected", rejections[0].reason.encode()),)
        return Answer(200, GIF, b"image/gif", headers)


def first_key(messages: Sequence[Any]) -> str:
    """The app id of the first event that has one; empty if none has."""
    for message in messages:
        if isinstance(message, dict):
            key = message.get("aid")
            if isinstance(key, str) and key:
                return key
    return ""


def _event(message: Any, key: str, inner: InnerJson) -> RawEvent | Unusable:
    """One event of a request whose key is `key`."""
    if isinstance(message, Unusable):
        return message
    try:
        if not isinstance(message, dict):
            return Unusable("not_an_object", "an event must be a JSON object", _ENCODE(message)[:NO_EVENT_BYTES_MAX])
        own_key = message.get("aid")
        if isinstance(own_key, str) and own_key and own_key != key:
            return Unusable("other_write_key", "the event names another app id than the first one", _ENCODE(message))
        return to_event(message, inner)
    except RecursionError:  # deeper than can be written again: the whole body is kept in its stead
        return Unusable("too_deep", "the event nests too deep", inner.request.body)
    except (OverflowError, ValueError) as error:  # such as an integer of more digits than can be written
        return Unusable("malformed_json", f"the event cannot be written again: {error}", inner.request.body)


def routes() -> list[Route]:
    """The paths that trackers use unless they are told another one.

    A tracker's `postPath` may be any path, so a pattern for it would take every other protocol's mistakes for its
    own: who sets one maps it in the proxy.
    """
    return [
        Route(POST_PATH, frozenset(("POST",)), "Snowplow: a batch of events", SnowplowPost()),
        Route(GET_PATH, frozenset(("GET",)), "Snowplow: one event as an image", SnowplowGet()),
    ]
