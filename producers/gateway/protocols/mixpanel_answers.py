"""Answers in Mixpanel's dialects: `1` and `0`, verbose JSON, an image, and /import's records.

A request of which some events were set aside is answered as taken: mixpanel-python's buffer would send a failed batch
again with every flush. Only /import with `strict=1` answers 400 for that, as its senders expect and do not resend.
"""

from collections.abc import Sequence
from typing import Any, Final

from producers.gateway.answers import Answer, Refusal, Rejection, json_answer, refusal_answer
from producers.gateway.json_body import Unusable
from producers.gateway.protocols.decoder import Decoded, Request
from producers.gateway.protocols.mixpanel_body import form, option
from producers.gateway.protocols.segment_pixel import GIF
from schemas.event import MESSAGE_ID_CHARS_MAX

_PLAIN: Final = b"text/plain; charset=utf-8"
_TRUE: Final = frozenset(("1", "true"))
_DONE = Answer(200, b"1", _PLAIN)
_DONE_VERBOSE = json_answer({"status": 1, "error": None})
_FIELDS: Final = {
    "missing_event_name": "event",
    "unknown_type": "event",
    "timestamp_invalid": "properties.time",
    "timestamp_out_of_range": "properties.time",
    "invalid_id": "properties.$insert_id",
    "other_write_key": "properties.token",
    "malformed_json": "",
    "not_an_object": "",
}
"""Which field of a record a reason is about; all others are about its properties."""
_SENTENCES: Final = {
    "missing_event_name": "an event needs a name that is a text",
    "timestamp_invalid": "the time is neither a number of seconds or milliseconds nor ISO-8601",
    "timestamp_out_of_range": "the time is not between 2000 and 2100",
    "invalid_id": "an id must be a text or a number",
    "invalid_properties": "the properties must be an object",
    "too_deep": "the event nests too deep",
    "too_many_properties": "the event has too many properties",
    "event_too_large": "the event is too large",
}


def taken(request: Request, rejections: Sequence[Rejection]) -> Answer:
    """The answer of /track, /engage and /groups."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if rejections:
        headers = ((b"x-headrace-rejected", b",".join(sorted({item.reason.encode() for item in rejections}))),)
    if _is_set(request, "img"):
        return Answer(200, GIF, b"image/gif", ((b"cache-control", b"no-store"), *headers))
    if not _is_set(request, "verbose"):
        return Answer(200, b"1", _PLAIN, headers) if rejections else _DONE
    if not rejections:
        return _DONE_VERBOSE
    told = [item.told() for item in rejections]
    return json_answer({"status": 1, "error": None, "rejected": told}, headers=headers)


def imported(request: Request, decoded: Decoded, rejections: Sequence[Rejection]) -> Answer:
    """The answer of /import: for `strict=1` and for bodies that are no form, how many records were taken."""
    is_strict = _is_set(request, "strict")
    if not is_strict and (option(request, "verbose") is not None or request.method == "GET" or form(request.body)):
        return taken(request, rejections)
    told: dict[str, Any] = {
        "code": 200,
        "num_records_imported": len(decoded.events) - len(rejections),
        "status": "OK",
    }
    if not rejections:
        return json_answer(told)
    told["failed_records"] = [_failed_record(decoded, item) for item in rejections]
    if is_strict:
        told |= {"code": 400, "status": "Bad Request", "error": "some data points in the request failed validation"}
    return json_answer(told, told["code"])


def refused(request: Request, refusal: Refusal) -> Answer:
    """`0` for those who asked for short answers, else an error body.

    A body that was not read may have asked for JSON, and mixpanel-python fails on anything else: without a word in
    the query a POST gets it.
    """
    answer = refusal_answer(refusal)
    if _is_set(request, "verbose") or (request.method != "GET" and request.query.get("verbose") is None):
        return answer
    told = (b"x-headrace-refused", refusal.reason.encode("ascii", "replace"))
    return Answer(answer.status, b"0", _PLAIN, (*answer.headers, told))


def _is_set(request: Request, name: str) -> bool:
    return (option(request, name) or "").lower() in _TRUE


def _failed_record(decoded: Decoded, rejection: Rejection) -> dict[str, Any]:
    event = decoded.events[rejection.index]
    reason = rejection.reason
    insert_id, message = "", rejection.detail or _SENTENCES.get(reason, reason.replace("_", " "))
    if isinstance(event, Unusable):
        message = event.message
    elif isinstance(event.message_id, str):
        insert_id = event.message_id[:MESSAGE_ID_CHARS_MAX]
    return {
        "index": rejection.index,
        "insert_id": insert_id,
        "field": _FIELDS.get(reason, "properties"),
        "message": message,
        "reason": reason,
    }
