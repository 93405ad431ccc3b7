"""What must hold of every answer, whatever was sent."""

import json
import re
from typing import Any, Final

from producers.gateway.normalise import REASONS, Row
from producers.gateway.oversize import REASONS as BODY_REASONS
from producers.gateway.protocols import routes
from producers.gateway.taken import UNPROCESSABLE
from schemas.codec import event_arrow
from schemas.event import (
    DIMENSION_BYTES_MAX,
    EVENT_TYPES,
    MESSAGE_ID_CHARS_MAX,
    TIMESTAMP_US_MAX,
    TIMESTAMP_US_MIN,
    VALUE_E6_MAX,
)
from tests.fuzz.door import Outcome
from tests.fuzz.sent import Sent

CPU_SECONDS_MAX: Final = 2.0
"""Of work for one request. Wall clock is only told: it is the machine's."""
STATUSES: Final = frozenset((200, 400, 401, 404, 405, 413, 415, 429))
_HEADER_NAME: Final = re.compile(rb"[a-z0-9-]+")
_REASON: Final = re.compile(r"[a-z0-9_]{1,40}")
_CLOUD: Final = "cloudevents-http"
_LISTS: Final = {
    "segment-v1": "batch",
    "posthog-v0": "batch",
    "posthog-v1": "batch",
    "amplitude": "events",
    "snowplow-tp2": "data",
}
_NAMES: Final = tuple(event_arrow().names)
_DIMENSIONS: Final = ("name", "path", "referrer_domain", "utm_source", "utm_medium", "utm_campaign", "country",
                      "browser", "os", "device")  # fmt: skip
_UNFIT: Final = re.compile("[\x00\ud800-\udfff]").search
_TABLE: Final = routes()


def faults(sent: Sent, outcome: Outcome) -> list[str]:
    """What is wrong with an outcome, in sentences; nothing if all is as it must be."""
    found = list(outcome.faults)
    if not outcome.status:
        return found
    if outcome.status not in STATUSES:
        found.append(f"status {outcome.status}: {outcome.body[:300]!r}")
    if outcome.cpu_seconds > CPU_SECONDS_MAX:
        found.append(f"it took {outcome.cpu_seconds:.1f} s of work")
    found += _headers(sent, outcome)
    found += _accounting(sent, outcome)
    for row in outcome.rows:
        found += _row(row)
    if outcome.status >= 400 or outcome.body:
        found += _body(sent, outcome)
    return found


def _headers(sent: Sent, outcome: Outcome) -> list[str]:
    found = []
    headers = outcome.headers
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or any(byte in value for byte in (b"\r", b"\n", b"\x00")):
            found.append(f"a header that cannot be sent: {name!r}: {value!r}")
    if headers.get(b"content-length") != b"%d" % len(outcome.body):
        found.append(f"content-length {headers.get(b'content-length')!r} of {len(outcome.body)} bytes")
    if (outcome.status == 429) != headers.get(b"retry-after", b"").isdigit():
        found.append(f"status {outcome.status} with Retry-After {headers.get(b'retry-after')!r}")
    origin = dict(sent.headers).get(b"origin")
    if origin:
        if headers.get(b"access-control-allow-origin") != origin:
            found.append(f"CORS allows {headers.get(b'access-control-allow-origin')!r}, not {origin!r}")
        if headers.get(b"access-control-allow-credentials") != b"true":
            found.append("CORS allows no credentials")
        if b"retry-after" in headers and b"Retry-After" not in headers.get(b"access-control-expose-headers", b""):
            found.append("Retry-After is not exposed")
    return found


def _accounting(sent: Sent, outcome: Outcome) -> list[str]:
    """Each event is stored, or set aside, or must not be kept; of a refused request nothing is."""
    found = []
    rows, rejected = len(outcome.rows), len(outcome.rejected)
    accepted = 200 <= outcome.status < 300 and outcome.events is not None
    if accepted or _is_strict_import(sent, outcome):
        assert outcome.events is not None
        if outcome.events != rows + rejected + outcome.not_tracked:
            told = f"{rows} stored, {rejected} set aside, {outcome.not_tracked} not tracked"
            found.append(f"{outcome.events} events, {told}")
        declared = _declared_events(sent, outcome)
        if declared is not None and declared != outcome.events:
            found.append(f"the body lists {declared} events, {outcome.events} were decoded")
        if outcome.rejections != rejected:
            found.append(f"{rejected} events set aside, {outcome.rejections} told")
    elif outcome.status == 200 and outcome.decoder:  # too large, and told as taken: what is left of it is one record
        if (
            rows
            or rejected + outcome.not_tracked != 1
            or any(item.reason not in BODY_REASONS for item in outcome.rejected)
        ):
            found.append(f"refused as if it was taken, and {rows} events stored, {rejected} set aside")
    elif rows or rejected:
        found.append(f"status {outcome.status}, and {rows} events stored, {rejected} set aside")
    for item in outcome.rejected:
        if item.reason not in REASONS | BODY_REASONS:
            found.append(f"set aside for the unknown reason {item.reason!r}")
        if not item.raw or not item.message:
            found.append(f"set aside without a trace: {item}")
        if item.reason == UNPROCESSABLE:
            found.append(f"unprocessable, which is a fault of ours: {item.message} {item.raw[:300]!r}")
    return found


def _row(row: Row) -> list[str]:
    """What `normalise` guarantees of each row."""
    event = dict(zip(_NAMES, row, strict=True))
    found = [f"{name} holds {text[:60]!r}" for name, text in event.items() if isinstance(text, str) and _UNFIT(text)]
    if not 0 < len(event["message_id"]) <= MESSAGE_ID_CHARS_MAX:
        found.append(f"message id {event['message_id']!r}")
    if event["type"] not in EVENT_TYPES or (event["type"] == "track" and not event["name"]):
        found.append(f"type {event['type']!r} and name {event['name']!r}")
    found += [
        f"{name} is {event[name]}"
        for name in ("timestamp_us", "original_timestamp_us")
        if event[name] is not None and not TIMESTAMP_US_MIN <= event[name] < TIMESTAMP_US_MAX
    ]
    found += [
        f"{name} is too long: {event[name][:60]!r}"
        for name in _DIMENSIONS
        if len((event[name] or "").encode("utf-8", "replace")) > DIMENSION_BYTES_MAX
    ]
    if event["value_e6"] is not None and abs(event["value_e6"]) > VALUE_E6_MAX:
        found.append(f"value {event['value_e6']}")
    for name in ("properties", "context"):
        try:
            is_object = isinstance(json.loads(event[name], parse_constant=_refuse), dict)
        except ValueError:
            is_object = False
        if not is_object:
            found.append(f"{name} are no JSON object: {event[name][:200]!r}")
    return found


def _refuse(name: str) -> None:
    raise ValueError(name)


def _declared_events(sent: Sent, outcome: Outcome) -> int | None:
    """How many events a body lists by its protocol's own words; None where that takes more than reading JSON."""
    decoder, headers = outcome.decoder, dict(sent.headers)
    if len(outcome.rejected) == 1 and outcome.rejected[0].raw == sent.body:
        return None  # what is wrong stands around the events: all of it is set aside as one
    if sent.method != "POST" or headers.get(b"content-encoding") or sent.body[:1] not in (b"{", b"["):
        return None
    try:
        body = json.loads(sent.body)
    except (ValueError, RecursionError):
        return None
    if isinstance(body, list):
        is_binary = any(name.startswith(b"ce-") for name in headers)
        return len(body) if decoder in ("posthog-v0", "mixpanel") or (decoder == _CLOUD and not is_binary) else None
    if decoder == "segment-v1" and not sent.path.rstrip("/").endswith(("/batch", "/b", "/import")):
        return 1
    listed = body.get(_LISTS.get(decoder, "")) if isinstance(body, dict) else None
    return len(listed) if isinstance(listed, list) else None


def _is_strict_import(sent: Sent, outcome: Outcome) -> bool:
    """Mixpanel's /import with strict=1 answers 400 when something was set aside, and stores the rest: its API."""
    path = sent.path.rstrip("/")
    return (
        path == "/import" and outcome.status == 400 and outcome.rejections > 0 and b"failed_records" in outcome.body
    )


def _body(sent: Sent, outcome: Outcome) -> list[str]:
    """Bodies that the protocol's SDKs can read."""
    content_type, body = outcome.headers.get(b"content-type", b""), outcome.body
    if content_type == b"image/gif":
        return [] if outcome.status == 200 and body.startswith(b"GIF89a") else ["an image that is none"]
    if content_type.startswith(b"application/json"):
        return _json(sent, outcome)
    if outcome.status < 400:  # fixed documents, and the short answers below
        return []
    told = outcome.headers.get(b"x-headrace-refused", b"").decode()
    if outcome.decoder == "mixpanel" and body == b"0" and _REASON.fullmatch(told):
        return []
    return [f"an error that no SDK can read: {content_type!r} {body[:100]!r}"]


def _json(sent: Sent, outcome: Outcome) -> list[str]:
    try:
        told = json.loads(outcome.body.decode())
    except ValueError as error:
        return [f"a body that is no JSON ({error}): {outcome.body[:200]!r}"]
    route = _TABLE.find(sent.path)
    has_decoder = route is not None and route[0].decoder is not None
    is_refused = outcome.status >= 400 or (has_decoder and sent.method != "OPTIONS" and outcome.events is None)
    if not is_refused:
        return [] if isinstance(told, dict | list) else ["a JSON answer that is no object"]
    if _is_strict_import(sent, outcome):
        return _strict(told, outcome)
    return _refusal(told, outcome)


def _refusal(told: Any, outcome: Outcome) -> list[str]:
    if not isinstance(told, dict):
        return ["a refusal that is no object"]
    found = []
    if told.get("success") is not False or told.get("status") != 0:
        found.append(f"a refusal that claims success: {told}")
    if not isinstance(told.get("message"), str) or not told["message"]:
        found.append(f"a refusal without a message: {told}")
    # Amplitude's SDKs show `error` to people; the name stands beside it.
    reason = told.get("reason" if outcome.decoder == "amplitude" and "reason" in told else "error")
    if not isinstance(told.get("error"), str) or not isinstance(reason, str) or not _REASON.fullmatch(reason):
        found.append(f"a refusal without a stable name: {told}")
    code = told.get("code")
    if code != outcome.status and not (
        outcome.decoder == "snowplow-tp2" and "dropped" in told and code in (413, 415)
    ):
        found.append(f"status {outcome.status} with code {code}")
    return found


def _strict(told: Any, outcome: Outcome) -> list[str]:
    taken = len(outcome.rows) + outcome.not_tracked
    if told.get("code") != 400 or told.get("num_records_imported") != taken:
        return [f"{taken} records imported, told is {told}"]
    return [] if len(told["failed_records"]) == outcome.rejections else [f"not all failed records told: {told}"]
