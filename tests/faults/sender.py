"""An SDK with a careful operator: sends batches with ids, again and again until each is acknowledged."""

import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

REQUEST_TIMEOUT_S = 20.0
GIVE_UP_S = 180.0
RETRY_S = 0.2


@dataclass(slots=True)
class Sender:
    """Posts `batches` of one customer in a thread; `acknowledged` are the ids of requests answered with 200."""

    url: str
    write_key: str
    customer_id: int
    batches: list[list[dict[str, Any]]]
    seed: int
    duplicate_share: float = 0.1
    pause_s: float = 0.0
    acknowledged: set[tuple[int, str]] = field(default_factory=set)
    attempts: int = 0
    failure: str = ""
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for the end; fails if a request was never acknowledged."""
        assert self._thread is not None
        self._thread.join(GIVE_UP_S * 2)
        assert not self._thread.is_alive() and not self.failure, self.failure or "still sending"

    def _run(self) -> None:
        rng = random.Random(self.seed)
        with httpx.Client(timeout=REQUEST_TIMEOUT_S) as client:
            for batch in self.batches:
                repeats = 2 if rng.random() < self.duplicate_share else 1
                for _ in range(repeats):
                    if not self._until_acknowledged(client, batch):
                        return
                self.acknowledged |= {(self.customer_id, event["messageId"]) for event in batch}
                time.sleep(self.pause_s)

    def _until_acknowledged(self, client: httpx.Client, batch: list[dict[str, Any]]) -> bool:
        deadline = time.monotonic() + GIVE_UP_S
        answer = "none"
        while time.monotonic() < deadline:
            self.attempts += 1
            try:
                response = client.post(f"{self.url}/v1/batch", json={"batch": batch}, auth=(self.write_key, ""))
                answer = f"{response.status_code} {response.text[:200]}"
                if response.status_code == 200:
                    return True
            except httpx.HTTPError as error:
                answer = repr(error)
            time.sleep(RETRY_S)
        self.failure = f"never acknowledged; last answer: {answer}"
        return False
