"""One file from disk to Kafka: read, map, publish, and only then move the recorded position.

A stop at any moment, kill -9 included, sends at most the rows of one piece a second time, with the message ids that
they had: the fold counts them once. The order of rows is the file's.
"""

import gzip
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from headrace.clock import Clock
from headrace.errors import UsageError
from producers.bulk import BulkPublisher
from producers.importer.mapping import Mapping, missing_column
from producers.importer.position import FileImports
from producers.importer.rows import Content, Refused, Rows
from producers.importer.transform import Mapped, Plan, drop_before, map_rows, split
from schemas.codec import encode_events
from schemas.event import record_key

ROWS_A_PIECE_MAX = 25_000
HASH_BLOCK_BYTES = 1024 * 1024
REFUSED_BYTES_MAX = 512 * 1024  # a refused row is kept up to here: more than any event, less than a record may hold
GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where an import stands: file bytes read of all, events and refused rows acknowledged by this run."""

    bytes_read: int
    bytes_total: int
    events: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Imported:
    """What one run did. `rejected` is by reason; `rows_rejected_before` is of an interrupted run it took up."""

    path: str
    file_sha256: str
    events: int
    rejected: dict[str, int]
    resumed_at_row: int | None
    rows_rejected_before: int
    next_row: int


class Importer:
    """Imports files for one customer by one mapping."""

    def __init__(
        self,
        publisher: BulkPublisher,
        imports: FileImports,
        clock: Clock,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._publisher = publisher
        self._imports = imports
        self._clock = clock
        self._on_progress = on_progress

    def run(self, path: Path, plan: Plan, *, again: bool = False) -> Imported:
        """Import one file, from where an earlier run of it stopped.

        Raises UsageError (see FileImports.begin and Format.read), UnavailableError when Kafka or the control
        database goes away: the same call goes on from the recorded position.
        """
        started = self._imports.begin(plan.customer_id, plan.file_sha256, plan.reading, path.name, again=again)
        events, next_row, reasons = 0, started.next_row, dict[str, int]()
        with CountingFile(path) as file:

            def acknowledge() -> None:
                """Wait until Kafka has all that was sent, then move the position past it."""
                rejected = sum(reasons.values())
                self._publisher.settle()
                self._imports.advance(started.import_id, next_row, started.rows_rejected + rejected)
                if self._on_progress is not None:
                    self._on_progress(Progress(file.bytes_read, file.bytes_total, events, rejected))

            # While Kafka stores a piece the next one is read and mapped; it is sent when the former is acknowledged.
            for mapped, values, after in self._mapped(file, plan, str(path), started.next_row):
                if next_row > started.next_row:
                    acknowledge()
                self._send(mapped, values, plan)
                for refused in mapped.refused:
                    reasons[refused.reason] = reasons.get(refused.reason, 0) + 1
                events, next_row = events + mapped.events.num_rows, after
            acknowledge()
        self._imports.complete(started.import_id)
        return Imported(
            str(path), plan.file_sha256, events, reasons,
            started.next_row if started.resumed else None, started.rows_rejected, next_row,
        )  # fmt: skip

    def _mapped(
        self, file: "CountingFile", plan: Plan, origin: str, next_row: int
    ) -> Iterator[tuple[Mapped, list[bytes], int]]:
        """Each piece mapped and encoded, with the row after it."""
        for piece in read_pieces(file, plan.mapping, origin, next_row):
            mapped = map_rows(piece, plan, self._clock.now_us())
            yield mapped, encode_events(mapped.events), piece.next_number

    def _send(self, mapped: Mapped, values: list[bytes], plan: Plan) -> None:
        key = record_key(plan.customer_id)
        self._publisher.send([key] * len(values), values)
        self._publisher.reject([(key, item.raw[:REFUSED_BYTES_MAX], _headers(item, plan)) for item in mapped.refused])


def read_pieces(file: Content, mapping: Mapping, origin: str, next_row: int) -> Iterator[Rows]:
    """The rows of an open file from `next_row` on, in pieces of bounded size. Raises UsageError."""
    wanted = mapping.wanted()
    for rows in mapping.reader().read(file, wanted):
        for column in sorted(wanted.text):
            if column not in rows.text:
                raise missing_column(column, sorted(rows.columns), origin)
        if rows.next_number > next_row:
            yield from split(drop_before(rows, next_row), ROWS_A_PIECE_MAX)


def hash_file(path: Path) -> str:
    """SHA-256 of the file's bytes as they are on disk, in hex. Raises UsageError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


class CountingFile:
    """A file read from start to end, gzip or plain, that knows how many of its bytes on disk are behind it."""

    def __init__(self, path: Path) -> None:
        self._disk = path.open("rb")
        self.bytes_total = path.stat().st_size
        packed = self._disk.peek(2)[:2] == GZIP_MAGIC
        self._content: BinaryIO | gzip.GzipFile = gzip.GzipFile(fileobj=self._disk) if packed else self._disk
        self._path = path
        self.closed = False

    @property
    def bytes_read(self) -> int:
        """Bytes on disk consumed so far."""
        return self._disk.tell()

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes of content. Raises UsageError for a damaged gzip file."""
        try:
            return self._content.read(size)
        except (EOFError, gzip.BadGzipFile, OSError) as error:
            raise UsageError(f"{self._path} is damaged: {error}", remedy="unpack it with gzip -t to see") from error

    def close(self) -> None:
        """Let the file go; harmless a second time."""
        self._disk.close()
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _headers(item: Refused, plan: Plan) -> list[tuple[str, bytes]]:
    """Why and where a row was refused; the names are those of Kafka Connect's dead letters."""
    return [
        ("__connect.errors.exception.message", item.reason.encode()),
        ("__connect.errors.stage", b"import"),
        ("headrace.file.sha256", plan.file_sha256.encode()),
        ("headrace.file.row", b"%d" % item.number),
        ("headrace.file.row.bytes", b"%d" % len(item.raw)),
    ]
