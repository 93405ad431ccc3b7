"""`headrace lag`: how far every store is behind the log, from its own cursors."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import psycopg
import rich_click as click

from headrace import clickhouse, kafka
from headrace.clock import SystemClock
from headrace.errors import HeadraceError, UnavailableError
from headrace.settings import Settings
from headrace.shards.address import connect, connect_control
from headrace.shards.map import load_map
from schemas.topics import Topics

EXIT_UNHEALTHY = 3


@dataclass(frozen=True, slots=True)
class Position:
    """The hindmost cursor of one partition in one store."""

    partition: int
    next_offset: int
    resume_at: int
    complete_us: int


@dataclass(frozen=True, slots=True)
class StoreLag:
    """How far a store is behind.

    `events`: not yet in it; `frames`: records of `aggregates` to read; `age_s`: what was acknowledged that long ago
    is in it, None before the first; `error`: why it could not be asked.
    """

    store: str
    events: int | None = None
    frames: int | None = None
    age_s: float | None = None
    error: str | None = None


@click.command("lag")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> int:
    """Show how many events each store lacks and how old its newest answer is. Exit code 3: one did not answer."""
    settings = Settings.load()
    topics = Topics(settings.topic_prefix)
    partitions = list(range(settings.events_partitions))
    events = _ends(settings, topics.events, partitions)
    frames = _ends(settings, topics.aggregates, partitions)
    lags = [
        lag_of(store, positions, events, frames, SystemClock().now_us())
        if not isinstance(positions, HeadraceError)
        else StoreLag(store, error=str(positions))
        for store, positions in _positions(settings)
    ]
    if as_json:
        click.echo(json.dumps([asdict(item) for item in lags]))
    else:
        for item in lags:
            age = "never complete" if item.age_s is None else f"complete {item.age_s:.1f} s ago"
            said = item.error or f"{item.events:>10} events behind  {item.frames:>8} frames to read  {age}"
            click.echo(f"{item.store:<22}  {said}")
    if any(item.error for item in lags):
        click.echo("next: headrace doctor", err=True)
        return EXIT_UNHEALTHY
    return 0


def lag_of(
    store: str,
    positions: Iterable[Position],
    events: Mapping[int, int],
    frames: Mapping[int, int],
    now_us: int,
) -> StoreLag:
    """`events`, `frames`: next offset of each partition. A partition without a cursor lacks everything. Pure."""
    known = {position.partition: position for position in positions}
    at = {partition: known.get(partition, Position(partition, 0, 0, 0)) for partition in events}
    oldest_us = min((position.complete_us for position in at.values()), default=0)
    return StoreLag(
        store,
        sum(max(0, end - at[partition].next_offset) for partition, end in events.items()),
        sum(max(0, end - at[partition].resume_at) for partition, end in frames.items()),
        (now_us - oldest_us) / 1e6 if oldest_us else None,
    )


def _positions(settings: Settings) -> Iterable[tuple[str, list[Position] | HeadraceError]]:
    with connect_control(settings) as control:
        shard_map = load_map(control)
    for shard_id, address in sorted(shard_map.addresses.items()):
        store = f"postgres {shard_id}"
        try:
            with connect(address.writer_dsn(settings), f"shard {shard_id} at {address}") as shard:
                rows = shard.execute(
                    """
                    SELECT partition, min(applied_to), min(resume_at), min(greatest(receive_us, complete_us))
                    FROM range_cursor GROUP BY partition
                    """
                ).fetchall()
            yield store, [Position(*map(int, row)) for row in rows]
        except UnavailableError as error:
            yield store, error
        except psycopg.Error as error:
            yield store, UnavailableError(f"{store} failed: {str(error).splitlines()[0]}")
    if settings.clickhouse:
        yield from _clickhouse_positions(settings)


def _clickhouse_positions(settings: Settings) -> Iterable[tuple[str, list[Position] | HeadraceError]]:
    from clickhouse_connect.driver.exceptions import ClickHouseError

    for sink in ("events", "rollups"):
        store = f"clickhouse {sink}"
        try:
            client = clickhouse.connect(settings)
            try:
                rows = client.query(
                    """
                    SELECT log_partition, next_offset, resume_at, greatest(receive_us, complete_us)
                    FROM sink_cursor FINAL WHERE sink = {sink:String}
                    """,
                    parameters={"sink": sink},
                ).result_rows
            finally:
                client.close()
            yield store, [Position(*map(int, row)) for row in rows]
        except UnavailableError as error:
            yield store, error
        except ClickHouseError as error:
            yield store, UnavailableError(f"{store} failed: {str(error).splitlines()[0]}")


def _ends(settings: Settings, topic: str, partitions: list[int]) -> dict[int, int]:
    return {partition: end for partition, (_, end) in kafka.watermarks(settings, topic, partitions).items()}
