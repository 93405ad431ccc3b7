"""The frame protocol holds for every seed, and each of its guards is needed.

`MODEL_SEEDS=2000 pytest tests/model` searches longer (`make model`).
"""

import os

import pytest

from tests.model.frame_protocol import first_violation
from tests.model.guards import MUTATIONS, UNCLEAN_MUTATIONS

SEEDS = int(os.environ.get("MODEL_SEEDS", "300"))
MUTATION_SEEDS_MAX = 2000
"""A mutation that needs more seeds than this to be caught is not caught."""


def test_no_seed_breaks_the_protocol() -> None:
    assert first_violation(range(SEEDS)) is None


def test_no_seed_breaks_it_when_acknowledged_frames_are_lost() -> None:
    assert first_violation(range(SEEDS // 2), unclean=True) is None


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_each_guard_is_needed(mutation: str) -> None:
    assert first_violation(range(MUTATION_SEEDS_MAX), mutation) is not None, MUTATIONS[mutation]


@pytest.mark.parametrize("mutation", UNCLEAN_MUTATIONS)
def test_each_guard_is_needed_when_acknowledged_frames_are_lost(mutation: str) -> None:
    found = first_violation(range(MUTATION_SEEDS_MAX), mutation, unclean=True)
    assert found is not None, UNCLEAN_MUTATIONS[mutation]
