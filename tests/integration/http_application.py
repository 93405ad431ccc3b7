"""An application for tests of the server, run as a process of its own: PORT MODE."""

import asyncio
import sys

from headrace import http_server
from headrace.http_server import Receive, Scope, Send

MODE = sys.argv[2] if len(sys.argv) > 2 else ""
TASKS: list["asyncio.Task[None]"] = []


async def stubborn() -> None:
    """Ignores its cancellation."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue


async def lifespan(receive: Receive, send: Send) -> None:
    await receive()
    if MODE in ("fails", "fails-stubborn"):
        if MODE == "fails-stubborn":
            TASKS.append(asyncio.create_task(stubborn(), name="stubborn"))
            await asyncio.sleep(0)
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    if scope["path"] == "/hang":
        await asyncio.sleep(3600)
    elif scope["path"] == "/slow":
        await asyncio.sleep(1)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


if __name__ == "__main__":
    sys.exit(
        http_server.run(
            application,
            host="127.0.0.1",
            port=int(sys.argv[1]),
            on_ready=lambda: print("ready", flush=True),
            on_stop=lambda: print("stop", flush=True),
            shutdown_grace_s=2,
        )
    )
