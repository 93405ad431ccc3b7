"""What the contestants without a framework share: their answer, and the ends of their lives."""

from headrace.http_server import Receive, Send

_BODY = b'{"success":true}'
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BODY))]


async def live(receive: Receive, send: Send) -> None:
    """ASGI's lifespan."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


async def succeed(send: Send) -> None:
    """Say success."""
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _BODY})
