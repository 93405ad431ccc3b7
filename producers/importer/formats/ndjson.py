"""NDJSON: one JSON object a line. Nested values are reached by dots (`context.page.path`).

Numbers keep the digits they were written with. Refused are numbers beyond a double, nesting beyond DEPTH_MAX and
objects of more than KEYS_MAX keys; U+0000 becomes U+FFFD.
"""

import math
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from producers.importer.rows import Content, Lines, Refused, Rows, Wanted, read_lines

DEPTH_MAX = 64  # the same bounds as the gateway's, which are settings there since its senders are not ours
KEYS_MAX = 1000


class NDJSON:
    """One object a line."""

    def read(self, file: Content, wanted: Wanted) -> Iterator[Rows]:
        """See Format.read."""
        decoder = msgspec.json.Decoder(float_hook=_finite)
        encoder = msgspec.json.Encoder(decimal_format="number")
        for block in read_lines(file):
            yield _rows(block, wanted, decoder, encoder)


def _rows(block: Lines, wanted: Wanted, decoder: Any, encoder: Any) -> Rows:
    refused = [Refused(number, line, "line_too_long") for number, line in block.too_long]
    numbers, objects, lines = [], [], []
    for number, line in enumerate(block.lines, block.first):
        if not line or line.isspace():
            continue
        try:
            value = decoder.decode(line)
        except (msgspec.DecodeError, RecursionError, ArithmeticError):
            refused.append(Refused(number, line, "not_json"))
            continue
        if not isinstance(value, dict):
            refused.append(Refused(number, line, "not_an_object"))
            continue
        fault = _fault(value, line)
        if fault:
            refused.append(Refused(number, line, fault))
            continue
        if b"\\u0000" in line:  # recursive, so only on what the depth check let through
            value = _without_nul(value)
        numbers.append(number)
        objects.append(value)
        lines.append(line)
    text = {path: pa.array([_text(_at(o, path), encoder) for o in objects], pa.string()) for path in wanted.text}
    json = {path: pa.array([_json(_at(o, path), encoder) for o in objects], pa.string()) for path in wanted.json}
    next_number = block.first + len(block.lines)
    return Rows(
        np.array(numbers, dtype=np.int64), text, json, lines.__getitem__, refused, next_number, sorted(wanted.text)
    )


def _finite(text: str) -> Decimal:
    """A number with its digits. Raises ValueError, which the decoder reports, when a double cannot hold it."""
    if math.isinf(float(text)):
        raise ValueError(f"{text} is not finite")
    return Decimal(text)


def _fault(value: Any, line: bytes) -> str | None:
    """Which bound an object breaks; the line's bytes tell cheaply that most break none."""
    if line.count(b"{") + line.count(b"[") > DEPTH_MAX and _depth(value) > DEPTH_MAX:
        return "too_deep"
    if line.count(b":") > KEYS_MAX and _keys(value) > KEYS_MAX:
        return "too_many_properties"
    return None


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level:
        depth += 1
        level = [child for item in level for child in _children(item) if isinstance(child, dict | list)]
    return depth


def _keys(value: Any) -> int:
    return (len(value) if isinstance(value, dict) else 0) + sum(_keys(child) for child in _children(value))


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd")
    if isinstance(value, dict):
        return {_without_nul(key): _without_nul(child) for key, child in value.items()}
    return [_without_nul(child) for child in value] if isinstance(value, list) else value


def _at(value: Any, path: str) -> Any:
    """The value at a dotted path; a key that itself holds the whole path wins. None where there is none."""
    if path in value:
        return value[path]
    for key in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def _text(value: Any, encoder: Any) -> str | None:
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else encoder.encode(value).decode()


def _json(value: Any, encoder: Any) -> str | None:
    return None if value is None else encoder.encode(value).decode()
