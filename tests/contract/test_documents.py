"""Documents are right, and the checks that say so notice what is wrong."""

from pathlib import Path

import pytest

from tests.contract import documents
from tests.contract.documents import (
    ROOT,
    citation_faults,
    command_faults,
    link_faults,
    mention_fault,
    name_faults,
    parse_fault,
)


def test_documents_name_nothing_that_is_not_there() -> None:
    assert documents.faults() == []


def test_the_commands_of_the_documents_are_found() -> None:
    lines = [line for path in documents.documents() for line in documents._COMMAND.findall(path.read_text("utf-8"))]
    assert len(lines) > 25
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) < 120
    verbs = {line.split()[1] for line in lines if "headrace" in line.split()[0]}
    assert verbs >= {"up", "load", "backfill", "query", "tail"}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('docker compose run --rm cli customers create --name "My shop"', "No such option: --name"),
        ("headrace lod --rate 5", "Did you mean 'load'"),
        ("HEADRACE_CONFIG=x .venv/bin/headrace load --for ever", "is not a duration"),
        ("headrace backfill orders.csv --customer 1", "Missing option '--mapping'"),
        ("make demo ARGS=--chek", "No such option: --chek"),
        ("make dmeo", "the Makefile has no 'dmeo'"),
    ],
)
def test_a_wrong_command_is_noticed(line: str, fault: str) -> None:
    (told,) = command_faults(f"prose\n$ {line}   # why\n")
    assert fault in told


def test_right_commands_pass() -> None:
    right = "$ headrace backfill a.csv --mapping b.toml --customer 1 | head\n#   $ make bench-worker\n$ export A=b"
    assert list(command_faults(right)) == []
    assert parse_fault(["up", "--data", "./data", "--port-base", "8080"]) is None
    assert mention_fault("headrace up --data DIR [--port-base N]") is None
    assert mention_fault("headrace reconsile") == "there is no 'reconsile'"
    assert mention_fault("headrace load --sed 1") == "no such option: --sed"


def test_links_lead_somewhere(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    text = "# Some heading, here\n[a](page.md#some-heading-here) [b](#other) [c](none.md) [d](https://example.com/x)"
    page.write_text(text, encoding="utf-8")
    told = list(link_faults(page, text))
    assert told == ["links to #other, a heading that is not there", "links to none.md, which is not there"]
    cited = list(citation_faults("see docs/how-to/operate, docs/reference/http.md and docs/nowhere.md"))
    assert cited == ["names docs/nowhere.md, which is not there"]


def test_settings_and_metrics_are_declared() -> None:
    told = list(name_faults("`HEADRACE_GRACE_S`, `HEADRACE_GRACE_H`, `headrace_open_rows`, `headrace_open_doors{x}`"))
    assert [fault.split(",")[0] for fault in told] == ["names HEADRACE_GRACE_H", "names headrace_open_doors"]
