"""Quotas: how many events a customer may send, per second and per calendar month (UTC), over all gateways.

The events of a request are judged together, when they are parsed and before any is stored: all pass or none. What
is refused for any other reason, and what could not be stored, takes nothing; events set aside one by one (to
`events.rejected`) count like stored ones. A customer whose key is in the headers and that is surely over is told so
before its body is parsed.

All gateways together let pass, in any T seconds, at most `per_second × T` events and the bucket's capacity, one slice
of LEASE_S a gateway, and one request larger than the bucket. Of a month they let pass at most its limit and what the
other gateways took in within REPORT_S. Without Redis (none set, or away) each gateway goes on alone at the full rate
and counts the month on; what it counted is reported when Redis is back. Redis away is never an error of a request.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

from headrace import metrics
from headrace.clock import Clock
from headrace.errors import RetryableError, UnavailableError
from headrace.log import get_logger
from headrace.shards.policy import Quota
from producers.gateway.auth import Customer
from producers.gateway.quota_account import Account, Moment, Question, Told
from producers.gateway.quota_lease import Kind, Over

ACCOUNTS_MAX: Final = 10_000
"""Customers with a quota whose accounts are held; past it the one longest unused is forgotten."""
FORGET_LOOKS_MAX: Final = 32
"""So many of the longest unused are looked at for one of which nothing is lost."""
REPORT_S: Final = 2.0
"""Between reports of the month's counts to the ledger."""
REPORT_QUESTIONS_MAX: Final = 100
"""In one round trip: what encoding them holds up the event loop."""
AWAY_RETRY_S: Final = 1.0
"""Between looks for a Redis that is away; requests do not wait for it meanwhile."""
ROUNDS_MAX: Final = 3
"""Answers of the ledger that one request waits for: one asked by others, its own, and one to spare."""

log = get_logger(__name__)


class Ledger(Protocol):
    """What gateways share."""

    async def settle(self, questions: Sequence[Question]) -> list[Told]:
        """An answer to each. Raises UnavailableError in bounded time."""

    async def ping(self) -> None:
        """Raises UnavailableError in bounded time."""

    async def close(self) -> None:
        """No more questions."""


class OverQuotaError(RetryableError):
    """Events are over their customer's quota: 429, and when they may pass."""

    def __init__(self, over: Over) -> None:
        per = "second" if over.kind == "rate" else "month"
        super().__init__(f"the quota of {over.limit} events a {per} is used up", retry_after_s=over.retry_after_s)
        self.kind: Kind = over.kind
        self.wait_s = over.retry_after_s


class Grant:
    """Events that passed; `end` it once, when it is known whether they are stored."""

    __slots__ = ("_account", "_events")

    def __init__(self, account: Account | None = None, events: int = 0) -> None:
        self._account = account
        self._events = events

    def end(self, *, stored: bool) -> None:
        """They count, or they took nothing."""
        if self._account is not None:
            self._account.end(self._events, stored=stored)
            self._account = None


class Quotas:
    """All customers' quotas in one gateway. `run` works beside the requests. One event loop, so no lock."""

    def __init__(self, ledger: Ledger | None, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._away = False
        self._accounts: OrderedDict[int, Account] = OrderedDict()
        self._asking: dict[int, asyncio.Task[None]] = {}
        self._month = ""
        self._month_ends_us = 0
        self._over = {kind: metrics.counter("headrace_events_over_quota_total", kind) for kind in ("rate", "month")}
        metrics.gauge("headrace_quota_accounts").set_function(lambda: len(self._accounts))
        metrics.gauge("headrace_quota_alone").set_function(lambda: int(self._ledger is None or self._away))

    def check(self, customer: Customer, body_bytes: int | None) -> None:
        """Raises OverQuotaError when a request is over, whatever its events are. `body_bytes`: as declared."""
        quota = customer.policy.quota
        if quota.per_second is None and quota.per_month is None:
            return
        over = self._account(customer.customer_id, quota).surely_over(body_bytes, self._now())
        if over is not None:
            self._over[over.kind].inc()  # its events are not known
            raise OverQuotaError(over)

    async def take(self, customer: Customer, events: int, body_bytes: int | None) -> Grant:
        """Let `events` pass, all of them. Raises OverQuotaError."""
        quota = customer.policy.quota
        if (quota.per_second is None and quota.per_month is None) or not events:
            return Grant()
        account = self._account(customer.customer_id, quota)
        for _ in range(ROUNDS_MAX):
            verdict = account.judge(events, self._now())
            if verdict != "ask":
                break
            await self._ask(account, events)
        else:
            verdict = account.judge(events, self._now())
            if verdict == "ask":
                verdict = account.undecided(events, self._now())
        if isinstance(verdict, Over):
            account.refused(verdict, body_bytes)
            self._over[verdict.kind].inc(events)
            raise OverQuotaError(verdict)
        account.begin(events)
        if account.runs_low(self._now()):
            self._ask_in_advance(account)
        return Grant(account, events)

    @property
    def accounts(self) -> int:
        """Customers with a quota that are held."""
        return len(self._accounts)

    async def run(self) -> None:
        """Report to the ledger, until cancelled."""
        while self._ledger is not None:
            await asyncio.sleep(AWAY_RETRY_S if self._away else REPORT_S)
            try:
                await self.report()
            except Exception:  # a process edge: without reports the gateways would not hear of each other
                log.exception("quota_report_failed")

    async def report(self) -> None:
        """Tell the ledger what was counted since the last time, and give tokens back that nobody needs. While Redis
        is away, look whether it is back first."""
        ledger = self._ledger
        if ledger is None:
            return
        if self._away:
            try:
                await ledger.ping()
            except UnavailableError:
                return
            self._is_back()
        left = list(self._accounts.values())
        while left and not self._away:
            part: list[tuple[Account, Question]] = []
            while left and len(part) < REPORT_QUESTIONS_MAX:
                account = left.pop()
                question = account.report()
                if question is not None:
                    part.append((account, question))
            if part:
                await self._tell(ledger, part)

    async def close(self) -> None:
        """Report what is left, if Redis is there."""
        if self._ledger is None:
            return
        await asyncio.gather(*self._asking.values(), return_exceptions=True)
        if not self._away:
            await self.report()
        await self._ledger.close()

    def _account(self, customer_id: int, quota: Quota) -> Account:
        account = self._accounts.get(customer_id)
        if account is None:
            if len(self._accounts) >= ACCOUNTS_MAX:
                self._forget_one()
            account = self._accounts[customer_id] = Account(customer_id, quota, self._now())
        else:
            self._accounts.move_to_end(customer_id)
            if account.quota != quota:
                account.apply(quota, self._now())
        return account

    def _forget_one(self) -> None:
        oldest = next(iter(self._accounts))
        for number, (customer_id, account) in enumerate(self._accounts.items()):
            if account.idle:
                oldest = customer_id
                break
            if number == FORGET_LOOKS_MAX:
                log.warning("quota_count_forgotten", customer_id=oldest, accounts_max=ACCOUNTS_MAX)
                break
        del self._accounts[oldest]

    async def _ask(self, account: Account, events: int) -> None:
        """One question for all who wait for the same customer's tokens."""
        if self._ledger is None or self._away:
            account.draw(events, self._now())
            return
        account.waiting += events
        try:
            task = self._asking.get(account.customer_id) or self._start(account, events)
            await asyncio.shield(task)
        finally:
            account.waiting -= events

    def _ask_in_advance(self, account: Account) -> None:
        if self._ledger is None or self._away:
            return  # drawing costs nothing when it is needed
        if account.customer_id not in self._asking:
            self._start(account, 0)

    def _start(self, account: Account, events: int) -> "asyncio.Task[None]":
        task = asyncio.create_task(self._settle(account, events), name="quota-ask")
        self._asking[account.customer_id] = task
        task.add_done_callback(lambda _: self._asking.pop(account.customer_id, None))
        return task

    async def _settle(self, account: Account, events: int) -> None:
        assert self._ledger is not None
        await self._tell(self._ledger, [(account, account.question(events))])

    async def _tell(self, ledger: Ledger, told: Sequence[tuple[Account, Question]]) -> None:
        """Ask all of it, and hand the answers over. Never raises for a Redis that is away."""
        answers: list[Told] | None = None
        try:
            answers = await ledger.settle([question for _, question in told])
            self._is_back()
        except UnavailableError as error:
            self._is_away(error)
        finally:
            if answers is None:  # a cancellation too
                for account, question in told:
                    account.unanswered(question)
        now = self._now()
        for (account, question), answer in zip(told, answers or (), strict=False):
            account.answered(question, answer, now)

    def _is_away(self, error: UnavailableError) -> None:
        if not self._away:
            log.warning("quotas_alone", error=error.message, remedy="mend Redis; quotas hold for each gateway alone")
        self._away = True

    def _is_back(self) -> None:
        if self._away:
            log.info("quotas_shared_again")
        self._away = False

    def _now(self) -> Moment:
        now_us = self._clock.now_us()
        if now_us >= self._month_ends_us:
            now = datetime.fromtimestamp(now_us / 1e6, UTC)
            self._month = now.strftime("%Y-%m")
            after = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
            self._month_ends_us = int(after.timestamp()) * 1_000_000
        return Moment(self._clock.monotonic(), self._month, (self._month_ends_us - now_us) / 1e6)
