"""The shape of every kind of answer, over HTTP, as the contract says; and hostile strings in every place."""

import base64
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.problems import TYPE_PREFIX
from api.query.answer import Answer
from headrace.clickhouse import ClickHouseAddress
from tests.integration.api_world import GRACE_S, Event, World, make_world, running_api, settings_with_key
from tests.integration.conftest import Databases, MakeSettings

EVER = {"from": "-3y"}
HOSTILE = (
    "' OR 1=1 --", '"; DROP TABLE events; --', "\\", "\\'", "{p0:String}", "%s", "%(x)s", "$1", "\t\n\r\b", "🦊",
    "a\x1fb", "(other)", "\x00", "\ud800", "../../etc/passwd", "x" * 900, "", "NULL", "{{", "\\N", "%00",
)  # fmt: skip


def test_answers(make_settings: MakeSettings, postgres: Databases, tmp_path: Path) -> None:
    settings = settings_with_key(make_settings("postgres", "clickhouse"), tmp_path)
    world = make_world(settings, postgres.shards, count=1500)
    customer = world.customers[0]
    headers = {"Authorization": f"Bearer {world.tokens[customer]}"}
    with running_api(settings) as url, httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        api = Api(client)
        _completeness(api, world)
        _timeseries(api, world.events[customer])
        _breakdown(api, world.events[customer])
        _comparison(api, world.events[customer])
        _events(api, world.events[customer])
        _batch_and_link(api, len(world.events[customer]))
        _autocomplete(client, world.events[customer])
        _hostile(client, len(world.events[customer]))
        _many_values(client)
        _command_line(url, world, customer)


class Api:
    """Asks, and holds every answer against the contract."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def ask(self, kind: str, **fields: Any) -> dict[str, Any]:
        answer = self.client.post("/v1/query", json={"kind": kind, "range": EVER} | fields)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        Answer.model_validate(document)
        width = len(document["columns"])
        assert all(len(row) == width for row in document["rows"])
        return document


def _completeness(api: Api, world: World) -> None:
    meta = api.ask("totals")["meta"]
    as_of_s = world.watermark_us // 1_000_000 + 1
    assert meta["as_of"] == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(as_of_s))
    assert 0 <= meta["freshness_s"] < 600
    final_s = (world.watermark_us // 1_000_000 - GRACE_S) // 60 * 60
    assert meta["final_until"] == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(final_s))
    assert (meta["source"], meta["exact"], meta["cached"], meta["partial_shards"]) == ("postgres", True, False, [])
    assert meta["late_events"] > 0
    assert meta["rows_read"] > 0
    estimated = api.ask("totals", metrics=["users"])["meta"]
    assert (estimated["source"], estimated["exact"]) == ("postgres", False)
    exact = api.ask("totals", metrics=["users"], exact=True)["meta"]
    assert (exact["source"], exact["exact"], exact["as_of"]) == ("clickhouse", True, meta["as_of"])


def _timeseries(api: Api, events: list[Event]) -> None:
    answer = api.ask("timeseries", metrics=["events", "avg(value)"], range={"from": "-10d", "tz": "Europe/Paris"})
    assert [column["name"] for column in answer["columns"]] == ["time", "events", "avg(value)"]
    assert answer["query"]["interval"] == "day"
    assert len(answer["rows"]) == 11, "zero-filled: ten days and today"
    assert sum(row[1] for row in answer["rows"]) == _count(events, answer)
    open_states = {item["time"]: item["state"] for item in answer["meta"]["open_buckets"]}
    assert open_states[answer["rows"][-1][0]] == "incomplete"
    assert answer["rows"][0][0] not in open_states
    ahead = api.ask("timeseries", range={"from": "today", "to": "2099-12-31"}, interval="month")
    assert [row[1:] for row in ahead["rows"][2:]] == [[0]] * (len(ahead["rows"]) - 2), "and into the future"
    empty = api.ask("timeseries", metrics=["events", "avg(value)"], range={"from": "2001-01-01", "to": "2001-01-03"})
    assert [row[1:] for row in empty["rows"]] == [[0, None]] * 48
    cut = api.ask("timeseries", dimensions=["country"], limit=2, interval="month")
    assert len(cut["rows"]) == 2 * len({row[0] for row in cut["rows"]})
    assert [column["name"] for column in cut["columns"]] == ["time", "country", "events"]


def _breakdown(api: Api, events: list[Event]) -> None:
    countries = Counter(event.country or None for event in events)
    answer = api.ask("breakdown", dimensions=["country"], metrics=["events", "users", "sum(value)"], limit=2)
    assert answer["total_rows"] == 4
    assert [row[:2] for row in answer["rows"]] == [list(item) for item in countries.most_common(2)]
    rest = sum(countries.values()) - sum(row[1] for row in answer["rows"])
    assert answer["other"][:3] == [None, rest, None], "users of the rest do not add up and are not made up"
    whole = api.ask("breakdown", dimensions=["country"], limit=100)
    assert (whole["other"], whole["total_rows"]) == (None, 4)
    series = api.ask("timeseries", dimensions=["country"], interval="month", limit=1)
    assert series["meta"]["late_events"] == whole["meta"]["late_events"] > 0, "of all tuples, not of those shown"
    plans = api.ask("breakdown", dimensions=["props.plan"], metrics=["events", "max(props.amount)"])
    expected = Counter({'"pro"': "pro", '"free"': "free", "null": None}.get(e.plan, e.plan) for e in events)
    assert {row[0]: row[1] for row in plans["rows"]} == expected
    by_users = api.ask("breakdown", dimensions=["path"], metrics=["users"], order_by=[["users", "desc"]], limit=9)
    assert by_users["meta"]["source"] == "postgres"
    assert [row[1] for row in by_users["rows"]] == sorted((row[1] for row in by_users["rows"]), reverse=True)


def _comparison(api: Api, events: list[Event]) -> None:
    now = api.ask("totals", range={"from": "-2d", "to": "today"}, compare="previous_period")
    before = api.ask("totals", range=now["compare"]["range"])
    assert now["compare"]["rows"] == before["rows"]
    assert now["compare"]["range"]["to"] == now["query"]["range"]["from"]
    # From whole minutes the rollups answer, with a sketch of the users; else the raw events, exactly.
    whole, odd = {"from": "-2d", "to": "today"}, {"from": "2025-01-01T00:00:00.5Z", "to": "2090-01-01"}
    for asked, compare, sources, exact in (
        (whole, odd, ("postgres", "clickhouse"), (False, True)),
        (odd, whole, ("clickhouse", "postgres"), (False, False)),
        (odd, odd, ("clickhouse", "clickhouse"), (True, True)),
    ):
        mixed = api.ask("totals", range=asked, metrics=["users"], compare=compare)
        then = mixed["compare"]["meta"]
        assert (mixed["meta"]["source"], then["source"]) == sources
        assert (mixed["meta"]["exact"], then["exact"]) == exact, "exact only where both sides are"
        assert (then["as_of"], then["final_until"]) == (mixed["meta"]["as_of"], mixed["meta"]["final_until"])
    cut = api.ask("breakdown", dimensions=["event"], range={"from": "-9d"}, compare="previous_period", limit=3)
    assert [row[0] for row in cut["compare"]["rows"]] == [row[0] for row in cut["rows"]], "the same tuples, in order"
    assert events


def _events(api: Api, events: list[Event]) -> None:
    ordered = sorted(events, key=lambda event: (-event.timestamp_us, -event.offset))
    expected = [event.offset for event in ordered if event.name == "signup"]
    seen: list[int] = []
    fields: dict[str, Any] = {"limit": 40, "filters": ["is", "event", ["signup"]]}
    for _ in range(len(events)):
        answer = api.ask("events", **fields)
        seen += [int(row[0].partition("-")[2]) for row in answer["rows"]]
        # The page after asks with the absolute range that the answer names: `now` would be another one.
        fields |= {"cursor": answer["next_cursor"], "range": answer["query"]["range"]}
        if answer["next_cursor"] is None:
            break
    assert seen == expected, "every event once, newest first, over all pages"
    first = dict(zip([column["name"] for column in answer["columns"]], answer["rows"][0], strict=True))
    assert isinstance(first["properties"], dict)
    assert first["timestamp"].endswith("Z")
    known = {name: None if value == "" else value for name, value in first.items()}
    assert known == first, "unset is null"


def _batch_and_link(api: Api, count: int) -> None:
    total = {"kind": "totals", "range": EVER, "metrics": ["events"]}
    many = {"queries": [total, total | {"metrics": ["users"]}, {"kind": "events", "range": EVER, "limit": 1}]}
    answers = api.client.post("/v1/query", json=many).json()["answers"]
    assert [len(answer["rows"]) for answer in answers] == [1, 1, 1]
    assert answers[0]["rows"] == [[count]]
    # Of fixed times, so that the passing of a minute does not make it another question.
    fixed = total | {"range": {"from": "2020-01-01", "to": "2090-01-01"}}
    link = base64.urlsafe_b64encode(json.dumps(fixed).encode()).decode().rstrip("=")
    first = api.client.get("/v1/query", params={"q": link})
    assert first.json()["rows"] == [[count]]
    again = api.client.get("/v1/query", params={"q": link}, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = base64.urlsafe_b64encode(json.dumps(fixed | {"metrics": ["users"]}).encode()).decode()
    assert api.client.get("/v1/query", params={"q": other}).headers["etag"] != first.headers["etag"]
    assert api.client.get("/v1/query", params={"q": "!"}).json()["type"] == TYPE_PREFIX + "invalid-request"


def _autocomplete(client: httpx.Client, events: list[Event]) -> None:
    found = client.get("/v1/schema/events", params={"prefix": "o"}).json()["items"]
    assert [item["name"] for item in found] == ["order_line"]
    names = client.get("/v1/schema/properties", params={"event": "signup"}).json()["items"]
    assert {item["name"] for item in names} == {"props.plan", "props.amount", "props.a'b\\"}
    values = client.get("/v1/schema/values", params={"dimension": "props.plan"}).json()["items"]
    assert {item["name"] for item in values} == {"pro", "free", "3", "true"}
    wrong = client.get("/v1/schema/values", params={"dimension": "county"})
    assert (wrong.status_code, 'did you mean "country"' in wrong.text.replace("\\", "")) == (400, True)
    assert events


def _hostile(client: httpx.Client, count: int) -> None:
    """In every string of a request: an answer or a problem of the caller's, never a 5xx, never more rows."""
    for text in HOSTILE:
        bodies: list[dict[str, Any]] = [
            {"kind": "totals", "range": EVER, "filters": ["is", "event", [text]]},
            {"kind": "totals", "range": EVER, "filters": ["is", "props.plan", [text]]},
            {"kind": "totals", "range": EVER, "filters": ["is", f"props.{text}", ["x"]]},
            {"kind": "totals", "range": EVER, "filters": ["contains", "path", [text or "?"]]},
            {"kind": "breakdown", "range": EVER, "dimensions": [f"props.{text}"], "metrics": [f"sum(props.{text})"]},
            {"kind": "events", "range": EVER, "filters": ["matches", "user_id", [text]]},
            {"kind": "events", "range": EVER, "cursor": text},
            {"kind": "totals", "range": {"from": text}},
            {"kind": "totals", "range": {"from": "-7d", "tz": text}},
            {"kind": text, "range": EVER},
            {"kind": "totals", "range": EVER, "metrics": [text]},
            {"kind": "breakdown", "range": EVER, "dimensions": ["event"], "order_by": [[text, "asc"]]},
        ]
        for body in bodies:
            # surrogates travel as escapes: json.dumps writes them so
            answer = client.post("/v1/query", content=json.dumps(body).encode())
            assert answer.status_code in (200, 400), (body, answer.text)
            if answer.status_code == 200 and body["kind"] == "totals" and body["filters"][1] == "event":
                assert answer.json()["rows"][0][0] < count, "a filter on a strange name must not keep everything"
        for path in ("/v1/schema/events", "/v1/schema/properties"):
            assert client.get(path, params={"prefix": text.replace("\ud800", "")[:200]}).status_code == 200
    exploding = {"kind": "totals", "range": EVER, "filters": ["matches", "path", ["(a+)+$" * 20, "("]]}
    refused = client.post("/v1/query", json=exploding)
    assert (refused.status_code, refused.json()["type"]) == (400, TYPE_PREFIX + "invalid-query")
    assert client.post("/v1/query", content=b"[" * 600_000).status_code in (400, 413)
    for path in ("/v1/query", "/v1/session", "/v1/session/codes", "/livez"):
        large = client.post(path, content=b"x" * 600_000)
        assert (large.status_code, large.json()["type"]) == (413, TYPE_PREFIX + "query-too-large"), path
    chunked = client.post("/v1/query", content=(b"x" * 60_000 for _ in range(10)))
    assert chunked.status_code == 413
    assert client.get("/livez").status_code == 200


def _many_values(client: httpx.Client) -> None:
    """As many values as a query may have are answered; more are refused as the caller's fault, not with 503."""
    for operator, conditions, values, expected in (
        ("is", 5, 1000, 200),
        ("not_contains", 100, 50, 200),
        ("matches", 100, 5, 200),
        ("is", 60, 1000, 400),
    ):
        listed = [f"v{i}" for i in range(values)]
        tree = ["and", [[operator, "props.plan", listed] for _ in range(conditions)]]
        answer = client.post("/v1/query", json={"kind": "totals", "range": EVER, "filters": tree})
        assert answer.status_code == expected, (operator, conditions, values, answer.text[:300])


def _command_line(url: str, world: World, customer: int) -> None:
    environment = os.environ | {"HEADRACE_TOKEN": world.tokens[customer]}

    def headrace(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "headrace", *arguments, "--url", url]
        return subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=60)

    table = headrace("query", "totals", "-m", "events", "--from", "-3y")
    assert (table.returncode, table.stdout) == (0, f"events\n{len(world.events[customer])}\n")
    assert "postgres" in table.stderr
    where = ("-w", '["is","event",["signup"]]')
    cut = headrace("query", "breakdown", "-d", "country", "--from", "-3y", "--limit", "2", *where, "--json")
    assert len(json.loads(cut.stdout)["rows"]) == 2
    wrong = headrace("query", "totals", "-m", "evnts")
    assert wrong.returncode == 2
    assert 'did you mean "events"' in wrong.stderr


def _count(events: list[Event], answer: dict[str, Any]) -> int:
    asked = answer["query"]["range"]
    stamps = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(event.timestamp_us // 1_000_000)) for event in events]
    return sum(asked["from"] <= stamp < asked["to"] for stamp in stamps)


@pytest.mark.parametrize("exact", [False, True])
def test_a_bucket_folded_into_other_is_answered_from_the_raw_events(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Path, exact: bool
) -> None:
    """With raw events the fold's bound is not noticed; without them the answer says that it is not exact."""
    import psycopg

    engines: tuple[Any, ...] = ("postgres", "clickhouse") if exact else ("postgres",)
    settings = settings_with_key(make_settings(*engines), tmp_path)
    world = make_world(settings, postgres.shards, count=300)
    customer = world.customers[0]
    with psycopg.connect(postgres.shard_dsn(0)) as shard:
        shard.execute(
            "UPDATE rollup_rows SET dims = '(other)' WHERE rollup = 4 AND dims = 'France' AND customer_id = %s",
            (customer,),
        )
    france = sum(event.country == "France" for event in world.events[customer])
    asked = {"kind": "breakdown", "dimensions": ["country"], "range": EVER}
    headers = {"Authorization": f"Bearer {world.tokens[customer]}"}
    with running_api(settings) as url:
        answer = httpx.post(f"{url}/v1/query", json=asked, headers=headers).json()
        filtered = {"kind": "totals", "range": EVER, "filters": ["is", "country", ["Germany"]]}
        partly = httpx.post(f"{url}/v1/query", json=filtered, headers=headers).json()
        kept = asked | {"filters": ["contains", "country", ["r"]], "limit": 1, "metrics": ["events", "users"]}
        cut = httpx.post(f"{url}/v1/query", json=kept, headers=headers).json()
        if exact:
            _confirmed_by_the_source_that_answered(url, headers, world, customer)
    found = {row[0]: row[1] for row in answer["rows"]}
    assert found["France" if exact else "(other)"] == france
    assert answer["meta"]["source"] == partly["meta"]["source"] == ("clickhouse" if exact else "postgres")
    assert answer["meta"]["exact"] is partly["meta"]["exact"] is exact
    assert answer["total_rows"] == 4
    # France is folded or it is not; Germany and Österreich have an r and stand by themselves.
    assert (cut["total_rows"], len(cut["rows"])) == (3 if exact else 2, 1)
    assert cut["rows"][0][0] in ("France", "Germany", "Österreich")


def _confirmed_by_the_source_that_answered(url: str, headers: dict[str, str], world: World, customer: int) -> None:
    """A rollup plan that the raw events answered is another answer once they have gone on."""
    import clickhouse_connect

    asked = {"kind": "breakdown", "dimensions": ["country"], "range": {"from": "2020-01-01", "to": "2090-01-01"}}
    link = base64.urlsafe_b64encode(json.dumps(asked).encode()).decode().rstrip("=")

    def status(etag: str) -> int:
        known = headers | {"If-None-Match": etag}
        return httpx.get(f"{url}/v1/query", params={"q": link}, headers=known, timeout=20).status_code

    first = httpx.get(f"{url}/v1/query", params={"q": link}, headers=headers, timeout=20)
    assert first.json()["meta"]["source"] == "clickhouse"
    assert status(first.headers["etag"]) == 304
    client = clickhouse_connect.get_client(**ClickHouseAddress.parse(world.settings.clickhouse).client_arguments())
    row = {"sink": "events", "topic_id": "topic-1", "log_partition": world.partition(customer), "next_offset": 10_001}
    row |= {"resume_at": 1, "fold_version": "v", "watermark_us": world.watermark_us, "receive_us": 18}
    client.insert("sink_cursor", [list(row.values())], column_names=list(row))
    client.close()
    assert status(first.headers["etag"]) == 200
