"""Segment's Python SDK, unchanged but for its host, against a running gateway."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segment.analytics.client import Client

from tests.integration.conftest import Databases, MakeSettings
from tests.integration.gateway_world import GatewayWorld, make_gateway_world

NAMES = ("Order Completed", "Заказ оформлен", "🎉 emoji 👩‍👩‍👧‍👦", "tab\tnewline\nend", 'quote" back\\slash')


def make_world(make_settings: MakeSettings, postgres: Databases, folder: Path) -> GatewayWorld:
    return make_gateway_world(make_settings("kafka", "postgres"), postgres.shards, folder)


def test_every_call_of_the_sdk_arrives(make_settings: MakeSettings, postgres: Databases, tmp_path: Path) -> None:
    world = make_world(make_settings, postgres, tmp_path)
    errors: list[Any] = []
    with world.running() as gateway:
        for gzip in (False, True):
            sdk = Client(world.write_key, host=gateway.url, gzip=gzip, on_error=lambda e, _: errors.append(e))
            user = f"user-{gzip}"
            sdk.identify(user, {"plan": "pro"})
            for name in NAMES:
                sdk.track(user, name, {"revenue": 12.34, "currency": "EUR", "when": datetime.now(UTC)})
            sdk.page(user, "Docs", "Start", {"path": "/docs"})
            sdk.screen(user, "Help", "Phone")
            sdk.group(user, "acme", {"size": 3})
            sdk.alias("before", user)
            sdk.track(anonymous_id="anon", event="late", timestamp=datetime(2024, 2, 29, tzinfo=UTC))
            sdk.shutdown()
    assert errors == []
    stored = world.events(2 * (len(NAMES) + 6))
    for user in ("user-False", "user-True"):
        mine = [row for row in stored if row["user_id"] == user]
        kinds = ["alias", "group", "identify", "page", "screen"] + ["track"] * len(NAMES)
        assert sorted(row["type"] for row in mine) == kinds
        assert {row["name"] for row in mine if row["type"] == "track"} == set(NAMES)
        assert {row["value_e6"] for row in mine if row["type"] == "track"} == {12_340_000}
        by_type = {row["type"]: row for row in mine}
        assert (by_type["page"]["name"], by_type["page"]["path"]) == ("Start", "/docs")
        assert (by_type["group"]["group_id"], by_type["alias"]["previous_id"]) == ("acme", "before")
        assert json.loads(by_type["identify"]["properties"]) == {"plan": "pro"}
        assert all(row["library"].startswith("analytics-python/") for row in mine)
        assert all(abs(row["timestamp_us"] / 1e6 - time.time()) < 300 for row in mine)
    late = [row for row in stored if row["anonymous_id"] == "anon"]
    assert {row["timestamp_us"] for row in late} == {1_709_164_800_000_000}


def test_the_sdk_carries_its_events_over_a_gateway_killed_and_restarted(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Path
) -> None:
    world = make_world(make_settings, postgres, tmp_path)
    errors: list[Any] = []
    with world.running() as gateway:
        sdk = Client(world.write_key, host=gateway.url, upload_size=10, on_error=lambda e, _: errors.append(e))
        for i in range(200):
            sdk.track("u", "before", message_id=f"before-{i}")
        time.sleep(0.3)
        gateway.kill()
        for i in range(200):
            sdk.track("u", "after", message_id=f"after-{i}")
    with world.running():
        sdk.shutdown()
    assert errors == []
    ids = {row["message_id"] for row in world.events()}
    assert ids == {f"{when}-{i}" for when in ("before", "after") for i in range(200)}


def test_an_unknown_key_is_an_error_at_once_and_no_endless_retry(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Path
) -> None:
    world = make_world(make_settings, postgres, tmp_path)
    errors: list[Any] = []
    with world.running() as gateway:
        sdk = Client("wk_unknown", host=gateway.url, on_error=lambda e, _: errors.append(e))
        started = time.monotonic()
        sdk.track("u", "e")
        sdk.shutdown()
        assert time.monotonic() - started < 10
    assert [str(getattr(error, "status", error)) for error in errors] == ["401"]
    world.events(0)
