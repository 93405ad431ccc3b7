"""`headrace keys`: create, list and revoke write keys."""

import json
import sys
from typing import Any

import rich_click as click

from headrace.errors import UsageError
from headrace.settings import Settings
from headrace.shards.address import connect_control
from headrace.shards.write_keys import (
    WriteKey,
    create_write_key,
    find_write_keys,
    list_write_keys,
    revoke_write_key,
)


@click.group("keys")
def command() -> None:
    """Create, list and revoke write keys. A write key sends events and can do nothing else."""


@command.command("create")
@click.argument("customer_id", type=int)
@click.option("--label", default="", help="What the key is for.")
@click.option("--dry-run", is_flag=True, help="Check and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create(customer_id: int, label: str, dry_run: bool, as_json: bool) -> None:
    """Create a write key for CUSTOMER_ID. Its secret is printed once and kept nowhere."""
    with connect_control(Settings.load()) as connection:
        if dry_run:
            known = connection.execute("SELECT 1 FROM customers WHERE customer_id = %s", (customer_id,)).fetchone()
            if known is None:
                raise UsageError(f"there is no customer {customer_id}", remedy="`headrace customers list`")
            click.echo(f"would create a write key for customer {customer_id}", err=True)
            return
        made = create_write_key(connection, customer_id, label)
    if as_json:
        click.echo(json.dumps({"write_key": made.secret, **_as_dict(made.key)}))
    else:
        click.echo(made.secret)
    settings = Settings.load()
    address = settings.ingest_url or f"http://{settings.ingest_host}:{settings.ingest_port}"
    click.echo(f"shown this once; next: send events with it to {address}/v1/batch", err=True)


@command.command("list")
@click.option("--customer", "customer_id", type=int, help="Only this customer's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(customer_id: int | None, as_json: bool) -> None:
    """List write keys by their hints."""
    with connect_control(Settings.load()) as connection:
        keys = list_write_keys(connection, customer_id)
    if as_json:
        click.echo(json.dumps([_as_dict(key) for key in keys]))
        return
    for key in keys:
        state = f"revoked {key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else "live"
        click.echo(f"{key.hint}…  customer {key.customer_id:<10}  {state:<24}  {key.label}")
    if not keys:
        click.echo("none yet; next: headrace keys create CUSTOMER_ID", err=True)


@command.command("revoke")
@click.argument("hint", required=False)
@click.option("--stdin", "from_stdin", is_flag=True, help="Read the whole secret from standard input instead.")
@click.option("--dry-run", is_flag=True, help="Show which key would be revoked; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def revoke(hint: str | None, from_stdin: bool, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Revoke the write key with this HINT (its first characters, as `keys list` shows them)."""
    if from_stdin == bool(hint):
        raise UsageError("give either HINT or --stdin", remedy="`headrace keys list` shows hints")
    wanted = sys.stdin.readline().strip() if from_stdin else str(hint).rstrip("…")
    with connect_control(Settings.load()) as connection:
        if dry_run:
            keys = find_write_keys(connection, wanted)
            click.echo(json.dumps([_as_dict(key) for key in keys]) if as_json else f"{len(keys)} key(s) meant")
            return
        if not yes and sys.stdin.isatty():
            click.confirm("Revoke it? Whoever sends with it is refused from then on.", abort=True, err=True)
        key = revoke_write_key(connection, wanted)
    if as_json:
        click.echo(json.dumps(_as_dict(key)))
    click.echo(f"revoked {key.hint}… of customer {key.customer_id}; gateways follow within seconds", err=True)


def _as_dict(key: WriteKey) -> dict[str, Any]:
    return {
        "hint": key.hint,
        "customer_id": key.customer_id,
        "label": key.label,
        "created_at": key.created_at.isoformat(),
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
    }
