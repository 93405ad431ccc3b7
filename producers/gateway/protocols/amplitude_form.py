"""The forms that Amplitude's SDKs sent before the API V2, which amplitude-js and old mobile SDKs still do:
`client=<key>&e=<events>&upload_time=<ms>`, and `api_key=<key>&event=<event or events>` of the API V1.

Events of that time have `timestamp` and `uuid` where today's have `time` and `insert_id`. A form costs more to read
than JSON, so it is bounded by what Amplitude itself took; the 413 beyond makes those SDKs halve their batches.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec

from producers.gateway.json_body import BodyError, NotPlainError, Unusable, clean_text, parse, too_many
from producers.gateway.protocols.decoder import Request

FORM_BYTES_MAX: Final = 1024 * 1024
FIELDS_MAX: Final = 20
"""Parts of a form; they have six, and what comes after is not looked at."""

_ENCODE = msgspec.json.Encoder().encode
_KEY_FIELDS = (b"api_key", b"client")
_SENT_FIELD = b"upload_time"


@dataclass(frozen=True, slots=True)
class FormFields:
    """Which of a form's fields may hold the events, and how one becomes an event of the API V2."""

    names: tuple[bytes, ...]
    adapt: Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Form:
    """A form as read: the elements of its list of events, its key, when it was sent (ms), whether texts were
    replaced."""

    events: list[Any]
    key: str
    sent_at: int | None
    cleaned: bool


def read_form(request: Request, fields: FormFields, events_max: int) -> Form:
    """Raises BodyError, and NotPlainError as `parse` does, then with the form's key for its body."""
    if len(request.body) > FORM_BYTES_MAX:
        raise BodyError("body_too_large", f"of a form at most {FORM_BYTES_MAX} bytes are taken", status=413)
    form = _parts(request.body)
    encoded = next((form[name] for name in fields.names if form.get(name)), None)
    if encoded is None:
        names = " or ".join(name.decode() for name in fields.names)
        raise BodyError("events_missing", f"the form must have a field {names}")
    key = next((clean_text(form[name].decode("utf-8", "replace")) for name in _KEY_FIELDS if form.get(name)), "")
    try:
        parsed = parse(encoded, events_max, lenient=request.lenient)
    except NotPlainError:
        raise NotPlainError(_ENCODE({"api_key": key})) from None
    value = parsed.value
    events = value if isinstance(value, list) else [value]
    if not isinstance(value, list | dict | Unusable):
        raise BodyError("not_an_object", "the events must be a JSON object or a list of them")
    if isinstance(value, dict):
        events = [_fault(value, encoded) or value]
    if len(events) > events_max:
        raise too_many(len(events), events_max)
    sent = form.get(_SENT_FIELD, b"")
    return Form(events, key, int(sent) if sent.isdigit() and len(sent) < 16 else None, parsed.cleaned)


def _parts(body: bytes) -> dict[bytes, bytes]:
    """A form's first value of each name."""
    parts: dict[bytes, bytes] = {}
    for part in body.strip().split(b"&", FIELDS_MAX)[:FIELDS_MAX]:
        name, _, value = part.partition(b"=")
        parts.setdefault(name, unquote_to_bytes(value.replace(b"+", b" ")))
    return parts


def _fault(event: Mapping[str, Any], raw: bytes) -> Unusable | None:
    """What is unusable in a list of an event that is alone: `parse` took that list for one of events."""
    for item in event.values():
        if isinstance(item, list):
            for element in item:
                if isinstance(element, Unusable):
                    return Unusable(element.reason, element.message, raw)
    return None


def _of_today(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """An event with today's names of its time and its id."""
    renamed = {key: value for key, value in event.items() if key not in ("timestamp", "uuid")}
    for old, name in (("timestamp", "time"), ("uuid", "insert_id")):
        if event.get(name) is None and event.get(old) is not None:
            renamed[name] = event[old]
    return renamed


def _of_user(identification: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**_of_today(identification), "event_type": "$identify"}


def _of_group(identification: Mapping[str, Any]) -> Mapping[str, Any]:
    """`{group_type, group_value, group_properties}` as an event."""
    event = {**_of_today(identification), "event_type": "$groupidentify"}
    if "groups" not in event:
        kind, value = event.pop("group_type", None), event.pop("group_value", None)
        event["groups"] = {kind if isinstance(kind, str) else "": value}
    return event


EVENTS: Final = FormFields((b"e", b"event", b"events"), _of_today)
IDENTIFY: Final = FormFields((b"identification",), _of_user)
GROUP_IDENTIFY: Final = FormFields((b"identification",), _of_group)
