"""Where a PostHog request carries its JSON: as the body, as a form's `data`, in the query, or any of them in base64.

Pure and bounded. Current SDKs send JSON (gzip is undone before a protocol sees it); posthog-js sends a beacon as the
form `data=<base64>`; old snippets send a GET with `?data=`. Nothing is judged by its Content-Type. LZ-string, which
posthog-js stopped using in 2021, is refused by name.
"""

import base64
import binascii
import re
import zlib
from typing import Final
from urllib.parse import unquote_to_bytes

from producers.gateway.json_body import BodyError
from producers.gateway.protocols.decoder import Request

FORM_BYTES_MAX: Final = 1024 * 1024
"""Of a form or of a body in base64: a browser's beacon has at most 64 KiB, and undoing escapes costs memory."""
INNER_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of what is inflated from within base64."""

_JSON_HEADS: Final = (b"{", b"[")
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_=\-\s]+")
_LZ_STRING: Final = ("lz64", "lz-string")


def payload(request: Request) -> bytes:
    """The JSON of a request, not yet parsed. Raises BodyError for an encoding that cannot be undone."""
    body = request.body
    if body.lstrip()[:1] in _JSON_HEADS:
        return body
    if request.query.get("compression") in _LZ_STRING:
        raise BodyError("unknown_encoding", "LZ-string compression is not understood, gzip is", status=415)
    if not body:
        return _plain(request.query.get("data", "").encode(errors="replace"))
    data = _form_data(body)
    if data is not None:
        return _plain(data)
    if len(body) <= FORM_BYTES_MAX and _BASE64.fullmatch(body):
        decoded = _base64(body)
        if decoded is not None and (decoded.startswith(_GZIP_MAGIC) or decoded.lstrip()[:1] in _JSON_HEADS):
            return _inflated(decoded)
    return body


def _form_data(body: bytes) -> bytes | None:
    """The value of a form's field `data`, None if it is no form with one."""
    if body.startswith(b"data="):
        start = len(b"data=")
    else:
        start = body.find(b"&data=") + len(b"&data=")
        if start < len(b"&data="):
            return None
    if len(body) > FORM_BYTES_MAX:
        raise BodyError("body_too_large", f"a form has at most {FORM_BYTES_MAX} bytes", status=413)
    end = body.find(b"&", start)
    return unquote_to_bytes(body[start : end if end >= 0 else len(body)].replace(b"+", b" "))


def _plain(data: bytes) -> bytes:
    """What stands in a field `data`: JSON, or JSON in base64, or gzip of it in base64."""
    if not data or data.lstrip()[:1] in _JSON_HEADS:
        return data
    decoded = _base64(data)
    if decoded is None:
        raise BodyError("malformed_encoding", "the field data is neither JSON nor base64")
    return _inflated(decoded)


def _base64(data: bytes) -> bytes | None:
    """Base64 undone, of either alphabet; a `+` may have become a space, and the padding may be missing."""
    compact = data.strip(b"\r\n\t").replace(b" ", b"+").replace(b"-", b"+").replace(b"_", b"/").rstrip(b"=")
    try:
        return base64.b64decode(compact + b"=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _inflated(data: bytes) -> bytes:
    """`data`, inflated if it is gzip."""
    if not data.startswith(_GZIP_MAGIC):
        return data
    inflater = zlib.decompressobj(_GZIP_WINDOW)
    try:
        inflated = inflater.decompress(data, INNER_BYTES_MAX + 1)
    except zlib.error as error:
        raise BodyError("malformed_encoding", f"the data cannot be decompressed: {error}") from error
    if len(inflated) > INNER_BYTES_MAX:
        raise BodyError("body_too_large", f"the data inflates to more than {INNER_BYTES_MAX} bytes", status=413)
    if not inflater.eof:
        raise BodyError("malformed_encoding", "the data cannot be decompressed: it ends early")
    return inflated
