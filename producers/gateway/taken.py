"""What becomes of a request's events, one after the other: rows to store, or events set aside with their reason.

Pure but for counting. Guarantees that an event is one or the other, whatever is in it, and that none harms its
neighbours: this is the last net under the decoders and `normalise`, for faults that nobody foresaw. Only of an event
that must not be kept, because its sender asked not to be tracked, nothing is left but a count. A customer's tracking
plan judges rows as they would be stored; one in mode reject makes rejected events of them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from headrace import metrics
from headrace.errors import PoisonError
from headrace.log import get_logger
from headrace.shards.plan_violations import RULES_MAX, Rule, other_than
from producers.gateway.answers import Rejection
from producers.gateway.columns import ColumnarBatch
from producers.gateway.encode import Records
from producers.gateway.json_body import Unusable
from producers.gateway.normalise import Normaliser, Origin, Row, row_bytes
from producers.gateway.plan import CompiledPlan, PlanViolationError
from producers.gateway.privacy import NotTrackedError
from producers.gateway.protocols.decoder import Decoded, RawEvent
from producers.gateway.publish import RejectedEvent
from producers.gateway.record_writer import RecordWriter

UNPROCESSABLE: Final = "unprocessable"
"""The reason of an event on which our own code failed."""

ToRow = Callable[[RawEvent | Unusable, Origin], Row]

_ENCODE = msgspec.json.Encoder().encode

log = get_logger(__name__)


class TakenColumns:
    """The outcome of a request by columns: all of its events are records. `held_bytes` as of `Taken`."""

    rejections: Sequence[Rejection] = ()
    rejected: Sequence[RejectedEvent] = ()
    broken: Mapping[Rule, int] = {}

    def __init__(self, batch: ColumnarBatch, writer: RecordWriter, origin: Origin) -> None:
        self._batch = batch
        self._writer = writer
        self._origin = origin
        self._values: list[bytes] = []
        self.held_bytes = 0
        self.values_dropped = 0

    @property
    def events(self) -> Records:
        """What is to be stored."""
        return Records(self._origin.customer_id, self._values)

    def take(self, start: int, stop: int) -> None:
        """Write some of the events. Raises DeclinedError."""
        written = self._writer.write(self._batch.columns(start, stop), self._origin)
        self._values += written.records
        self.held_bytes += written.held_bytes
        self.values_dropped += written.values_dropped


class Taken:
    """The outcome of the events of one request. `held_bytes` is about what it weighs so far; `broken`: how many of
    them broke each rule of the plan, those that are stored all the same included."""

    def __init__(
        self,
        decoded: Decoded,
        normaliser: Normaliser,
        origin: Origin,
        body: bytes,
        plan: CompiledPlan | None = None,
    ) -> None:
        self._events = decoded.events
        self.broken: dict[Rule, int] = {}
        self._to_row = normaliser.row if plan is None else _judged(normaliser.row, plan, self.broken)
        self._storable = normaliser.storable
        self._origin = origin
        self._body = body
        self._failed = False
        self.rows: list[Row] = []
        self.rejections: list[Rejection] = []
        self.rejected: list[RejectedEvent] = []
        self.held_bytes = 0

    @property
    def events(self) -> Sequence[Row]:
        """What is to be stored."""
        return self.rows

    def take(self, index: int) -> None:
        """Judge the event at `index`. Never raises."""
        event: RawEvent | Unusable | None = None
        try:
            event = self._events[index]
            row = self._to_row(event, self._origin)
        except NotTrackedError:
            metrics.counter("headrace_events_not_tracked_total").inc()
        except PlanViolationError as error:
            self._set_aside(index, event, error.reason, error.message, detail=error.message)
        except PoisonError as error:
            self._set_aside(index, event, error.reason, error.message)
        except Exception as error:  # a process edge: its neighbours are stored, it is kept for whoever mends us
            if not self._failed:  # once a request: what one event brings, a thousand may bring
                self._failed = True
                log.exception("event_unprocessable", protocol=self._origin.protocol)
            self._set_aside(index, event, UNPROCESSABLE, f"cannot be processed: {type(error).__name__}")
        else:
            self.rows.append(row)
            self.held_bytes += row_bytes(row)

    def _set_aside(
        self, index: int, event: RawEvent | Unusable | None, reason: str, message: str, detail: str | None = None
    ) -> None:
        raw = self._storable(self._raw(event), self._origin)
        self.rejections.append(Rejection(index, reason, detail))
        self.rejected.append(RejectedEvent(self._origin.customer_id, reason, message, raw))
        self.held_bytes += len(raw)

    def _raw(self, event: RawEvent | Unusable | None) -> bytes:
        """The event as received, as far as it was parsed; the whole body where it cannot be written again."""
        if isinstance(event, Unusable):
            return event.raw
        if event is None:
            return self._body
        try:
            return _ENCODE(event.raw)
        except Exception:  # too deep, or the very thing that the event failed for
            return self._body


def _judged(to_row: ToRow, plan: CompiledPlan, broken: dict[Rule, int]) -> ToRow:
    """`to_row`, counting in `broken` what rows break. Raises PlanViolationError for one that must not be stored."""

    def judged(event: RawEvent | Unusable, origin: Origin) -> Row:
        row = to_row(event, origin)
        violation = plan.violation(row)
        if violation is not None:
            rule = violation.rule
            if rule not in broken and len(broken) >= RULES_MAX:
                rule = other_than(rule)
            broken[rule] = broken.get(rule, 0) + 1
            if rule.mode == "reject":
                raise PlanViolationError(violation)
        return row

    return judged
