"""CloudEvents over HTTP, versions 1.0 and 0.3: binary, structured and batched, JSON format.

The mode is what Content-Type says, as the specification demands; without one of CloudEvents' own types a request
with `ce-` headers is binary and one with a JSON body is what its shape shows. An event that lacks a required
attribute is set aside alone. Formats other than JSON (XML, Avro, Protobuf) are refused with 415.
"""
# ruff: noqa: ARG002 (the signatures are the seam's, see decoder.py)

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec

from headrace.errors import PoisonError
from producers.gateway.answers import Answer, Refusal, Rejection, json_answer, refusal_answer
from producers.gateway.json_body import BodyError, Unusable, clean_text, parse, too_many
from producers.gateway.protocols.cloudevents_data import outer_fault, plain, read_base64, read_body, unsaid_json
from producers.gateway.protocols.cloudevents_event import to_event
from producers.gateway.protocols.decoder import Decoded, RawEvent, Request, Route

PROTOCOL: Final = "cloudevents-http"
PATH: Final = "/v1/cloudevents"

_ENCODE = msgspec.json.Encoder().encode
_POST = frozenset(("POST",))
_PREFIX = "ce-"
_TELLING_HEADERS = ("ce-id", "ce-specversion", "ce-type", "ce-source")
_STRUCTURED = "application/cloudevents"
_STRUCTURED_TYPES = frozenset(
    (
        "application/cloudevents",
        "application/cloudevents+json",
        "application/cloudevents-batch",
        "application/cloudevents-batch+json",
    )
)
_BASE64 = "base64"
_SUCCESS = json_answer({"success": True})


class CloudEvents:
    """All three modes. A body of the batch type may be one event and one of the structured type a list."""

    name = PROTOCOL
    volatile_keys: frozenset[str] = frozenset()

    def decode(self, request: Request, events_max: int) -> Decoded:
        media_type = _media_type(request.headers.get("content-type", ""))
        if media_type.startswith(_STRUCTURED):
            if media_type not in _STRUCTURED_TYPES:
                raise BodyError("unknown_format", f"{media_type[:60]!r} is not understood, JSON is", status=415)
        elif any(name in request.headers for name in _TELLING_HEADERS):
            return _binary(request, events_max)
        parsed = parse(request.body, events_max, lenient=request.lenient)
        value = parsed.value
        if isinstance(value, dict):
            value = [outer_fault(value, request.body) or value]
        elif isinstance(value, Unusable):
            value = [value]
        elif not isinstance(value, list):
            raise BodyError("not_an_object", "the body must be a CloudEvent or a list of them")
        if len(value) > events_max:
            raise too_many(len(value), events_max)
        return _structured(value, request, events_max, cleaned=parsed.cleaned)

    def success(self, request: Request, decoded: Decoded, rejections: Sequence[Rejection]) -> Answer:
        """`{"success":true}`, with the rejected events' indexes and reasons if there are any."""
        if not rejections:
            return _SUCCESS
        return json_answer({"success": True, "rejected": [item.told() for item in rejections]})

    def failure(self, request: Request, refusal: Refusal) -> Answer:
        return refusal_answer(refusal)


def _structured(values: Sequence[Any], request: Request, events_max: int, *, cleaned: bool) -> Decoded:
    """Events that are JSON objects, attributes and data together."""
    events: list[RawEvent | Unusable] = []
    for value in values:
        if isinstance(value, Unusable):
            events.append(value)
            continue
        try:
            event, replaced = _one(value, request, events_max)
        except PoisonError as error:
            events.append(Unusable(error.reason, error.message, _raw(value, request.body)))
        else:
            events.append(event)
            cleaned = cleaned or replaced
    return Decoded(events, (), cleaned)


def _one(value: Any, request: Request, events_max: int) -> tuple[RawEvent, bool]:
    """One of them, and whether texts in it had to be replaced. Raises PoisonError, NotPlainError."""
    if not isinstance(value, dict):
        raise PoisonError("not_an_object", "an event must be a JSON object")
    attributes = {key: item for key, item in value.items() if key not in ("data", "data_base64")}
    data, encoded = value.get("data"), value.get("data_base64")
    if encoded is None and attributes.get("datacontentencoding") == _BASE64:  # version 0.3
        data, encoded = None, data
    attributes.pop("datacontentencoding", None)
    if encoded is None:
        return to_event(attributes, data, value), False
    parsed = read_base64(encoded, attributes.get("datacontenttype"), events_max, lenient=request.lenient)
    return to_event(attributes, parsed.value, value), parsed.cleaned


def _binary(request: Request, events_max: int) -> Decoded:
    """One event: its attributes in headers, its data as the body."""
    attributes: dict[str, Any] = {}
    cleaned = False
    for name, value in request.headers.items():
        if name.startswith(_PREFIX):
            text = header_text(value)
            attributes[name[len(_PREFIX) :]] = clean_text(text)
            cleaned = cleaned or clean_text(text) != text
    content_type = request.headers.get("content-type", "")
    guessed = unsaid_json(request.body, content_type, events_max)
    if content_type and guessed is None:
        attributes["datacontenttype"] = clean_text(content_type)
    attributes.pop("datacontentencoding", None)  # version 0.3; the body is the data's bytes all the same
    try:
        parsed = guessed or read_body(request.body, content_type, events_max, lenient=request.lenient)
        event = to_event(attributes, parsed.value, {**attributes, "data": parsed.value})
    except BodyError:
        raise
    except PoisonError as error:
        return Decoded([Unusable(error.reason, error.message, _ENCODE({**attributes, **plain(request.body)}))])
    return Decoded([event], (), cleaned or parsed.cleaned)


def header_text(value: str) -> str:
    """An attribute as its header has it: out of its quotes if it stands in some, then percent-decoded, once.

    Headers arrive as Latin-1; senders that wrote UTF-8 without encoding it are understood too.
    """
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = _unescaped(value[1:-1])
    decoded = unquote_to_bytes(value.encode("latin-1", "replace"))
    return decoded.decode("utf-8", "replace")


def _unescaped(quoted: str) -> str:
    """A quoted string's text: a backslash gives way to what it protects."""
    pieces = quoted.split("\\\\")
    return "\\".join(piece.replace("\\", "") for piece in pieces)


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _raw(value: Any, body: bytes) -> bytes:
    """An event as received, as far as it was parsed; the whole body where it cannot be written again."""
    try:
        return _ENCODE(value)
    except RecursionError:
        return body


def routes() -> list[Route]:
    """The path of this protocol."""
    return [Route(PATH, _POST, "CloudEvents: one event, binary or structured, or a batch", CloudEvents())]
