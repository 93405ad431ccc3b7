"""Where a Mixpanel request has its messages: in a form or a query (`data=`, JSON or base64), or in the body as JSON
or as one JSON object a line.

Told by the bytes alone, never by Content-Type (but for lines of which one is broken). Base64 may have lost its
padding, may have spaces for its `+` (mixpanel-node does not percent-encode it), may be the URL-safe kind, and may
hold CESU-8 (mixpanel-browser). Raises BodyError and NotPlainError only.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from producers.gateway.json_body import (
    DEPTH_MAX,
    LENIENT_BYTES_MAX,
    LEVELS_AROUND,
    BodyError,
    NotPlainError,
    Parsed,
    Unusable,
    nests_deeper,
    parse,
    too_many,
)
from producers.gateway.protocols.decoder import Request

FORM_FIELDS_MAX: Final = 64
"""Fields of a form that are told apart; SDKs send three."""

OPTION_BYTES_MAX: Final = 2_048
"""Of a form's other fields as sent; a longer one says nothing."""

MALFORMED_ESCAPES_MAX: Final = 10_000
"""Percent signs of a form that begin no escape: people who write requests by hand leave some."""

SURROGATES_INLINE_BYTES_MAX: Final = 256 * 1024
"""Larger CESU-8 is not plain: a megabyte of emoji costs a tenth of a second, which is owed to known keys only."""

_BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n"
_MALFORMED_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_SURROGATE = re.compile(rb"\xed[\xa0-\xbf]")
_NEXT_LINE = re.compile(rb"\}[ \t\r]*\n\s*\{")
_LINE = re.compile(rb"[^\r\n]+")
_TO_STANDARD_BASE64 = bytes.maketrans(b" -_", b"++/")


@dataclass(frozen=True, slots=True)
class Body:
    """A request's messages in order, objects where they are in order; `content` is the JSON that they stood in, and
    `is_batch` whether that was a list. `cleaned`: see `json_body`."""

    messages: list[Any]
    is_batch: bool
    cleaned: bool
    content: bytes


def read_body(request: Request, events_max: int) -> Body:
    """The messages of `request`. Raises BodyError, NotPlainError."""
    content = _content(request)
    if content.startswith(b"{"):
        by_line = b"ndjson" in request.headers.get("content-type", "").encode() or _NEXT_LINE.search(content)
        if by_line:
            return _read_lines(content, request, events_max)
    parsed = _parse(content, request, events_max)
    value = parsed.value
    if isinstance(value, list):
        if len(value) > events_max:
            raise too_many(len(value), events_max)
        return Body(value, True, parsed.cleaned, content)
    if not isinstance(value, dict | Unusable):
        raise BodyError("not_an_object", "the messages must be a JSON object or a list of them")
    return Body([_whole(value, content)], False, parsed.cleaned, content)


def form(body: bytes) -> Mapping[bytes, bytes]:
    """The fields of a form, as sent, the first of each name; nothing for a body that is JSON."""
    if body.removeprefix(_BOM).lstrip(_BLANK)[:1] in (b"", b"{", b"["):
        return {}
    fields: dict[bytes, bytes] = {}
    for field in body.split(b"&", FORM_FIELDS_MAX):
        name, _, value = field.partition(b"=")
        fields.setdefault(name.strip(_BLANK), value)
    return fields


def option(request: Request, name: str) -> str | None:
    """A short setting such as `verbose`, from the query or the form; None where neither has it."""
    found = request.query.get(name)
    if found is None:
        in_form = form(request.body).get(name.encode())
        if in_form is not None and len(in_form) <= OPTION_BYTES_MAX:
            found = unquote(in_form).decode("utf-8", "replace").strip()
    return found


def unquote(escaped: bytes) -> bytes:
    """`escaped` without its percent escapes; what is none stays.

    A form of megabytes is nearly all escapes, so this runs in C: as quoted-printable, whose mark is `=`. Raises
    BodyError for more than MALFORMED_ESCAPES_MAX that are none.
    """
    if b"%" not in escaped:
        return escaped
    escaped, malformed = _MALFORMED_ESCAPE.subn(b"%25", escaped, MALFORMED_ESCAPES_MAX + 1)
    if malformed > MALFORMED_ESCAPES_MAX:
        raise BodyError("malformed_form", f"the form has more than {MALFORMED_ESCAPES_MAX} malformed escapes")
    return binascii.a2b_qp(escaped.replace(b"=", b"=3D").replace(b"%", b"="))


def _content(request: Request) -> bytes:
    """The JSON that holds the messages, in UTF-8 as far as its sender could write it."""
    body = request.body.removeprefix(_BOM).strip(_BLANK) if request.method != "GET" else b""
    if body[:1] in (b"{", b"["):
        return body
    data = form(body).get(b"data")
    if data is None:
        in_query = request.query.get("data")
        if in_query is None:
            if body:
                raise BodyError("data_missing", 'the body must be JSON, or a form with the field "data"')
            raise BodyError("empty_body", "the request has neither a body nor the parameter data")
        content = _decoded(in_query.encode("utf-8", "surrogatepass"), request)
        # What is set aside is kept with its body where it cannot be written again, and this has none.
        if nests_deeper(content, DEPTH_MAX + LEVELS_AROUND):
            raise BodyError("too_deep", f"the parameter data nests deeper than {DEPTH_MAX} levels")
        return content
    return _decoded(unquote(data.replace(b"+", b" ")), request)


def _decoded(data: bytes, request: Request) -> bytes:
    """What a form's field or a parameter stands for: itself if it is JSON, else what its base64 says."""
    content = data.removeprefix(_BOM).strip(_BLANK)
    if not content:
        raise BodyError("empty_body", "the field data is empty")
    if content[:1] in (b"{", b"["):
        return content
    text = content.translate(_TO_STANDARD_BASE64, b"\r\n\t").rstrip(b"=")
    try:
        raw = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise BodyError("malformed_base64", f"the field data is neither JSON nor base64: {error}") from None
    return _joined_surrogates(raw.removeprefix(_BOM).strip(_BLANK), request)


def _joined_surrogates(raw: bytes, request: Request) -> bytes:
    """CESU-8 as UTF-8; unpaired surrogates and other bytes that are no text stay as they are."""
    if not _SURROGATE.search(raw):
        return raw
    if len(raw) > SURROGATES_INLINE_BYTES_MAX:
        if not request.lenient:
            raise NotPlainError(raw)
        _check_lenient(request)
    try:
        halves = raw.decode("utf-8", "surrogatepass").encode("utf-16-le", "surrogatepass")
    except UnicodeDecodeError:
        return raw
    return halves.decode("utf-16-le", "surrogatepass").encode("utf-8", "surrogatepass")


def _parse(content: bytes, request: Request, events_max: int) -> Parsed:
    """`json_body.parse`; content within a larger body is refused by that body's size, which memory is held for."""
    try:
        return parse(content, events_max, lenient=False)
    except NotPlainError:
        if not request.lenient:
            raise
    _check_lenient(request)
    return parse(content, events_max)


def _check_lenient(request: Request) -> None:
    if len(request.body) > LENIENT_BYTES_MAX:
        raise BodyError(
            "body_too_large",
            f"the messages are not plain JSON, and of such bodies at most {LENIENT_BYTES_MAX} bytes are taken apart",
            status=413,
        )


def _read_lines(content: bytes, request: Request, events_max: int) -> Body:
    """One object a line. A line that is none is that message's fault alone."""
    messages: list[Any] = []
    cleaned = False
    for number, match in enumerate(_LINE.finditer(content), 1):
        if number > events_max:
            raise too_many(content.count(b"\n") + 1, events_max)
        line = match[0].strip(_BLANK)
        if not line:
            continue
        try:
            parsed = parse(line, events_max, lenient=False)
        except NotPlainError:
            if not request.lenient:
                raise NotPlainError(content) from None  # keys are looked for in all of it
            _check_lenient(request)
            try:
                parsed = parse(line, events_max)
            except BodyError as error:
                parsed = Parsed(Unusable(error.reason, error.message, line), False)
        cleaned = cleaned or parsed.cleaned
        messages.append(_whole(parsed.value, line))
    return Body(messages, True, cleaned, content)


def _whole(message: Any, raw: bytes) -> Any:
    """`message`, or what is wrong with an element of one of its lists: it is taken as a whole or not at all."""
    if isinstance(message, dict):
        for value in message.values():
            for element in value if isinstance(value, list) else ():
                if isinstance(element, Unusable):
                    return Unusable(element.reason, element.message, raw)
    return message
