"""SQL over a shard's rollup rows. Pure: text with placeholders, and their values.

A coarse window is its own rows, plus the rows of finer grains that are still open, over all generations: late
rows have a later generation and are just further rows to add. Every branch bounds `generation` from below (a
generation is never before its window), so that partitions prune.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from api.query.filters import Branch, Filter, Leaf
from api.query.planner import RollupPlan
from api.query.question import Question
from api.query.result import OTHER

FOLDED: Final = f"dims = '{OTHER}'"


@dataclass(slots=True)
class Statement:
    """SQL text and the values of its placeholders, in order."""

    text: str
    values: list[Any] = field(default_factory=list)


def grouped(
    question: Question,
    plan: RollupPlan,
    customer_id: int,
    *,
    by_bucket: bool,
    users: bool,
    histograms: bool,
    tuples: list[tuple[str, ...]] | None = None,
    top: tuple[str, int] | None = None,
) -> Statement:
    """One row per (folded, bucket, tuple) with sums, and the sketches that are asked for.

    Columns: folded, bucket, the dimensions, events, value_e6, value_count, late, rows, users[], hists[]; with
    `top` = (ORDER BY terms, limit) further: groups, all_events, all_value_e6, all_value_count over all tuples.
    `tuples` restricts to these dimension values.
    """
    picked = _picked(plan, customer_id, users=users, histograms=histograms)
    names = [dimension.name for dimension in question.dimensions]
    values: list[Any] = list(picked.values)
    bucket = "NULL::int4"
    if by_bucket:
        bucket = "width_bucket(window_start, %s::int8[]) - 1"
        values.append([item.from_us // 1_000_000 for item in question.buckets])
    dimensions = [f"CASE WHEN {FOLDED} THEN '{OTHER}' ELSE {_place(plan, name)} END" for name in names]
    keys = [FOLDED, bucket, *dimensions]
    where = _where(question, plan, tuples)
    values += where.values
    groups = ", ".join(str(i + 1) for i in range(len(keys)))
    measures = [
        "sum(events)::int8 AS events",
        "sum(value_e6) AS value_e6",
        "sum(value_count)::int8 AS value_count",
        "coalesce(sum(events) FILTER (WHERE generation <> window_start), 0)::int8 AS late",
        "count(*) AS rows",
        "array_agg(users) FILTER (WHERE length(users) > 0)" if users else "NULL",
        "array_agg(value_hist) FILTER (WHERE length(value_hist) > 0)" if histograms else "NULL",
    ]
    aliases = ["folded", "bucket", *(f"d{i}" for i in range(len(names)))]
    selected = ", ".join(f"{key} AS {alias}" for key, alias in zip(keys, aliases, strict=True))
    text = f"WITH picked AS ({picked.text}) SELECT {selected}, {', '.join(measures)}"
    if top is not None:
        order, limit = top
        text += (
            ", count(*) OVER () AS groups, (sum(sum(events)) OVER ())::int8, sum(sum(value_e6)) OVER (),"
            " (sum(sum(value_count)) OVER ())::int8, (sum(count(*)) OVER ())::int8,"
            " (sum(coalesce(sum(events) FILTER (WHERE generation <> window_start), 0)) OVER ())::int8"
        )
        text += f" FROM picked WHERE {where.text} GROUP BY {groups} ORDER BY {order} LIMIT %s"
        return Statement(text, [*values, limit])
    return Statement(f"{text} FROM picked WHERE {where.text} GROUP BY {groups}", values)


def order_terms(order_by: tuple[tuple[str, str], ...], question: Question) -> str | None:
    """ORDER BY of a breakdown, folded tuple first; None where a term needs sketches."""
    names = [dimension.name for dimension in question.dimensions]
    terms = ["folded DESC"]
    for name, direction in order_by:
        if name in names:
            # By output column; the column's own collation is "C", bytes, as ClickHouse sorts.
            terms.append(f"{3 + names.index(name)} {direction.upper()}")
            continue
        term = _SORTABLE.get(name)
        if term is None:
            return None
        terms.append(f"{term} {direction.upper()} NULLS LAST")
    terms += [f"{3 + i} ASC" for i in range(len(names))]
    return ", ".join(terms)


_SORTABLE: Final = {
    "events": "sum(events)",
    "sum(value)": "sum(value_e6)",
    "count(value)": "sum(value_count)",
    "avg(value)": "sum(value_e6) / nullif(sum(value_count), 0)",
}


def _picked(plan: RollupPlan, customer_id: int, *, users: bool, histograms: bool) -> Statement:
    columns = ["window_start", "dims", "generation", "events", "value_e6", "value_count"]
    columns += ["users"] if users else []
    columns += ["value_hist"] if histograms else []
    branches, values = [], []
    for piece in plan.pieces:
        for grain in range(piece.grain + 1):
            open_only = " AND open" if grain < piece.grain else ""
            branches.append(
                f"SELECT {', '.join(columns)} FROM rollup_rows WHERE customer_id = %s AND rollup = {plan.rollup.code}"
                f" AND grain = {grain} AND window_start >= %s AND window_start < %s AND generation >= %s{open_only}"
            )
            values += [customer_id, piece.from_s, piece.to_s, piece.from_s]
    return Statement(" UNION ALL ".join(branches), values)


def _where(question: Question, plan: RollupPlan, tuples: list[tuple[str, ...]] | None) -> Statement:
    """What to keep; the folded tuple always comes along unless tuples are named, so that it is noticed."""
    parts, values = [], []
    if question.filters is not None:
        kept = _filter(question.filters, plan)
        parts.append(kept.text)
        values += kept.values
    if tuples is not None:
        names = [dimension.name for dimension in question.dimensions]
        places = ", ".join(_place(plan, name) for name in names)
        lists = ", ".join("%s::text[]" for _ in names)
        parts.append(f"({places}) IN (SELECT * FROM unnest({lists}))")
        values += [list(column) for column in zip(*tuples, strict=True)] if tuples else [[] for _ in names]
    if not parts:
        return Statement("true")
    return Statement(f"(({' AND '.join(parts)}) OR {FOLDED})", values)


def _place(plan: RollupPlan, name: str) -> str:
    if len(plan.rollup.dimensions) == 1:
        return "dims"
    return f"split_part(dims, chr(31), {plan.places[name] + 1})"


def _filter(tree: Filter, plan: RollupPlan) -> Statement:
    if isinstance(tree, Branch):
        items = [_filter(item, plan) for item in tree.items]
        values = [value for item in items for value in item.values]
        if tree.combiner == "not":
            return Statement(f"NOT ({items[0].text})", values)
        word = " AND " if tree.combiner == "and" else " OR "
        return Statement("(" + word.join(item.text for item in items) + ")", values)
    return _leaf(tree, plan)


def _leaf(leaf: Leaf, plan: RollupPlan) -> Statement:
    place = _place(plan, leaf.dimension.name)
    texts = list(leaf.values)
    match leaf.operator:
        case "is":
            return Statement(f"{place} = ANY(%s::text[])", [texts])
        case "is_not":
            return Statement(f"NOT ({place} = ANY(%s::text[]))", [texts])
        case "contains":
            return Statement(f"EXISTS (SELECT FROM unnest(%s::text[]) v WHERE strpos({place}, v) > 0)", [texts])
        case "not_contains":
            return Statement(f"NOT EXISTS (SELECT FROM unnest(%s::text[]) v WHERE strpos({place}, v) > 0)", [texts])
        case "set":
            return Statement(f"{place} <> ''")
        case "not_set":
            return Statement(f"{place} = ''")
        case other:
            raise AssertionError(f"the planner sends {other} to the raw events")
