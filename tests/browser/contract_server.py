"""A development fake of the API: the documented shapes of query-api.md over seeded events in memory.

Owns: nothing that users see. Guarantees: what `test_contract.py` checks, which is asked of the real API in the
same words. Refuses: to be reachable from elsewhere (127.0.0.1 only) and to keep anything after it stops.

    python -m tests.browser.contract_server --ready-file FILE [--port N] [--days N] [--per-day N] [--rate N]

The ready file has the fields of `headrace up` that browser tests use.
"""

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from granian.constants import Interfaces
from granian.server.embed import Server
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from api.dashboard.site import dashboard_site
from tests.browser.contract_store import ContractStore

SESSION_S = 15 * 60
COOKIE = "headrace_session"
# A browser that reads slower than this many messages behind is cut off and resumes by itself.
STREAM_QUEUE_MAX = 100


@dataclass(slots=True)
class Contract:
    """The server's whole state."""

    stores: dict[int, ContractStore]
    rate: int
    read_tokens: dict[str, int]
    write_keys: dict[str, int]
    codes: dict[str, int] = field(default_factory=dict)
    sessions: dict[str, tuple[int, datetime]] = field(default_factory=dict)
    streams: list[tuple[int, asyncio.Queue[str | None]]] = field(default_factory=list)
    ingest_url: str = ""
    sent: int = 0

    def who(self, request: Request) -> int | None:
        """The customer of the request's token or cookie, None where it has neither."""
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if bearer:
            return self.read_tokens.get(bearer)
        customer_id, expires_at = self.sessions.get(request.cookies.get(COOKIE, ""), (None, None))
        return customer_id if expires_at is not None and expires_at > datetime.now(UTC) else None

    def push(self, customer_id: int, kind: str, data: dict[str, Any]) -> None:
        self.sent += 1
        message = f"id: {self.sent}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"
        for owner, queue in self.streams:
            if owner == customer_id:
                with contextlib.suppress(asyncio.QueueFull):
                    queue.put_nowait(message)

    def push_change(self, customer_id: int, events: list[dict[str, Any]]) -> None:
        as_of = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        if events:
            self.push(customer_id, "events", {"events": events[:20]})
        self.push(customer_id, "stats", {"as_of": as_of, "freshness_s": 0.4, "changed": bool(events)})


def problem(status: int, slug: str, title: str, detail: str) -> JSONResponse:
    """An RFC 9457 answer."""
    body = {"type": f"https://headrace.dev/problems/{slug}", "title": title, "status": status, "detail": detail}
    return JSONResponse(body, status, media_type="application/problem+json")


def unauthorized() -> JSONResponse:
    return problem(401, "unauthorized", "Not signed in", "Send a read token or open a login URL.")


def foreign(request: Request) -> bool:
    """Whether another site's page sent the browser here; a token in a header needs no such care."""
    origin = request.headers.get("origin")
    same = origin == f"http://{request.headers.get('host')}" or request.headers.get("sec-fetch-site") == "same-origin"
    return "authorization" not in request.headers and not same and origin is not None


def forbidden() -> JSONResponse:
    return problem(403, "cross-site", "Another site may not do this", "The request came from another origin.")


def make_app(contract: Contract) -> Starlette:
    """The fake API with the real dashboard site at its root."""

    async def make_code(request: Request) -> Response:
        customer_id = contract.who(request)
        if customer_id is None:
            return unauthorized()
        code = secrets.token_urlsafe(18)
        contract.codes[code] = customer_id
        expires_at = datetime.now(UTC) + timedelta(minutes=10)
        return JSONResponse({"code": code, "expires_at": expires_at.isoformat(), "fragment": f"#code={code}"}, 201)

    def session_answer(customer_id: int, expires_at: datetime) -> JSONResponse:
        store = contract.stores[customer_id]
        return JSONResponse(
            {
                "expires_at": expires_at.isoformat(),
                "customer": {"customer_id": customer_id, "name": store.name},
                "ingest_url": contract.ingest_url,
            }
        )

    def start_session(customer_id: int) -> JSONResponse:
        expires_at = datetime.now(UTC) + timedelta(seconds=SESSION_S)
        response = session_answer(customer_id, expires_at)
        key = secrets.token_urlsafe(18)
        contract.sessions[key] = (customer_id, expires_at)
        response.set_cookie(COOKIE, key, max_age=SESSION_S, httponly=True, samesite="strict", path="/")
        return response

    async def session(request: Request) -> Response:
        if foreign(request):
            return forbidden()
        if request.method == "DELETE":
            contract.sessions.pop(request.cookies.get(COOKIE, ""), None)
            response = Response(status_code=204)
            response.delete_cookie(COOKIE)
            return response
        customer_id = contract.codes.pop((await request.json())["code"], None)
        if customer_id is None:
            return problem(401, "code", "The code is not valid", "It was used, is too old or was mistyped.")
        return start_session(customer_id)

    async def refresh(request: Request) -> Response:
        if foreign(request):
            return forbidden()
        customer_id = contract.who(request)
        if customer_id is None:
            return unauthorized()
        if "authorization" in request.headers:
            return session_answer(customer_id, datetime.now(UTC) + timedelta(days=30))
        return start_session(customer_id)

    async def query(request: Request) -> Response:
        if foreign(request):
            return forbidden()
        customer_id = contract.who(request)
        if customer_id is None:
            return unauthorized()
        store, now, body = contract.stores[customer_id], datetime.now(UTC), await request.json()

        def one(asked: dict[str, Any]) -> dict[str, Any]:
            try:
                return store.answer(asked, now)
            except (ValueError, KeyError) as error:
                return {"error": {"title": "The query is not valid", "status": 422, "detail": str(error)}}

        if "queries" in body:
            return JSONResponse({"answers": [one(asked) for asked in body["queries"]]})
        answer = one(body)
        if "error" in answer:
            return problem(422, "query", answer["error"]["title"], answer["error"]["detail"])
        return JSONResponse(answer)

    async def live(request: Request) -> Response:
        customer_id = contract.who(request)
        if customer_id is None:
            return unauthorized()
        queue: asyncio.Queue[str | None] = asyncio.Queue(STREAM_QUEUE_MAX)
        entry = (customer_id, queue)

        async def messages() -> AsyncIterator[str]:
            contract.streams.append(entry)
            try:
                yield "retry: 500\n\n"
                while (message := await queue.get()) is not None:
                    yield message
            finally:
                contract.streams.remove(entry)

        return StreamingResponse(messages(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def batch(request: Request) -> Response:
        body = await request.json()
        customer_id = contract.write_keys.get(body.get("writeKey", ""))
        if customer_id is None:
            return problem(401, "write-key", "Unknown write key", "Use the customer's write key.")
        posted = contract.stores[customer_id].add(body["batch"], datetime.now(UTC))
        contract.push_change(customer_id, posted)
        return JSONResponse({"success": True})

    async def drop_streams(request: Request) -> Response:
        dropped = len(contract.streams)
        for _, queue in contract.streams:
            while not queue.empty():
                queue.get_nowait()
            queue.put_nowait(None)
        return JSONResponse({"dropped": dropped})

    return Starlette(
        routes=[
            Route("/v1/session/codes", make_code, methods=["POST"]),
            Route("/v1/session", session, methods=["POST", "DELETE"]),
            Route("/v1/session/refresh", refresh, methods=["POST"]),
            Route("/v1/query", query, methods=["POST"]),
            Route("/v1/live", live),
            Route("/v1/batch", batch, methods=["POST"]),
            Route("/contract/drop-streams", drop_streams, methods=["POST"]),
            Mount("/", dashboard_site()),
        ]
    )


async def grow(contract: Contract, customer_id: int) -> None:
    """Live traffic: about `rate` events a second until cancelled, a heartbeat for the others."""
    store = contract.stores[customer_id]
    beat = 0
    while True:
        await asyncio.sleep(0.5)
        beat += 1
        count = store.rng.randint(0, contract.rate) if contract.rate else 0
        events = store.grow(datetime.now(UTC), count)
        if events or beat % 10 == 0:
            contract.push_change(customer_id, events)


async def serve(options: argparse.Namespace) -> None:
    now = datetime.now(UTC)
    shop = ContractStore(options.seed, "An example shop", 1)
    shop.seed_days(options.days, options.per_day, now)
    contract = Contract(
        stores={1: shop, 2: ContractStore(options.seed + 1, "Blank Slate", 2)},
        rate=options.rate,
        read_tokens={secrets.token_urlsafe(18): number for number in (1, 2)},
        write_keys={secrets.token_urlsafe(18): number for number in (1, 2)},
    )
    port = options.port or free_port()
    base_url = contract.ingest_url = f"http://127.0.0.1:{port}"
    server = Server(make_app(contract), address="127.0.0.1", port=port, interface=Interfaces.ASGI, log_enabled=False)
    code = secrets.token_urlsafe(18)
    contract.codes[code] = 1
    tokens, keys = list(contract.read_tokens), list(contract.write_keys)
    ready = {
        "api_url": base_url,
        "ingest_url": base_url,
        "dashboard_url": f"{base_url}/#code={code}",
        "customers": [
            {"customer_id": number, "name": store.name, "read_token": tokens[place], "write_key": keys[place]}
            for place, (number, store) in enumerate(contract.stores.items())
        ],
    }
    task = asyncio.create_task(grow(contract, 1))
    serving = asyncio.create_task(server.serve())
    await wait_for_port(port)
    if options.ready_file:
        staged = options.ready_file.with_suffix(".part")
        staged.touch(mode=0o600)
        staged.write_text(json.dumps(ready))
        os.replace(staged, options.ready_file)
    print(ready["dashboard_url"], flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await asyncio.wait([serving, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    # Streams never end by themselves and would hold a graceful stop for ever; nothing here needs one.
    os._exit(0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def wait_for_port(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.05)
    raise TimeoutError(f"the contract server did not listen on port {port} within 10 s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ready-file", type=Path)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--per-day", type=int, default=900)
    parser.add_argument("--rate", type=int, default=3, help="live events per half second, at most")
    asyncio.run(serve(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
