"""What becomes of a request's events, one after the other: rows to store, or events set aside with their reason.

Pure. Guarantees that an event is one or the other, whatever is in it, and that none harms its neighbours: this is the
last net under the decoders and `normalise`, for faults that nobody foresaw.
"""

from typing import Final

import msgspec

from headrace.errors import PoisonError
from headrace.log import get_logger
from producers.gateway.answers import Rejection
from producers.gateway.json_body import Unusable
from producers.gateway.normalise import Normaliser, Origin, Row, row_bytes
from producers.gateway.protocols.decoder import Decoded, RawEvent
from producers.gateway.publish import RejectedEvent

UNPROCESSABLE: Final = "unprocessable"
"""The reason of an event on which our own code failed."""

_ENCODE = msgspec.json.Encoder().encode

log = get_logger(__name__)


class Taken:
    """The outcome of the events of one request. `held_bytes` is about what it weighs so far."""

    def __init__(self, decoded: Decoded, normaliser: Normaliser, origin: Origin, body: bytes) -> None:
        self._events = decoded.events
        self._to_row = normaliser.row
        self._origin = origin
        self._body = body
        self._failed = False
        self.rows: list[Row] = []
        self.rejections: list[Rejection] = []
        self.rejected: list[RejectedEvent] = []
        self.held_bytes = 0

    def take(self, index: int) -> None:
        """Judge the event at `index`. Never raises."""
        event: RawEvent | Unusable | None = None
        try:
            event = self._events[index]
            row = self._to_row(event, self._origin)
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

    def _set_aside(self, index: int, event: RawEvent | Unusable | None, reason: str, message: str) -> None:
        raw = self._raw(event)
        self.rejections.append(Rejection(index, reason))
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
