"""What all Python drivers share: the task comes as JSON on stdin, what happened goes as JSON to stdout."""
# mypy: ignore-errors

import json
import sys
from datetime import datetime

ERRORS = []
"""What the SDK told its error callback."""


def run(drive):
    """`drive(host, key, mode, calls)` makes the calls and waits until all is sent."""
    task = json.load(sys.stdin)
    drive(task["host"], task["key"], task["mode"], task["calls"])
    print(json.dumps({"errors": [str(error)[:500] for error in ERRORS]}))


def failed(error, *_):
    """An SDK's error callback."""
    ERRORS.append(error)


def moment(call):
    """The call's time as an aware datetime, or None."""
    return datetime.fromisoformat(call["timestamp"]) if call["timestamp"] else None


def epoch_ms(call):
    """The call's time in milliseconds, or None."""
    at = moment(call)
    return round(at.timestamp() * 1000) if at else None
