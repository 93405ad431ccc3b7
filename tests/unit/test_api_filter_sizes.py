"""The largest accepted filter makes a statement that ClickHouse still parses; a larger one is the caller's fault."""

import pytest

from api.problems import ProblemError
from api.query import filters, model, question, raw_sql
from api.query.question import Question

NOW_US = 1_774_952_430_000_000
MAX_QUERY_SIZE = 262_144
"""ClickHouse's own default of `max_query_size`."""
LONGEST_NAME = "props." + "n" * 150


def asked(conditions: int, values: int, operator: str, dimension: str = LONGEST_NAME) -> Question:
    tree = ["and", [[operator, dimension, [f"v{i}" for i in range(values)]] for _ in range(conditions)]]
    parsed = model.parse({"kind": "totals", "range": {"from": "-7d"}, "filters": tree}, batch_max=1)
    assert not isinstance(parsed, list)
    return question.resolve(parsed, NOW_US)


@pytest.mark.parametrize("operator", filters.TEXT_OPERATORS)
def test_the_largest_accepted_filter_fits_a_statement(operator: str) -> None:
    each = filters.ALL_VALUES_MAX // (filters.PATTERN_COST if operator == "matches" else 1)
    for conditions, values in ((filters.LEAVES_MAX, each // filters.LEAVES_MAX), (5, min(each // 5, 1000))):
        statement = raw_sql.totals(asked(conditions, values, operator), 1)
        assert len(statement.text) < MAX_QUERY_SIZE, (operator, conditions, values)


@pytest.mark.parametrize(("operator", "values", "at"), [("is", 51, 98), ("contains", 1000, 5), ("matches", 6, 83)])
def test_more_values_are_refused_as_the_callers_fault(operator: str, values: int, at: int) -> None:
    with pytest.raises(ProblemError) as caught:
        asked(filters.LEAVES_MAX, values, operator, "country")
    assert (caught.value.slug, caught.value.status) == ("invalid-query", 400)
    assert caught.value.errors[0].pointer == f"/filters/1/{at}"
    assert "values together" in caught.value.detail
