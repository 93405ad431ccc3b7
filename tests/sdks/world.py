"""The running system that the SDKs send to, seen as its users see it: a write key, and the query API's answers."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from api.auth.keys import ensure_signing_key
from api.auth.tokens import create_api_token
from headrace import kafka
from headrace.settings import Settings
from headrace.shards.address import connect_control
from headrace.shards.customers import create_customer
from headrace.shards.write_keys import create_write_key
from schemas.codec import decode_events
from schemas.event import record_key
from schemas.topics import Topics

RANGE: Final = {"from": "-2h", "to": "now"}
PAGE: Final = 1000
SEEN_TIMEOUT_S: Final = 60.0
TOKEN_S: Final = 4 * 3600


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer of its own for one SDK in one mode, so that every total is that SDK's alone."""

    api_url: str
    settings: Settings
    customer_id: int
    write_key: str
    read_token: str
    partition: int
    first_offset: int

    def total(self) -> int:
        """Events counted so far: the API's totals, from the rollups."""
        (row,) = self._ask({"kind": "totals", "metrics": ["events"], "range": RANGE})["rows"]
        return int(row[0] or 0)

    def events(self) -> list[dict[str, Any]]:
        """The events themselves, by the API's column names."""
        rows: list[dict[str, Any]] = []
        query: dict[str, Any] = {"kind": "events", "range": RANGE, "limit": PAGE}
        while True:
            answer = self._ask(query)
            names = [column["name"] for column in answer["columns"]]
            rows += [dict(zip(names, row, strict=True)) for row in answer["rows"]]
            if answer["next_cursor"] is None:
                return rows
            query["cursor"] = answer["next_cursor"]

    def logged(self) -> list[dict[str, Any]]:
        """Every arrival in the log, repeats too, with all columns of the event schema."""
        topic = Topics(self.settings.topic_prefix).events
        _, end = kafka.watermarks(self.settings, topic, [self.partition])[self.partition]
        consumer = kafka.consumer(self.settings, "test-reader")
        found: list[kafka.Message] = []
        deadline = time.monotonic() + SEEN_TIMEOUT_S
        try:
            consumer.assign([kafka.TopicPartition(topic, self.partition, self.first_offset)])
            while len(found) < end - self.first_offset:
                assert time.monotonic() < deadline, f"read {len(found)} of {end - self.first_offset} records"
                found += consumer.consume(1000, timeout=0.1)
        finally:
            consumer.close()
        decoded = decode_events([message.value() for message in found])
        assert not decoded.poison
        stored: list[dict[str, Any]] = decoded.events.to_pylist()
        return [row for row in stored if row["customer_id"] == self.customer_id]

    def wait_complete(self, since_s: float, timeout_s: float = SEEN_TIMEOUT_S) -> None:
        """Until both stores' answers hold everything that was received by `since_s` (Unix time)."""
        deadline = time.monotonic() + timeout_s
        for query in (
            {"kind": "totals", "metrics": ["events"], "range": RANGE},
            {"kind": "events", "range": RANGE, "limit": 1},
        ):
            while not self._as_of(query) > since_s:
                assert time.monotonic() < deadline, f"{query['kind']} is behind after {timeout_s} s"
                time.sleep(0.2)

    def _as_of(self, query: dict[str, Any]) -> float:
        meta = self._ask(query)["meta"]
        return -1.0 if meta["freshness_s"] is None else time.time() - float(meta["freshness_s"])

    def _ask(self, query: dict[str, Any]) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.read_token}"}
        answer = httpx.post(f"{self.api_url}/v1/query", json=query, headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@dataclass(frozen=True, slots=True)
class World:
    """A `headrace up`, by its folder: `ready.json` and `data/headrace.toml`."""

    folder: Path

    @property
    def ready(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "ready.json").read_text())
        return found

    @property
    def ingest_port(self) -> int:
        return int(self.ready["ingest_url"].rsplit(":", 1)[1])

    def tenant(self, name: str) -> Tenant:
        """A new customer with a key and a token."""
        settings = Settings.load(environ={}, file=self.folder / "data" / "headrace.toml")
        with connect_control(settings) as control:
            customer_id = create_customer(control, name).customer_id
            write_key = create_write_key(control, customer_id, "sdk").secret
            signing_key = ensure_signing_key(settings)
            token, _ = create_api_token(
                control, signing_key, customer_id=customer_id, now_s=int(time.time()), ttl_s=TOKEN_S
            )
        partition = kafka.partition_for(record_key(customer_id), settings.events_partitions)
        topic = Topics(settings.topic_prefix).events
        _, end = kafka.watermarks(settings, topic, [partition])[partition]
        return Tenant(self.ready["api_url"], settings, customer_id, write_key, token, partition, end)
