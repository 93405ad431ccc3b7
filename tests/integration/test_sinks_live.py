"""Notices of change on a real Valkey, and without one."""

import json
import time
from typing import Any

import redis

from headrace.runtime.ports import free_ports
from headrace.settings import Settings
from sinks.live import PAUSE_S, SAMPLE_EVENTS_MAX, STREAM_ENTRIES_MAX, TIMEOUT_S, LiveNotices, stream_key


def entries(url: str, customer_id: int) -> list[dict[str, str]]:
    client = redis.Redis.from_url(url, decode_responses=True)
    found: Any = client.xrange(stream_key(customer_id))
    client.close()
    return [fields for _, fields in found]


def test_a_commit_is_told_to_each_customer_it_touched(redis_url: str) -> None:
    notices = LiveNotices(Settings(redis=redis_url))
    notices.changed({1: 5, 2: 7}, 123_456)
    notices.close()
    assert entries(redis_url, 1) == [{"kind": "stats", "as_of_us": "123456", "rows": "5"}]
    assert entries(redis_url, 2) == [{"kind": "stats", "as_of_us": "123456", "rows": "7"}]
    assert entries(redis_url, 3) == []


def test_streams_are_bounded_and_pass_away(redis_url: str) -> None:
    notices = LiveNotices(Settings(redis=redis_url))
    for number in range(STREAM_ENTRIES_MAX * 2):
        notices.changed({1: 1}, number)
    notices.close()
    kept = entries(redis_url, 1)
    assert STREAM_ENTRIES_MAX <= len(kept) < STREAM_ENTRIES_MAX * 1.5
    assert kept[-1]["as_of_us"] == str(STREAM_ENTRIES_MAX * 2 - 1)
    client = redis.Redis.from_url(redis_url)
    ttl: Any = client.ttl(stream_key(1))
    client.close()
    assert 0 < ttl <= 3600


def test_a_second_shows_at_most_so_many_events_of_a_customer(redis_url: str) -> None:
    notices = LiveNotices(Settings(redis=redis_url))
    for start in range(0, 300, 30):
        notices.stored({1: [json.dumps({"message_id": f"m{n}"}) for n in range(start, start + 30)]}, 1)
    notices.close()
    shown = [item["message_id"] for entry in entries(redis_url, 1) for item in json.loads(entry["data"])]
    assert len(shown) == SAMPLE_EVENTS_MAX
    assert shown[-1] == "m29", "the newest of what came together"


def test_without_redis_the_sink_waits_a_moment_and_then_not_at_all() -> None:
    notices = LiveNotices(Settings(redis=f"redis://127.0.0.1:{free_ports(1)[0]}/0"))
    began = time.monotonic()
    notices.changed({1: 1}, 1)
    assert time.monotonic() - began < TIMEOUT_S * 2 + 0.5
    assert not notices.wanted
    began = time.monotonic()
    for number in range(100):
        notices.changed({1: 1}, number)
    assert time.monotonic() - began < PAUSE_S / 2
    notices.close()
    LiveNotices(Settings()).changed({1: 1}, 1)
