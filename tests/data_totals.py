"""The real files' totals by DuckDB: for the tests alone, beside the pipeline's own computation and the demo's."""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import duckdb

DATA = Path(__file__).parent / "data"
ACCESS_LOG, CLICKSTREAM = DATA / "apache_logs.gz", DATA / "ecom.csv.gz"
ASSET = r"(?i)\.(css|js|png|jpe?g|gif|ico|svg|woff2?|ttf|map)(\?|$)"


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


@dataclass(frozen=True, slots=True)
class Counts:
    """Events in all, users, events by value of some dimensions (the API's names), and the span in days."""

    events: int
    users: int
    by: dict[str, dict[str, int]]
    first_day: str
    day_after: str


def access_log_counts() -> Counts:
    """The access log without its one broken line, which alone does not end in a quote."""
    with duckdb.connect() as database:
        database.execute(
            """
            CREATE TABLE requests AS
            SELECT split_part(line, ' ', 1) AS visitor, regexp_extract(line, '"[A-Z]+ ([^ ]+)', 1) AS url,
                   regexp_extract(line, '" ([0-9]{3}) ', 1) AS status
            FROM read_csv(?, delim = '\x01', header = false, quote = '', columns = {line: 'VARCHAR'})
            WHERE line LIKE '%"'
            """,
            [str(ACCESS_LOG)],
        )
        name = f"""CASE WHEN status >= '400' THEN 'request_failed'
                        WHEN regexp_matches(url, '{ASSET}') THEN 'asset_requested' ELSE 'page_requested' END"""
        by = {"event": _counted(database, name, "requests")}
        return Counts(*_whole(database, "visitor", "requests"), by, "2015-05-17", "2015-05-21")


def clickstream_counts() -> Counts:
    """The clickstream."""
    with duckdb.connect() as database:
        database.execute("CREATE TABLE clicks AS FROM read_csv(?, all_varchar = true)", [str(CLICKSTREAM)])
        columns = {"event": "event", "device": "platform", "utm_source": "acquisition_channel"}
        by = {dimension: _counted(database, column, "clicks") for dimension, column in columns.items()}
        span = database.execute(
            """
            SELECT CAST(CAST(min(timestamp) AS DATE) AS VARCHAR), CAST(CAST(max(timestamp) AS DATE) + 1 AS VARCHAR)
            FROM clicks
            """
        ).fetchone()
        assert span is not None
        first_day, day_after = span
        return Counts(*_whole(database, "user_id", "clicks"), by, first_day, day_after)


def _whole(database: duckdb.DuckDBPyConnection, user: str, table: str) -> tuple[int, int]:
    row = database.execute(f"SELECT count(*), count(DISTINCT {user}) FROM {table}").fetchone()
    assert row is not None
    events, users = row
    return events, users


def _counted(database: duckdb.DuckDBPyConnection, key: str, table: str) -> dict[str, int]:
    return dict(database.execute(f"SELECT {key}, count(*) FROM {table} GROUP BY 1").fetchall())
