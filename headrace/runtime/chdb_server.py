"""chDB, the ClickHouse engine in a wheel, behind ClickHouse's HTTP interface.

    python -m headrace.runtime.chdb_server --data DIR --port N --user NAME --password-file FILE

One process owns the folder; what was acknowledged survives kill -9. Serves `/ping`, `/replicas_status` and
queries at `/` as a ClickHouse server does: `query`, `database`, `param_*` and settings in the URL, statements
or rows in the body (plain or compressed, counted or chunked), Basic or X-ClickHouse-User authentication, summaries
and exception codes in headers. Test and single-machine equipment: loopback only, one user, no TLS, no sessions (each
request has a fresh handle, so `session_id` is accepted and nothing is remembered), answers are held in memory and
sent uncompressed. It refuses what would reach files or other hosts through the engine.
"""

import argparse
import base64
import binascii
import hmac
import json
import os
import re
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, urlsplit

from headrace.runtime.chdb_body import BadBodyError, chunked, counted, form_fields, inflated
from headrace.runtime.chdb_statement import (
    HEAD_BYTES_MAX,
    DataInsert,
    data_insert,
    first_word,
    forbidden,
    output_format,
)
from headrace.runtime.ports import LOOPBACK

CONNECTIONS_MAX = 256
QUERIES_MAX = 16  # at once; more wait
QUERY_WAIT_S = 30.0
STATEMENT_BYTES_MAX = 64 << 20  # with inline VALUES
IDLE_TIMEOUT_S = 120
STOP_TIMEOUT_S = 10.0
# What a server's profile would set; a client may set others.
DEFAULTS = {
    "max_execution_time": "300",
    "max_memory_usage": str(2 << 30),
    "max_result_bytes": str(1 << 30),
    "max_threads": str(os.cpu_count() or 1),
}
TRANSPORT = frozenset(
    """
    query database user password session_id session_timeout session_check query_id quota_key role compress
    decompress buffer_size wait_end_of_query client_protocol_version default_format stacktrace
    """.split()  # noqa: SIM905 - a list of words reads better as words
)
SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
CODE = re.compile(r"Code: (\d+)")
SYNTAX_ERROR, SERVER_OVERLOADED, AUTHENTICATION_FAILED, ACCESS_DENIED, NETWORK_ERROR = 62, 202, 516, 497, 210
UNKNOWN_EXCEPTION = 1002
# As ClickHouse answers them (exceptionCodeToHTTPStatus in HTTPHandler.cpp); all others are 500.
CODES_OF_STATUS = {
    400: (6, 26, 27, 33, 36, 38, 41, 42, 43, 44, 50, 53, 62, 69, 72, 117, 130, 131, 386, 457),
    403: (497, 516),
    404: (46, 47, 60, 81, 115),
    408: (159,),
    501: (48,),
    503: (202,),
}
STATUS = {code: status for status, codes in CODES_OF_STATUS.items() for code in codes}


class QueryError(Exception):
    """A statement failed; `code` is ClickHouse's."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Engine:
    """The folder and its handles. Thread-safe: every query has a handle of its own."""

    def __init__(self, folder: Path) -> None:
        chdb: Any = import_module("chdb._chdb")
        folder.mkdir(parents=True, exist_ok=True)
        self._connect: Callable[[], Any] = lambda: chdb.connect(str(folder))
        self._keeper = self._connect()  # while it is open the engine stays up between queries
        self.version = bytes(self._keeper.query("SELECT version()", "TSVRaw").bytes()).decode().strip()
        self._slots = threading.BoundedSemaphore(QUERIES_MAX)

    def handle(self, database: str, settings: dict[str, str]) -> Any:
        """A fresh handle in `database` with `settings`. Raises QueryError."""
        handle = self._connect()
        try:
            if database and database != "default":
                handle.query(f"USE {quote_name(database)}", "Null")
            assignments = ", ".join(f"{name} = {quote_text(value)}" for name, value in settings.items())
            handle.query(f"SET {assignments}", "Null")
        except RuntimeError as error:
            handle.close()
            raise query_error(error) from error
        return handle

    def claim(self) -> None:
        """Wait for a free place; raises QueryError when there is none for QUERY_WAIT_S."""
        if not self._slots.acquire(timeout=QUERY_WAIT_S):
            raise QueryError(SERVER_OVERLOADED, f"more than {QUERIES_MAX} queries for {QUERY_WAIT_S:g} s")

    def release(self) -> None:
        """Give the place back."""
        self._slots.release()

    def close(self) -> None:
        """Wait for running queries, at most STOP_TIMEOUT_S, and close the folder."""
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for _ in range(QUERIES_MAX):
            self._slots.acquire(timeout=max(0.0, deadline - time.monotonic()))
        self._keeper.close()


class Server(ThreadingHTTPServer):
    """Accepts up to CONNECTIONS_MAX connections, a thread each; more are closed at once."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, port: int, engine: Engine, user: str, password: str) -> None:
        super().__init__((LOOPBACK, port), Handler)
        self.engine = engine
        self._credentials = (user.encode(), password.encode())
        self._connections = threading.BoundedSemaphore(CONNECTIONS_MAX)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._connections.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception() if sys.version_info >= (3, 12) else sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def admits(self, user: bytes, password: bytes) -> bool:
        """Whether these are the user and its password; takes the same time whatever differs."""
        right_user = hmac.compare_digest(user, self._credentials[0])
        return hmac.compare_digest(password, self._credentials[1]) and right_user


class Handler(BaseHTTPRequestHandler):
    """One connection's requests."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # with Nagle on, a query took 44 ms instead of 2.5
    wbufsize = 1 << 16
    timeout = IDLE_TIMEOUT_S

    def do_GET(self) -> None:
        """Probes, and read-only queries."""
        path = urlsplit(self.path).path
        if path in ("/ping", "/replicas_status") or (path == "/" and "query=" not in self.path):
            self.answer(200, b"Ok.\n")
        else:
            self.serve(read_only=True)

    def do_POST(self) -> None:
        """Any statement."""
        self.serve(read_only=False)

    def serve(self, *, read_only: bool) -> None:
        """Answer one query; errors become ClickHouse's answers to them."""
        pieces = self.pieces()
        query_id = ""
        try:
            url = urlsplit(self.path)
            if url.path not in ("/", "/query"):
                raise BadBodyError(f"there is no resource {url.path}", 404)
            arguments = dict(parse_qsl(url.query, keep_blank_values=True))
            query_id = arguments.get("query_id") or str(uuid.uuid4())
            self.authenticate(arguments)
            body = inflated(pieces, self.encoding())
            content_type = self.headers.get("Content-Type", "")
            if content_type.lower().startswith("multipart/form-data"):
                arguments, body = arguments | form_fields(body, content_type), iter(())
            self.server.engine.claim()
            try:
                self.run(Request(arguments, body, read_only), query_id)
            finally:
                self.server.engine.release()
        except QueryError as error:
            self.drain(pieces)
            self.fail(STATUS.get(error.code, 500), str(error), error.code, query_id)
        except BadBodyError as error:
            self.close_connection = True
            self.fail(error.status, str(error), NETWORK_ERROR, query_id)

    def run(self, request: "Request", query_id: str) -> None:
        """Run the statement on a handle of its own and send what it gives."""
        started = time.monotonic_ns()
        handle = self.server.engine.handle(request.database, request.settings)
        try:
            result, format_name = request.execute(handle, self.headers.get("X-ClickHouse-Format", ""))
            written = result.rows_written(), result.bytes_written()
            summary = {
                "read_rows": result.storage_rows_read(),
                "read_bytes": result.storage_bytes_read(),
                "written_rows": written[0],
                "written_bytes": written[1],
                "total_rows_to_read": 0,
                "result_rows": result.rows_read() or written[0],
                "result_bytes": result.bytes_read() or written[1],
                "elapsed_ns": time.monotonic_ns() - started,
            }
            headers = {
                "X-ClickHouse-Summary": json.dumps({name: str(value) for name, value in summary.items()}),
                "X-ClickHouse-Query-Id": query_id,
                "X-ClickHouse-Format": format_name,
                "X-ClickHouse-Timezone": "UTC",
            }
            view = result.get_memview().view() if result.size() else b""  # the engine's own memory, not a copy
            self.answer(200, view, headers)
        except RuntimeError as error:
            raise query_error(error) from error
        finally:
            handle.close()

    def authenticate(self, arguments: dict[str, str]) -> None:
        """User and password from Basic, X-ClickHouse-* or the URL, in this order. Raises QueryError."""
        user, password = self.headers.get("X-ClickHouse-User"), self.headers.get("X-ClickHouse-Key", "")
        scheme, _, credentials = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                user, password = None, ""
        elif user is None:
            user, password = arguments.get("user", "default"), arguments.get("password", "")
        if not self.server.admits((user or "").encode(), password.encode()):
            raise QueryError(
                AUTHENTICATION_FAILED, "Authentication failed: password is incorrect, or there is no such user."
            )

    def pieces(self) -> Iterator[bytes]:
        """The body as sent."""
        source: BinaryIO = self.rfile  # type: ignore[assignment]
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return chunked(source)
        length = self.headers.get("Content-Length", "0")
        return counted(source, int(length)) if length.isascii() and length.isdigit() else iter(())

    def encoding(self) -> str:
        """How the body is compressed."""
        return str(self.headers.get("Content-Encoding", "")).strip().lower()

    def drain(self, pieces: Iterator[bytes]) -> None:
        """Read what the client still sends, so that it comes to read our answer."""
        try:
            for _ in pieces:
                pass
        except (BadBodyError, OSError):
            self.close_connection = True

    def fail(self, status: int, message: str, code: int, query_id: str) -> None:
        """Send an error as ClickHouse words it."""
        version = self.server.engine.version
        text = message if message.startswith("Code:") else f"Code: {code}. DB::Exception: {message}"
        headers = {"X-ClickHouse-Exception-Code": str(code), "X-ClickHouse-Query-Id": query_id}
        self.answer(status, f"{text} (version {version})\n".encode(), headers)

    def answer(self, status: int, body: bytes | memoryview, headers: dict[str, str] | None = None) -> None:
        """Send a whole answer in as few packets as it fits."""
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """No access log; errors reach the client and tell it more."""


class Request:
    """One statement with its parameters, settings and rows."""

    def __init__(self, arguments: dict[str, str], body: Iterator[bytes], read_only: bool) -> None:
        self.database = arguments.get("database", "")
        self.parameters = {
            name.removeprefix("param_"): value for name, value in arguments.items() if name.startswith("param_")
        }
        self.settings = DEFAULTS | {
            name: value
            for name, value in arguments.items()
            if name not in TRANSPORT and not name.startswith("param_")
        }
        for name in self.settings:
            if not SETTING_NAME.fullmatch(name):
                raise QueryError(115, f"Unknown setting '{name[:64]}'")
        if read_only:
            self.settings["readonly"] = "2"
        self._in_url = arguments.get("query", "").encode()
        self._default_format = arguments.get("default_format", "")
        self._body = body

    def execute(self, handle: Any, default_format: str) -> tuple[Any, str]:
        """Run it: the engine's result and the format it is in. Raises QueryError, BadBodyError, RuntimeError."""
        default = self._default_format or default_format or "TabSeparated"
        head = self._in_url + b"\n" if self._in_url else b""
        insert = data_insert(self._in_url)
        if insert is None:
            for piece in self._body:
                head += piece
                if len(head) >= HEAD_BYTES_MAX:
                    break
            insert = data_insert(head)
            rows = chain([head[insert.data_at :]], self._body) if insert else self._body
        else:
            rows = self._body
        if insert is not None:
            refuse_forbidden(insert.statement.encode())
            return self._insert(handle, insert, rows), default
        return self._query(handle, head, default)

    def _insert(self, handle: Any, insert: DataInsert, rows: Iterator[bytes]) -> Any:
        stream = handle.send_insert(insert.statement, insert.format)
        try:
            for piece in rows:
                if piece:
                    handle.insert_append(stream, bytes(piece))
        except BaseException:
            handle.insert_cancel(stream)
            raise
        return handle.insert_done(stream)

    def _query(self, handle: Any, head: bytes, default: str) -> tuple[Any, str]:
        parts = [head]
        size = len(head)
        for piece in self._body:
            size += len(piece)
            if size > STATEMENT_BYTES_MAX:
                raise BadBodyError(f"statement exceeds {STATEMENT_BYTES_MAX} bytes", 413)
            parts.append(piece)
        statement = b"".join(parts)
        refuse_forbidden(statement)
        text = statement.decode("utf-8", "surrogateescape").strip()
        if not text:
            raise QueryError(SYNTAX_ERROR, "Empty query")
        if first_word(statement) != "INSERT" and handle.classify_query(text)["statement_count"] > 1:
            raise QueryError(SYNTAX_ERROR, "Syntax error (Multi-statements are not allowed)")
        return handle.query(text, default, params=self.parameters), output_format(statement, default)


def refuse_forbidden(statement: bytes) -> None:
    """Raise QueryError when the statement would reach files or other hosts."""
    construct = forbidden(statement)
    if construct:
        raise QueryError(ACCESS_DENIED, f"{construct} is not served: it would leave the database")


def query_error(error: RuntimeError) -> QueryError:
    """The engine's exception with its code."""
    code = CODE.match(str(error))
    return QueryError(int(code[1]) if code else UNKNOWN_EXCEPTION, str(error))


def quote_text(text: str) -> str:
    """A string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def quote_name(name: str) -> str:
    """A quoted identifier."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="chdb_server", description="chDB behind ClickHouse's HTTP interface")
    parser.add_argument("--data", type=Path, required=True, help="the engine's folder")
    parser.add_argument("--port", type=int, required=True, help="loopback port")
    parser.add_argument("--user", default="default")
    parser.add_argument("--password-file", type=Path, required=True, help="file (0600) with the user's password")
    options = parser.parse_args(arguments)

    password = options.password_file.read_text(encoding="utf-8").strip()
    server = Server(options.port, Engine(options.data), options.user, password)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        threading.Thread(target=server.shutdown, daemon=True).start()  # it blocks until the loop below ends

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    server.engine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
