"""Seeded events in memory and the answers to queries over them, by plain polars.

Owns: the development fake's data and its reading of query-api.md. Guarantees: the same seed gives the same
events; every answer is computed from the events, never stored. Refuses: to be fast, or to be correct in any
way that `test_contract.py` does not also ask of the real API.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, TypeVar
from zoneinfo import ZoneInfo

import polars as pl

Json: TypeAlias = dict[str, Any]
T = TypeVar("T")

DIMENSIONS: Mapping[str, str] = {
    "event": "event",
    "path": "path",
    "referrer_domain": "referrer_domain",
    "utm_source": "utm_source",
    "country": "country",
    "device": "device",
    "browser": "browser",
    "os": "os",
    "user_id": "user_id",
}

_TEXTS = (
    "message_id",
    "event",
    "type",
    "user_id",
    "anonymous_id",
    "path",
    "referrer_domain",
    "utm_source",
    "country",
    "device",
    "browser",
    "os",
)
SCHEMA = pl.Schema(
    [("timestamp", pl.Datetime("us", "UTC")), *((name, pl.String()) for name in _TEXTS), ("value", pl.Float64())]
)

# Weights are rough shares of a small web shop; only their variety matters.
_EVENTS = {
    "page_viewed": 60,
    "product_viewed": 34,
    "search": 12,
    "added_to_cart": 9,
    "checkout_started": 4,
    "order_completed": 2.6,
    "signup": 1.4,
    "coupon_applied": 1,
    "order_refunded": 0.2,
    "newsletter_joined": 0.9,
    "wishlist_added": 2,
}
_PATHS = {
    "/": 40,
    "/collections/kitchen": 18,
    "/collections/garden": 13,
    "/products/regency-cakestand-3-tier": 11,
    "/products/jumbo-bag-red-retrospot": 9,
    "/products/white-hanging-heart-t-light-holder": 8,
    "/cart": 8,
    "/checkout": 4,
    "/account/orders": 3,
    "/about": 2,
    "/search": 6,
    "/help/returns-and-refunds": 1,
}
_REFERRERS: dict[str | None, float] = {
    None: 46,
    "google.com": 27,
    "instagram.com": 8,
    "bing.com": 5,
    "duckduckgo.com": 4,
    "pinterest.co.uk": 4,
    "news.ycombinator.com": 1.5,
    "t.co": 2,
    "reddit.com": 1.5,
    "facebook.com": 3,
}
_UTM: dict[str | None, float] = {None: 70, "newsletter": 12, "google_ads": 9, "spring_sale": 6, "affiliate": 3}
_COUNTRIES: dict[str | None, float] = {
    "GB": 44,
    "DE": 11,
    "FR": 10,
    "IE": 8,
    "NL": 6,
    "ES": 5,
    "US": 5,
    "SE": 3,
    "AU": 2,
    "CH": 2,
    "JP": 1,
    "PT": 1,
    None: 2,
}
_DEVICES = {
    ("desktop", "Chrome", "Windows"): 24,
    ("desktop", "Chrome", "macOS"): 9,
    ("desktop", "Edge", "Windows"): 7,
    ("desktop", "Firefox", "Linux"): 3,
    ("desktop", "Safari", "macOS"): 8,
    ("mobile", "Safari", "iOS"): 27,
    ("mobile", "Chrome", "Android"): 19,
    ("mobile", "Samsung Internet", "Android"): 4,
    ("tablet", "Safari", "iPadOS"): 5,
}


@dataclass(slots=True)
class ContractStore:
    """One customer's events. `grow` and `add` append; `answer` reads. Not thread-safe: one event loop."""

    seed: int
    name: str
    customer_id: int
    events: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SCHEMA))
    made: int = 0
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def seed_days(self, days: int, per_day: int, now: datetime) -> None:
        """Fill the `days` before `now` with a daily and weekly rhythm and a gentle growth."""
        rows = []
        for day in range(days, -1, -1):
            start = (now - timedelta(days=day)).replace(hour=0, minute=0, second=0, microsecond=0)
            weekend = 0.72 if start.weekday() >= 5 else 1.0
            count = int(per_day * weekend * (1 + 0.012 * (days - day)) * self.rng.uniform(0.88, 1.12))
            for _ in range(count):
                second = (self.rng.betavariate(2.6, 1.9) * 86_400) % 86_400
                at = start + timedelta(seconds=second)
                if at < now:
                    rows.append(self._row(at))
        self._append(rows)

    def grow(self, now: datetime, count: int) -> list[Json]:
        """`count` more events at `now`; returns them as the live stream shows them."""
        rows = [self._row(now - timedelta(milliseconds=self.rng.randrange(900))) for _ in range(count)]
        self._append(rows)
        return [live_event(row) for row in rows]

    def add(self, posted: Sequence[Json], now: datetime) -> list[Json]:
        """Append events that came through the Segment protocol."""
        rows = []
        for event in posted:
            context = event.get("context", {})
            self.made += 1
            rows.append(
                {
                    **dict.fromkeys(SCHEMA.names()),
                    "timestamp": now,
                    "message_id": event.get("messageId") or f"posted-{self.made}",
                    "event": event.get("event") or event.get("type", "track"),
                    "type": event.get("type", "track"),
                    "user_id": event.get("userId"),
                    "anonymous_id": event.get("anonymousId"),
                    "path": context.get("page", {}).get("path"),
                    "value": event.get("properties", {}).get("value"),
                }
            )
        self._append(rows)
        return [live_event(row) for row in rows]

    def answer(self, query: Json, now: datetime) -> Json:
        """The answer of query-api.md to one query; ValueError names what is wrong with it."""
        tz = ZoneInfo(query["range"].get("tz", "UTC"))
        start, end = (datetime.fromisoformat(query["range"][side]) for side in ("from", "to"))
        frame = self.events.filter(pl.col("timestamp").is_between(start, end, closed="left"))
        frame = frame.filter(_condition(query["filters"])) if query.get("filters") else frame
        match query["kind"]:
            case "totals":
                body = _totals(frame, query["metrics"])
            case "timeseries":
                body = _timeseries(frame, query["metrics"], start, end, query["interval"], tz)
            case "breakdown":
                body = _breakdown(frame, query)
            case "events":
                body = _events(frame, query.get("limit", 100))
            case other:
                raise ValueError(f"kind {other!r} is unknown: use totals, timeseries, breakdown or events")
        as_of = now.astimezone(UTC).isoformat().replace("+00:00", "Z")
        meta = {
            "as_of": as_of,
            "freshness_s": 0.4,
            "final_until": (now - timedelta(minutes=6)).isoformat(),
            "late_events": 0,
            "exact": True,
            "partial_shards": [],
            "source": "contract",
            "cached": False,
            "elapsed_ms": 1.0,
            "rows_read": frame.height,
        }
        return {**body, "query": query, "meta": meta}

    def _append(self, rows: Sequence[Json]) -> None:
        if rows:
            self.events = self.events.vstack(pl.DataFrame(rows, schema=SCHEMA))

    def _row(self, at: datetime) -> Json:
        self.made += 1
        pick = self._pick
        user = f"user-{int(self.rng.paretovariate(0.7)) % 4000}"
        event = pick(_EVENTS)
        device, browser, system = pick(_DEVICES)
        value = None
        if event == "order_completed":
            value = round(self.rng.lognormvariate(3.4, 0.7), 2)
        elif event == "order_refunded":
            value = -round(self.rng.lognormvariate(3.0, 0.5), 2)
        known = event in ("order_completed", "order_refunded", "signup") or self.rng.random() < 0.4
        return {
            "timestamp": at,
            "message_id": f"{self.seed}-{self.made}",
            "event": event,
            "type": "page" if event == "page_viewed" else "track",
            "user_id": user if known else None,
            "anonymous_id": f"anon-{user}",
            "path": pick(_PATHS),
            "referrer_domain": pick(_REFERRERS),
            "utm_source": pick(_UTM),
            "country": pick(_COUNTRIES),
            "device": device,
            "browser": browser,
            "os": system,
            "value": value,
        }

    def _pick(self, weights: Mapping[T, float]) -> T:
        return self.rng.choices(list(weights), list(weights.values()))[0]


def live_event(row: Json) -> Json:
    """One event as `GET /v1/live` shows it."""
    return {**row, "timestamp": row["timestamp"].astimezone(UTC).isoformat().replace("+00:00", "Z")}


_USER = pl.coalesce("user_id", "anonymous_id")
_METRICS: Mapping[str, pl.Expr] = {
    "events": pl.len().alias("events"),
    "users": _USER.drop_nulls().n_unique().alias("users"),
    "sum(value)": pl.col("value").sum().round(6).alias("sum(value)"),
}


def _metrics(names: Sequence[str]) -> list[pl.Expr]:
    unknown = [name for name in names if name not in _METRICS]
    if unknown:
        raise ValueError(f"metric {unknown[0]!r} is unknown: use one of {', '.join(_METRICS)}")
    return [_METRICS[name] for name in names]


def _condition(filters: Sequence[Any]) -> pl.Expr:
    operator, operands = filters[0], filters[1]
    if operator in ("and", "or"):
        parts = [_condition(operand) for operand in operands]
        return pl.all_horizontal(parts) if operator == "and" else pl.any_horizontal(parts)
    if operands not in DIMENSIONS:
        raise ValueError(f"dimension {operands!r} is unknown: use one of {', '.join(DIMENSIONS)}")
    column = pl.col(DIMENSIONS[operands])
    match operator:
        case "is":
            return column.is_in(filters[2]).fill_null(value=False)
        case "is_not":
            return ~column.is_in(filters[2]).fill_null(value=False)
        case "set":
            return column.is_not_null()
        case "not_set":
            return column.is_null()
    raise ValueError(f"filter operator {operator!r} is unknown: use and, or, is, is_not, set or not_set")


def _columns(first: Sequence[tuple[str, str]], metrics: Sequence[str]) -> list[Json]:
    named = [*first, *((name, "number" if "(" in name else "integer") for name in metrics)]
    return [{"name": name, "type": kind} for name, kind in named]


def _totals(frame: pl.DataFrame, metrics: Sequence[str]) -> Json:
    row = frame.select(_metrics(metrics)).row(0)
    return {"columns": _columns([], metrics), "rows": [list(row)]}


def _timeseries(
    frame: pl.DataFrame, metrics: Sequence[str], start: datetime, end: datetime, interval: str, tz: ZoneInfo
) -> Json:
    every = {"minute": "1m", "hour": "1h", "day": "1d", "week": "1w", "month": "1mo"}[interval]
    local = pl.col("timestamp").dt.convert_time_zone(str(tz)).dt.truncate(every)
    found = {
        row[0]: list(row[1:])
        for row in frame.group_by(local.alias("time")).agg(_metrics(metrics)).select("time", *metrics).rows()
    }
    zero: list[float] = [0] * len(metrics)
    rows = [[bucket.isoformat(), *found.get(bucket, zero)] for bucket in _buckets(start, end, interval, tz)]
    return {"columns": _columns([("time", "time")], metrics), "rows": rows}


def _buckets(start: datetime, end: datetime, interval: str, tz: ZoneInfo) -> list[datetime]:
    """Starts of all buckets that touch [start, end): minutes and hours by the clock, others by the calendar."""
    at = start.astimezone(tz).replace(second=0, microsecond=0)
    if interval != "minute":
        at = at.replace(minute=0)
    if interval in ("day", "week", "month"):
        at = at.replace(hour=0)
    if interval == "week":
        at -= timedelta(days=at.weekday())
    if interval == "month":
        at = at.replace(day=1)
    buckets = []
    while at < end:
        buckets.append(at)
        if interval in ("minute", "hour"):
            step = timedelta(minutes=1) if interval == "minute" else timedelta(hours=1)
            at = (at.astimezone(UTC) + step).astimezone(tz)
        elif interval == "month":
            at = at.replace(year=at.year + at.month // 12, month=at.month % 12 + 1)
        else:
            at += timedelta(days=1 if interval == "day" else 7)
    return buckets


def _breakdown(frame: pl.DataFrame, query: Json) -> Json:
    names, metrics = query["dimensions"], query["metrics"]
    unknown = [name for name in names if name not in DIMENSIONS]
    if unknown:
        raise ValueError(f"dimension {unknown[0]!r} is unknown: use one of {', '.join(DIMENSIONS)}")
    order, direction = query.get("order_by", [[metrics[0], "desc"]])[0]
    groups = (
        frame.group_by(names)
        .agg(_metrics(metrics))
        .sort([order, *names], descending=[direction == "desc", *[False] * len(names)], nulls_last=True)
        .select(*names, *metrics)
    )
    limit = query.get("limit", 100)
    return {
        "columns": _columns([(name, "string") for name in names], metrics),
        "rows": [list(row) for row in groups.head(limit).rows()],
        "total_rows": groups.height,
        "other": None,
    }


def _events(frame: pl.DataFrame, limit: int) -> Json:
    names = [
        "message_id",
        "event",
        "type",
        "user_id",
        "anonymous_id",
        "timestamp",
        "properties",
        "path",
        "referrer_domain",
        "utm_source",
        "country",
        "device",
        "browser",
        "os",
        "value",
    ]
    newest = frame.sort("timestamp", "message_id", descending=True).head(limit)
    rows = []
    for row in newest.to_dicts():
        event = live_event(row)
        event["properties"] = {} if row["value"] is None else {"value": row["value"]}
        rows.append([event[name] for name in names])
    return {
        "columns": [{"name": name, "type": "time" if name == "timestamp" else "string"} for name in names],
        "rows": rows,
        "next_cursor": None,
    }
