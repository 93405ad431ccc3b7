"""Questions to the query API, and its answers as Python values."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Self

import httpx

from headrace.demo.comparison import Count
from headrace.errors import FatalError, UnavailableError

TIMEOUT_S = 30.0
ATTEMPTS_MAX = 5
RETRY_S = 0.5
RETRIED_STATUSES = frozenset((429, 502, 503, 504))


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: rows as column → value, the tuples that there are in all (breakdowns), and `meta`."""

    rows: list[dict[str, Any]]
    total_rows: int | None
    meta: Mapping[str, Any]

    def number(self, column: str) -> int:
        """A whole number of the only row; 0 where there is none."""
        assert len(self.rows) == 1, "totals have one row"
        return int(self.rows[0][column] or 0)

    def amount(self, column: str) -> Decimal:
        """An amount of the only row."""
        assert len(self.rows) == 1, "totals have one row"
        return amount(self.rows[0][column])

    def by(self, column: str) -> dict[str, Count]:
        """Events and revenue of each row, by the text in `column`; the empty text for none."""
        return {row[column] or "": Count(int(row["events"]), amount(row["sum(value)"])) for row in self.rows}


class Answers:
    """Asks as one customer. Retries while the API is away, within a bound."""

    def __init__(self, api_url: str, read_token: str) -> None:
        self._client = httpx.Client(
            base_url=api_url, headers={"Authorization": f"Bearer {read_token}"}, timeout=TIMEOUT_S, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, kind: str, start: datetime, end: datetime, **rest: Any) -> Answer:
        """One query over `[start, end)`, both UTC. Raises UnavailableError, FatalError (the query was refused)."""
        query = {"kind": kind, "range": {"from": _rfc3339(start), "to": _rfc3339(end), "tz": "UTC"}, **rest}
        problem = ""
        for _ in range(ATTEMPTS_MAX):
            try:
                answer = self._client.post("/v1/query", json=query)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if answer.status_code == 200:
                    return _read(answer.json())
                problem = f"{answer.status_code} {answer.text[:500]}"
                if answer.status_code not in RETRIED_STATUSES:
                    raise FatalError(f"the API refused {query}: {problem}")
            time.sleep(RETRY_S)
        raise UnavailableError(f"the API did not answer in {ATTEMPTS_MAX} tries: {problem}")


def amount(value: object) -> Decimal:
    """An amount as JSON gave it, exact to what was printed; nothing is zero."""
    return Decimal(0) if value is None else Decimal(repr(value) if isinstance(value, float) else str(value))


def wait_until(covered: Callable[[], bool], timeout_s: float, *, interval_s: float = 0.25) -> bool:
    """Look until `covered` or the time is over; returns the last look."""
    deadline = time.monotonic() + timeout_s
    while not (done := covered()) and time.monotonic() < deadline:
        time.sleep(interval_s)
    return done


def _read(document: Mapping[str, Any]) -> Answer:
    columns: Sequence[str] = [column["name"] for column in document["columns"]]
    rows = [dict(zip(columns, row, strict=True)) for row in document["rows"]]
    return Answer(rows, document.get("total_rows"), document["meta"])


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
