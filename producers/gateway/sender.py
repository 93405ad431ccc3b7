"""What a request's headers tell about who sent it: the address, the browser, and whether it wants to be tracked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace.settings import Settings
from producers.gateway.addresses import Network, networks, sender_address

_BROWSER: Final = "Mozilla/"
_APPS: Final = ("CFNetwork/", "okhttp/", "Dalvik/", "Dart/")
"""What is in the agents of the HTTP clients that apps are made with."""


@dataclass(frozen=True, slots=True)
class Sender:
    """`address`: empty if unknown. `user_agent`: a browser's, else empty: a server's HTTP library is nobody's device.
    `is_device`: a person's browser or app sent the request, so its address is that person's; a server's is not.
    `do_not_track`: it carries `DNT: 1` or `Sec-GPC: 1`."""

    address: str = ""
    user_agent: str = ""
    is_device: bool = True
    do_not_track: bool = False


class Senders:
    """Reads senders off requests. Raises ConfigurationError for trusted_proxies that are no networks."""

    def __init__(self, settings: Settings) -> None:
        self._trusted: tuple[Network, ...] = networks(settings.trusted_proxies, "trusted_proxies")

    def of(self, headers: Mapping[str, str], client: Any) -> Sender:
        """The sender of a request with these headers (names in lower case); `client` is ASGI's (host, port) or None.
        Never raises."""
        peer = str(client[0]) if client else ""
        agent = headers.get("user-agent", "")
        is_browser = agent.startswith(_BROWSER)
        return Sender(
            sender_address(peer, headers.get("x-forwarded-for"), self._trusted),
            agent if is_browser else "",
            is_browser or any(app in agent for app in _APPS),
            headers.get("dnt") == "1" or headers.get("sec-gpc") == "1",
        )
