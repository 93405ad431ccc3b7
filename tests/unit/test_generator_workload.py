"""The generated stream: reproducible, with exactly known duplicates and the workload's shape."""

import json
from datetime import datetime

import numpy as np
import pytest

from headrace.clock import ManualClock
from producers.generator.drive import drive, schedule
from producers.generator.messages import segment_messages
from producers.generator.pace import SHAPES, Pace, Shape
from producers.generator.targets import Tally
from producers.generator.workload import BLOCK_ROWS, Block, Workload, WorkloadRules, steady
from schemas.codec import decode_events, encode_events, event_arrow

START_US = 1_700_000_000_000_000


def workload(seed: int = 3) -> Workload:
    return Workload(seed, steady(START_US, 10_000))


def test_the_same_seed_makes_the_same_events_and_another_seed_others() -> None:
    assert workload().block(2).events.equals(workload().block(2).events)
    mine, other = workload(3).block(0).events, workload(4).block(0).events
    assert not set(mine.column("message_id").to_pylist()) & set(other.column("message_id").to_pylist())


def test_a_golden_row_pins_the_stream() -> None:
    row = Workload(7, steady(START_US, 50_000)).block(0).events.slice(1, 1).to_pylist()[0]
    assert (row["message_id"], row["customer_id"], row["name"], row["user_id"], row["country"]) == (
        "12ae30237b17df146268de564d05820b", 24, "cart_opened", "user-083608", "DK",
    )  # fmt: skip


def test_batches_of_any_size_are_the_same_stream() -> None:
    rows, first = BLOCK_ROWS + 1234, BLOCK_ROWS - 700
    big = list(workload().batches(rows, first=first))
    small = list(workload().batches(rows, batch_rows=999, first=first))
    assert big[0].first == first and sum(len(b.source) for b in big) == rows
    ids = [[i for b in part for i in b.events.column("message_id").to_pylist()] for part in (big, small)]
    assert ids[0] == ids[1]
    assert np.array_equal(np.concatenate([b.source for b in big]), np.concatenate([b.source for b in small]))
    assert max(len(b.source) for b in small) == 999


def test_duplicates_are_exactly_known() -> None:
    blocks = [workload().block(i) for i in range(3)]
    ids = [i for b in blocks for i in b.events.column("message_id").to_pylist()]
    source = np.concatenate([b.source for b in blocks])
    first_seen: dict[str, int] = {}
    for number, message_id in enumerate(ids):
        assert source[number] == first_seen.setdefault(message_id, number)
    share = np.concatenate([b.duplicates() for b in blocks]).mean()
    assert share == pytest.approx(0.10, abs=0.01)
    assert len(first_seen) == int((source == np.arange(len(source))).sum())


def test_a_duplicate_is_its_original_but_for_receipt_and_attempt() -> None:
    block = workload().block(0)
    rows = block.events.to_pylist()
    for number in np.flatnonzero(block.duplicates())[:200]:
        copy, original = dict(rows[number]), dict(rows[block.source[number]])
        assert (copy.pop("attempt"), original.pop("attempt")) == (2, 1)
        assert copy.pop("received_at_us") > original.pop("received_at_us")
        assert copy == original


def test_the_shape_of_the_workload() -> None:
    block = workload().block(0)
    events = block.events
    assert events.schema.equals(event_arrow())
    delay_s = (events.column("received_at_us").to_numpy() - events.column("timestamp_us").to_numpy()) / 1e6
    late = (delay_s > 300)[~block.duplicates()]
    assert late.mean() == pytest.approx(0.02, abs=0.005)
    for name, size in (("customer_id", 200), ("name", 50), ("path", 500), ("country", 30)):
        counts = sorted(events.column(name).value_counts().field("counts").to_pylist(), reverse=True)
        assert len(counts) <= size and len(counts) > size * 0.8
        assert counts[0] / counts[9] == pytest.approx(10**1.1, rel=0.35)
    tuples = set(zip(*(events.column(n).to_pylist() for n in ("device", "browser", "os")), strict=True))
    assert len(tuples) == 60
    assert len(set(events.column("user_id").to_pylist())) > 10_000


def test_events_survive_the_wire() -> None:
    block = next(workload().batches(500))
    assert decode_events(encode_events(block.events)).events.equals(block.events)


def test_names_can_be_kept_apart() -> None:
    rules = WorkloadRules(name_prefix="live_", users=50)
    block = Workload(1, steady(START_US, 10), [5], rules).block(0)
    assert all(name.startswith("live_") for name in block.events.column("name").unique().to_pylist())
    assert block.events.column("customer_id").unique().to_pylist() == [5]


def test_segment_messages_carry_what_the_events_hold() -> None:
    events = next(workload().batches(300)).events
    rows = {row["message_id"]: row for row in events.to_pylist()}
    messages = {customer: [json.loads(one) for one in some] for customer, some in segment_messages(events)}
    assert {m["messageId"] for some in messages.values() for m in some} == rows.keys()
    seen = [row["message_id"] for row in events.to_pylist()]
    for customer, some in messages.items():
        own = [i for i in seen if rows[i]["customer_id"] == customer]
        assert [m["messageId"] for m in some] == own
        for message in some:
            row = rows[message["messageId"]]
            assert (message["userId"], message["anonymousId"]) == (row["user_id"], row["anonymous_id"])
            properties = message["properties"]
            if row["value_e6"] is not None:
                assert round(properties.pop("revenue") * 1_000_000) == row["value_e6"]
                assert properties.pop("currency") == row["currency"]
            assert properties == json.loads(row["properties"])
            assert datetime.fromisoformat(message["timestamp"]).timestamp() * 1e6 == pytest.approx(
                row["timestamp_us"], abs=1
            )


@pytest.mark.parametrize("shape", SHAPES)
def test_every_pace_hands_over_all_at_the_average_rate(shape: Shape) -> None:
    pace = Pace(shape, 1000, 120)
    assert pace.rows == 120_000 and pace.due(0) == 0 and pace.due(120) == pace.due(500) == 120_000
    seconds = np.arange(0, 120.5, 0.5)
    due = [pace.due(float(s)) for s in seconds]
    assert due == sorted(due)
    numbers = np.arange(0, 120_000, 977)
    assert np.allclose([pace.due(float(s)) for s in pace.time_of(numbers)], numbers, atol=2)
    per_second = np.diff([pace.due(float(s)) for s in range(121)])
    spread = per_second.max() / per_second.min()
    assert {"steady": spread < 1.01, "diurnal": 7 < spread < 12, "burst": 7 < spread < 9}[shape]


class SlowTarget:
    """Takes a tenth of a second for each block."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock, self.tally, self.ids = clock, Tally(), list[str]()

    def send(self, block: Block) -> None:
        self.clock.advance(0.1)
        self.ids += block.events.column("message_id").to_pylist()

    def tend(self) -> None:
        pass

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def settle(self) -> None:
        self.tally.acknowledged = len(self.ids)

    def close(self) -> None:
        pass


def test_driving_sends_every_event_once_and_tells_how_far_behind() -> None:
    clock = ManualClock(START_US)
    pace = Pace("burst", 20_000, 10)
    load = Workload(5, schedule(pace, clock.now_us()))
    target = SlowTarget(clock)
    done = drive(load, pace, target, clock)
    expected = [i for b in load.batches(pace.rows) for i in b.events.column("message_id").to_pylist()]
    assert target.ids == expected and done.sent == target.tally.acknowledged == 200_000
    assert done.duplicates == sum(int(b.duplicates().sum()) for b in load.batches(pace.rows))
    assert 0.05 < done.behind_s_max < 10
