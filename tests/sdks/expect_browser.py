"""What must be stored of each call of a browser SDK: it adds much of its own, and it remembers who identified."""

from typing import Any, Final

from tests.sdks.browser import PATH
from tests.sdks.calls import Call
from tests.sdks.expect import LOCALE, Expected, of_amplitude, stored_text
from tests.sdks.subjects import Subject

MIXPANEL_CUT: Final = 255
"""Mixpanel's browser SDK cuts texts there."""
MIXPANEL_OWN: Final = frozenset(("$identify", "$set_once"))
SLACK_US: Final = 20_000_000
"""Of protocols that move every time: with half of the network failing, an event waits for its next try."""
CAMPAIGN: Final = {"utm_source": "mail", "utm_medium": "letter", "utm_campaign": "spring"}


def own_names(subject: Subject) -> frozenset[str]:
    """Events that the SDK sends of itself."""
    return MIXPANEL_OWN if subject.family == "mixpanel" else frozenset()


def expected_in_browser(subject: Subject, calls: list[Call]) -> dict[int, Expected]:
    """By the calls' numbers; those that the SDK cannot make are left out."""
    user: str | None = None
    found = {}
    for call in calls:
        if call.kind == "identify":
            user = call.user
        if call.kind not in subject.unsent:
            found[call.seq] = _expected(subject, call, user)
    return found


def _expected(subject: Subject, call: Call, user: str | None) -> Expected:
    if subject.family == "amplitude":
        return of_amplitude(subject, call)
    kind = call.kind
    has = stored_text(call.properties) if kind != "alias" else {}
    path = f"{PATH}/{subject.driver}"
    if subject.family in ("segment", "rudder", "jitsu"):
        return _of_segment(subject, call, user, has, path)
    if subject.family == "posthog":
        names = {"page": "$pageview", "screen": "$screen", "group": "$groupidentify", "alias": "$create_alias"}
        fields: dict[str, Any] = {"type": kind}
        if kind != "identify":
            fields["name"] = names.get(kind, call.name)
        if kind == "group":
            fields["group_id"] = call.group
        if kind in ("track", "page") and user:
            fields["user_id"] = user
        if kind in ("track", "page", "screen"):
            fields |= {"path": path} | CAMPAIGN
        at = call.timestamp if kind in ("track", "page", "screen") else None
        return Expected(call.seq, call.kind, fields, at, properties_has=has, timestamp_tolerance_us=SLACK_US)
    if subject.family == "mixpanel":
        has = {name: item[:MIXPANEL_CUT] if isinstance(item, str) else item for name, item in has.items()}
        if kind == "identify":
            fields = {"type": "profile", "name": "$set", "user_id": call.user}
        elif kind == "group":
            fields = {"type": "group_profile", "name": "$set", "group_id": call.group}
        elif kind == "alias":
            fields = {"type": "alias", "name": "$create_alias", "user_id": call.user, "previous_id": call.previous}
        else:
            fields = {"type": "track", "name": call.name if kind == "track" else f"{kind} {call.name}"}
            fields |= {"user_id": user} if user else {}
        at = call.timestamp if kind in ("track", "page", "screen") else None
        return Expected(call.seq, call.kind, fields, at, properties_has=has)
    return _of_snowplow(call, has, path)


def _of_segment(subject: Subject, call: Call, user: str | None, has: dict[str, Any], path: str) -> Expected:
    kind = call.kind if subject.family == "segment" or call.kind != "screen" else "page"
    fields: dict[str, Any] = {"type": kind, "protocol": "segment-v1"}
    if kind in ("track", "page", "screen"):
        fields |= {"name": call.name, "path": path} | CAMPAIGN
    if kind == "page":
        fields |= {"referrer_domain": "search.example"}
    if kind == "track":
        fields |= {"user_id": user}
    if kind == "group":
        fields |= {"group_id": call.group}
    if kind in ("alias", "identify"):
        # analytics.js sends an alias call with the user that it knows, whatever it is told
        fields |= {"user_id": user if kind == "alias" and subject.family == "segment" else call.user}
    if kind == "alias":
        fields |= {"previous_id": call.previous}
    if subject.family == "segment":
        fields["message_id"] = call.id
    at = call.timestamp if subject.family != "jitsu" else None
    return Expected(
        call.seq, call.kind, fields, at, properties_has=has, context_has=LOCALE if subject.own_ids else {}
    )


def _of_snowplow(call: Call, has: dict[str, Any], path: str) -> Expected:
    kind = call.kind
    fields: dict[str, Any] = {"user_id": call.user, "type": "track", "path": path} | CAMPAIGN
    if kind in ("track", "page", "screen"):
        fields |= {"type": kind, "name": call.name}
    if kind in ("page", "screen"):
        has = {}
    if kind in ("group", "alias"):
        fields |= {"name": "join"}
        has = {"se_ca": kind, "se_la": call.group, "se_pr": "seq", "se_va": str(call.seq)}
    return Expected(call.seq, call.kind, fields, call.timestamp, properties_has=has)
