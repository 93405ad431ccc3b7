"""One Amplitude event as a raw event: its kind, whose it is, its revenue, and its device as a context.

Pure. Nothing that a sender said is dropped: what has no place among a raw event's fields and no name in the context
stays in the context under its own name. Properties are as sent, with revenue fields of the event added to them, as
that is where values are looked for; a property of that name which the sender set itself wins.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from producers.gateway.protocols.decoder import RawEvent
from producers.gateway.timestamps import always_moved_us

PAGE_VIEW: Final = "[Amplitude] Page Viewed"
SCREEN_VIEW: Final = "[Amplitude] Screen Viewed"
"""What autocapture names them; a caller's own spelling is an event like any other."""

FACTOR_MAX: Final = 10**12
"""Of a price or a quantity; a product of larger ones is no value, see `value`."""

_NO_SESSION = (-1, "-1")
_REMOTE_ADDRESS = "$remote"
"""An `ip` that asks for the address that the request comes from."""

_TRACK = ("track", "event_properties")
_KINDS: Final[Mapping[str, tuple[str, str]]] = {
    "$identify": ("identify", "user_properties"),
    "$groupidentify": ("group", "group_properties"),
    PAGE_VIEW: ("page", "event_properties"),
    SCREEN_VIEW: ("screen", "event_properties"),
}
"""Type and the key of its properties, by event_type."""

_FIELDS = frozenset(("event_type", "user_id", "device_id", "time", "insert_id", "session_id"))
_REVENUE_FIELDS = frozenset(("revenue", "price", "quantity", "productId", "revenueType", "currency"))
_TRACK_FIELDS = _FIELDS | _REVENUE_FIELDS
_RENAMED: Final[Mapping[str, str]] = {"language": "locale", "user_agent": "userAgent"}
_PLACES: Final[Mapping[str, tuple[str, str]]] = {
    "os_name": ("os", "name"),
    "os_version": ("os", "version"),
    "device_brand": ("device", "brand"),
    "device_manufacturer": ("device", "manufacturer"),
    "device_model": ("device", "model"),
    "device_type": ("device", "type"),
    "app_version": ("app", "version"),
    "version_name": ("app", "version"),
    "carrier": ("network", "carrier"),
    "country": ("location", "country"),
    "region": ("location", "region"),
    "city": ("location", "city"),
    "dma": ("location", "dma"),
    "location_lat": ("location", "latitude"),
    "location_lng": ("location", "longitude"),
}
"""Where an event's field stands in the context."""

_PAGE: Final[Mapping[str, str]] = {
    "url": "[Amplitude] Page Location",
    "path": "[Amplitude] Page Path",
    "title": "[Amplitude] Page Title",
    "referrer": "referrer",
}
_PAGE_ADDRESS = "[Amplitude] Page URL"
"""The location without its query: on clicks the only address."""
_SCREEN_NAME = "[Amplitude] Screen Name"
_CAMPAIGN: Final[Mapping[str, str]] = {
    "source": "utm_source",
    "medium": "utm_medium",
    "name": "utm_campaign",
    "term": "utm_term",
    "content": "utm_content",
}


def to_event(message: Mapping[str, Any], sent_at: Any) -> RawEvent:
    """An event as a raw event; `sent_at` is when its request says it was sent."""
    get = message.get
    name = get("event_type")
    type_, properties_key = _KINDS.get(name, _TRACK) if isinstance(name, str) else _TRACK
    properties = get(properties_key)
    context = _context(message, type_, properties_key)
    if properties_key == "event_properties" and (properties is None or isinstance(properties, dict)):
        properties = with_revenue(message, properties or {})
        _add_page(context, type_, properties)
    session = get("session_id")
    return RawEvent(
        type_,
        name,
        get("insert_id"),
        get("user_id"),
        get("device_id"),
        group_of(get("groups"), first=type_ == "group"),
        None,
        None if session in _NO_SESSION else session,
        get("time"),
        sent_at,
        properties,
        context,
        0,
        message,
        always_moved_us,
    )


def group_of(groups: Any, *, first: bool) -> str | int | None:
    """The group in `{type: name or names}`: the only one, or the `first` of many. All of them are in the context."""
    if not isinstance(groups, dict) or not groups or (len(groups) > 1 and not first):
        return None
    named = next(iter(groups.values()))
    if isinstance(named, list) and named and (len(named) == 1 or first):
        named = named[0]
    return named if isinstance(named, str | int) and not isinstance(named, bool) else None


def with_revenue(message: Mapping[str, Any], properties: Mapping[str, Any]) -> Mapping[str, Any]:
    """`properties` with a plain `revenue` and `currency`, if the event brings money.

    Of an event's own fields, price × quantity comes before `revenue`; in the properties that a Revenue object makes,
    `$revenue` comes first, since its `$price` is 0 and its `$quantity` 1 unless they are set.
    """
    fields = {key: message[key] for key in _REVENUE_FIELDS if message.get(key) is not None}
    if not fields and "$revenue" not in properties and "$price" not in properties:
        return properties
    merged = {**fields, **properties}
    if properties.get("revenue") is None:
        amount = _product(fields.get("price"), fields.get("quantity", 1))
        if amount is None:
            amount = fields.get("revenue")
        if amount is None:
            amount = properties.get("$revenue")
        if amount is None:
            amount = _product(properties.get("$price"), properties.get("$quantity", 1))
        if amount is not None:
            merged["revenue"] = amount
    if merged.get("currency") is None and isinstance(properties.get("$currency"), str):
        merged["currency"] = properties["$currency"]
    return merged


def _product(price: Any, quantity: Any) -> int | float | None:
    """Exact to the digits that both are written with; None if one of them is no number."""
    for factor in (price, quantity):
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not abs(factor) <= FACTOR_MAX:
            return None
    if isinstance(price, int) and isinstance(quantity, int):
        return price * quantity
    return float(Decimal(repr(price)) * Decimal(repr(quantity)))


def _context(message: Mapping[str, Any], type_: str, properties_key: str) -> dict[str, Any]:
    """All but the fields of a raw event, under the names that later stages know."""
    taken = _FIELDS if type_ in ("identify", "group") else _TRACK_FIELDS
    is_web = message.get("platform") == "Web"  # there `os` is the browser and `device_model` the system
    context: dict[str, Any] = {}
    places: dict[str, dict[str, Any]] = {}
    for key, value in message.items():
        if value is None or key in taken or key == properties_key:
            continue
        place = _PLACES.get(key)
        if place is not None:
            section = "browser" if is_web and place[0] == "os" else place[0]
            places.setdefault(section, {})[place[1]] = value
        elif key == "library" and isinstance(value, str):
            name, slash, version = value.rpartition("/")
            context[key] = {"name": name, "version": version} if slash else {"name": value}
        elif key != "ip" or value != _REMOTE_ADDRESS:
            context[_RENAMED.get(key, key)] = value
    context.update(places)
    return context


def _add_page(context: dict[str, Any], type_: str, properties: Mapping[str, Any]) -> None:
    """What autocapture tells of the page: on page views and on clicks."""
    if type_ == "screen":
        screen = properties.get(_SCREEN_NAME)
        if isinstance(screen, str) and screen:
            context["page"] = {"path": screen}
    elif _PAGE["path"] in properties or _PAGE_ADDRESS in properties or _PAGE["url"] in properties:
        page = {key: properties[name] for key, name in _PAGE.items() if isinstance(properties.get(name), str)}
        if "url" not in page and isinstance(properties.get(_PAGE_ADDRESS), str):
            page["url"] = properties[_PAGE_ADDRESS]
        context["page"] = page
    if type_ == "page":
        campaign = {key: properties[name] for key, name in _CAMPAIGN.items() if isinstance(properties.get(name), str)}
        if campaign:
            context["campaign"] = campaign
