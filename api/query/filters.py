"""The filter tree: `["and", [...]]`, `["or", [...]]`, `["not", f]` over leaves `[operator, dimension, values]`.

An unset dimension equals the empty string, in both sources: `is_not` and `not_contains` are true for it. The
tree is bounded in depth, leaves and values, and parsed without recursion into unbounded input.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from api.problems import did_you_mean, pointer
from api.query.terms import VALUE, Dimension, TermError

DEPTH_MAX: Final = 8
LEAVES_MAX: Final = 100
VALUES_MAX: Final = 1000
VALUE_CHARS_MAX: Final = 1000
PATTERN_CHARS_MAX: Final = 200
ALL_VALUES_MAX: Final = 5_000
"""Values of all conditions together: the statement that they make stays within what ClickHouse parses."""
PATTERN_COST: Final = 10
"""A pattern counts as so many values: each is a term of its own, with the dimension's expression written out."""

TEXT_OPERATORS: Final = ("is", "is_not", "contains", "not_contains", "matches")
NUMBER_OPERATORS: Final = ("gt", "gte", "lt", "lte")
PRESENCE_OPERATORS: Final = ("set", "not_set")
OPERATORS: Final = (*TEXT_OPERATORS, *NUMBER_OPERATORS, *PRESENCE_OPERATORS)
COMBINERS: Final = ("and", "or", "not")


class FilterError(ValueError):
    """A filter is wrong; `pointer` says where inside the tree."""

    def __init__(self, message: str, at: tuple[Any, ...]) -> None:
        super().__init__(message)
        self.pointer = pointer(at)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One condition. `values` are strings, or one number for gt, gte, lt and lte; empty for set and not_set."""

    operator: str
    dimension: Dimension
    values: tuple[str, ...] | tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Branch:
    """`combiner` is "and", "or" or "not" (one item)."""

    combiner: str
    items: tuple["Filter", ...]


Filter = Leaf | Branch


def parse(node: object) -> Filter:
    """The tree of a request. Raises FilterError."""
    return _parse(node, (), 1, _Budget(LEAVES_MAX, ALL_VALUES_MAX))


def leaves(tree: Filter | None) -> Iterator[Leaf]:
    """All conditions of a tree."""
    if isinstance(tree, Leaf):
        yield tree
    elif tree is not None:
        for item in tree.items:
            yield from leaves(item)


def written(tree: Filter) -> list[Any]:
    """The tree as a request writes it."""
    if isinstance(tree, Leaf):
        if tree.operator in PRESENCE_OPERATORS:
            return [tree.operator, tree.dimension.name]
        return [tree.operator, tree.dimension.name, list(tree.values)]
    if tree.combiner == "not":
        return ["not", written(tree.items[0])]
    return [tree.combiner, [written(item) for item in tree.items]]


@dataclass(slots=True)
class _Budget:
    """What the rest of a tree may still hold."""

    leaves: int
    values: int


def _parse(node: object, at: tuple[Any, ...], depth: int, budget: _Budget) -> Filter:
    if depth > DEPTH_MAX:
        raise FilterError(f"filters nest at most {DEPTH_MAX} deep", at)
    if not isinstance(node, list) or not node or not isinstance(node[0], str):
        raise FilterError('a filter is an array such as ["is", "event", ["signup"]]', at)
    head = node[0]
    if head in COMBINERS:
        return _parse_branch(node, at, depth, budget)
    if head not in OPERATORS:
        known = (*OPERATORS, *COMBINERS)
        raise FilterError(f"unknown operator {head[:80]!r}{did_you_mean(head, known)}", (*at, 0))
    budget.leaves -= 1
    if budget.leaves < 0:
        raise FilterError(f"a query has at most {LEAVES_MAX} conditions", at)
    leaf = _parse_leaf(node, at)
    budget.values -= len(leaf.values) * (PATTERN_COST if leaf.operator == "matches" else 1)
    if budget.values < 0:
        bound = f"{ALL_VALUES_MAX} values together, a pattern counted as {PATTERN_COST}"
        raise FilterError(f"a query's filters have at most {bound}", at)
    return leaf


def _parse_branch(node: list[Any], at: tuple[Any, ...], depth: int, budget: _Budget) -> Branch:
    head = node[0]
    if len(node) != 2:
        raise FilterError(f'"{head}" takes one further element', at)
    if head == "not":
        return Branch("not", (_parse(node[1], (*at, 1), depth + 1, budget),))
    items = node[1]
    if not isinstance(items, list) or not items:
        raise FilterError(f'"{head}" takes a non-empty array of filters', (*at, 1))
    if len(items) > LEAVES_MAX:
        raise FilterError(f"a query has at most {LEAVES_MAX} conditions", (*at, 1))
    return Branch(head, tuple(_parse(item, (*at, 1, i), depth + 1, budget) for i, item in enumerate(items)))


def _parse_leaf(node: list[Any], at: tuple[Any, ...]) -> Leaf:
    operator = node[0]
    if len(node) < 2:
        raise FilterError(f'"{operator}" needs a dimension', at)
    extra = (VALUE,) if operator in (*NUMBER_OPERATORS, *PRESENCE_OPERATORS) else ()
    try:
        dimension = Dimension.parse(node[1], extra=extra)
    except TermError as error:
        raise FilterError(str(error), (*at, 1)) from error
    if operator in PRESENCE_OPERATORS:
        if len(node) > 2 and node[2] != []:
            raise FilterError(f'"{operator}" takes no values', (*at, 2))
        return Leaf(operator, dimension)
    if len(node) != 3:
        raise FilterError(f'"{operator}" needs a dimension and values', at)
    values = node[2] if isinstance(node[2], list) else [node[2]]
    if operator in NUMBER_OPERATORS:
        return Leaf(operator, _numeric(dimension, at), (_number(values, (*at, 2)),))
    return Leaf(operator, dimension, _texts(operator, values, (*at, 2)))


def _numeric(dimension: Dimension, at: tuple[Any, ...]) -> Dimension:
    if dimension.name != VALUE and dimension.property_name is None:
        raise FilterError("numbers are compared on value or props.NAME", (*at, 1))
    return dimension


def _number(values: list[Any], at: tuple[Any, ...]) -> float:
    if len(values) != 1 or isinstance(values[0], bool) or not isinstance(values[0], int | float):
        raise FilterError("one number is expected", at)
    try:
        number = float(values[0])
    except OverflowError as error:
        raise FilterError("the number is too large", at) from error
    if not math.isfinite(number):
        raise FilterError("the number must be finite", at)
    return number


def _texts(operator: str, values: list[Any], at: tuple[Any, ...]) -> tuple[str, ...]:
    if not values or len(values) > VALUES_MAX:
        raise FilterError(f"1 to {VALUES_MAX} values are expected", at)
    longest = PATTERN_CHARS_MAX if operator == "matches" else VALUE_CHARS_MAX
    out = []
    for i, given in enumerate(values):
        value = given
        if isinstance(given, bool):
            value = "true" if given else "false"
        elif isinstance(given, int | float):
            value = str(given)
        if not isinstance(value, str):
            raise FilterError("values are strings or numbers", (*at, i))
        if len(value) > longest:
            raise FilterError(f"a value has at most {longest} characters", (*at, i))
        if "\x00" in value or any("\ud800" <= ch <= "\udfff" for ch in value):
            raise FilterError("a value holds neither U+0000 nor unpaired surrogates", (*at, i))
        out.append(value)
    return tuple(out)
