"""Ports, Kafka's installation and the doctor's checks, on made-up machines."""

import json
import shutil
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from headrace.cli.doctor import command as doctor
from headrace.errors import ConfigurationError, FatalError, UsageError
from headrace.runtime import checks, kafka_install
from headrace.runtime.kafka_engine import has_broker, new_cluster_id
from headrace.runtime.ports import DRAWN_FROM, LOOPBACK, accepts, free_ports, is_free, ports_from
from headrace.runtime.postgres_engine import passable
from headrace.runtime.system import PORT_NAMES, choose_ports, locked
from headrace.settings import Settings


def test_drawn_ports_are_free_different_and_out_of_reach_of_outgoing_connections() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert all(is_free(port) and port in DRAWN_FROM for port in ports)


def test_a_port_in_use_is_named() -> None:
    [port] = free_ports(1)
    with socket.socket() as taken:
        taken.bind((LOOPBACK, port))
        taken.listen()
        assert accepts(port)
        assert not is_free(port)
        with pytest.raises(UsageError, match=rf"port {port} on 127\.0\.0\.1 is in use"):
            ports_from(port, 1)
    assert ports_from(port, 1) == [port]


@pytest.mark.parametrize("base", [0, 80, 65535, -1])
def test_an_impossible_port_base_is_refused(base: int) -> None:
    with pytest.raises(UsageError, match="leaves no room"):
        ports_from(base, len(PORT_NAMES))


def test_a_folder_keeps_its_ports_while_they_are_free(tmp_path: Path) -> None:
    first = choose_ports(tmp_path, None)
    assert set(first) == set(PORT_NAMES)
    assert choose_ports(tmp_path, None) == first
    with socket.socket() as taken:
        taken.bind((LOOPBACK, first["kafka"]))
        taken.listen()
        other = choose_ports(tmp_path, None)
    assert other["kafka"] != first["kafka"]
    (tmp_path / "ports.json").write_text("not json")
    assert set(choose_ports(tmp_path, None)) == set(PORT_NAMES)


def test_a_folder_serves_one_system_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(UsageError, match="is in use by process"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_java_and_maven_that_are_missing_are_named_with_their_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(ConfigurationError, match=r"no `java` here.*apt-get install default-jre-headless"):
        kafka_install.find_java()
    with pytest.raises(ConfigurationError, match=r"no `mvn` here.*apt-get install maven"):
        kafka_install.find_maven()


def test_an_old_java_is_refused_with_its_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_302\"' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(ConfigurationError, match=r"needs Java 17 or newer; .*/java is version 8"):
        kafka_install.find_java()


def test_jars_that_are_changed_missing_or_surplus_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listed = tmp_path / "jars.sha256"
    jars = tmp_path / "jars"
    jars.mkdir()
    for name in ("same.jar", "changed.jar", "surplus.jar"):
        (jars / name).write_bytes(b"")
    (jars / "changed.jar").write_bytes(b"x")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    listed.write_text("".join(f"{empty}  {name}\n" for name in ("same.jar", "changed.jar", "missing.jar")))
    monkeypatch.setattr(kafka_install, "CHECKSUMS", listed)
    assert kafka_install.wrong_jars(jars) == ["changed.jar", "missing.jar", "surplus.jar"]


def test_a_failed_installation_leaves_nothing_half_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    maven = tmp_path / "bin" / "mvn"
    maven.parent.mkdir()
    maven.write_text("#!/bin/sh\necho '[ERROR] no such artifact'; exit 1\n")
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", f"{maven.parent}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(kafka_install.InstallFailedError, match="no such artifact"):
        kafka_install.installed_jars()
    assert [each.name for each in (tmp_path / "cache" / "headrace").iterdir()] == ["kafka-4.3.1.lock"]


def test_cluster_ids_never_look_like_an_option() -> None:
    ids = {new_cluster_id() for _ in range(500)}
    assert len(ids) == 500
    assert all(len(each) == 22 and not each.startswith("-") for each in ids)


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\x00\x00\x08\x00\x00\x00\x01" + bytes(4)]
)
def test_what_is_no_broker_is_not_taken_for_one(answer: bytes) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        import threading

        def serve() -> None:
            connection, _ = server.accept()
            connection.recv(1024)
            connection.sendall(answer)
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        assert not has_broker(server.getsockname()[1])
        thread.join(5)


def test_a_closed_folder_is_seen(tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    for each in (inside, *inside.parents):
        if tmp_path in (each, *each.parents):
            each.chmod(0o755)
    expected = passable(tmp_path)
    assert passable(inside) is expected
    (tmp_path / "a").chmod(0o700)
    assert not passable(inside)


def test_the_doctor_prints_evidence_and_fix_and_says_unhealthy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    result = CliRunner().invoke(doctor, ["--data", str(tmp_path), "--json"], standalone_mode=False)
    assert result.return_value == 3
    by_id = {check["id"]: check for check in json.loads(result.stdout)}
    assert by_id["java"]["status"] == "failed"
    assert "default-jre-headless" in by_id["java"]["fix"]
    assert all(check["evidence"] and (check["fix"] or check["status"] == "ok") for check in by_id.values())

    text = CliRunner().invoke(doctor, ["--data", str(tmp_path)], standalone_mode=False).stdout
    assert "java" in text and "apt-get install default-jre-headless" in text


def test_a_busy_port_and_a_small_disk_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        busy = server.getsockname()[1]
        check = checks.port("api", busy)
    assert check.status == "warning" and str(busy) in check.evidence and "HEADRACE_API_PORT" in check.fix

    small = shutil.disk_usage(tmp_path)._replace(free=100 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: small)
    check = checks.disk(tmp_path / "not" / "yet", Settings())
    assert check.status == "failed" and "100 MiB" in check.evidence
    with pytest.raises(ConfigurationError, match=r"disk: 100 MiB .* free at .* at least 512 MiB .* are needed"):
        checks.refuse_unfit(tmp_path, Settings())


def test_a_containers_memory_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert checks.cgroup_memory_left(tmp_path) == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert checks.cgroup_memory_left(tmp_path) > 1 << 60


def test_a_machine_without_free_ports_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        taken = server.getsockname()[1]
        monkeypatch.setattr("headrace.runtime.ports.DRAWN_FROM", range(taken, taken + 1))
        with pytest.raises(FatalError, match="found only 0 of 1 free ports"):
            free_ports(1)
