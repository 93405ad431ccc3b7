"""The data of a CloudEvent: JSON where its content type says so, else text, else base64.

Guarantees that what comes out can be stored as JSON, and that bytes which are no JSON come through unchanged.
"""

import base64
from collections.abc import Mapping
from typing import Any, Final

from headrace.errors import PoisonError
from producers.gateway.json_body import BodyError, NotPlainError, Parsed, Unusable, parse

TEXT_KEY: Final = "data"
"""The property that holds data which is not an object."""
BYTES_KEY: Final = "data_base64"
"""The property that holds data which is not even text, in base64."""

CLIENT_TYPES: Final = frozenset(("application/x-www-form-urlencoded", "application/octet-stream", "text/plain"))
"""What HTTP clients say of a body when the sender does not: such a body is JSON if it is a JSON object."""


def is_json(content_type: str) -> bool:
    """Whether data of this type is JSON; without a type it is."""
    media_type = content_type.partition(";")[0].strip().lower()
    return not media_type or media_type.endswith(("/json", "+json"))


def read_body(body: bytes, content_type: str, events_max: int, *, lenient: bool) -> Parsed:
    """A body that is data. Raises BodyError for JSON that is none, PoisonError for what such JSON may not hold, and
    NotPlainError as `parse` does."""
    if not body:
        return Parsed(None, False)
    if not is_json(content_type):
        return Parsed(plain(body), False)
    parsed = parse(body, events_max, lenient=lenient)
    fault = outer_fault(parsed.value, body)
    if fault is not None:
        raise PoisonError(fault.reason, fault.message)
    return parsed


def unsaid_json(body: bytes, content_type: str, events_max: int) -> Parsed | None:
    """A body that is plainly a JSON object though its type, which may be the HTTP client's own, does not say so."""
    if content_type.partition(";")[0].strip().lower() not in CLIENT_TYPES or body.lstrip()[:1] != b"{":
        return None
    try:
        parsed = parse(body, events_max, lenient=False)
    except (BodyError, NotPlainError):
        return None
    return parsed if isinstance(parsed.value, dict) else None


def read_base64(encoded: Any, content_type: Any, events_max: int, *, lenient: bool) -> Parsed:
    """Data that stands in base64. Bytes that should be JSON and are not stay bytes. Raises as `read_body`, but
    PoisonError for what is no base64."""
    if not isinstance(encoded, str):
        raise PoisonError("invalid_properties", f"data_base64 must be a text, not {type(encoded).__name__}")
    try:
        body = base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise PoisonError("invalid_properties", f"data_base64 is not base64: {error}") from None
    try:
        return read_body(body, content_type if isinstance(content_type, str) else "", events_max, lenient=lenient)
    except BodyError:
        return Parsed(plain(body), False)


def outer_fault(value: Any, raw: bytes) -> Unusable | None:
    """What is unusable about a value that is one event's: `parse` takes a list in it for a list of events."""
    if isinstance(value, Unusable):
        return value
    inner = value.values() if isinstance(value, Mapping) else (value,)
    for item in inner:
        if isinstance(item, list):
            for element in item:
                if isinstance(element, Unusable):
                    return Unusable(element.reason, element.message, raw)
    return None


def plain(body: bytes) -> dict[str, str]:
    """Bytes as text if they are one that can be stored, else in base64."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = "\x00"
    if "\x00" in text:
        return {BYTES_KEY: base64.b64encode(body).decode()}
    return {TEXT_KEY: text}
