"""What the dashboard relies on, asked in the same words of the contract server and of the real API."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.browser.target import BLANK, Target, day_range, yesterday

METRICS = ["events", "users", "sum(value)"]
DIMENSIONS = ["event", "path", "referrer_domain", "utm_source", "country", "device", "browser", "os"]


def test_totals_are_one_row_in_the_order_of_the_metrics(either: Target) -> None:
    (answer,) = either.ask({"kind": "totals", "metrics": METRICS, "range": day_range(yesterday())})
    assert [column["name"] for column in answer["columns"]] == METRICS
    ((events, users, value),) = answer["rows"]
    assert events > users > 0
    assert value > 0


@pytest.mark.parametrize(("interval", "buckets"), [("hour", 72), ("day", 3), ("week", None), ("month", None)])
def test_a_timeseries_is_zero_filled_into_the_future_and_adds_up(
    either: Target, interval: str, buckets: int | None
) -> None:
    window = day_range(yesterday(), 3)
    asked = {"kind": "timeseries", "metrics": METRICS, "interval": interval, "range": window}
    series, totals = either.ask(asked, {"kind": "totals", "metrics": ["events"], "range": window})
    assert [column["name"] for column in series["columns"]] == ["time", *METRICS]
    times = [datetime.fromisoformat(row[0]) for row in series["rows"]]
    assert times == sorted(set(times))
    assert times[0] <= datetime.fromisoformat(window["from"])
    if buckets:
        assert len(times) == buckets
    # Events go on arriving, and the answers to one request need not be of one moment.
    assert abs(sum(row[1] for row in series["rows"]) - totals["rows"][0][0]) <= 5


def test_days_are_those_of_the_asked_zone(either: Target) -> None:
    start = yesterday().replace(hour=22, minute=0, second=0, microsecond=0)
    window = {"from": start.isoformat(), "to": (start + timedelta(days=1)).isoformat(), "tz": "Etc/GMT-2"}
    (series,) = either.ask({"kind": "timeseries", "metrics": ["events"], "interval": "day", "range": window})
    assert len(series["rows"]) == 1
    assert datetime.fromisoformat(series["rows"][0][0]) == start


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_a_breakdown_is_ordered_limited_and_says_how_many_there_are(either: Target, dimension: str) -> None:
    window = day_range(yesterday())
    asked = {
        "kind": "breakdown",
        "dimensions": [dimension],
        "metrics": METRICS,
        "order_by": [["events", "desc"]],
        "limit": 3,
        "range": window,
    }
    short, full = either.ask(asked, asked | {"limit": 1000})
    assert [column["name"] for column in short["columns"]] == [dimension, *METRICS]
    assert len(short["rows"]) == min(3, short["total_rows"])
    counts = [row[1] for row in short["rows"]]
    assert counts == sorted(counts, reverse=True)
    assert full["total_rows"] == len(full["rows"]) == short["total_rows"]
    (totals,) = either.ask({"kind": "totals", "metrics": ["events"], "range": window})
    assert sum(row[1] for row in full["rows"]) == totals["rows"][0][0]


@pytest.mark.parametrize("dimension", ["event", "path", "utm_source"])
def test_a_row_as_filter_gives_the_rows_own_numbers(either: Target, dimension: str) -> None:
    window = day_range(yesterday())
    (rows,) = either.ask({"kind": "breakdown", "dimensions": [dimension], "metrics": METRICS, "range": window})
    for value, events, *_ in rows["rows"][:3]:
        condition: list[Any] = ["not_set", dimension] if value is None else ["is", dimension, [value]]
        (totals,) = either.ask(
            {"kind": "totals", "metrics": METRICS, "range": window, "filters": ["and", [condition]]}
        )
        assert totals["rows"][0][0] == events, value


def test_filters_on_two_dimensions_at_once(either: Target) -> None:
    window = day_range(yesterday())
    both = ["and", [["is", "event", ["page_viewed"]], ["is", "path", ["/"]]]]
    one = ["and", [["is", "event", ["page_viewed"]]]]
    asked = {"kind": "totals", "metrics": ["events"], "range": window}
    narrow, wide = either.ask(asked | {"filters": both}, asked | {"filters": one})
    assert 0 < narrow["rows"][0][0] < wide["rows"][0][0]


def test_events_come_newest_first_with_the_fields_of_the_feed(either: Target) -> None:
    (answer,) = either.ask({"kind": "events", "limit": 5, "range": day_range(yesterday(), 3)})
    names = [column["name"] for column in answer["columns"]]
    fields = {"message_id", "event", "type", "user_id", "anonymous_id", "timestamp", "properties"}
    assert fields <= set(names)
    times = [datetime.fromisoformat(row[names.index("timestamp")]) for row in answer["rows"]]
    assert len(times) == 5
    assert times == sorted(times, reverse=True)


def test_every_answer_says_how_complete_it_is(either: Target) -> None:
    (answer,) = either.ask({"kind": "totals", "metrics": METRICS, "range": day_range(yesterday(), 2)})
    meta = answer["meta"]
    assert datetime.fromisoformat(meta["as_of"]) <= datetime.now(UTC) + timedelta(seconds=5)
    assert meta["freshness_s"] >= 0
    assert {"final_until", "late_events", "exact", "source"} <= set(meta)


def test_a_faulty_query_is_told_with_what_is_wrong(either: Target) -> None:
    answer = either.post("/v1/query", {"kind": "totals", "metrics": ["evnts"], "range": day_range(yesterday())})
    assert 400 <= answer.status_code < 500
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert "evnts" in answer.text


def test_nothing_is_answered_to_strangers(either: Target) -> None:
    for method, path in [("POST", "/v1/query"), ("GET", "/v1/live"), ("POST", "/v1/session/refresh")]:
        answer = httpx.request(method, f"{either.base_url}{path}", json={"queries": []}, timeout=10)
        assert answer.status_code == 401, path


def test_a_code_is_exchanged_once_for_a_cookie_that_scripts_cannot_read(either: Target) -> None:
    code = either.post("/v1/session/codes", {}).json()["code"]
    with httpx.Client(base_url=either.base_url, headers={"Origin": either.base_url}, timeout=10) as browser:
        answer = browser.post("/v1/session", json={"code": code})
        assert answer.status_code == 200
        cookies = answer.headers.get_list("set-cookie")
        assert cookies
        assert all("httponly" in cookie.lower() and "samesite=strict" in cookie.lower() for cookie in cookies)
        body = answer.json()
        assert body["customer"]["customer_id"] == either.ready["customers"][0]["customer_id"]
        lasts = datetime.fromisoformat(body["expires_at"]) - datetime.now(UTC)
        assert timedelta(0) < lasts <= timedelta(minutes=15, seconds=5)
        assert browser.post("/v1/session/refresh").json()["customer"] == body["customer"]
        assert browser.delete("/v1/session").status_code == 204
        assert browser.post("/v1/session/refresh").status_code == 401
        assert browser.post("/v1/session", json={"code": code}).status_code == 401


def test_another_sites_page_cannot_use_the_session(either: Target) -> None:
    code = either.post("/v1/session/codes", {}).json()["code"]
    foreign = {"Origin": "https://elsewhere.example"}
    with httpx.Client(base_url=either.base_url, timeout=10) as browser:
        assert browser.post("/v1/session", json={"code": code}, headers=foreign).status_code == 403
        browser.post("/v1/session", json={"code": code}, headers={"Origin": either.base_url}).raise_for_status()
        body: dict[str, Any] = {"queries": []}
        for path in ("/v1/session/refresh", "/v1/query"):
            assert browser.post(path, json=body, headers=foreign).status_code == 403, path


def test_each_customer_sees_its_own_events_only(either: Target) -> None:
    asked = {"kind": "totals", "metrics": ["events"], "range": day_range(yesterday())}
    assert either.ask(asked, place=BLANK)[0]["rows"][0][0] == 0


def test_the_stream_tells_of_an_event_within_seconds(either: Target) -> None:
    seen: dict[str, Any] = {}
    with httpx.stream("GET", f"{either.base_url}/v1/live", headers=either.headers(), timeout=15) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        kind = ""
        either.send([{"type": "track", "event": "streamed", "userId": "ada", "properties": {}}])
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            if line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))
                if kind == "stats":
                    seen["stats"] = data
                if kind == "events" and any(event["event"] == "streamed" for event in data["events"]):
                    seen["events"] = data
            if len(seen) == 2:
                break
    assert {"as_of", "freshness_s"} <= set(seen["stats"])
    assert {"message_id", "event", "user_id", "timestamp"} <= set(seen["events"]["events"][0])
