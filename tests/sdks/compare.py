"""Stored events against expected ones, field by field."""

import json
import re
from collections import defaultdict
from datetime import datetime
from typing import Any, Final

from tests.sdks.expect import Expected

API_NAMES: Final = {"name": "event"}
"""Where the API calls a column otherwise."""
NUMBERED: Final = re.compile(r"(?:^|\D)(?:new|old|group)-(\d+)$|/p/(\d+)|^Page (\d+) é$")


def seq_of(row: dict[str, Any]) -> int | None:
    """Which call an event is of: by the number that its properties, or else its ids or its name have."""
    found = _seq(row["properties"])
    if found is not None:
        return found
    for text in (row["group_id"], row["previous_id"], row["user_id"], row["name"], json.dumps(row["properties"])):
        match = NUMBERED.search(text or "")
        if match:
            return int(next(group for group in match.groups() if group))
    return _seq(row["context"])


def _seq(value: Any, depth: int = 4) -> int | None:
    if isinstance(value, dict) and depth:
        if isinstance(value.get("seq"), int | float):
            return int(value["seq"])
        for item in value.values():
            if (found := _seq(item, depth - 1)) is not None:
                return found
    if isinstance(value, list) and depth:
        for item in value:
            if (found := _seq(item, depth - 1)) is not None:
                return found
    return None


def merged(api_rows: list[dict[str, Any]], logged: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Each event as the API shows it, with the columns that only the log has; and where the two disagree."""
    by_id = defaultdict(list)
    for row in logged:
        by_id[row["message_id"]].append(row)
    rows, wrong = [], []
    for shown in api_rows:
        if not by_id[shown["message_id"]]:
            wrong.append(f"the API shows {shown['message_id']}, which the log has not")
            continue
        first = by_id[shown["message_id"]][0]
        row = first | {"properties": json.loads(first["properties"]), "context": json.loads(first["context"])}
        for name in ("type", "name", "user_id", "anonymous_id", "properties"):
            visible = shown[API_NAMES.get(name, name)]
            if (visible or None) != (row[name] or None):
                wrong.append(f"{name}: the API shows {visible!r}, the log {row[name]!r}")
        rows.append(row | {"shown_timestamp": shown["timestamp"]})
    return rows, wrong


def differences(
    expected: dict[int, Expected],
    rows: list[dict[str, Any]],
    own: frozenset[str] = frozenset(),
    repeated: frozenset[str] = frozenset(),
) -> list[str]:
    """What is missing, there twice, foreign or different; empty when all is as it must be.

    `own` names events that the SDK sends of itself, `repeated` the kinds of calls that may be there twice.
    """
    found = _by_call(rows, own)
    wrong = [f"missing: call {seq} {expected[seq].fields}" for seq in missing(expected, rows, own)]
    for seq, stored in found.items():
        if seq is None or seq not in expected:
            wrong.append(f"not a call of ours: {stored[0]}")
            continue
        if len(stored) > 1 and expected[seq].kind not in repeated:
            wrong.append(f"call {seq} is there {len(stored)} times")
        wrong += [f"call {seq}: {line}" for line in _fields(expected[seq], stored[0])]
    return wrong


def missing(
    expected: dict[int, Expected], rows: list[dict[str, Any]], own: frozenset[str] = frozenset()
) -> list[int]:
    """The calls of which nothing is stored."""
    found = _by_call(rows, own)
    return [seq for seq in expected if seq not in found]


def _by_call(rows: list[dict[str, Any]], own: frozenset[str]) -> dict[int | None, list[dict[str, Any]]]:
    found: dict[int | None, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["name"] not in own or _seq(row["properties"]) is not None:
            found[seq_of(row)].append(row)
    return found


def _fields(wanted: Expected, row: dict[str, Any]) -> list[str]:
    wrong = [
        f"{name} is {row[name]!r} instead of {value!r}" for name, value in wanted.fields.items() if row[name] != value
    ]
    if wanted.properties is not None and row["properties"] != wanted.properties:
        wrong += _mapping("properties", wanted.properties, row["properties"])
        more = {name: row["properties"][name] for name in row["properties"].keys() - wanted.properties.keys()}
        wrong += [f"properties has {more!r} besides"] if more else []
    wrong += _mapping("properties", wanted.properties_has, row["properties"])
    wrong += _mapping("context", wanted.context_has, row["context"])
    if wanted.timestamp is not None:
        at = datetime.fromisoformat(wanted.timestamp).timestamp() * 1e6
        if abs(row["timestamp_us"] - at) > max(wanted.timestamp_tolerance_us, 1000):
            wrong.append(f"timestamp is {row['timestamp_us']} instead of {at:.0f}")
        if row["original_timestamp_us"] is None or abs(row["original_timestamp_us"] - at) > 1000:
            wrong.append(f"original_timestamp is {row['original_timestamp_us']} instead of {at:.0f}")
    elif abs(row["timestamp_us"] - row["received_at_us"]) > 60_000_000:
        wrong.append(f"timestamp is {row['timestamp_us']}, though it was received at {row['received_at_us']}")
    return wrong


def _mapping(what: str, wanted: dict[str, Any], stored: dict[str, Any]) -> list[str]:
    return [
        f"{what}[{name!r}] is {str(stored.get(name, 'missing'))[:200]!r} instead of {str(value)[:200]!r}"
        for name, value in wanted.items()
        if name not in stored or stored[name] != value
    ]
