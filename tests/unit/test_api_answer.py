"""How answers say what they are: zero-filled rows, open intervals, and what is not known."""

from datetime import datetime

from api.query import answer, completeness, model, question
from api.query.completeness import Completeness
from api.query.question import Question
from api.query.result import Group, Position, Result


def us(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1_000_000)


NOW = us("2026-03-04T10:20:30+00:00")


def asked(**fields: object) -> Question:
    parsed = model.parse({"range": {"from": "2026-03-04T10:15:00Z", "to": "now"}} | fields, batch_max=1)
    assert not isinstance(parsed, list)
    return question.resolve(parsed, NOW)


def test_a_timeseries_is_filled_and_every_tuple_has_every_interval() -> None:
    cut = asked(kind="timeseries", interval="minute", dimensions=["country"], metrics=["events", "avg(value)"])
    groups = [Group(1, ("France",), (3, 1.5)), Group(5, ("",), (2, None))]
    rows = answer.measured(cut, Result(groups, None, exact=True, rows_read=2), None)["rows"]
    assert len(rows) == 12
    assert rows[0] == ["2026-03-04T10:15:00Z", "France", 0, None]
    assert rows[1] == ["2026-03-04T10:16:00Z", "France", 3, 1.5]
    assert rows[11] == ["2026-03-04T10:20:00Z", None, 2, None], "an unset dimension is null"


def test_intervals_are_incomplete_then_provisional_then_final() -> None:
    minutes = asked(kind="timeseries", interval="minute")
    # The watermark is at 10:20:10 and the grace a minute: what ends by 10:19 is final.
    position = Position("topic", 9, us("2026-03-04T10:20:10+00:00"), us("2026-03-04T10:20:12+00:00"))
    found = Completeness("postgres", position, exact=True, rows_read=1, late_events=0)
    meta = completeness.meta(found, minutes, now_us=NOW, grace_s=60, elapsed_s=0.01)
    assert meta["final_until"] == "2026-03-04T10:19:00Z"
    assert meta["freshness_s"] == 18.0
    states = {item["time"][11:16]: item["state"] for item in meta["open_buckets"]}
    assert states == {"10:19": "provisional", "10:20": "incomplete"}


def test_an_interval_that_the_range_cuts_says_so() -> None:
    cut = {"from": "2026-03-04T07:30:00Z", "to": "2026-03-04T09:00:00Z"}
    hours = asked(kind="timeseries", interval="hour", range=cut)
    position = Position("topic", 9, NOW, NOW)
    states = completeness.open_buckets(hours, completeness.final_until_us(position, 60), NOW)
    assert states == [{"time": "2026-03-04T07:00:00Z", "state": "clipped"}]


def test_where_nothing_was_ever_stored_nothing_is_claimed() -> None:
    for position in (None, Position("topic", 0, 0, 0)):
        found = Completeness("postgres", position, exact=True, rows_read=0, late_events=0)
        meta = completeness.meta(found, asked(kind="totals"), now_us=NOW, grace_s=60, elapsed_s=0)
        assert (meta["as_of"], meta["freshness_s"], meta["final_until"]) == (None, None, None)
        assert "open_buckets" not in meta


def test_a_clock_behind_the_brokers_makes_no_negative_age() -> None:
    found = Completeness("postgres", Position("t", 1, NOW, NOW + 5_000_000), exact=True, rows_read=0, late_events=0)
    assert completeness.meta(found, asked(kind="totals"), now_us=NOW, grace_s=60, elapsed_s=0)["freshness_s"] == 0
