"""From the HTTP request to decoded records in real Kafka."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.conftest import Databases, MakeSettings
from tests.integration.gateway_world import GatewayProcess, GatewayWorld, make_gateway_world


@pytest.fixture
def world(make_settings: MakeSettings, postgres: Databases, tmp_path: Path) -> GatewayWorld:
    return make_gateway_world(make_settings("kafka", "postgres"), postgres.shards, tmp_path)


@pytest.fixture
def gateway(world: GatewayWorld) -> Iterator[GatewayProcess]:
    with world.running() as process:
        yield process


def test_a_batch_is_stored_as_it_was_acknowledged(world: GatewayWorld, gateway: GatewayProcess) -> None:
    batch = [
        {"type": "track", "event": "order", "messageId": f"m-{i}", "userId": f"u-{i}", "properties": {"revenue": "1.25"}}
        for i in range(100)
    ]
    answer = httpx.post(f"{gateway.url}/v1/batch", json={"batch": batch}, auth=(world.write_key, ""), timeout=20)
    assert (answer.status_code, answer.json()) == (200, {"success": True})
    stored = world.events(100)
    assert {row["message_id"] for row in stored} == {f"m-{i}" for i in range(100)}
    assert {row["customer_id"] for row in stored} == {world.customer_id}
    assert {row["value_e6"] for row in stored} == {1_250_000}
    assert world.rejected() == []
