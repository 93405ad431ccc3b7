"""`headrace load` finds the gateway and its write keys by itself, and never repeats an earlier run unasked."""

import json
from pathlib import Path

import click
import pytest

from headrace.cli.load import command, gateway
from headrace.errors import ConfigurationError, UsageError
from headrace.runtime import credentials
from headrace.runtime.credentials import Credentials, CustomerSecrets
from headrace.settings import Settings


def folder_of_up(folder: Path) -> Settings:
    """What `headrace up` leaves in its data folder, as HEADRACE_CONFIG would load it."""
    customers = tuple(CustomerSecrets(i, f"customer {i}", f"wk_{i}", "token", 0) for i in (1, 7))
    credentials.save(folder, Credentials("a", "b", "c", "d", "e", customers))
    written = Settings.load({"data_dir": str(folder), "ingest_port": 18080}, environ={}).as_toml()
    config = folder / "headrace.toml"
    config.write_text(written, encoding="utf-8")
    return Settings.load(environ={"HEADRACE_CONFIG": str(config)})


def test_the_keys_of_an_up_are_found_by_its_configuration(tmp_path: Path) -> None:
    assert gateway(folder_of_up(tmp_path), None) == ("http://127.0.0.1:18080", {1: "wk_1", 7: "wk_7"})


def test_a_ready_file_wins(tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    customers = [{"customer_id": 3, "write_key": "wk_3"}]
    ready.write_text(json.dumps({"ingest_url": "http://127.0.0.1:1", "customers": customers}), encoding="utf-8")
    assert gateway(folder_of_up(tmp_path), ready) == ("http://127.0.0.1:1", {3: "wk_3"})
    ready.write_text("[]", encoding="utf-8")
    with pytest.raises(UsageError, match="no ready file"):
        gateway(folder_of_up(tmp_path), ready)


def test_without_keys_it_says_where_they_come_from(tmp_path: Path) -> None:
    for settings in (Settings.load(environ={}), Settings.load({"data_dir": str(tmp_path)}, environ={})):
        with pytest.raises(UsageError, match=r"needs write keys.*HEADRACE_CONFIG"):
            gateway(settings, None)
    assert list(tmp_path.iterdir()) == [], "looking makes no credentials"


def test_keys_that_others_can_read_are_refused(tmp_path: Path) -> None:
    settings = folder_of_up(tmp_path)
    (tmp_path / credentials.FILE_NAME).chmod(0o644)
    with pytest.raises(ConfigurationError, match="can be read by others"):
        gateway(settings, None)


def test_the_seed_is_drawn_unless_given() -> None:
    assert command.make_context("load", []).params["seed"] is None
    assert command.make_context("load", ["--seed", "7"]).params["seed"] == 7
    with pytest.raises(click.UsageError):
        command.make_context("load", ["--seed", "x"])
