"""The thin path: a token from the command line, `totals` from the rollup rows of two shards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx

from api.auth.tokens import REVOCATION_DELAY_S
from tests.integration.api_world import make_world, running_api, settings_with_key, wait_until
from tests.integration.conftest import Databases, MakeSettings


def test_a_cli_token_gets_its_customers_totals_from_its_shard(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Path
) -> None:
    settings = settings_with_key(make_settings("postgres"), tmp_path)
    world = make_world(settings, postgres.shards, count=400)
    environment = os.environ | settings.as_environment()

    def headrace(*arguments: str) -> str:
        command = [sys.executable, "-m", "headrace", *arguments]
        done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert headrace("token", "signing-key").strip() == world.key.kid, "an existing key stays"
    with running_api(settings) as url:
        for customer in world.customers:
            issued = json.loads(headrace("token", "create", "--customer", str(customer), "--json"))
            ask = {"kind": "totals", "metrics": ["events", "sum(value)"], "range": {"from": "-3y"}}
            headers = {"Authorization": f"Bearer {issued['token']}"}
            answer = httpx.post(f"{url}/v1/query", json=ask, headers=headers)
            assert answer.status_code == 200, answer.text
            document = answer.json()
            events = world.events[customer]
            assert document["rows"] == [[len(events), sum(event.value_e6 or 0 for event in events) / 1e6]]
            assert document["meta"]["source"] == "postgres"
            assert document["meta"]["exact"] is True

            listed = {item["token_id"]: item for item in json.loads(headrace("token", "list", "--json"))}
            assert listed[issued["token_id"]]["state"] == "live"
            assert issued["token"] not in headrace("token", "list")
            headrace("token", "revoke", issued["token_id"], "--yes")

            def refused(headers: dict[str, str] = headers, ask: object = ask) -> bool:
                return httpx.post(f"{url}/v1/query", json=ask, headers=headers).status_code == 401

            wait_until(refused, REVOCATION_DELAY_S + 2)


def test_an_api_over_an_empty_control_database_says_what_to_do(
    make_settings: MakeSettings, postgres: Databases, tmp_path: Path
) -> None:
    del postgres
    settings = settings_with_key(make_settings("postgres"), tmp_path)
    command = [sys.executable, "-m", "headrace", "run", "api"]
    environment = os.environ | settings.as_environment()
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 78, done.stderr
    assert "headrace migrate" in done.stderr
    assert "Traceback" not in done.stderr
