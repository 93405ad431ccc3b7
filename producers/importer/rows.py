"""Numbered rows of text columns: what every file format is read into.

A row's number is a pure function of the file: the record's place in it from 1 on, a header counted, so that it is
an editor's line number wherever no field spans lines. Message ids are made of it, hence it never depends on where
a read block ends.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

LINE_BYTES_MAX = 1024 * 1024  # a longer line cannot become an event of 256 KiB; it is refused, not held
BLOCK_BYTES = 4 * LINE_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that becomes no event: its number, its bytes, and the stable name of the reason."""

    number: int
    raw: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Rows:
    """A piece of a file.

    `numbers`: int64, ascending. `text`: one nullable string column for each wanted column; empty text is null.
    `json`: the same as JSON text, with types kept; only formats that have types fill it. `raw(i)`: row i as it
    stood in the file, or as near to it as the format can tell. `refused`: rows of this piece that the format
    itself could not read; their numbers are not in `numbers`. `next_number`: one past the last number of the
    piece, refused and blank ones included. `columns`: all that the piece has, wanted or not.
    """

    numbers: npt.NDArray[np.int64]
    text: Mapping[str, pa.Array]
    json: Mapping[str, pa.Array]
    raw: Callable[[int], bytes]
    refused: list[Refused]
    next_number: int
    columns: Sequence[str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The columns that a mapping reads: as text, and (formats with types) as JSON."""

    text: frozenset[str]
    json: frozenset[str] = frozenset()


class Content(Protocol):
    """Bytes read from start to end, unpacked; a file object, or CountingFile."""

    @property
    def closed(self) -> bool:
        """Whether it was let go."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes; empty at the end."""

    def close(self) -> None:
        """Let it go."""


class Format(Protocol):
    """One file format. `read` raises UsageError when the file as a whole is not of this format."""

    def read(self, file: Content, wanted: Wanted) -> Iterator[Rows]:
        """The pieces of `file` in order, from its first row on. Holds one block in memory."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Whole lines of a file, without their ends; `first` is the number of the first one."""

    first: int
    lines: list[bytes]
    too_long: list[tuple[int, bytes]]


def read_lines(file: Content) -> Iterator[Lines]:
    """Blocks of lines. A line over LINE_BYTES_MAX is in `too_long`, cut to that length, and empty in `lines`."""
    first, rest, cut = 1, b"", b""
    while block := file.read(BLOCK_BYTES):
        *lines, rest_new = (rest + block).split(b"\n")
        too_long = []
        if cut and lines:  # the line whose beginning was set aside ends here
            too_long.append((first, cut))
            lines[0] = b""
            cut = b""
        elif cut:
            rest = b""
            continue
        for index, line in enumerate(lines):
            if len(line) > LINE_BYTES_MAX:
                too_long.append((first + index, line[:LINE_BYTES_MAX]))
                lines[index] = b""
        rest = rest_new
        if len(rest) > LINE_BYTES_MAX:
            cut, rest = rest[:LINE_BYTES_MAX], b""
        yield Lines(first, lines, too_long)
        first += len(lines)
    if cut:
        yield Lines(first, [b""], [(first, cut)])
    elif rest:
        yield Lines(first, [rest], [])
