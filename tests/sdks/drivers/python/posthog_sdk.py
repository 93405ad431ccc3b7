"""PostHog's Python SDK; mode v1 is its newer capture endpoint."""
# mypy: ignore-errors

from driver import failed, moment, run
from posthog import Posthog


def drive(host, key, mode, calls):
    sdk = Posthog(
        key,
        host=host,
        on_error=failed,
        flush_at=25,
        gzip=mode == "gzip",
        capture_mode="v1" if mode == "v1" else "v0",
    )
    for call in calls:
        shared = {"timestamp": moment(call), "uuid": call["id"]}
        user, properties = call["user"], call["properties"]
        if call["kind"] == "identify":
            (sdk.set if call["seq"] % 20 < 10 else sdk.set_once)(distinct_id=user, properties=properties, **shared)
        elif call["kind"] == "group":
            sdk.group_identify("company", call["group"], properties, distinct_id=user, **shared)
        elif call["kind"] == "alias":
            sdk.alias(call["previous"], user, **shared)
        else:
            name = {"page": "$pageview", "screen": "$screen"}.get(call["kind"], call["name"])
            extra = {"page": {"$current_url": f"https://shop.example/p/{call['seq']}"}}.get(call["kind"], {})
            sdk.capture(name, distinct_id=user, properties=properties | extra, **shared)
    sdk.shutdown()


run(drive)
