"""Inputs that once broke something, each as small as it could be made, and what they must give."""

from typing import Any

import pytest

from tests.fuzz.hunt import faults_of
from tests.fuzz.sent import Sent
from tests.fuzz.test_judge import outcome_of

KEYED = ((b"authorization", b"Bearer wk_test"),)


@pytest.mark.parametrize(
    ("element", "kept"),
    [(b'""', b'""'), (b"null", b"null"), (b"[1,true]", b"[1,true]"), (b'"\\u00e9"', b'"\xc3\xa9"')],
)
def test_what_is_no_event_is_kept_as_the_json_that_it_was(element: bytes, kept: bytes) -> None:
    """An empty text left an empty record in `events.rejected`, other values stood there as Python writes them."""
    sent = Sent("POST", "/v1/batch", headers=KEYED, body=b'{"batch":[' + element + b"]}")
    outcome = outcome_of(sent)
    assert [(item.reason, item.raw) for item in outcome.rejected] == [("not_an_object", kept)]
    assert faults_of(sent) == []


LISTS: tuple[tuple[str, bytes, bytes], ...] = (
    ("/v1/batch", b'{"batch":[', b"]}"),
    ("/e", b'{"batch":[', b"]}"),
    ("/i/v1/analytics/events", b'{"batch":[', b"]}"),
    ("/2/httpapi", b'{"events":[', b"]}"),
    ("/com.snowplowanalytics.snowplow/tp2", b'{"data":[', b"]}"),
    ("/track", b"[", b"]"),
    ("/engage", b"[", b"]"),
    ("/v1/cloudevents", b"[", b"]"),
)


@pytest.mark.parametrize(("path", "head", "tail"), LISTS)
@pytest.mark.parametrize("opens", [b"[", b'{"a":'])
def test_no_depth_of_an_element_is_a_fault(path: str, head: bytes, tail: bytes, opens: bytes) -> None:
    """What just can be parsed may be too deep to be written again."""
    closes: Any = {b"[": b"]", b'{"a":': b"}"}[opens]
    for levels in (*range(58, 70), *range(960, 1_030, 3), 5_000):
        body = head + opens * levels + b"1" + closes * levels + b"," + b'{"a":1}' + tail
        found = faults_of(Sent("POST", path, headers=KEYED, body=body))
        assert found == [], (levels, found)
