"""How complete an answer is: its `meta` block. Pure.

`as_of`: every event that Kafka had acknowledged by then is in the answer. `final_until`: windows that end by then
are final, later ones provisional (an event can still come in time). Where nothing was ever stored, both are null.
"""

from dataclasses import dataclass
from typing import Any, Literal

from api.query.question import Question
from api.query.ranges import MINUTE_S, SECOND_US, rfc3339
from api.query.result import Position

Source = Literal["postgres", "clickhouse"]


@dataclass(frozen=True, slots=True)
class Completeness:
    """What is said of an answer besides its rows."""

    source: Source
    position: Position | None
    exact: bool
    rows_read: int
    late_events: int | None
    why: str | None = None
    """Why the raw events were asked."""


def meta(found: Completeness, question: Question, *, now_us: int, grace_s: int, elapsed_s: float) -> dict[str, Any]:
    """The block as it is sent."""
    position = found.position
    known = position is not None and position.as_of_us > 0
    final_us = final_until_us(position, grace_s)
    block: dict[str, Any] = {
        "as_of": rfc3339(position.as_of_us) if position is not None and known else None,
        "freshness_s": (
            round(max(0, now_us - position.as_of_us) / SECOND_US, 3) if position is not None and known else None
        ),
        "final_until": rfc3339(final_us) if final_us is not None else None,
        "late_events": found.late_events,
        "exact": found.exact,
        "users": "unstitched",
        "partial_shards": [],
        "source": found.source,
        "cached": False,
        "elapsed_ms": round(elapsed_s * 1000, 2),
        "rows_read": found.rows_read,
    }
    if found.why:
        block["source_reason"] = found.why
    if question.buckets:
        block["open_buckets"] = open_buckets(question, final_us, now_us)
    return block


def comparison_meta(found: Completeness, grace_s: int) -> dict[str, Any]:
    """What is said of the range compared with."""
    position = found.position
    final_us = final_until_us(position, grace_s)
    return {
        "source": found.source,
        "exact": found.exact,
        "as_of": rfc3339(position.as_of_us) if position is not None and position.as_of_us > 0 else None,
        "final_until": rfc3339(final_us) if final_us is not None else None,
    }


def final_until_us(position: Position | None, grace_s: int) -> int | None:
    """Windows that end by this instant are final."""
    if position is None or position.watermark_us <= 0:
        return None
    seconds = position.watermark_us // SECOND_US - grace_s
    return max(0, seconds - seconds % MINUTE_S) * SECOND_US


def open_buckets(question: Question, final_us: int | None, now_us: int) -> list[dict[str, str]]:
    """The buckets that are not final: `incomplete` while their time runs, `provisional` until they are final,
    `clipped` where the range cuts them. Those not named are final and whole."""
    out = []
    for bucket in question.buckets:
        if bucket.end_us > now_us:
            state = "incomplete"
        elif final_us is None or bucket.end_us > final_us:
            state = "provisional"
        elif bucket.start_us != bucket.from_us or bucket.end_us != bucket.to_us:
            state = "clipped"
        else:
            continue
        out.append({"time": rfc3339(bucket.start_us, question.asked.zone), "state": state})
    return out
