"""A generated load through a real gateway and straight into real Kafka is the stream that its seed says."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from headrace.clock import SystemClock
from headrace.errors import UsageError
from producers.generator.drive import drive, schedule
from producers.generator.pace import Pace
from producers.generator.targets import HTTPTarget
from producers.generator.workload import Workload, steady
from tests.integration.conftest import Databases, MakeSettings
from tests.integration.gateway_world import GatewayWorld, make_gateway_world

CARRIED = (
    "customer_id", "message_id", "type", "name", "user_id", "anonymous_id", "timestamp_us", "path", "referrer_domain",
    "utm_source", "country", "browser", "os", "device", "value_e6", "currency",
)  # fmt: skip


@pytest.fixture
def world(make_settings: MakeSettings, postgres: Databases, tmp_path: Path) -> GatewayWorld:
    return make_gateway_world(make_settings("kafka", "postgres"), postgres.shards, tmp_path)


def carried(event: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(event[name] for name in CARRIED)


def test_a_gateway_stores_what_the_workload_holds(world: GatewayWorld) -> None:
    clock = SystemClock()
    workload = Workload(11, steady(clock.now_us() - 20_000_000, 100), [world.customer_id])
    (block,) = workload.batches(2_000)
    with world.running() as gateway:
        target = HTTPTarget(gateway.url, {world.customer_id: world.write_key})
        target.send(block)
        target.settle()
        target.close()
    assert target.tally.acknowledged == 2_000 and not target.tally.rejected
    stored = world.events(2_000)
    assert sorted(map(carried, stored), key=repr) == sorted(map(carried, block.events.to_pylist()), key=repr)


def test_a_gateway_that_comes_back_gets_every_event(world: GatewayWorld) -> None:
    clock = SystemClock()
    pace = Pace("steady", 400, 4)
    workload = Workload(12, schedule(pace, clock.now_us()), [world.customer_id])
    with world.running() as first:
        target = HTTPTarget(first.url, {world.customer_id: world.write_key})
        killed = False

        def kill_once(sent: int, _behind_s: float) -> None:
            nonlocal killed
            if sent > 400 and not killed:
                killed = True
                first.kill()
                second.__enter__()

        second = world.running()
        done = drive(workload, pace, target, clock, on_progress=kill_once)
        target.close()
        second.__exit__(None, None, None)
    assert killed and done.sent == target.tally.acknowledged == 1_600
    expected = {i for block in workload.batches(1_600) for i in block.events.column("message_id").to_pylist()}
    assert {event["message_id"] for event in world.events()} == expected


def test_a_wrong_key_is_told_and_not_retried(world: GatewayWorld) -> None:
    workload = Workload(13, steady(SystemClock().now_us(), 100), [world.customer_id])
    with world.running() as gateway:
        target = HTTPTarget(gateway.url, {world.customer_id: "wk_wrong"})
        start = time.monotonic()
        with pytest.raises(UsageError, match="refused a batch"):
            target.send(next(workload.batches(10)))
            target.settle()
        assert time.monotonic() - start < 5
        target.close()


def test_load_goes_straight_to_kafka_at_its_rate(world: GatewayWorld) -> None:
    arguments = ["--target", "kafka", "--rate", "5000", "--for", "2s", "--seed", "14", "--customers", "50", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "load", *arguments],
        env={**os.environ, **world.settings.as_environment()},
        capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert told["sent"] == told["acknowledged"] == 10_000
    events = world.events(10_000)
    ids = [event["message_id"] for event in events]
    assert len(ids) - len(set(ids)) == told["duplicates"] > 800
    assert {event["customer_id"] for event in events} <= set(range(1, 51))
    again = Workload(14, steady(0, 5000), range(1, 51))
    assert set(ids) == {i for block in again.batches(10_000) for i in block.events.column("message_id").to_pylist()}


def test_load_over_http_asks_for_write_keys() -> None:
    done = subprocess.run([sys.executable, "-m", "headrace", "load"], capture_output=True, timeout=60, check=False)
    assert done.returncode == UsageError.exit_code and b"--ready-file" in done.stderr
