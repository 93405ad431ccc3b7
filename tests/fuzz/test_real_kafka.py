"""The nastier inputs, posted to a gateway as it runs: what it answers, and what real Kafka then holds, is what the
door says (door.py), so that what holds of the door holds of the gateway.

Requests are written by hand as bytes: an HTTP library would mend some of what is wrong with them.
"""

import asyncio
import json
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_from_bytes

import pytest

from headrace.shards.address import connect_control
from headrace.shards.write_keys import hash_write_key
from producers.gateway.normalise import PROPERTIES
from schemas.codec import event_arrow
from tests.fuzz.door import Door, Outcome
from tests.fuzz.judge import faults
from tests.fuzz.mutate import numbered
from tests.fuzz.seeds import KEY
from tests.fuzz.sent import Sent
from tests.integration.conftest import Databases, MakeSettings
from tests.integration.gateway_world import GatewayProcess, GatewayWorld, make_gateway_world

INPUTS_MAX = 400
OF_A_KIND_MAX = 12
"""Of inputs with the same protocol, status and reasons."""
LOOKED_AT_MAX = 12_000
QUERY_BYTES_MAX = 60_000
"""The server itself refuses targets of 64 KiB, with 414."""
TIMEOUT_S = 20.0
_ENDS = b"\r\n"
_OTHERS = frozenset((b"content-length", b"connection", b"host", b"transfer-encoding", b"dnt", b"sec-gpc"))
_QUERY_SAFE = "".join(character for character in map(chr, range(33, 127)) if character not in '"#<>')
"""What may stand in a request line; all else the server refuses before the gateway sees it, and clients escape."""


@pytest.fixture
def world(make_settings: MakeSettings, postgres: Databases, tmp_path: Path) -> GatewayWorld:
    """One customer, whose key is that of the inputs."""
    made = make_gateway_world(make_settings("kafka", "postgres"), postgres.shards, tmp_path)
    with connect_control(made.settings) as control:
        changed = control.execute("UPDATE write_keys SET key_hash = %s", (hash_write_key(KEY),))
        assert changed.rowcount == 1
    return made


@pytest.fixture
def gateway(world: GatewayWorld) -> Iterator[GatewayProcess]:
    with world.running() as process:
        yield process


def as_sent(sent: Sent) -> Sent:
    """The request as a client can write it: header values and query as HTTP allows them."""
    headers = tuple(
        (name, value.strip(b" \t"))
        for name, value in sent.headers
        if name not in _OTHERS and name.isascii() and len(name) > 3 and not set(value) & set(b"\r\n\x00")
    )
    return Sent(sent.method, sent.path, quote_from_bytes(sent.query, safe=_QUERY_SAFE).encode(), headers, sent.body)


def nasty_inputs() -> list[tuple[Sent, Outcome]]:
    """Inputs that a protocol took or refused, no more than a few of the same outcome, and the door's outcomes."""
    found: list[tuple[Sent, Outcome]] = []
    kinds: Counter[Any] = Counter()

    async def look() -> None:
        door = Door({KEY})
        for number in range(LOOKED_AT_MAX):
            sent = as_sent(numbered(number))
            if sent.method not in ("GET", "POST") or len(sent.query) > QUERY_BYTES_MAX:
                continue
            outcome = await door.ask(sent)
            reasons = tuple(sorted({item.reason for item in outcome.rejected}))
            kind = (outcome.decoder, outcome.status, reasons, outcome.body[:60] if outcome.status != 200 else b"")
            kinds[kind] += 1
            if outcome.decoder and kinds[kind] <= OF_A_KIND_MAX:
                assert faults(sent, outcome) == []
                found.append((sent, outcome))
                if len(found) == INPUTS_MAX:
                    break
        await door.close()

    asyncio.run(look())
    return found


def post(gateway: GatewayProcess, sent: Sent) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body of the answer."""
    target = quote(sent.path).encode() + (b"?" + sent.query if sent.query else b"")
    lines = [
        sent.method.encode() + b" " + target + b" HTTP/1.1",
        b"host: gateway",
        b"connection: close",
        b"content-length: %d" % len(sent.body),
        *(name + b": " + value for name, value in sent.headers),
    ]
    settings = gateway.settings
    with socket.create_connection((settings.ingest_host, settings.ingest_port), TIMEOUT_S) as connection:
        connection.sendall(_ENDS.join([*lines, b"", b""]) + sent.body)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, body = answer.partition(_ENDS * 2)
    first, *rest = head.split(_ENDS)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in rest)}
    return int(first.split()[1]), headers, body


def told(body: bytes) -> Any:
    """An answer's body without the time that stands in it."""
    try:
        value = json.loads(body)
    except ValueError:
        return body
    if isinstance(value, dict):
        value.pop("server_upload_time", None)
    return value


def test_the_gateway_answers_and_stores_what_the_door_says(world: GatewayWorld, gateway: GatewayProcess) -> None:
    inputs = nasty_inputs()
    assert len(inputs) == INPUTS_MAX
    for sent, outcome in inputs:
        status, headers, body = post(gateway, sent)
        assert (status, told(body)) == (outcome.status, told(outcome.body)), repr(sent)[:3_000]
        for name, value in outcome.headers.items():
            if name != b"content-length":
                assert headers.get(name) == value.strip(), (name, repr(sent)[:3_000])

    names = event_arrow().names
    columns = [names.index(name) for name in ("protocol", "type", "name", "user_id", "anonymous_id")] + [PROPERTIES]
    expected = Counter(tuple(row[at] for at in columns) for _, outcome in inputs for row in outcome.rows)
    stored = Counter(tuple(event[names[at]] for at in columns) for event in world.events())
    assert stored == expected
    rejected = Counter((item.reason, item.raw) for _, outcome in inputs for item in outcome.rejected)
    assert Counter(world.rejected()) == rejected
    assert "Traceback" not in gateway.log
