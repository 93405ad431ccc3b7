"""The largest bodies that are taken, made to cost most: each is answered within the bound of judge.py all the same.

The mutated inputs are small, so that many can be tried; what grows faster than its body would hide from them.
"""

import base64
import json
from urllib.parse import quote_plus

import pytest

from tests.fuzz.hunt import faults_of
from tests.fuzz.sent import Sent

BODY_BYTES = 4 * 1024 * 1024 - 100
EVENTS = 19_990
SNOWPLOW = "/com.snowplowanalytics.snowplow/tp2"
CLOUD = "/v1/cloudevents"
LISTS = (
    ("/v1/batch", b'{"batch":[', b"]}"),
    ("/e", b'{"batch":[', b"]}"),
    ("/2/httpapi", b'{"events":[', b"]}"),
    (SNOWPLOW, b'{"data":[', b"]}"),
    ("/track", b"[", b"]"),
    (CLOUD, b"[", b"]"),
)
NOT_PLAIN = b'{"event":"e","type":"track","x":NaN,"y":[1,{"a":2}],"z":"' + b"z" * 130 + b'"}'
SURROGATES = b'{"event":"e","type":"track","p":"' + b"\\ud800" * 25 + b'"}'
MANY_KEYS = (
    b'{"event":"e","type":"track","properties":{' + b",".join(b'"%d":{}' % number for number in range(900)) + b"}}"
)
INNER = base64.b64encode(b'{"schema":"iglu:a/b/c","data":[NaN,{"a":1}]}').decode()


def filled(head: bytes, item: bytes, separator: bytes, tail: bytes, bytes_max: int = BODY_BYTES) -> bytes:
    """As many items as may come."""
    count = min(EVENTS, (bytes_max - len(head) - len(tail)) // (len(item) + len(separator)))
    return head + separator.join([item] * count) + tail


def keyed(path: str, body: bytes, key: bytes = b"wk_test", content_type: bytes = b"text/plain") -> Sent:
    return Sent(
        "POST", path, headers=((b"authorization", b"Bearer " + key), (b"content-type", content_type)), body=body
    )


@pytest.mark.parametrize(("path", "head", "tail"), LISTS)
@pytest.mark.parametrize("item", [NOT_PLAIN, SURROGATES], ids=["not plain", "surrogates"])
def test_a_body_to_take_apart(path: str, head: bytes, tail: bytes, item: bytes) -> None:
    assert faults_of(keyed(path, filled(head, item, b",", tail))) == []


@pytest.mark.parametrize(("path", "head", "tail"), LISTS)
def test_events_to_look_through_for_private_data(path: str, head: bytes, tail: bytes) -> None:
    assert faults_of(keyed(path, filled(head, MANY_KEYS, b",", tail), b"wk_private")) == []


@pytest.mark.parametrize(("path", "head", "tail"), LISTS)
def test_nothing_but_brackets_or_digits(path: str, head: bytes, tail: bytes) -> None:
    half = BODY_BYTES // 2 - 20
    assert faults_of(keyed(path, head + b"[" * half + b"]" * half + tail)) == []
    assert faults_of(keyed(path, head + b'{"x":NaN,"y":' + b"9" * (2 * half) + b"}" + tail)) == []


SNOWPLOW_EVENT = json.dumps({"e": "ue", "ue_px": INNER, "cx": INNER}).encode()
CLOUD_EVENT = json.dumps(
    {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data_base64": INNER, "datacontenttype": ""}
).encode()
NAN = b'{"event":"e","event_type":"e","x":NaN}'


@pytest.mark.parametrize(
    "sent",
    [
        keyed(SNOWPLOW, filled(b'{"data":[', SNOWPLOW_EVENT, b",", b"]}")),
        keyed(CLOUD, filled(b"[", CLOUD_EVENT, b",", b"]"), content_type=b"application/cloudevents-batch+json"),
        keyed("/track", filled(b"", NAN, b"\n", b"")),
        keyed("/track", b"data=" + quote_plus(filled(b"[", NAN, b",", b"]", 1_200_000)).encode()),
        keyed("/track", b"data=" + b"%" * 4_000_000),
        keyed("/track", b"a&" * 2_000_000),
        keyed("/track", b'[{"event":"' + b"\xed\xa0\xbd\xed\xb8\x80" * 600_000 + b'"}]'),
        keyed("/httpapi", b"e=" + quote_plus(filled(b"[", NAN, b",", b"]", 600_000)).encode()),
        keyed("/e", b"data=" + quote_plus(base64.b64encode(filled(b"[", NAN, b",", b"]", 700_000))).encode()),
    ],
    ids=[
        "snowplow inner",
        "cloudevents inner",
        "lines",
        "form",
        "percents",
        "ampersands",
        "CESU-8",
        "form of old",
        "beacon",
    ],
)
def test_json_within_json_forms_and_lines(sent: Sent) -> None:
    assert faults_of(sent) == []
