"""The committed openapi.json is what the code does, and it is sound."""

import json
import re
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

import api
from api import openapi

COMMITTED = Path(api.__file__).parent / "openapi.json"


def test_the_committed_contract_is_current() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == openapi.text(), (
        "run `python -m api.openapi > api/openapi.json` and look at the difference"
    )


def test_every_reference_leads_somewhere() -> None:
    document = openapi.document()
    found = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert found
    assert found <= set(document["components"]["schemas"])


def test_every_operation_says_what_it_is_and_how_it_fails() -> None:
    for path, methods in openapi.document()["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            assert operation["summary"], where
            assert operation["description"], where
            assert "default" in operation["responses"], where
            if path.startswith("/v1/") and (method, path) != ("post", "/v1/session"):
                assert operation["security"] == [{"bearer": []}, {"session": []}], where


def test_the_contracts_queries_take_what_the_code_takes() -> None:
    schema = openapi.document()["components"]["schemas"]
    validator = Draft202012Validator({"$ref": "#/components/schemas/QueryRequest", "components": {"schemas": schema}})
    good: list[dict[str, Any]] = [
        {"kind": "totals", "range": {"from": "-7d"}},
        {"kind": "breakdown", "range": {"from": "-7d"}, "dimensions": ["event"], "filters": ["set", "country"]},
        {"kind": "timeseries", "range": {"from": "-7d"}, "compare": {"from": "-2y", "to": "-1y"}},
        {"queries": [{"kind": "events", "range": {"from": "-7d"}}]},
    ]
    for document in good:
        assert validator.is_valid(document), document
    bad: list[dict[str, Any]] = [
        {"kind": "totals"},
        {"kind": "totals", "range": {"from": "-7d"}, "more": 1},
        {"kind": "breakdown", "range": {"from": "-7d"}},
        {"queries": []},
    ]
    for document in bad:
        assert not validator.is_valid(document), document
