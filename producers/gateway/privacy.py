"""A customer's policy, applied to events at the door: what is removed, what is hashed, and who is not tracked.

Pure but for one log line. Guarantees, for all that is written of an event, in `events` and in `events.rejected`: no
value stands under a dropped name on any level, under a hashed name stands a keyed hash, and no address is more exact
than the policy says. Looked through are objects, lists, JSON inside of texts, plain or in base64, and the parameters
of addresses of pages. What cannot be looked through is withheld. Hashes are of BLAKE2b with the installation's
`privacy_key`, personal to the customer: the same value always has the same hash, so distinct ones can be counted,
and nobody without the key can try values. Refuses nothing but nesting beyond DEPTH_MAX.
"""

import base64
import binascii
import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote_plus

import msgspec

from headrace.errors import ConfigurationError, PoisonError
from headrace.log import get_logger
from headrace.settings import Settings
from headrace.shards.policy import NAME_CHARS_MAX, Policy, name_key
from producers.gateway.addresses import parse_address, truncated
from producers.gateway.enrich import Enriched
from producers.gateway.json_body import DEPTH_MAX, Unusable
from producers.gateway.protocols.decoder import RawEvent

KEY_CHARS_MIN: Final = 16
HASH_BYTES: Final = 16
HASH_MARK: Final = "hash-"
CUSTOMERS_MAX: Final = 1_000
"""Policies that are kept ready to apply."""
NAMES_REMEMBERED_MAX: Final = 512
"""Property names of one customer whose treatment is kept, none longer than NAME_CHARS_MAX."""

ADDRESS_NAMES: Final = frozenset(
    ("ip", "ipaddress", "ipaddr", "ipv4", "ipv6", "clientip", "userip", "useripaddress", "remoteip", "remoteaddr",
     "remoteaddress", "xforwardedfor", "forwardedfor", "xrealip", "realip")
)  # fmt: skip
"""Names under which an address stands, in lower case and without `$`, `_` and `-`."""
REFUSAL_NAMES: Final = frozenset(
    ("doNotTrack", "do_not_track", "dnt", "DNT", "gpc", "GPC", "globalPrivacyControl", "secGpc")
)
"""Context fields in which a page passes on what its browser says."""

_REFUSALS: Final = (True, 1, "1", "true", "yes")
_BASE64_JSON: Final = ("eyJ", "W3s", "eyAi")
_LIKE_ADDRESS: Final = re.compile(r"[0-9a-fA-F]+[.:][0-9a-fA-F]*[.:]")
_KEEP, _DROP, _HASH, _ADDRESS = range(4)
_GONE: Final = object()
_ENCODE = msgspec.json.Encoder().encode
_ENCODE_SORTED = msgspec.json.Encoder(order="deterministic").encode
_DECODE = msgspec.json.Decoder().decode

log = get_logger(__name__)


class NotTrackedError(Exception):
    """The sender asked not to be tracked and the customer honours it: write nothing, say nothing, count it."""


class Privacy:
    """One customer's policy, ready to apply. `key`: what hashes are keyed with; empty: hashed names are dropped."""

    def __init__(self, policy: Policy, customer_id: int, key: bytes) -> None:
        self._policy = policy
        self._hasher = hashlib.blake2b(
            digest_size=HASH_BYTES, key=key, person=b"headrace" + customer_id.to_bytes(8, "big", signed=True)
        )
        self._named = {name_key(name): _HASH if key else _DROP for name in policy.hash}
        self._named |= {name_key(name): _DROP for name in policy.drop}
        self._columns = {name: None for name in Enriched._fields if name in self._named}
        self._actions: dict[str, int] = {}
        self._parameters = _parameters(self._named)
        self.cleans = policy.address != "keep" or bool(self._named)
        """Whether `clean` can change anything."""

    def refuses(self, event: RawEvent | Unusable, *, do_not_track: bool) -> bool:
        """Whether the event must not be kept: its request or its context says so, and the customer honours it."""
        if not self._policy.honour_dnt:
            return False
        if do_not_track:
            return True
        context = event.context if isinstance(event, RawEvent) else None
        if not isinstance(context, dict) or REFUSAL_NAMES.isdisjoint(context):
            return False
        return any(context.get(name) in _REFUSALS for name in REFUSAL_NAMES)

    def clean(self, value: Mapping[str, Any], addresses: Sequence[str]) -> Mapping[str, Any]:
        """A copy of `value` as the policy allows it. `addresses` are the sender's, removed or truncated wherever
        they stand. Raises PoisonError("too_deep")."""
        return self._object(value, () if self._policy.address == "keep" else addresses, 1) if self.cleans else value

    def storable(self, raw: bytes, addresses: Sequence[str]) -> bytes:
        """An event's own bytes as the policy allows them: a note in their place if they cannot be looked through."""
        if not self.cleans:
            return raw
        try:
            value = _DECODE(raw)
            kept = self._value(value, self._addresses(value, addresses), 0)
            if kept is not _GONE:
                return _ENCODE(kept)
        except (msgspec.MsgspecError, ValueError, RecursionError, PoisonError):
            pass
        return _ENCODE({"withheld": "the customer's policy could not be applied to it", "bytes": len(raw)})

    def columns(self, enriched: Enriched) -> Enriched:
        """The dimensions, those that the policy names left empty."""
        return enriched._replace(**self._columns) if self._columns else enriched

    def hashed(self, value: Any) -> Any:
        """The keyed hash of a value; None and an empty text tell nothing and stay. A number is hashed as its text."""
        if value is None or value == "":
            return value
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else _ENCODE_SORTED(value)
        hasher = self._hasher.copy()
        hasher.update(data)
        return HASH_MARK + hasher.hexdigest()

    def _addresses(self, value: Any, addresses: Sequence[str]) -> Sequence[str]:
        if self._policy.address == "keep":
            return ()
        context = value.get("context") if isinstance(value, dict) else None
        own = context.get("ip") if isinstance(context, dict) else None
        return (*addresses, own) if isinstance(own, str) and parse_address(own) else addresses

    def _object(self, value: Mapping[str, Any], addresses: Sequence[str], depth: int) -> dict[str, Any]:
        if depth > DEPTH_MAX:
            raise PoisonError("too_deep", f"the event nests deeper than {DEPTH_MAX} levels")
        out: dict[str, Any] = {}
        for key, item in value.items():
            action = self._actions.get(key)
            if action is None:
                action = self._action(key)
            if action == _KEEP:
                kept = self._value(item, addresses, depth) if isinstance(item, str | dict | list) else item
            elif action == _HASH:
                kept = self.hashed(item)
            elif action == _ADDRESS:
                kept = self._named_address(item, addresses, depth)
            else:
                continue
            if kept is not _GONE:
                out[key] = kept
        return out

    def _value(self, item: Any, addresses: Sequence[str], depth: int) -> Any:
        if isinstance(item, str):
            return self._text(item, addresses, depth)
        if isinstance(item, dict):
            return self._object(item, addresses, depth + 1)
        if isinstance(item, list):
            if depth >= DEPTH_MAX:
                raise PoisonError("too_deep", f"the event nests deeper than {DEPTH_MAX} levels")
            kept = [self._value(each, addresses, depth + 1) for each in item]
            return [each for each in kept if each is not _GONE]
        return item

    def _text(self, text: str, addresses: Sequence[str], depth: int) -> Any:
        if addresses and text in addresses:
            return self._address(text)
        if text.startswith(("{", "[", *_BASE64_JSON)):
            return self._inner_json(text, addresses, depth)
        if self._parameters is not None and "=" in text:
            return self._parameters.sub(self._parameter, text)
        return text

    def _inner_json(self, text: str, addresses: Sequence[str], depth: int) -> Any:
        """A text that is JSON, looked through and written again if that changed it; another text as it is."""
        encoded = text.startswith(_BASE64_JSON)
        try:
            inner = text.encode()
            if encoded:
                inner = base64.b64decode(inner + b"=" * (-len(inner) % 4), b"-_" if set("-_") & set(text) else None)
            value = _DECODE(inner)
        except (binascii.Error, msgspec.MsgspecError, ValueError, RecursionError):
            return text
        try:
            kept = self._value(value, addresses, depth + 1)
        except PoisonError:  # a text may hold what an event may not; it is not for us to look through
            return _GONE
        if kept == value:
            return text
        written = _ENCODE(kept)
        return (base64.urlsafe_b64encode(written).rstrip(b"=") if encoded else written).decode()

    def _parameter(self, found: re.Match[str]) -> str:
        hashed = self._named.get(name_key(found["name"])) == _HASH
        return found["before"] + (self.hashed(unquote_plus(found["value"])) if hashed else "")

    def _named_address(self, item: Any, addresses: Sequence[str], depth: int) -> Any:
        """What stands under an address's name: one address, several with commas, or something else."""
        if not isinstance(item, str):
            if isinstance(item, list):
                kept = [self._named_address(each, addresses, depth + 1) for each in item]
                return [each for each in kept if each is not _GONE]
            return self._value(item, addresses, depth)
        if "," in item:
            parts = [self._named_address(part.strip(), addresses, depth) for part in item.split(",")]
            return ", ".join(part for part in parts if part is not _GONE) or _GONE
        if parse_address(item) is not None:
            return self._address(item)
        # A mark such as "$remote" is none; what merely looks like an address is not left to chance.
        return _GONE if _LIKE_ADDRESS.search(item) else self._text(item, addresses, depth)

    def _address(self, text: str) -> Any:
        return truncated(text) or _GONE if self._policy.address == "truncate" else _GONE

    def _action(self, key: str) -> int:
        action = self._named.get(name_key(key))
        if action is None:
            plain = key.lower().replace("$", "").replace("_", "").replace("-", "")
            action = _ADDRESS if self._policy.address != "keep" and plain in ADDRESS_NAMES else _KEEP
        if len(self._actions) < NAMES_REMEMBERED_MAX and len(key) <= NAME_CHARS_MAX:
            self._actions[key] = action
        return action


class Privacies:
    """The policies of the customers that have one, ready to apply; at most CUSTOMERS_MAX of them."""

    def __init__(self, key: str = "") -> None:
        """`key`: the setting privacy_key. Raises ConfigurationError for one that is too short."""
        if 0 < len(key) < KEY_CHARS_MIN:
            raise ConfigurationError(
                f"privacy_key has {len(key)} characters, at least {KEY_CHARS_MIN} are needed",
                remedy="set HEADRACE_PRIVACY_KEY to the output of `openssl rand -hex 32`, on every gateway the same",
            )
        self._key = hashlib.blake2b(key.encode(), digest_size=32).digest() if key else b""
        self._ready: OrderedDict[int, tuple[Policy, Privacy | None]] = OrderedDict()

    @classmethod
    def of_settings(cls, settings: Settings) -> "Privacies":
        """With the installation's key. Raises ConfigurationError."""
        return cls(settings.privacy_key)

    def of(self, customer_id: int, policy: Policy) -> Privacy | None:
        """What to apply to the customer's events; None: nothing."""
        known = self._ready.get(customer_id)
        if known is not None and known[0] is policy:
            return known[1]
        if known is not None and known[0] == policy:  # read again, and the same
            made = known[1]
        else:
            made = Privacy(policy, customer_id, self._key) if policy.changes_events else None
            if policy.hash and not self._key:
                log.error("privacy_key_missing", customer_id=customer_id, consequence="named properties are dropped")
        self._ready[customer_id] = (policy, made)
        self._ready.move_to_end(customer_id)
        while len(self._ready) > CUSTOMERS_MAX:
            self._ready.popitem(last=False)
        return made


def _parameters(names: Mapping[str, int]) -> re.Pattern[str] | None:
    """Finds the parameters of these names in the address of a page or a query alone."""
    if not names:
        return None
    either = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.compile(rf"(?P<before>(?:^|[?&;#])\$?(?P<name>{either})=)(?P<value>[^&;#\s]*)", re.IGNORECASE)
