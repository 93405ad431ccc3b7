"""Quotas keep what they promise: never more than the stated error passes, nothing is taken by what is not stored, a
ledger that is away is no error, and a flood asks little of it."""

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import metrics
from headrace.clock import ManualClock
from headrace.errors import UnavailableError
from headrace.shards.policy import Policy, Quota
from producers.gateway import quotas as module
from producers.gateway.auth import Customer
from producers.gateway.quota_account import Question, Told
from producers.gateway.quota_lease import BURST_DEFAULT_S, CLOSED_MAX_S, LEASE_S, RETRY_MAX_S, granted_of
from producers.gateway.quotas import OverQuotaError, Quotas

START_US = int(datetime(2026, 7, 31, 23, 0, tzinfo=UTC).timestamp()) * 1_000_000


class MemoryLedger:
    """The shared buckets and counts by the ledger's rules, without Redis; `away` makes it not answer."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.away = False
        self.asked = 0
        self.buckets: dict[int, tuple[float, float]] = {}
        self.months: dict[tuple[int, str], int] = {}

    async def settle(self, questions: Sequence[Question]) -> list[Told]:
        await asyncio.sleep(0)
        self.asked += 1
        if self.away:
            raise UnavailableError("away")
        return [self._settled(question) for question in questions]

    def _settled(self, question: Question) -> Told:
        granted = level = 0.0
        now = self._clock.monotonic()
        if question.rate:
            level, at = self.buckets.get(question.customer_id, (question.capacity, now))
            level = min(question.capacity, level + (now - at) * question.rate)
            if question.need < 0:
                level = min(question.capacity, level - question.need)
            else:
                granted = granted_of(level, question.capacity, question.need, question.spare)
                level -= granted
            self.buckets[question.customer_id] = level, now
        events = 0
        if question.month:
            key = question.customer_id, question.month
            events = self.months[key] = max(self.months.get(key, 0), question.events) + question.counted
        return Told(granted, level, events)

    async def ping(self) -> None:
        self.asked += 1
        if self.away:
            raise UnavailableError("away")

    async def close(self) -> None:
        pass


def run(body: Coroutine[Any, Any, None]) -> None:
    asyncio.run(body)


def customer(per_second: int | None = None, burst: int | None = None, per_month: int | None = None) -> Customer:
    return Customer(7, Policy(quota=Quota(per_second=per_second, burst=burst, per_month=per_month)))


async def passes(quotas: Quotas, who: Customer, events: int, body_bytes: int | None = None) -> bool:
    """Whether they pass; if so, they are stored."""
    try:
        grant = await quotas.take(who, events, body_bytes)
    except OverQuotaError:
        return False
    grant.end(stored=True)
    return True


async def refusal(quotas: Quotas, who: Customer, events: int) -> tuple[str, int]:
    with pytest.raises(OverQuotaError) as caught:
        await quotas.take(who, events, None)
    return caught.value.kind, caught.value.wait_s


def test_without_a_quota_nothing_is_held_and_nobody_asked() -> None:
    async def body() -> None:
        clock = ManualClock(START_US)
        ledger = MemoryLedger(clock)
        quotas = Quotas(ledger, clock)
        for _ in range(3):
            assert await passes(quotas, customer(), 10**9)
            quotas.check(customer(), 10**9)
        assert ledger.asked == 0
        assert quotas.accounts == 0

    run(body())


@pytest.mark.parametrize("shared", [True, False])
def test_a_burst_then_the_rate(shared: bool) -> None:
    async def body() -> None:
        clock = ManualClock(START_US)
        quotas = Quotas(MemoryLedger(clock) if shared else None, clock)
        who = customer(per_second=100, burst=200)
        assert await passes(quotas, who, 300), "a second's worth and the burst"
        assert await refusal(quotas, who, 50) == ("rate", 1)
        assert await refusal(quotas, who, 290) == ("rate", 3)
        clock.advance(1)
        assert await passes(quotas, who, 90)
        assert not await passes(quotas, who, 50)
        clock.advance(10)
        assert await passes(quotas, who, 290), "full again"
        assert not await passes(quotas, who, 60), "and no fuller than full"

    run(body())


def test_the_default_burst_is_seconds_of_the_rate() -> None:
    async def body() -> None:
        clock = ManualClock(START_US)
        quotas = Quotas(None, clock)
        who = customer(per_second=10)
        assert await passes(quotas, who, 10 + 10 * BURST_DEFAULT_S)
        assert not await passes(quotas, who, 2)

    run(body())


def test_a_request_larger_than_the_bucket_passes_when_it_is_full_and_is_paid_for() -> None:
    async def body() -> None:
        clock = ManualClock(START_US)
        quotas = Quotas(MemoryLedger(clock), clock)
        who = customer(per_second=10, burst=10)
        assert await passes(quotas, who, 100)
        assert (await refusal(quotas, who, 1))[1] in (8, 9)
        clock.advance(7)
        assert not await passes(quotas, who, 1)
        clock.advance(2)
        assert await passes(quotas, who, 1)

    run(body())


def test_nothing_passes_at_a_rate_of_zero() -> None:
    async def body() -> None:
        quotas = Quotas(None, ManualClock(START_US))
        assert await refusal(quotas, customer(per_second=0), 1) == ("rate", RETRY_MAX_S)
        with pytest.raises(OverQuotaError):
            quotas.check(customer(per_second=0), None)

    run(body())


@pytest.mark.parametrize("shared", [True, False])
def test_a_month_ends_with_the_calendars(shared: bool) -> None:
    async def body() -> None:
        clock = ManualClock(START_US)
        quotas = Quotas(MemoryLedger(clock) if shared else None, clock)
        who = customer(per_month=100)
        assert await passes(quotas, who, 60)
        assert await refusal(quotas, who, 41) == ("month", RETRY_MAX_S), "the hour that is left is cut"
        assert await passes(quotas, who, 40)
        clock.advance(3600 - 10)
        assert await refusal(quotas, who, 1) == ("month", 10)
        with pytest.raises(OverQuotaError):
            quotas.check(who, 1)
        clock.advance(10)
        quotas.check(who, 1)
        assert await passes(quotas, who, 100)
        assert not await passes(quotas, who, 1)

    run(body())


def test_what_is_not_stored_takes_nothing() -> None:
    async def body() -> None:
        clock = ManualClock(START_US)
        ledger = MemoryLedger(clock)
        quotas = Quotas(ledger, clock)
        who = customer(per_second=10, burst=90, per_month=100)
        grant = await quotas.take(who, 100, None)
        assert not await passes(quotas, who, 1), "under way counts"
        grant.end(stored=False)
        grant.end(stored=False)
        clock.advance(CLOSED_MAX_S)
        assert await passes(quotas, who, 100)
        await quotas.close()
        assert ledger.months == {(7, "2026-07"): 100}

    run(body())


def test_tokens_that_nobody_needed_go_back_to_the_other_gateways() -> None:
    async def body() -> None:
        clock = ManualClock(START_US)
        ledger = MemoryLedger(clock)
        one, two = Quotas(ledger, clock), Quotas(ledger, clock)
        who = customer(per_second=10, burst=90)
        grant = await one.take(who, 100, None)
        assert not await passes(two, who, 50)
        grant.end(stored=False)
        clock.advance(CLOSED_MAX_S)
        await one.report()
        assert await passes(two, who, 90)

    run(body())


steps = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 150), st.sampled_from([0.0, 0.001, 0.03, 0.2, 1.0, 5.0])),
    min_size=1,
    max_size=80,
)


@given(steps)
@settings(deadline=None, max_examples=150)
def test_no_window_of_time_sees_more_than_the_stated_error(requests: list[tuple[int, int, float]]) -> None:
    rate, burst, gateways, largest = 50, 30, 3, 150

    async def body() -> None:
        clock = ManualClock(START_US)
        ledger = MemoryLedger(clock)
        quotas = [Quotas(ledger, clock) for _ in range(gateways)]
        passed: list[tuple[float, int]] = []
        for gateway, events, pause_s in requests:
            clock.advance(pause_s)
            if await passes(quotas[gateway], customer(rate, burst), events):
                passed.append((clock.monotonic(), events))
        capacity, slices = rate + burst, gateways * rate * LEASE_S
        for first in range(len(passed)):
            total = 0
            for at_s, events in passed[first:]:
                total += events
                allowed = rate * (at_s - passed[first][0]) + max(capacity, largest) + slices
                assert total <= allowed + 0.01, (passed, first)

    run(body())


def test_a_flood_asks_the_ledger_a_bounded_number_of_times_and_is_mostly_refused_unread() -> None:
    async def body() -> None:
        clock = ManualClock(START_US)
        ledger = MemoryLedger(clock)
        quotas = Quotas(ledger, clock)
        who = customer(per_second=1000, burst=0)
        accepted = parsed = 0
        for _ in range(10_000):  # ten seconds
            clock.advance(0.001)
            try:
                quotas.check(who, 5_000)
            except OverQuotaError:
                continue
            parsed += 1
            accepted += 100 * await passes(quotas, who, 100, 5_000)
        assert 10_000 <= accepted <= 11_000 + 1000 * LEASE_S
        assert parsed < 1000
        assert ledger.asked <= 10 / 0.02 + 10

    run(body())


def test_after_a_refusal_smaller_requests_are_still_read_and_may_pass() -> None:
    async def body() -> None:
        clock = ManualClock(START_US)
        quotas = Quotas(None, clock)
        who = customer(per_second=100, burst=0)
        assert await passes(quotas, who, 90)
        assert not await passes(quotas, who, 50, body_bytes=5_000)
        with pytest.raises(OverQuotaError):
            quotas.check(who, 5_000)
        quotas.check(who, 400)
        assert await passes(quotas, who, 4, body_bytes=400)
        clock.advance(1)
        quotas.check(who, 5_000)

    run(body())


def test_many_who_wait_are_served_by_few_questions() -> None:
    async def body() -> None:
        clock = ManualClock(START_US)
        ledger = MemoryLedger(clock)
        quotas = Quotas(ledger, clock)
        who = customer(per_second=1000, burst=1000)
        outcomes = await asyncio.gather(*(passes(quotas, who, 10) for _ in range(300)))
        assert sum(outcomes) == 200
        assert ledger.asked <= 3

    run(body())


def test_a_ledger_that_is_away_is_no_error_and_hears_all_when_it_is_back(capsys: pytest.CaptureFixture[str]) -> None:
    async def body() -> None:
        clock = ManualClock(START_US)
        ledger = MemoryLedger(clock)
        quotas, other = Quotas(ledger, clock), Quotas(ledger, clock)
        who = customer(per_second=100, burst=0, per_month=1000)
        assert await passes(other, who, 50)
        await other.report()
        clock.advance(10)
        ledger.away = True
        asked = ledger.asked
        for _ in range(10):
            clock.advance(1)
            assert await passes(quotas, who, 80), "the full rate, alone"
            assert not await passes(quotas, who, 80)
            await quotas.report()
        assert ledger.asked - asked <= 1 + 10, "one failed question, then a look now and then"
        assert metrics.gauge("headrace_quota_alone")._value.get() in (0, 1)
        ledger.away = False
        await quotas.report()
        assert ledger.months == {(7, "2026-07"): 850}
        clock.advance(1)
        assert not await passes(quotas, who, 151), "what the others stored counts again"
        await other.close()
        await quotas.close()

    run(body())
    assert capsys.readouterr().out.count("quotas_alone") == 1


def test_a_ledger_that_lost_its_data_hears_what_was_counted_once_not_twice() -> None:
    async def body() -> None:
        clock = ManualClock(START_US)
        ledger = MemoryLedger(clock)
        one, two = Quotas(ledger, clock), Quotas(ledger, clock)
        who = customer(per_month=1000)
        for quotas in (one, two, one, two):
            assert await passes(quotas, who, 10)
            await quotas.report()
        ledger.months.clear()
        for quotas in (two, one):  # the one that heard last
            assert await passes(quotas, who, 1)
            await quotas.report()
        assert ledger.months == {(7, "2026-07"): 42}

    run(body())


def test_accounts_are_bounded_and_those_with_something_to_tell_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ACCOUNTS_MAX", 3)

    async def body() -> None:
        clock = ManualClock(START_US)
        ledger = MemoryLedger(clock)
        quotas = Quotas(ledger, clock)
        monthly = Policy(quota=Quota(per_month=100))
        fast = Policy(quota=Quota(per_second=100))
        assert await passes(quotas, Customer(1, monthly), 10)
        for number in range(2, 20):
            assert await passes(quotas, Customer(number, fast), 10)
        assert quotas.accounts == 3
        await quotas.report()
        assert ledger.months == {(1, "2026-07"): 10}

    run(body())


def test_a_changed_quota_holds_at_once_and_the_month_goes_on() -> None:
    async def body() -> None:
        quotas = Quotas(None, ManualClock(START_US))
        assert await passes(quotas, customer(per_month=100), 80)
        assert not await passes(quotas, customer(per_month=100), 30)
        assert await passes(quotas, customer(per_month=200), 30)
        assert not await passes(quotas, customer(per_second=5, per_month=100), 1)

    run(body())


def test_over_quota_is_counted_by_kind() -> None:
    def counted(kind: str) -> float:
        return float(metrics.counter("headrace_events_over_quota_total", kind)._value.get())

    async def body() -> None:
        quotas = Quotas(None, ManualClock(START_US))
        rate, month = counted("rate"), counted("month")
        await refusal(quotas, customer(per_month=5), 20)
        await refusal(quotas, customer(per_second=0), 29)
        with pytest.raises(OverQuotaError):
            quotas.check(customer(per_second=0), 1)
        assert (counted("rate") - rate, counted("month") - month) == (30, 20)

    run(body())


def test_a_request_whose_wait_is_cancelled_leaves_nothing_behind() -> None:
    async def body() -> None:
        clock = ManualClock(START_US)
        quotas = Quotas(MemoryLedger(clock), clock)
        who = customer(per_second=100, burst=0)
        waiting = asyncio.create_task(quotas.take(who, 100, None))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        for _ in range(5):
            await asyncio.sleep(0)
        assert await passes(quotas, who, 100), "its tokens are there for the next"

    run(body())
