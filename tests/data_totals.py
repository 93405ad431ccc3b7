"""The shop file's totals by DuckDB: for the tests alone, a third computation beside the pipeline's and the demo's."""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import duckdb


@dataclass(frozen=True, slots=True)
class FileTotals:
    """Events and revenue (exact) as `{key: (events, revenue)}`; days are ISO dates as they stand in the file."""

    events: int
    users: int
    revenue: Decimal
    by_day: dict[str, tuple[int, Decimal]]
    by_country: dict[str, tuple[int, Decimal]]
    by_product: dict[str, tuple[int, Decimal]]
    by_event: dict[str, tuple[int, Decimal]]


def online_retail_totals(path: Path) -> FileTotals:
    """Read the file as text and add up in decimals."""
    with duckdb.connect() as database:
        database.execute(
            """
            CREATE TABLE lines AS
            SELECT "CustomerID" AS customer, "Country" AS country, "StockCode" AS product,
                   "InvoiceDate"[1:10] AS day,
                   CASE WHEN "InvoiceNo"[1:1] = 'C' THEN 'cancellation' ELSE 'order_line' END AS event,
                   CAST("Quantity" AS DECIMAL(12, 0)) * CAST("UnitPrice" AS DECIMAL(14, 4)) AS worth
            FROM read_csv(?, all_varchar = true, header = true, parallel = false)
            """,
            [str(path)],
        )
        row = database.execute("SELECT count(*), count(DISTINCT customer), sum(worth) FROM lines").fetchone()
        assert row is not None
        events, users, revenue = row

        def by(column: str) -> dict[str, tuple[int, Decimal]]:
            found = database.execute(f"SELECT {column}, count(*), sum(worth) FROM lines GROUP BY 1").fetchall()
            return {key: (count, worth) for key, count, worth in found}

        return FileTotals(events, users, revenue, by("day"), by("country"), by("product"), by("event"))
