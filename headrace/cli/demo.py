"""`headrace demo`: the whole system with real orders, for a look, or with --check for the proof."""

import dataclasses
import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import rich_click as click
from rich.console import Console
from rich.table import Table

from headrace import log
from headrace.cli.up import StopAskedError, sign_in_fragment
from headrace.clock import SystemClock
from headrace.demo import shop, traffic
from headrace.demo.check import Outcome, Place, check
from headrace.demo.traffic import Customer
from headrace.errors import HeadraceError
from headrace.runtime.checks import refuse_unfit
from headrace.runtime.credentials import NewCustomer
from headrace.runtime.system import Broker, Plan, System, running
from headrace.settings import Settings

CUSTOMERS = (
    NewCustomer("Online Retail", "shard-1"),
    NewCustomer("Live site", "shard-2"),
    NewCustomer("Live app", "shard-1"),
)
PARTITIONS = 8
EXIT_FAILED = 1
TABLE_WIDTH = 120

Job = Callable[[System, threading.Event], None]


@click.command("demo")
@click.option(
    "--check", "checking", is_flag=True, help="Compare every total with one computed from the data; exit 0 or 1."
)
@click.option("--seed", type=int, help="Of the generated events; default: a new one, printed.")
@click.option(
    "--broker",
    type=click.Choice(("tansu", "kafka")),
    default="tansu",
    show_default=True,
    help="tansu comes with Headrace and forgets all when it stops; kafka is Apache Kafka and needs Java.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(checking: bool, seed: int | None, broker: Broker, as_json: bool) -> int:
    """Run the whole system on a folder that is thrown away, with a year of real orders moved to the present.

    Prints one link to the dashboard and an administrator's token, keeps live traffic flowing, and leaves nothing
    behind when Ctrl-C stops it.
    """
    settings = Settings.load(flags={"events_partitions": PARTITIONS, "log_level": "warning"})
    log.configure(settings, "demo")
    number = random.SystemRandom().randrange(2**31) if seed is None else seed
    if checking:
        proof = _Proof(number, as_json=as_json)
        _run(settings, broker, proof)
        return proof.status
    _run(settings, broker, _Show(number, as_json=as_json))
    return 0


class _Proof:
    """The job of --check; `status` is its exit code."""

    def __init__(self, seed: int, *, as_json: bool) -> None:
        self._seed = seed
        self._as_json = as_json
        self.status = EXIT_FAILED

    def __call__(self, system: System, stopping: threading.Event) -> None:
        outcome = check(_place(system), self._seed, SystemClock(), _say)
        if self._as_json:
            click.echo(json.dumps(_document(outcome, self._seed)))
        else:
            _print_table(outcome)
        self.status = 0 if outcome.comparison.equal else EXIT_FAILED
        stopping.set()


class _Show:
    """The job of a plain demo: load, say where to look, keep traffic flowing."""

    def __init__(self, seed: int, *, as_json: bool) -> None:
        self._seed = seed
        self._as_json = as_json

    def __call__(self, system: System, stopping: threading.Event) -> None:
        clock, place = SystemClock(), _place(system)
        link = system.api_url + sign_in_fragment(system)
        answer = {
            "dashboard_url": link,
            "api_url": system.api_url,
            "ingest_url": system.ingest_url,
            "admin_token": system.credentials.admin_token,
        }
        if self._as_json:
            click.echo(json.dumps(answer))
        else:
            click.echo(f"dashboard    {link}")
            click.echo(f"admin token  {system.credentials.admin_token}")
        done = shop.load(place.settings, place.shop.customer_id, shop.shift_days(clock), clock)
        _say('orders: UCI "Online Retail" by Daqing Chen, CC BY 4.0, times moved by whole days')
        _say(f"{done.events:,} order lines loaded; live traffic flows; Ctrl-C stops everything and keeps nothing")
        traffic.trickle(place.ingest_url, [place.shop, *place.live], self._seed, clock, stopping.is_set)


def _run(settings: Settings, broker: Broker, job: Job) -> None:
    """Start the system, do the job beside it, and stop all of it when the job, or the user, is done."""
    stopping, failures = threading.Event(), list[BaseException]()
    started = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        asked_before = stopping.is_set()
        stopping.set()
        if not started and not asked_before:
            raise StopAskedError

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)

    def work(system: System) -> None:
        try:
            job(system, stopping)
        except Exception as error:  # a thread's edge: handed to the main thread, which raises it
            failures.append(error)
        finally:
            stopping.set()

    try:
        with tempfile.TemporaryDirectory(prefix="headrace-demo-") as folder:
            refuse_unfit(Path(folder), settings)
            _say(f"starting everything on a folder that is thrown away (broker: {broker})")
            asked_s = time.monotonic()
            plan = Plan(folder=Path(folder), settings=settings, broker=broker, durable=False, customers=CUSTOMERS)
            with running(plan) as system:
                started = True
                _say(f"everything answers after {time.monotonic() - asked_s:.1f} s")
                worker = threading.Thread(target=work, args=(system,), name="demo", daemon=True)
                worker.start()
                system.watch(stopping)  # restarts what dies; children belong to this thread
                worker.join(timeout=5)
    except StopAskedError:
        _say("stopped before everything was up")
    if failures:
        if isinstance(failures[0], HeadraceError):
            _say("see `headrace doctor`")
        raise failures[0]


def _place(system: System) -> Place:
    made = [Customer(c.customer_id, c.name, c.write_key, c.read_token) for c in system.credentials.customers]
    return Place(system.ingest_url, system.api_url, system.settings, made[0], made[1:])


def _document(outcome: Outcome, seed: int) -> dict[str, object]:
    comparison = outcome.comparison
    lines = [dataclasses.asdict(line) for line in comparison.lines]
    return {"equal": comparison.equal, "seed": seed, "seconds": outcome.seconds, "lines": lines}


def _print_table(outcome: Outcome) -> None:
    table = Table("total", "from the data", "from the API", "", "", box=None, pad_edge=False)
    for column in (1, 2):
        table.columns[column].justify = "right"
    for line in outcome.comparison.lines:
        table.add_row(line.name, line.expected, line.found, "equal" if line.equal else "DIFFERENT", line.note)
    console = Console(file=sys.stdout, highlight=False)
    console.width = max(console.width, TABLE_WIDTH)  # a pipe would otherwise fold it to 80 columns
    console.print(table)
    _say(", ".join(f"{step} {seconds:g} s" for step, seconds in outcome.seconds.items()))
    wrong = sum(not line.equal for line in outcome.comparison.lines)
    click.echo("all totals are equal" if outcome.comparison.equal else f"{wrong} totals DIFFER")


def _say(text: str) -> None:
    click.echo(text, err=True)
