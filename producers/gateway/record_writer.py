"""Columns of events into records, without a row between.

Stores exactly what the general way (RawEvent, `normalise`, `taken`) would have stored of the same events
(tests/property/test_columns.py), or declines. It knows nothing of rejected events, policies or plans.

One difference is meant: of `properties` and `context` only the outermost level is written anew (compact, keys that
come twice keep their last value); what is nested in it stays as sent, with its spaces, digits and keys. Parsed, it is
the same.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import repeat
from typing import Any, Final

import msgspec

from headrace.errors import PoisonError
from producers.gateway import wire
from producers.gateway.columns import Columns, DeclinedError
from producers.gateway.contexts import Context, Contexts, parsed
from producers.gateway.enrich import REMEMBERED_CHARS_MAX, bounded, enrich
from producers.gateway.json_body import KEY_BYTES_MIN
from producers.gateway.normalise import ROW_BYTES_FIXED, EventLimits, Normaliser, Origin
from producers.gateway.timestamps import is_plausible, parse_sent_us, parse_us
from producers.gateway.worth import Worths
from schemas.event import EVENT_TYPES, MESSAGE_ID_CHARS_MAX

NAMES_MAX: Final = 8192
"""Pairs of an event's type and name whose bytes are kept."""
TEXT_GROWTH_MAX: Final = 6
"""So many times longer than sent can JSON be when it is written anew: 1e15 is 1000000000000000.0 then."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_VALUED = frozenset(("track", "page", "screen"))
_NO_VALUE: Final = wire.NULL + wire.NULL
_NOT_BRACKETS: Final = bytes(set(range(1, 256)) - set(b"{}[]"))
_EMPTY: Final = b"{}"
_DECODE = msgspec.json.Decoder(dict[str, Any]).decode
_ENCODE = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Written:
    """Records of some events. `held_bytes`: about what they weigh until Kafka has them; `values_dropped`: how many
    values were outside their bound."""

    records: list[bytes]
    held_bytes: int
    values_dropped: int


class RecordWriter:
    """Makes records of columns. Use it on one event loop only."""

    def __init__(self, normaliser: Normaliser) -> None:
        self._normaliser = normaliser
        self._limits: EventLimits = normaliser.limits
        self._contexts = Contexts(normaliser.check)
        self._worths = Worths()

    def write(self, columns: Columns, origin: Origin) -> Written:
        """The records of events whose customer's policy changes none. Raises DeclinedError."""
        try:
            return self._write(columns, origin)
        except (PoisonError, msgspec.DecodeError, RecursionError, ValueError, OverflowError) as error:
            raise DeclinedError from error

    def _write(self, columns: Columns, origin: Origin) -> Written:
        count = len(columns.types)
        message_ids = list(map(str.encode, columns.message_ids))
        told: dict[bytes, tuple[Context, bytes]] = {}
        known = [told.get(raw) or self._context(raw, columns, origin, told) for raw in columns.contexts]
        texts = self._properties(columns)
        worths, dropped = self._worths_of(columns)
        ids = [
            optional_texts(column)
            for column in (
                columns.user_ids,
                columns.anonymous_ids,
                columns.group_ids,
                columns.previous_ids,
                _sessions(columns.session_ids, known),
            )
        ]
        context_bytes = sum([item[0].json_bytes for item in known])
        self._check_sizes(texts, [item[0].json_bytes for item in told.values()], ids)
        timestamps, originals, sent = _times(columns, origin.received_at_us)
        values = joined(
            wire.PREFIX + wire.long(origin.customer_id),
            _message_id_sizes(columns.message_ids, message_ids),
            message_ids,
            named_parts(columns.types, columns.names),
            *ids,
            timestamps,
            wire.long(origin.received_at_us),
            *originals,
            sent,
            self._dimensions(columns, origin, known, texts),
            worths,
            wire.sizes(texts),
            texts,
            [item[0].end_part for item in known],
        )
        held = ROW_BYTES_FIXED * count + sum(map(len, texts)) + context_bytes
        return Written(values, held, dropped)

    def _context(
        self, raw: bytes, columns: Columns, origin: Origin, told: dict[bytes, tuple[Context, bytes]]
    ) -> tuple[Context, bytes]:
        """The context, and its dimensions as they stand in a record."""
        context = self._contexts.of(raw, origin.protocol, columns.attempt)
        if context.device.is_open:
            enriched = self._normaliser.looked_up(context.enriched, context.address, context.user_agent, origin)
            dimensions = wire.dimensions(enriched)
        else:
            dimensions = context.page.part + context.device.part
        found = told[raw] = context, dimensions
        return found

    def _dimensions(
        self, columns: Columns, origin: Origin, known: Sequence[tuple[Context, bytes]], texts: Sequence[bytes]
    ) -> list[bytes]:
        found = [item[1] for item in known]
        for index, type_ in enumerate(columns.types):
            if type_ == "page":
                open_ = not known[index][0].page.is_there
            elif type_ == "screen":
                open_ = known[index][0].enriched.path is None
            else:
                continue
            if open_:
                context = parsed(columns.contexts[index])
                name = bounded(columns.names[index] or "") or ""
                enriched = enrich(type_, name, parsed(texts[index]), context)
                told = known[index][0]
                found[index] = wire.dimensions(
                    self._normaliser.looked_up(enriched, told.address, told.user_agent, origin)
                )
        return found

    def _worths_of(self, columns: Columns) -> tuple[list[bytes], int]:
        """Values and currencies as they stand in records, and how many values were out of bounds."""
        found: list[bytes] = []
        dropped = 0
        worth, of_none = self._worths.part, self._worths.none_in
        for members, type_ in zip(columns.properties, columns.types, strict=True):
            if not members or of_none(members) or type_ not in _VALUED:
                found.append(_NO_VALUE)
                continue
            part = worth(members)
            if part is None:
                dropped += 1
            found.append(part or _NO_VALUE)
        return found, dropped

    def _properties(self, columns: Columns) -> list[bytes]:
        """As stored. Raises DeclinedError where they may be too many, or may nest too deep."""
        texts = [_ENCODE(members) if members else _EMPTY for members in columns.properties]
        most = self._limits.properties_max
        if max(map(len, texts), default=0) > KEY_BYTES_MIN * most and any(text.count(b":") > most for text in texts):
            raise DeclinedError
        levels = self._limits.depth_max - 1  # the event itself is a level
        joined = b"\0".join(texts)
        brackets = joined.translate(None, _NOT_BRACKETS).split(b"\0")
        if max(map(len, brackets), default=0) > levels and any(
            text.count(b"{") + text.count(b"[") > levels for text in texts
        ):
            raise DeclinedError
        if b"\\" in joined:  # written in UTF-8 they are half as long, and can be searched
            texts = [_ENCODE(_DECODE(text)) if b"\\u" in text else text for text in texts]
        return texts

    def _check_sizes(
        self,
        texts: Sequence[bytes],
        contexts: Sequence[int],
        ids: Sequence[bytes | Sequence[bytes]],
    ) -> None:
        """Raises DeclinedError where an event may be too large."""
        most = TEXT_GROWTH_MAX * (max(map(len, texts), default=0) + max(contexts, default=0))
        most += sum(len(item) if isinstance(item, bytes) else max(map(len, item), default=0) for item in ids)
        if most > self._limits.event_bytes_max:
            raise DeclinedError


def joined(*columns: bytes | Sequence[bytes]) -> list[bytes]:
    """A record for each row of the columns; a column of the same bytes in all rows is given as these."""
    count = next(len(column) for column in columns if not isinstance(column, bytes))
    merged: list[Iterable[bytes]] = []
    same = b""
    for column in columns:
        if isinstance(column, bytes):
            same += column
            continue
        if same:
            merged.append(repeat(same, count))
            same = b""
        merged.append(column)
    merged.append(repeat(same, count))
    return list(map(b"".join, zip(*merged, strict=True)))


def optional_texts(column: Sequence[str | None]) -> bytes | list[bytes]:
    """A column of nullable texts; one for all where there is none."""
    if column.count(None) == len(column):
        return wire.NULL
    return [wire.optional_text(value or None) for value in column]


def named_parts(types: Sequence[str], names: Sequence[str | None]) -> list[bytes]:
    """Types and names. Raises DeclinedError for a type that is none, or a track event without a name."""
    if max([len(name) for name in names if name], default=0) > REMEMBERED_CHARS_MAX:
        return list(map(_named.__wrapped__, types, names))
    return list(map(_named, types, names))


@lru_cache(NAMES_MAX)
def _named(type_: str, name: str | None) -> bytes:
    if type_ not in EVENT_TYPES or (type_ == "track" and not name):
        raise DeclinedError
    return wire.text(type_) + wire.text(bounded(name or "") or "")


def _message_id_sizes(ids: Sequence[str], encoded: Sequence[bytes]) -> list[bytes]:
    lengths = list(map(len, ids))
    if min(lengths, default=1) < 1 or max(lengths, default=1) > MESSAGE_ID_CHARS_MAX:
        raise DeclinedError
    return wire.sizes(encoded)


def _sessions(ids: Sequence[str | None], known: Sequence[tuple[Context, bytes]]) -> Sequence[str | None]:
    return [item[0].session_id if given is None else given for given, item in zip(ids, known, strict=True)]


def _times(
    columns: Columns, received_us: int
) -> tuple[list[bytes], tuple[bytes | Sequence[bytes], ...], bytes | Sequence[bytes]]:
    """The time that counts, the event's own, and when it was sent, as they stand in records."""
    own = parsed_times(columns.timestamps)
    given = set(columns.sent_at)
    sent_us = {text: parse_sent_us(text) for text in given}
    sent_parts = {text: wire.optional_long(us) for text, us in sent_us.items()}
    rule = columns.time_rule
    counted = [
        received_us if us is None else rule(us, sent_us[text], received_us)
        for us, text in zip(own, columns.sent_at, strict=True)
    ]
    for column in (counted, [us for us in own if us is not None]):
        if column and not (is_plausible(min(column)) and is_plausible(max(column))):
            raise DeclinedError
    timestamps = wire.moments(counted)
    if counted == own:
        originals: tuple[bytes | Sequence[bytes], ...] = (wire.SOME, timestamps)
    else:
        originals = ([wire.optional_long(us) for us in own],)
    if len(given) == 1:
        return timestamps, originals, sent_parts[next(iter(given))]
    return timestamps, originals, [sent_parts[text] for text in columns.sent_at]


def parsed_times(texts: Sequence[str | None]) -> list[int | None]:
    """Times in microseconds; None where there is none. Raises PoisonError."""
    try:
        spans = [moment - _EPOCH for moment in map(datetime.fromisoformat, texts)]  # type: ignore[arg-type]
    except (ValueError, TypeError):  # one that is absent, without offset, or written in another way
        return [parse_us(text) if text else None for text in texts]
    return [(span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds for span in spans]
