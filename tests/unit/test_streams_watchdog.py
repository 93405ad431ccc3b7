"""The watchdog notices what stands still, and forgives when the whole process stood still."""

import threading
import time

from headrace.errors import FatalError
from streams.watchdog import Watchdog


def test_what_is_not_touched_is_overdue() -> None:
    watchdog = Watchdog(lambda error: None, limit_s=10)
    watchdog.touch("restore")
    watchdog.touch("event loop", limit_s=3)
    now_s = time.monotonic()
    assert watchdog.overdue(now_s) is None
    assert "event loop has made no progress" in (watchdog.overdue(now_s + 5) or "")
    watchdog.touch("event loop", limit_s=100)
    assert "restore has made no progress" in (watchdog.overdue(now_s + 11) or "")
    watchdog.done("restore")
    assert watchdog.overdue(now_s + 11) is None


def test_a_hang_is_reported_once_from_its_own_thread() -> None:
    hung: list[FatalError] = []
    noticed = threading.Event()

    def on_hang(error: FatalError) -> None:
        hung.append(error)
        noticed.set()

    watchdog = Watchdog(on_hang, limit_s=0.1)
    watchdog.touch("restore")
    watchdog.start()
    assert noticed.wait(10)
    watchdog.stop()
    assert "restore has made no progress" in str(hung[0])
