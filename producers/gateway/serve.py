"""The gateway as a process: `headrace run ingest`."""

from typing import Final

from headrace import http_server
from headrace.settings import Settings
from producers.gateway.app import Gateway

DRAIN_S: Final = 0.5
"""After SIGTERM new requests are still taken for so long, each ending its connection, while /readyz says no."""


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Requests under way are finished, Kafka's answer included.

    Raises ConfigurationError when the port is taken or no control database is named.
    """
    gateway = Gateway(settings)
    return http_server.run(
        gateway.app(),
        host=settings.ingest_host,
        port=settings.ingest_port,
        on_stop=gateway.stop,
        drain_s=DRAIN_S,
        shutdown_grace_s=settings.ingest_publish_timeout_s + 2.0,
        connections_max=settings.ingest_connections_max,
    )
