"""Raw events of any protocol into rows of the event schema.

Pure: times are given. Guarantees of a row: its texts have no U+0000 and no unpaired surrogate, its time lies in
2000 to 2100, its dimensions and its value are bounded, its JSON is re-encoded from the parsed object. Refuses one
event at a time, by name (PoisonError.reason); see `REASONS`.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import xxhash

from headrace.errors import PoisonError
from headrace.settings import Settings
from headrace.shards.policy import OPEN, Policy
from producers.gateway.addresses import parse_address
from producers.gateway.enrich import Enriched, Lookup, bounded, enrich, library
from producers.gateway.json_body import DEPTH_MAX, KEY_BYTES_MIN, Unusable, key_count, nests_deeper
from producers.gateway.privacy import NotTrackedError, Privacies, Privacy
from producers.gateway.protocols.decoder import RawEvent
from producers.gateway.timestamps import is_plausible, out_of_range, parse_sent_us, parse_us
from producers.gateway.value import OutOfBoundsError, currency, value_e6
from schemas.codec import event_arrow
from schemas.event import EVENT_TYPES, bound_message_id

REASONS: Final = frozenset(
    (
        "malformed_json",
        "not_an_object",
        "too_deep",
        "non_finite_number",
        "unknown_type",
        "missing_event_name",
        "invalid_id",
        "invalid_properties",
        "invalid_context",
        "timestamp_invalid",
        "timestamp_out_of_range",
        "too_many_properties",
        "event_too_large",
        "plan_violation",
        "other_write_key",
        "unprocessable",
    )
)
"""Every reason an event can be set aside for: the label of a metric, a header in `events.rejected`, the answer."""

ORIGINAL_ID_KEY: Final = "original_message_id"
"""Where an id of more than 100 characters stays readable, in the context."""
ROW_BYTES_FIXED: Final = 512
"""What a row weighs beside its JSON: its ids and names, and the client's own bookkeeping for a record."""

UTF8_BYTES_MAX: Final = 4
"""Of one character."""

CUSTOMER: Final = event_arrow().get_field_index("customer_id")
PROPERTIES: Final = event_arrow().get_field_index("properties")
CONTEXT: Final = event_arrow().get_field_index("context")

Row = tuple[Any, ...]
"""The values of one event in the order of the event schema."""

_ENCODE = msgspec.json.Encoder().encode
_ENCODE_SORTED = msgspec.json.Encoder(order="deterministic").encode
_NAMED = frozenset(("track",))
_VALUED = frozenset(("track", "page", "screen"))
_NO_OBJECT: Mapping[str, Any] = {}
_EMPTY_JSON = "{}"


@dataclass(frozen=True, slots=True)
class EventLimits:
    """Bounds of one event."""

    event_bytes_max: int
    properties_max: int
    depth_max: int

    @classmethod
    def of(cls, settings: Settings) -> "EventLimits":
        """The bounds as set. A greater depth than DEPTH_MAX cannot be had: bodies are parsed by that bound."""
        return cls(
            settings.ingest_event_bytes_max,
            settings.ingest_properties_max,
            min(settings.ingest_depth_max, DEPTH_MAX),
        )


@dataclass(frozen=True, slots=True)
class Origin:
    """What is true of all events of a request. `address`, `user_agent`, `is_device` and `do_not_track` are of its
    sender, see `sender.Sender`."""

    customer_id: int
    policy: Policy
    received_at_us: int
    protocol: str
    volatile_keys: frozenset[str]
    address: str = ""
    user_agent: str = ""
    is_device: bool = True
    do_not_track: bool = False


class Normaliser:
    """Turns raw events into rows, as each customer's policy allows. `on_value_dropped` hears of each value outside
    its bound; see `Lookup`."""

    def __init__(
        self,
        limits: EventLimits,
        on_value_dropped: Callable[[], None],
        lookup: Lookup | None = None,
        privacies: Privacies | None = None,
    ) -> None:
        self.limits = limits
        self._on_value_dropped = on_value_dropped
        self._lookup = lookup
        self._privacies = privacies or Privacies()

    def storable(self, raw: bytes, origin: Origin) -> bytes:
        """The bytes of an event that is set aside, as the customer's policy allows them to be written."""
        privacy = None if origin.policy is OPEN else self._privacies.of(origin.customer_id, origin.policy)
        return raw if privacy is None else privacy.storable(raw, (origin.address,) if origin.address else ())

    def row(self, event: RawEvent | Unusable, origin: Origin) -> Row:
        """The row of one event. Raises PoisonError with one of REASONS, NotTrackedError if it must not be kept."""
        privacy = None if origin.policy is OPEN else self._privacies.of(origin.customer_id, origin.policy)
        if privacy is not None and privacy.refuses(event, do_not_track=origin.do_not_track):
            raise NotTrackedError
        if isinstance(event, Unusable):
            raise PoisonError(event.reason, event.message)
        type_ = event.type
        if type_ not in EVENT_TYPES:
            raise PoisonError("unknown_type", f"{type_[:40]!r} is not a type of event")
        name = event.name
        if not isinstance(name, str):
            name = "" if name is None else _name(name)
        if not name and type_ in _NAMED:
            raise PoisonError("missing_event_name", "a track event needs the name of what happened")
        name = bounded(name) or ""
        properties = _object(event.properties, "invalid_properties")
        context = _object(event.context, "invalid_context")
        given, agent = context.get("ip"), context.get("userAgent")
        if privacy is not None:
            addresses = [each for each in (given, origin.address) if isinstance(each, str) and parse_address(each)]
            properties, context = privacy.clean(properties, addresses), privacy.clean(context, addresses)

        received_us = origin.received_at_us
        sent_us = parse_sent_us(event.sent_at)
        if event.timestamp is None or event.timestamp == "":
            original_us, timestamp_us = None, received_us
        else:
            original_us = parse_us(event.timestamp)
            if not is_plausible(original_us):
                raise out_of_range(event.timestamp)
            timestamp_us = event.time_rule(original_us, sent_us, received_us)
            if not is_plausible(timestamp_us):
                raise out_of_range(event.timestamp)

        message_id, replaced = self._message_id(event, origin, privacy)
        if replaced is not None:
            context = {**context, ORIGINAL_ID_KEY: replaced}
        properties_json = self.json_of(properties) if properties else _EMPTY_JSON
        context_json = self.json_of(context) if context else _EMPTY_JSON
        user_id, anonymous_id = id_text(event.user_id), id_text(event.anonymous_id)
        group_id, previous_id, session_id = (
            id_text(event.group_id),
            id_text(event.previous_id),
            id_text(event.session_id),
        )
        self._check_size((properties_json, context_json, user_id, anonymous_id, group_id, previous_id, session_id))

        value = self._value(properties) if type_ in _VALUED and properties else None
        enriched = self.looked_up(enrich(type_, name, properties, context), given, agent, origin)
        if privacy is not None:
            enriched = privacy.columns(enriched)
        return (
            origin.customer_id,
            message_id,
            type_,
            name,
            user_id,
            anonymous_id,
            group_id,
            previous_id,
            session_id,
            timestamp_us,
            received_us,
            original_us,
            sent_us,
            *enriched,
            value,
            currency(properties) if value is not None else None,
            properties_json,
            context_json,
            origin.protocol,
            library(context),
            event.attempt,
        )

    def looked_up(self, enriched: Enriched, given: Any, agent: Any, origin: Origin) -> Enriched:
        """`enriched`, and what a library tells of its sender: of the address `given` and the user agent that the
        context names, else of the request's. The same object where that is nothing."""
        if self._lookup is None:
            return enriched
        return self._lookup(
            enriched,
            address=origin.address if given is None and origin.is_device else _sender_address(given, origin),
            user_agent=agent if isinstance(agent, str) else origin.user_agent,
        )

    def _message_id(self, event: RawEvent, origin: Origin, privacy: Privacy | None) -> tuple[str, str | None]:
        """The id, and the sender's own if that had to be replaced.

        Without one: a hash of the event as sent where it has its own time (a retry then keeps it), else a new one.
        It is a keyed one where something of the event may not be stored: an open hash lets values be tried.
        """
        given = event.message_id
        if isinstance(given, int) and not isinstance(given, bool):
            given = str(given)
        if isinstance(given, str) and given:
            message_id, replaced = bound_message_id(given)
            return message_id, given if replaced else None
        if given not in (None, ""):
            raise PoisonError("invalid_id", "a message id must be a text")
        if event.timestamp is None or event.timestamp == "":
            return f"gateway-{uuid.uuid4().hex}", None
        stable = {key: item for key, item in event.raw.items() if key not in origin.volatile_keys}
        if privacy is not None and privacy.cleans:
            return f"content-{privacy.hashed(stable)}", None
        return f"content-{xxhash.xxh128_hexdigest(_ENCODE_SORTED(stable))}", None

    def json_of(self, value: Mapping[str, Any]) -> str:
        """An object as it is stored. Raises PoisonError for one past the limits."""
        try:
            encoded = _ENCODE(value)
        except RecursionError:
            raise PoisonError("too_deep", f"the event nests deeper than {self.limits.depth_max} levels") from None
        self.check(encoded)
        return encoded.decode()

    def check(self, encoded: bytes) -> None:
        """Raises PoisonError for an object in JSON that is past the limits."""
        limits = self.limits
        if nests_deeper(encoded, limits.depth_max - 1):  # the event itself is a level
            raise PoisonError("too_deep", f"the event nests deeper than {limits.depth_max} levels")
        most = limits.properties_max
        if len(encoded) > KEY_BYTES_MIN * most and key_count(encoded, most) > most:
            raise PoisonError("too_many_properties", f"the event has more than {most} properties")

    def _check_size(self, texts: Sequence[str | None]) -> None:
        most = self.limits.event_bytes_max
        if sum([len(text) for text in texts if text]) * UTF8_BYTES_MAX <= most:
            return
        size = sum([len(text.encode()) for text in texts if text])
        if size > most:
            raise PoisonError("event_too_large", f"the event has {size} bytes, at most {most} are taken")

    def _value(self, properties: Mapping[str, Any]) -> int | None:
        try:
            return value_e6(properties)
        except OutOfBoundsError:
            self._on_value_dropped()
            return None


def row_bytes(row: Row) -> int:
    """About what a row's record weighs in memory, in bytes; for bounds, never for truth."""
    return ROW_BYTES_FIXED + len(row[PROPERTIES]) + len(row[CONTEXT])


def _sender_address(given: Any, origin: Origin) -> str:
    """Whose country counts: the address that the event tells, else the request's, if that is a person's own or the
    event asks for it (as with "$remote")."""
    if isinstance(given, str) and given:
        return given if parse_address(given) is not None else origin.address
    return origin.address if origin.is_device else ""


def _object(value: Any, reason: str) -> Mapping[str, Any]:
    if value is None:
        return _NO_OBJECT
    if isinstance(value, dict):
        return value
    raise PoisonError(reason, f"must be an object, not {type(value).__name__}")


def _name(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise PoisonError("missing_event_name", "an event's name must be a text")


def id_text(value: Any) -> str | None:
    """An id as text; numbers are common among senders' ids, other types are mistakes."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise PoisonError("invalid_id", f"an id must be a text, not {type(value).__name__}")
