"""docker-compose.yml as its services will see it: merged, with variables filled in."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Z_]+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}")


def text() -> str:
    """The file as committed."""
    return (ROOT / "docker-compose.yml").read_text(encoding="utf-8")


def variables() -> set[str]:
    """Variables that must be set, because they have no default."""
    return {m["name"] for m in _VARIABLE.finditer(text()) if m["kind"] != "-"}


def load(values: Mapping[str, str]) -> dict[str, Any]:
    """The file with variables replaced by `values` or their defaults, and merge keys applied."""

    def fill(match: re.Match[str]) -> str:
        default = match["rest"] if match["kind"] == "-" else None
        value = values.get(match["name"], default)
        assert value is not None, f"no value for {match['name']}"
        return value

    loaded: dict[str, Any] = yaml.safe_load(_VARIABLE.sub(fill, text()))
    return loaded
