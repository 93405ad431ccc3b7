"""Enrichment and privacy from HTTP to records in real Kafka: what is named in a policy is in no topic."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.shards.address import connect_control
from headrace.shards.policy import Policy, write_policy
from schemas.topics import Topics
from tests.integration.conftest import Databases, MakeSettings
from tests.integration.gateway_world import GatewayProcess, GatewayWorld, make_gateway_world, read_all
from tests.unit.mmdb_file import mmdb

EMAIL, PHONE, ADDRESS = "ada@example.org", "+49 89 1234", "203.0.113.77"
CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Safari/537.36"
)
FOLLOW_S = 15.0


@pytest.fixture
def world(make_settings: MakeSettings, postgres: Databases, tmp_path: Path) -> GatewayWorld:
    countries = tmp_path / "countries.mmdb"
    countries.write_bytes(mmdb({"203.0.113.0/24": {"country": {"iso_code": "DE"}}, "8.8.8.0/24": "x"}))
    settings = make_settings(
        "kafka",
        "postgres",
        country_database=str(countries),
        country_database_check_s=0.1,
        privacy_key="the secret of this test",
        write_key_cache_s=0.1,
    )
    return make_gateway_world(settings, postgres.shards, tmp_path)


@pytest.fixture
def gateway(world: GatewayWorld) -> Iterator[GatewayProcess]:
    with world.running() as process:
        yield process


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=20, headers={"user-agent": CHROME}) as made:
        yield made


def decide(world: GatewayWorld, policy: Policy) -> None:
    """Set the customer's policy and wait until the gateway's memory of the one before is over."""
    with connect_control(world.settings) as control:
        write_policy(control, world.customer_id, policy)
    time.sleep(2 * world.settings.write_key_cache_s)


def send(client: httpx.Client, world: GatewayWorld, *messages: dict[str, Any], **headers: str) -> httpx.Response:
    batch = [
        {"type": "track", "event": "e", "messageId": f"m-{number}"} | each for number, each in enumerate(messages)
    ]
    answer = client.post("/v1/batch", json={"batch": batch}, auth=(world.write_key, ""), headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


def everything(world: GatewayWorld) -> bytes:
    """All bytes of all records that the gateway wrote, keys and headers too."""
    topics = Topics(world.settings.topic_prefix)
    records = [*read_all(world.settings, topics.events), *read_all(world.settings, topics.rejected)]
    return b"".join((each.value() or b"") + repr(each.headers()).encode() for each in records)


def metric(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_what_a_policy_names_is_in_no_record(world: GatewayWorld, client: httpx.Client) -> None:
    decide(world, Policy(address="drop", drop=("email",), hash=("phone",)))
    person = {"email": EMAIL, "phone": PHONE, "plan": "pro"}
    page = {"url": f"https://x.org/a?email={EMAIL}", "path": "/a"}
    send(
        client,
        world,
        {"properties": {"buyer": [person], "back": ADDRESS}, "context": {"ip": ADDRESS, "page": page}},
        {"type": "identify", "traits": person, "userId": "u"},
        {"type": "tracks", "properties": person, "context": {"ip": ADDRESS, "traits": person}},
        {"timestamp": "nonsense", "properties": {"payload": json.dumps(person)}},
    )
    written = everything(world)
    for secret in (EMAIL, EMAIL.partition("@")[0], PHONE, ADDRESS):
        assert secret.encode() not in written, secret
    first, second = sorted(world.events(2), key=lambda row: str(row["message_id"]))
    assert (first["country"], first["browser"], first["os"], first["path"]) == ("DE", "Chrome", "Windows", "/a")
    hashed = json.loads(second["properties"])["phone"]
    assert json.loads(first["properties"]) == {"buyer": [{"phone": hashed, "plan": "pro"}]}
    assert hashed.startswith("hash-")
    assert sorted(reason for reason, _ in world.rejected()) == ["timestamp_invalid", "unknown_type"]


def test_nothing_is_kept_of_who_asks_not_to_be_tracked(world: GatewayWorld, client: httpx.Client) -> None:
    decide(world, Policy(honour_dnt=True))
    for headers in ({"DNT": "1"}, {"Sec-GPC": "1"}):
        answer = send(client, world, {"userId": "secret"}, {"type": "tracks", "userId": "secret"}, **headers)
        assert answer.json() == {"success": True}
    send(client, world, {"userId": "secret", "context": {"gpc": True}}, {"userId": "open"}, DNT="0")
    assert [row["user_id"] for row in world.events(1)] == ["open"]
    assert world.rejected() == []
    assert metric(client, "headrace_events_not_tracked_total") == 5
    decide(world, Policy())
    send(client, world, {"userId": "later", "messageId": "later"}, DNT="1")
    assert {row["user_id"] for row in world.events(2)} == {"open", "later"}


def test_a_country_by_the_senders_address_and_a_file_that_is_replaced(
    world: GatewayWorld, client: httpx.Client
) -> None:
    def country(number: int, context: dict[str, Any], **headers: str) -> str | None:
        send(client, world, {"messageId": f"c-{number}", "context": context}, **headers)
        found: str | None = next(each["country"] for each in world.events() if each["message_id"] == f"c-{number}")
        return found

    assert country(1, {"ip": ADDRESS}) == "DE"
    assert country(2, {}) is None  # this machine's own address
    forwarded = {"X-Forwarded-For": f"8.8.8.8, {ADDRESS}"}
    assert country(3, {}, **forwarded) == "DE"
    assert country(4, {"ip": "$remote"}, **forwarded) == "DE"
    assert country(5, {"location": {"country": "cl"}}, **forwarded) == "CL"
    server = forwarded | {"User-Agent": "python-requests/2.32"}
    assert country(6, {}, **server) is None, "a server's address is nobody's country"
    assert country(7, {"ip": "$remote"}, **server) == "DE"

    newer = world.folder / "newer.mmdb"
    newer.write_bytes(mmdb({"203.0.113.0/24": {"country_code": "FR"}}, built_s=1_790_000_000))
    newer.replace(world.settings.country_database)
    deadline = time.monotonic() + FOLLOW_S
    while metric(client, "headrace_country_database_built_seconds") != 1_790_000_000:
        assert time.monotonic() < deadline, "the new file was not read"
        time.sleep(0.05)
    assert country(8, {"ip": ADDRESS}) == "FR"


def test_a_gateway_without_a_readable_database_serves_on(world: GatewayWorld, tmp_path: Path) -> None:
    broken = replace(world, settings=replace(world.settings, country_database=str(tmp_path / "none.mmdb")))
    with broken.running() as process, httpx.Client(base_url=process.url, timeout=20) as client:
        send(client, world, {"context": {"ip": ADDRESS}})
        assert [row["country"] for row in world.events(1)] == [None]
        assert "country_database_unreadable" in process.log


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"trusted_proxies": "10.0.0.0/8,nonsense"}, "trusted_proxies"), ({"privacy_key": "short"}, "privacy_key")],
)
def test_a_setting_that_cannot_be_is_refused_at_the_start(
    world: GatewayWorld, tmp_path: Path, wrong: dict[str, str], told: str
) -> None:
    process = GatewayProcess(replace(world.settings, **wrong), tmp_path / "refused.log")  # type: ignore[arg-type]
    try:
        assert process.process.wait(20) == 78, process.log
        assert told in process.log
    finally:
        if process.process.poll() is None:
            process.kill()
