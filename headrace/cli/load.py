"""`headrace load`: a reproducible stream of events at a given pace."""

import json
import random
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rich_click as click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from headrace import log
from headrace.clock import SystemClock
from headrace.errors import UsageError
from headrace.runtime import credentials
from headrace.settings import Settings
from producers.bulk import BulkPublisher
from producers.generator.drive import drive, schedule
from producers.generator.pace import SHAPES, Pace, Shape
from producers.generator.targets import HTTPTarget, KafkaTarget, Target
from producers.generator.workload import Workload

SDK_LINGER_S = 0.5  # how long the Segment SDKs for servers collect events before they send
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Duration(click.ParamType):
    """Seconds, or a number with s, m, h or d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(value))
        if match is None or float(match[1]) == 0:
            self.fail(f"{value!r} is not a duration such as 90, 30s, 5m or 1h", param, ctx)
        return float(match[1]) * UNITS_S[match[2] or "s"]


@click.command("load")
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    default=1000.0,
    show_default=True,
    help="Events a second, on average.",
)
@click.option("--for", "duration_s", type=Duration(), default="60s", show_default=True, help="How long.")
@click.option(
    "--shape", type=click.Choice(SHAPES), default="steady", show_default=True, help="diurnal: a day's curve."
)
@click.option(
    "--seed",
    type=int,
    help="The same seed makes the same events, and they count once (24 h); default: a new one, printed.",
)
@click.option("--target", type=click.Choice(("http", "kafka")), default="http", show_default=True)
@click.option(
    "--ready-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="http: where `headrace up --ready-file` wrote addresses and write keys; default: the data folder of the "
    "`up` whose HEADRACE_CONFIG is set.",
)
@click.option(
    "--customers", type=click.IntRange(1, 100_000), default=200, show_default=True, help="kafka: customers 1 to this."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    rate: float,
    duration_s: float,
    shape: Shape,
    seed: int | None,
    target: str,
    ready_file: Path | None,
    customers: int,
    as_json: bool,
) -> None:
    """Generate events: 50 names, 500 paths, 30 countries, 100,000 users, 10 % duplicates, 2 % late.

    With --target http they go through the gateway as an SDK would send them, with --target kafka straight into
    the topic (for benches).
    """
    settings = Settings.load()
    log.configure(settings, "load")
    clock, pace = SystemClock(), Pace(shape, rate, duration_s)
    receiver: Target
    if target == "http":
        url, keys = gateway(settings, ready_file)
        receiver, customer_ids = HTTPTarget(url, keys, linger_s=SDK_LINGER_S), sorted(keys)
    else:
        receiver, customer_ids = KafkaTarget(BulkPublisher(settings)), list(range(1, customers + 1))
    number = random.SystemRandom().randrange(2**31) if seed is None else seed
    workload = Workload(number, schedule(pace, clock.now_us()), customer_ids)
    try:
        with _progress_bar(pace) as on_progress:
            done = drive(workload, pace, receiver, clock, on_progress=on_progress)
    finally:
        receiver.close()
    tally = receiver.tally
    answer = {
        "sent": done.sent, "duplicates": done.duplicates, "acknowledged": tally.acknowledged,
        "rejected": tally.rejected, "retries": tally.retries, "seconds": round(done.seconds, 3),
        "rate": round(done.sent / done.seconds, 1), "behind_s_max": round(done.behind_s_max, 3), "seed": number,
    }  # fmt: skip
    if as_json:
        click.echo(json.dumps(answer))
        return
    click.echo(
        f"{done.sent:,} events in {done.seconds:.1f} s ({answer['rate']:,} a second), {tally.acknowledged:,} "
        f"acknowledged; {done.duplicates:,} repeat an earlier one; seed {number}"
    )
    for reason, count in sorted(tally.rejected.items()):
        click.echo(f"  {count:,} rejected: {reason}", err=True)
    if done.behind_s_max > 1:
        click.echo(f"the target fell up to {done.behind_s_max:.1f} s behind the pace", err=True)


def gateway(settings: Settings, ready_file: Path | None) -> tuple[str, Mapping[int, str]]:
    """Address and write keys: from a ready file, else from the data folder that the settings name.

    Raises UsageError, ConfigurationError for a damaged credentials file.
    """
    if ready_file is None:
        return _gateway_of_up(settings)
    try:
        ready = json.loads(ready_file.read_text(encoding="utf-8"))
        return ready["ingest_url"], {c["customer_id"]: c["write_key"] for c in ready["customers"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{ready_file} is no ready file of `headrace up`: {error!r}") from error


def _gateway_of_up(settings: Settings) -> tuple[str, Mapping[int, str]]:
    folder = Path(settings.data_dir)
    if not settings.data_dir or not (folder / credentials.FILE_NAME).exists():
        raise UsageError(
            "--target http needs write keys",
            remedy="set HEADRACE_CONFIG as `headrace up` prints it, or give --ready-file FILE, as "
            "`headrace up --ready-file FILE` wrote it (secrets are never flags)",
        )
    keys = {each.customer_id: each.write_key for each in credentials.load_or_make(folder).customers}
    if not keys:
        raise UsageError(f"{folder} has no customers yet", remedy="wait until `headrace up` says that all answers")
    return f"http://{settings.ingest_host}:{settings.ingest_port}", keys


@contextmanager
def _progress_bar(pace: Pace) -> Iterator[Callable[[int, float], None]]:
    """A bar on a terminal's stderr; elsewhere nothing is drawn."""
    console = Console(stderr=True)
    behind = TextColumn("{task.completed:,.0f} events, {task.fields[behind]:.1f} s behind")
    with Progress(
        BarColumn(), behind, TimeRemainingColumn(), console=console,
        disable=not (console.is_terminal and sys.stderr.isatty()),
    ) as bar:  # fmt: skip
        task = bar.add_task("load", total=pace.rows, behind=0.0)

        def update(sent: int, behind_s: float) -> None:
            bar.update(task, completed=sent, behind=behind_s)

        yield update
