"""What the generator's connections make of answers: whole ones, odd ones, and none."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from headrace.errors import UsageError
from producers.generator import connections
from producers.generator.connections import Answer, Connections

REQUEST = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-One: 1\r\n\r\nok"


class Server:
    """Answers each request with the next of `answers`; None: closes. Counts connections and requests."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.connections = self.requests = self.under_way = self.most = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await reader.readuntil(b"hi"):
                self.requests += 1
                self.under_way += 1
                self.most = max(self.most, self.under_way)
                await asyncio.sleep(0.01)
                self.under_way -= 1
                answer = self.answers.pop(0)
                if answer is None:
                    return
                for at in range(0, len(answer), 7):
                    writer.write(answer[at : at + 7])
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def against(server: Server, work: Callable[[Connections], Awaitable[None]], limit: int = 4) -> None:
    async def scenario() -> None:
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        pool = Connections(f"http://127.0.0.1:{port}", limit)
        try:
            await work(pool)
        finally:
            pool.close()
            listener.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_requests_follow_each_other_on_one_connection() -> None:
    server = Server(
        OK, b"HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n"
    )

    async def work(pool: Connections) -> None:
        assert await pool.request(REQUEST) == Answer(200, {"content-length": "2", "x-one": "1"}, b"ok")
        second = await pool.request(REQUEST)
        assert (second.status, second.headers["retry-after"], second.body) == (503, "3", b"no")

    against(server, work)
    assert (server.connections, server.requests) == (1, 2)


def test_no_more_than_the_limit_are_under_way() -> None:
    server = Server(*[OK] * 20)

    async def work(pool: Connections) -> None:
        answers = await asyncio.gather(*[pool.request(REQUEST) for _ in range(20)])
        assert [answer.body for answer in answers] == [b"ok"] * 20

    against(server, work, limit=3)
    assert server.most == server.connections == 3


def test_a_word_before_the_answer_is_not_the_answer() -> None:
    async def work(pool: Connections) -> None:
        assert (await pool.request(REQUEST)).headers == {"content-length": "2", "x-one": "1"}

    against(Server(b"HTTP/1.1 100 Continue\r\nX-Two: 2\r\n\r\n" + OK), work)


@pytest.mark.parametrize(
    "answer", [None, b"SSH-2.0-OpenSSH_9\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n"]
)
def test_no_answer_is_an_error_and_the_next_request_connects_anew(answer: bytes | None) -> None:
    server = Server(answer, OK)

    async def work(pool: Connections) -> None:
        with pytest.raises(OSError, match=r"\w"):
            await pool.request(REQUEST)
        assert (await pool.request(REQUEST)).status == 200

    against(server, work)
    assert server.connections == 2


def test_a_connection_that_is_gone_before_its_request_is_an_error_at_once() -> None:
    async def work() -> None:
        with pytest.raises(ConnectionError, match="was closed"):
            await connections._Connection().exchange(REQUEST)

    asyncio.run(asyncio.wait_for(work(), 5))


def test_a_server_that_asks_for_it_gets_a_new_connection() -> None:
    server = Server(OK.replace(b"X-One: 1", b"Connection: close"), OK)

    async def work(pool: Connections) -> None:
        assert (await pool.request(REQUEST)).status == (await pool.request(REQUEST)).status == 200

    against(server, work)
    assert server.connections == 2


def test_an_answer_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT_S", 0.2)

    async def work(pool: Connections) -> None:
        with pytest.raises(TimeoutError, match=r"within 0\.2 s"):
            await pool.request(REQUEST)

    against(Server(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"), work)


def test_nobody_there_is_an_error() -> None:
    async def work() -> None:
        pool = Connections("http://127.0.0.1:9", 1)
        for _ in range(2):  # the place of the first is free again
            with pytest.raises(OSError, match=r"\w"):
                await pool.request(REQUEST)

    asyncio.run(asyncio.wait_for(work(), 20))


@pytest.mark.parametrize("url", ["ftp://host/", "host:80", "http://"])
def test_another_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="cannot send to"):
        Connections(url, 1)
