"""The paths that two protocols share: which one a request speaks is told by a look at its body, not by parsing it.

`/batch` is Amplitude's (`events`) and PostHog's (`batch`); `/track` is Mixpanel's, and PostHog's of old when the body
is a JSON object that names an `api_key` and no `token`.
"""

import re
from typing import Final

from producers.gateway.protocols import amplitude, mixpanel, posthog
from producers.gateway.protocols.decoder import Decoder, Request, Route

_LIST: Final = re.compile(rb'"(events|batch)"\s*:\s*\[')
_API_KEY: Final = re.compile(rb'"api_key"\s*:')
_TOKEN: Final = re.compile(rb'"token"\s*:')
_POST: Final = frozenset(("POST",))
_POST_GET: Final = frozenset(("POST", "GET"))


def batch_decoder(request: Request) -> Decoder:
    """Whose list comes first; one that is neither's is answered by PostHog."""
    found = _LIST.search(request.body)
    return amplitude.BATCH if found is not None and found[1] == b"events" else posthog.BATCH


def track_decoder(request: Request) -> Decoder:
    """Mixpanel, unless it is PostHog's object."""
    body = request.body
    theirs = body.lstrip()[:1] == b"{" and _API_KEY.search(body) is not None and _TOKEN.search(body) is None
    return posthog.CAPTURE if theirs else mixpanel.TRACK


def routes() -> list[Route]:
    """Paths with a choice."""
    return [
        Route("/batch", _POST, "PostHog or Amplitude: a batch of events", posthog.BATCH, choose=batch_decoder),
        Route("/track", _POST_GET, "Mixpanel: events; PostHog: one event", mixpanel.TRACK, choose=track_decoder),
    ]
