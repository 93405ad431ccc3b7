"""Reading just enough of a ClickHouse statement to serve it over HTTP: pure functions over text.

Owns: where an INSERT's statement ends and its data begins, which output format was asked for, and which
constructs a server must not run for a client (they touch this machine's files or other hosts).
"""

import re
from dataclasses import dataclass
from itertools import pairwise

HEAD_BYTES_MAX = 256 * 1024  # ClickHouse's max_query_size: a statement ends within it
TOKEN = re.compile(
    rb"""
      (?P<skip> \s+ | --[^\n]* | /\*.*?\*/ )
    | (?P<text> '(?:[^'\\]|\\.|'')*' )
    | (?P<name> "(?:[^"\\]|\\.)*" | `(?:[^`\\]|\\.)*` )
    | (?P<word> [A-Za-z_][A-Za-z_0-9]* )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
AFTER_FORMAT = re.compile(rb"[ \t\f]*\r?\n?")  # as ClickHouse's parser skips it: the data may start with spaces
INLINE_FORMATS = frozenset({"VALUES"})  # parsed as part of the statement
# Table functions and clauses that would hand a client the server's files or its network.
FORBIDDEN_FUNCTIONS = frozenset(
    """
    FILE FILECLUSTER URL URLCLUSTER EXECUTABLE S3 S3CLUSTER HDFS GCS AZUREBLOBSTORAGE MYSQL POSTGRESQL SQLITE
    REMOTE REMOTESECURE ODBC JDBC MONGODB REDIS PYTHON ICEBERG DELTALAKE HUDI
    """.split()  # noqa: SIM905 - a list of words reads better as words
)


@dataclass(frozen=True, slots=True)
class DataInsert:
    """An INSERT whose rows follow the statement: `statement` without its FORMAT clause, then data from `data_at`."""

    statement: str
    format: str
    data_at: int


@dataclass(frozen=True, slots=True)
class Word:
    """A bare word outside quotes and comments; `depth` counts open parentheses."""

    text: str  # upper case
    start: int
    end: int
    depth: int


def words(text: bytes) -> list[Word]:
    """The bare words of a statement's first HEAD_BYTES_MAX bytes, in order."""
    found, depth = [], 0
    for token in TOKEN.finditer(text, 0, HEAD_BYTES_MAX):
        if token.lastgroup == "word":
            found.append(Word(token[0].decode().upper(), token.start(), token.end(), depth))
        elif token.lastgroup == "other":
            depth += (token[0] == b"(") - (token[0] == b")")
    return found


def is_insert(head: bytes) -> bool:
    """Whether the statement is an INSERT (with SELECT or VALUES too)."""
    return first_word(head) == "INSERT"


def first_word(head: bytes) -> str:
    """The statement's first word in upper case; empty when it starts with something else."""
    for token in TOKEN.finditer(head, 0, HEAD_BYTES_MAX):
        if token.lastgroup == "word":
            return token[0].decode().upper()
        if token.lastgroup != "skip":
            break
    return ""


def data_insert(head: bytes) -> DataInsert | None:
    """Split `INSERT INTO … FORMAT Name⏎data`; None when the rows are not data after the statement.

    `head` is the beginning of the statement and may already contain data.
    """
    if not is_insert(head):
        return None
    depth, previous = 0, None
    for token in TOKEN.finditer(head, 0, HEAD_BYTES_MAX):
        if token.lastgroup == "other":
            depth += (token[0] == b"(") - (token[0] == b")")
        if token.lastgroup == "word" and depth == 0:
            word = token[0].decode().upper()
            if previous is not None:
                if word in INLINE_FORMATS:
                    return None
                gap = AFTER_FORMAT.match(head, token.end())
                assert gap is not None, "the pattern matches the empty text"
                return DataInsert(head[: previous.start()].decode(), token[0].decode(), gap.end())
            if word in ("SELECT", "WITH", "VALUES", "WATCH"):
                return None
            if word == "FORMAT":
                previous = token
                continue
        if token.lastgroup not in ("skip", "word"):
            previous = None
    return None


def output_format(statement: bytes, default: str) -> str:
    """The name after the last FORMAT at the statement's top level, else `default`."""
    listed = words(statement)
    chosen = default
    for word, following in pairwise(listed):
        if word.text == "FORMAT" and word.depth == 0 == following.depth:
            chosen = statement[following.start : following.end].decode()
    return chosen


def forbidden(statement: bytes) -> str | None:
    """The construct by which the statement would reach files or other hosts; None when there is none."""
    for word, following in pairwise(words(statement)):
        if (word.text, following.text) in (("INTO", "OUTFILE"), ("FROM", "INFILE")):
            return f"{word.text} {following.text}"
    called = b""
    for token in TOKEN.finditer(statement, 0, HEAD_BYTES_MAX):
        if token.lastgroup in ("word", "name"):
            called = token[0].strip(b'`"').upper()
        elif token.lastgroup != "skip":
            # An escape in a quoted name could spell anything.
            if token[0] == b"(" and (called.decode("latin-1") in FORBIDDEN_FUNCTIONS or b"\\" in called):
                return f"table function {called.decode('latin-1').lower()}"
            called = b""
    return None
