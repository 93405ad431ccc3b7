"""Country, browser, operating system and kind of device, for senders that do not tell them by themselves."""

from headrace.settings import Settings
from producers.gateway.countries import Countries
from producers.gateway.enrich import Enriched
from producers.user_agent import USER_AGENT_CHARS_MAX, parse_user_agent, warm_up


class SenderLookup:
    """A `Lookup` by the libraries; all answers come from bounded memories. `start` and `close` frame its life."""

    def __init__(self, settings: Settings) -> None:
        self._countries = Countries(settings)

    def start(self) -> None:
        """Load what the first event would have to wait for: about 0.2 s. Never raises."""
        warm_up()
        self._countries.start()

    def close(self) -> None:
        self._countries.close()

    def __call__(self, enriched: Enriched, *, address: str, user_agent: str) -> Enriched:
        if enriched.country is None and address and self._countries.is_loaded:
            enriched = enriched._replace(country=self._countries(address))
        return device_lookup(enriched, address=address, user_agent=user_agent) if user_agent else enriched


def device_lookup(enriched: Enriched, *, address: str, user_agent: str) -> Enriched:  # noqa: ARG001 (see Lookup)
    """A `Lookup` that fills browser, os and device alone; answers for the same agent come from a bounded memory."""
    if not user_agent or (enriched.browser and enriched.os and enriched.device):
        return enriched
    told = parse_user_agent(user_agent[:USER_AGENT_CHARS_MAX])  # cut first: it is what the memory holds
    return enriched._replace(
        browser=enriched.browser or told.browser,
        os=enriched.os or told.os,
        device=enriched.device or told.device,
    )
