"""The one tree of errors.

HeadraceError
├── RetryableError      the world is away for now; retry in place with capped, jittered backoff
│   ├── UnavailableError    a dependency does not answer
│   └── OverloadedError     a bound of ours is reached; the caller comes back later
├── PoisonError         this input will never work: count it, name it, set it aside, go on
├── FatalError          going on would lose or double data: stop the process
│   ├── IncarnationError    a store was built from another log than the one at hand
│   └── GapError            records are missing where none may be
├── ConfigurationError  a setting is wrong or the machine lacks what is needed; nothing was started  (exit code 78)
└── UsageError          a command or request cannot be carried out as it was asked (exit code 2)

Every message says what happened, with which value, and what to do about it.
"""


class HeadraceError(Exception):
    """Base of all errors that Headrace raises on purpose."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} — {self.remedy}" if self.remedy else self.message


class RetryableError(HeadraceError):
    """The same call may succeed later, unchanged."""

    def __init__(self, message: str, *, remedy: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.retry_after_s = retry_after_s


class UnavailableError(RetryableError):
    """A dependency (Kafka, Postgres, ClickHouse, Redis) does not answer."""

    exit_code = 3


class OverloadedError(RetryableError):
    """One of our own bounds is reached."""


class PoisonError(HeadraceError):
    """An input that can never be processed. `reason` is the stable name used in metrics and headers."""

    def __init__(self, reason: str, message: str | None = None) -> None:
        super().__init__(message or reason)
        self.reason = reason


class FatalError(HeadraceError):
    """Going on would lose or double data."""


class IncarnationError(FatalError):
    """A store's cursor carries the id of another topic than the broker's."""


class GapError(FatalError):
    """A position lies outside the log, or records between two positions are missing."""


class ConfigurationError(HeadraceError):
    """A setting is unknown, malformed or contradicts another, or this machine lacks what is needed."""

    exit_code = 78


class UsageError(HeadraceError):
    """What was asked cannot be done as asked."""

    exit_code = 2
