"""`headrace backfill FILE...`: files of events into Kafka, resumable, without doubling."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import rich_click as click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from headrace import log
from headrace.clock import SystemClock
from headrace.errors import UsageError
from headrace.settings import Settings
from headrace.shards.address import connect_control
from headrace.shards.write_keys import find_customer
from producers.bulk import BulkPublisher
from producers.importer import importer, mapping
from producers.importer.importer import Imported, Importer
from producers.importer.position import FIRST_ROW, FileImports
from producers.importer.transform import Mapped, Plan, map_rows

DRY_RUN_EVENTS = 5
OnProgress = Callable[[importer.Progress], None]


@click.command("backfill")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--mapping", "mapping_name", required=True, help="A mapping file, or the name of a bundled mapping.")
@click.option("--customer", "customer_id", type=int, help="Whose events they are.")
@click.option("--write-key-file", type=click.File("r"), help="The same, by a write key in a file; - is stdin.")
@click.option("--shift-days", type=int, default=0, help="Move all times by whole days.")
@click.option("--again", is_flag=True, help="Send a file once more that was imported whole (see below).")
@click.option("--dry-run", is_flag=True, help="Show the first events that would be sent; send nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    files: tuple[Path, ...],
    mapping_name: str,
    customer_id: int | None,
    write_key_file: Any,
    shift_days: int,
    again: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Import FILES (CSV, NDJSON, access logs; plain or gzip) by a mapping of columns to events.

    A row's message id is its file's hash and its number, so an interrupted import that is started again goes on
    where Kafka had acknowledged it and counts nothing twice. A file that was imported whole is refused; --again
    sends it once more with the same ids, of which the dedupe window (24 h) counts none twice.
    """
    settings = Settings.load()
    log.configure(settings, "backfill")
    rules = mapping.load(mapping_name)
    bytes_max = settings.ingest_event_bytes_max
    if dry_run:
        for path in files:
            _show(
                path, Plan(customer_id or 0, rules, importer.hash_file(path), shift_days, bytes_max), as_json=as_json
            )
        return
    with connect_control(settings) as connection:
        owner = _owner(connection, customer_id, write_key_file)
        publisher = BulkPublisher(settings)
        try:
            with _progress_bar([path.name for path in files]) as callbacks:
                for path, on_progress in zip(files, callbacks, strict=True):
                    plan = Plan(owner, rules, importer.hash_file(path), shift_days, bytes_max)
                    each = Importer(publisher, FileImports(connection), SystemClock(), on_progress)
                    _report(each.run(path, plan, again=again), as_json=as_json)
        except KeyboardInterrupt:
            click.echo("stopped; the same command goes on from here", err=True)
            raise
        finally:
            publisher.close()


def _owner(connection: Any, customer_id: int | None, write_key_file: Any) -> int:
    """The customer that the options name. Raises UsageError."""
    if (customer_id is None) == (write_key_file is None):
        raise UsageError("give either --customer or --write-key-file", remedy="`headrace customers list` shows ids")
    if customer_id is None:
        found = find_customer(connection, write_key_file.read().strip())
        if found is None:
            raise UsageError("this write key is unknown or revoked", remedy="`headrace keys list` shows all")
        return found
    if connection.execute("SELECT 1 FROM customers WHERE customer_id = %s", (customer_id,)).fetchone() is None:
        raise UsageError(f"there is no customer {customer_id}", remedy="`headrace customers list` shows ids")
    return customer_id


def _report(done: Imported, *, as_json: bool) -> None:
    rejected = sum(done.rejected.values())
    if as_json:
        answer = {
            "path": done.path,
            "file_sha256": done.file_sha256,
            "events": done.events,
            "rejected": rejected,
            "reasons": done.rejected,
            "resumed_at_row": done.resumed_at_row,
            "rejected_before": done.rows_rejected_before,
        }
        click.echo(json.dumps(answer))
        return
    resumed = f", taken up at row {done.resumed_at_row}" if done.resumed_at_row else ""
    click.echo(f"{done.path}: {done.events:,} events sent{resumed}")
    for reason, count in sorted(done.rejected.items()):
        click.echo(f"  {count:,} rows refused: {reason} (kept in events.rejected)", err=True)


def _show(path: Path, plan: Plan, *, as_json: bool) -> None:
    """Print what the first rows of a file become."""
    with importer.CountingFile(path) as file:
        first = next(importer.read_pieces(file, plan.mapping, str(path), FIRST_ROW), None)
    if first is None:
        raise UsageError(f"{path} has no rows")
    mapped: Mapped = map_rows(first, plan, SystemClock().now_us())
    events = mapped.events.slice(0, DRY_RUN_EVENTS)
    for event in _present(events):
        click.echo(json.dumps(event) if as_json else json.dumps(event, indent=2))
    for item in mapped.refused[:DRY_RUN_EVENTS]:
        click.echo(f"row {item.number} would be refused: {item.reason}: {item.raw[:200]!r}", err=True)
    click.echo(
        f"{path}: of the first {mapped.events.num_rows + len(mapped.refused):,} rows {mapped.events.num_rows:,} "
        f"become events; run it without --dry-run",
        err=True,
    )


def _present(events: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    for event in events.to_pylist():
        yield {name: value for name, value in event.items() if value is not None}


@contextmanager
def _progress_bar(names: list[str]) -> Iterator[list[OnProgress]]:
    """A bar a file on a terminal's stderr, with rate and time left; elsewhere nothing is drawn."""
    console = Console(stderr=True)
    rate = TextColumn("{task.fields[rate]:,.0f} events/s")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (console.is_terminal and sys.stderr.isatty())) as bar:
        clock = SystemClock()

        def follow(name: str) -> OnProgress:
            task = bar.add_task(name, total=None, rate=0.0)
            start = clock.monotonic()

            def update(progress: importer.Progress) -> None:
                rate = progress.events / max(clock.monotonic() - start, 1e-3)
                bar.update(task, completed=progress.bytes_read, total=progress.bytes_total, rate=rate)

            return update

        yield [follow(name) for name in names]
