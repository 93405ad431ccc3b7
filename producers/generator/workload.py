"""A seeded stream of events with the shape of the benches' workload, column by column.

A stream is a pure function of (seed, rules, customers, schedule): block `i` holds events
`[i * BLOCK_ROWS, (i + 1) * BLOCK_ROWS)` and can be made alone, in any order, on any machine. It knows exactly
which events repeat an earlier one. Only uniform doubles of PCG64 are drawn, and every distribution is made from
them here, so that the stream does not change with NumPy's samplers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from schemas.codec import event_arrow

BLOCK_ROWS = 20_000
DUPLICATE_REACH = 5_000  # a repeat follows its original within so many events, as an SDK's retry does
LATE_MIN_S, LATE_MAX_S = 600, 7_200  # past the default grace of 300 s, within the minute grain's retention
ANONYMOUS_SHARE = 0.2
VALUE_SHARE = 0.25
CENT_E6 = 10_000

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Schedule = Callable[[Ints], Ints]  # event numbers -> microseconds since the epoch at which each is due

OBJECTS = ("page", "product", "cart", "order", "search", "video", "plan", "account", "message", "report")
ACTIONS = ("viewed", "opened", "updated", "shared", "closed")
COUNTRIES = (
    "DE", "FR", "GB", "US", "ES", "IT", "NL", "PL", "SE", "NO", "DK", "FI", "BE", "AT", "CH",
    "PT", "IE", "CZ", "GR", "HU", "RO", "BG", "JP", "BR", "IN", "CA", "AU", "MX", "KR", "ZA",
)  # fmt: skip
BROWSERS = ("Chrome", "Safari", "Firefox", "Edge", "Samsung Internet")
SYSTEMS = ("Windows", "iOS", "Android", "macOS")
DEVICES = ("desktop", "mobile", "tablet")
SOURCES = ("google", "newsletter", "partner", "social", None)


@dataclass(frozen=True, slots=True)
class WorkloadRules:
    """Sizes of the workload's pools and its shares; every pool is drawn by Zipf but the users, who are uniform."""

    names: int = 50
    paths: int = 500
    countries: int = 30
    referrers: int = 20
    sources: int = 5
    devices: int = 60
    users: int = 100_000
    properties: int = 500
    zipf_exponent: float = 1.1
    duplicate_share: float = 0.10
    late_share: float = 0.02
    name_prefix: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive events of a stream.

    `events` follows `schemas.codec.event_arrow`. `source[i]` is the number of the event that row i repeats, its own
    number where it repeats none; a source may lie before this block's first row when the block is a slice.
    """

    events: pa.RecordBatch
    first: int
    source: Ints

    def duplicates(self) -> npt.NDArray[np.bool_]:
        """True where a row repeats an earlier event of the stream."""
        numbers = np.arange(self.first, self.first + len(self.source), dtype=np.int64)
        repeats: npt.NDArray[np.bool_] = self.source != numbers
        return repeats

    def slice(self, start: int, rows: int) -> "Block":
        """`rows` rows from row `start` on, without a copy of the events."""
        return Block(self.events.slice(start, rows), self.first + start, self.source[start : start + rows])


class Workload:
    """One reproducible stream. Cheap to make twice; holds its pools (some megabytes) and nothing else."""

    def __init__(
        self,
        seed: int,
        schedule: Schedule,
        customer_ids: Sequence[int] = range(1, 201),
        rules: WorkloadRules | None = None,
    ) -> None:
        if not customer_ids:
            raise ValueError("a workload needs at least one customer")
        self.seed = seed
        self.rules = rules = rules or WorkloadRules()
        self._schedule = schedule
        self._customer_ids = np.asarray(customer_ids, dtype=np.int64)
        self._pools = _Pools(rules)
        self._cdfs: dict[int, Floats] = {}
        self._newest: tuple[int, Block] | None = None

    def batches(self, rows: int, batch_rows: int = BLOCK_ROWS, first: int = 0) -> Iterator[Block]:
        """Events `[first, first + rows)` in batches of at most `batch_rows`; a batch never spans two blocks."""
        number, end = first, first + rows
        while number < end:
            index, start = divmod(number, BLOCK_ROWS)
            block = self.block(index)
            stop = min(BLOCK_ROWS, end - index * BLOCK_ROWS)
            for at in range(start, stop, batch_rows):
                yield block.slice(at, min(batch_rows, stop - at))
            number = index * BLOCK_ROWS + stop

    def block(self, index: int) -> Block:
        """Block `index`, whole. The newest one is kept, since a paced run asks for its rows bit by bit."""
        if self._newest is None or self._newest[0] != index:
            self._newest = (index, self._make(index))
        return self._newest[1]

    def _make(self, index: int) -> Block:
        rng = np.random.Generator(np.random.PCG64([self.seed, index]))
        first = index * BLOCK_ROWS
        numbers = np.arange(first, first + BLOCK_ROWS, dtype=np.int64)
        local = self._sources(rng)
        due_us = self._schedule(numbers)
        columns = self._originals(rng, numbers, due_us)
        repeated = pa.array(local)
        columns = {name: column.take(repeated) for name, column in columns.items()}
        columns["received_at_us"] = pa.array(due_us)
        columns["attempt"] = pa.array(np.where(local == np.arange(BLOCK_ROWS), 1, 2).astype(np.int32))
        schema = event_arrow()
        events = pa.RecordBatch.from_arrays([columns[item.name] for item in schema], schema=schema)
        return Block(events, first, local + first)

    def _sources(self, rng: np.random.Generator) -> Ints:
        """For each row of a block the row it repeats: itself, or an earlier original."""
        rows = np.arange(BLOCK_ROWS, dtype=np.int64)
        repeats = rng.random(BLOCK_ROWS) < self.rules.duplicate_share
        repeats[0] = False
        reach = np.minimum(rows, DUPLICATE_REACH)
        back = 1 + np.floor(rng.random(BLOCK_ROWS) * reach).astype(np.int64)
        source = np.where(repeats, rows - np.minimum(back, reach), rows)
        while True:  # a repeat of a repeat repeats the original; each round shortens every chain
            further = source[source]
            if np.array_equal(further, source):
                return source
            source = further

    def _originals(self, rng: np.random.Generator, numbers: Ints, due_us: Ints) -> dict[str, pa.Array]:
        rules, pools, rows = self.rules, self._pools, len(numbers)
        late = rng.random(rows) < rules.late_share
        delay_us = ((LATE_MIN_S + rng.random(rows) * (LATE_MAX_S - LATE_MIN_S)) * 1e6).astype(np.int64)
        timestamp = pa.array(np.where(late, due_us - delay_us, due_us))
        user = np.floor(rng.random(rows) * rules.users).astype(np.int64)
        anonymous = rng.random(rows) < ANONYMOUS_SHARE
        valued = rng.random(rows) < VALUE_SHARE
        value_e6 = (np.floor(_cubed(rng.random(rows)) * 50_000).astype(np.int64) - 500) * CENT_E6
        device = self._zipf(rng, rules.devices, rows)
        nothing = pa.nulls(rows, pa.string())
        return {
            "customer_id": pa.array(self._customer_ids[self._zipf(rng, len(self._customer_ids), rows)]),
            "message_id": _message_ids(self.seed, numbers),
            "type": _constant("track", rows),
            "name": pools.names.take(pa.array(self._zipf(rng, rules.names, rows))),
            "user_id": pools.users.take(pa.array(user, mask=anonymous)),
            "anonymous_id": pools.anonymous.take(pa.array(user)),
            "group_id": nothing,
            "previous_id": nothing,
            "session_id": nothing,
            "timestamp_us": timestamp,
            "original_timestamp_us": timestamp,
            "sent_at_us": pa.array(due_us),
            "path": pools.paths.take(pa.array(self._zipf(rng, rules.paths, rows))),
            "referrer_domain": pools.referrers.take(pa.array(self._zipf(rng, rules.referrers, rows))),
            "utm_source": pools.sources.take(pa.array(self._zipf(rng, rules.sources, rows))),
            "utm_medium": nothing,
            "utm_campaign": nothing,
            "country": pools.countries.take(pa.array(self._zipf(rng, rules.countries, rows))),
            "browser": pools.browsers.take(pa.array(device)),
            "os": pools.systems.take(pa.array(device)),
            "device": pools.devices.take(pa.array(device)),
            "value_e6": pa.array(value_e6, mask=~valued),
            "currency": pools.currency.take(pa.array(np.zeros(rows, dtype=np.int64), mask=~valued)),
            "properties": pools.properties.take(pa.array(self._zipf(rng, rules.properties, rows))),
            "context": _constant("{}", rows),
            "protocol": _constant("load", rows),
            "library": _constant("headrace-load", rows),
        }

    def _zipf(self, rng: np.random.Generator, size: int, rows: int) -> Ints:
        """Ranks 0..size-1, rank k with probability proportional to 1 / (k + 1) ** exponent."""
        cdf = self._cdfs.get(size)
        if cdf is None:
            weights = np.arange(1, size + 1, dtype=np.float64) ** -self.rules.zipf_exponent
            cdf = np.cumsum(weights) / weights.sum()
            cdf[-1] = 1.0
            self._cdfs[size] = cdf
        return np.searchsorted(cdf, rng.random(rows), side="right").astype(np.int64)


def steady(start_us: int, rate_per_s: float) -> Schedule:
    """Events at an even distance from `start_us` on."""
    if rate_per_s <= 0:
        raise ValueError(f"a rate must be above zero, got {rate_per_s}")
    return lambda numbers: start_us + (numbers * (1e6 / rate_per_s)).astype(np.int64)


class _Pools:
    """The values that columns are taken from, as Arrow arrays by rank."""

    def __init__(self, rules: WorkloadRules) -> None:
        names = [f"{rules.name_prefix}{thing}_{action}" for action in ACTIONS for thing in OBJECTS]
        tuples = [(d, b, o) for b in BROWSERS for o in SYSTEMS for d in DEVICES]
        self.names = _pool(rules.names, names, "event_{}")
        self.paths = _pool(rules.paths, ["/"], "/section/{}")
        self.countries = _pool(rules.countries, COUNTRIES, "X{}")
        self.referrers = _pool(rules.referrers, [None, "google.com", "news.ycombinator.com"], "site-{}.example")
        self.sources = _pool(rules.sources, SOURCES, "source-{}")
        self.devices = _pool(rules.devices, [t[0] for t in tuples], "device-{}")
        self.browsers = _pool(rules.devices, [t[1] for t in tuples], "browser-{}")
        self.systems = _pool(rules.devices, [t[2] for t in tuples], "os-{}")
        self.users = _pool(rules.users, [], "user-{:06d}")
        self.anonymous = _pool(rules.users, [], "anon-{:06d}")
        self.currency = pa.array(["EUR"])
        self.properties = pa.array([_properties(rank) for rank in range(rules.properties)])


def _pool(size: int, known: Sequence[str | None], pattern: str) -> pa.Array:
    """`size` values: the known ones first, then made ones."""
    return pa.array([known[rank] if rank < len(known) else pattern.format(rank) for rank in range(size)], pa.string())


def _properties(rank: int) -> str:
    plan = ("free", "pro", "team", "enterprise")[rank % 4]
    value: dict[str, Any] = {
        "plan": plan,
        "sku": f"sku-{rank:04d}",
        "quantity": 1 + rank % 7,
        "discount": (rank % 20) / 100,
        "tags": ["new", "sale"][: rank % 3],
        "logged_in": rank % 5 != 0,
    }
    return msgspec.json.encode(value).decode()


def _constant(value: str, rows: int) -> pa.Array:
    return pa.repeat(pa.scalar(value), rows)


def _message_ids(seed: int, numbers: Ints) -> pa.Array:
    """32 hex digits: the scrambled seed, then the event's number scrambled one to one (splitmix64's finaliser)."""
    words = np.empty((len(numbers), 2), dtype=np.uint64)
    words[:, 0] = _scramble(np.full(1, seed & 0xFFFFFFFFFFFFFFFF, dtype=np.uint64))[0]
    words[:, 1] = _scramble(numbers.astype(np.uint64) + words[0, 0])
    raw = pa.Array.from_buffers(pa.binary(16), len(numbers), [None, pa.py_buffer(words.astype(">u8").tobytes())])
    return pl.Series(pl.from_arrow(raw.cast(pa.binary()))).bin.encode("hex").to_arrow().cast(pa.string())


def _scramble(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _cubed(x: Floats) -> Floats:
    """Multiplied out, since `pow` may differ by a last bit between machines."""
    return x * x * x
