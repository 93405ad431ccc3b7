"""Rows of a file into event columns, by a mapping: pure, given the time of receipt.

Every row either becomes one event or is refused with a reason; none disappears. An event's message id is the
file's hash and the row's number, so that two equal rows are two events and the same row is always the same one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from producers.importer.derive import bound, derive
from producers.importer.mapping import EventRule, FieldRule, Mapping, NameRule
from producers.importer.numbers import product_e6
from producers.importer.properties import encode_properties
from producers.importer.rows import Refused, Rows
from producers.importer.times import parse_times
from schemas.codec import event_arrow
from schemas.event import TIMESTAMP_US_MAX, TIMESTAMP_US_MIN

Ints = npt.NDArray[np.int64]

PROTOCOL = "import"
FILE_HASH_CHARS = 32  # 128 bits of the file's SHA-256 in each message id
DAY_US = 86_400_000_000
DIMENSIONS = (
    "path", "referrer_domain", "utm_source", "utm_medium", "utm_campaign", "country", "browser", "os", "device",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """One file's import: for whom, by which mapping, its SHA-256, and by how many days its times are shifted."""

    customer_id: int
    mapping: Mapping
    file_sha256: str
    shift_days: int = 0
    event_bytes_max: int = 256 * 1024

    @property
    def reading(self) -> str:
        """What decides which events the file's rows become; an import that is taken up again must have the same."""
        shifted = f" shifted by {self.shift_days} days" if self.shift_days else ""
        return self.mapping.sha256 + shifted


@dataclass(frozen=True, slots=True)
class Mapped:
    """Events (`schemas.codec.event_arrow`) in the order of their rows, and the rows that became none."""

    events: pa.RecordBatch
    refused: list[Refused]


def map_rows(rows: Rows, plan: Plan, received_at_us: int) -> Mapped:
    """Apply the plan's mapping to a piece of its file."""
    count, mapping = len(rows.numbers), plan.mapping
    reasons: dict[int, str] = {}
    original = parse_times(rows.text[mapping.time.column], mapping.time)
    timestamp = pc.add(original, plan.shift_days * DAY_US) if plan.shift_days else original
    value, bad_values = _value(rows, mapping)
    name = _event_name(rows, mapping.event)
    properties = rows.json[mapping.properties_from] if mapping.properties_from else None
    # The first fault of a row is the one that is told, so later ones go in first.
    reasons |= dict(bad_values)
    _note(reasons, pc.is_null(name), "name_missing")
    if properties is not None:
        _note(reasons, pc.invert(pc.fill_null(pc.starts_with(properties, "{"), True)), "properties_not_an_object")
        properties = pc.fill_null(properties, "{}")
    else:
        properties = encode_properties(rows, mapping.property_rules())
    in_range = pc.and_(pc.greater_equal(timestamp, TIMESTAMP_US_MIN), pc.less(timestamp, TIMESTAMP_US_MAX))
    _note(reasons, pc.invert(pc.fill_null(in_range, True)), "timestamp_out_of_range")
    _note(reasons, pc.is_null(original), "time_unreadable")
    columns = {
        "customer_id": pa.repeat(pa.scalar(plan.customer_id, pa.int64()), count),
        "message_id": message_ids(plan.file_sha256, rows.numbers),
        "type": pa.repeat(pa.scalar(mapping.event.type), count),
        "name": name,
        "timestamp_us": timestamp,
        "received_at_us": pa.repeat(pa.scalar(received_at_us, pa.int64()), count),
        "original_timestamp_us": original,
        "value_e6": value,
        "properties": properties,
        "context": pa.repeat(pa.scalar("{}"), count),
        "protocol": pa.repeat(pa.scalar(PROTOCOL), count),
        "library": pa.repeat(pa.scalar(mapping.library), count),
        "attempt": pa.repeat(pa.scalar(0, pa.int32()), count),
    } | _fields(rows, mapping)
    for row in np.flatnonzero(_text_bytes(columns, count) > plan.event_bytes_max):
        reasons[int(row)] = "event_too_large"
    refused = rows.refused + [Refused(int(rows.numbers[i]), rows.raw(i), reason) for i, reason in reasons.items()]
    keep = np.ones(count, dtype=np.bool_)
    keep[list(reasons)] = False
    return Mapped(_batch(columns, keep), sorted(refused, key=lambda item: item.number))


def message_ids(file_sha256: str, numbers: Ints) -> pa.Array:
    """`<first 32 digits of the file's hash>:<row>` for each row."""
    texts = pa.array(numbers).cast(pa.string())
    return pc.binary_join_element_wise(pa.scalar(file_sha256[:FILE_HASH_CHARS]), texts, ":")


def split(rows: Rows, rows_max: int) -> Iterator[Rows]:
    """`rows` in pieces of at most `rows_max`; what the format refused stays with the piece it lies in."""
    count = len(rows.numbers)
    if count <= rows_max:
        yield rows
        return
    for start in range(0, count, rows_max):
        stop = min(start + rows_max, count)
        first = int(rows.numbers[start]) if start else 0
        end = int(rows.numbers[stop]) if stop < count else rows.next_number
        yield Rows(
            rows.numbers[start:stop],
            {name: column.slice(start, stop - start) for name, column in rows.text.items()},
            {name: column.slice(start, stop - start) for name, column in rows.json.items()},
            partial(_raw_from, rows, start),
            [item for item in rows.refused if first <= item.number < end],
            end,
            rows.columns,
        )


def drop_before(rows: Rows, number: int) -> Rows:
    """`rows` without those numbered below `number`."""
    start = int(np.searchsorted(rows.numbers, number))
    refused = [item for item in rows.refused if item.number >= number]
    if start == 0 and len(refused) == len(rows.refused):
        return rows
    return Rows(
        rows.numbers[start:],
        {name: column.slice(start) for name, column in rows.text.items()},
        {name: column.slice(start) for name, column in rows.json.items()},
        partial(_raw_from, rows, start),
        refused,
        rows.next_number,
        rows.columns,
    )


def _raw_from(rows: Rows, start: int, row: int) -> bytes:
    return rows.raw(start + row)


def _fields(rows: Rows, mapping: Mapping) -> dict[str, pa.Array]:
    out = {}
    rules = mapping.field_rules()
    for field, rule in rules.items():
        if rule.constant is not None:
            out[field] = pa.repeat(pa.scalar(rule.constant), len(rows.numbers))
            continue
        assert rule.column is not None, "checked when the mapping was parsed"
        derived = derive(rows.text[rule.column], rule.as_)
        if field == "referrer_domain" and rule.as_ == "url_domain":
            derived = _of_others(derived, rows, rules.get("path"), rule.column)
        out[field] = bound(derived) if field in DIMENSIONS else _without_nul(derived)
    return out


def _of_others(referrers: pa.Array, rows: Rows, path: FieldRule | None, column: str) -> pa.Array:
    """The hosts without those that are the row's own page's, which the gateway leaves out as well."""
    if path is None or path.column is None or path.as_ != "url_path" or path.column == column:
        return referrers
    own = pc.equal(referrers, derive(rows.text[path.column], "url_domain"))
    return pc.if_else(pc.fill_null(own, False), pa.scalar(None, pa.string()), referrers)


def _value(rows: Rows, mapping: Mapping) -> tuple[pa.Array, list[tuple[int, str]]]:
    count = len(rows.numbers)
    if mapping.value is None:
        return pa.nulls(count, pa.int64()), []
    factors = [
        rows.text[factor] if factor in rows.text else pa.repeat(pa.scalar(factor), count)
        for factor in mapping.value.factors()
    ]
    return product_e6(factors)


def _event_name(rows: Rows, rule: EventRule) -> pa.Array:
    count = len(rows.numbers)
    name = rows.text[rule.column] if rule.column else pa.repeat(pa.scalar(rule.name), count)
    for test in reversed(rule.rules):
        name = pc.if_else(_holds(rows.text[test.column], test), pa.scalar(test.name), name)
    return bound(name)


def _holds(text: pa.Array, rule: NameRule) -> pa.Array:
    if rule.equals is not None:
        result = pc.equal(text, rule.equals)
    elif rule.starts_with is not None:
        result = pc.starts_with(text, rule.starts_with)
    else:
        result = pc.match_substring_regex(text, rule.matches)
    return pc.fill_null(result, False)


def _text_bytes(columns: dict[str, pa.Array], count: int) -> Ints:
    """Bytes of each row's text."""
    total = np.zeros(count, dtype=np.int64)
    for column in columns.values():
        if pa.types.is_string(column.type):
            total += pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False)
    return total


def _without_nul(text: pa.Array) -> pa.Array:
    """U+0000 becomes U+FFFD: Postgres cannot hold it."""
    series = pl.Series(pl.from_arrow(text))
    if not series.str.contains("\x00", literal=True).any():
        return text
    return series.str.replace_all("\x00", "\ufffd", literal=True).to_arrow().cast(pa.string())


def _note(reasons: dict[int, str], faulty: pa.Array, reason: str) -> None:
    for row in np.flatnonzero(faulty.to_numpy(zero_copy_only=False)):
        reasons[int(row)] = reason


def _batch(columns: dict[str, pa.Array], keep: npt.NDArray[np.bool_]) -> pa.RecordBatch:
    schema, count = event_arrow(), len(keep)
    kept = None if keep.all() else pa.array(keep)
    arrays = []
    for item in schema:
        column = columns[item.name] if item.name in columns else pa.nulls(count, item.type)
        arrays.append(column if kept is None else column.filter(kept))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
