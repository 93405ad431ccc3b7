"""Segment's messages by columns: what each field must be for that, and where it stands.

Whatever is not as here (an id that is a number, a message that is no object, a context shared by the batch) is for
the general way, which `segment` decodes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from producers.gateway.columns import Columns, DeclinedError, Members
from producers.gateway.plain_json import is_plain

_RAW_NONE: Final = msgspec.Raw(b"null")
_TRAIT_TYPES = frozenset(("identify", "group"))
_NAMED_TYPES = frozenset(("page", "screen"))
_NO_CONTEXT: Final = frozenset((b"null", b"{}"))


class _Message(msgspec.Struct, gc=False):
    type: str = ""
    event: str | None = None
    name: str | None = None
    messageId: str = ""  # noqa: N815 (the protocol's names)
    userId: str | None = None  # noqa: N815
    anonymousId: str | None = None  # noqa: N815
    groupId: str | None = None  # noqa: N815
    previousId: str | None = None  # noqa: N815
    sessionId: str | None = None  # noqa: N815
    timestamp: str | None = None
    originalTimestamp: str | None = None  # noqa: N815
    sentAt: str | None = None  # noqa: N815
    properties: Members | None = None
    traits: Members | None = None
    context: msgspec.Raw = _RAW_NONE


class _Body(msgspec.Struct, gc=False):
    batch: list[_Message]
    sentAt: str | None = None  # noqa: N815
    writeKey: Any = None  # noqa: N815
    context: msgspec.Raw = _RAW_NONE


class _Traits(msgspec.Struct, gc=False):
    traits: Members | None = None


_BATCH = msgspec.json.Decoder(_Body).decode
_CONTEXT_TRAITS = msgspec.json.Decoder(_Traits | None).decode


class SegmentColumns:
    """The messages of one request."""

    def __init__(self, messages: Sequence[_Message], sent_at: str | None, write_key: Any, attempt: int) -> None:
        self._messages = messages
        self._sent_at = sent_at
        self._attempt = attempt
        self.write_keys = [write_key] if isinstance(write_key, str) and write_key else []

    def __len__(self) -> int:
        return len(self._messages)

    def columns(self, start: int, stop: int) -> Columns:
        """See `ColumnarBatch`."""
        # In the order of the struct's fields.
        (
            types, events, names, message_ids, user_ids, anonymous_ids, group_ids, previous_ids, session_ids,
            timestamps, original_timestamps, sent_at, properties, traits, raw_contexts,
        ) = zip(*map(msgspec.structs.astuple, self._messages[start:stop]), strict=True)  # fmt: skip
        contexts = list(map(bytes, raw_contexts))
        if not _TRAIT_TYPES.isdisjoint(types):
            properties = tuple(
                _traits(told, context) if type_ in _TRAIT_TYPES else own
                for type_, own, told, context in zip(types, properties, traits, contexts, strict=True)
            )
        if any(type_ != "track" for type_ in types):
            events = tuple(
                event if type_ == "track" else name if type_ in _NAMED_TYPES else None
                for type_, event, name in zip(types, events, names, strict=True)
            )
        if not all(timestamps):
            timestamps = tuple(own or other for own, other in zip(timestamps, original_timestamps, strict=True))
        return Columns(
            types,
            events,
            message_ids,
            user_ids,
            anonymous_ids,
            group_ids,
            previous_ids,
            session_ids,
            timestamps,
            [told or self._sent_at for told in sent_at],
            properties,
            contexts,
            self._attempt,
        )


def of_batch(body: bytes, events_max: int, headers: Mapping[str, str], attempt: int) -> SegmentColumns | None:
    """The messages of `{batch: [message, …], sentAt, writeKey?}`; None: they are for the general way."""
    try:
        parsed = _BATCH(body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None
    if not 0 < len(parsed.batch) <= events_max or bytes(parsed.context) not in _NO_CONTEXT or not is_plain(body):
        return None
    return SegmentColumns(parsed.batch, parsed.sentAt or headers.get("sentat"), parsed.writeKey, attempt)


def _traits(told: Members | None, context: bytes) -> Members | None:
    """Of identify and group; rudder-python has them only in the context."""
    if told is not None:
        return told
    try:
        found = _CONTEXT_TRAITS(context)
    except msgspec.ValidationError:
        raise DeclinedError from None
    return None if found is None else found.traits
