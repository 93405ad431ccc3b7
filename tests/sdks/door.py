"""An HTTP door between an SDK and the gateway: writes down what passes, and can fail half of what carries events.

A failed request is cut without an answer, in turn before the gateway saw it and after the gateway answered: the
second kind makes an SDK send again what is already stored.
"""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from headrace.runtime.ports import LOOPBACK

TIMEOUT_S: Final = 30.0
HOP_HEADERS: Final = frozenset(("connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"))
PASS, CUT_BEFORE, CUT_AFTER = "pass", "cut before", "cut after"
FLAKY: Final = (CUT_BEFORE, PASS, CUT_AFTER, PASS)
"""Half of the requests fail; one that is repeated alone gets through at the second try."""


def carries_events(method: str, target: str) -> bool:
    """Whether something may be stored of a request: not of a preflight, nor of a document."""
    return method == "POST" or (method == "GET" and (target.startswith("/i?") or "data=" in target))


@dataclass(frozen=True, slots=True)
class Passed:
    """One request as it was sent, and what became of it. `status` 0: it never reached the gateway."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    fate: str
    status: int
    answer: bytes

    @property
    def carries_events(self) -> bool:
        """See carries_events."""
        return carries_events(self.method, self.target)


class Server(ThreadingHTTPServer):
    """As many connections waiting as a browser and an eager SDK may open."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that was cut is what this door is for."""


@dataclass(slots=True)
class Door:
    """`port` is where the SDK sends to."""

    target_port: int
    flaky: bool = False
    passed: list[Passed] = field(default_factory=list)
    port: int = 0
    _turn: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def host(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def fate(self, method: str, target: str) -> str:
        """What is to become of the next request."""
        if not self.flaky or not carries_events(method, target):
            return PASS
        with self._lock:
            self._turn += 1
            return FLAKY[(self._turn - 1) % len(FLAKY)]

    def note(self, passed: Passed) -> None:
        with self._lock:
            self.passed.append(passed)

    def forward(self, method: str, target: str, headers: dict[str, str], body: bytes) -> http.client.HTTPResponse:
        """The gateway's answer; its body is still to be read."""
        connection = http.client.HTTPConnection(LOOPBACK, self.target_port, timeout=TIMEOUT_S)
        connection.request(method, target, body=body or None, headers=headers)
        return connection.getresponse()

    def replay(self) -> list[int]:
        """Send again, byte for byte, all that carried events; gives the statuses."""
        found = []
        for passed in [passed for passed in self.passed if passed.carries_events and passed.status == 200]:
            response = self.forward(passed.method, passed.target, passed.headers, passed.body)
            response.read()
            found.append(response.status)
        return found


def handler(door: Door) -> type[BaseHTTPRequestHandler]:
    """The request handler of one door."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

        def handle_any(self) -> None:
            body = self._body()
            headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP_HEADERS}
            fate = door.fate(self.command, self.path)
            if fate == CUT_BEFORE:
                door.note(Passed(self.command, self.path, headers, body, fate, 0, b""))
                self._cut()
                return
            response = door.forward(self.command, self.path, headers, body)
            answer = response.read()
            door.note(Passed(self.command, self.path, headers, body, fate, response.status, answer))
            if fate == CUT_AFTER:
                self._cut()
                return
            self.send_response_only(response.status)
            for name, value in response.getheaders():
                if name.lower() not in HOP_HEADERS:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

        def _cut(self) -> None:
            self.close_connection = True

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)

        do_GET = do_POST = do_OPTIONS = do_HEAD = do_PUT = handle_any

    return Handler


@contextmanager
def open_door(target_port: int, *, flaky: bool = False) -> Iterator[Door]:
    """A door to a loopback port, shut at the end."""
    door = Door(target_port, flaky)
    server = Server((LOOPBACK, 0), handler(door))
    door.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield door
    finally:
        server.shutdown()
        server.server_close()
        thread.join(TIMEOUT_S)
