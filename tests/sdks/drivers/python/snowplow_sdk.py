"""Snowplow's Python tracker, by POST in batches or by GET."""
# mypy: ignore-errors

import time
from urllib.parse import urlsplit

from driver import epoch_ms, run
from snowplow_tracker import (
    Emitter,
    PagePing,
    PageView,
    ScreenView,
    SelfDescribing,
    SelfDescribingJson,
    StructuredEvent,
    Subject,
    Tracker,
)

WAIT_S = 60


def drive(host, key, mode, calls):
    address = urlsplit(host)
    sent = []
    emitter = Emitter(
        address.hostname,
        protocol="http",
        port=address.port,
        method="get" if mode == "get" else "post",
        batch_size=25,
        max_retry_delay_seconds=1,
        on_success=sent.extend,
    )
    tracker = Tracker("shop", emitter, app_id=key, encode_base64=mode == "base64")
    for call in calls:
        if "half" in call["properties"] and mode != "post":  # the SDK itself raises at half a surrogate pair
            call["properties"]["half"] = call["properties"]["half"].replace("\ud83d", "\ufffd")
        tracker.track(event(call))
    deadline = time.monotonic() + WAIT_S
    while len(sent) < len(calls) and time.monotonic() < deadline:
        tracker.flush()
        time.sleep(2)  # its retries run beside, in a thread that shares the queue with flush()


def event(call):
    properties, seq, name = call["properties"], call["seq"], call["name"]
    subject = Subject().set_user_id(call["user"]).set_domain_user_id(call["anonymous"])
    context = [SelfDescribingJson("iglu:com.acme/ctx/jsonschema/1-0-0", {"seq": seq})]
    shared = {"event_subject": subject, "context": context, "true_timestamp": epoch_ms(call)}
    url = f"https://shop.example/p/{seq}?utm_source=mail"
    if call["kind"] == "track":
        schema = "iglu:com.acme/event/jsonschema/1-0-0"
        return SelfDescribing(SelfDescribingJson(schema, {"event": name, "properties": properties}), **shared)
    if call["kind"] == "page":
        return PageView(url, name, "https://ref.example/", **shared)
    if call["kind"] == "screen":
        return ScreenView(call["id"], name, **shared)
    if call["kind"] == "group":
        return StructuredEvent("group", "join", call["group"], "seq", seq, **shared)
    if call["kind"] == "identify":
        schema = "iglu:com.acme/identify/jsonschema/1-0-0"
        return SelfDescribing(SelfDescribingJson(schema, properties), **shared)
    return PagePing(url, name, "https://ref.example/", 0, seq, 0, seq, **shared)


run(drive)
