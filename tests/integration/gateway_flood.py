"""A flood from many connections, as a process of its own so that it does not slow the test that measures:
`python -m tests.integration.gateway_flood PORT KEY CONNECTIONS SECONDS EVENTS`. Each connection posts the next batch
as soon as the last is answered, whatever the answer was. Prints how often each status came, as JSON."""

import asyncio
import base64
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping

from headrace.runtime.ports import LOOPBACK

PADDING = "x" * 700


def request(key: str, events: int, prefix: str, padding: str = PADDING) -> bytes:
    """A POST of so many events, of about 800 bytes each, its key in the headers."""
    batch = [
        {"type": "track", "event": "e", "messageId": f"{prefix}-{number}", "properties": {"p": padding}}
        for number in range(events)
    ]
    body = json.dumps({"batch": batch}).encode()
    basic = base64.b64encode(f"{key}:".encode()).decode()
    head = (
        f"POST /v1/batch HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {basic}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, Mapping[str, str]]:
    """Status and headers of the next answer; its body is read past."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    await reader.readexactly(int(headers["content-length"]))
    return int(head[0].split(" ")[1]), headers


async def flood(port: int, key: str, connections: int, seconds: float, events: int) -> Counter[int]:
    statuses: Counter[int] = Counter()
    until = time.monotonic() + seconds

    async def one(number: int) -> None:
        bytes_ = request(key, events, f"f{number}")
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        while time.monotonic() < until:
            writer.write(bytes_)
            await writer.drain()
            status, headers = await answer(reader)
            statuses[status] += 1
            assert status == 200 or "retry-after" in headers
        writer.close()

    await asyncio.gather(*(one(number) for number in range(connections)))
    return statuses


class Flood:
    """The process; `result` waits for its end."""

    def __init__(self, port: int, key: str, *, connections: int, seconds: float, events: int) -> None:
        arguments = (str(port), key, str(connections), str(seconds), str(events))
        self._seconds = seconds
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.gateway_flood", *arguments], stdout=subprocess.PIPE
        )

    def result(self) -> Counter[int]:
        """How often each status came."""
        try:
            out, _ = self._process.communicate(timeout=self._seconds + 60)
        finally:
            self._process.kill()
        assert self._process.returncode == 0
        return Counter({int(status): count for status, count in json.loads(out).items()})


if __name__ == "__main__":
    port_, key_, connections_, seconds_, events_ = sys.argv[1:]
    print(json.dumps(asyncio.run(flood(int(port_), key_, int(connections_), float(seconds_), int(events_)))))
