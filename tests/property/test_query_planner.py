"""Whatever is asked: pieces cover the range once, cross no bucket, and rely on no row that may be gone."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

from hypothesis import example, given
from hypothesis import strategies as st

from api.query import ranges
from api.query.planner import RETENTION_MARGIN_S, Piece, RawPlan, Retention, RollupPlan, cover, plan
from api.query.question import Question
from api.query.ranges import SECOND_US, Bucket, TimeRange, TooManyBucketsError
from api.query.terms import Dimension, Metric
from schemas.rollups import ROLLUPS, Grain

NOW_S = 1_774_952_430
TODAY_S = NOW_S - NOW_S % 86_400
RETENTION = Retention(48 * 3600, 400 * 86_400)
ZONES = (
    "UTC", "Europe/Paris", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia",
    "America/St_Johns", "Asia/Kathmandu", "Africa/Casablanca",
)  # fmt: skip
minutes = st.integers(min_value=NOW_S // 60 - 800 * 1440, max_value=NOW_S // 60 + 1440)
zones = st.sampled_from(ZONES)


@given(minutes, minutes)
def test_cover_is_the_range_once_and_as_coarse_as_can_be(a: int, b: int) -> None:
    from_s, to_s = sorted((a * 60, b * 60))
    pieces = cover(from_s, to_s)
    _check_cover(pieces, from_s, to_s)
    assert len(pieces) <= 5
    days = sum(piece.to_s - piece.from_s for piece in pieces if piece.grain is Grain.DAY)
    assert days == max(0, to_s // 86_400 * 86_400 - -(-from_s // 86_400) * 86_400)


@given(minutes, minutes, zones, st.sampled_from(ranges.INTERVALS))
@example(NOW_S // 60 - 1440 * 90, NOW_S // 60, "Australia/Lord_Howe", "hour")
def test_pieces_cover_the_range_and_none_crosses_a_bucket(a: int, b: int, tz: str, interval: str) -> None:
    from_us, to_us = sorted((a * 60 * SECOND_US, (b + 1) * 60 * SECOND_US))
    if from_us >= to_us:
        to_us = from_us + 60 * SECOND_US
    asked = TimeRange(from_us, to_us, tz)
    try:
        buckets = ranges.buckets(asked, interval)
    except TooManyBucketsError:
        return
    _check_buckets(buckets, asked, interval)
    question = Question(
        kind="timeseries", asked=asked, metrics=(Metric("events"),), interval=interval, buckets=buckets, limit=10
    )
    found = plan(question, RETENTION, NOW_S * SECOND_US)
    if isinstance(found, RawPlan):
        return
    _check_cover(found.pieces, from_us // SECOND_US, to_us // SECOND_US)
    edges = [bucket.from_us // SECOND_US for bucket in buckets[1:]]
    for piece in found.pieces:
        for edge in edges:
            inside = piece.from_s < edge < piece.to_s
            assert not inside or edge % piece.grain.seconds == 0, "a row of this piece would lie in two buckets"
        assert (
            piece.grain is Grain.DAY
            or piece.from_s
            >= NOW_S - (48 * 3600 if piece.grain is Grain.MINUTE else 400 * 86_400) + RETENTION_MARGIN_S
        )
    assert len(found.pieces) <= 15, "a piece costs a branch of SQL"


@given(
    st.lists(st.sampled_from(["event", "path", "country", "device", "os", "utm_source", "user_id"]), unique=True),
    st.sampled_from(["events", "users", "sessions"]),
    st.booleans(),
)
def test_a_rollup_answers_if_and_only_if_it_has_what_is_asked(names: list[str], metric: str, exact: bool) -> None:
    question = Question(
        kind="breakdown",
        asked=TimeRange((TODAY_S - 5 * 86_400) * SECOND_US, TODAY_S * SECOND_US, "UTC"),
        metrics=(Metric(metric),),
        dimensions=tuple(Dimension(name) for name in names),
        exact=exact,
    )
    found = plan(question, RETENTION, NOW_S * SECOND_US)
    columns = {"name" if name == "event" else name for name in names}
    fitting = [rollup for rollup in ROLLUPS if columns <= set(rollup.dimensions)]
    possible = bool(fitting) and metric != "sessions" and not (exact and metric == "users")
    assert isinstance(found, RollupPlan) == possible
    if isinstance(found, RollupPlan):
        assert len(found.rollup.dimensions) == min(len(rollup.dimensions) for rollup in fitting)
        for name, place in found.places.items():
            assert found.rollup.dimensions[place] == {"event": "name"}.get(name, name)


@given(st.integers(1, 59), st.integers(0, 10**6 - 1))
def test_what_is_no_whole_minute_goes_to_the_raw_events(second: int, micros: int) -> None:
    start_us = (NOW_S // 60 * 60 - 3600 + second) * SECOND_US + micros
    question = Question(
        kind="totals", asked=TimeRange(start_us, NOW_S // 60 * 60 * SECOND_US, "UTC"), metrics=(Metric("events"),)
    )
    assert isinstance(plan(question, RETENTION, NOW_S * SECOND_US), RawPlan)


def _check_cover(pieces: Sequence[Piece], from_s: int, to_s: int) -> None:
    at = from_s
    for piece in pieces:
        assert piece.from_s == at
        assert piece.to_s > piece.from_s
        assert piece.from_s % piece.grain.seconds == 0
        assert piece.to_s % piece.grain.seconds == 0
        at = piece.to_s
    assert at == to_s


def _check_buckets(buckets: Sequence[Bucket], asked: TimeRange, interval: str) -> None:
    assert buckets[0].from_us == asked.from_us
    assert buckets[-1].to_us == asked.to_us
    zone = ZoneInfo(asked.tz)
    for before, after in pairwise(buckets):
        assert before.to_us == after.from_us
        assert before.end_us == after.start_us
    for bucket in buckets:
        assert bucket.start_us <= bucket.from_us < bucket.to_us <= bucket.end_us
        start = datetime.fromtimestamp(bucket.start_us // SECOND_US, UTC).astimezone(zone)
        if interval == "minute":
            assert start.second == 0
        elif interval == "week":
            assert start.weekday() == 0 or start.hour != 0 or asked.tz == "Pacific/Apia"
        elif interval == "month":
            assert start.day == 1
