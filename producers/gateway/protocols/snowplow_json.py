"""The JSON that stands as a text, plain or in base64, within Snowplow's events: `ue_pr`, `ue_px`, `co`, `cx`.

Guarantees: a tree as clean as `json_body` makes it, or `Unusable` with the whole event; what needs the slow way
raises NotPlainError, so that the receiver decides over it as over any body.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from producers.gateway.json_body import LENIENT_BYTES_MAX, BodyError, NotPlainError, Unusable, parse
from producers.gateway.protocols.decoder import Request

_ENCODE = msgspec.json.Encoder().encode
_REASONS: Final = frozenset(("malformed_json", "not_an_object", "too_deep", "non_finite_number"))
_TO_STANDARD: Final = bytes.maketrans(b"-_ ", b"+/+")
"""Base64url, or what is left of base64 after a query was decoded, as base64."""


class InnerJson:
    """Reads such texts for one request. `key_hint`: JSON that names the request's write key, see NotPlainError.

    `cleaned`: whether any text had to be replaced so far.
    """

    def __init__(self, request: Request, key_hint: bytes, elements_max: int) -> None:
        self.request = request
        self.cleaned = False
        self._key_hint = key_hint
        self._elements_max = elements_max
        # Taking apart costs by the byte; beyond this the body itself would not be taken apart either.
        self._lenient = request.lenient and len(request.body) <= LENIENT_BYTES_MAX

    def of(self, message: Mapping[str, Any], plain: str, encoded: str) -> Mapping[str, Any] | Unusable | None:
        """The object in `message`'s field `plain`, or else in base64 in `encoded`; None if it has neither."""
        text = message.get(plain)
        if text:
            raw = text.encode() if isinstance(text, str) else None
        else:
            text = message.get(encoded)
            if not text:
                return None
            raw = from_base64(text) if isinstance(text, str) else None
        if raw is None:
            name = plain if message.get(plain) else encoded
            return Unusable("malformed_json", f"{name} is not a text with JSON in it", _ENCODE(message))
        return self._parse(raw, message)

    def _parse(self, raw: bytes, message: Mapping[str, Any]) -> Mapping[str, Any] | Unusable:
        try:
            parsed = parse(raw, self._elements_max, lenient=self._lenient)
        except NotPlainError:
            if not self.request.lenient:
                raise NotPlainError(self._key_hint) from None
            text = "is not plain JSON, and in a body of this size it is not taken apart"
            return Unusable("malformed_json", text, _ENCODE(message))
        except BodyError as error:
            reason = error.reason if error.reason in _REASONS else "malformed_json"
            return Unusable(reason, error.message, _ENCODE(message))
        self.cleaned = self.cleaned or parsed.cleaned
        value = parsed.value
        faulty = _unusable_part(value)
        if faulty is not None:
            return Unusable(faulty.reason, faulty.message, _ENCODE(message))
        if not isinstance(value, dict):
            return Unusable("not_an_object", "a self-describing JSON must be an object", _ENCODE(message))
        return value


def from_base64(text: str) -> bytes | None:
    """The bytes of base64 or base64url, padded or not; None if it is neither."""
    try:
        ascii_ = text.rstrip("=").encode("ascii").translate(_TO_STANDARD)
        return base64.b64decode(ascii_ + b"=" * (-len(ascii_) % 4), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        return None


def _unusable_part(value: Any) -> Unusable | None:
    """What `parse` set aside of a body, be it all of it or an element of a list."""
    if isinstance(value, Unusable):
        return value
    if isinstance(value, dict):
        for item in value.values():
            if isinstance(item, list):
                for element in item:
                    if isinstance(element, Unusable):
                        return element
    return None
