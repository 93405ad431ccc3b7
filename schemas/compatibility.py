"""May a reader with one Avro schema read what another wrote?

Covers what our schemas are made of: records, primitives, unions with null, arrays. Rules of the Avro specification
("Schema Resolution"); promotions between number types are not used here and count as incompatible.
"""

from collections.abc import Iterator
from typing import Any


def incompatibilities(reader: Any, writer: Any, path: str = "") -> Iterator[str]:
    """Each reason why data of `writer` cannot be read with `reader`; none when it can."""
    readers, writers = _branches(reader), _branches(writer)
    if len(readers) > 1 or len(writers) > 1:
        for branch in writers:
            if not any(not list(incompatibilities(option, branch, path)) for option in readers):
                yield f"{path or 'schema'}: the reader does not know {_name(branch)}"
        return
    left, right = readers[0], writers[0]
    if _name(left) != _name(right):
        yield f"{path or 'schema'}: {_name(right)} became {_name(left)}"
    elif isinstance(left, dict) and left["type"] == "record":
        yield from _records(left, right, path)
    elif isinstance(left, dict) and left["type"] == "array":
        yield from incompatibilities(left["items"], right["items"], path + "[]")


def _records(reader: Any, writer: Any, path: str) -> Iterator[str]:
    written = {item["name"]: item for item in writer["fields"]}
    for item in reader["fields"]:
        place = f"{path}.{item['name']}" if path else item["name"]
        if item["name"] in written:
            yield from incompatibilities(item["type"], written[item["name"]]["type"], place)
        elif "default" not in item:
            yield f"{place}: new without a default"


def _branches(schema: Any) -> list[Any]:
    return schema if isinstance(schema, list) else [schema]


def _name(schema: Any) -> str:
    if isinstance(schema, str):
        return schema
    return f"record {schema['name']}" if schema["type"] == "record" else str(schema["type"])
