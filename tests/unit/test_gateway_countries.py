"""The country of an address: files of all makers, replaced, broken and absent ones; whose address counts."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import ConfigurationError
from headrace.runtime import checks
from headrace.settings import Settings
from producers.gateway.addresses import ADDRESS_CHARS_MAX, networks, parse_address, sender_address, truncated
from producers.gateway.countries import Countries, open_database
from producers.gateway.devices import SenderLookup
from producers.gateway.enrich import NOTHING
from producers.gateway.sender import Sender, Senders
from tests.unit.mmdb_file import mmdb

WAIT_S = 10.0
GERMAN, CHILEAN, GOOGLE = "81.2.69.142", "2001:db8:c1::7", "8.8.8.8"
NETWORKS = {
    "81.2.69.0/24": {"country": {"iso_code": "DE", "names": {"en": "Germany"}}},
    "2001:db8:c1::/48": {"country_code": "cl"},
    "8.8.8.0/24": {"country": "US", "asn": "AS15169"},
    "192.0.2.0/24": {"country": "Nowhere", "country_code": "Nowhere"},
    "198.51.100.0/24": "a text",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "countries.mmdb"
    path.write_bytes(mmdb(NETWORKS))
    return path


@pytest.fixture
def start() -> Iterator[Callable[[Path], Countries]]:
    started: list[Countries] = []

    def made(path: Path) -> Countries:
        started.append(Countries(Settings(country_database=str(path), country_database_check_s=0)))
        started[-1].start()
        return started[-1]

    yield made
    for each in started:
        each.close()


def wait_for(countries: Countries, address: str, country: str | None) -> None:
    deadline = time.monotonic() + WAIT_S
    while countries(address) != country:
        assert time.monotonic() < deadline, f"{address} is in {countries(address)}, not in {country}"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("address", "country"),
    [
        (GERMAN, "DE"),
        (f"::ffff:{GERMAN}", "DE"),
        (f"{GERMAN}:443", "DE"),
        (CHILEAN, "CL"),
        (f"[{CHILEAN}]:443", "CL"),
        (GOOGLE, "US"),
        ("192.0.2.1", None),
        ("198.51.100.1", None),
        ("203.0.113.1", None),
        ("127.0.0.1", None),
        ("$remote", None),
        ("", None),
        ("1" * 100_000, None),
        ("\ud800", None),
    ],
)
def test_a_country_by_every_makers_fields(
    start: Callable[[Path], Countries], file: Path, address: str, country: str | None
) -> None:
    assert start(file)(address) == country


def test_a_replaced_file_is_read_and_a_broken_one_leaves_the_old_in_use(
    start: Callable[[Path], Countries], file: Path, tmp_path: Path
) -> None:
    countries = start(file)
    assert countries(GERMAN) == "DE"
    newer = tmp_path / "newer"
    newer.write_bytes(mmdb({"81.2.69.0/24": {"country_code": "FR"}}))
    newer.replace(file)
    wait_for(countries, GERMAN, "FR")
    file.write_bytes(b"half a download")  # in place: what was mapped must not change under us
    assert countries("81.2.69.143") == "FR"
    time.sleep(0.2)
    assert countries("81.2.69.144") == "FR"
    file.unlink()
    time.sleep(0.2)
    assert countries("81.2.69.145") == "FR"
    file.write_bytes(mmdb({"81.2.69.0/24": {"country_code": "AT"}}))
    wait_for(countries, GERMAN, "AT")


def test_a_file_that_comes_later_is_found(start: Callable[[Path], Countries], tmp_path: Path) -> None:
    path = tmp_path / "later.mmdb"
    countries = start(path)
    assert (countries.is_loaded, countries(GERMAN)) == (False, None)
    path.write_bytes(mmdb(NETWORKS))
    wait_for(countries, GERMAN, "DE")


def test_without_a_file_nothing_runs_and_nothing_is_known() -> None:
    countries = Countries(Settings())
    countries.start()
    assert (countries(GERMAN), countries.is_loaded) == (None, False)
    countries.close()


def test_a_lookup_fills_the_country_that_nobody_told(file: Path) -> None:
    lookup = SenderLookup(Settings(country_database=str(file)))
    lookup.start()
    try:
        assert lookup(NOTHING, address=GERMAN, user_agent="").country == "DE"
        told = replace_country(NOTHING, "Chile")
        assert lookup(told, address=GERMAN, user_agent="") is told
        both = lookup(NOTHING, address=GOOGLE, user_agent="Mozilla/5.0 (X11; Linux x86_64) Firefox/128.0")
        assert (both.country, both.os, both.device) == ("US", "Linux", "desktop")
    finally:
        lookup.close()


def replace_country(enriched: Any, country: str) -> Any:
    return enriched._replace(country=country)


@pytest.mark.parametrize("content", [b"", b"x" * 5000, mmdb(NETWORKS)[:-30]])
def test_what_is_no_database_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.mmdb"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"x\.mmdb"):
        open_database(path)
    with pytest.raises(ConfigurationError, match="cannot read"):
        open_database(tmp_path / "none")


def test_the_doctor_judges_the_file(tmp_path: Path, file: Path) -> None:
    def check(path: Path | None) -> checks.Check:
        return checks.country_database(Settings(country_database=str(path) if path else ""))

    none = check(None)
    assert (none.status, "HEADRACE_COUNTRY_DATABASE" in none.fix) == ("warning", True)
    assert check(tmp_path / "none").status == "failed"
    other = tmp_path / "asn.mmdb"
    other.write_bytes(mmdb({"8.8.8.0/24": {"autonomous_system_number": 15169}}, type="ASN"))
    assert check(other).status == "failed" and "no country" in check(other).evidence
    file.write_bytes(mmdb(NETWORKS, built_s=round(time.time()) - 10 * 86_400))
    assert check(file).status == "ok" and "10 days" in check(file).evidence
    file.write_bytes(mmdb(NETWORKS, built_s=round(time.time()) - 400 * 86_400))
    assert check(file).status == "warning"


def test_the_doctor_judges_key_and_proxies() -> None:
    assert checks.privacy(Settings()).status == "ok"
    assert checks.privacy(Settings(privacy_key="k" * 16)).status == "ok"
    assert "at least 16" in checks.privacy(Settings(privacy_key="short")).evidence
    assert "10.0.0.0/99" in checks.privacy(Settings(trusted_proxies="10.0.0.0/99")).evidence


# Whose address


@pytest.mark.parametrize(
    ("peer", "forwarded", "sender"),
    [
        ("203.0.113.9", None, "203.0.113.9"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("127.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("127.0.0.1", "6.6.6.6, 198.51.100.1", "198.51.100.1"),
        ("127.0.0.1", "6.6.6.6, 198.51.100.1, 10.1.2.3", "198.51.100.1"),
        ("127.0.0.1", "6.6.6.6, unknown, 10.1.2.3", "10.1.2.3"),
        ("127.0.0.1", "10.0.0.9, 10.0.0.8", "10.0.0.9"),
        ("::1", "[2001:db8::1]:4711", "2001:db8::1"),
        ("::ffff:127.0.0.1", "198.51.100.1:80", "198.51.100.1"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", ",,,", "127.0.0.1"),
        ("127.0.0.1", "6.6.6.6," + "10.0.0.1," * 1000 + "10.0.0.1", "10.0.0.1"),
        ("", "198.51.100.1", ""),
    ],
)
def test_only_trusted_proxies_are_believed(peer: str, forwarded: str | None, sender: str) -> None:
    assert sender_address(peer, forwarded, networks("127.0.0.0/8, ::1/128,10.0.0.0/8", "x")) == sender


def test_by_default_only_this_machines_proxies_are_believed() -> None:
    headers = {"x-forwarded-for": "198.51.100.1", "user-agent": "Mozilla/5.0"}
    senders = Senders(Settings())
    assert senders.of(headers, ("127.0.0.1", 5)).address == "198.51.100.1"
    assert senders.of(headers, ("10.0.0.1", 5)).address == "10.0.0.1"
    assert senders.of(headers, None).address == ""
    nobody = Senders(replace(Settings(), trusted_proxies=""))
    assert nobody.of(headers, ("127.0.0.1", 5)).address == "127.0.0.1"
    with pytest.raises(ConfigurationError, match="trusted_proxies holds 'nonsense'"):
        Senders(replace(Settings(), trusted_proxies="10.0.0.0/8,nonsense"))


@pytest.mark.parametrize(
    ("headers", "sender"),
    [
        ({"user-agent": "Mozilla/5.0 x"}, Sender("1.1.1.1", "Mozilla/5.0 x", True, False)),
        ({"user-agent": "python-requests/2"}, Sender("1.1.1.1", "", False, False)),
        ({"user-agent": "Shop/3 CFNetwork/1410 Darwin/22"}, Sender("1.1.1.1", "", True, False)),
        ({}, Sender("1.1.1.1", "", False, False)),
        ({"dnt": "1"}, Sender("1.1.1.1", "", False, True)),
        ({"sec-gpc": "1"}, Sender("1.1.1.1", "", False, True)),
        ({"dnt": "0", "sec-gpc": "?0"}, Sender("1.1.1.1", "", False, False)),
    ],
)
def test_what_headers_tell(headers: dict[str, str], sender: Sender) -> None:
    assert Senders(Settings()).of(headers, ("1.1.1.1", 80)) == sender


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("203.0.113.77", "203.0.113.0"),
        ("203.0.113.77:8080", "203.0.113.0"),
        ("::ffff:203.0.113.77", "203.0.113.0"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
        ("fe80::1%eth0", "fe80::"),
        ("$remote", None),
        ("0", None),
        ("1.2.3", None),
    ],
)
def test_a_truncated_address_keeps_its_network(text: str, short: str | None) -> None:
    assert truncated(text) == short


def test_an_overlong_text_is_no_address() -> None:
    assert parse_address("1.1.1.1" + " " * ADDRESS_CHARS_MAX) is None
