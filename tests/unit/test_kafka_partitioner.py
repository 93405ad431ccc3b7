"""The partition of a key is the Java client's, librdkafka's and ours."""

import json
from pathlib import Path

from headrace.kafka import murmur2, partition_for

VECTORS = json.loads((Path(__file__).parents[1] / "fixtures/murmur2.json").read_text())["vectors"]


def test_golden_vectors_of_the_java_client() -> None:
    assert len(VECTORS) > 30
    for key, unsigned, of_8, of_24, of_7 in VECTORS:
        data = key.encode()
        assert murmur2(data) == unsigned, key
        assert [partition_for(data, n) for n in (8, 24, 7)] == [of_8, of_24, of_7], key
