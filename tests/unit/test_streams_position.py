"""Where a fetch lies to our position, and what proves that a log is the one that was folded."""

import pytest

from headrace.errors import GapError, IncarnationError
from streams.position import (
    Fit,
    SourceLog,
    SourcePosition,
    check_begin,
    check_incarnation,
    check_last_record,
    record_crc,
)

LOG = SourceLog("events", "id-1", 3, begin_offset=100, end_offset=200)


@pytest.mark.parametrize(
    ("first", "last", "fit"),
    [
        (50, 50, Fit.USABLE),
        (40, 50, Fit.USABLE),
        (50, 90, Fit.USABLE),
        (51, 90, Fit.AHEAD),
        (40, 49, Fit.BEHIND),
    ],
)
def test_fit(first: int, last: int, fit: Fit) -> None:
    assert SourcePosition(50).fit(first, last) is fit


def test_a_hole_moves_the_position_to_what_follows_it() -> None:
    position = SourcePosition(50)
    position.skip_hole(53)
    assert position.next_offset == 53
    assert position.fit(53, 60) is Fit.USABLE


def test_a_position_before_the_log_is_a_gap() -> None:
    check_begin(LOG, 100)
    with pytest.raises(GapError, match=r"begins at 100, but only records below 99 are folded: 1 were deleted"):
        check_begin(LOG, 99)


def test_another_topic_id_is_another_incarnation() -> None:
    check_incarnation(LOG, "id-1")
    with pytest.raises(IncarnationError, match=r"id-0.*id-1"):
        check_incarnation(LOG, "id-0")


def test_the_last_record_must_be_the_one_that_was_folded() -> None:
    check_last_record(LOG, 150, b"value", record_crc(b"value"))
    check_last_record(LOG, 150, None, record_crc(None))
    with pytest.raises(GapError, match="record 149 of events partition 3 is not the one"):
        check_last_record(LOG, 150, b"other", record_crc(b"value"))
