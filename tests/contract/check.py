"""`make check` on contracts: schemas evolve compatibly; OpenAPI, reference pages and documents are true."""

import json
import sys
from pathlib import Path

from schemas import registry
from schemas.compatibility import incompatibilities
from tests.contract import documents, reference

ROOT = Path(__file__).parents[2]


def schema_faults() -> list[str]:
    """Each registered schema against all its earlier versions (BACKWARD_TRANSITIVE)."""
    faults = []
    for registered in registry.all_schemas():
        stem = registered.parsed["name"].lower().removesuffix("chunk")
        versions = sorted((ROOT / "schemas/versions").glob(f"{stem}-*.avsc"), key=lambda p: int(p.stem.split("-")[1]))
        assert versions, f"no committed version of {stem}"
        for version in versions:
            written = json.loads(version.read_text())
            faults += [
                f"{stem} cannot read {version.name}: {why}" for why in incompatibilities(registered.parsed, written)
            ]
        if json.loads(versions[-1].read_text()) != registered.parsed:
            faults.append(f"{stem}.avsc differs from {versions[-1].name}: add it as the next version under a new id")
    return faults


def openapi_faults() -> list[str]:
    """The committed document against the one the code makes."""
    from api.openapi import document

    committed = ROOT / "api/openapi.json"
    if not committed.exists() or json.loads(committed.read_text()) != document():
        return ["api/openapi.json is not what the code says: run `make openapi` and look at the difference"]
    return []


def main() -> int:
    """Print every fault; 1 when there is one."""
    faults = schema_faults() + openapi_faults() + reference.faults() + documents.faults()
    for fault in faults:
        print(f"contract: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
