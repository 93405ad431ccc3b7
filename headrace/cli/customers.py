"""`headrace customers`: create and list the tenants."""

import json
from typing import Any

import rich_click as click

from headrace.errors import UsageError
from headrace.settings import Settings
from headrace.shards.address import connect_control
from headrace.shards.customers import NAME_CHARS_MAX, Customer, create_customer, list_customers


@click.group("customers")
def command() -> None:
    """Create and list customers."""


@command.command("create")
@click.argument("name")
@click.option("--shard", "shard_id", help="Deal the id from this shard's ranges alone.")
@click.option("--dry-run", is_flag=True, help="Check and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create(name: str, shard_id: str | None, dry_run: bool, as_json: bool) -> None:
    """Create the customer NAME; its id is dealt over the ranges of the shard map."""
    if not name.strip() or len(name) > NAME_CHARS_MAX:
        raise UsageError(f"NAME has 1 to {NAME_CHARS_MAX} characters")
    with connect_control(Settings.load()) as connection:
        if dry_run:
            click.echo(f"would create customer {name!r}; run it without --dry-run", err=True)
            return
        customer = create_customer(connection, name, shard_id=shard_id)
    if as_json:
        click.echo(json.dumps(_as_dict(customer)))
    else:
        click.echo(f"{customer.customer_id}")
    click.echo(f"created; next: headrace keys create {customer.customer_id}", err=True)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List all customers and the shards they lie on."""
    with connect_control(Settings.load()) as connection:
        customers = list_customers(connection)
    if as_json:
        click.echo(json.dumps([_as_dict(customer) for customer in customers]))
        return
    for customer in customers:
        click.echo(f"{customer.customer_id:>10}  {customer.shard_id:<12}  {customer.name}")
    if not customers:
        click.echo("none yet; next: headrace customers create NAME", err=True)


def _as_dict(customer: Customer) -> dict[str, Any]:
    return {
        "customer_id": customer.customer_id,
        "name": customer.name,
        "shard": customer.shard_id,
        "created_at": customer.created_at.isoformat(),
    }
