"""Our schemas in external registries: a real one without IMPORT mode (Apicurio), and one with it by Confluent's rules
in the test's own process."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from fastavro import parse_schema, schemaless_reader

from headrace.cli import cli
from headrace.errors import ConfigurationError, HeadraceError, UnavailableError
from headrace.runtime.parts import start, stop_all
from headrace.runtime.ports import free_ports
from headrace.schema_registry import register_schemas
from headrace.settings import Settings
from producers.gateway.encode import encode_rows
from schemas.codec import event_arrow
from schemas.registry import EVENT_ID, FRAME_ID, schema
from tests.integration.apicurio import Apicurio
from tests.integration.conftest import MakeSettings
from tests.integration.import_registry import ImportRegistry, normal

FOREIGN = '{"type":"record","name":"Other","fields":[{"name":"n","type":"long"}]}'
PREFIX = "shop 1/"
"""It must be quoted in a path."""
EVENTS, AGGREGATES = PREFIX + "events-value", PREFIX + "aggregates-value"


def settings_of(url: str, **others: Any) -> Settings:
    return Settings.load(environ={}, flags={"schema_registry_url": url, "topic_prefix": PREFIX, **others})


def subjects(made: list[Any]) -> list[str]:
    return [item.subject for item in made]


# A real registry, without IMPORT mode


@pytest.fixture
def apicurio(tmp_path: Path) -> Iterator[Apicurio]:
    engine = Apicurio(tmp_path / "apicurio", free_ports(1)[0])
    process = start(engine)
    yield engine
    stop_all([process])


def get(url: str) -> Any:
    return httpx.get(url, timeout=10).json()


def put_foreign(url: str) -> int:
    answer = httpx.post(f"{url}/subjects/other-value/versions", json={"schema": FOREIGN}, timeout=10)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["id"])


def test_a_real_registry_that_is_ours_alone_has_every_schema_under_the_id_that_records_carry(
    apicurio: Apicurio,
) -> None:
    settings = replace(settings_of(apicurio.url + "/"), topic_prefix="shop.")
    wanted = ["shop.events-value", "shop.aggregates-value"]
    assert subjects(register_schemas(settings, dry_run=True)) == wanted
    assert get(f"{apicurio.url}/subjects") == [], "a dry run writes nothing"
    assert subjects(register_schemas(settings)) == wanted
    assert register_schemas(settings) == []
    assert sorted(get(f"{apicurio.url}/subjects")) == sorted(wanted)

    row = [0 if str(item.type).startswith("int") else "x" for item in event_arrow()]
    (record,) = encode_rows([tuple(row)])
    written_by = get(f"{apicurio.url}/schemas/ids/{int.from_bytes(record[1:5], 'big')}")["schema"]
    read: Any = schemaless_reader(io.BytesIO(record[5:]), parse_schema(json.loads(written_by)), None)
    assert list(read.values()) == row, "as any registry-aware tool reads it"

    second = replace(settings, topic_prefix="second.")  # the same schemas: a registry knows them by their content
    assert len(register_schemas(second)) == 2
    assert len(get(f"{apicurio.url}/subjects")) == 4


def test_a_real_registry_that_deals_out_other_ids_is_refused_and_left_as_it_was(apicurio: Apicurio) -> None:
    settings = replace(settings_of(apicurio.url), topic_prefix="shop.")
    assert put_foreign(apicurio.url) == EVENT_ID
    for dry_run in (True, False):
        with pytest.raises(ConfigurationError, match="gave id 1 to another schema") as refused:
            register_schemas(settings, dry_run=dry_run)
        assert "leave schema_registry_url empty" in str(refused.value)
    assert get(f"{apicurio.url}/subjects") == ["other-value"]
    httpx.delete(f"{apicurio.url}/subjects/other-value", timeout=10).raise_for_status()
    with pytest.raises(ConfigurationError, match="gave id 1 to another schema"):  # what is deleted keeps its id
        register_schemas(settings)
    assert get(f"{apicurio.url}/subjects") == []


# A registry with IMPORT mode


@pytest.fixture
def registry() -> Iterator[ImportRegistry]:
    with ImportRegistry(user="shop:pass word").running() as made:
        yield made


def settings_for(registry: ImportRegistry) -> Settings:
    return settings_of(f"http://shop:pass%20word@127.0.0.1:{registry.port}")


def test_ids_are_imported_among_others_schemas_and_the_subjects_modes_are_left_as_they_were(
    registry: ImportRegistry,
) -> None:
    registry.schemas = {7: normal(FOREIGN)}
    registry.subjects = {"other-value": {1: 7}}
    registry.modes = {AGGREGATES: "READWRITE"}
    settings = settings_for(registry)
    assert subjects(register_schemas(settings, dry_run=True)) == [EVENTS, AGGREGATES]
    assert registry.writes == []
    assert subjects(register_schemas(settings)) == [EVENTS, AGGREGATES]
    assert registry.subjects == {"other-value": {1: 7}, EVENTS: {1: EVENT_ID}, AGGREGATES: {1: FRAME_ID}}
    for number in (EVENT_ID, FRAME_ID):
        assert json.loads(registry.schemas[number]) == schema(number).parsed
    assert registry.modes == {AGGREGATES: "READWRITE"}
    written = len(registry.writes)
    assert register_schemas(settings) == []
    assert len(registry.writes) == written
    again = replace(settings, topic_prefix="second.")
    assert subjects(register_schemas(again)) == ["second.events-value", "second.aggregates-value"]


def test_a_registry_wholly_in_import_mode_or_without_an_end_of_modes(registry: ImportRegistry) -> None:
    registry.knows_delete_mode = False
    register_schemas(settings_for(registry))
    assert registry.modes == {EVENTS: "READWRITE", AGGREGATES: "READWRITE"}
    registry.common_mode, registry.modes = "IMPORT", {}
    register_schemas(replace(settings_for(registry), topic_prefix="x."))
    assert registry.modes == {}, "nothing was to be changed"


def test_without_leave_to_import_only_a_registry_of_our_own_will_do(registry: ImportRegistry) -> None:
    registry.mutable = False
    registry.put("other-value", FOREIGN.replace("Other", "First"))
    with pytest.raises(ConfigurationError, match="gave id 1 to another schema"):
        register_schemas(settings_for(registry))
    registry.schemas = {9: registry.schemas[1]}
    registry.subjects = {"other-value": {1: 9}}
    with pytest.raises(ConfigurationError, match=r"over 1 other subjects.*Mode changes are not allowed") as refused:
        register_schemas(settings_for(registry))
    assert "mode.mutability=true" in str(refused.value)
    assert set(registry.subjects) == {"other-value"}
    registry.subjects = {}
    with pytest.raises(ConfigurationError, match="dealt out id 10 instead of 1"):
        register_schemas(settings_for(registry))
    assert registry.subjects[EVENTS] == {}, "nothing of ours stays under another id"
    registry.subjects, registry.schemas = {}, {}
    register_schemas(settings_for(registry))
    assert registry.subjects == {EVENTS: {1: EVENT_ID}, AGGREGATES: {1: FRAME_ID}}


def test_what_stands_in_the_way_is_named_and_changes_nothing(registry: ImportRegistry) -> None:
    settings = settings_for(registry)
    registry.common_mode = "READONLY"
    with pytest.raises(ConfigurationError, match="in mode READONLY"):
        register_schemas(settings, dry_run=True)
    registry.common_mode = "READWRITE"
    registry.put("other-value", FOREIGN)
    registry.put(EVENTS, schema(EVENT_ID).text)
    registry.schemas[EVENT_ID] = registry.schemas[2]  # ours under both ids, but in our subject under the wrong one
    with pytest.raises(ConfigurationError, match=r"has 'shop 1/events-value' under id 2 instead of 1"):
        register_schemas(settings)
    registry.subjects, registry.schemas = {EVENTS: {1: 5}}, {5: normal(FOREIGN)}
    with pytest.raises(ConfigurationError, match=r"dealt out id 6 .*Cannot import"):
        register_schemas(settings)
    assert registry.subjects[EVENTS].get(1) == 5
    assert registry.modes == {}


def test_a_registry_that_cannot_be_asked_is_named_without_its_credentials(registry: ImportRegistry) -> None:
    cases: list[tuple[tuple[int, bytes] | None, str, type[HeadraceError], str]] = [
        (None, f"http://shop:secret@127.0.0.1:{registry.port}", ConfigurationError, "does not take our credentials"),
        (None, f"http://shop:secret@127.0.0.1:{free_ports(1)[0]}", UnavailableError, "does not answer"),
        (None, "ftp://shop:secret@host", ConfigurationError, "is not an address"),
        (None, "secret", ConfigurationError, "is not an address"),
        ((200, b"<html>secret"), registry.url, ConfigurationError, "gave no JSON"),
        ((200, b'{"a":1}'), registry.url, ConfigurationError, "gave no list"),
        ((404, b""), registry.url, ConfigurationError, "must be the root of Confluent's API"),
        ((503, b'{"message":"no leader"}'), registry.url, UnavailableError, r"status 503 \(no leader\)"),
    ]
    for broken, url, kind, told in cases:
        registry.broken = broken
        with pytest.raises(kind, match=told) as raised:
            register_schemas(settings_of(url))
        assert "secret" not in str(raised.value).replace("<html>secret", "")
        assert "pass" not in str(raised.value).replace("password", "")
        assert raised.value.__cause__ is None
    with pytest.raises(ConfigurationError, match="schema_registry_ca_location"):
        register_schemas(settings_of("https://127.0.0.1:9", schema_registry_ca_location="/nowhere.pem"))


def test_creating_topics_registers_their_schemas_and_a_refusal_makes_no_topic(
    make_settings: MakeSettings, registry: ImportRegistry
) -> None:
    settings = replace(make_settings("kafka"), schema_registry_url=settings_for(registry).schema_registry_url)

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(cli, ["topics", *arguments], env=settings.as_environment())

    wanted = [
        {"subject": f"{settings.topic_prefix}{name}-value", "id": number, "version": 1}
        for number, name in ((EVENT_ID, "events"), (FRAME_ID, "aggregates"))
    ]
    registry.common_mode = "READONLY"
    assert isinstance(run("create", "--yes").exception, ConfigurationError)
    assert {item["partitions"] for item in json.loads(run("list", "--json").stdout)} == {None}
    registry.common_mode = "READWRITE"
    planned = json.loads(run("create", "--dry-run", "--json").stdout)
    assert planned["registered"] == wanted
    assert registry.writes == []
    shown = run("create", "--dry-run")
    assert f"{settings.topic_prefix}events-value  schema id 1" in shown.stdout
    assert "7 to create" in shown.stderr
    made = run("create", "--yes", "--json")
    assert json.loads(made.stdout)["registered"] == wanted
    assert "5 created, 2 schemas registered" in made.stderr
    assert json.loads(run("create", "--json").stdout)["registered"] == []
    masked = CliRunner().invoke(cli, ["config", "show"], env=settings.as_environment()).output
    assert "pass%20word" not in masked
