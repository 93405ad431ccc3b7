"""Mutated requests of real SDKs: whatever comes, the gateway answers in the protocol's shape and loses nothing.

`FUZZ_INPUTS=1000000 pytest tests/fuzz` searches longer (`make fuzz`); FUZZ_FIRST is the number of the first input.
"""

import pytest

from tests.fuzz.amount import FIRST, MUTATED
from tests.fuzz.hunt import hunt

CHUNKS = 8
ENOUGH = 1_000
"""Inputs of which every protocol takes some and refuses some."""
PROTOCOLS = (
    "segment-v1",
    "posthog-v0",
    "posthog-v1",
    "mixpanel",
    "amplitude",
    "snowplow-tp2",
    "cloudevents-http",
)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_input_breaks_the_door(chunk: int) -> None:
    size = -(-MUTATED // CHUNKS)
    seen = hunt(range(FIRST + chunk * size, FIRST + (chunk + 1) * size))
    print(seen)
    assert not seen.findings, "\n\n".join([f"{len(seen.findings)} of {seen.inputs} inputs:", *seen.findings])
    if size >= ENOUGH:
        missing = [
            (name, status) for name in PROTOCOLS for status in (200, 400) if (name, status) not in seen.answers
        ]
        assert not missing, f"these were never the answer, so nothing was tested: {missing}"
        assert seen.rows > size / 4
        assert seen.rejected > size / 20
