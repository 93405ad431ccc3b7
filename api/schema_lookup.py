"""What a customer's events are called and hold, for autocomplete: from the newest days of raw events."""

from typing import Any, Final, Literal

from api.problems import ProblemError
from api.query import raw_sql
from api.query.clickhouse import RawSource
from api.query.ranges import DAY_S, SECOND_US
from api.query.terms import Dimension

LOOK_BACK_DAYS: Final = 30
SAMPLED_EVENTS: Final = 20_000
LISTED_MAX: Final = 200

Item = dict[str, Any]
Kind = Literal["events", "properties", "values"]


class SchemaLookup:
    """Names and values that occur, most frequent first."""

    def __init__(self, raw: RawSource | None) -> None:
        self._raw = raw

    async def events(self, customer_id: int, prefix: str, now_us: int) -> list[Item]:
        """Event names with their counts."""
        bound = raw_sql.Parameters()
        where = _recent(customer_id, now_us, bound)
        starts = f"startsWith(toString(name), {bound.bind(prefix, 'String')})"
        return await self._items(
            f"SELECT toString(name) AS found, count() AS times FROM events FINAL WHERE {where} AND {starts}"
            f" GROUP BY found ORDER BY times DESC, found LIMIT {LISTED_MAX}",
            bound,
        )

    async def properties(self, customer_id: int, event: str | None, prefix: str, now_us: int) -> list[Item]:
        """Property names of a sample of the newest events, of one event name if given."""
        bound = raw_sql.Parameters()
        where = _recent(customer_id, now_us, bound)
        if event is not None:
            where += f" AND name = {bound.bind(event, 'String')}"
        starts = f"startsWith(key, {bound.bind(prefix, 'String')})"
        return await self._items(
            "SELECT concat('props.', key) AS found, count() AS times FROM"
            f" (SELECT JSONExtractKeys(properties) AS keys FROM events FINAL WHERE {where}"
            f" ORDER BY timestamp DESC LIMIT {SAMPLED_EVENTS})"
            f" ARRAY JOIN keys AS key WHERE {starts} GROUP BY found ORDER BY times DESC, found LIMIT {LISTED_MAX}",
            bound,
        )

    async def values(self, customer_id: int, dimension: Dimension, prefix: str, now_us: int) -> list[Item]:
        """Values of a dimension that are set."""
        bound = raw_sql.Parameters()
        where = _recent(customer_id, now_us, bound)
        text = raw_sql.text(dimension, bound)
        starts = f"startsWith(found, {bound.bind(prefix, 'String')})"
        return await self._items(
            f"SELECT {text} AS found, count() AS times FROM events FINAL WHERE {where} AND found != '' AND {starts}"
            f" GROUP BY found ORDER BY times DESC, found LIMIT {LISTED_MAX}",
            bound,
        )

    async def _items(self, text: str, bound: raw_sql.Parameters) -> list[Item]:
        if self._raw is None:
            raise ProblemError("not-answerable", "this needs the raw events, and no ClickHouse is configured")
        rows = await self._raw.values(raw_sql.Statement(text, bound.values))
        return [{"name": row[0], "events": row[1]} for row in rows]


def _recent(customer_id: int, now_us: int, bound: raw_sql.Parameters) -> str:
    start_us = now_us - LOOK_BACK_DAYS * DAY_S * SECOND_US
    return (
        f"customer_id = {bound.bind(customer_id, 'Int64')}"
        f" AND timestamp >= fromUnixTimestamp64Micro({bound.bind(start_us, 'Int64')}, 'UTC')"
    )
