"""Fuzzing that watches which code an input reaches, with atheris (libFuzzer): `python -m tests.fuzz.guided`.

For long runs only; atheris is no dependency of the tests, it has to be installed by hand. Arguments are libFuzzer's:
`-runs=1000000` or `-max_total_time=3600`, and a folder for what it learns. An input is the number of a mutated
request (mutate.py), of which all but the body is taken, and a body of libFuzzer's own; findings are kept as by
hunt.py.
"""

import asyncio
import dataclasses
import importlib
import sys
from typing import Any, Final

atheris: Any = importlib.import_module("atheris")
with atheris.instrument_imports(include=["producers.gateway"]):
    from tests.fuzz.door import Door
    from tests.fuzz.hunt import kept
    from tests.fuzz.judge import faults
    from tests.fuzz.mutate import numbered
    from tests.fuzz.sent import Sent

NUMBER_BYTES: Final = 3
STARTS: Final = 2_000
"""Mutated requests that it starts from, when it is given a folder for them."""


def sent_of(data: bytes) -> Sent:
    """The request that libFuzzer's bytes stand for: in a request without a body they are its query."""
    made = numbered(int.from_bytes(data[:NUMBER_BYTES], "big"))
    rest = data[NUMBER_BYTES:]
    if made.method == "GET":
        return dataclasses.replace(made, query=rest)
    headers = tuple((name, value) for name, value in made.headers if name != b"content-encoding")
    return dataclasses.replace(made, headers=headers, body=rest, piece=0)


def data_of(number: int) -> bytes:
    """The bytes of a mutated request, to start from."""
    made = numbered(number)
    return number.to_bytes(NUMBER_BYTES, "big") + (made.query if made.method == "GET" else made.body)


def main(arguments: list[str]) -> None:
    """Never returns: libFuzzer ends the process, with 77 when something broke."""
    with asyncio.Runner() as runner:

        async def opened() -> Door:
            return Door()

        door = runner.run(opened())

        def one(data: bytes) -> None:
            if len(data) <= NUMBER_BYTES:
                return
            sent = sent_of(data)
            found = faults(sent, runner.run(door.ask(sent)))
            if found:
                print(kept("guided", sent, found), file=sys.stderr)
                raise AssertionError(found)

        atheris.Setup(arguments, one)
        atheris.Fuzz()


if __name__ == "__main__":
    from pathlib import Path

    for argument in sys.argv[1:]:
        if not argument.startswith("-"):
            folder = Path(argument)
            folder.mkdir(exist_ok=True)
            for start in range(0 if any(folder.iterdir()) else STARTS):
                (folder / str(start)).write_bytes(data_of(start))
    main(sys.argv)
