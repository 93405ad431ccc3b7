"""Amplitude's Python SDK, to either of its two paths."""
# mypy: ignore-errors

from amplitude import Amplitude, BaseEvent, Config, EventOptions, Identify, Revenue
from driver import ERRORS, epoch_ms, run


def answered(event, code, message=None):
    """Amplitude's callback hears of every event, sent or not."""
    if code != 200:
        ERRORS.append(f"{code} {message} {event.event_type}")


def drive(host, key, mode, calls):
    path = "batch" if mode == "batch" else "2/httpapi"
    config = Config(server_url=f"{host}/{path}", flush_queue_size=25, callback=answered, min_id_length=1)
    sdk = Amplitude(key, config)
    for call in calls:
        make(sdk, call)
    sdk.flush()
    sdk.shutdown()


def make(sdk, call):
    properties = call["properties"]
    shared = {
        "user_id": call["user"],
        "device_id": call["anonymous"],
        "insert_id": call["id"],
        "time": epoch_ms(call),
    }
    if call["kind"] == "identify":
        identify = Identify()
        for name, value in properties.items():
            if value not in ("", []):  # the SDK refuses these
                identify.set(name, value)
        sdk.identify(identify, EventOptions(**shared))
    elif call["kind"] == "group":
        identify = Identify()
        identify.set("seq", call["seq"]).set("text", properties["text"])
        sdk.group_identify("company", call["group"], identify, EventOptions(**shared))
    elif call["kind"] == "alias":
        revenue = Revenue(price=properties["price"], quantity=2, product_id="SKU-1", properties={"seq": call["seq"]})
        sdk.revenue(revenue, EventOptions(**shared))
    else:
        sdk.track(BaseEvent(call["name"], event_properties=properties, **shared))


run(drive)
