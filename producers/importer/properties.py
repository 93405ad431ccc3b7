"""The properties of many rows as JSON text, built column by column; a null column is left out of its row."""

from collections.abc import Mapping

import msgspec
import polars as pl
import pyarrow as pa

from producers.importer.mapping import PropertyAs, PropertyRule
from producers.importer.rows import Rows

_NUMBER = r"^-?(0|[1-9]\d{0,17})(\.\d{1,18})?$"  # JSON's grammar, with no exponent that could leave the finite
_CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f]"
_TRUE, _FALSE = ("true", "t", "1", "yes"), ("false", "f", "0", "no")


def encode_properties(rows: Rows, rules: Mapping[str, PropertyRule]) -> pa.Array:
    """One JSON object a row, keys in the mapping's order."""
    if not len(rows.numbers):
        return pa.array([], pa.string())
    if not rules:
        return pa.repeat(pa.scalar("{}"), len(rows.numbers))
    members = []
    for name, rule in rules.items():
        key = "," + msgspec.json.encode(name).decode() + ":"
        members.append((pl.lit(key) + _literal(_column(rows, rule), rule.as_)).fill_null(""))
    joined = pl.concat_str(members)
    body = pl.lit("{") + joined.str.strip_prefix(",") + pl.lit("}")
    return pl.select(body).to_series().to_arrow().cast(pa.string())


def _column(rows: Rows, rule: PropertyRule) -> pl.Expr:
    array = rows.json[rule.column] if rule.as_ == "json" else rows.text[rule.column]
    return pl.lit(pl.Series(pl.from_arrow(array)))


def _literal(text: pl.Expr, kind: PropertyAs) -> pl.Expr:
    """JSON of a column: what is no number or boolean stays text rather than being lost."""
    if kind == "json":
        return text
    if kind == "number":
        return pl.when(text.str.contains(_NUMBER)).then(text).otherwise(_quoted(text))
    if kind == "boolean":
        lower = text.str.to_lowercase()
        return (
            pl.when(lower.is_in(_TRUE)).then(pl.lit("true"))
            .when(lower.is_in(_FALSE)).then(pl.lit("false"))
            .otherwise(_quoted(text))
        )  # fmt: skip
    return _quoted(text)


def _quoted(text: pl.Expr) -> pl.Expr:
    """A JSON string. Line ends and tabs are escaped; other control characters become U+FFFD."""
    out = text.str.replace_all("\\", "\\\\", literal=True).str.replace_all('"', '\\"', literal=True)
    for character, escape in (("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        out = out.str.replace_all(character, escape, literal=True)
    return pl.lit('"') + out.str.replace_all(_CONTROL, "\ufffd") + pl.lit('"')
