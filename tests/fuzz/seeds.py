"""What the mutations start from: the recorded requests of real SDKs, and by hand one of each way of sending that is
not among them."""

import base64
import gzip
import json
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final
from urllib.parse import parse_qsl

from tests.fuzz.values import Inner, Literal
from tests.unit.sdk_requests import FILE

KEY: Final = "wk_test"
"""The write key of the recorded requests, and of these."""


@dataclass(slots=True)
class Seed:
    """A request before it is written. `body`: a tree of values.py; for `kind` form a dict of its fields, for lines a
    list, for raw bytes. `query` likewise, by name."""

    family: str
    method: str
    path: str
    kind: str = "json"
    body: Any = None
    query: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def copy(self) -> "Seed":
        """One to change."""
        return deepcopy(self)


@cache
def seeds() -> tuple[Seed, ...]:
    """All of them."""
    return (*_recorded(), *_by_hand())


def family_of(path: str) -> str:
    """Whose seeds suit a path."""
    if path.startswith(("/v1/cloudevents",)):
        return "cloudevents"
    if path.startswith(("/pixel/", "/api/px/")):
        return "pixel"
    if path.startswith(("/v1/", "/beacon/", "/api/s/")):
        return "segment batch" if path.endswith(("/batch", "/b", "/import")) else "segment"
    if path == "/i/v1/analytics/events":
        return "posthog v1"
    if path in ("/e", "/capture", "/batch") or path.startswith("/i/v"):
        return "posthog"
    if path in ("/import", "/engage", "/groups", "/track"):
        return "mixpanel"
    if path in ("/2/httpapi", "/httpapi", "/identify", "/groupidentify"):
        return "amplitude"
    return "snowplow"


def _recorded() -> list[Seed]:
    found = []
    for line in FILE.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["method"] == "OPTIONS":
            continue
        body = base64.b64decode(row["body_b64"])
        if body.startswith(b"\x1f\x8b"):
            body = gzip.decompress(body)
        path = row["path"].rstrip("/")
        headers = {name: value for name, value in row["headers"].items() if name not in _CARRIERS}
        if body.startswith(b"data="):
            fields = dict(parse_qsl(body.decode()))
            form = {name: Inner("", json.loads(value)) if name == "data" else value for name, value in fields.items()}
            found.append(Seed(family_of(path), row["method"], path, "form", form, dict(row["query"]), headers))
            continue
        tree = json.loads(body)
        family = family_of(path)
        if family == "snowplow":
            for event in tree["data"]:
                for name in ("ue_pr", "co"):
                    if name in event:
                        event[name] = Inner("", json.loads(event[name]))
        found.append(Seed(family, row["method"], path, "json", tree, dict(row["query"]), headers))
    return found


_CARRIERS: Final = frozenset(("authorization", "content-encoding", "content-length", "host", "connection"))

_ALL: Final[dict[str, Any]] = {
    "run": "x", "n": 1, "price": 159.64, "ok": True, "list": [1, "two", {"k": ["v"]}], "nested": {"a": {"b": None}},
}  # fmt: skip
_MESSAGE: Final[dict[str, Any]] = {
    "type": "track", "event": "Order Completed", "messageId": "m-1", "userId": "u", "anonymousId": "a",
    "timestamp": "2024-02-29T00:00:35.332Z", "sentAt": "2024-02-29T00:00:36Z",
    "properties": {**_ALL, "revenue": "1.5"}, "traits": {"email": "a@b.example"},
    "previousId": "old", "groupId": "g", "sessionId": 5,
    "context": {
        "ip": "203.0.113.10", "locale": "de-CH", "library": {"name": "x", "version": "1"},
        "page": {"url": "https://s.example/p?utm_source=c", "path": "/p", "referrer": "", "search": "", "title": "t"},
        "campaign": {"source": "s", "medium": "m", "name": "n"}, "os": {"name": "Linux"}, "device": {"type": "ios"},
        "location": {"country": "CH"}, "userAgent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/120.0",
        "userAgentData": {"brands": [{"brand": "Chromium", "version": "1"}], "mobile": False, "platform": "Linux"},
    },
}  # fmt: skip
_POSTHOG: Final[dict[str, Any]] = {
    "uuid": "01a20b7c-2f3c-78f7-b101-314a306754ab", "event": "$pageview", "distinct_id": "u",
    "timestamp": "2024-02-29T00:00:35.332Z", "offset": 12,
    "properties": {
        **_ALL, "distinct_id": "u", "token": KEY, "$lib": "web", "$current_url": "https://s.example/p?utm_source=c",
        "$referrer": "$direct", "$ip": "203.0.113.10", "$set": {"a": 1}, "$groups": {"company": "g"},
        "$group_type": "company", "$group_key": "g", "$group_set": {"a": 1}, "$anon_distinct_id": "a", "$os": "Linux",
    },
}  # fmt: skip
_MIXPANEL: Final[dict[str, Any]] = {
    "event": "Order", "properties": {
        **_ALL, "token": KEY, "distinct_id": "u", "time": 1709164835.332, "$insert_id": "i-1", "$device_id": "d",
        "mp_lib": "web", "$os": "Linux", "$browser": "Chrome", "$current_url": "https://s.example/p", "ip": "1.2.3.4",
    },
}  # fmt: skip
_PROFILE: Final[dict[str, Any]] = {
    "$token": KEY, "$distinct_id": "u", "$group_key": "company", "$group_id": "g", "$time": 1709164835332,
    "$ip": "0", "$set": dict(_ALL), "$add": {"n": 1}, "$unset": ["a"], "$union": {"l": [1]},
}  # fmt: skip
_AMPLITUDE: Final[dict[str, Any]] = {
    "event_type": "Order", "time": 1709164798668, "insert_id": "i-1", "user_id": "user-1", "device_id": "device-1",
    "session_id": 1709164798000, "event_properties": dict(_ALL), "user_properties": {"$set": {"a": 1}},
    "groups": {"company": ["g"]}, "group_properties": {"$set": {"a": 1}}, "revenue": 1.5, "ip": "$remote",
    "platform": "Web", "os_name": "Chrome", "country": "CH", "language": "de", "timestamp": 1709164798668,
    "uuid": "u-1", "group_type": "company", "group_value": "g", "library": "amplitude-js/8", "plan": {"branch": "x"},
}  # fmt: skip
_SNOWPLOW: Final[dict[str, Any]] = {
    "e": "ue", "eid": "i-1", "aid": KEY, "p": "web", "tv": "js-4.1", "tna": "n", "uid": "u", "duid": "d",
    "sid": "s", "dtm": "1709164798668", "stm": "1709164799668", "url": "https://s.example/p", "refr": "", "page": "t",
    "res": "1920x1080", "lang": "de", "ua": "Mozilla/5.0", "ip": "1.2.3.4", "se_ac": "a", "se_va": "1.5",
    "tr_tt": "2", "ue_px": Inner("base64url", {
        "schema": "iglu:com.snowplowanalytics.snowplow/unstruct_event/jsonschema/1-0-0",
        "data": {"schema": "iglu:com.acme/event/jsonschema/1-0-0", "data": dict(_ALL)},
    }),
    "cx": Inner("base64url", {
        "schema": "iglu:com.snowplowanalytics.snowplow/contexts/jsonschema/1-0-0",
        "data": [
            {"schema": "iglu:com.snowplowanalytics.snowplow/client_session/jsonschema/1-0-2",
             "data": {"sessionId": "s", "userId": "u"}},
            {"schema": "iglu:com.snowplowanalytics.snowplow/mobile_context/jsonschema/1-0-2",
             "data": {"osType": "ios", "deviceModel": "x"}},
        ],
    }),
}  # fmt: skip
_CLOUD: Final[dict[str, Any]] = {
    "specversion": "1.0", "id": "i-1", "source": "/s", "type": "com.acme.track", "subject": "u",
    "time": "2024-02-29T00:00:35.332Z", "datacontenttype": "application/json", "dataschema": "https://s.example/x",
    "data": {"event": "Order", "properties": dict(_ALL), "userId": "u"}, "anonymousid": "a",
}  # fmt: skip


def _by_hand() -> list[Seed]:
    flat = {
        "writeKey": KEY, "event": "e", "name": "n", "messageId": "m", "userId": "u", "anonymousId": "a",
        "timestamp": "2024-02-29T00:00:35Z", "sentAt": "2024-02-29T00:00:36Z", "properties.plan": "pro",
        "properties.a.b.c": "1", "context.page.url": "https://s.example", "context": "x", "type": "track",
    }  # fmt: skip
    cloud_headers = {f"ce-{name}": str(value) for name, value in _CLOUD.items() if name != "data"}
    batch = {"batch": [_MESSAGE, {**_MESSAGE, "type": "page"}], "sentAt": "2024-02-29T00:00:36Z", "writeKey": KEY}
    structured = {"content-type": "application/cloudevents+json"}
    return [
        Seed("segment", "POST", "/v1/track", body={**_MESSAGE, "writeKey": KEY}),
        Seed("segment", "POST", "/api/s/event", body=_MESSAGE, headers={"x-write-key": f"js.id:{KEY}"}),
        Seed("segment batch", "POST", "/v1/b", body={**batch, "context": {"app": {"name": "x"}}}),
        Seed("segment batch", "POST", "/v1/batch", body={"batch": [_MESSAGE] * 20, "writeKey": KEY}),
        Seed("pixel", "GET", "/pixel/v1/track", "raw", b"", flat),
        Seed("pixel", "GET", "/api/px/track", "raw", b"", {**flat, "data": Inner("base64", _MESSAGE)}),
        Seed("posthog", "POST", "/e", body=[_POSTHOG, {**_POSTHOG, "event": "$identify"}]),
        Seed("posthog", "POST", "/capture", body={**_POSTHOG, "api_key": KEY, "event": "$groupidentify"}),
        Seed("posthog", "POST", "/batch", body={"api_key": KEY, "batch": [_POSTHOG], "sent_at": 1709164836}),
        Seed("posthog", "POST", "/e", "form", {"data": Inner("base64", _POSTHOG)}, {"_": "1709164835332"}),
        Seed("posthog", "POST", "/e", "form", {"data": Inner("gzip64", [_POSTHOG]), "compression": "gzip-js"}),
        Seed("posthog", "GET", "/e", "raw", b"", {"data": Inner("base64", _POSTHOG), "ip": "1", "_": "1709164835"}),
        Seed("posthog", "POST", "/i/v0/e", "base64", {"api_key": KEY, "batch": [_POSTHOG]}),
        Seed(
            "posthog v1", "POST", "/i/v1/analytics/events", body={"batch": [_POSTHOG, _POSTHOG]},
            headers={"authorization": f"Bearer {KEY}", "posthog-attempt": "1", "posthog-sdk-info": "posthog-python/7",
                     "posthog-request-timestamp": "2024-02-29T00:00:36Z"},
        ),
        Seed("posthog", "POST", "/track", body={**_POSTHOG, "api_key": KEY, "properties": {"distinct_id": "u"}}),
        Seed("mixpanel", "POST", "/track", body=[_MIXPANEL, {**_MIXPANEL, "event": "$identify"}], query={"_": "1"}),
        Seed("mixpanel", "POST", "/track", "form", {"data": Inner("base64", _MIXPANEL), "verbose": "1", "ip": "1"}),
        Seed("mixpanel", "GET", "/track", "raw", b"", {"data": Inner("base64", _MIXPANEL), "img": "1"}),
        Seed("mixpanel", "POST", "/engage", "form", {"data": Inner("base64url", [_PROFILE])}, {"verbose": "1"}),
        Seed("mixpanel", "POST", "/groups", body=[_PROFILE]),
        Seed("mixpanel", "POST", "/import", body=[_MIXPANEL], query={"strict": "1", "project_id": "1"}),
        Seed("mixpanel", "POST", "/import", "lines", [_MIXPANEL] * 3, {"strict": "0"},
             {"content-type": "application/x-ndjson"}),
        Seed("amplitude", "POST", "/2/httpapi", body={"api_key": KEY, "events": [_AMPLITUDE, _AMPLITUDE]}),
        Seed("amplitude", "POST", "/batch",
             body={"events": [_AMPLITUDE], "api_key": KEY, "options": {"min_id_length": 1}}),
        Seed("amplitude", "POST", "/httpapi", "form",
             {"client": KEY, "e": Inner("", [_AMPLITUDE]), "upload_time": "1709164799668", "v": "2"}),
        Seed("amplitude", "POST", "/httpapi", "form", {"api_key": KEY, "event": Inner("", _AMPLITUDE)}),
        Seed("amplitude", "POST", "/identify", "form", {"api_key": KEY, "identification": Inner("", [_AMPLITUDE])}),
        Seed("amplitude", "POST", "/groupidentify", "form",
             {"api_key": KEY, "identification": Inner("", [_AMPLITUDE, _AMPLITUDE])}),
        Seed("snowplow", "POST", "/com.snowplowanalytics.snowplow/tp2",
             body={"schema": "iglu:x", "data": [_SNOWPLOW, {**_SNOWPLOW, "e": "se"}, {**_SNOWPLOW, "e": "pv"}]}),
        Seed("snowplow", "GET", "/i", "raw", b"", _SNOWPLOW),
        Seed("cloudevents", "POST", "/v1/cloudevents", body=_CLOUD, headers=structured),
        Seed("cloudevents", "POST", "/v1/cloudevents", body=[_CLOUD, {**_CLOUD, "data": None, "data_base64": Inner(
            "base64", {"event": "x"})}], headers={"content-type": "application/cloudevents-batch+json"}),
        Seed("cloudevents", "POST", "/v1/cloudevents", body=_CLOUD["data"], headers=cloud_headers),
        Seed("cloudevents", "POST", "/v1/cloudevents", "raw", b"plain text \xff", headers={**cloud_headers,
             "content-type": "text/plain; charset=utf-16"}),
        Seed("cloudevents", "POST", "/v1/cloudevents", body=Literal(b'"text"'), headers=cloud_headers),
    ]  # fmt: skip
