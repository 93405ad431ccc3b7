"""`headrace token`: keys are retired by a verb, and expired tokens do not pile up."""

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from api.auth.keys import ensure_signing_key
from api.auth.tokens import EXPIRED_KEPT_S
from headrace.cli.token import command
from headrace.errors import ConfigurationError
from headrace.migrations import migrate
from headrace.settings import Settings
from headrace.shards.address import connect_control
from headrace.shards.customers import create_customer
from tests.integration.api_world import settings_with_key
from tests.integration.conftest import Databases, MakeSettings


@pytest.fixture
def settings(make_settings: MakeSettings, postgres: Databases, tmp_path: Path) -> Settings:
    found = settings_with_key(make_settings("postgres"), tmp_path)
    migrate(found, shards={"shard-1": postgres.shards[0]})
    return found


def headrace_token(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, env=settings.as_environment(), standalone_mode=False)


def test_a_retired_key_signs_nothing_more(settings: Settings) -> None:
    key = ensure_signing_key(settings)
    assert headrace_token(settings, "retire-key", "no-such-key", "--yes").return_value == 1
    assert headrace_token(settings, "retire-key", key.kid, "--yes").return_value == 0
    with connect_control(settings) as control:
        row = control.execute("SELECT extract(epoch FROM retired_at)::float8 FROM signing_keys").fetchone()
    assert row is not None
    assert abs(row[0] - time.time()) < 60
    assert headrace_token(settings, "retire-key", key.kid, "--yes").return_value == 1, "once only"
    with pytest.raises(ConfigurationError, match="was retired"):
        ensure_signing_key(settings)
    Path(settings.signing_key_file).rename(settings.signing_key_file + ".old")
    assert ensure_signing_key(settings).kid != key.kid


def test_tokens_that_expired_are_deleted_when_one_is_made(settings: Settings) -> None:
    with connect_control(settings) as control:
        customer = create_customer(control, "a customer").customer_id
        for name, ago_s in (("long ago", EXPIRED_KEPT_S + 60), ("an hour ago", 3600), ("not yet", -3600)):
            control.execute(
                "INSERT INTO api_tokens (jti, customer_id, scope, expires_at)"
                " VALUES (%s, %s, 'read', now() - make_interval(secs => %s))",
                (name, customer, ago_s),
            )
    made = headrace_token(settings, "create", "--customer", str(customer), "--json")
    assert made.exception is None
    listed = json.loads(headrace_token(settings, "list", "--json").output)
    states = {token["token_id"]: token["state"] for token in listed}
    token_id = json.loads(made.output.splitlines()[0])["token_id"]
    assert states == {"an hour ago": "expired", "not yet": "live", token_id: "live"}
