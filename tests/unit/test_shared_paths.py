"""Whose request it is on a path that two protocols share."""

import pytest

from producers.gateway.protocols import amplitude, mixpanel, posthog, routes
from producers.gateway.protocols.decoder import Decoder, Request


@pytest.mark.parametrize(
    ("path", "body", "decoder"),
    [
        ("/batch", b'{"api_key":"k","events":[{"event_properties":{"batch":[1]}}]}', amplitude.BATCH),
        ("/batch/", b'{"api_key":"k", "batch": [{"properties":{"events":[1]}}]}', posthog.BATCH),
        ("/batch", b"not JSON at all", posthog.BATCH),
        ("/track", b"data=%5B%5D&verbose=1", mixpanel.TRACK),
        ("/track/", b'[{"event":"a","properties":{"token":"k"}}]', mixpanel.TRACK),
        ("/track", b'{"event":"a","properties":{"token":"k","api_key":"x"}}', mixpanel.TRACK),
        ("/track", b' {"api_key":"k","event":"a","distinct_id":"u"}', posthog.CAPTURE),
        ("/track", b"", mixpanel.TRACK),
    ],
)
def test_the_body_tells_whose_request_it_is(path: str, body: bytes, decoder: Decoder) -> None:
    found = routes().find(path)
    assert found is not None and found[0].choose is not None
    assert found[0].choose(Request("POST", path, "http", {}, {}, body, 0)) is decoder


def test_every_path_stands_once_and_is_found_with_a_trailing_slash() -> None:
    table = routes()
    paths = [route.path for route in table.routes]
    assert len(paths) == len(set(paths))
    for route in table.routes:
        found = table.find(route.path.replace("{", "x").replace("}", "") + "/")
        assert found is not None and found[0] is route
