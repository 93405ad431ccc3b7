"""How the topics are made: an acknowledgement outlives a broker, and dead snapshots are cleaned away soon."""

import pytest

from headrace.settings import Settings
from schemas.topics import Topics, definitions


@pytest.mark.parametrize(("replicas", "in_sync"), [(1, "1"), (2, "1"), (3, "2")])
def test_an_acknowledgement_rests_on_all_replicas_but_one(replicas: int, in_sync: str) -> None:
    names = Topics()
    made = {item.name: item.config for item in definitions(Settings(replication_factor=replicas))}
    for name in (names.events, names.aggregates, names.snapshots, names.dead):
        assert made[name]["min.insync.replicas"] == in_sync, name


def test_the_snapshots_topic_is_cleaned_in_small_segments() -> None:
    config = next(item.config for item in definitions(Settings()) if item.name == Topics().snapshots)
    assert config["cleanup.policy"] == "compact"
    assert int(config["segment.bytes"]) <= 64 * 1024 * 1024
    assert int(config["segment.ms"]) <= 600_000
    assert float(config["min.cleanable.dirty.ratio"]) <= 0.1
