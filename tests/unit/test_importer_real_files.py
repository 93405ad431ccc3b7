"""The bundled mappings on real files, against counts made by other means."""

import csv
import gzip
import re
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from producers.importer import mapping
from producers.importer.importer import CountingFile, hash_file, read_pieces
from producers.importer.position import FIRST_ROW
from producers.importer.rows import Refused
from producers.importer.transform import Plan, map_rows
from tests.data_totals import ACCESS_LOG, CLICKSTREAM


def imported(path: Path, name: str) -> tuple[pl.DataFrame, list[Refused]]:
    rules = mapping.load(name)
    plan, parts, refused = Plan(1, rules, hash_file(path)), [], list[Refused]()
    with CountingFile(path) as file:
        for piece in read_pieces(file, rules, path.name, FIRST_ROW):
            mapped = map_rows(piece, plan, 0)
            parts.append(pl.DataFrame(pl.from_arrow(mapped.events)))
            refused += mapped.refused
    return pl.concat(parts), refused


def test_an_access_log() -> None:
    events, refused = imported(ACCESS_LOG, "apache_logs")
    lines = gzip.decompress(ACCESS_LOG.read_bytes()).decode().splitlines()
    assert [(item.number, item.reason) for item in refused] == [(8899, "not_a_log_line")]
    assert refused[0].raw.decode() == lines[8898], "the one line whose user agent has no closing quote"
    good = [line for i, line in enumerate(lines, 1) if i != 8899]
    assert len(events) == len(good) == 9_999
    assert events["anonymous_id"].n_unique() == len({line.split()[0] for line in good})
    paths = Counter(m[1] for line in good if (m := re.search(r'"[A-Z]+ ([^ ?#"]*)', line)))
    mine = dict(events.group_by("path").len().iter_rows())
    assert sum(mine.values()) == sum(paths.values())
    assert mine["/favicon.ico"] == paths["/favicon.ico"] and len(mine) == pytest.approx(len(paths), abs=30)
    failed = sum(re.search(r'" [45]\d\d ', line) is not None for line in good)
    assert events.filter(pl.col("name") == "request_failed").height == failed
    assert events["timestamp_us"].min() == 1_431_857_100_000_000 and not events["user_id"].drop_nulls().len()
    assert set(events["device"].unique()) >= {"desktop", "mobile", "bot"}


def test_a_clickstream() -> None:
    events, refused = imported(CLICKSTREAM, "retentioneering")
    with gzip.open(CLICKSTREAM, "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert not refused and len(events) == len(rows) == 31_106
    assert dict(events.group_by("name").len().iter_rows()) == Counter(row["event"] for row in rows)
    assert dict(events.group_by("device").len().iter_rows()) == Counter(row["platform"] for row in rows)
    assert events["session_id"].to_list() == [row["session_id"] for row in rows]
    assert events["user_id"].n_unique() == len({row["user_id"] for row in rows})
