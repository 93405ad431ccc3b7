"""Browser, operating system and kind of device from a user agent, for senders that do not tell them by themselves."""

from typing import Final

from producers.gateway.enrich import Enriched
from producers.user_agent import USER_AGENT_CHARS_MAX, parse_user_agent

_BROWSER_PREFIX: Final = "Mozilla/"


def device_lookup(enriched: Enriched, *, address: str, user_agent: str) -> Enriched:  # noqa: ARG001 (see Lookup)
    """A `Lookup` that fills browser, os and device; answers for the same agent come from a bounded memory."""
    if not user_agent or (enriched.browser and enriched.os and enriched.device):
        return enriched
    told = parse_user_agent(user_agent[:USER_AGENT_CHARS_MAX])  # cut first: it is what the memory holds
    return enriched._replace(
        browser=enriched.browser or told.browser,
        os=enriched.os or told.os,
        device=enriched.device or told.device,
    )


def browser_agent(header: str) -> str:
    """A request's User-Agent if a browser sent it, else nothing: a server's HTTP library is nobody's device."""
    return header if header.startswith(_BROWSER_PREFIX) else ""
