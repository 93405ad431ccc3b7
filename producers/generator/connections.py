"""HTTP/1.1 over a few kept-alive connections to one address, for senders that wait for each answer.

httptools (llhttp) reads the answers. An answer must tell its length or come in chunks; redirects are not followed.
Any failure closes its connection, and the next request makes another one.
"""

import asyncio
import ssl
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

from headrace.errors import UsageError

REQUEST_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. Names of headers in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connections:
    """At most `limit` requests are under way at once; further ones wait. Use it on one event loop.

    Raises UsageError for a URL that is neither http nor https, or names no host.
    """

    def __init__(self, url: str, limit: int) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"cannot send to {url!r}", remedy="give an address that begins with http:// or https://")
        self._host = parts.hostname
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._free = asyncio.Semaphore(limit)
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

    async def request(self, request: bytes) -> Answer:
        """Send a whole request; its answer. Raises OSError: no connection, one that breaks or brings no HTTP, or
        REQUEST_TIMEOUT_S without the whole answer."""
        async with self._free:
            connection = await self._connection()
            try:
                answer = await connection.exchange(request)
            except BaseException:
                connection.close()
                raise
            finally:
                if connection.usable:
                    self._idle.append(connection)
                else:
                    self._open.discard(connection)
            return answer

    def close(self) -> None:
        """Let go of all connections."""
        for connection in self._open:
            connection.close()
        self._open.clear()
        self._idle.clear()

    async def _connection(self) -> "_Connection":
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            self._open.discard(connection)
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            _, made = await asyncio.get_running_loop().create_connection(
                _Connection, self._host, self._port, ssl=self._tls
            )
        self._open.add(made)
        return made


class _Connection(asyncio.Protocol):
    """One request at a time. The methods `on_…` are httptools' callbacks."""

    def __init__(self) -> None:
        self.usable = True
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []

    async def exchange(self, request: bytes) -> Answer:
        """See Connections.request."""
        if self._transport is None or not self.usable:  # closed as soon as it was made
            raise ConnectionError("the connection was closed")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        self._answer = answer
        timer = loop.call_later(
            REQUEST_TIMEOUT_S, self._fail, TimeoutError(f"no answer within {REQUEST_TIMEOUT_S:g} s")
        )
        try:
            self._transport.write(request)
            return await answer
        finally:
            timer.cancel()

    def close(self) -> None:
        """Let go; what still comes is ignored."""
        self.usable = False
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"the answer is not HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._fail(exc if isinstance(exc, OSError) else ConnectionError("the connection was closed"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # 100 Continue and its like come before the answer
            self._headers = {}
            return
        answer, self._answer = self._answer, None
        headers, self._headers = self._headers, {}
        body, self._body = b"".join(self._body), []
        if answer is None or not self._parser.should_keep_alive():
            self.close()
        if answer is not None and not answer.done():
            answer.set_result(Answer(status, headers, body))

    def _fail(self, error: OSError) -> None:
        self.close()
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)
