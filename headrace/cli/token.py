"""`headrace token`: issue and revoke API tokens."""

import json
import time

import rich_click as click

from headrace.settings import Settings


@click.group("token")
def command() -> None:
    """Issue and revoke API tokens."""


@command.command("create")
@click.option("--customer", "customer_id", type=click.IntRange(min=1), help="Customer whose data the token may read.")
@click.option("--admin", is_flag=True, help="An administrator's token, which belongs to no customer.")
@click.option("--days", type=click.IntRange(1, 400), help="How long it lives. Default: the setting token_ttl_s.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create(customer_id: int | None, admin: bool, days: int | None, as_json: bool) -> None:
    """Print a new token. It is shown this once and kept nowhere."""
    from api.auth.keys import ensure_signing_key
    from api.auth.tokens import create_api_token
    from headrace.shards.address import connect_control

    if admin == (customer_id is not None):
        raise click.UsageError("give either --customer ID or --admin")
    settings = Settings.load()
    key = ensure_signing_key(settings)
    with connect_control(settings) as connection:
        token, principal = create_api_token(
            connection,
            key,
            customer_id=customer_id,
            now_s=int(time.time()),
            ttl_s=days * 86_400 if days else settings.token_ttl_s,
        )
    if as_json:
        document = {
            "token": token,
            "token_id": principal.token_id,
            "customer_id": principal.customer_id,
            "scope": principal.scope,
            "expires_s": principal.expires_s,
        }
        click.echo(json.dumps(document))
        return
    click.echo(token)
    whose = "an administrator" if customer_id is None else f"customer {customer_id}"
    click.echo(f"token {principal.token_id} for {whose}, {principal.scope}", err=True)
    if customer_id is not None:
        click.echo("next: HEADRACE_TOKEN=… headrace query totals --from -7d", err=True)


@command.command("signing-key")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def signing_key(as_json: bool) -> None:
    """Make the signing key if there is none yet, register it, and print its id.

    The file is the setting signing_key_file (0600). Run it again at will: an existing key stays.
    """
    from api.auth.keys import ensure_signing_key

    key = ensure_signing_key(Settings.load())
    click.echo(json.dumps({"kid": key.kid, "public_pem": key.public_pem}) if as_json else key.kid)


@command.command("retire-key")
@click.argument("kid")
@click.option("--yes", is_flag=True, help="Do not ask.")
def retire_key(kid: str, yes: bool) -> int:
    """Retire the signing key with id KID, after a leak or to rotate.

    Move its file away and restart the API first: what is still signed with it ends. Browser sessions by it end
    within 15 minutes; API tokens by it stay good until they expire or are revoked.
    """
    from api.auth.keys import retire_signing_key
    from headrace.shards.address import connect_control

    if not yes:
        click.confirm(f"retire signing key {kid}?", abort=True, err=True)
    with connect_control(Settings.load()) as connection:
        if retire_signing_key(connection, kid):
            click.echo(f"signing key {kid} retired", err=True)
            return 0
    click.echo(f"error: there is no signing key {kid} in use — `headrace token signing-key` prints yours", err=True)
    return 1


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_tokens(as_json: bool) -> None:
    """Print the tokens that were issued: their ids, never the tokens."""
    from headrace.shards.address import connect_control

    with connect_control(Settings.load()) as connection:
        rows = connection.execute(
            "SELECT jti, customer_id, scope, extract(epoch FROM expires_at)::int8,"
            " CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN expires_at <= now() THEN 'expired' ELSE 'live' END"
            " FROM api_tokens ORDER BY issued_at"
        ).fetchall()
    names = ("token_id", "customer_id", "scope", "expires_s", "state")
    if as_json:
        click.echo(json.dumps([dict(zip(names, row, strict=True)) for row in rows]))
        return
    for token_id, customer_id, scope, _expires_s, state in rows:
        click.echo(f"{token_id}  {customer_id or '-'!s:>8}  {scope:<6} {state}")


@command.command("revoke")
@click.argument("token_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
def revoke(token_id: str, yes: bool) -> int:
    """Revoke the token with TOKEN_ID; every replica refuses it within five seconds."""
    from api.auth.tokens import revoke_api_token
    from headrace.shards.address import connect_control

    if not yes:
        click.confirm(f"revoke token {token_id}?", abort=True, err=True)
    with connect_control(Settings.load()) as connection:
        if revoke_api_token(connection, token_id):
            click.echo(f"token {token_id} revoked", err=True)
            return 0
    click.echo(f"error: there is no live token {token_id} — `headrace token list` shows all", err=True)
    return 1
