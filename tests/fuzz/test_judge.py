"""The fuzzing can fail: each promise, broken on purpose, is found; and an input is the same whenever it is made."""

import asyncio
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from producers.gateway.answers import Answer, Refusal, Rejection
from producers.gateway.protocols.decoder import Decoded, Request
from producers.gateway.protocols.segment import SegmentBatch
from producers.gateway.receiver import Receiver
from tests.fuzz.door import Door, Outcome
from tests.fuzz.hunt import faults_of, hunt, parsed
from tests.fuzz.judge import faults
from tests.fuzz.mutate import numbered
from tests.fuzz.sent import Sent

GOOD = {"type": "track", "event": "e", "messageId": "m"}
HEADERS = ((b"authorization", b"Bearer wk_test"), (b"origin", b"https://shop.example"))
BATCH = Sent("POST", "/v1/batch", headers=HEADERS, body=json.dumps({"batch": [GOOD, 1, GOOD]}).encode())
REFUSED = Sent("POST", "/v1/batch", headers=HEADERS, body=b"{")


def outcome_of(sent: Sent) -> Outcome:
    async def run() -> Outcome:
        return await Door().ask(sent)

    return asyncio.run(run())


def test_what_is_in_order_is_found_in_order() -> None:
    outcome = outcome_of(BATCH)
    assert (outcome.status, outcome.events, len(outcome.rows), len(outcome.rejected)) == (200, 3, 2, 1)
    assert faults(BATCH, outcome) == []
    assert outcome_of(REFUSED).status == 400
    assert faults_of(REFUSED) == []


def test_inputs_are_the_same_whenever_they_are_made() -> None:
    first = [numbered(number) for number in range(300)]
    assert [numbered(number) for number in reversed(range(300))] == first[::-1]
    assert all(parsed(repr(sent)) == sent for sent in first)


def _raises(_self: Any, _request: Request, _most: int) -> Decoded:
    raise KeyError("batch")


class _Faulty(Sequence[Any]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: Any) -> Any:
        raise ZeroDivisionError


def _faulty_event(_self: Any, _request: Request, _most: int) -> Decoded:
    return Decoded(_Faulty())


def _unreadable(_self: Any, _request: Request, refusal: Refusal) -> Answer:
    return Answer(refusal.status, b"no", b"text/plain")


def _wordless(_self: Any, _request: Request, refusal: Refusal) -> Answer:
    return Answer(refusal.status, b'{"success":false,"status":0,"code":400}')


def _split_header(_self: Any, _request: Request, _decoded: Decoded, _rejections: Sequence[Rejection]) -> Answer:
    return Answer(200, b"{}", headers=((b"x-told", b"a\r\nb: c"),))


def _refuses_what_it_took(
    _self: Any, _request: Request, _decoded: Decoded, _rejections: Sequence[Rejection]
) -> Answer:
    return Answer(400, b'{"success":false,"status":0,"code":400,"message":"m","error":"e"}')


@pytest.mark.parametrize(
    ("sent", "method", "fault", "says"),
    [
        (BATCH, "decode", _raises, "status 500"),
        (BATCH, "decode", _faulty_event, "unprocessable"),
        (BATCH, "success", _split_header, "cannot be sent"),
        (BATCH, "success", _refuses_what_it_took, "events stored"),
        (REFUSED, "failure", _unreadable, "no SDK can read"),
        (REFUSED, "failure", _wordless, "without a message"),
    ],
)
def test_a_faulty_protocol_is_found(
    monkeypatch: pytest.MonkeyPatch, sent: Sent, method: str, fault: Callable[..., Any], says: str
) -> None:
    monkeypatch.setattr(SegmentBatch, method, fault)
    assert any(says in sentence for sentence in faults_of(sent))


def test_a_lost_event_a_lost_origin_and_an_exception_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = outcome_of(BATCH)
    lost = dataclasses.replace(outcome, rows=outcome.rows[:1])
    assert faults(BATCH, lost) == ["3 events, 1 stored, 1 set aside, 0 not tracked"]
    bare = dataclasses.replace(outcome, headers=outcome.headers | {b"access-control-allow-origin": b"*"})
    assert any("CORS" in sentence for sentence in faults(BATCH, bare))
    slow = dataclasses.replace(outcome, cpu_seconds=2.5)
    assert faults(BATCH, slow) == ["it took 2.5 s of work"]

    async def broken(*_: Any) -> Answer:
        raise RuntimeError("boom")

    monkeypatch.setattr(Receiver, "_answer", broken)
    assert any("raised" in sentence for sentence in faults_of(BATCH))


def test_a_row_that_cannot_be_read_again_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.door.encode_rows", lambda rows: [b"\x00" for _ in rows])
    assert any("cannot be read" in sentence for sentence in faults_of(BATCH))


@pytest.mark.parametrize(
    ("place", "fault", "says"),
    [
        ("producers.gateway.json_body.clean", lambda value: value, "UnicodeEncodeError"),
        ("producers.gateway.protocols.snowplow_event.milliseconds", float, "status 500"),
        ("producers.gateway.normalise.is_plausible", lambda _: True, "timestamp_us is"),
        ("producers.gateway.normalise.bounded", str, "name is too long"),
        ("producers.gateway.protocols.mixpanel_body.unquote", lambda text: text.decode().encode(), "status 500"),
    ],
)
def test_a_fault_in_one_corner_is_found_by_chance(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str, fault: Callable[..., Any], says: str
) -> None:
    """Whoever removes a guard from the code hears of it from a run of the usual length."""
    monkeypatch.setattr("tests.fuzz.hunt.FOLDER", tmp_path)
    monkeypatch.setattr(place, fault)
    seen = hunt(range(4_000), findings_max=1)
    assert seen.findings
    assert any(says in finding for finding in seen.findings)
    assert len(list(tmp_path.iterdir())) == len(seen.findings), "kept, to be run again"


def test_an_event_that_a_protocol_loses_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = SegmentBatch.decode

    def forgetful(self: SegmentBatch, request: Request, most: int) -> Decoded:
        decoded = decode(self, request, most)
        return dataclasses.replace(decoded, events=decoded.events[:-1])

    monkeypatch.setattr(SegmentBatch, "decode", forgetful)
    assert faults_of(BATCH) == ["the body lists 3 events, 2 were decoded"]
