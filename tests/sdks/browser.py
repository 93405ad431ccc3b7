"""Browser SDKs: their bundles from npm, in real Chromium, on a page of another origin than the gateway."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Final

from playwright.sync_api import Browser, Page

from headrace.runtime.ports import LOOPBACK
from tests.sdks.subjects import DRIVERS, MODULES, Subject

PAGE: Final = """<!doctype html><meta charset="utf-8"><title>Shop é</title>
<script src="/drivers/{driver}.js"></script>
<script>for (const file of window.scripts) document.write(`<script src="/modules/${{file}}"><\\/script>`);</script>
"""
TYPES: Final = {".js": "text/javascript", ".mjs": "text/javascript", ".txt": "text/javascript"}
PATH: Final = "/shop"
SEARCH: Final = "?utm_source=mail&utm_medium=letter&utm_campaign=spring"
DRIVE_TIMEOUT_MS: Final = 90_000


class Site(BaseHTTPRequestHandler):
    """Serves `/shop/DRIVER`, `/drivers/…` and `/modules/…`."""

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(f"{PATH}/"):
            self._answer(PAGE.format(driver=path.removeprefix(f"{PATH}/")).encode(), "text/html; charset=utf-8")
            return
        for prefix, folder in (("/drivers/", DRIVERS / "browser"), ("/modules/", MODULES)):
            file = (folder / path.removeprefix(prefix)).resolve()
            if path.startswith(prefix) and file.is_relative_to(folder.resolve()) and file.is_file():
                self._answer(file.read_bytes(), TYPES.get(file.suffix, "application/octet-stream"))
                return
        self.send_error(404)

    def _answer(self, content: bytes, type_: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", type_)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def site() -> Iterator[str]:
    """The address of the pages."""
    server = ThreadingHTTPServer((LOOPBACK, 0), Site)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@contextmanager
def driven(
    browser: Browser, address: str, subject: Subject, host: str, key: str, calls: list[dict[str, Any]]
) -> Iterator[tuple[Page, list[str]]]:
    """The page after all calls were made, still open (SDKs send, and send again, while it is), and the errors."""
    context = browser.new_context(locale="de-CH", timezone_id="UTC")
    errors: list[str] = []
    try:
        page = context.new_page()
        page.set_default_timeout(DRIVE_TIMEOUT_MS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{address}{PATH}/{subject.driver}{SEARCH}", referer="https://search.example/")
        task = {"host": host, "key": key, "mode": subject.mode, "calls": calls}
        errors += page.evaluate("task => window.drive(task)", task) or []
        yield page, errors
    finally:
        context.close()


def keep_open(page: Page, done: Any, timeout_s: float) -> bool:
    """Until `done()` holds; SDKs that wait for another event or a flush are told to flush."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            return False
        page.evaluate("() => { if (window.again) window.again(); }")
        page.wait_for_timeout(300)
    return True
