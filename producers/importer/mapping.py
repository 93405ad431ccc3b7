"""Mapping files: how the columns of a file become events. Parsing and checking only; `transform` applies them.

A mapping is TOML; an unknown key is refused with the nearest known one. See docs/reference/import.md and the bundled
mappings beside this module.
"""

import difflib
import hashlib
import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from headrace.errors import UsageError
from producers.importer.formats.access_log import COLUMNS as ACCESS_LOG_COLUMNS
from producers.importer.formats.access_log import AccessLog
from producers.importer.formats.delimited import Delimited
from producers.importer.formats.ndjson import NDJSON
from producers.importer.rows import Format, Wanted
from schemas.event import EVENT_TYPES

FieldAs = Literal[
    "text", "whole_number", "hash", "url_path", "url_domain", "utm_source", "utm_medium", "utm_campaign",
    "browser", "os", "device",
]  # fmt: skip
PropertyAs = Literal["text", "number", "boolean", "json"]
FIELDS = (
    "user_id", "anonymous_id", "group_id", "previous_id", "session_id", "path", "referrer_domain", "utm_source",
    "utm_medium", "utm_campaign", "country", "browser", "os", "device", "currency",
)  # fmt: skip
EPOCH_UNITS = ("unix_s", "unix_ms", "unix_us")
FACTORS_MAX = 4


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the parts of a mapping file."""


class CSVOptions(_Part, frozen=True):
    """[csv]"""

    delimiter: str = ","
    encoding: str = "utf8"


class TimeRule(_Part, frozen=True):
    """[time]: `format` is iso8601, unix_s, unix_ms, unix_us or a strftime pattern; `zone` where it tells none."""

    column: str
    format: str = "iso8601"
    zone: str = "UTC"


class NameRule(_Part, frozen=True):
    """One of event.rules: the event is called `name` where the test on `column` holds. The first that holds wins."""

    column: str
    name: str
    equals: str | None = None
    starts_with: str | None = None
    matches: str | None = None


class EventRule(_Part, frozen=True):
    """[event]: the type, and the name: that of a column, or `name` where no rule holds."""

    type: str = "track"
    name: str | None = None
    column: str | None = None
    rules: tuple[NameRule, ...] = ()


class FieldRule(_Part, frozen=True, rename={"as_": "as"}):
    """One of [fields]: a column, read `as` something, or a constant."""

    column: str | None = None
    constant: str | None = None
    as_: FieldAs = "text"


class PropertyRule(_Part, frozen=True, rename={"as_": "as"}):
    """One of [properties]. `json` keeps the types of a format that has them."""

    column: str
    as_: PropertyAs = "text"


class ValueRule(_Part, frozen=True):
    """[value]: the product of columns and decimal constants, as `Quantity * UnitPrice`."""

    product: str

    def factors(self) -> tuple[str, ...]:
        """The columns and constants, in order."""
        return tuple(part.strip() for part in self.product.split("*"))


class Mapping(_Part, frozen=True):
    """A whole mapping file."""

    format: Literal["csv", "ndjson", "access_log"]
    time: TimeRule
    event: EventRule
    library: str = ""
    csv: CSVOptions = CSVOptions()
    fields: dict[str, FieldRule | str] = {}
    value: ValueRule | None = None
    properties: dict[str, PropertyRule | str] = {}
    properties_from: str | None = None
    sha256: str = ""

    def reader(self) -> Format:
        """The format that the file is read by."""
        if self.format == "csv":
            return Delimited(self.csv.delimiter, self.csv.encoding)
        return NDJSON() if self.format == "ndjson" else AccessLog()

    def field_rules(self) -> dict[str, FieldRule]:
        """[fields], a bare string being a column's name."""
        return {n: FieldRule(column=r) if isinstance(r, str) else r for n, r in self.fields.items()}

    def property_rules(self) -> dict[str, PropertyRule]:
        """[properties], a bare string being a column's name, read as JSON where the format has types."""
        default: PropertyAs = "json" if self.format == "ndjson" else "text"
        return {
            n: PropertyRule(column=r, as_=default) if isinstance(r, str) else r for n, r in self.properties.items()
        }

    def wanted(self) -> Wanted:
        """The columns that are read."""
        text = {self.time.column} | {rule.column for rule in self.event.rules}
        text |= {self.event.column} if self.event.column else set()
        text |= {rule.column for rule in self.field_rules().values() if rule.column}
        text |= {factor for factor in self.value.factors() if not _is_number(factor)} if self.value else set()
        json = {self.properties_from} if self.properties_from else set()
        for rule in self.property_rules().values():
            (json if rule.as_ == "json" else text).add(rule.column)
        return Wanted(frozenset(text), frozenset(json))


def bundled() -> tuple[str, ...]:
    """Names of the mappings that come with Headrace."""
    folder = resources.files("producers.importer") / "mappings"
    names = (entry.name for entry in folder.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def load(name: str) -> Mapping:
    """A mapping by the path of its file, or by the name of a bundled one. Raises UsageError."""
    if name in bundled():
        raw = (resources.files("producers.importer") / "mappings" / f"{name}.toml").read_bytes()
        return parse(raw, f"bundled mapping {name}")
    try:
        raw = Path(name).read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read the mapping {name}: {error.strerror}",
            remedy=f"name a file, or one of the bundled {', '.join(bundled())}",
        ) from error
    return parse(raw, name)


def parse(raw: bytes, origin: str) -> Mapping:
    """Read and check a mapping file's bytes. Raises UsageError that names the key and the remedy."""
    try:
        mapping = msgspec.convert(tomllib.loads(raw.decode()), Mapping)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{origin} is not TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise UsageError(f"{origin}: {error}", remedy=_hint(str(error))) from error
    mapping = msgspec.structs.replace(mapping, sha256=hashlib.sha256(raw).hexdigest())
    problem = _problem(mapping)
    if problem:
        raise UsageError(f"{origin}: {problem}")
    return mapping


def missing_column(column: str, known: list[str], origin: str) -> UsageError:
    """The error for a column that a mapping names and a file lacks."""
    near = difflib.get_close_matches(column, known, n=1)
    shown = ", ".join(known[:20])
    return UsageError(
        f"{origin} has no column {column!r}",
        remedy=f"did you mean {near[0]!r}?" if near else f"it has {shown}",
    )


def _problem(mapping: Mapping) -> str | None:
    """The first thing that is wrong with a mapping whose types are right."""
    event, rules = mapping.event, mapping.field_rules()
    if event.type not in EVENT_TYPES:
        return f"event.type {event.type!r} is none of {', '.join(sorted(EVENT_TYPES))}"
    if (event.name is None) == (event.column is None):
        return "event needs either `name` or `column`"
    for rule in event.rules:
        tests = [test for test in (rule.equals, rule.starts_with, rule.matches) if test is not None]
        if len(tests) != 1:
            return f"the event rule for {rule.name!r} needs one of equals, starts_with, matches"
        if rule.matches is not None and not _compiles(rule.matches):
            return f"the event rule for {rule.name!r} has a broken pattern {rule.matches!r}"
    for name, field in rules.items():
        if name not in FIELDS:
            return f"unknown field {name!r}{_near(name, FIELDS)}"
        if (field.column is None) == (field.constant is None):
            return f"fields.{name} needs either `column` or `constant`"
    if mapping.format != "ndjson" and mapping.wanted().json:
        return f"only ndjson has typed columns; {', '.join(sorted(mapping.wanted().json))} cannot be read as json"
    if mapping.format == "access_log":
        for column in sorted(mapping.wanted().text):
            if column not in ACCESS_LOG_COLUMNS:
                return f"an access log has no column {column!r}{_near(column, ACCESS_LOG_COLUMNS)}"
    if mapping.properties_from and mapping.properties:
        return "give either [properties] or properties_from"
    if mapping.value and not 1 <= len([f for f in mapping.value.factors() if f]) <= FACTORS_MAX:
        return f"value.product takes 1 to {FACTORS_MAX} factors"
    if len(mapping.csv.delimiter) != 1:
        return f"csv.delimiter must be one character, not {mapping.csv.delimiter!r}"
    return _time_problem(mapping.time)


def _time_problem(rule: TimeRule) -> str | None:
    if rule.format not in ("iso8601", *EPOCH_UNITS) and "%" not in rule.format:
        return f"time.format {rule.format!r} is neither iso8601, {', '.join(EPOCH_UNITS)} nor a strftime pattern"
    if rule.zone != "UTC":
        try:
            ZoneInfo(rule.zone)
        except (ZoneInfoNotFoundError, ValueError):
            return f"time.zone {rule.zone!r} is not a time zone"
    return None


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _is_number(factor: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", factor) is not None


def _near(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"


def _hint(message: str) -> str | None:
    """A suggestion for msgspec's complaint about an unknown key or value."""
    unknown = re.search(r"unknown field `([^`]+)`|[Ii]nvalid enum value '([^']+)'", message)
    if unknown is None:
        return None
    known: set[str] = set(get_args(FieldAs)) | set(get_args(PropertyAs))
    parts: tuple[Any, ...] = (
        Mapping, CSVOptions, TimeRule, EventRule, NameRule, FieldRule, PropertyRule, ValueRule,
    )  # fmt: skip
    for part in parts:
        known |= {field.encode_name for field in msgspec.structs.fields(part)}
    near = difflib.get_close_matches(unknown[1] or unknown[2], sorted(known), n=1)
    return f"did you mean {near[0]}?" if near else None
