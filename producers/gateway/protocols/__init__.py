"""The wire protocols: a table from path to decoder. A protocol is one module here and one line in `routes`."""

from producers.gateway.protocols import segment
from producers.gateway.protocols.decoder import Route, RouteTable

__all__ = ["Route", "RouteTable", "routes"]


def routes() -> RouteTable:
    """All paths that the gateway answers beside its own."""
    return RouteTable([*segment.routes()])
