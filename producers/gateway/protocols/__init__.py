"""The wire protocols: a table from path to decoder. A protocol is a module here, and a line in `routes`."""

from producers.gateway.protocols import (
    amplitude,
    cloudevents,
    fixed,
    mixpanel,
    posthog,
    posthog_scripts,
    segment,
    segment_jitsu,
    shared_paths,
    snowplow,
)
from producers.gateway.protocols.decoder import Route, RouteTable

__all__ = ["Route", "RouteTable", "routes"]


def routes(scripts: posthog_scripts.Scripts | None = None) -> RouteTable:
    """All paths that the gateway answers beside its own. `scripts`: of posthog-js, none if not given."""
    families = (
        segment, segment_jitsu, posthog, mixpanel, amplitude, snowplow, cloudevents, shared_paths, fixed,
    )  # fmt: skip
    found = [route for family in families for route in family.routes()]
    return RouteTable(found + posthog_scripts.routes(scripts or posthog_scripts.Scripts()))
