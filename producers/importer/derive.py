"""What a field's `as` derives from a column's text: pure, a column at a time, null for nothing."""

from collections.abc import Callable

import polars as pl
import pyarrow as pa
import xxhash

from producers.importer.mapping import FieldAs
from producers.page_address import NO_ADDRESS, page_address
from producers.user_agent import parse_user_agent
from schemas.event import bound_dimension

Derivation = Callable[[str], str | None]


def derive(text: pa.Array, kind: FieldAs) -> pa.Array:
    """`text` read as `kind`. Every distinct value is derived once, since logs repeat theirs."""
    if kind == "text":
        return text
    if kind == "whole_number":
        return pl.Series(pl.from_arrow(text)).str.replace(r"^(-?\d+)\.0*$", "$1").to_arrow().cast(pa.string())
    return _each(text, _DERIVATIONS[kind])


def bound(text: pa.Array) -> pa.Array:
    """`text` fit for a dimension (schemas.event.bound_dimension); only what is too long or unclean is touched."""
    series = pl.Series(pl.from_arrow(text))
    if not ((series.str.len_bytes() > 255) | series.str.contains(r"[\x00-\x1f\x7f]")).any():
        return text
    return _each(text, bound_dimension)


def _each(text: pa.Array, derivation: Derivation) -> pa.Array:
    coded = text.dictionary_encode()
    derived = pa.array([derivation(value) or None for value in coded.dictionary.to_pylist()], pa.string())
    return derived.take(coded.indices)


def _url_path(url: str) -> str | None:
    address = page_address(url)
    return None if address is NO_ADDRESS else address.path or "/"


_DERIVATIONS: dict[FieldAs, Derivation] = {
    "hash": lambda value: xxhash.xxh128_hexdigest(value.encode()),
    "url_path": _url_path,
    "url_domain": lambda value: page_address(value).host,
    "utm_source": lambda value: page_address(value).utm_source,
    "utm_medium": lambda value: page_address(value).utm_medium,
    "utm_campaign": lambda value: page_address(value).utm_campaign,
    "browser": lambda value: parse_user_agent(value).browser,
    "os": lambda value: parse_user_agent(value).os,
    "device": lambda value: parse_user_agent(value).device,
}
