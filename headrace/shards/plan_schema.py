"""The JSON Schema of one event's properties (draft 2020-12): what of it a tracking plan takes, and its validator.

Guarantees of a schema that passed `check_schema`: judging an event with it needs time that grows with the event's
size alone. Patterns run on an engine without backtracking, references stand for a bounded number of subschemas and
never for themselves, nothing is fetched from anywhere. Refuses what it does not know, by name: a misspelt keyword
would otherwise be a rule that never holds.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import jsonschema_rs
import msgspec

from headrace.errors import UsageError

DEPTH_MAX: Final = 16
"""Levels of subschemas below the root."""
SUBSCHEMAS_MAX: Final = 2_000
"""Of one event's schema, with every reference counted as often as it is used."""
ENUM_VALUES_MAX: Final = 1_000
PATTERN_CHARS_MAX: Final = 256
PATTERN_BYTES_MAX: Final = 256 * 1024
"""Of one compiled pattern; `a{1000}{1000}` is past it."""

FORMATS: Final = frozenset(
    ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "json-pointer", "time", "uri", "uuid")
)
_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_ONE = frozenset(("additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then"))
_LISTS = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
_MAPS = frozenset(("$defs", "dependentSchemas", "patternProperties", "properties"))
_NOTES = frozenset(
    ("$comment", "$schema", "default", "deprecated", "description", "examples", "readOnly", "title", "writeOnly")
)
_PLAIN = frozenset(
    (
        "$ref",
        "const",
        "dependentRequired",
        "enum",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "maxContains",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minContains",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "multipleOf",
        "pattern",
        "required",
        "type",
        "uniqueItems",
    )
)
KEYWORDS: Final = _ONE | _LISTS | _MAPS | _NOTES | _PLAIN
_REF_START = "#/$defs/"

Schema = Mapping[str, Any]


def check_schema(schema: Any, where: str) -> None:
    """Raises UsageError, with the place in the plan, for a schema that is not valid or past a bound."""
    if not isinstance(schema, dict):
        raise UsageError(f"{where}: a schema is an object")
    if schema.get("type", "object") != "object":
        raise UsageError(f"{where}/type: an event's properties are an object, this schema would refuse every event")
    definitions = schema.get("$defs", {})
    if not isinstance(definitions, dict):
        raise UsageError(f"{where}/$defs: must be an object")
    for at, node, depth in _nodes(schema, where, 0):
        if depth > DEPTH_MAX:
            raise UsageError(f"{at}: nests deeper than {DEPTH_MAX} levels")
        if isinstance(node, dict):
            _check_node(node, at, definitions, is_root=depth == 0)
        elif not isinstance(node, bool):
            raise UsageError(f"{at}: a schema is an object, true or false")
    _check_weight(schema, where, definitions)
    try:
        compile_schema(schema)
    except (jsonschema_rs.ValidationError, ValueError) as error:
        reason = str(error).strip().split("\n")[0][:300]
        if '"regex"' in reason:
            reason += ": patterns have no look-around and no back-references, and a bounded size"
        raise UsageError(f"{where}: not a valid JSON Schema (2020-12): {reason}") from error


def compile_schema(schema: Schema) -> jsonschema_rs.Validator:
    """The validator of a schema; 20 µs for ten properties. Raises ValueError for one that is not valid."""
    return jsonschema_rs.Draft202012Validator(
        dict(schema),
        pattern_options=jsonschema_rs.RegexOptions(size_limit=PATTERN_BYTES_MAX, dfa_size_limit=PATTERN_BYTES_MAX),
        validate_formats=True,
        offline=True,
    )


def plain_schema(schema: Any) -> Any:
    """The same schema with `anyOf` and `oneOf` each behind two `not`: it takes the same events, and says where one
    is wrong without a list of all that is wrong with each branch, which 100,000 elements would make two seconds of
    work. Such an error is one of `not`, at an `allOf` of the schema."""
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {}
    alternatives: list[Any] = []
    for keyword, value in schema.items():
        if keyword in ("anyOf", "oneOf"):
            alternatives.append({"not": {"not": {keyword: value}}})
        elif keyword in _ONE:
            made[keyword] = plain_schema(value)
        elif keyword in _MAPS:
            made[keyword] = {name: plain_schema(item) for name, item in value.items()}
        elif keyword in _LISTS:
            made[keyword] = [plain_schema(item) for item in value]
        else:
            made[keyword] = value
    if alternatives:
        made["allOf"] = [*made.get("allOf", []), *alternatives]
    return made


def rules_of(schema: Any, path: str = "$") -> Iterator[str]:
    """Every rule of a checked schema as a line of text, for people and for comparing two plans."""
    if isinstance(schema, bool):
        yield f"{path}: {'anything' if schema else 'nothing'}"
        return
    for keyword, value in schema.items():
        if keyword in _NOTES:
            continue
        if keyword == "required":
            yield from (f"{property_path(path, name)}: required" for name in value)
        elif keyword == "properties":
            for name, item in value.items():
                yield from rules_of(item, property_path(path, name)) if item else [property_path(path, name)]
        elif keyword == "items":
            yield from rules_of(value, path + "[*]")
        elif keyword in _ONE:
            yield from rules_of(value, f"{path} ({keyword})")
        elif keyword in _LISTS:
            for number, item in enumerate(value):
                yield from rules_of(item, f"{path} ({keyword} {number})")
        elif keyword in _MAPS:
            for name, item in value.items():
                yield from rules_of(item, f"{path} ({keyword} {name})")
        else:
            yield f"{path}: {keyword} {msgspec.json.encode(value).decode()}"


def property_path(path: str, name: str) -> str:
    """The JSON path of a property below `path`."""
    if name.isascii() and name.isidentifier():
        return f"{path}.{name}"
    return f"{path}[{msgspec.json.encode(name).decode()}]"


def _nodes(node: Any, at: str, depth: int) -> Iterator[tuple[str, Any, int]]:
    """Every subschema with its place and depth, the root first. Shapes that cannot be walked are the compiler's."""
    yield at, node, depth
    if not isinstance(node, dict) or depth > DEPTH_MAX:
        return
    for keyword, name, item in _children(node):
        place = f"{at}/{keyword}" if name is None else f"{at}/{keyword}/{name}"
        yield from _nodes(item, place, depth + 1)


def _children(node: Schema) -> Iterator[tuple[str, Any, Any]]:
    for keyword, value in node.items():
        if keyword in _ONE:
            yield keyword, None, value
        elif keyword in _LISTS and isinstance(value, list):
            yield from ((keyword, number, item) for number, item in enumerate(value))
        elif keyword in _MAPS and isinstance(value, dict):
            yield from ((keyword, name, item) for name, item in value.items())


def _check_node(node: Schema, at: str, definitions: Schema, *, is_root: bool) -> None:
    for keyword, value in node.items():
        if keyword not in KEYWORDS:
            near = difflib.get_close_matches(keyword[:100], KEYWORDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"{at}: {keyword[:100]!r} is not a keyword that a plan takes{hint}")
        if keyword == "$defs" and not is_root:
            raise UsageError(f"{at}: $defs stand at a schema's root")
        if keyword == "$schema" and value != _DRAFT:
            raise UsageError(f"{at}: $schema must be {_DRAFT}")
        if keyword == "$ref" and not (
            isinstance(value, str) and value.startswith(_REF_START) and value[len(_REF_START) :] in definitions
        ):
            raise UsageError(
                f"{at}: $ref must be {_REF_START}NAME of this schema, nothing is fetched: {value!r:.100}"
            )
        if keyword == "format" and isinstance(value, str) and value not in FORMATS:
            raise UsageError(f"{at}: unknown format {value!r:.100}", remedy=f"known are {', '.join(sorted(FORMATS))}")
        if keyword == "enum" and isinstance(value, list) and len(value) > ENUM_VALUES_MAX:
            raise UsageError(f"{at}: an enum of {len(value)} values, at most {ENUM_VALUES_MAX} are taken")
        if keyword == "pattern":
            _check_pattern(value, at)
        if keyword == "patternProperties" and isinstance(value, dict):
            for pattern in value:
                _check_pattern(pattern, at)


def _check_pattern(pattern: Any, at: str) -> None:
    if isinstance(pattern, str) and len(pattern) > PATTERN_CHARS_MAX:
        raise UsageError(f"{at}: a pattern of {len(pattern)} characters, at most {PATTERN_CHARS_MAX} are taken")


def _check_weight(schema: Schema, where: str, definitions: Schema) -> None:
    """How many subschemas one event may have to be held against; a definition weighs wherever it is used."""
    known: dict[str, int] = {}
    under_way: set[str] = set()

    def weight(node: Any) -> int:
        if not isinstance(node, dict):
            return 1
        total = 1 + sum(weight(item) for keyword, _, item in _children(node) if keyword != "$defs")
        if "$ref" in node:
            total += of_definition(node["$ref"][len(_REF_START) :])
        return total

    def of_definition(name: str) -> int:
        if name in under_way:
            raise UsageError(f"{where}: {_REF_START}{name} refers to itself")
        if name not in known:
            under_way.add(name)
            known[name] = weight(definitions[name])
            under_way.remove(name)
        return known[name]

    total = weight(schema) + sum(of_definition(name) for name in definitions)
    if total > SUBSCHEMAS_MAX:
        raise UsageError(f"{where}: {total} subschemas with references resolved, at most {SUBSCHEMAS_MAX} are taken")
