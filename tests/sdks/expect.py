"""What must be stored of each call, protocol by protocol, and how it is compared."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from tests.sdks.calls import Call
from tests.sdks.subjects import Subject

LOCALE: Final = {"locale": "de-CH"}
TIME_TOLERANCE_US: Final = 10_000_000
"""Of protocols that move every time by the clocks' difference: a request takes that long at most."""
REPLACED: Final = str.maketrans({"\x00": "\ufffd", "\ud83d": "\ufffd"})


@dataclass(frozen=True, slots=True)
class Expected:
    """Fields by name; what is not named is not compared. `properties` whole, unless `properties_has`: then these at
    least. `context_has`: these at least."""

    seq: int
    kind: str
    fields: dict[str, Any]
    timestamp: str | None
    properties: dict[str, Any] | None = None
    properties_has: dict[str, Any] = field(default_factory=dict)
    context_has: dict[str, Any] = field(default_factory=dict)
    timestamp_tolerance_us: int = 0


def expected_of(subject: Subject, calls: list[Call]) -> dict[int, Expected]:
    """By the calls' numbers; those that the SDK cannot make are left out."""
    made = FAMILIES[subject.family]
    return {call.seq: made(subject, call) for call in calls if call.kind not in subject.unsent}


def stored_text(value: Any) -> Any:
    """As the gateway stores it: half a surrogate pair and NUL become U+FFFD."""
    return json.loads(json.dumps(value, ensure_ascii=False).translate(REPLACED).replace("\\u0000", "\ufffd"))


def of_segment(subject: Subject, call: Call) -> Expected:
    kind = call.kind
    by_anonymous = kind == "track" and call.seq % 4 == 2
    fields = {
        "type": kind,
        "name": call.name if kind in ("track", "page", "screen") else "",
        "user_id": None if by_anonymous else call.user,
        "anonymous_id": call.anonymous if by_anonymous else None,
        "group_id": call.group if kind == "group" else None,
        "previous_id": call.previous if kind == "alias" else None,
        "protocol": "segment-v1",
    }
    if subject.own_ids:
        fields["message_id"] = call.id
    properties = stored_text(call.properties) if kind != "alias" else {}
    if subject.package == "@segment/analytics-node" and kind == "page":
        properties["category"] = "Docs"  # the SDK copies it there
    return Expected(call.seq, call.kind, fields, call.timestamp, properties, context_has=LOCALE)


def of_jitsu(subject: Subject, call: Call) -> Expected:
    kind = "page" if call.kind == "screen" else call.kind
    fields: dict[str, Any] = {"type": kind, "protocol": "segment-v1"}
    if kind in ("track", "page"):
        fields["name"] = call.name
    return Expected(call.seq, call.kind, fields, None, properties_has=stored_text(call.properties))


def of_posthog(subject: Subject, call: Call) -> Expected:
    kind = call.kind
    fields: dict[str, Any] = {"type": kind, "user_id": call.user}
    fields["name"] = {
        "page": "$pageview",
        "screen": "$screen",
        "group": "$groupidentify",
        "alias": "$create_alias",
        "track": call.name,
    }.get(kind, "")
    if subject.language == "python":
        fields["message_id"] = call.id
        if kind == "identify":
            fields["name"] = "$set_once" if call.seq // 10 % 2 else "$set"
    elif kind == "identify":
        fields |= {"name": "$identify", "anonymous_id": call.anonymous}
    if kind in ("track", "page", "screen", "identify") and subject.language != "python":
        fields["message_id"] = call.id
    if kind == "group":
        fields["group_id"] = call.group
    if kind == "alias":
        fields["previous_id"] = call.previous
    at = call.timestamp if subject.language == "python" or kind not in ("group", "alias") else None
    has = stored_text(call.properties) if kind != "alias" else {}
    return Expected(call.seq, call.kind, fields, at, properties_has=has, timestamp_tolerance_us=TIME_TOLERANCE_US)


def of_mixpanel(subject: Subject, call: Call) -> Expected:
    kind = call.kind
    properties = stored_text(call.properties)
    if kind == "identify":
        name = "$set_once" if subject.language == "python" and call.seq // 10 % 2 else "$set"
        fields = {"type": "profile", "name": name, "user_id": call.user}
        return Expected(call.seq, call.kind, fields, None, properties)
    if kind == "group":
        fields = {"type": "group_profile", "name": "$set", "group_id": call.group}
        return Expected(call.seq, call.kind, fields, None, properties)
    if kind == "alias":
        return Expected(
            call.seq, call.kind, {"type": "alias", "user_id": call.user, "previous_id": call.previous}, None
        )
    fields = {"type": "track", "name": call.name, "user_id": call.user, "message_id": call.id}
    return Expected(call.seq, call.kind, fields, call.timestamp, properties_has=properties)


def of_amplitude(subject: Subject, call: Call) -> Expected:
    kind = call.kind
    properties = stored_text(call.properties)
    if subject.language == "python" and "long" in properties:
        properties["long"] = properties["long"][:1024]  # the SDK cuts texts there
    fields: dict[str, Any] = {"user_id": call.user, "anonymous_id": call.anonymous, "message_id": call.id}
    has = properties
    if kind == "identify":
        fields |= {"type": "identify", "name": "$identify"}
        # JavaScript's SDKs refuse lists of mixed kinds, Python's empty texts and lists
        refused = (
            ("list",)
            if subject.language != "python"
            else ("empty", *(() if properties["products"] else ("products",)))
        )
        has = {"$set": {name: item for name, item in properties.items() if name not in refused}}
    elif kind == "group":
        fields |= {"type": "group", "name": "$groupidentify", "group_id": call.group}
        has = {"$set": {"seq": call.seq, "text": properties["text"]}}
    elif kind == "alias":
        fields |= {"type": "track", "name": "revenue_amount"}
        has = {"seq": call.seq}
    else:
        fields |= {"type": "track", "name": call.name}
    return Expected(
        call.seq, call.kind, fields, call.timestamp, properties_has=has, timestamp_tolerance_us=TIME_TOLERANCE_US
    )


def of_snowplow(subject: Subject, call: Call) -> Expected:
    kind = call.kind
    url = f"https://shop.example/p/{call.seq}?utm_source=mail"
    fields: dict[str, Any] = {"user_id": call.user, "anonymous_id": call.anonymous}
    has: dict[str, Any] = {}
    if kind == "track":
        fields |= {"type": "track", "name": call.name}
        has = stored_text(call.properties)
    elif kind == "page":
        fields |= {"type": "page", "name": call.name}
        has = {"url": url, "referrer": "https://ref.example/"}
    elif kind == "screen":
        fields |= {"type": "screen", "name": call.name}
        has = {"id": call.id, "name": call.name}
    elif kind == "group":
        fields |= {"type": "track", "name": "join"}
        has = {"se_ca": "group", "se_la": call.group, "se_pr": "seq", "se_va": str(call.seq)}
    elif kind == "identify":
        fields |= {"type": "track"}
        has = stored_text(call.properties)
    else:
        fields |= {"type": "track"}
    context = {"contexts": [{"schema": "iglu:com.acme/ctx/jsonschema/1-0-0", "data": {"seq": call.seq}}]}
    return Expected(call.seq, call.kind, fields, call.timestamp, properties_has=has, context_has=context)


def of_cloudevents(subject: Subject, call: Call) -> Expected:
    fields = {"type": call.kind, "name": call.name, "user_id": call.user, "message_id": call.id}
    context = {"source": "/shop/orders", "type": f"com.acme.{call.kind}"}
    return Expected(call.seq, call.kind, fields, call.timestamp, stored_text(call.properties), context_has=context)


FAMILIES: Final[dict[str, Callable[[Subject, Call], Expected]]] = {
    "segment": of_segment,
    "rudder": of_segment,
    "jitsu": of_jitsu,
    "posthog": of_posthog,
    "mixpanel": of_mixpanel,
    "amplitude": of_amplitude,
    "snowplow": of_snowplow,
    "cloudevents": of_cloudevents,
}
