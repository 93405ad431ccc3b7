"""CloudEvents' Python SDK, which makes the messages; httpx posts them, as the SDK's own examples have it."""
# mypy: ignore-errors

import base64
import json

import httpx
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from driver import ERRORS, moment, run


def drive(host, key, mode, calls):
    basic = base64.b64encode(f"{key}:".encode()).decode()
    with httpx.Client(headers={"Authorization": f"Basic {basic}"}, timeout=10) as client:
        made = [
            to_binary_event(event(call)) if mode == "binary" else to_structured_event(event(call)) for call in calls
        ]
        if mode == "batch":
            bodies = [json.loads(message.body) for message in made]
            for start in range(0, len(bodies), 20):
                content = json.dumps(bodies[start : start + 20]).encode()
                post(client, host, {"content-type": "application/cloudevents-batch+json"}, content)
        else:
            for message in made:
                post(client, host, message.headers, message.body)


def post(client, host, headers, content):
    try:
        answer = client.post(f"{host}/v1/cloudevents", headers=headers, content=content)
    except httpx.HTTPError as error:
        ERRORS.append(error)
        return
    if answer.status_code != 200:
        ERRORS.append(f"{answer.status_code} {answer.text}")


def event(call):
    attributes = {
        "id": call["id"],
        "source": "/shop/orders",
        "type": f"com.acme.{call['kind']}",
        "subject": call["user"],
        "datacontenttype": "application/json",
    }
    if call["timestamp"]:
        attributes["time"] = moment(call)
    return CloudEvent(attributes=attributes, data={"event": call["name"], "properties": call["properties"]})


run(drive)
