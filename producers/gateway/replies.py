"""How answers leave: which refusal an error is, the last headers, and the counts of what was said."""

import time
from collections.abc import Callable, Mapping

from headrace import metrics
from headrace.errors import OverloadedError, RetryableError
from headrace.http_server import Send
from producers.gateway import cors
from producers.gateway.answers import RETRY_AFTER_S, Answer, Refusal, refusal_answer
from producers.gateway.protocols.decoder import Decoder, Request
from producers.gateway.quotas import OverQuotaError


class Replies:
    """Sends and counts them. `stopping` makes answers end their connections."""

    def __init__(self) -> None:
        self._durations: dict[tuple[str, int], Callable[[float], None]] = {}
        self._accepted: dict[str, Callable[[float], None]] = {}
        self.stopping = False

    async def send(
        self, send: Send, answer: Answer, request_headers: Mapping[str, str], route: str, started: float
    ) -> None:
        """Send an answer; `started`: when its request to `route` came, by `time.perf_counter`."""
        headers = [
            (b"content-type", answer.content_type),
            (b"content-length", b"%d" % len(answer.body)),
            *answer.headers,
            *cors.headers(request_headers),
        ]
        if self.stopping:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})
        self._observe(route, answer.status, time.perf_counter() - started)

    def accepted(self, protocol: str, count: int) -> None:
        """Count events that are stored."""
        increase = self._accepted.get(protocol)
        if increase is None:
            increase = self._accepted[protocol] = metrics.counter("headrace_events_accepted_total", protocol).inc
        increase(count)

    def _observe(self, route: str, status: int, seconds: float) -> None:
        observe = self._durations.get((route, status))
        if observe is None:
            child = metrics.histogram("http_server_request_duration_seconds", "ingest", route, str(status))
            observe = self._durations[(route, status)] = child.observe
        observe(seconds)


def refuse(decoder: Decoder, request: Request, refusal: Refusal) -> Answer:
    """The refusal in the protocol's own shape, counted."""
    metrics.counter("headrace_requests_refused_total", refusal.reason).inc()
    return decoder.failure(request, refusal)


def refuse_for_now(decoder: Decoder, request: Request, error: RetryableError) -> Answer:
    """The refusal of a request that may pass later."""
    if isinstance(error, OverQuotaError):
        return refuse(decoder, request, Refusal(429, "quota_exceeded", error.message, error.wait_s))
    wait_s = RETRY_AFTER_S if error.retry_after_s is None else round(error.retry_after_s)
    reason = "overloaded" if isinstance(error, OverloadedError) else "unavailable"
    return refuse(decoder, request, Refusal(503, reason, error.message, wait_s))


def not_found(path: str) -> Answer:
    """Of a path that no protocol has."""
    return refusal_answer(Refusal(404, "unknown_path", f"{path[:200]} is not a path of this gateway"))
