"""The compatibility check refuses what it must."""

import copy
from typing import Any

from schemas import registry
from schemas.compatibility import incompatibilities
from tests.contract.check import schema_faults


def event() -> Any:
    return registry.schema(registry.EVENT_ID).parsed


def test_the_committed_schemas_can_read_all_their_versions() -> None:
    assert schema_faults() == []


def test_a_new_nullable_field_is_fine_and_a_required_one_is_not() -> None:
    newer = copy.deepcopy(event())
    newer["fields"].append({"name": "city", "type": ["null", "string"], "default": None})
    assert list(incompatibilities(newer, event())) == []
    newer["fields"].append({"name": "region", "type": "string"})
    assert list(incompatibilities(newer, event())) == ["region: new without a default"]


def test_changed_types_are_refused() -> None:
    newer = copy.deepcopy(event())
    newer["fields"][0]["type"] = "string"
    newer["fields"][4]["type"] = "string"
    faults = list(incompatibilities(newer, event()))
    assert faults == ["customer_id: long became string", "user_id: the reader does not know null"]


def test_a_widened_field_is_fine() -> None:
    newer = copy.deepcopy(event())
    newer["fields"][1]["type"] = ["null", "string"]
    assert list(incompatibilities(newer, event())) == []
