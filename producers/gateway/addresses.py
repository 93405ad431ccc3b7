"""IP addresses as senders and proxies write them: which one is a sender's, and what a shortened one looks like.

Pure. An X-Forwarded-For is believed only as far as trusted proxies wrote it: read from its end, the first address
that is not a trusted proxy's own is the sender's. What stands before it anybody could have put there.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from headrace.errors import ConfigurationError

CACHED_MAX: Final = 8_192
ADDRESS_CHARS_MAX: Final = 64
"""Longer texts are no address: an IPv6 one with brackets, zone and port stays below."""
HOPS_MAX: Final = 16
"""Proxies that are followed back."""

KEPT_BITS: Final = {4: 24, 6: 48}
"""Of a truncated address, by version."""

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def networks(text: str, setting: str) -> tuple[Network, ...]:
    """The networks of a comma-separated list. Raises ConfigurationError that names `setting`."""
    found: list[Network] = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        try:
            found.append(ip_network(part, strict=False))
        except ValueError as error:
            raise ConfigurationError(
                f"{setting} holds {part!r}, which is no network", remedy="write networks as 10.0.0.0/8,fd00::/8"
            ) from error
    return tuple(found)


def parse_address(text: str) -> Address | None:
    """The address in a text, None if it holds none. A port, brackets, a zone and IPv4 in IPv6 are understood."""
    return _parsed(text) if len(text) <= ADDRESS_CHARS_MAX else None


def truncated(text: str) -> str | None:
    """The address with all but its network set to zero (/24, IPv6: /48); None if the text holds none."""
    found = parse_address(text)
    if found is None:
        return None
    network: Network = ip_network((found, KEPT_BITS[found.version]), strict=False)
    return str(network.network_address)


def sender_address(peer: str, forwarded_for: str | None, trusted: Sequence[Network]) -> str:
    """Who sent a request: the peer, or whom trusted proxies say that they had it from."""
    if not forwarded_for or not _is_trusted(peer, trusted):
        return peer
    sender = peer
    for hop in reversed(forwarded_for.rsplit(",", HOPS_MAX)[-HOPS_MAX:]):
        found = parse_address(hop)
        if found is None:  # "unknown", or what nobody should have written: no further
            return sender
        sender = str(found)
        if not _is_trusted(sender, trusted):
            return sender
    return sender


def _is_trusted(text: str, trusted: Sequence[Network]) -> bool:
    found = parse_address(text)
    return found is not None and any(found in network for network in trusted)


@lru_cache(maxsize=CACHED_MAX)
def _parsed(text: str) -> Address | None:
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found
