"""JSON bodies as SDKs send them: parsed fast when they are fine, and element by element when they are not.

Guarantees: keys that come twice keep their last value; the tree holds no unpaired surrogate, no U+0000 (each
became U+FFFD) and no number that is not finite; an element of the body's event list that cannot be had so becomes
`Unusable` and spares its neighbours. Depth that the parser bears is judged later, with the event, by `normalise`.
Refuses, with BodyError, only what has no recognisable structure at all.
"""

import itertools
import json
import re
import secrets
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import msgspec
import numpy as np
import numpy.typing as npt

from headrace.errors import PoisonError

DEPTH_MAX: Final = 64
"""Nesting beyond this is refused by name; the event itself is level 1."""

LEVELS_AROUND: Final = 2
"""What a batch puts around an event: an object and a list."""

LENIENT_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of a body that is taken apart; it costs up to a second of one core a MiB, SDKs' batches stay under half a MiB."""

KEY_BYTES_MIN: Final = 4
"""What a key takes at the least, with its value: `"":0`."""

LISTS_MAX: Final = 256
"""Lists among the values of such a body's object; one is the batch, and each costs a search."""

MENTIONED_KEYS_MAX: Final = 4
"""Write keys that are looked for in a body before it is taken apart."""

_DECODE = msgspec.json.Decoder().decode
_QUOTE, _COMMA, _COLON = ord('"'), ord(","), ord(":")
_OPEN_OBJECT, _CLOSE_OBJECT, _OPEN_ARRAY, _CLOSE_ARRAY = ord("{"), ord("}"), ord("["), ord("]")
_UNFIT = re.compile("[\x00\ud800-\udfff]")
_WRITE_KEY = re.compile(rb'"(?:writeKey|api_key|\$?token|aid)"\s*:\s*"([^"\\\x00-\x1f\x80-\xff]{1,512})"')
_BOM = b"\xef\xbb\xbf"


class BodyError(PoisonError):
    """A request body of which nothing can be used. `status` is what the client gets, `start` the beginning of a body
    that was refused before it was whole, as far as it was read."""

    def __init__(self, reason: str, message: str, *, status: int = 400, start: bytes = b"") -> None:
        super().__init__(reason, message)
        self.status = status
        self.start = start


class NotPlainError(Exception):
    """JSON that only the slow, lenient way can make something of. `body` is its bytes."""

    def __init__(self, body: bytes) -> None:
        super().__init__("not plain JSON")
        self.body = body


@dataclass(frozen=True, slots=True)
class Unusable:
    """An event that can never be accepted: the stable name of the reason, a sentence, and the bytes as received."""

    reason: str
    message: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Parsed:
    """A body's tree, and whether text in it had to be replaced. `value` is `Unusable` when all of it is."""

    value: Any
    cleaned: bool


def parse(body: bytes, elements_max: int, *, lenient: bool = True) -> Parsed:
    """Parse `body`; an event list longer than `elements_max` is refused before any work on its elements.

    The event list is what stands in an array that is the body, or that is a value of the body's object.
    Raises BodyError; NotPlainError for a body that needs the slow way when that is not allowed.
    """
    try:
        value = _DECODE(body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        if not lenient:
            raise NotPlainError(body) from None
        return _parse_leniently(body.removeprefix(_BOM), elements_max)
    if b"\\u0000" in body:  # an escaped backslash before u0000 costs a needless walk, nothing else
        if not lenient:
            raise NotPlainError(body)
        if nests_deeper(body, DEPTH_MAX + LEVELS_AROUND):
            return _parse_leniently(body, elements_max)
        return Parsed(clean(value), True)
    return Parsed(value, False)


def mentioned_keys(body: bytes) -> list[str]:
    """What may be the body's write key, told without parsing it: to judge whether parsing it leniently is owed."""
    found = itertools.islice(_WRITE_KEY.finditer(body), MENTIONED_KEYS_MAX)
    return list(dict.fromkeys(match[1].decode() for match in found))


def clean(value: Any) -> Any:
    """`value` with U+0000 and unpaired surrogates in texts and keys replaced. Its depth must be bounded."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {clean_text(key): clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [clean(item) for item in value]
    return value


def clean_text(text: str) -> str:
    """`text` with U+0000 and unpaired surrogates replaced by U+FFFD; surrogates that pair become their character."""
    if not _UNFIT.search(text):
        return text
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return joined.replace("\x00", "\ufffd")


def nests_deeper(encoded: bytes, levels: int) -> bool:
    """Whether the JSON in `encoded` nests deeper than `levels`."""
    if encoded.count(b"{") + encoded.count(b"[") <= levels:  # for nearly all events the end of it
        return False
    return int(_Structure(encoded).depth.max(initial=0)) > levels


def key_count(encoded: bytes, enough: int) -> int:
    """How many keys the valid JSON in `encoded` has, on all levels; exact when it is more than `enough`."""
    colons = encoded.count(b":")
    if colons <= enough:
        return colons
    structure = _Structure(encoded)
    return int(np.count_nonzero((structure.codes == _COLON) & structure.outside))


class _Structure:
    """Where a JSON text has its brackets, found for all bytes at once.

    `codes`: the bytes, escapes blanked. `outside`: not within a string. `depth`: brackets open after each byte.
    """

    def __init__(self, body: bytes) -> None:
        blanked = body.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        codes = np.frombuffer(blanked, np.uint8)
        self.codes = codes
        self.outside: npt.NDArray[np.bool_] = np.cumsum(codes == _QUOTE, dtype=np.int32) % 2 == 0
        opens = ((codes == _OPEN_OBJECT) | (codes == _OPEN_ARRAY)) & self.outside
        closes = ((codes == _CLOSE_OBJECT) | (codes == _CLOSE_ARRAY)) & self.outside
        steps = opens.astype(np.int8) - closes.astype(np.int8)
        self.depth: npt.NDArray[np.int32] = np.cumsum(steps, dtype=np.int32)

    def is_balanced(self) -> bool:
        return bool(len(self.codes) and self.outside[-1] and self.depth[-1] == 0 and self.depth.min() >= 0)

    def elements(self, level: int, elements_max: int) -> list[tuple[int, int]]:
        """Start and end of what stands between brackets and commas of arrays on `level`, in order. Raises BodyError
        for more arrays than LISTS_MAX or more elements than `elements_max` in all."""
        at_level = self.depth == level
        starts = np.flatnonzero((self.codes == _OPEN_ARRAY) & at_level & self.outside)
        if len(starts) > LISTS_MAX:
            raise BodyError("malformed_json", f"the body is not plain JSON and has more than {LISTS_MAX} lists")
        cuts = (self.codes == _COMMA) & at_level & self.outside
        ends = np.flatnonzero((self.codes == _CLOSE_ARRAY) & (self.depth == level - 1) & self.outside)
        found: list[tuple[int, int]] = []
        for start in starts.tolist():
            end = int(ends[np.searchsorted(ends, start)]) if len(ends) and ends[-1] > start else start + 1
            commas = (np.flatnonzero(cuts[start:end]) + start).tolist()
            edges = [start, *commas, end]
            if len(found) + len(edges) - 1 > elements_max:
                raise too_many(len(found) + len(edges) - 1, elements_max)
            found += [(left + 1, right) for left, right in itertools.pairwise(edges)]
        return found


def _parse_leniently(body: bytes, elements_max: int) -> Parsed:
    """Take the event list's elements out, parse what is left, then parse each element on its own."""
    if len(body) > LENIENT_BYTES_MAX:
        raise BodyError(
            "body_too_large",
            f"the body is not plain JSON, and of such bodies at most {LENIENT_BYTES_MAX} bytes are taken apart",
            status=413,
        )
    structure = _Structure(body)
    head = body.lstrip()[:1]
    if not structure.is_balanced() or head not in (b"{", b"["):
        raise _malformed(body)
    objects = [
        (start, end)
        for start, end in structure.elements(2 if head == b"{" else 1, elements_max)
        if body[start:end].lstrip()[:1] == b"{"
    ]
    mark = secrets.token_hex(8)
    pieces, at = [], 0
    for index, (start, end) in enumerate(objects):
        pieces += [body[at:start], b'"%s%d"' % (mark.encode(), index)]
        at = end
    skeleton = b"".join([*pieces, body[at:]])
    parsed = _parse_one(skeleton)
    if isinstance(parsed.value, Unusable):
        if parsed.value.reason == "malformed_json" or objects:
            raise BodyError(parsed.value.reason, parsed.value.message)
        return Parsed(Unusable(parsed.value.reason, parsed.value.message, body), False)
    elements = [_parse_one(body[start:end].strip()) for start, end in objects]
    cleaned = parsed.cleaned or any(item.cleaned for item in elements)
    return Parsed(_put_back(parsed.value, mark, [item.value for item in elements]), cleaned)


def _put_back(skeleton: Any, mark: str, elements: list[Any]) -> Any:
    """`skeleton` with the marks in its event lists replaced by what they stand for."""

    def filled(items: list[Any]) -> list[Any]:
        return [
            elements[int(item[len(mark) :])] if isinstance(item, str) and item.startswith(mark) else item
            for item in items
        ]

    if isinstance(skeleton, list):
        return filled(skeleton)
    if isinstance(skeleton, dict):
        return {key: filled(item) if isinstance(item, list) else item for key, item in skeleton.items()}
    return skeleton


def _parse_one(raw: bytes) -> Parsed:
    """Parse one event, or name what is wrong with it."""
    if nests_deeper(raw, DEPTH_MAX):
        return Parsed(Unusable("too_deep", f"nests deeper than {DEPTH_MAX} levels", raw), False)
    text, replaced = _text(raw)
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except _NonFiniteError as error:
        return Parsed(Unusable("non_finite_number", f"{error} is not a finite number", raw), False)
    except (ValueError, RecursionError) as error:
        return Parsed(Unusable("malformed_json", f"is not valid JSON: {_short(error)}", raw), False)
    tidy = clean(value)
    return Parsed(tidy, replaced or tidy != value)


def _text(raw: bytes) -> tuple[str, bool]:
    """`raw` as text, and whether bytes had to be replaced. UTF-8, or CESU-8's surrogate pairs in it."""
    try:
        return raw.decode(), False
    except UnicodeDecodeError:
        pass
    try:
        return raw.decode("utf-8", "surrogatepass"), True
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace"), True


class _NonFiniteError(Exception):
    """NaN, Infinity or a number beyond a double's range."""


def _refuse_constant(name: str) -> NoReturn:
    raise _NonFiniteError(name)


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise _NonFiniteError(text[:20])
    return number


def _malformed(body: bytes) -> BodyError:
    """Say where a body without structure stops being JSON."""
    if not body.strip():
        return BodyError("empty_body", "the request has no body")
    try:
        json.loads(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        return BodyError("malformed_json", f"the body is not valid JSON: {_short(error)}")
    return BodyError("not_an_object", "the body is JSON, but neither an object nor a list of them")


def too_many(count: int, most: int) -> BodyError:
    """The refusal of a request with more than `most` events."""
    return BodyError("too_many_events", f"{count} events in one request, at most {most} are taken", status=413)


def _short(error: BaseException) -> str:
    return str(error)[:200] or type(error).__name__
