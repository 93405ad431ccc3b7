"""Running inputs through the door, and telling of the first that break something.

A finding is printed with its number and as Python, and kept in a file. Again, by number or by file:
`python -m tests.fuzz.hunt 12345` and `python -m tests.fuzz.hunt /tmp/…/12345.py`.
"""

import ast
import asyncio
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.fuzz.door import Door, Outcome
from tests.fuzz.judge import faults
from tests.fuzz.mutate import numbered
from tests.fuzz.sent import Sent

FINDINGS_MAX: Final = 5
"""A hunt ends with so many: more of them mostly say the same."""
FOLDER: Final = Path(tempfile.gettempdir()) / "headrace-fuzz"


@dataclass(slots=True)
class Hunt:
    """What a run saw. `answers`: how often each status of each protocol; a run that sees only refusals tests
    nothing."""

    inputs: int = 0
    rows: int = 0
    rejected: int = 0
    slowest_s: float = 0.0
    slowest: str = ""
    answers: dict[tuple[str, int], int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    def note(self, name: str, outcome: Outcome) -> None:
        self.inputs += 1
        self.rows += len(outcome.rows)
        self.rejected += len(outcome.rejected)
        key = (outcome.decoder, outcome.status)
        self.answers[key] = self.answers.get(key, 0) + 1
        if outcome.cpu_seconds > self.slowest_s:
            self.slowest_s, self.slowest = outcome.cpu_seconds, name

    def __str__(self) -> str:
        counts = ", ".join(f"{name or '-'} {status}: {n}" for (name, status), n in sorted(self.answers.items()))
        return (
            f"{self.inputs} inputs, {self.rows} events stored, {self.rejected} set aside, slowest"
            f" {self.slowest_s:.3f} s of work ({self.slowest}); {counts}"
        )


def hunt(numbers: Iterable[int], findings_max: int = FINDINGS_MAX) -> Hunt:
    """Run the inputs with these numbers, until `findings_max` of them broke something."""
    return asyncio.run(_hunt(numbers, findings_max))


async def _hunt(numbers: Iterable[int], findings_max: int) -> Hunt:
    door, seen = Door(), Hunt()
    for number in numbers:
        sent = numbered(number)
        outcome = await door.ask(sent)
        seen.note(str(number), outcome)
        found = faults(sent, outcome)
        if found:
            seen.findings.append(kept(str(number), sent, found))
            if len(seen.findings) >= findings_max:
                break
    await door.close()
    return seen


def faults_of(sent: Sent) -> list[str]:
    """What one input breaks."""

    async def run() -> list[str]:
        door = Door()
        outcome = await door.ask(sent)
        await door.close()
        return faults(sent, outcome)

    return asyncio.run(run())


def kept(name: str, sent: Sent, found: list[str]) -> str:
    """A finding as text; the input stands in a file afterwards."""
    FOLDER.mkdir(exist_ok=True)
    file = FOLDER / f"{name}.py"
    file.write_text(f"{sent!r}\n", encoding="utf-8")
    shown = repr(sent)
    shown = shown if len(shown) < 4_000 else f"{shown[:3_000]} … {shown[-900:]}"
    again = name if name.isdigit() else file
    told = "\n  ".join(found)
    return f"{told}\n  {shown}\n  again: .venv/bin/python -m tests.fuzz.hunt {again}   (kept in {file})"


def parsed(text: str) -> Sent:
    """The input whose repr is `text`; nothing is evaluated."""
    call = ast.parse(text.strip(), mode="eval").body
    assert isinstance(call, ast.Call)
    return Sent(**{str(item.arg): ast.literal_eval(item.value) for item in call.keywords})


def _named(name: str) -> Sent:
    if name.isdigit():
        return numbered(int(name))
    return parsed(Path(name).read_text(encoding="utf-8"))


async def _replay(name: str) -> list[str]:
    door, sent = Door(), _named(name)
    outcome = await door.ask(sent)
    await door.close()
    print(sent)
    print(outcome)
    return faults(sent, outcome)


if __name__ == "__main__":
    for each in sys.argv[1:]:
        print("\n".join(asyncio.run(_replay(each))) or "nothing is broken by it")
