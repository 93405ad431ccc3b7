"""The shop's totals computed a second time, straight from its file, by polars.

Shares no code with the pipeline: other CSV reader, other arithmetic, other notion of time. What both agree on is
the file and the meaning of its columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import polars as pl

from headrace.demo.comparison import Count

CANCELLATION, ORDER_LINE = "cancellation", "order_line"


@dataclass(frozen=True, slots=True)
class Totals:
    """All that is compared. Keys: ISO dates (UTC), country names, stock codes, event names."""

    events: int
    users: int
    revenue: Decimal
    first: datetime
    last: datetime
    by_day: Mapping[str, Count]
    by_country: Mapping[str, Count]
    by_product: Mapping[str, Count]
    by_event: Mapping[str, Count]


def whole_days_to(path: Path, now: datetime) -> int:
    """By how many days the file's times must be moved so that its last order lies within the day before `now`."""
    newest = _moment(_lines(path).select(pl.col("at").max()).collect().item())
    return (now - newest) // timedelta(days=1)


def from_file(path: Path, shift_days: int) -> Totals:
    """The totals of the shop's file, its times moved by `shift_days`."""
    lines = _lines(path).with_columns(pl.col("at") + pl.duration(days=shift_days)).collect()
    known = lines.filter(pl.col("CustomerID").is_not_null())
    return Totals(
        events=lines.height,
        users=known["CustomerID"].n_unique(),
        revenue=Decimal(lines["worth"].sum()),
        first=_moment(lines["at"].min()),
        last=_moment(lines["at"].max()),
        by_day=_counts(lines, pl.col("at").dt.strftime("%Y-%m-%d")),
        by_country=_counts(lines, pl.col("Country")),
        by_product=_counts(lines, pl.col("StockCode")),
        by_event=_counts(
            lines,
            pl.when(pl.col("InvoiceNo").str.starts_with("C"))
            .then(pl.lit(CANCELLATION))
            .otherwise(pl.lit(ORDER_LINE)),
        ),
    )


def days(totals: Totals) -> list[str]:
    """Every day from the first order to the last, those without orders included."""
    first, last = date.fromisoformat(min(totals.by_day)), date.fromisoformat(max(totals.by_day))
    return [(first + timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]


def _lines(path: Path) -> pl.LazyFrame:
    text = pl.read_csv(path, infer_schema=False)
    return text.lazy().with_columns(
        at=pl.col("InvoiceDate").str.to_datetime("%Y-%m-%d %H:%M:%S"),
        worth=pl.col("Quantity").cast(pl.Decimal(18, 0)) * pl.col("UnitPrice").cast(pl.Decimal(18, 3)),
    )


def _counts(lines: pl.DataFrame, key: pl.Expr) -> dict[str, Count]:
    grouped = lines.group_by(key.alias("key")).agg(pl.len(), pl.col("worth").sum())
    return {name: Count(events, worth) for name, events, worth in grouped.iter_rows()}


def _moment(value: object) -> datetime:
    assert isinstance(value, datetime)
    return value.replace(tzinfo=UTC)
