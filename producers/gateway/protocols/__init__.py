"""The wire protocols: a table from path to decoder. A protocol is a module here, and a line in `routes`."""

from producers.gateway.protocols import (
    amplitude,
    cloudevents,
    fixed,
    mixpanel,
    posthog,
    segment,
    segment_jitsu,
    shared_paths,
    snowplow,
)
from producers.gateway.protocols.decoder import Route, RouteTable

__all__ = ["Route", "RouteTable", "routes"]


def routes() -> RouteTable:
    """All paths that the gateway answers beside its own."""
    families = (
        segment, segment_jitsu, posthog, mixpanel, amplitude, snowplow, cloudevents, shared_paths, fixed,
    )  # fmt: skip
    return RouteTable([route for family in families for route in family.routes()])
