"""Where an INSERT's statement ends, which format was asked for, what is refused."""

import pytest

from headrace.runtime.chdb_statement import data_insert, forbidden, is_insert, output_format


@pytest.mark.parametrize(
    ("text", "statement", "name", "data"),
    [
        (b"INSERT INTO t FORMAT Native\n\x01\x02", "INSERT INTO t ", "Native", b"\x01\x02"),
        (b"insert into t(a, b) format TSV\r\n  1\t2", "insert into t(a, b) ", "TSV", b"  1\t2"),
        (b"INSERT INTO t FORMAT CSV\n\n1", "INSERT INTO t ", "CSV", b"\n1"),
        (b"INSERT INTO `FORMAT x` FORMAT CSV 1", "INSERT INTO `FORMAT x` ", "CSV", b"1"),
        (b"-- FORMAT a\nINSERT INTO t FORMAT b", "-- FORMAT a\nINSERT INTO t ", "b", b""),
        (b"INSERT INTO t SETTINGS a = 'FORMAT' FORMAT b\nz", "INSERT INTO t SETTINGS a = 'FORMAT' ", "b", b"z"),
        (b"INSERT INTO t (format, data) FORMAT CSV\nz", "INSERT INTO t (format, data) ", "CSV", b"z"),
    ],
)
def test_a_data_insert_splits_where_its_rows_begin(text: bytes, statement: str, name: str, data: bytes) -> None:
    insert = data_insert(text)
    assert insert is not None
    assert (insert.statement, insert.format, text[insert.data_at :]) == (statement, name, data)


@pytest.mark.parametrize(
    "text",
    [
        b"SELECT 1 FORMAT Native",
        b"INSERT INTO t VALUES (1, 'FORMAT CSV')",
        b"INSERT INTO t FORMAT Values (1)",
        b"INSERT INTO t SELECT a FROM b FORMAT CSV",
        b"INSERT INTO t",
        b"",
        b"\xff\x00",
    ],
)
def test_what_is_not_a_data_insert(text: bytes) -> None:
    assert data_insert(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"SELECT 1", "TSV"),
        (b"SELECT 1 FORMAT JSON", "JSON"),
        (b"SELECT 'FORMAT X' format Native;", "Native"),
        (b"SELECT (SELECT 1 FORMAT X)", "TSV"),
        (b"SELECT 1 -- FORMAT X", "TSV"),
        (b"SELECT 1 FORMAT Arrow SETTINGS max_threads = 1", "Arrow"),
    ],
)
def test_the_output_format(text: bytes, expected: str) -> None:
    assert output_format(text, "TSV") == expected


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        (b"SELECT * FROM file('x')", True),
        (b"SELECT * FROM /* */ FiLe  ('x')", True),
        (b"SELECT file FROM t WHERE url = 'url(1)'", False),
        (b"SELECT 1 INTO OUTFILE 'x'", True),
        (b"SELECT 'INTO OUTFILE'", False),
        (b"SELECT domain(url), 'file(1)' FROM t", False),
        (b"INSERT INTO t FROM INFILE 'x' FORMAT CSV", True),
        (b"INSERT INTO FUNCTION s3('x') SELECT 1", True),
        (b"SELECT * FROM `file`('/etc/passwd')", True),
        (b"SELECT * FROM \"url\"('http://x')", True),
    ],
)
def test_what_leaves_the_database_is_refused(text: bytes, refused: bool) -> None:
    assert (forbidden(text) is not None) is refused


def test_is_insert_looks_past_comments_only() -> None:
    assert is_insert(b"  /* x */ -- y\n insert into t")
    assert not is_insert(b"(INSERT)")
