"""The country of an address, from a local MMDB file that the operator names.

Countries are ISO 3166-1 alpha-2 codes. Read are the files of MaxMind, DB-IP, IPinfo and ip-location-db. Guarantees:
an answer never raises and never waits for a disk, addresses that were asked before come from a bounded memory, and a
file that changed is read within `country_database_check_s`, by a thread of its own from a private copy, so that
overwriting the file in place harms nobody. A file that cannot be read leaves the one before it in use; without any,
every answer is None.
"""

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import maxminddb

from headrace import metrics
from headrace.errors import ConfigurationError
from headrace.log import get_logger
from headrace.settings import Settings
from producers.gateway.addresses import Address, parse_address

REMEMBERED_MAX: Final = 20_000
"""Addresses whose country is kept."""
CHECK_S_MIN: Final = 0.05
CODE_CHARS: Final = 2
PROBES: Final = ("1.1.1.1", "8.8.8.8", "9.9.9.9", "193.0.6.139", "200.160.2.3", "2001:4860:4860::8888")
"""Addresses that any list of countries knows: an MMDB file of something else (networks, cities' names) tells none."""

Find = Callable[[str], str | None]
_NEVER: Final = (-1,)

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Database:
    """An open file. `built_s`: when it was made, Unix seconds. `type`: what it says it is."""

    find: Find
    built_s: int
    type: str
    knows_countries: bool


def open_database(path: Path) -> Database:
    """Open a private copy of the file. Raises ConfigurationError when it is missing or no MMDB file. Blocks."""
    try:
        with tempfile.NamedTemporaryFile(prefix="headrace-countries-", suffix=".mmdb") as copy:
            with path.open("rb") as source:
                shutil.copyfileobj(source, copy)
            copy.flush()
            reader = maxminddb.open_database(copy.name)  # mapped: what is mapped stays when the name goes
    except OSError as error:
        raise ConfigurationError(f"cannot read the country database {path}: {error.strerror or error}") from error
    except (maxminddb.InvalidDatabaseError, ValueError) as error:
        raise ConfigurationError(f"{path} is no MMDB file: {error}", remedy="fetch it again") from error
    about = reader.metadata()

    @lru_cache(maxsize=REMEMBERED_MAX)
    def find_one(address: Address) -> str | None:
        try:
            return _code(reader.get(address))
        except (maxminddb.InvalidDatabaseError, ValueError):  # a broken page, or IPv6 in a file for IPv4
            return None

    def find(text: str) -> str | None:
        address = parse_address(text)
        return None if address is None else find_one(address)

    return Database(find, about.build_epoch, about.database_type, any(find(probe) is not None for probe in PROBES))


class Countries:
    """The file in use. `start` reads it and follows it, `close` ends that; without a file both do nothing."""

    def __init__(self, settings: Settings) -> None:
        self._path = Path(settings.country_database) if settings.country_database else None
        self._check_s = max(settings.country_database_check_s, CHECK_S_MIN)
        self._find: Find | None = None
        self._seen: tuple[int, ...] | None = _NEVER
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def __call__(self, address: str) -> str | None:
        """The country's code, None if it is unknown."""
        return None if self._find is None else self._find(address)

    @property
    def is_loaded(self) -> bool:
        """Whether there is anything to ask."""
        return self._find is not None

    def start(self) -> None:
        """Read the file, which blocks for some milliseconds, and follow it from now on. Never raises."""
        if self._path is None or self._thread is not None:
            return
        self._look(self._path)
        self._thread = threading.Thread(target=self._follow, args=(self._path,), name="countries", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop following the file."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _follow(self, path: Path) -> None:
        while not self._stopping.wait(self._check_s):
            self._look(path)

    def _look(self, path: Path) -> None:
        """Take the file into use if it is another than before."""
        state = _state(path)
        if state == self._seen:
            return
        try:
            database = open_database(path)
        except ConfigurationError as error:
            if _state(path) == state:  # else it is being written: the next look will see it
                self._seen = state
                log.error("country_database_unreadable", error=str(error), in_use=self._find is not None)
            return
        except Exception:  # a thread's edge: enrichment is never worth a gateway
            log.exception("country_database_unreadable", file=str(path))
            self._seen = state
            return
        if _state(path) != state:
            return
        self._seen = state
        self._find = database.find
        metrics.gauge("headrace_country_database_built_seconds").set(database.built_s)
        if database.knows_countries:
            log.info("country_database_read", file=str(path), type=database.type, built_s=database.built_s)
        else:
            log.error("country_database_without_countries", file=str(path), type=database.type)


def _state(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is replaced or written; None if it is not there."""
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns
    return None


def _code(record: Any) -> str | None:
    """The country of a record, in the shape of any of the files named above."""
    if not isinstance(record, dict):
        return None
    country = record.get("country")
    told = country.get("iso_code") if isinstance(country, dict) else record.get("country_code") or country
    if isinstance(told, str) and len(told) == CODE_CHARS and told.isascii() and told.isalpha():
        return told.upper()
    return None
