"""Time text into microseconds UTC, by a mapping's rule."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from producers.importer.mapping import EPOCH_UNITS, TimeRule
from producers.importer.numbers import product_e6
from schemas.event import TIMESTAMP_US_MAX

_ISO = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(\.\d{1,6})?$"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_times(text: pa.Array, rule: TimeRule) -> pa.Array:
    """int64 microseconds; null where the text tells no time. A local time that a clock shows twice is the first."""
    if rule.format in EPOCH_UNITS:
        return _epoch(text, rule.format)
    if rule.format == "iso8601":
        return _iso8601(text, rule.zone)
    series = pl.Series(pl.from_arrow(text)).str.strptime(pl.Datetime("us"), rule.format, strict=False)
    return _to_utc(series, rule.zone)


def _to_utc(series: pl.Series, zone: str) -> pa.Array:
    """Microseconds of a naive series in `zone`, or of one that knows its zone (patterns with %z give UTC)."""
    if isinstance(series.dtype, pl.Datetime) and series.dtype.time_zone is None:
        series = series.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    return series.dt.convert_time_zone("UTC").dt.epoch("us").cast(pl.Int64).to_arrow()


def _epoch(text: pa.Array, unit: str) -> pa.Array:
    """Numbers since 1970; seconds may carry a fraction."""
    if unit == "unix_s":  # millionths of a second are microseconds
        return product_e6([text], bound_e6=TIMESTAMP_US_MAX)[0]
    whole = pc.if_else(pc.match_substring_regex(text, r"^-?\d{1,17}$"), text, pa.scalar(None, pa.string()))
    numbers = whole.cast(pa.int64())
    if unit == "unix_us":
        return numbers
    limit = pa.scalar(TIMESTAMP_US_MAX, pa.int64())  # past it the row is refused, so the product never matters
    return pc.multiply(pc.min_element_wise(numbers, limit, skip_nulls=False), 1000) if len(numbers) else numbers


def _iso8601(text: pa.Array, zone: str) -> pa.Array:
    plain = pc.match_substring_regex(text, _ISO)
    if pc.all(pc.fill_null(plain, False)).as_py():
        normal = pl.Series(pl.from_arrow(text)).str.replace("T", " ", literal=True)
        fractional = "%.f" if normal.str.contains(".", literal=True).any() else ""
        parsed = normal.str.strptime(pl.Datetime("us"), f"%Y-%m-%d %H:%M:%S{fractional}", strict=False)
        if parsed.null_count() == 0:
            return _to_utc(parsed, zone)
    return pa.array([_one_iso8601(value, zone) for value in text.to_pylist()], pa.int64())


def _one_iso8601(value: str | None, zone: str) -> int | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC if zone == "UTC" else ZoneInfo(zone))
    try:
        return (moment - _EPOCH) // timedelta(microseconds=1)
    except OverflowError:
        return None
