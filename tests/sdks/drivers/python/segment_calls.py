"""The calls of the Segment family: its Python SDKs differ in their clients, not in their methods."""
# mypy: ignore-errors

from driver import moment


def make(sdk, calls):
    """All calls, each with its id."""
    for call in calls:
        shared = {"timestamp": moment(call), "message_id": call["id"], "context": {"locale": "de-CH"}}
        user, properties = call["user"], call["properties"]
        if call["kind"] == "identify":
            sdk.identify(user, properties, **shared)
        elif call["kind"] == "track":
            if call["seq"] % 4 == 2:
                sdk.track(anonymous_id=call["anonymous"], event=call["name"], properties=properties, **shared)
            else:
                sdk.track(user, call["name"], properties, **shared)
        elif call["kind"] == "page":
            sdk.page(user, "Docs", call["name"], properties, **shared)
        elif call["kind"] == "screen":
            sdk.screen(user, "Docs", call["name"], properties, **shared)
        elif call["kind"] == "group":
            sdk.group(user, call["group"], properties, **shared)
        else:
            sdk.alias(call["previous"], user, **shared)
