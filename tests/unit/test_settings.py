"""Settings: precedence, origins, errors that help."""

from pathlib import Path

import pytest

from headrace.errors import ConfigurationError
from headrace.settings import DECLARED, Settings


def test_flags_win_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text('kafka = "file:1"\nredis = "redis://file"\nlog_level = "debug"\n')
    environ = {"HEADRACE_KAFKA": "environment:1", "HEADRACE_REDIS": "redis://environment"}
    settings = Settings.load({"kafka": "flag:1"}, environ, file)
    assert (settings.kafka, settings.redis, settings.log_level, settings.api_port) == (
        "flag:1",
        "redis://environment",
        "debug",
        8090,
    )
    assert settings.origin("kafka") == "flag --kafka"
    assert settings.origin("redis") == "environment HEADRACE_REDIS"
    assert settings.origin("log_level") == f"file {file}"
    assert settings.origin("api_port") == "default"


def test_a_typo_in_a_file_gets_a_suggestion(tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text('kafak = "x"\n')
    with pytest.raises(ConfigurationError, match=r"unknown setting 'kafak'.*did you mean kafka"):
        Settings.load(environ={"HEADRACE_CONFIG": str(file)})


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("EVENTS_PARTITIONS", "many", "events_partitions must be of type int, not 'many'"),
        ("API_PORT", "-1", "must not be negative"),
        ("LOG_LEVEL", "inof", "did you mean info"),
        ("KAFKA_IDEMPOTENCE", "maybe", "must be of type bool"),
    ],
)
def test_a_malformed_value_names_setting_value_and_source(name: str, value: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        Settings.load(environ={f"HEADRACE_{name}": value})
    assert f"HEADRACE_{name}" in str(caught.value)


def test_a_secret_never_stands_in_an_error() -> None:
    assert all(d.secret for d in DECLARED.values() if "password" in d.name)


def test_the_environment_of_a_child_gives_equal_settings() -> None:
    settings = Settings.load({"kafka": "a:1", "kafka_idempotence": False, "frame_interval_s": 0.5}, {})
    assert Settings.load(environ=settings.as_environment()) == settings


def test_a_written_file_gives_equal_settings(tmp_path: Path) -> None:
    settings = Settings.load(
        {"redis": 'redis://:p"\\wé@h:1/0', "kafka_idempotence": False, "frame_interval_s": 0.5}, {}
    )
    file = tmp_path / "headrace.toml"
    file.write_text(settings.as_toml(), encoding="utf-8")
    assert Settings.load(environ={"HEADRACE_CONFIG": str(file)}) == settings
