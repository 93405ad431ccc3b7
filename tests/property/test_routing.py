"""Routing: every customer id has one shard, and keeps it for as long as the map says so."""

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.shards.address import ShardAddress
from headrace.shards.bootstrap import first_deal
from headrace.shards.customers import deal
from headrace.shards.map import INT8_END, INT8_MIN, KeyRange, ShardMap

ids = st.integers(INT8_MIN, INT8_END - 1)
shard_names = st.lists(st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True), min_size=1, max_size=6, unique=True)


@st.composite
def maps(draw: st.DrawFn) -> ShardMap:
    names = draw(shard_names)
    bounds = sorted(draw(st.sets(st.integers(INT8_MIN + 1, INT8_END - 1), max_size=20)))
    starts, ends = [INT8_MIN, *bounds], [*bounds, INT8_END]
    ranges = [
        KeyRange(number, start, end, draw(st.sampled_from(names)), draw(st.integers(1, 9)))
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]
    return ShardMap.of(draw(st.permutations(ranges)), addresses(names))


def addresses(names: list[str]) -> dict[str, ShardAddress]:
    return {name: ShardAddress("127.0.0.1", 5432, name) for name in names}


@settings(deadline=None)
@given(maps(), ids)
def test_an_id_lies_in_exactly_the_range_that_it_is_routed_to(shard_map: ShardMap, customer_id: int) -> None:
    found = shard_map.range_of(customer_id)
    assert [item for item in shard_map.ranges if item.start <= customer_id < item.end] == [found]
    assert shard_map.shard_of(customer_id) == found.shard_id


@settings(deadline=None)
@given(maps())
def test_bounds_belong_to_the_range_they_open(shard_map: ShardMap) -> None:
    for item in shard_map.ranges:
        assert shard_map.range_of(item.start) == item
        assert shard_map.range_of(item.end - 1) == item


@settings(deadline=None)
@given(maps(), ids, st.integers(INT8_MIN + 1, INT8_END - 1))
def test_a_split_moves_nobody(shard_map: ShardMap, customer_id: int, at: int) -> None:
    whole = shard_map.range_of(at)
    if at == whole.start:
        return
    halves = [
        KeyRange(1000, whole.start, at, whole.shard_id, shard_map.epoch + 1),
        KeyRange(1001, at, whole.end, whole.shard_id, shard_map.epoch + 1),
    ]
    others = [item for item in shard_map.ranges if item != whole]
    split = ShardMap.of([*others, *halves], shard_map.addresses)
    assert split.shard_of(customer_id) == shard_map.shard_of(customer_id)


@settings(deadline=None)
@given(maps(), ids)
def test_routing_depends_on_the_map_alone(shard_map: ShardMap, customer_id: int) -> None:
    again = ShardMap.of(reversed(list(shard_map.ranges)), dict(shard_map.addresses))
    assert again.shard_of(customer_id) == shard_map.shard_of(customer_id)


@settings(deadline=None)
@given(shard_names, st.integers(1, 16), ids)
def test_the_first_deal_covers_everybody_evenly(names: list[str], per_shard: int, customer_id: int) -> None:
    ranges = first_deal(names, per_shard * len(names))
    shard_map = ShardMap.of(ranges, addresses(names))
    assert shard_map.shard_of(customer_id) in names
    assert {name: len(shard_map.ranges_of(name)) for name in names} == dict.fromkeys(names, per_shard)


@settings(deadline=None)
@given(shard_names, st.integers(1, 8), st.integers(0, 10**9))
def test_turns_go_round_all_ranges(names: list[str], per_shard: int, turn: int) -> None:
    ranges = first_deal(names, per_shard * len(names))
    firsts = [deal(ranges, turn + step)[0] for step in range(len(ranges))]
    assert sorted(item.range_id for item in firsts) == sorted(item.range_id for item in ranges)
    assert sorted(item.range_id for item in deal(ranges, turn)) == sorted(item.range_id for item in ranges)
