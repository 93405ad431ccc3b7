"""`headrace customers`: create and list the tenants, and decide what becomes of their events at the door."""

import json
from typing import Any

import msgspec
import rich_click as click

from headrace.errors import UsageError
from headrace.settings import Settings
from headrace.shards.address import connect_control
from headrace.shards.customers import NAME_CHARS_MAX, Customer, create_customer, list_customers
from headrace.shards.policy import ADDRESS_CHOICES, Policy, read_policy, write_policy
from headrace.shards.policy_change import FIELDS, Change, changed, differences, pick


@click.group("customers")
def command() -> None:
    """Create and list customers, and decide what becomes of their events at the door."""


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


@command.command("show")
@click.argument("customer_id", type=int)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(customer_id: int, as_json: bool) -> None:
    """Show what becomes of the events of CUSTOMER_ID at the door, and how many it may send."""
    with connect_control(Settings.load()) as connection:
        policy = read_policy(connection, customer_id)
    if as_json:
        click.echo(json.dumps({"customer_id": customer_id, "policy": _policy(policy)}))
        return
    for field in FIELDS:
        click.echo(f"{field:<12}  {FIELDS[field].shown(policy)}")
    click.echo(f"change it with: headrace customers set {customer_id} --{next(iter(FIELDS))} …", err=True)


@command.command("set")
@click.argument("customer_id", type=int)
@click.option("--address", metavar="|".join(ADDRESS_CHOICES), help="What is stored of a sender's IP address.")
@click.option("--drop", multiple=True, metavar="NAME", help="Remove this property, trait or context field, too.")
@click.option("--hash", "hash_", multiple=True, metavar="NAME", help="Store a keyed hash of this one, too.")
@click.option("--honour-dnt/--no-honour-dnt", default=None, help="Keep nothing of browsers that send DNT or GPC.")
@click.option("--per-second", type=int, metavar="N", help="Events a second that are taken.")
@click.option("--burst", type=int, metavar="N", help="Events that may come at once above that rate.")
@click.option("--per-month", type=int, metavar="N", help="Events a calendar month (UTC) that are taken.")
@click.option("--clear", multiple=True, metavar="FIELD", help="Bring this field back to its default first; or all.")
@click.option("--dry-run", is_flag=True, help="Show what would change; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def set_(
    customer_id: int,
    address: str | None,
    drop: tuple[str, ...],
    hash_: tuple[str, ...],
    honour_dnt: bool | None,
    per_second: int | None,
    burst: int | None,
    per_month: int | None,
    clear: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Decide what becomes of the events of CUSTOMER_ID at the door, and how many it may send.

    Names may be repeated or separated by commas and add to those that are set; `--clear drop` removes them first.
    Neither case nor a leading $ of a name counts. Gateways follow within seconds.
    """
    change = Change(
        address=None if address is None else pick("--address", address, ADDRESS_CHOICES),
        drop=_names(drop),
        hash=_names(hash_),
        honour_dnt=honour_dnt,
        quota={"per_second": per_second, "burst": burst, "per_month": per_month},
        clear=tuple(pick("--clear", field, (*FIELDS, "all")) for field in _names(clear)),
    )
    if change == Change():
        raise UsageError(
            "nothing to set", remedy=f"`headrace customers set --help`; see `headrace customers show {customer_id}`"
        )
    settings = Settings.load()
    with connect_control(settings) as connection, connection.transaction():
        before = read_policy(connection, customer_id, lock=True)
        after = changed(before, change)
        if after != before and not dry_run:
            write_policy(connection, customer_id, after)
    _tell(customer_id, before, after, dry_run=dry_run, as_json=as_json)
    if after.hash and not settings.privacy_key:
        click.echo(
            "privacy_key is not set here: gateways without it drop what they should hash; set HEADRACE_PRIVACY_KEY",
            err=True,
        )


def _tell(customer_id: int, before: Policy, after: Policy, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        told = {"before": _policy(before), "after": _policy(after), "changed": before != after, "dry_run": dry_run}
        click.echo(json.dumps({"customer_id": customer_id, **told}))
    else:
        for field, old, new in differences(before, after):
            click.echo(f"{field:<12}  {old} → {new}")
    if before == after:
        click.echo(f"already so; see: headrace customers show {customer_id}", err=True)
    elif dry_run:
        click.echo("nothing was changed; run it without --dry-run", err=True)
    else:
        click.echo(f"set; gateways follow within seconds; next: headrace customers show {customer_id}", err=True)


def _names(given: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.strip() for each in given for name in each.split(",") if name.strip())


def _policy(policy: Policy) -> dict[str, Any]:
    """All fields, the defaults too: for programs that read it."""
    return {
        "address": policy.address,
        "drop": list(policy.drop),
        "hash": list(policy.hash),
        "honour_dnt": policy.honour_dnt,
        "quota": msgspec.structs.asdict(policy.quota),
    }


def _as_dict(customer: Customer) -> dict[str, Any]:
    return {
        "customer_id": customer.customer_id,
        "name": customer.name,
        "shard": customer.shard_id,
        "created_at": customer.created_at.isoformat(),
    }
