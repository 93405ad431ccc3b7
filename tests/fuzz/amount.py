"""How many inputs a run tries, from the environment: FUZZ_INPUTS in all, the mutated ones from number FUZZ_FIRST."""

import os
from typing import Final

INPUTS: Final = int(os.environ.get("FUZZ_INPUTS", "20000"))
FIRST: Final = int(os.environ.get("FUZZ_FIRST", "0"))
GENERATED: Final = INPUTS // 10
"""By Hypothesis, which costs ten times as much an input and finds the smallest one that fails."""
MUTATED: Final = INPUTS - GENERATED
