"""What one gateway knows of one customer's quota, and what it may decide from that alone.

Pure: the time is given. Tokens come out of a bucket that all gateways share (quota_ledger.py), leased a slice at a
time (quota_lease.py), so that most requests are judged here. Without the shared bucket an account draws from its own,
by the same arithmetic, beginning where the shared one was last seen.
"""

from dataclasses import dataclass
from typing import Literal

from headrace.shards.policy import Quota
from producers.gateway.quota_lease import Lease, Over, granted_of, retry_after_s


@dataclass(frozen=True, slots=True)
class Moment:
    """Now: monotonic seconds, the calendar month in UTC such as 2026-07, and the seconds that are left of it."""

    s: float
    month: str
    month_left_s: float


@dataclass(frozen=True, slots=True)
class Question:
    """What a gateway asks and tells the ledger about one customer: for `need` tokens, all or none, and up to `spare`
    more (a negative `need` gives back; `rate` 0: there is no bucket), and that `counted` more events were stored in
    `month` ("": none is counted), of which `events` are known to have been counted before."""

    customer_id: int
    rate: int
    capacity: int
    need: float
    spare: float
    month: str
    counted: int
    events: int


@dataclass(frozen=True, slots=True)
class Told:
    """The answer: tokens that are the gateway's now, what the bucket holds after that, events of the month."""

    granted: float
    level: float
    events: int


class MonthCount:
    """Events of a customer in a calendar month: of all gateways as last heard, and of this one since then."""

    __slots__ = ("_sent", "events", "known", "limit", "name", "uncounted")

    def __init__(self, limit: int, name: str) -> None:
        self.limit = limit
        self.name = name
        self.events = 0
        self.uncounted = 0
        self.known = False
        self._sent = 0

    def turn(self, name: str) -> None:
        """Begin another month. What the ledger was not told of the last one, nobody needs any more."""
        if name != self.name:
            self.name, self.events, self.uncounted, self._sent = name, 0, 0, 0

    @property
    def unsettled(self) -> bool:
        """Whether the ledger does not know all that is counted here."""
        return bool(self.uncounted or self._sent)

    def has_room(self, events: int) -> bool:
        """For `events`, those under way included."""
        return self.events + self.uncounted + self._sent + events <= self.limit

    def send(self) -> int:
        """Events to tell the ledger; they count as sent until `heard` or `unheard`."""
        counted, self.uncounted = self.uncounted, 0
        self._sent += counted
        return counted

    def heard(self, name: str, counted: int, events: int) -> None:
        """The ledger knows `counted` more, and that makes `events` with those of all others."""
        if name == self.name:
            self._sent -= counted
            self.events = max(self.events, events)
            self.known = True

    def unheard(self, name: str, counted: int) -> None:
        """They have to be told again."""
        if name == self.name:
            self._sent -= counted
            self.uncounted += counted


class Account:
    """One customer's quota as one gateway applies it. `waiting`: events whose requests wait for the ledger."""

    __slots__ = ("_lease", "_month", "_under_way", "customer_id", "quota", "waiting")

    def __init__(self, customer_id: int, quota: Quota, now: Moment) -> None:
        self.customer_id = customer_id
        self.waiting = 0
        self._under_way = 0
        self._month: MonthCount | None = None
        self.apply(quota, now)

    def apply(self, quota: Quota, now: Moment) -> None:
        """Go by this quota from now on. What was counted of the month stays."""
        self.quota = quota
        self._lease = None if quota.per_second is None else Lease(quota, now.s)
        if quota.per_month is None:
            self._month = None
        elif self._month is None:
            self._month = MonthCount(quota.per_month, now.month)
        else:
            self._month.limit = quota.per_month

    @property
    def idle(self) -> bool:
        """Whether nothing is lost with this account but the tokens of a slice."""
        return not (self._under_way or self.waiting or (self._month is not None and self._month.unsettled))

    def surely_over(self, body_bytes: int | None, now: Moment) -> Over | None:
        """Whether a request is over the quota, however many its events are."""
        over = self._over_month(1, now)
        if over is None and self._lease is not None and self._lease.closed_to(body_bytes, now.s):
            over = self._lease.over(1, now.s)
        return over

    def judge(self, events: int, now: Moment) -> Over | Literal["passes", "ask"]:
        """Whether `events` pass, all or none, or whether that takes the ledger."""
        over = self._over_month(events, now)
        if over is not None:
            return over
        if self._month is not None and not self._month.known:
            return "ask"
        if self._lease is None or self._lease.tokens >= events:
            return "passes"
        return self._lease.over(events, now.s) if self._lease.closed(now.s) else "ask"

    def refused(self, over: Over, body_bytes: int | None) -> None:
        """A request of so many bytes was told that it is over."""
        if over.kind == "rate" and self._lease is not None:
            self._lease.note_refused(body_bytes)

    def undecided(self, events: int, now: Moment) -> Over | Literal["passes"]:
        """Of `events` that asking did not decide: for their tokens others were always faster, or the month turned."""
        if self._lease is None or self._lease.tokens >= events:
            return "passes"
        return self._lease.over(events, now.s)

    def begin(self, events: int) -> None:
        """They pass and are under way."""
        self._under_way += events
        if self._lease is not None:
            self._lease.tokens -= events

    def end(self, events: int, *, stored: bool) -> None:
        """They are stored, or another request may use their tokens."""
        self._under_way -= events
        if not stored and self._lease is not None:
            self._lease.tokens += events
        if stored and self._month is not None:
            self._month.uncounted += events

    def runs_low(self, now: Moment) -> bool:
        """Whether to ask for a slice in advance."""
        return self._lease is not None and self._lease.runs_low(now.s)

    def question(self, events: int) -> Question:
        """Ask for tokens that `events` lack (0: for a slice), and tell what was not told yet."""
        lease = self._lease
        need = max(0.0, events - lease.tokens) if lease is not None and lease.rate else 0.0
        spare = lease.slice + max(0, self.waiting - events) if lease is not None else 0.0
        return self._question(need, spare)

    def report(self) -> Question | None:
        """What the ledger should hear now: events that were not told yet, tokens of requests that came to nothing."""
        surplus = 0.0
        if self._lease is not None and not self.waiting:
            surplus = max(0.0, self._lease.tokens - 2 * self._lease.slice)
            if surplus < 1:
                surplus = 0.0
            self._lease.tokens -= surplus
        if surplus or (self._month is not None and self._month.uncounted):
            return self._question(-surplus, 0.0)
        return None

    def answered(self, question: Question, told: Told, now: Moment) -> None:
        """The ledger answered `question`."""
        if self._month is not None:
            self._month.heard(question.month, question.counted, told.events)
        if self._lease is not None and question.rate == self._lease.rate > 0 and question.need >= 0:
            self._lease.take_in(question.need, question.spare, told.granted, told.level, now.s)

    def unanswered(self, question: Question) -> None:
        """The ledger did not answer `question`. If it heard it all the same, its count is too high by it."""
        if self._month is not None:
            self._month.unheard(question.month, question.counted)
        if self._lease is not None and question.need < 0:
            self._lease.tokens -= question.need

    def draw(self, events: int, now: Moment) -> None:
        """Do without the ledger: take tokens for `events` from the own bucket."""
        if self._month is not None:
            self._month.known = True
        lease = self._lease
        if lease is not None and lease.rate:
            need, level = max(0.0, events - lease.tokens), lease.level(now.s)
            granted = granted_of(level, lease.capacity, need, lease.slice)
            lease.take_in(need, lease.slice, granted, level - granted, now.s)

    def _question(self, need: float, spare: float) -> Question:
        rate, capacity = 0, 0
        if self._lease is not None and (need or spare):
            rate, capacity = self._lease.rate, self._lease.capacity
        month, counted, events = "", 0, 0
        if self._month is not None:
            month, counted, events = self._month.name, self._month.send(), self._month.events
        return Question(self.customer_id, rate, capacity, need, spare, month, counted, events)

    def _over_month(self, events: int, now: Moment) -> Over | None:
        if self._month is None:
            return None
        self._month.turn(now.month)
        if self._month.has_room(self._under_way + events):
            return None
        return Over("month", self._month.limit, retry_after_s(now.month_left_s))
