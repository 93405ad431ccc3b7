"""Events survive the wire, agree with fastavro's reading, and a bad record never takes a good one with it."""

import io
from typing import Any

import fastavro
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import decode_events, encode_events, event_arrow
from schemas.registry import EVENT_ID, prefix, schema

AVRO = fastavro.parse_schema(schema(EVENT_ID).parsed)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.string(): TEXT,
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
}


def events() -> st.SearchStrategy[list[dict[str, Any]]]:
    fields = {f.name: VALUES[f.type] if not f.nullable else st.none() | VALUES[f.type] for f in event_arrow()}
    return st.lists(st.fixed_dictionaries(fields), min_size=1, max_size=12)


def by_fastavro(event: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, AVRO, event)
    return prefix(EVENT_ID) + stream.getvalue()


@settings(max_examples=150, deadline=None)
@given(events())
def test_round_trip_and_equal_bytes_to_fastavro(rows: list[dict[str, Any]]) -> None:
    batch = pa.RecordBatch.from_pylist(rows, schema=event_arrow())
    records = encode_events(batch)
    assert records == [by_fastavro(row) for row in rows]
    decoded = decode_events(records)
    assert decoded.poison == []
    assert decoded.events.equals(batch)
    assert decoded.index.tolist() == list(range(len(rows)))


@settings(max_examples=150, deadline=None)
@given(events(), st.data())
def test_poison_is_named_and_leaves_the_others_whole(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    batch = pa.RecordBatch.from_pylist(rows, schema=event_arrow())
    records: list[bytes | None] = list(encode_events(batch))
    bad: dict[int, str] = {}
    for at in data.draw(st.sets(st.integers(0, len(rows) - 1))):
        record = records[at]
        assert record is not None
        how = data.draw(st.sampled_from(["none", "cut", "more", "schema", "magic"]))
        records[at], bad[at] = {
            "none": (None, "not_avro"),
            "cut": (record[:-1], "not_avro"),
            "more": (record + b"\x00", "trailing_bytes"),
            "schema": (b"\x00\x00\x00\x00\x63" + record[5:], "unknown_schema_id"),
            "magic": (b"\x07" + record, "not_avro"),
        }[how]
    decoded = decode_events(records)
    assert dict(decoded.poison) == bad
    good = [i for i in range(len(rows)) if i not in bad]
    assert decoded.index.tolist() == good
    assert decoded.events.to_pylist() == [batch.to_pylist()[i] for i in good]


def test_a_string_that_is_not_utf8_is_poison() -> None:
    row = {f.name: {pa.string(): "é", pa.int64(): 1, pa.int32(): 1}[f.type] for f in event_arrow()}
    record = encode_events(pa.RecordBatch.from_pylist([row], schema=event_arrow()))[0]
    decoded = decode_events([record, record.replace("é".encode(), b"\xff\xff", 1)])
    assert decoded.poison == [(1, "not_utf8")]
