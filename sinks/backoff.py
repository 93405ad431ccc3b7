"""Waits between retries: exponential, capped, with jitter, so that sinks do not come back in step."""

import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """The waits of one retried operation. `reset` it after a success."""

    first_s: float
    max_s: float
    rng: random.Random = field(default_factory=random.Random)
    attempts: int = 0

    def next_s(self) -> float:
        """The next wait: between half of and the whole of `first_s * 2**attempts`, at most `max_s`."""
        self.attempts += 1
        ceiling = min(self.max_s, self.first_s * 2.0 ** min(self.attempts - 1, 32))
        return ceiling * self.rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Start small again."""
        self.attempts = 0
