"""The Mixpanel ingestion API: events (/track, /import), updates of profiles (/engage) and of groups' (/groups).

The write key is the project's token in each message; a key in the Authorization header counts before it. The sender's
time is believed. Session recordings and remote settings are answered and nothing is taken: no recording is stored
here. `redirect` is ignored, this sends nobody anywhere.
"""
# ruff: noqa: ARG002 (the signatures are the seam's, see decoder.py)

from collections.abc import Sequence
from typing import Any, Final

from producers.gateway.answers import Answer, Refusal, Rejection, json_answer
from producers.gateway.json_body import Unusable, mentioned_keys
from producers.gateway.protocols.decoder import Decoded, Decoder, Events, RawEvent, Request, Route
from producers.gateway.protocols.mixpanel_answers import imported, refused, taken
from producers.gateway.protocols.mixpanel_body import Body, option, read_body
from producers.gateway.protocols.mixpanel_events import to_event, to_profile, token_of, unusable

PROTOCOL: Final = "mixpanel"
METHODS: Final = frozenset(("GET", "POST"))
"""Servers' SDKs send single messages by GET, to every path."""
SENT_CHARS_MAX: Final = 32
"""Of the parameter `_`, a time in milliseconds."""

_GET = frozenset(("GET",))
_POST = frozenset(("POST",))


class Mixpanel:
    """/track; the other paths differ in what a message is, or in how they answer."""

    name = PROTOCOL
    volatile_keys: frozenset[str] = frozenset()

    def decode(self, request: Request, events_max: int) -> Decoded:
        body = read_body(request, events_max)
        tokens = _tokens(body)
        events = Messages(self, body, tokens[0] if tokens else None, _sent(request) if body.is_batch else None)
        keys = [*tokens, *(key for name in ("token", "api_key") if (key := option(request, name)))]
        return Decoded(events, list(dict.fromkeys(keys)), body.cleaned)

    def event(self, message: dict[str, Any], mark: tuple[str, int] | None) -> RawEvent | Unusable:
        """One message as an event; for `mark` see `to_profile`."""
        return to_event(message)

    def success(self, request: Request, decoded: Decoded, rejections: Sequence[Rejection]) -> Answer:
        return taken(request, rejections)

    def failure(self, request: Request, refusal: Refusal) -> Answer:
        return refused(request, refusal)


class MixpanelImport(Mixpanel):
    """/import: events of any age, with answers that count them."""

    def success(self, request: Request, decoded: Decoded, rejections: Sequence[Rejection]) -> Answer:
        return imported(request, decoded, rejections)


class MixpanelProfiles(Mixpanel):
    """/engage, or /groups."""

    def __init__(self, *, is_group: bool) -> None:
        self._is_group = is_group

    def event(self, message: dict[str, Any], mark: tuple[str, int] | None) -> RawEvent | Unusable:
        return to_profile(message, mark, is_group=self._is_group)


class Messages(Events):
    """A body's messages. `token` is the one that the request counts for, `sent` the sender's mark of this very
    request."""

    def __init__(self, kind: Mixpanel, body: Body, token: str | None, sent: str | None) -> None:
        super().__init__(body.messages)
        self._kind = kind
        self._body = body
        self._token = token
        self._sent = sent

    def made(self, item: Any, index: int) -> RawEvent | Unusable:
        if isinstance(item, Unusable):
            return item
        if not isinstance(item, dict):
            return unusable(item, "not_an_object", "a message must be a JSON object", self._body.content)
        token = token_of(item)
        if token is not None and token != self._token:
            why = "the message names another token than the first of its request"
            return unusable(item, "other_write_key", why, self._body.content)
        return self._kind.event(item, None if self._sent is None else (self._sent, index))


def _tokens(body: Body) -> list[str]:
    """The first token among the messages; if all that name one are unusable, what they seem to name."""
    for message in body.messages:
        token = token_of(message) if isinstance(message, dict) else None
        if token is not None:
            return [token]
    for message in body.messages:
        if isinstance(message, Unusable):
            mentioned = mentioned_keys(message.raw)
            if mentioned:
                return mentioned[:1]
    return []


def _sent(request: Request) -> str | None:
    """When a browser sent a batch. Chromium resends a request whose connection broke as it was; mixpanel-browser
    sends one batch of a kind at a time, so two batches of one sender never share it."""
    sent = request.query.get("_")
    return sent if sent and len(sent) <= SENT_CHARS_MAX else None


def _settings(_: Request) -> Answer:
    """No remote settings: the SDK keeps its own."""
    return json_answer({})


def _recorded(_: Request) -> Answer:
    """What lets a session recorder drop what it sent."""
    return json_answer({"code": 200, "status": "OK"})


TRACK: Final[Decoder] = Mixpanel()
"""For `/track`, whose path another protocol shares; it takes METHODS."""


def routes() -> list[Route]:
    """The paths of this family but `/track`."""
    return [
        Route("/import", METHODS, "Mixpanel: events of any age", MixpanelImport()),
        Route("/engage", METHODS, "Mixpanel: updates of profiles", MixpanelProfiles(is_group=False)),
        Route("/groups", METHODS, "Mixpanel: updates of groups' profiles", MixpanelProfiles(is_group=True)),
        Route("/settings", _GET, "Mixpanel: its browser SDK's remote settings", fixed=_settings),
        Route("/record", _POST, "Mixpanel: session recordings, not taken", fixed=_recorded),
    ]
