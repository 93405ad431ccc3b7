"""Answers and refusals as bytes on the wire, in the shape that every recorded SDK can read.

An error body has `success`, `status`, `code`, `message` and `error` all at once: the Python SDKs of Rudder and old
Segment retry a 400 for ever without `code` and `message`, Mixpanel's fails without `status`, Amplitude's needs an
integer `code`.
"""

from dataclasses import dataclass
from typing import Any, Final

import msgspec

RETRY_AFTER_S: Final = 2
"""What a 503 asks for. SDKs cap or ignore longer ones; the bound that was hit is gone by then or it is not."""

JSON: Final = b"application/json"
_ENCODE = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer; CORS headers are added on the way out."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a whole request is refused: status, stable name, sentence, and seconds to wait if it may pass later."""

    status: int
    reason: str
    message: str
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why one event of a request was set aside while the others were taken. `detail`: a sentence, where the reason
    alone does not tell the sender what to change."""

    index: int
    reason: str
    detail: str | None = None

    def told(self) -> dict[str, Any]:
        """As it stands in the list `rejected` of an answer."""
        told: dict[str, Any] = {"index": self.index, "reason": self.reason}
        if self.detail is not None:
            told["detail"] = self.detail
        return told


def json_answer(value: object, status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Answer:
    """`value` as JSON."""
    return Answer(status, _ENCODE(value), JSON, headers)


def retry_headers(refusal: Refusal) -> tuple[tuple[bytes, bytes], ...]:
    """Retry-After, where the refusal says when to come back."""
    return () if refusal.retry_after_s is None else ((b"retry-after", b"%d" % refusal.retry_after_s),)


def refusal_answer(refusal: Refusal, **more: object) -> Answer:
    """The error body that all SDKs understand; `more` are fields that one protocol's SDKs look for besides."""
    body = {
        "success": False,
        "status": 0,
        "code": refusal.status,
        "message": refusal.message,
        "error": refusal.reason,
    }
    return json_answer(body | more, refusal.status, retry_headers(refusal))
