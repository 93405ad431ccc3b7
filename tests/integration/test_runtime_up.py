"""`headrace up` keeps the outside contract: what it writes, what answers, what survives, how it ends."""

import base64
import json
import os
import signal
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from headrace.runtime.ports import free_ports

READY_TIMEOUT_S = 120.0
FIELDS = {
    "ingest_url",
    "api_url",
    "dashboard_url",
    "kafka",
    "events_partitions",
    "clickhouse",
    "postgres_control",
    "shards",
    "redis",
    "customers",
    "admin_token",
    "pids",
}
PARTS = {
    "kafka",
    "postgres-control",
    "postgres-shard-1",
    "postgres-shard-2",
    "clickhouse",
    "redis",
    "ingest",
    "streams",
    "sink",
    "api",
}


class Up:
    """One run of the command."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.data = folder / "data"
        self.ready_file = folder / "ready.json"
        self.output = folder / "output.txt"
        command = [sys.executable, "-m", "headrace", "up", "--data", str(self.data), *arguments]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "--ready-file", str(self.ready_file)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
                | {"HEADRACE_EVENTS_PARTITIONS": "4"},
            )

    @property
    def ready(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.ready_file.read_text())
        return loaded

    def wait_ready(self) -> dict[str, Any]:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self.ready_file.exists():
            assert self.process.poll() is None and time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.05)
        return self.ready

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()


def ask(url: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    request = urllib.request.Request(
        url, data=None if body is None else json.dumps(body).encode(), headers=headers or {}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def send(ready: dict[str, Any], customer: dict[str, Any], count: int) -> None:
    """Post `count` fresh events; they are acknowledged when this returns."""
    stamp = time.time_ns()
    batch = [
        {"type": "track", "event": "seen", "userId": "u", "messageId": f"{stamp}-{number}"} for number in range(count)
    ]
    basic = base64.b64encode(f"{customer['write_key']}:".encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {basic}"}
    deadline = time.monotonic() + 60
    while True:
        try:
            status, answer = ask(f"{ready['ingest_url']}/v1/batch", {"batch": batch}, headers)
        except OSError as error:
            status, answer = 0, error
        if status == 200:
            return
        assert time.monotonic() < deadline, f"the gateway takes nothing: {answer!r}"
        time.sleep(0.2)


def total(ready: dict[str, Any], customer: dict[str, Any]) -> int:
    """Events of the last hour, as the API tells them; -1 when it does not answer."""
    minute = int(time.time()) // 60 * 60
    start, end = (time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(minute + shift)) for shift in (-3600, 600))
    query = {"kind": "totals", "range": {"from": start, "to": end}}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {customer['read_token']}"}
    try:
        status, answer = ask(f"{ready['api_url']}/v1/query", query, headers)
    except OSError:
        return -1
    return int(answer["rows"][0][0]) if status == 200 else -1


def wait_total(ready: dict[str, Any], customer: dict[str, Any], expected: int) -> None:
    deadline = time.monotonic() + 60
    while (seen := total(ready, customer)) != expected:
        assert time.monotonic() < deadline, f"customer {customer['customer_id']} has {seen} events, not {expected}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    up = Up(tmp_path_factory.mktemp("up"))
    up.wait_ready()
    yield up
    up.stop()


def test_the_ready_file_says_all_and_only_to_us(up: Up) -> None:
    ready = up.ready
    assert ready.keys() == FIELDS
    assert ready["pids"].keys() == PARTS
    assert all(psutil.pid_exists(pid) for pid in ready["pids"].values())
    for path in (up.ready_file, up.data / "credentials.json", up.data / "signing-key.pem"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(up.data.stat().st_mode) == 0o700
    kept = json.loads((up.data / "credentials.json").read_text())
    assert [(c["write_key"], c["read_token"]) for c in kept["customers"]] == [
        (c["write_key"], c["read_token"]) for c in ready["customers"]
    ]
    assert kept["admin_token"] == ready["admin_token"]


def test_no_secret_is_printed_or_passed_as_an_argument(up: Up) -> None:
    kept = json.loads((up.data / "credentials.json").read_text())
    secrets = [value for name, value in kept.items() if name.endswith(("password", "token"))]
    secrets += [customer[name] for customer in kept["customers"] for name in ("write_key", "read_token")]
    told = up.output.read_text() + "".join(log.read_text(errors="replace") for log in up.data.rglob("*.log"))
    told += " ".join(" ".join(psutil.Process(pid).cmdline()) for pid in up.ready["pids"].values())
    assert len(secrets) == 9
    assert not [secret[:6] for secret in secrets if secret in told]


def test_everything_listens_on_loopback_alone(up: Up) -> None:
    for name, pid in up.ready["pids"].items():
        listening = [
            each for each in psutil.Process(pid).net_connections("inet") if each.status == psutil.CONN_LISTEN
        ]
        assert listening, name
        assert {each.laddr[0] for each in listening} <= {"127.0.0.1", "::ffff:127.0.0.1"}, name


def test_the_customers_lie_on_different_shards_and_see_their_own_events(up: Up) -> None:
    ready = up.ready
    first, second = ready["customers"]
    before = total(ready, first), total(ready, second)
    send(ready, first, 30)
    send(ready, second, 20)
    wait_total(ready, first, before[0] + 30)
    wait_total(ready, second, before[1] + 20)
    homes = []
    for shard in ready["shards"]:
        with psycopg.connect(shard["dsn"]) as connection:
            homes.append({row[0] for row in connection.execute("SELECT DISTINCT customer_id FROM rollup_rows")})
    assert homes == [{first["customer_id"]}, {second["customer_id"]}]


def test_probes_and_documents_answer(up: Up) -> None:
    for url in (up.ready["ingest_url"], up.ready["api_url"]):
        assert ask(f"{url}/livez")[0] == 200
        assert ask(f"{url}/readyz")[0] == 200
        assert ask(f"{url}/openapi.json")[1]["openapi"].startswith("3.")
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
            assert b"headrace_" in answer.read()


def test_the_printed_link_signs_in_once(up: Up) -> None:
    line = next(line for line in up.output.read_text().splitlines() if line.startswith("dashboard"))
    code = line.split("#code=")[1]
    headers = {"Content-Type": "application/json", "Origin": up.ready["api_url"]}
    url = f"{up.ready['api_url']}/v1/session"
    assert ask(url, {"code": code}, headers)[0] in (200, 201, 204)
    assert ask(url, {"code": code}, headers)[0] in (400, 401, 403)


def test_a_second_system_on_the_folder_is_refused(up: Up) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "headrace", "up", "--data", str(up.data)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 2
    assert f"is in use by process {up.process.pid}" in second.stderr


@pytest.mark.parametrize("name", sorted(PARTS))
def test_any_child_that_is_killed_comes_back_and_no_event_is_lost(up: Up, name: str) -> None:
    ready = up.ready
    customer = ready["customers"][0]
    before = total(ready, customer)
    deadline = time.monotonic() + 60
    while before < 0:
        assert time.monotonic() < deadline
        before = total(ready, customer)
    send(ready, customer, 10)
    old = ready["pids"][name]
    os.kill(old, signal.SIGKILL)
    while up.ready["pids"][name] == old:
        assert time.monotonic() < deadline, f"{name} was not restarted"
        time.sleep(0.05)
    assert {other for other, pid in up.ready["pids"].items() if pid != ready["pids"][other]} == {name}
    send(ready, customer, 10)
    wait_total(ready, customer, before + 20)
    assert f'"part": "{name}", "pid": {old}, "how": "was killed by SIGKILL"' in up.output.read_text()


def test_stop_leaves_nothing_and_a_restart_has_everything(tmp_path: Path) -> None:
    first = Up(tmp_path, "--port-base", str(base := consecutive_ports()))
    ready = first.wait_ready()
    assert ready["ingest_url"].endswith(f":{base}")
    customer = ready["customers"][0]
    send(ready, customer, 50)
    assert first.stop(signal.SIGINT) == 0
    assert not first.ready_file.exists()
    assert not [pid for pid in ready["pids"].values() if psutil.pid_exists(pid)]

    second = Up(tmp_path)
    again = second.wait_ready()
    try:
        assert again["customers"] == ready["customers"]
        assert again["admin_token"] == ready["admin_token"]
        wait_total(again, customer, 50)
    finally:
        second.process.kill()  # the supervisor itself: its children go with it
        second.process.wait()
    deadline = time.monotonic() + 20
    while left := [name for name, pid in again["pids"].items() if running(pid)]:
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.05)


def consecutive_ports() -> int:
    """A base from which twelve ports are free now."""
    return free_ports(1)[0] // 20 * 20


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_port_in_use_stops_it_before_anything_starts(up: Up, tmp_path: Path) -> None:
    port = int(up.ready["ingest_url"].rsplit(":", 1)[1])
    refused = subprocess.run(
        [sys.executable, "-m", "headrace", "up", "--data", str(tmp_path / "d"), "--port-base", str(port)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 2
    assert f"port {port}" in refused.stderr and "is in use" in refused.stderr


def test_no_java_is_said_with_the_package_to_install(tmp_path: Path) -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "headrace", "up", "--data", str(tmp_path / "d")],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(Path.home() / ".cache")},
        check=False,
    )
    assert refused.returncode == 78
    assert "default-jre-headless" in refused.stderr
    assert "Traceback" not in refused.stderr
