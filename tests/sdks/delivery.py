"""One SDK's trial: what must hold of its events, whatever drove it."""

import time
from dataclasses import dataclass
from typing import Final

from tests.sdks.compare import differences, merged, missing
from tests.sdks.expect import Expected
from tests.sdks.subjects import Subject
from tests.sdks.world import SEEN_TIMEOUT_S, Tenant

SHOWN: Final = 12
"""Differences that a failure names."""


@dataclass(frozen=True, slots=True)
class Trial:
    """An SDK's events at one tenant. `own`: names of events that it sends of itself."""

    subject: Subject
    tenant: Tenant
    expected: dict[int, Expected]
    own: frozenset[str] = frozenset()

    def there(self) -> int:
        """How many calls have an event among the raw events."""
        rows, _ = merged(self.tenant.events(), self.tenant.logged())
        return len(self.expected) - len(missing(self.expected, rows, self.own))

    def all_there(self) -> bool:
        """Whether each call has an event among the raw events."""
        return self.there() == len(self.expected)

    def wait_there(self, timeout_s: float = SEEN_TIMEOUT_S) -> None:
        """Until each call has an event, or time is up."""
        deadline = time.monotonic() + timeout_s
        while not self.all_there() and time.monotonic() < deadline:
            time.sleep(0.3)

    def distinct(self) -> int:
        """Events by their ids, as the log has them now: as many must be counted."""
        return len({row["message_id"] for row in self.tenant.logged()})

    def settled(self, since_s: float) -> int:
        """The API's total, once all that was sent by `since_s` is in it and in the raw events, which agree."""
        self.tenant.wait_complete(since_s)
        total, events = self.tenant.total(), self.tenant.events()
        assert total == len(events), f"{self.subject}: the totals say {total}, the raw events are {len(events)}"
        return total

    def check(self, *, lossy: bool = False, repeated: frozenset[str] = frozenset()) -> None:
        """Each call stored once and right; `lossy`: those that arrived, at least; `repeated`: kinds of calls that may
        be there more than once."""
        rows, found = merged(self.tenant.events(), self.tenant.logged())
        found += differences(self.expected, rows, self.own, repeated)
        if lossy:
            found = [line for line in found if not line.startswith("missing")]
        more = f"\n… and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        assert not found, f"{self.subject}:\n" + "\n".join(found[:SHOWN]) + more
