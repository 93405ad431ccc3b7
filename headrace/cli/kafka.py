"""`headrace kafka install`: fetch Apache Kafka's jars once, so that `up`, tests and benches can run it."""

import json
import time

import rich_click as click

from headrace.runtime import kafka_install


@click.group("kafka")
def command() -> None:
    """Apache Kafka for this machine."""


@command.command("install")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def install(as_json: bool) -> int:
    """Fetch Apache Kafka's jars with Maven into the cache folder, check each against its committed SHA-256.

    Needs a JRE 17 or newer and Maven; says what to install when one is missing. Does nothing when all is there.
    """
    java = kafka_install.find_java()
    folder = kafka_install.cache_folder()
    wrong = kafka_install.wrong_jars(folder) if folder.is_dir() else []
    if wrong:
        raise kafka_install.InstallFailedError(
            f"{folder} holds other jars than it should: {', '.join(wrong[:5])}",
            remedy=f"remove {folder} and try again",
        )
    began = time.monotonic()
    fetched = not folder.is_dir()
    if fetched:
        click.echo(f"fetching Apache Kafka {kafka_install.KAFKA_VERSION} with Maven (some 60 MB) ...", err=True)
        kafka_install.install(folder)
    outcome = {
        "version": kafka_install.KAFKA_VERSION,
        "folder": str(folder),
        "java": str(java),
        "fetched": fetched,
        "seconds": round(time.monotonic() - began, 1),
    }
    if as_json:
        click.echo(json.dumps(outcome))
    else:
        click.echo(
            f"Apache Kafka {kafka_install.KAFKA_VERSION} is in {folder}; {'fetched now' if fetched else 'as before'}"
        )
    return 0
