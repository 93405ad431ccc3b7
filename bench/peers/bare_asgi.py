"""A bare ASGI application on the same server: reads the body, says success, does nothing. PORT is its argument."""

import sys

from headrace import http_server
from headrace.http_server import Receive, Scope, Send

BODY = b'{"success":true}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Any path, any method."""
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


if __name__ == "__main__":
    sys.exit(http_server.run(application, host="127.0.0.1", port=int(sys.argv[1])))
