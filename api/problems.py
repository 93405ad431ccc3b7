"""Every error answer of the API: RFC 9457 problem documents with stable types.

Owns the list of problem types (a client may switch on them; they never change meaning) and the one way from an
exception to an answer. Nothing here ever shows a stack trace, a host name or a secret.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TYPE_PREFIX = "urn:headrace:problem:"
MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2.0
"""Told to clients when the cause of a 503 names no better time."""
ERRORS_MAX = 20
"""Most entries of `errors`: a query with 10,000 wrong filters must not make an answer of 10,000 lines."""
DETAIL_CHARS_MAX = 500

TITLES: Mapping[str, tuple[int, str]] = {
    "invalid-json": (400, "The body is not valid JSON"),
    "invalid-query": (400, "The query cannot be understood"),
    "invalid-request": (400, "The request cannot be understood"),
    "invalid-cursor": (400, "The cursor does not belong to this query"),
    "too-many-buckets": (400, "The range holds too many intervals"),
    "query-too-large": (413, "The request is larger than the limit"),
    "unauthenticated": (401, "No valid token"),
    "forbidden": (403, "The token does not allow this"),
    "cross-site": (403, "A cookie was sent from another site"),
    "not-found": (404, "There is nothing here"),
    "method-not-allowed": (405, "The method is not allowed here"),
    "not-answerable": (422, "No source can answer this query"),
    "query-too-expensive": (422, "The query reached a limit of time or rows"),
    "too-many-requests": (429, "Too many queries at once"),
    "internal": (500, "Something went wrong on our side"),
    "shard-unavailable": (503, "The customer's data is away for now"),
    "source-unavailable": (503, "A store does not answer"),
    "sessions-unavailable": (503, "Browser sessions are away for now"),
    "live-unavailable": (503, "Live updates are away for now"),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, and where: `pointer` is a JSON pointer into the request's body."""

    pointer: str
    detail: str


@dataclass(slots=True)
class ProblemError(Exception):
    """Raised anywhere in the API; becomes the answer. `slug` is a key of TITLES."""

    slug: str
    detail: str
    errors: Sequence[Fault] = ()
    retry_after_s: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.slug in TITLES, self.slug
        Exception.__init__(self, self.detail)

    @property
    def status(self) -> int:
        """The HTTP status that goes with the type."""
        return TITLES[self.slug][0]

    def document(self, trace_id: str, instance: str | None = None) -> dict[str, Any]:
        """The problem document."""
        status, title = TITLES[self.slug]
        document: dict[str, Any] = {
            "type": TYPE_PREFIX + self.slug,
            "title": title,
            "status": status,
            "detail": self.detail[:DETAIL_CHARS_MAX],
            "trace_id": trace_id,
        }
        if instance:
            document["instance"] = instance
        if self.errors:
            document["errors"] = [
                {"pointer": fault.pointer, "detail": fault.detail[:DETAIL_CHARS_MAX]}
                for fault in self.errors[:ERRORS_MAX]
            ]
        if self.status in (429, 503):
            document["retry_after_s"] = self.retry_after_s or RETRY_AFTER_S
        return document

    def http_headers(self) -> dict[str, str]:
        """Headers that go with the answer."""
        headers = dict(self.headers)
        if self.status in (429, 503):
            headers["Retry-After"] = str(max(1, round(self.retry_after_s or RETRY_AFTER_S)))
        if self.status == 401:
            headers.setdefault("WWW-Authenticate", 'Bearer realm="headrace"')
        return headers


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """` — did you mean "x"?` when a known word is near, else the empty string."""
    near = difflib.get_close_matches(wrong[:100], list(known), n=1, cutoff=0.6)
    return f' — did you mean "{near[0]}"?' if near else ""


def pointer(parts: Iterable[Any]) -> str:
    """A JSON pointer (RFC 6901) of path parts."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)
