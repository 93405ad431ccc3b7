"""`headrace query` and `headrace tail`: what reaches the terminal, and what happens when a token ends meanwhile."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from headrace.cli import query, tail
from headrace.cli.tail import Access, Poller
from headrace.errors import UsageError

NASTY = "\x1b]52;c;cm0gLXJm\x07\x1b[2J\x9b31m\u202egnp\x7f\r\n\tend\ud800"
EVENT_COLUMNS = [{"name": name, "type": "string"} for name in ("message_id", "event")]


def is_clean(text: str) -> bool:
    return not any(
        ord(ch) < 32 or 127 <= ord(ch) < 160 or 0xD800 <= ord(ch) < 0xE000 or ch == "\u202e" for ch in text
    )


def test_no_control_character_of_an_event_reaches_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    line = tail._line({"timestamp": NASTY, "event": NASTY, "user_id": NASTY, "path": NASTY, "value": 1.5})
    assert is_clean(line)
    assert "end" in line
    assert query.printable("Österreich 🦊 日本") == "Österreich 🦊 日本"
    columns = [{"name": f"props.{NASTY}", "type": "string"}, {"name": "properties", "type": "object"}]
    query.print_table({"columns": columns, "rows": [[NASTY, {NASTY: [NASTY]}]]})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    assert all(is_clean(cell) and "end" in cell for row in printed for cell in row.split("\t")[:1])
    assert all(is_clean(row.replace("\t", " ")) for row in printed)


@contextmanager
def serving(answer: Callable[[str, str, dict[str, Any]], tuple[int, Any]]) -> Iterator[str]:
    """An API of one function: (path, token, body) -> (status, document)."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            status, document = answer(self.path, self.headers["Authorization"].removeprefix("Bearer "), body)
            sent = document.encode() if isinstance(document, str) else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = _answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


PROBLEM = {"detail": "the token is missing, expired, revoked or not ours"}


def test_a_token_that_was_made_here_is_made_anew_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "RECONNECT_S", 0.0)
    made = iter(("first", "second", "third"))
    ended: set[str] = set()

    def answer(_path: str, token: str, _body: dict[str, Any]) -> tuple[int, Any]:
        if token in ended:
            return 401, PROBLEM
        ended.add(token)  # each is good for one stream
        return 200, f'event: events\ndata: {{"events": [{{"event": "{token}"}}]}}\n\n'

    with serving(answer) as url:
        events = tail._events(url, Access(lambda: next(made), renewable=True), None)
        assert [next(events)["event"] for _ in range(3)] == ["first", "second", "third"]
        given = tail._events(url, Access(lambda: "first", renewable=False), None)
        with pytest.raises(UsageError):
            next(given)
        never_good = tail._events(url, Access(lambda: "first", renewable=True), None)
        with pytest.raises(UsageError):
            next(never_good)


def test_polling_renews_its_token_and_shows_all_that_came_since_the_poll_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tail, "PAGE", 10)
    stored: list[str] = []
    made = iter(("first", "second"))
    good = {"first", "second"}
    away_at = "no page"

    def answer(_path: str, token: str, body: dict[str, Any]) -> tuple[int, Any]:
        if token not in good:
            return 401, PROBLEM
        start = int(body.get("cursor", 0))
        if away_at == body.get("cursor", ""):
            return 503, {"detail": "away"}
        newest_first = stored[::-1][start : start + body["limit"]]
        following = str(start + 10) if start + 10 < len(stored) else None
        rows = [[name, name] for name in newest_first]
        return 200, {
            "columns": EVENT_COLUMNS,
            "rows": rows,
            "next_cursor": following,
            "query": {"range": body["range"]},
        }

    with serving(answer) as url:
        poller = Poller(url, Access(lambda: next(made), renewable=True))
        assert poller.poll() == []
        stored += [f"a{i}" for i in range(25)]
        away_at = "20"
        assert poller.poll() == [], "of an answer in pieces nothing is shown, so that nothing is passed over"
        away_at = "no page"
        assert [event["event"] for event in poller.poll()] == stored, "also of a customer that had none, in order"
        good.discard("first")
        stored += ["b"]
        assert [event["event"] for event in poller.poll()] == ["b"]
        assert poller.poll() == []
