"""Our schemas in an external schema registry (`schema_registry_url`, of Confluent's API), under the ids that records
carry.

Guarantees: repeatable; after `register_schemas` each of our ids means our schema there, under its subject. What
another put there is never altered. A registry deals out ids by itself, so that ours are kept in one of two ways: a
subject's IMPORT mode takes schemas with their ids, and is left again at once; without it, a registry that holds no
subject but ours may deal out just our ids. One that would do neither is refused with what to do, and keeps no schema
of ours under another id.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

from fastavro.schema import to_parsing_canonical_form

from headrace.errors import ConfigurationError, UnavailableError
from headrace.schema_registry_client import RegistryClient
from headrace.settings import Settings
from schemas.registry import RegisteredSchema, all_schemas

IMPORT: Final = "IMPORT"
READ_ONLY: Final = ("READONLY", "READONLY_OVERRIDE")
WITHOUT: Final = "leave schema_registry_url empty: the API serves the schemas at the same paths"
NO_MODES: Final = "it knows no IMPORT mode"


@dataclass(frozen=True, slots=True)
class Registration:
    """A schema, and the subject under which the registry has it or shall have it."""

    subject: str
    schema: RegisteredSchema


@dataclass(frozen=True, slots=True)
class _Mode:
    """A subject's `own` mode, and the `common` one of all subjects; None: there is none."""

    own: str | None
    common: str | None

    @property
    def present(self) -> str | None:
        return self.own or self.common


def register_schemas(settings: Settings, *, dry_run: bool = False) -> list[Registration]:
    """Register what is missing; returns it. Without `schema_registry_url` there is nothing to do.

    A dry run finds every conflict that can be seen without writing. Raises ConfigurationError for a registry where
    our ids cannot be had, UnavailableError.
    """
    if not settings.schema_registry_url:
        return []
    ours = [Registration(settings.topic_prefix + item.subject, item) for item in all_schemas()]
    with RegistryClient.connected(settings) as client:
        foreign = len(client.subjects() - {item.subject for item in ours})
        missing = [item for item in ours if not _is_registered(client, item)]
        for item in missing:
            mode = _mode(client, item, foreign)
            if not dry_run:
                _register(client, item, mode, foreign)
    return missing


def _is_registered(client: RegistryClient, item: Registration) -> bool:
    """Whether it is there, under its id. Raises ConfigurationError when its id or its subject are taken."""
    _holds_id(client, item.schema)
    found = client.find(item.subject, item.schema.text)
    if found is None:
        return False
    if found.schema_id != item.schema.schema_id:
        raise _other_id(
            client, item, f"has {item.subject!r} under id {found.schema_id} instead of {item.schema.schema_id}"
        )
    return True


def _holds_id(client: RegistryClient, schema: RegisteredSchema) -> bool:
    """Whether the schema's id is given to it, in whatever subject. Raises ConfigurationError if to another one."""
    text = client.schema_by_id(schema.schema_id)
    if text is None:
        return False
    if not _same(text, schema.parsed):
        raise ConfigurationError(
            f"the schema registry at {client.place} gave id {schema.schema_id} to another schema than "
            f"{schema.subject!r}, whose records carry that id",
            remedy=f"use a registry that is Headrace's alone, or {WITHOUT}",
        )
    return True


def _mode(client: RegistryClient, item: Registration, foreign: int) -> _Mode:
    """The subject's mode. Raises ConfigurationError when it already tells that the id cannot be had. `foreign`: how
    many subjects are not ours."""
    mode = _Mode(client.mode(item.subject), client.mode(None))
    if mode.present in READ_ONLY:
        raise ConfigurationError(
            f"the schema registry at {client.place} is in mode {mode.present} for {item.subject!r}",
            remedy="set it to READWRITE, or register the schemas elsewhere",
        )
    if mode.present is None:
        _check_dealing(client, item, foreign, NO_MODES)
    return mode


def _check_dealing(client: RegistryClient, item: Registration, foreign: int, refusal: str) -> None:
    """Raise ConfigurationError where the registry is known to deal out another id."""
    if foreign and not _holds_id(client, item.schema):
        raise _other_id(client, item, f"deals out ids over {foreign} other subjects, and {refusal}")


def _register(client: RegistryClient, item: Registration, mode: _Mode, foreign: int) -> None:
    refusal = NO_MODES
    if mode.present is not None:
        importable = _import(client, item, mode)
        if importable is None:
            return
        refusal = importable
    _check_dealing(client, item, foreign, refusal)
    dealt = client.register(item.subject, item.schema.text)
    if dealt != item.schema.schema_id:
        left = "" if client.remove(item.subject, item.schema.text) else f"; {item.subject!r} could not be removed"
        raise _other_id(client, item, f"dealt out id {dealt} instead of {item.schema.schema_id}, and {refusal}{left}")


def _import(client: RegistryClient, item: Registration, mode: _Mode) -> str | None:
    """Register it under its id in IMPORT mode. Where that is not to be had: the reason. Raises ConfigurationError."""
    schema = item.schema
    if mode.present != IMPORT:
        # Only a subject without versions can be imported into, unless that is forced: its older ones are ours.
        refusal = client.set_mode(item.subject, IMPORT, force=schema.version > 1)
        if refusal is not None:
            return f"its IMPORT mode is not to be had: {refusal}"
    with nullcontext() if mode.present == IMPORT else _left_again(client, item.subject, mode):
        dealt = client.register(item.subject, schema.text, schema_id=schema.schema_id, version=schema.version)
    if dealt != schema.schema_id:
        raise _other_id(client, item, f"imported id {schema.schema_id} as {dealt}")
    return None


@contextmanager
def _left_again(client: RegistryClient, subject: str, mode: _Mode) -> Iterator[None]:
    """The subject's mode as it was, whatever happens."""
    try:
        yield
    finally:
        if not client.restore_mode(subject, mode.own, mode.common):
            raise UnavailableError(
                f"the schema registry at {client.place} was left in IMPORT mode for {subject!r}",
                remedy=f"end it: `DELETE /mode/{subject}` there",
            )


def _same(text: str, parsed: Any) -> bool:
    """Whether two schemas read the same bytes the same way: registries write documents anew."""
    try:
        return bool(to_parsing_canonical_form(json.loads(text)) == to_parsing_canonical_form(parsed))
    except Exception:
        return False


def _other_id(client: RegistryClient, item: Registration, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"the schema registry at {client.place} {what}; every record of {item.schema.subject!r} carries id "
        f"{item.schema.schema_id}, so that readers would look in vain",
        remedy="allow its IMPORT mode (Confluent: mode.mutability=true, and leave to change a subject's mode), or "
        f"use a registry that is Headrace's alone and empty, or {WITHOUT}",
    )
