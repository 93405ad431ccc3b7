"""The shard map, addresses and the map's cache, without a database."""

import pytest
from psycopg.types.range import Int8Range

from headrace.clock import ManualClock
from headrace.errors import ConfigurationError, FatalError, UnavailableError
from headrace.settings import Settings
from headrace.shards.address import ShardAddress
from headrace.shards.bootstrap import RANGE_KEYS, first_deal, open_ends
from headrace.shards.map import INT8_END, INT8_MIN, KeyRange, ShardMap, key_bounds
from headrace.shards.router import STALE_MAX_S, MapCache
from headrace.shards.write_keys import hash_write_key

HOME = {"a": ShardAddress("127.0.0.1", 5432, "a"), "b": ShardAddress("127.0.0.1", 5433, "b")}


def test_the_first_range_is_1_to_100000_on_the_first_shard() -> None:
    shard_map = ShardMap.of(first_deal(["a", "b"], 8), HOME)
    assert RANGE_KEYS == 100_000
    assert [shard_map.shard_of(key) for key in (1, 100_000, 100_001, 200_000, 200_001)] == ["a", "a", "b", "b", "a"]
    assert shard_map.shard_of(INT8_MIN) == "a"
    assert shard_map.shard_of(INT8_END - 1) == "b"


@pytest.mark.parametrize(
    "bounds",
    [[(INT8_MIN, 5), (6, INT8_END)], [(INT8_MIN, 5), (4, INT8_END)], [(0, INT8_END)], [(INT8_MIN, 5), (5, 5)]],
)
def test_a_hole_or_an_overlap_is_refused(bounds: list[tuple[int, int]]) -> None:
    with pytest.raises(FatalError, match="hole or an overlap"):
        ShardMap.of([KeyRange(n, start, end, "a", 1) for n, (start, end) in enumerate(bounds)], HOME)


def test_an_open_end_and_an_unknown_shard_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="ends at customer id 5"):
        ShardMap.of([KeyRange(1, INT8_MIN, 5, "a", 1)], HOME)
    with pytest.raises(FatalError, match="no address"):
        ShardMap.of([KeyRange(1, INT8_MIN, INT8_END, "z", 1)], HOME)
    with pytest.raises(ConfigurationError, match="headrace migrate --shard"):
        ShardMap.of([], {})


def test_open_sides_of_a_range_are_the_ends_of_int8() -> None:
    assert key_bounds(Int8Range(None, 5)) == (INT8_MIN, 5)
    assert key_bounds(Int8Range(5, None)) == (5, INT8_END)
    assert open_ends(KeyRange(1, INT8_MIN, INT8_END, "a", 1)) == (None, None)
    assert open_ends(KeyRange(1, 3, 9, "a", 1)) == (3, 9)


@pytest.mark.parametrize("text", ["host:5432/db", "10.0.0.7:1/x", "[::1]:5432/db"])
def test_addresses_survive_reading_and_writing(text: str) -> None:
    assert str(ShardAddress.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "host/db", "host:5432", "host:0/db", "host:99999/db", "user:pw@host:5432/db", "host:5432/a/b", "h:x/db"],
)
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="host:port/database"):
        ShardAddress.parse(text)


def test_credentials_come_from_the_settings_by_role() -> None:
    settings = Settings(shard_password="w'r ite", shard_reader_password="re\\ad")
    address = ShardAddress.parse("db:5432/x")
    assert "user=headrace " in address.writer_dsn(settings)
    assert "user=headrace_reader " in address.reader_dsn(settings)
    assert "re" not in address.writer_dsn(settings).split("password=")[1].split("dbname")[0]


def cached_map(epoch: int) -> ShardMap:
    return ShardMap.of([KeyRange(1, INT8_MIN, INT8_END, "a", epoch)], HOME)


def test_a_cached_map_lives_as_long_as_its_lease() -> None:
    clock = ManualClock(us=1_000_000_000)
    cache = MapCache(5.0, clock)
    assert cache.fresh() is None
    cache.put(cached_map(1), clock.monotonic())
    clock.advance(4.9)
    assert cache.fresh() == cached_map(1)
    clock.advance(0.2)
    assert cache.fresh() is None


def test_a_notice_ends_the_lease_and_an_older_epoch_never_comes_back() -> None:
    clock = ManualClock(us=1_000_000_000)
    cache = MapCache(5.0, clock)
    cache.put(cached_map(2), clock.monotonic())
    cache.invalidate()
    assert cache.fresh() is None
    assert cache.put(cached_map(1), clock.monotonic()) == cached_map(2)


def test_a_stale_map_serves_for_a_bounded_time() -> None:
    clock = ManualClock(us=1_000_000_000)
    cache = MapCache(5.0, clock)
    away = UnavailableError("away")
    with pytest.raises(UnavailableError):
        cache.stale(away)
    cache.put(cached_map(1), clock.monotonic())
    clock.advance(STALE_MAX_S - 1)
    assert cache.stale(away) == cached_map(1)
    clock.advance(2)
    with pytest.raises(UnavailableError):
        cache.stale(away)


def test_a_write_key_is_hashed_with_sha256() -> None:
    assert hash_write_key("abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert len(hash_write_key("\ud800")) == 32
