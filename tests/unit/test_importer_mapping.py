"""Mapping files and what they make of columns."""

import io
import json
from decimal import ROUND_HALF_EVEN, Decimal, localcontext

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import UsageError
from producers.importer import mapping
from producers.importer.importer import read_pieces
from producers.importer.mapping import EPOCH_UNITS, PropertyRule, TimeRule
from producers.importer.numbers import product_e6
from producers.importer.properties import encode_properties
from producers.importer.rows import Rows
from producers.importer.times import parse_times
from producers.importer.transform import Mapped, Plan, drop_before, map_rows, split
from producers.user_agent import parse_user_agent
from schemas.codec import decode_events, encode_events, event_arrow
from schemas.event import VALUE_E6_MAX

HASH = "ab" * 32
BASE = """
format = "csv"
[time]
column = "t"
[event]
name = "sold"
rules = [{ column = "kind", equals = "back", name = "returned" }, { column = "kind", matches = "^x", name = "odd" }]
[fields]
user_id = { column = "who", as = "whole_number" }
country = "country"
path = { column = "url", as = "url_path" }
referrer_domain = { column = "url", as = "url_domain" }
utm_source = { column = "url", as = "utm_source" }
currency = { constant = "EUR" }
[value]
product = "n * price * 2"
[properties]
n = { column = "n", as = "number" }
ok = { column = "ok", as = "boolean" }
who = "who"
"""
HEAD = "t,kind,who,country,url,n,price,ok\n"


def mapped(rows: str, text: str = BASE, head: str = HEAD, shift_days: int = 0, bytes_max: int = 1 << 18) -> Mapped:
    rules = mapping.parse(text.encode(), "test.toml")
    plan = Plan(7, rules, HASH, shift_days, bytes_max)
    (piece,) = read_pieces(io.BytesIO((head + rows).encode()), rules, "test.csv", 1)
    return map_rows(piece, plan, 123)


def test_a_row_becomes_one_event() -> None:
    done = mapped("2024-05-06T07:08:09Z,new,17.0,DE,https://a.example/p/q?utm_source=n%20l,3,1.25,yes\n")
    assert done.events.schema.equals(event_arrow()) and not done.refused
    (event,) = done.events.to_pylist()
    assert {name: value for name, value in event.items() if value is not None} == {
        "customer_id": 7, "message_id": "ab" * 16 + ":2", "type": "track", "name": "sold", "user_id": "17",
        "timestamp_us": 1714979289000000, "original_timestamp_us": 1714979289000000, "received_at_us": 123,
        "country": "DE", "path": "/p/q", "referrer_domain": "a.example", "utm_source": "n l", "currency": "EUR",
        "value_e6": 7_500_000, "properties": '{"n":3,"ok":true,"who":"17.0"}', "context": "{}",
        "protocol": "import", "library": "", "attempt": 0,
    }  # fmt: skip
    assert decode_events(encode_events(done.events)).events.to_pylist() == [event]


def test_rules_empty_cells_and_shift() -> None:
    done = mapped("2024-01-01 00:00:00,back,,,,1,,\n2024-01-01 00:00:01,xx,a,,,,,\n", shift_days=-2)
    events = done.events.to_pylist()
    assert [event["name"] for event in events] == ["returned", "odd"]
    assert [event["user_id"] for event in events] == [None, "a"]
    assert [event["value_e6"] for event in events] == [None, None]
    assert events[0]["timestamp_us"] == events[0]["original_timestamp_us"] - 2 * 86_400_000_000
    assert [event["properties"] for event in events] == ['{"n":1}', '{"who":"a"}']


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("yesterday,new,1,DE,,1,1,", "time_unreadable"),
        (",new,1,DE,,1,1,", "time_unreadable"),
        ("1999-12-31T23:59:59Z,new,1,DE,,1,1,", "timestamp_out_of_range"),
        ("2100-01-01T00:00:00Z,new,1,DE,,1,1,", "timestamp_out_of_range"),
        ("0001-01-01T00:00:00Z,new,1,DE,,1,1,", "timestamp_out_of_range"),
        ("2024-01-01T00:00:00Z,new,1,DE,,1,1.2.3,", "value_unreadable"),
        ("2024-01-01T00:00:00Z,new,1,DE,,NaN,1,", "value_unreadable"),
        ("2024-01-01T00:00:00Z,new,1,DE,,1,1e400,", "value_out_of_range"),
        ("2024-01-01T00:00:00Z,new,1,DE,,99999999999,99999999999,", "value_out_of_range"),
        ("2024-01-01T00:00:00Z,new," + "x" * 600 + ",DE,,1,1,", "event_too_large"),
    ],
)
def test_a_bad_row_is_refused_alone_with_its_reason(row: str, reason: str) -> None:
    good = "2024-01-01T00:00:00Z,new,1,DE,,1,1,"
    done = mapped(f"{good}\n{row}\n{good}\n", bytes_max=700)
    assert [(item.number, item.reason) for item in done.refused] == [(3, reason)]
    assert done.refused[0].raw == row.encode()
    assert [event["message_id"][-2:] for event in done.events.to_pylist()] == [":2", ":4"]


def test_equal_rows_are_two_events_and_their_ids_do_not_depend_on_pieces() -> None:
    rules = mapping.parse(BASE.encode(), "test.toml")
    row = "2024-01-01T00:00:00Z,new,1,DE,,1,1,\n"
    (piece,) = read_pieces(io.BytesIO((HEAD + row * 10 + "short\n" + row * 5).encode()), rules, "x", 1)
    plan = Plan(7, rules, HASH)
    whole = map_rows(piece, plan, 1)
    assert len(set(whole.events.column("message_id").to_pylist())) == 15
    parts = [map_rows(part, plan, 1) for part in split(piece, 4)]
    assert [i for part in parts for i in part.events.column("message_id").to_pylist()] == whole.events.column(
        "message_id"
    ).to_pylist()
    assert [item for part in parts for item in part.refused] == whole.refused
    rest = map_rows(drop_before(piece, 7), plan, 1)
    assert rest.events.column("message_id").to_pylist() == whole.events.column("message_id").to_pylist()[5:]


def test_a_referrer_is_another_site_and_has_no_www() -> None:
    text = BASE.replace('{ column = "url", as = "url_domain" }', '{ column = "who", as = "url_domain" }')
    text = text.replace('user_id = { column = "who", as = "whole_number" }\n', "")
    page = "https://www.shop.example/p"
    referrers = ["https://www.search.example/?q=x", "https://shop.example/basket", "https://[broken", ""]
    done = mapped("".join(f"2024-01-01 00:00:00,new,{each},,{page},1,1,yes\n" for each in referrers), text)
    assert done.events["referrer_domain"].to_pylist() == ["search.example", None, None, None]
    assert done.events["path"].to_pylist() == ["/p"] * 4


def test_what_an_import_reads_is_told_by_mapping_and_shift() -> None:
    rules = mapping.parse(BASE.encode(), "test.toml")
    other = mapping.parse(BASE.encode() + b"# changed\n", "test.toml")
    plans = [Plan(7, rules, HASH), Plan(7, rules, HASH, 300), Plan(7, rules, HASH, -300), Plan(7, other, HASH)]
    assert len({plan.reading for plan in plans}) == 4
    assert Plan(8, rules, HASH).reading == rules.sha256


def test_long_and_unclean_dimensions_are_bounded() -> None:
    done = mapped('2024-01-01T00:00:00Z,new,1,"' + "é" * 300 + '\u001f",,1,1,\n')
    (country,) = done.events.column("country").to_pylist()
    assert len(country.encode()) <= 255 and "~" in country and "\x1f" not in country


def test_ndjson_keeps_the_types_of_properties() -> None:
    text = """
    format = "ndjson"
    properties_from = "props"
    [time]
    column = "ts"
    format = "unix_ms"
    [event]
    column = "event"
    """
    line = {"ts": 1700000000123, "event": "e", "props": {"a": [1, 2.50, None], "b": {"c": "ü"}}}
    rows = "\n".join(
        map(json.dumps, [line, line | {"props": 3}, line | {"props": None}, {"ts": 1, "event": "e"}, {"ts": 1}])
    )
    done = mapped(rows + "\n", text, head="")
    assert [json.loads(event["properties"]) for event in done.events.to_pylist()] == [line["props"], {}]
    assert [event["timestamp_us"] for event in done.events.to_pylist()] == [1700000000123000] * 2
    assert [(item.number, item.reason) for item in done.refused] == [
        (2, "properties_not_an_object"), (4, "timestamp_out_of_range"), (5, "timestamp_out_of_range"),
    ]  # fmt: skip


DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=8)


@given(st.lists(st.lists(DECIMALS, min_size=2, max_size=2), min_size=1, max_size=20), st.integers(1, 2))
def test_products_are_exact_in_millionths(pairs: list[list[Decimal]], count: int) -> None:
    texts = [
        [format(d if i % 2 else d.quantize(Decimal("0.01")), "f") for d in p[:count]] for i, p in enumerate(pairs)
    ]
    values, bad = product_e6([pa.array([row[i] for row in texts]) for i in range(count)])
    wrong = dict(bad)
    for row, factors in enumerate(texts):
        with localcontext() as context:
            context.prec = 80
            exact = Decimal(1)
            for factor in factors:
                exact *= Decimal(factor)
            expected = int((exact * 1_000_000).quantize(Decimal(1), ROUND_HALF_EVEN))
        if abs(expected) > VALUE_E6_MAX:
            assert wrong[row] == "value_out_of_range" and values[row].as_py() is None
        else:
            assert values[row].as_py() == expected and row not in wrong


@given(st.lists(st.text(max_size=30), max_size=10))
def test_text_properties_are_valid_json_whatever_they_hold(texts: list[str]) -> None:
    kinds = ("text", "number", "boolean")
    rules = {f"k{i}": PropertyRule(column="c", as_=kind) for i, kind in enumerate(kinds)}  # type: ignore[arg-type]
    rows = Rows(np.arange(len(texts)), {"c": pa.array(texts, pa.string())}, {}, lambda i: b"", [], 1, ["c"])
    for text, encoded in zip(texts, encode_properties(rows, rules).to_pylist(), strict=True):
        value = json.loads(encoded)
        clean = "".join("\ufffd" if c < " " and c not in "\n\r\t" else c for c in text)
        assert value["k0"] == clean
        assert value["k1"] in (clean, pytest.approx(float(text) if value["k1"] != clean else 0))


def test_times() -> None:
    iso = parse_times(
        pa.array([
            "2020-01-01T00:00:00", "2020-01-01 00:00:00.5", "2020-13-01 00:00:00", None, "2020-01-01T00:00:00Z",
            "2020-01-01T00:00:00+02:00", "2020-01-01",
        ]),
        TimeRule(column="t"),
    )  # fmt: skip
    start = 1577836800000000
    assert iso.to_pylist() == [start, start + 500_000, None, None, start, start - 7_200_000_000, start]
    log = TimeRule(column="t", format="%d/%b/%Y:%H:%M:%S %z")
    assert parse_times(pa.array(["17/May/2015:10:05:03 +0200", "x"]), log).to_pylist() == [1431849903000000, None]
    berlin = TimeRule(column="t", format="%Y-%m-%d %H:%M:%S", zone="Europe/Berlin")
    both = parse_times(pa.array(["2020-10-25 02:30:00", "2020-03-29 02:30:00", "2020-07-01 12:00:00"]), berlin)
    assert both.to_pylist() == [1603585800000000, None, 1593597600000000]
    units = [parse_times(pa.array(["1600000000", None, "x"]), TimeRule(column="t", format=u)) for u in EPOCH_UNITS]
    assert [found[0].as_py() for found in units] == [1600000000 * 10**6, 1600000000 * 1000, 1600000000]
    assert all(found.null_count == 2 for found in units)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[time]", "[tme]"), "did you mean time"),
        (("user_id =", "userid ="), "did you mean 'user_id'"),
        (('as = "whole_number"', 'as = "whole_numbr"'), "did you mean whole_number"),
        (('name = "sold"', ""), "either `name` or `column`"),
        (('equals = "back"', 'equals = "back", starts_with = "b"'), "one of equals, starts_with, matches"),
        (('matches = "^x"', 'matches = "("'), "broken pattern"),
        (('column = "t"', 'column = "t"\nzone = "Mars/Base"'), "not a time zone"),
        (('column = "t"', 'column = "t"\nformat = "isoo"'), "neither iso8601"),
        (('product = "n * price * 2"', 'product = "a*b*c*d*e"'), "1 to 4 factors"),
        (('{ constant = "EUR" }', "{}"), "either `column` or `constant`"),
        (('as = "number"', 'as = "json"'), "only ndjson"),
        (('format = "csv"', 'format = "csw"'), "Invalid enum value"),
        (("[value]", "[value"), "is not TOML"),
    ],
)
def test_a_wrong_mapping_says_what_and_what_to_do(change: tuple[str, str], message: str) -> None:
    assert change[0] in BASE
    with pytest.raises(UsageError) as caught:
        mapping.parse(BASE.replace(*change).encode(), "test.toml")
    assert message in str(caught.value) and "test.toml" in str(caught.value)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(UsageError, match=r"no column 'country'.*did you mean 'county'"):
        mapped("", head=HEAD.replace("country", "county") + "1,2,3,4,5,6,7,8\n")


def test_bundled_mappings_parse() -> None:
    assert mapping.bundled() == ("apache_logs", "online_retail", "retentioneering")
    assert all(mapping.load(name).wanted().text for name in mapping.bundled())


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/120 Safari/537.36 Edg/120.0",
         ("Edge", "Windows", "desktop")),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 Mobile/1 Safari/604",
         ("Safari", "iOS", "mobile")),
        ("Mozilla/5.0 (iPad; CPU OS 17_0 like Mac OS X) AppleWebKit/605.1.15 Version/17.0 Safari/604",
         ("Safari", "iOS", "tablet")),
        ("Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 Chrome/124 Mobile Safari/537.36",
         ("Chrome", "Android", "mobile")),
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", (None, None, "bot")),
        ("", (None, None, None)),
    ],
)  # fmt: skip
def test_user_agents(header: str, told: tuple[str | None, ...]) -> None:
    found = parse_user_agent(header)
    assert (found.browser, found.os, found.device) == told
