"""Blocks of events as messages of the Segment protocol, by columns: a load must not cost more than what it loads."""

from collections.abc import Iterator

import numpy as np
import polars as pl
import pyarrow as pa

_REVENUE = pl.concat_str(
    pl.lit(',"revenue":'), (pl.col("value_e6") / 1_000_000).cast(pl.String),
    pl.lit(',"currency":"'), pl.col("currency"), pl.lit('"'),
).fill_null("")  # fmt: skip
_PROPERTIES = pl.col("properties").str.head(-1)
_FIELDS: dict[str, pl.Expr] = {
    "type": pl.lit("track"),
    "messageId": pl.col("message_id"),
    "event": pl.col("name"),
    "userId": pl.col("user_id"),
    "anonymousId": pl.col("anonymous_id"),
    "timestamp": pl.from_epoch("timestamp_us", time_unit="us").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ"),
    "context": pl.struct(
        library=pl.struct(name=pl.col("library"), version=pl.lit("1")),
        page=pl.struct(
            path=pl.col("path"), referrer=pl.concat_str(pl.lit("https://"), "referrer_domain", pl.lit("/"))
        ),
        campaign=pl.struct(source=pl.col("utm_source")),
        location=pl.struct(country=pl.col("country")),
        os=pl.struct(name=pl.col("os")),
        device=pl.struct(type=pl.col("device")),
        userAgentData=pl.struct(brands=pl.concat_list(pl.struct(brand=pl.col("browser"), version=pl.lit("1")))),
    ),
}


def segment_messages(events: pa.RecordBatch) -> Iterator[tuple[int, list[bytes]]]:
    """For each customer in `events` (the schema of `event_arrow`, JSON objects as properties that are not empty) its
    messages in order, encoded as JSON, with all that the columns say."""
    frame = pl.DataFrame(pl.from_arrow(events))
    encoded = frame.select(
        pl.concat_str(
            pl.struct([value.alias(name) for name, value in _FIELDS.items()])
            .struct.json_encode()
            .str.strip_suffix("}"),
            pl.lit(',"properties":'),
            _PROPERTIES,
            _REVENUE,
            pl.lit("}}"),
        ).cast(pl.Binary)
    ).to_series()
    customers = frame["customer_id"].to_numpy()
    order = np.argsort(customers, kind="stable")
    messages = encoded.gather(order).to_list()
    starts = np.flatnonzero(np.diff(customers[order], prepend=-1))
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(messages)], strict=True):
        yield int(customers[order[start]]), messages[start:end]
