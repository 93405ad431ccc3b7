"""Requests that Hypothesis makes from nothing but the fields' names: what no recorded request leads to.

Reproducible: the default run always tries the same inputs, a longer one prints the blob that repeats a failure, and
the smallest failing input is printed as Python and kept in a file (see hunt.py).
"""

import asyncio
import base64
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producers.gateway.protocols import routes
from tests.fuzz.amount import GENERATED, INPUTS
from tests.fuzz.door import Door
from tests.fuzz.hunt import kept
from tests.fuzz.judge import faults
from tests.fuzz.seeds import KEY, family_of
from tests.fuzz.sent import Sent
from tests.fuzz.values import NAMES

FAMILIES = sorted({family_of(route.path) for route in routes().routes if route.decoder is not None})
DEFAULT_INPUTS = 20_000
ENVELOPES = {
    "segment batch": "batch",
    "posthog": "batch",
    "posthog v1": "batch",
    "amplitude": "events",
    "snowplow": "data",
}
KEY_FIELDS = ("writeKey", "api_key", "token", "$token", "aid", "client")
FORM_FIELDS = ("data", "e", "event", "identification")

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(), max_size=12),
    st.sampled_from(("", "track", "identify", "$identify", "2024-02-29T00:00:35Z", "ue", "pv", "1.0", KEY)),
)  # fmt: skip
FIELD_NAMES = st.sampled_from(NAMES)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(FIELD_NAMES | st.text(st.characters(), max_size=3), inner)
    ),
    max_leaves=6,
)
MESSAGES = st.dictionaries(FIELD_NAMES, VALUES, max_size=8)
HEADERS = st.dictionaries(
    st.sampled_from(("content-type", "user-agent", "x-forwarded-for", "dnt", "sentat", "ce-id", "ce-type",
                     "ce-source", "ce-specversion", "ce-time", "posthog-attempt", "x-write-key", "content-encoding")),
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=10)
    | st.sampled_from((KEY, "1.0", "1", "gzip", "application/cloudevents+json", "application/x-ndjson")),
    max_size=3,
)  # fmt: skip


def written(value: Any) -> bytes:
    """As JSON, NaN and unpaired surrogates included."""
    return json.dumps(value, separators=(",", ":")).encode()


@st.composite
def requests(draw: st.DrawFn, family: str) -> Sent:
    """A request to one of a family's paths."""
    route = draw(st.sampled_from([r for r in routes().routes if r.decoder and family_of(r.path) == family]))
    method = draw(st.sampled_from(sorted(route.methods)))
    messages = draw(st.lists(MESSAGES | VALUES, max_size=3))
    message: Any = messages[0] if messages else draw(MESSAGES)
    envelope = draw(MESSAGES) | {draw(st.sampled_from(KEY_FIELDS)): KEY}
    body, query = b"", b""
    shape = draw(st.sampled_from(("envelope", "envelope", "list", "one", "form", "base64 form", "lines", "bytes")))
    if shape == "envelope":
        body = written(envelope | {ENVELOPES.get(family, "batch"): messages})
    elif shape == "list":
        body = written(messages)
    elif shape == "one":
        body = written(message)
    elif shape == "lines":
        body = b"\n".join(map(written, messages))
    elif shape == "bytes":
        body = draw(st.binary(max_size=60))
    else:
        text = written(draw(st.sampled_from((message, messages))))
        text = base64.b64encode(text) if shape == "base64 form" else text
        body = f"api_key={KEY}&{draw(st.sampled_from(FORM_FIELDS))}={quote_plus(text)}".encode()
    if method == "GET":
        fields = message if isinstance(message, dict) else {"data": message}
        query = body if b"=" in body else b"&".join(
            quote_plus(name.encode("utf-8", "replace")).encode() + b"="
            + quote_plus(item.encode("utf-8", "surrogatepass") if isinstance(item, str) else written(item)).encode()
            for name, item in fields.items()
        )  # fmt: skip
        body = b""
    headers = {name: value.encode("latin-1") for name, value in draw(HEADERS).items()}
    if draw(st.integers(0, 4)):
        headers["authorization"] = b"Basic " + base64.b64encode(KEY.encode() + b":")
    if draw(st.booleans()):
        headers["origin"] = b"https://shop.example"
    return Sent(method, route.path, query, tuple((name.encode(), value) for name, value in headers.items()), body)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


@pytest.mark.parametrize("family", FAMILIES)
def test_no_request_breaks_the_door(family: str, runner: asyncio.Runner) -> None:
    async def opened() -> Door:
        return Door()

    door = runner.run(opened())

    @settings(
        max_examples=max(1, GENERATED // len(FAMILIES)),
        deadline=None,
        derandomize=INPUTS <= DEFAULT_INPUTS,
        database=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(requests(family))
    def holds(sent: Sent) -> None:
        found = faults(sent, runner.run(door.ask(sent)))
        assert not found, kept(f"generated-{family.replace(' ', '-')}", sent, found)

    try:
        holds()
    finally:
        runner.run(door.close())
