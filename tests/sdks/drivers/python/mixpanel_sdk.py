"""Mixpanel's Python SDK: one request a call, in batches, or as an import."""
# mypy: ignore-errors

from driver import ERRORS, epoch_ms, run
from mixpanel import BufferedConsumer, Consumer, Mixpanel


def drive(host, key, mode, calls):
    urls = {f"{name}_url": f"{host}/{path}" for name, path in PATHS.items()}
    consumer = BufferedConsumer(max_size=20, **urls) if mode == "buffered" else Consumer(**urls)
    sdk = Mixpanel(key, consumer=consumer)
    for call in calls:
        try:
            make(sdk, mode, call)
        except Exception as error:
            ERRORS.append(error)
    if mode == "buffered":
        try:
            consumer.flush()
        except Exception as error:
            ERRORS.append(error)


def make(sdk, mode, call):
    user, properties, at = call["user"], call["properties"], epoch_ms(call)
    if call["kind"] == "identify":
        {0: sdk.people_set, 1: sdk.people_set_once}[call["seq"] // 10 % 2](user, properties)
    elif call["kind"] == "group":
        sdk.group_set("company", call["group"], properties)
    elif call["kind"] != "alias":  # Mixpanel sends alias calls to its own host, whatever it is told
        timed = {"time": at / 1000} if at else {}
        if mode == "import":
            when = at / 1000 if at else sdk._now()
            properties = properties | {"$insert_id": call["id"]}
            sdk.import_data(None, user, call["name"], when, properties, api_secret=sdk._token)
        else:
            sdk.track(user, call["name"], properties | timed | {"$insert_id": call["id"]})


PATHS = {"events": "track", "people": "engage", "groups": "groups", "import": "import"}
run(drive)
