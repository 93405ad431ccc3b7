"""RudderStack's pixel: one event in a GET's query, answered with an image, for mails and pages without scripts.

A dotted key nests: `properties.plan=pro` becomes `{"properties": {"plan": "pro"}}`. All values are texts.
"""
# ruff: noqa: ARG002 (the signatures are the seam's, see decoder.py)

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final

from producers.gateway.answers import Answer, Refusal, Rejection, refusal_answer
from producers.gateway.json_body import clean_text
from producers.gateway.protocols.decoder import Decoded, RawEvent, Request

DOTS_MAX: Final = 16
"""Levels that a dotted key may open; what is left of it stays one key."""

GIF: Final = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
_NOT_FOR_EVENTS = frozenset(("writeKey",))


class SegmentPixel:
    """Always answers an image; a refusal still has its status."""

    name = "segment-v1"
    volatile_keys = frozenset(("sentAt",))

    def __init__(self, type_: str) -> None:
        self._type = type_

    def decode(self, request: Request, events_max: int) -> Decoded:
        message = nest({key: value for key, value in request.query.items() if key not in _NOT_FOR_EVENTS})
        name = message.get("event") if self._type == "track" else message.get("name")
        event = RawEvent(
            self._type,
            name,
            message.get("messageId"),
            message.get("userId"),
            message.get("anonymousId"),
            message.get("groupId"),
            None,
            None,
            message.get("timestamp") or message.get("originalTimestamp"),
            message.get("sentAt"),
            message.get("properties"),
            message.get("context"),
            0,
            message,
        )
        return Decoded([event])

    def success(self, request: Request, decoded: Decoded, rejections: Sequence[Rejection]) -> Answer:
        headers: tuple[tuple[bytes, bytes], ...] = ((b"cache-control", b"no-store"),)
        if rejections:
            headers += ((b"x-headrace-rejected", rejections[0].reason.encode()),)
        return Answer(200, GIF, b"image/gif", headers)

    def failure(self, request: Request, refusal: Refusal) -> Answer:
        return refusal_answer(refusal)


def nest(flat: Mapping[str, str], tree: dict[str, Any] | None = None) -> dict[str, Any]:
    """Dotted keys as nested objects, put into `tree` if there is one; a key that is both a value and an object stays
    an object."""
    tree = {} if tree is None else tree
    for key, value in flat.items():
        *parents, last = clean_text(key).split(".", DOTS_MAX)
        node = tree
        for parent in parents:
            below = node.get(parent)
            if not isinstance(below, dict):
                below = node[parent] = {}
            node = below
        if not isinstance(node.get(last), dict):
            node[last] = clean_text(value)
    return tree
