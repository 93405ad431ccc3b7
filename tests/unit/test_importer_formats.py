"""File formats: every row is numbered, read or refused with a reason, wherever blocks end."""

import gzip
import io
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from headrace.errors import UsageError
from producers.importer import rows as rows_module
from producers.importer.formats import delimited
from producers.importer.formats.access_log import AccessLog
from producers.importer.formats.delimited import Delimited
from producers.importer.formats.ndjson import DEPTH_MAX, NDJSON
from producers.importer.importer import CountingFile
from producers.importer.rows import Format, Rows, Wanted


def read(reader: Format, raw: bytes, *text: str, json: Sequence[str] = ()) -> list[Rows]:
    return list(reader.read(io.BytesIO(raw), Wanted(frozenset(text), frozenset(json))))


def column(pieces: list[Rows], name: str) -> list[str | None]:
    return [value for piece in pieces for value in piece.text[name].to_pylist()]


def numbers(pieces: list[Rows]) -> list[int]:
    return [int(number) for piece in pieces for number in piece.numbers]


def refused(pieces: list[Rows]) -> list[tuple[int, str]]:
    return [(item.number, item.reason) for piece in pieces for item in piece.refused]


@pytest.fixture(params=[24, 64, 4096])
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Read blocks so small that every file here has several."""
    size: int = request.param
    monkeypatch.setattr(delimited, "BLOCK_BYTES", size)
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", size)
    return size


def test_csv_numbers_rows_as_an_editor_does(small_blocks: int) -> None:
    raw = b"a,b\n1,2\nonly\n\n5,6,7\n6,x\n\n"
    pieces = read(Delimited(), raw, "a", "b")
    assert numbers(pieces) == [2, 6]
    assert column(pieces, "a") == ["1", "6"]
    assert refused(pieces) == [(3, "wrong_column_count"), (5, "wrong_column_count")]
    assert pieces[-1].next_number == 8
    assert [item.raw for piece in pieces for item in piece.refused] == [b"only", b"5,6,7"]


def test_csv_refuses_rows_at_the_very_end(small_blocks: int) -> None:
    raw = b"a,b\n" + b"".join(b"%d,y\n" % i for i in range(40)) + b"x\nx\n"
    pieces = read(Delimited(), raw, "a")
    assert numbers(pieces) == list(range(2, 42))
    assert refused(pieces) == [(42, "wrong_column_count"), (43, "wrong_column_count")]
    assert pieces[-1].next_number == 44


def test_csv_refuses_a_row_that_is_not_utf8_alone() -> None:
    pieces = read(Delimited(), b"a,b\n1,\xff\n2,\xc3\xa9\n", "a", "b")
    assert column(pieces, "b") == ["é"]
    assert refused(pieces) == [(2, "not_utf8")]
    assert pieces[0].refused[0].raw == b"1,\xff"


def test_csv_in_latin_1_and_with_a_mark() -> None:
    assert column(read(Delimited(encoding="latin-1"), b"a\n\xe9\n", "a"), "a") == ["é"]
    assert column(read(Delimited(";"), b"\xef\xbb\xbfa;b\r\n1;2\r\n", "a"), "a") == ["1"]


def test_csv_quoted_fields_span_lines_and_blocks() -> None:
    raw = b'a,b\n"x\ny ""q""",1\nz,2\n'
    pieces = read(Delimited(), raw, "a", "b")
    assert column(pieces, "a") == ['x\ny "q"', "z"]
    assert numbers(pieces) == [2, 3]
    assert pieces[0].raw(0) == b'"x\ny ""q""",1'


@pytest.mark.parametrize("raw", [b"", b"a,a\n1,2\n"])
def test_csv_without_distinct_column_names_is_refused(raw: bytes) -> None:
    with pytest.raises(UsageError, match="first line"):
        read(Delimited(), raw, "a")


def test_csv_with_a_quote_that_never_closes_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 64)
    with pytest.raises(UsageError, match="quote"):
        read(Delimited(), b'a,b\n"' + b"x" * 500, "a")


def test_a_header_alone_is_an_empty_file() -> None:
    assert read(Delimited(), b"a,b\n", "a") == []


def test_csv_numbering_is_independent_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    lines = [rng.choice([b"%d,ok", b"%d", b"%d,a,b", b'"%d\n",q', b"", b"%d,\xff"]) for _ in range(400)]
    raw = b"a,b\n" + b"".join((line % i if b"%" in line else line) + b"\n" for i, line in enumerate(lines))
    outcomes = []
    for size in (48, 100, 1000, 1 << 20):
        monkeypatch.setattr(delimited, "BLOCK_BYTES", size)
        pieces = read(Delimited(), raw, "a")
        outcomes.append((numbers(pieces), column(pieces, "a"), sorted(refused(pieces)), pieces[-1].next_number))
    assert all(outcome == outcomes[0] for outcome in outcomes), f"seed {seed}"
    seen = outcomes[0][0] + [number for number, _ in outcomes[0][2]]
    assert len(seen) == len(set(seen)) == sum(1 for line in lines if line), f"seed {seed}"


def test_ndjson_reads_paths_types_and_refuses_line_by_line(small_blocks: int) -> None:
    raw = b'{"a":{"b":"x"},"n":1.10}\n\n[1]\n{"a"\n{"n":1e400}\n{"a.b":true,"n":null}\n'
    pieces = read(NDJSON(), raw, "a.b", "n", json=["n"])
    assert numbers(pieces) == [1, 6]
    assert column(pieces, "a.b") == ["x", "true"]
    assert column(pieces, "n") == ["1.10", None]
    assert [v for piece in pieces for v in piece.json["n"].to_pylist()] == ["1.10", None]
    assert refused(pieces) == [(3, "not_an_object"), (4, "not_json"), (5, "not_json")]


def test_ndjson_bounds_depth_and_replaces_nul() -> None:
    deep = b'{"a":' + b"[" * DEPTH_MAX + b"]" * DEPTH_MAX + b"}\n"
    fatal = b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}\n"
    many = b'{"a":{' + b",".join(b'"k%d":1' % i for i in range(1001)) + b"}}\n"
    pieces = read(NDJSON(), deep + fatal + many + b'{"a":"x\\u0000y"}\n', "a")
    assert refused(pieces) == [(1, "too_deep"), (2, "not_json"), (3, "too_many_properties")]
    assert column(pieces, "a") == ["x\ufffdy"]


def test_ndjson_refuses_deep_nesting_that_holds_a_nul() -> None:
    deep = b'{"a":' + b"[" * 700 + b'"\\u0000"' + b"]" * 700 + b"}\n"
    pieces = read(NDJSON(), deep + b'{"a":"good"}\n', "a")
    assert refused(pieces) == [(1, "too_deep")]
    assert column(pieces, "a") == ["good"]


def test_lines_longer_than_the_bound_are_refused_and_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "LINE_BYTES_MAX", 100)
    for size in (16, 64, 300, 5000):
        monkeypatch.setattr(rows_module, "BLOCK_BYTES", size)
        raw = b'{"a":1}\n{"a":"' + b"x" * 1000 + b'"}\n{"a":3}\n{"a":"' + b"y" * 700
        pieces = read(NDJSON(), raw, "a")
        assert column(pieces, "a") == ["1", "3"], size
        assert numbers(pieces) == [1, 3], size
        assert refused(pieces) == [(2, "line_too_long"), (4, "line_too_long")], size
        assert all(len(item.raw) <= 100 for piece in pieces for item in piece.refused)


def test_access_log_columns(small_blocks: int) -> None:
    raw = (
        b'1.2.3.4 - ann [17/May/2015:10:05:03 +0200] "GET /a?x=1 HTTP/1.1" 200 - "-" "Mozilla \\"q\\""\n'
        b'1.2.3.4 - - [17/May/2015:10:05:03 +0200] "POST /b" 404 7\n'
        b"nonsense\n"
        b'::1 - - [x] "\xff" 1 2\n'
    )
    pieces = read(AccessLog(), raw, "url", "user", "bytes", "referer", "user_agent", "status", "protocol")
    assert column(pieces, "url") == ["/a?x=1", "/b"]
    assert column(pieces, "user") == ["ann", None]
    assert column(pieces, "bytes") == [None, "7"]
    assert column(pieces, "user_agent") == ['Mozilla \\"q\\"', None]
    assert column(pieces, "protocol") == ["HTTP/1.1", None]
    assert sorted(refused(pieces)) == [(3, "not_a_log_line"), (4, "not_utf8")]


def test_a_gzip_file_is_unpacked_and_counted_in_bytes_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"hello" * 1000))
    with CountingFile(path) as file:
        assert file.read() == b"hello" * 1000
        assert file.bytes_read == file.bytes_total == path.stat().st_size


def test_a_damaged_gzip_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(random.Random(1).randbytes(5000))[:2000])
    with CountingFile(path) as file, pytest.raises(UsageError, match=r"x\.gz is damaged"):
        file.read()
