"""A bare ASGI application on the same server: reads the body, says success, does nothing. PORT is its argument."""

import sys

from bench.peers.raw_asgi import live, succeed
from headrace import http_server
from headrace.http_server import Receive, Scope, Send


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Any path, any method."""
    if scope["type"] == "lifespan":
        await live(receive, send)
        return
    while (await receive()).get("more_body"):
        pass
    await succeed(send)


if __name__ == "__main__":
    sys.exit(http_server.run(application, host="127.0.0.1", port=int(sys.argv[1])))
