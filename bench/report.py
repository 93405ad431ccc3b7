"""What a benchmark says: a table for people, JSON for machines."""

import json
import os
import platform
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


@dataclass(slots=True)
class Report:
    """Rows of `what, value, unit, note`, and whatever else belongs into the JSON."""

    name: str
    rows: list[tuple[str, float, str, str]] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def add(self, what: str, value: float, unit: str, note: str = "") -> None:
        """One line of the table."""
        self.rows.append((what, value, unit, note))

    def publish(self) -> Path:
        """Print the table and write bench/results/NAME.json; gives the file."""
        table = Table(title=f"{self.name} · {os.cpu_count()} cores · Python {platform.python_version()}")
        table.add_column("what")
        table.add_column("value", justify="right")
        table.add_column("unit")
        table.add_column("note")
        for what, value, unit, note in self.rows:
            table.add_row(what, f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}", unit, note)
        Console(file=sys.stdout, width=None if sys.stdout.isatty() else 140).print(table)
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.json"
        rows = [dict(zip(("what", "value", "unit", "note"), row, strict=True)) for row in self.rows]
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        path.write_text(json.dumps({"name": self.name, "at": when, "rows": rows, **self.details}, indent=1))
        return path
