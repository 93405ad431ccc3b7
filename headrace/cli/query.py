"""`headrace query KIND`: ask the query API and print a table or JSON."""

import json
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import rich_click as click

from headrace.errors import HeadraceError, UnavailableError, UsageError
from headrace.settings import Settings

KINDS = ("totals", "timeseries", "breakdown", "events")
TIMEOUT_S = 60.0

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 and C1 controls (terminals obey them), line separators, changes of direction, and what UTF-8 cannot hold."""


@click.command("query")
@click.argument("kind", type=click.Choice(KINDS))
@click.option("--metric", "-m", "metrics", multiple=True, help="events, users, sum(value), p95(props.NAME), …")
@click.option("--by", "-d", "dimensions", multiple=True, help="Dimension to cut by: event, country, props.NAME, …")
@click.option("--from", "from_", default="-7d", show_default=True, help="Start: -7d, -24h, today, 2026-01-01, …")
@click.option("--to", default="now", show_default=True, help="End, not included.")
@click.option("--tz", default="UTC", show_default=True, help="Time zone of days and intervals.")
@click.option("--interval", default="auto", show_default=True, help="Of a timeseries: minute to month, or auto.")
@click.option("--where", "-w", "filters", multiple=True, help='A filter as JSON: \'["is","event",["signup"]]\'.')
@click.option("--compare", help="previous_period or previous_year.")
@click.option("--order", help="Column to order by, as NAME or NAME:asc.")
@click.option("--limit", type=int, help="Most rows.")
@click.option("--cursor", help="next_cursor of the page before (events).")
@click.option("--exact", is_flag=True, help="No sketches: exact numbers or none.")
@click.option("--url", help="The API's address. Default: from api_host and api_port.")
@click.option("--customer", type=click.IntRange(min=1), help="Make a short-lived token for this customer here.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole answer as JSON.")
def command(**options: Any) -> int:
    """Ask a question of KIND totals, timeseries, breakdown or events.

    The token comes from HEADRACE_TOKEN (`headrace token create` makes one); on the server's own machine
    `--customer ID` does without. The table goes to stdout, how complete it is to stderr.
    """
    settings = Settings.load()
    answer = ask(api_url(options["url"], settings), token_of(options["customer"], settings), question_of(options))
    if options["as_json"]:
        click.echo(json.dumps(answer))
        return 0
    print_table(answer)
    click.echo(completeness_of(answer["meta"]), err=True)
    if answer.get("next_cursor"):
        click.echo(f"next page: --cursor {answer['next_cursor']}", err=True)
    return 0


def api_url(given: str | None, settings: Settings) -> str:
    """The address to ask."""
    if given:
        return given.rstrip("/")
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.api_host, settings.api_host)  # noqa: S104
    return f"http://{host}:{settings.api_port}"


def token_of(customer_id: int | None, settings: Settings) -> str:
    """HEADRACE_TOKEN, or a token of a few minutes signed here. Raises UsageError when neither can be had."""
    if customer_id is None:
        if not settings.token:
            raise UsageError(
                "HEADRACE_TOKEN is not set",
                remedy="make a token with `headrace token create --customer ID`, or give --customer ID here",
            )
        return settings.token
    import time

    from api.auth.keys import ensure_signing_key
    from api.auth.tokens import create_api_token
    from headrace.shards.address import connect_control

    key = ensure_signing_key(settings)
    with connect_control(settings) as connection:
        token, _ = create_api_token(connection, key, customer_id=customer_id, now_s=int(time.time()), ttl_s=600)
    return token


def question_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The query that the options spell."""
    kind = options["kind"]
    asked: dict[str, Any] = {
        "kind": kind,
        "range": {"from": options["from_"], "to": options["to"], "tz": options["tz"]},
    }
    if options["filters"]:
        asked["filters"] = ["and", [_filter(text) for text in options["filters"]]]
    if kind == "events":
        asked |= {name: options[name] for name in ("limit", "cursor") if options[name] is not None}
        return asked
    asked["metrics"] = list(options["metrics"]) or ["events", "users"]
    asked["exact"] = options["exact"]
    if options["compare"]:
        asked["compare"] = options["compare"]
    if kind == "timeseries":
        asked["interval"] = options["interval"]
    if kind in ("timeseries", "breakdown"):
        asked["dimensions"] = list(options["dimensions"])
        if options["limit"] is not None:
            asked["limit"] = options["limit"]
        if options["order"]:
            name, _, direction = options["order"].partition(":")
            asked["order_by"] = [[name, direction or "desc"]]
    return asked


def ask(url: str, token: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The answer. Raises UsageError for a refused question, UnavailableError where the API or a store is away."""
    headers = {"Authorization": f"Bearer {token}"}
    response = request(lambda: httpx.post(f"{url}/v1/query", json=asked, headers=headers, timeout=TIMEOUT_S), url)
    raise_for(response)
    answer: dict[str, Any] = response.json()
    return answer


def request(call: Callable[[], httpx.Response], url: str) -> httpx.Response:
    """The response. Raises UnavailableError when nothing answers at `url`."""
    try:
        return call()
    except httpx.TransportError as error:
        message = f"the API at {url} does not answer: {error}"
        raise UnavailableError(message, remedy="is `headrace run api` up?") from error


def raise_for(response: httpx.Response) -> None:
    """Turn a problem document into our error, so that the command ends with its exit code."""
    if response.is_success:
        return
    try:
        problem = response.json()
        lines = [problem["detail"], *(f"{item['pointer']}: {item['detail']}" for item in problem.get("errors", []))]
    except (ValueError, KeyError, TypeError):
        lines = [f"the API answered {response.status_code}"]
    message = "\n  ".join(dict.fromkeys(printable(str(line)) for line in lines))
    if response.status_code in (429, 502, 503, 504):
        raise UnavailableError(message)
    raise (UsageError if response.status_code < 500 else HeadraceError)(message)


def printable(text: str) -> str:
    """The text as it may go to a terminal: whoever has a public write key writes what stands in events."""
    return _UNPRINTABLE.sub(lambda found: " " if found[0] in "\t\n" else "\ufffd", text)


def print_table(answer: Mapping[str, Any]) -> None:
    """Rows as a table on a terminal, as tab-separated values otherwise."""
    names = [printable(column["name"]) for column in answer["columns"]]
    rows = [*answer["rows"]]
    if answer.get("other"):
        rows.append(["(the rest)", *answer["other"][1:]])
    if not sys.stdout.isatty():
        click.echo("\t".join(names))
        for row in rows:
            click.echo("\t".join(_plain(value) for value in row))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for name, column in zip(names, answer["columns"], strict=True):
        table.add_column(escape(name), justify="right" if column["type"] in ("integer", "number") else "left")
    for row in rows:
        table.add_row(*(_shown(value) for value in row))
    Console().print(table)


def completeness_of(meta: Mapping[str, Any]) -> str:
    """One line that says how complete the answer is."""
    parts = [f"as of {meta['as_of']}" if meta["as_of"] else "nothing stored yet"]
    if meta["final_until"]:
        parts.append(f"final until {meta['final_until']}")
    if meta["late_events"]:
        parts.append(f"{meta['late_events']} late events included")
    parts.append("exact" if meta["exact"] else "users and percentiles estimated")
    parts.append(f"{meta['source']}, {meta['elapsed_ms']:.0f} ms")
    return " · ".join(parts)


def _filter(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        remedy = """such as '["is","country",["France"]]'"""
        raise UsageError(f"--where takes JSON, not {text!r}", remedy=remedy) from error


def _plain(value: Any) -> str:
    if value is None:
        return ""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
    return printable(text)


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.2f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    from rich.markup import escape

    return escape(_plain(value))
