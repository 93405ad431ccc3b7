"""CSV and its kin (tab, semicolon), with a header line, read in blocks by Arrow.

Quoted fields may span lines. A row with too few or too many fields is refused alone; so is one that is not in the
file's encoding.
"""

import csv
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from headrace.errors import UsageError
from producers.importer.rows import BLOCK_BYTES, Content, Refused, Rows, Wanted


class Delimited:
    """CSV with `delimiter` between fields and text in `encoding`."""

    def __init__(self, delimiter: str = ",", encoding: str = "utf8") -> None:
        self._delimiter = delimiter
        self._encoding = encoding

    def read(self, file: Content, wanted: Wanted) -> Iterator[Rows]:
        """See Format.read."""
        broken: list[Refused] = []

        def set_aside(row: Any) -> str:
            text = row.text if isinstance(row.text, bytes) else row.text.encode(errors="surrogateescape")
            broken.append(Refused(row.number, text, "wrong_column_count"))
            return "skip"

        reader = self._open(file, set_aside)
        if reader is None:
            return
        next_number = 2  # 1 is the header
        while True:
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                break
            except pa.ArrowInvalid as error:
                raise UsageError(
                    f"cannot read on after row {next_number - 1}: {error}",
                    remedy="is there a quote that never closes?",
                ) from error
            yield (rows := self._rows(batch, next_number, _taken(broken, next_number, batch.num_rows), wanted))
            next_number = rows.next_number
        if broken:
            nothing = pa.RecordBatch.from_pylist([], schema=reader.schema)
            yield self._rows(nothing, next_number, list(broken), wanted)

    def _open(self, file: Content, set_aside: Any) -> Any:
        """Arrow's reader behind the header line; None where nothing follows it."""
        head = _first_line(file)
        names = next(csv.reader([head.decode(self._encoding, errors="replace")], delimiter=self._delimiter), [])
        if not names or len(set(names)) != len(names):
            raise UsageError(
                f"the first line must name the columns, each once; it reads {head[:200]!r}",
                remedy="put a header line in front",
            )
        try:
            return pyarrow.csv.open_csv(
                pa.PythonFile(file, mode="r"),
                # Only a single thread knows a row's number.
                pyarrow.csv.ReadOptions(
                    use_threads=False, block_size=BLOCK_BYTES, column_names=names, encoding=self._encoding
                ),
                pyarrow.csv.ParseOptions(
                    delimiter=self._delimiter,
                    newlines_in_values=True,
                    ignore_empty_lines=False,
                    invalid_row_handler=lambda row: set_aside(_shifted(row)),
                ),
                pyarrow.csv.ConvertOptions(
                    column_types={name: pa.binary() for name in names}, strings_can_be_null=False
                ),
            )
        except pa.ArrowInvalid as error:
            if "Empty CSV" in str(error):
                return None
            raise UsageError(
                f"not a CSV file: {error}",
                remedy="check the delimiter, the encoding and for a quote that never closes",
            ) from error

    def _rows(self, batch: pa.RecordBatch, first: int, broken: list[Refused], wanted: Wanted) -> Rows:
        numbers = _numbers(first, batch.num_rows, [row.number for row in broken])
        next_number = max([first, *(int(n) + 1 for n in numbers[-1:]), *(row.number + 1 for row in broken)])
        keep = ~_blank(batch)
        unreadable = _not_utf8(batch)
        refused = broken + [
            Refused(int(numbers[index]), self._line(batch, int(index)), "not_utf8")
            for index in np.flatnonzero(unreadable & keep)
        ]
        keep &= ~unreadable
        if not keep.all():
            batch, numbers = batch.filter(pa.array(keep)), numbers[keep]
        text = {
            name: _empty_to_null(batch.column(name).cast(pa.string()))
            for name in batch.schema.names
            if name in wanted.text
        }
        return Rows(numbers, text, {}, lambda i: self._line(batch, i), refused, next_number, batch.schema.names)

    def _line(self, batch: pa.RecordBatch, index: int) -> bytes:
        """Row `index` written as CSV again: equal to the file's up to quoting."""
        fields = [column[index].as_py().decode(errors="surrogateescape") for column in batch.columns]
        out = io.StringIO()
        csv.writer(out, delimiter=self._delimiter, lineterminator="").writerow(fields)
        return out.getvalue().encode(errors="surrogateescape")


class _Shifted:
    """An invalid row with the header counted."""

    def __init__(self, number: int, text: Any) -> None:
        self.number = number
        self.text = text


def _shifted(row: Any) -> _Shifted:
    return _Shifted(row.number + 1, row.text)


def _first_line(file: Content) -> bytes:
    """The header, taken off the file; a byte-order mark dropped."""
    line = bytearray()
    while len(line) < BLOCK_BYTES:
        byte = file.read(1)
        if not byte or byte == b"\n":
            break
        line += byte
    return bytes(line).removeprefix(b"\xef\xbb\xbf").rstrip(b"\r")


def _taken(broken: list[Refused], first: int, rows: int) -> list[Refused]:
    """Remove from `broken` what lies between or right before the `rows` rows that start at `first`."""
    taken: list[Refused] = []
    number, left = first, rows
    while left or (broken and broken[0].number == number):
        if broken and broken[0].number == number:
            taken.append(broken.pop(0))
            number += 1
            continue
        step = min(left, broken[0].number - number) if broken else left
        number, left = number + step, left - step
    return taken


def _numbers(first: int, rows: int, broken: list[int]) -> npt.NDArray[np.int64]:
    """The numbers of `rows` good rows from `first` on, when those in `broken` are not among them."""
    numbers = np.arange(first, first + rows + len(broken), dtype=np.int64)
    return numbers[~np.isin(numbers, broken)] if broken else numbers


def _blank(batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    """True for rows without a single character: empty lines."""
    length = np.zeros(batch.num_rows, dtype=np.int64)
    for column in batch.columns:
        length += pc.binary_length(column).to_numpy(zero_copy_only=False)
    blank: npt.NDArray[np.bool_] = length == 0
    return blank


def _not_utf8(batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    bad = np.zeros(batch.num_rows, dtype=np.bool_)
    for column in batch.columns:
        try:
            column.cast(pa.string())
        except pa.ArrowInvalid:
            bad |= np.fromiter((not _is_utf8(value.as_py()) for value in column), np.bool_, len(column))
    return bad


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _empty_to_null(column: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(pc.binary_length(column), 0), pa.scalar(None, pa.string()), column)
