"""docker-compose.yml is a valid Compose file and names nothing that the code does not have."""

import json
import re
import subprocess
from typing import Any

import compose_spec
import pytest

from headrace.cli import VERBS
from headrace.cli.run import SERVICES
from headrace.settings import DECLARED, PREFIX, Settings
from tests.packaging import compose

ENGINES = {"kafka", "clickhouse", "control", "shard-1", "shard-2", "redis"}
OURS = {"ingest-1", "ingest-2", "streams-1", "streams-2", "sink-postgres", "sink-clickhouse", "api-1", "api-2"}


@pytest.fixture(name="file")
def _file() -> dict[str, Any]:
    return compose.load(dict.fromkeys(compose.variables(), "secret"))


def environment(service: dict[str, Any]) -> dict[str, str]:
    return {k: str(v) for k, v in service.get("environment", {}).items() if k != "PROBE_URL"}


def test_it_follows_the_compose_specification(file: dict[str, Any]) -> None:
    parsed = compose_spec.PyCompose.from_json(json.dumps(file))
    assert set(parsed.service_names()) == ENGINES | OURS | {"setup", "balancer", "cli"}
    file["services"]["kafka"]["restart"] = "sometimes"
    with pytest.raises(ValueError, match="unknown variant `sometimes`"):
        compose_spec.PyCompose.from_json(json.dumps(file))


def test_every_command_and_setting_exists(file: dict[str, Any]) -> None:
    for name in sorted(OURS | {"setup", "cli"}):
        service = file["services"][name]
        settings = Settings.load(environ=environment(service))
        assert settings.kafka == "kafka:9092"
        for variable in environment(service):
            assert variable.removeprefix(PREFIX).lower() in DECLARED, f"{name}: {variable}"
        if name in OURS:
            verb, what = service["command"]
            assert verb == "run" and what in SERVICES, name
    for line in file["services"]["setup"]["command"][0].strip().splitlines():
        program, verb, *_ = line.split()
        assert program == "headrace" and verb in VERBS, line


def test_ports_and_probes_agree_with_the_settings(file: dict[str, Any]) -> None:
    for name in sorted(OURS):
        service = file["services"][name]
        settings = Settings.load(environ=environment(service))
        port = {"ingest": settings.ingest_port, "api": settings.api_port}.get(
            name.split("-")[0], settings.metrics_port
        )
        probe = service["environment"].get("PROBE_URL", "http://127.0.0.1:9100/livez")
        assert probe == f"http://127.0.0.1:{port}/livez", name
    balancer = file["services"]["balancer"]["environment"]
    for variable in ("API_1", "API_2", "INGEST_1", "INGEST_2"):
        host, port = balancer[variable].split(":")
        settings = Settings.load(environ=environment(file["services"][host]))
        assert int(port) == (settings.api_port if variable.startswith("API") else settings.ingest_port)


def test_only_the_balancer_publishes_ports_and_on_loopback(file: dict[str, Any]) -> None:
    published = {name: s["ports"] for name, s in file["services"].items() if "ports" in s}
    assert list(published) == ["balancer"]
    assert all(port.startswith("127.0.0.1:") for port in published["balancer"])


def test_everything_is_bounded_pinned_and_gated(file: dict[str, Any]) -> None:
    for name, service in file["services"].items():
        assert "memory" in service["deploy"]["resources"]["limits"], name
        assert re.fullmatch(r"[a-z/-]+:[0-9][\w.-]*", service["image"]), name
        if name in OURS:
            assert service["depends_on"] == {"setup": {"condition": "service_completed_successfully"}}
            assert service["read_only"] and service["cap_drop"] == ["ALL"]
        elif name in ENGINES:
            assert "healthcheck" in service, name
    assert {f"{n}": c["condition"] for n, c in file["services"]["setup"]["depends_on"].items()} == dict.fromkeys(
        ENGINES, "service_healthy"
    )


def test_every_volume_of_our_services_is_a_folder_of_the_image_that_they_may_write(file: dict[str, Any]) -> None:
    """Docker gives a new volume the owner of the folder it is mounted on, and root's where the image has none."""
    lines = (compose.ROOT / "deploy/Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    image = lines.rpartition("\nFROM ")[2]
    made = re.findall(r"install -d -o headrace -g headrace -m 0700 (\S+)", image.partition("\nUSER headrace")[0])
    mounted = set()
    for name in sorted(OURS | {"setup", "cli"}):
        for volume in file["services"][name].get("volumes", []):
            source, target, *_ = volume.split(":")
            assert source in file["volumes"], f"{name} mounts {source} of the host"
            mounted.add(target)
    assert mounted == set(made)
    for target in sorted(mounted):
        key_file = file["services"]["setup"]["environment"]["HEADRACE_SIGNING_KEY_FILE"]
        assert key_file.startswith(f"{target}/"), target


def test_make_env_gives_every_variable_a_secret_of_its_own() -> None:
    script = compose.ROOT / "deploy/make-env"
    lines = subprocess.run([script], capture_output=True, text=True, check=True, timeout=10).stdout.splitlines()
    values = dict(line.split("=", 1) for line in lines)
    assert set(values) == compose.variables()
    assert len(set(values.values())) == len(values)
    assert all(len(value) == 32 for value in values.values())
