"""Access logs in Apache's combined format (and the common one, which lacks the last two fields).

Columns: ip, ident, user, time, method, url, protocol, status, bytes, referer, user_agent; `-` is none.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from producers.importer.rows import Content, Lines, Refused, Rows, Wanted, read_lines

COLUMNS = ("ip", "ident", "user", "time", "method", "url", "protocol", "status", "bytes", "referer", "user_agent")
_QUOTED = r'(?:[^"\\]|\\.)*'
PATTERN = (
    r"^(?P<ip>\S+) (?P<ident>\S+) (?P<user>.+?) \[(?P<time>[^\]]+)\] "
    r'"(?P<method>[A-Za-z-]+) (?P<url>[^ "]+)(?: (?P<protocol>[^ "]+))?" '
    r"(?P<status>\d{3}) (?P<bytes>\d+|-)"
    rf'(?: "(?P<referer>{_QUOTED})" "(?P<user_agent>{_QUOTED})")?\s*$'
)


class AccessLog:
    """Apache's combined log format."""

    def read(self, file: Content, wanted: Wanted) -> Iterator[Rows]:
        """See Format.read."""
        for block in read_lines(file):
            yield _rows(block, wanted)


def _rows(block: Lines, wanted: Wanted) -> Rows:
    refused = [Refused(number, line, "line_too_long") for number, line in block.too_long]
    numbers, lines = [], []
    for number, line in enumerate(block.lines, block.first):
        if not line or line.isspace():
            continue
        try:
            lines.append(line.decode())
            numbers.append(number)
        except UnicodeDecodeError:
            refused.append(Refused(number, line, "not_utf8"))
    texts = pa.array(lines, pa.string())
    found = pc.extract_regex(texts, pattern=PATTERN)
    matched = pc.is_valid(found).to_numpy(zero_copy_only=False)
    refused += [
        Refused(numbers[index], lines[index].encode(), "not_a_log_line") for index in np.flatnonzero(~matched)
    ]
    found = found.filter(pa.array(matched))
    kept = texts.filter(pa.array(matched))
    text = {name: _dash_to_null(found.field(name)) for name in COLUMNS if name in wanted.text}
    return Rows(
        np.array(numbers, dtype=np.int64)[matched],
        text,
        {},
        lambda i: str(kept[i].as_py()).encode(),
        refused,
        block.first + len(block.lines),
        COLUMNS,
    )


def _dash_to_null(column: pa.Array) -> pa.Array:
    nothing = pc.is_in(column, value_set=pa.array(["", "-"]))
    return pc.if_else(nothing, pa.scalar(None, pa.string()), column)
