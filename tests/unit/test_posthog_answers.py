"""PostHog's second capture, all its answers, and what its SDKs ask for beside sending events."""

import json
from typing import Any

import pytest

from producers.gateway.answers import Refusal, Rejection
from producers.gateway.protocols import posthog
from producers.gateway.protocols.decoder import Decoded
from tests.unit.test_posthog_protocol import (
    NOW_US,
    SECOND_US,
    SENT,
    SENT_US,
    TABLE,
    TIMESTAMP,
    V1,
    decode,
    decoder_of,
    only,
    request,
    row,
)

V1_HEADERS = {
    "authorization": "Bearer wk",
    "posthog-sdk-info": "posthog-python/7.91.1",
    "posthog-attempt": "2",
    "posthog-request-id": "r",
    "posthog-request-timestamp": SENT,
}
V1_EVENT = {
    "event": "e", "uuid": "u-1", "distinct_id": "d", "timestamp": "2026-11-24T02:56:40Z",
    "options": {"process_person_profile": False}, "properties": {"a": 1}, "session_id": "s", "window_id": "w",
}  # fmt: skip


def test_v1_has_its_times_and_its_library_in_headers() -> None:
    decoded = decode(V1, {"created_at": SENT, "batch": [V1_EVENT]}, V1_HEADERS)
    event = only(decoded)
    assert decoded.write_keys == []
    assert (event.message_id, event.anonymous_id, event.session_id, event.attempt) == ("u-1", "d", "s", 2)
    assert event.properties == {"a": 1}
    assert event.context == {
        "library": {"name": "posthog-python", "version": "7.91.1"},
        "options": {"process_person_profile": False},
        "windowId": "w",
    }
    assert row(event)[TIMESTAMP] == NOW_US - 10 * SECOND_US
    assert decoder_of(V1).name == "posthog-v1"


def test_v1_may_leave_the_time_as_it_is() -> None:
    event = {**V1_EVENT, "options": {"disable_skew_correction": True}}
    assert row(only(decode(V1, {"batch": [event]}, V1_HEADERS)))[TIMESTAMP] == SENT_US - 10 * SECOND_US


def test_v1_traits_stand_within_the_properties() -> None:
    event = {**V1_EVENT, "event": "$set", "properties": {"$set": {"a": 1}, "$os": "x"}}
    assert only(decode(V1, {"batch": [event]}, V1_HEADERS)).properties == {"a": 1}


def test_v1_says_what_became_of_each_event() -> None:
    body = b"""{"batch":[{"uuid":"a","event":"e"},{"uuid":"b","event":"e","properties":{"x":NaN}},5,{"event":"e"},
        {"uuid":"c"}]}"""
    decoded = decode(V1, body, V1_HEADERS)
    rejections = [
        Rejection(1, "non_finite_number"),
        Rejection(2, "not_an_object"),
        Rejection(4, "missing_event_name"),
    ]
    told = decoder_of(V1).success(request(V1), decoded, rejections)
    assert (told.status, json.loads(told.body)) == (
        200,
        {
            "results": {
                "a": {"result": "ok"},
                "b": {"result": "drop", "details": "non_finite_number"},
                "c": {"result": "drop", "details": "missing_event_name"},
            }
        },
    )


def test_v1_has_results_even_of_nothing() -> None:
    assert json.loads(decoder_of(V1).success(request(V1), decode(V1, {"batch": []}), []).body) == {"results": {}}


# Answers


def test_v0_answers_that_all_is_well() -> None:
    decoder, asked = posthog.BATCH, request("/batch")
    assert (decoder.success(asked, Decoded([]), []).status, decoder.success(asked, Decoded([]), []).body) == (
        200,
        b'{"status":1}',
    )
    told = json.loads(decoder.success(asked, Decoded([]), [Rejection(3, "too_deep")]).body)
    assert told == {"status": 1, "rejected": [{"index": 3, "reason": "too_deep"}]}


@pytest.mark.parametrize("path", ["/batch", V1])
def test_refusals_have_what_sdks_look_for(path: str) -> None:
    refused = decoder_of(path).failure(request(path), Refusal(429, "quota", "slower", 2))
    assert refused.status == 429
    assert refused.headers == ((b"retry-after", b"2"),)
    told = json.loads(refused.body)
    assert (told["code"], told["message"], told["success"], told["status"]) == (429, "slower", False, 0)
    assert told["detail"] == told["error_description"] == "slower"
    assert not decoder_of(path).failure(request(path), Refusal(400, "malformed_json", "no")).headers


# Documents


def test_the_configuration_turns_everything_off_but_events() -> None:
    answers = {}
    for path in ("/array/wk/config", "/array/wk/config.js/"):
        found = TABLE.find(path)
        assert found is not None and found[0].document is not None
        assert found[1] == {"write_key": "wk"}
        assert found[0].document.write_key(request(path)) == "wk"
        answers[path] = found[0].document.answer(request(path), "w</script>\u2028")
    plain, script_answer = answers.values()
    assert (plain.status, plain.content_type) == (200, b"application/json")
    assert (script_answer.status, script_answer.content_type) == (200, b"application/javascript")
    script = script_answer.body.decode()
    assert "</" not in script and script.isascii()
    config = json.loads(script[script.index("]=") + 2 : script.index("})(window)")])
    assert config["config"]["sessionRecording"] is False
    assert config["config"]["token"] == "w</script>\u2028"
    assert config["config"] == json.loads(plain.body)
    assert "hasFeatureFlags" not in config["config"], "else nobody who waits for flags is called"


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        ("/flags/", {"v": "2"}, {"flags": {}, "featureFlags": {}, "errorsWhileComputingFlags": False}),
        ("/decide", {"v": "3"}, {"featureFlags": {}, "featureFlagPayloads": {}, "sessionRecording": False}),
        ("/decide", {}, {"featureFlags": []}),
        ("/flags/definitions", {}, {"flags": [], "cohorts": {}}),
        ("/s/", {}, {"status": 1}),
        ("/i/v0/s", {}, {"status": 1}),
    ],
)
def test_what_else_is_asked_for_is_answered(path: str, query: dict[str, str], expected: dict[str, Any]) -> None:
    found = TABLE.find(path)
    assert found is not None and found[0].fixed is not None
    answer = found[0].fixed(request(found[0].path, None, None, **query))
    assert answer.status == 200
    assert json.loads(answer.body).items() >= expected.items()
