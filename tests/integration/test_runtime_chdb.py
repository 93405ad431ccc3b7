"""The embedded ClickHouse answers clickhouse-connect, sync and async, and plain HTTP as a server would."""

import asyncio
import datetime as dt
import gzip
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import clickhouse_connect
import lz4.frame
import pyarrow as pa
import pytest
from backports import zstd
from clickhouse_connect.driver.exceptions import DatabaseError

from headrace.clickhouse import ClickHouseAddress
from headrace.runtime.chdb_engine import USER, ChdbEngine
from headrace.runtime.parts import Part
from headrace.runtime.ports import LOOPBACK, free_ports
from headrace.runtime.process import Process

MOMENT = dt.datetime(2020, 2, 29, 12, 30, 1, 250_000)
TABLE = "CREATE TABLE t (a UInt64, b String, at DateTime64(6, 'UTC'), j JSON) ENGINE = MergeTree ORDER BY a"
ARROW = pa.table(
    {
        "a": pa.array(range(10_000), pa.uint64()),
        "b": ["é'\\\n"] * 10_000,
        "at": pa.array([1_000_000] * 10_000, pa.timestamp("us", tz="UTC")),
        "j": ['{"k": {"n": 1}}'] * 10_000,
    }
)


@pytest.fixture
def address(clickhouse_url: str) -> ClickHouseAddress:
    return ClickHouseAddress.parse(clickhouse_url)


@pytest.fixture(params=["lz4", "zstd", "gzip", False])
def client(request: pytest.FixtureRequest, address: ClickHouseAddress) -> Iterator[Any]:
    client = clickhouse_connect.get_client(**address.client_arguments(), compress=request.param)
    yield client
    client.close()


def test_the_sync_client_works_with_every_compression(client: Any) -> None:
    client.command(TABLE)
    rows = [[1, "it's\t\\", MOMENT, {"k": 1}], [2, "", MOMENT, {}]]
    summary = client.insert("t", rows, column_names=["a", "b", "at", "j"])
    assert summary.written_rows == 2
    stored = client.query("SELECT a, b, at, j FROM t ORDER BY a").result_rows
    assert stored == [(1, "it's\t\\", MOMENT, {"k": 1}), (2, "", MOMENT, {})]

    client.command("TRUNCATE TABLE t")
    assert client.insert_arrow("t", ARROW).written_rows == 10_000
    back = client.query_arrow("SELECT a, b, at FROM t ORDER BY a", use_strings=True)
    assert back.to_pylist() == ARROW.select(["a", "b", "at"]).to_pylist()
    assert client.command("SELECT sum(j.k.n::Int64) FROM t") == 10_000


def test_parameters_bind_values_that_would_break_text(client: Any) -> None:
    nasty = "a'; DROP TABLE t; --\t\n\\ {x:String} é\u2028"
    values = {"s": nasty, "list": ["x'y", nasty], "n": 2**63, "at": MOMENT}
    row = client.query(
        "SELECT {s:String}, {list:Array(String)}, {n:UInt64}, {at:DateTime64(6)}", parameters=values
    ).first_row
    assert row[:3] == (nasty, ["x'y", nasty], 2**63)
    assert row[3].replace(tzinfo=None) == MOMENT


def test_many_parameters_come_as_a_form(client: Any) -> None:
    values = [f"it's\r\n--value {number} é" for number in range(400)]
    parameters = {f"p{number}": value for number, value in enumerate(values)}
    text = ", ".join(f"{{p{number}:String}}" for number in range(400))
    assert client.query(f"SELECT [{text}]", parameters=parameters).first_row[0] == values


def test_settings_hold_for_one_query_alone(client: Any) -> None:
    asked = "SELECT getSetting('max_block_size')"
    before = client.command(asked)
    assert client.command(asked, settings={"max_block_size": 4321}) == 4321
    assert client.command(asked) == before
    with pytest.raises(DatabaseError) as failure:
        client.query("SELECT count() FROM numbers(1000000000000)", settings={"max_execution_time": 0.2})
    assert failure.value.code == 159


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("SELECT * FROM nowhere", 60),
        ("SELEC 1", 62),
        ("SELECT 1; SELECT 2", 62),
        ("SELECT * FROM nowhere.t", 81),
        ("SELECT * FROM file('/etc/passwd', 'LineAsString')", 497),
        ("SELECT * FROM url ('http://127.0.0.1:1/', 'LineAsString')", 497),
        ("SELECT 1 INTO OUTFILE '/tmp/headrace-must-not-exist'", 497),
        ("INSERT INTO t FROM INFILE '/etc/passwd' FORMAT LineAsString", 497),
    ],
)
def test_errors_carry_clickhouses_code(address: ClickHouseAddress, statement: str, code: int) -> None:
    client = clickhouse_connect.get_client(**address.client_arguments())
    with pytest.raises(DatabaseError) as failure:
        client.raw_query(statement)
    assert failure.value.code == code
    assert client.command("SELECT 1") == 1
    assert not Path("/tmp/headrace-must-not-exist").exists()


def test_the_async_client_runs_queries_side_by_side(address: ClickHouseAddress) -> None:
    async def everything() -> None:
        client = await clickhouse_connect.get_async_client(**address.client_arguments())
        await client.command(TABLE)
        assert (await client.insert_arrow("t", ARROW)).written_rows == 10_000
        await client.insert("t", [[20_000, "x", MOMENT, {}]], column_names=["a", "b", "at", "j"])
        query = "SELECT count() FROM t WHERE a >= {n:UInt64}"
        answers = await asyncio.gather(*(client.query(query, parameters={"n": n}) for n in range(40)))
        assert [answer.first_row[0] for answer in answers] == [10_001 - n for n in range(40)]
        with pytest.raises(DatabaseError, match="UNKNOWN_TABLE"):
            await client.query("SELECT * FROM nowhere")
        await client.close()

    asyncio.run(everything())


def test_concurrent_inserts_and_queries_lose_nothing(address: ClickHouseAddress) -> None:
    arguments = address.client_arguments()
    clickhouse_connect.get_client(**arguments).command(TABLE)

    def insert(number: int) -> None:
        client = clickhouse_connect.get_client(**arguments)
        for start in range(0, 500, 50):
            rows = [[number * 500 + start + i, "b", MOMENT, {"n": i}] for i in range(50)]
            client.insert("t", rows, column_names=["a", "b", "at", "j"])
            client.command("SELECT count() FROM t")

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(insert, range(6)))
    client = clickhouse_connect.get_client(**arguments)
    assert client.query("SELECT count(), uniqExact(a) FROM t").first_row == (3000, 3000)


def test_acknowledged_rows_survive_kill_9(tmp_path: Path, start_part: Callable[[Part], Process]) -> None:
    engine = ChdbEngine(folder=tmp_path / "ch", port=free_ports(1)[0], password="secret", databases=("headrace",))
    process = start_part(engine)
    arguments = ClickHouseAddress.parse(engine.url("headrace")).client_arguments()
    client = clickhouse_connect.get_client(**arguments)
    client.command(TABLE)
    for start in range(0, 1000, 100):
        client.insert_arrow("t", ARROW.slice(start, 100))
    process.kill()
    start_part(engine)
    assert clickhouse_connect.get_client(**arguments).command("SELECT count() FROM t") == 1000


class Plain:
    """Requests by hand."""

    def __init__(self, address: ClickHouseAddress) -> None:
        self.port = address.port
        self.headers = {"X-ClickHouse-User": address.user, "X-ClickHouse-Key": address.password}
        self.database = address.database

    def post(
        self, body: bytes | Iterator[bytes], headers: dict[str, str] | None = None, **arguments: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=20)
        url = "/?" + urlencode({"database": self.database} | arguments)
        connection.request("POST", url, body, self.headers | (headers or {}))
        answer = connection.getresponse()
        result = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        connection.close()
        return result


@pytest.fixture
def plain(address: ClickHouseAddress) -> Plain:
    plain = Plain(address)
    assert plain.post(b"CREATE TABLE n (a Int64) ENGINE = MergeTree ORDER BY a")[0] == 200
    return plain


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("lz4", lz4.frame.compress),
        ("zstd", zstd.compress),
        ("identity", bytes),
    ],
)
def test_bodies_in_chunks_and_in_several_compressed_members(
    plain: Plain, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    rows = b"".join(b'{"a": %d}\n' % number for number in range(5000))
    members = [b"INSERT INTO n FORMAT JSONEachRow\n", rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    body = b"".join(compress(member) for member in members)
    pieces = iter([body[:1], body[1:7], body[7:]])

    status, headers, answer = plain.post(pieces, {"Content-Encoding": encoding})

    assert (status, answer) == (200, b"")
    assert json.loads(headers["x-clickhouse-summary"])["written_rows"] == "5000"
    assert plain.post(b"SELECT count(), sum(a) FROM n")[2] == b"5000\t12497500\n"


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", gzip.compress(b"INSERT INTO n FORMAT TSV\n1\n2\n", mtime=0)[:-9], 400),
        ("zstd", b"not zstd at all", 400),
        ("lz4", lz4.frame.compress(b"INSERT INTO n FORMAT TSV\n1\n" * 99)[:-7], 400),
        ("compress", b"x", 415),
    ],
)
def test_broken_bodies_are_refused_and_store_nothing(plain: Plain, encoding: str, body: bytes, status: int) -> None:
    assert plain.post(body, {"Content-Encoding": encoding})[0] == status
    assert plain.post(b"SELECT count() FROM n")[2] == b"0\n"


def test_statement_in_the_url_and_rows_in_the_body(plain: Plain) -> None:
    assert plain.post(b"1\n2\n", query="INSERT INTO n FORMAT TSV")[0] == 200
    assert plain.post(b"", query="SELECT a + {x:Int64} FROM n ORDER BY a", param_x="10")[2] == b"11\n12\n"
    assert plain.post(b"FORMAT JSONEachRow", query="SELECT sum(a) AS s FROM n")[2] == b'{"s":3}\n'


def test_bad_rows_are_named_and_the_connection_goes_on(plain: Plain, address: ClickHouseAddress) -> None:
    connection = http.client.HTTPConnection(LOOPBACK, plain.port, timeout=20)
    url = f"/?database={address.database}"
    connection.request("POST", url, b"INSERT INTO n FORMAT TSV\n" + b"what\n" * 200_000, plain.headers)
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("X-ClickHouse-Exception-Code")) == (400, "27")
    assert b"Code: 27" in answer.read()
    connection.request("POST", url, b"SELECT 1", plain.headers)
    assert connection.getresponse().read() == b"1\n"


def test_get_reads_only(plain: Plain, address: ClickHouseAddress) -> None:
    def get(query: str) -> int:
        connection = http.client.HTTPConnection(LOOPBACK, plain.port, timeout=20)
        connection.request("GET", f"/?database={address.database}&query={quote(query)}", headers=plain.headers)
        return connection.getresponse().status

    assert get("SELECT count() FROM n") == 200
    assert get("INSERT INTO n VALUES (1)") != 200
    assert get("DROP TABLE n") != 200
    assert plain.post(b"SELECT count() FROM n")[2] == b"0\n"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-ClickHouse-User": USER},
        {"X-ClickHouse-User": USER, "X-ClickHouse-Key": "wrong"},
        {"Authorization": "Basic aGVhZHJhY2U6d3Jvbmc="},
        {"Authorization": "Basic !!"},
        {"Authorization": "Bearer x"},
    ],
)
def test_nobody_gets_in_without_the_password(chdb_engine: ChdbEngine, headers: dict[str, str]) -> None:
    connection = http.client.HTTPConnection(LOOPBACK, chdb_engine.port, timeout=20)
    connection.request("POST", "/", b"SELECT 1", headers)
    answer = connection.getresponse()
    assert answer.status == 403
    assert answer.getheader("X-ClickHouse-Exception-Code") == "516"
    assert answer.read() != b"1\n"


def test_probes_need_no_password_and_it_listens_on_loopback_alone(chdb_engine: ChdbEngine) -> None:
    for path in ("/ping", "/replicas_status"):
        connection = http.client.HTTPConnection(LOOPBACK, chdb_engine.port, timeout=20)
        connection.request("GET", path)
        assert connection.getresponse().read() == b"Ok.\n"
    with socket.socket() as other, pytest.raises(OSError):
        other.settimeout(1)
        other.connect((socket.gethostbyname(socket.gethostname()), chdb_engine.port))
        if other.getpeername()[0].startswith("127."):
            raise OSError("the host's own name is a loopback address here: nothing to ask")


def test_more_queries_than_places_wait_their_turn(address: ClickHouseAddress) -> None:
    plain = Plain(address)
    answers: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: answers.append(plain.post(b"SELECT sleep(0.2)")[2])) for _ in range(40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [b"0\n"] * 40
