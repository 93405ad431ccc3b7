"""What a protocol has to offer, and what it is given: the seam between the wire and everything behind it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, overload

import msgspec

from producers.gateway.answers import Answer, Refusal, Rejection
from producers.gateway.columns import ColumnarBatch
from producers.gateway.json_body import Unusable
from producers.gateway.timestamps import TimeRule, stored_us


class Request(msgspec.Struct, frozen=True):
    """One request: path without a trailing slash, lower-case header names, body already inflated.

    `parameters` are the named parts of the path, `query` the first value of each key.
    """

    method: str
    path: str
    scheme: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    received_at_us: int
    parameters: Mapping[str, str] = msgspec.field(default_factory=dict)
    lenient: bool = True
    """Whether a body that is not plain JSON may be taken apart; without, decoding it raises NotPlainError."""


class RawEvent(msgspec.Struct):
    """One event as its protocol tells it, not yet judged: `normalise` decides what of it can be stored.

    Ids, `timestamp` and `sent_at` are as sent (None: absent). `timestamp` None means: when it was received.
    `raw` is the sender's object, for a message id made of it and for `events.rejected`. `time_rule`: how the
    protocol corrects the clock of a sender.
    """

    type: str
    name: Any
    message_id: Any
    user_id: Any
    anonymous_id: Any
    group_id: Any
    previous_id: Any
    session_id: Any
    timestamp: Any
    sent_at: Any
    properties: Any
    context: Any
    attempt: int
    raw: Any
    time_rule: TimeRule = stored_us


NO_EVENT_BYTES_MAX: Final = 1000
"""Kept of what stands among events without being one."""

_ENCODE = msgspec.json.Encoder().encode


class Events(Sequence[RawEvent | Unusable]):
    """The events in `items`, each made when it is asked for: a request's are never all in memory, and what goes wrong
    with one goes wrong with it alone. A protocol says in `made` how."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = items

    def made(self, item: Any, index: int) -> RawEvent | Unusable:
        """The event of the item at `index`."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> RawEvent | Unusable: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RawEvent | Unusable]: ...
    def __getitem__(self, index: int | slice) -> RawEvent | Unusable | Sequence[RawEvent | Unusable]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        return self.made(self.items[index], index)


def not_an_object(item: Any) -> Unusable:
    """What stands among events without being one."""
    if isinstance(item, Unusable):
        return item
    return Unusable("not_an_object", "an event must be a JSON object", _ENCODE(item)[:NO_EVENT_BYTES_MAX])


@dataclass(frozen=True, slots=True)
class Decoded:
    """The events of a request, in order, the write keys that its body names, and whether texts in it had to be
    replaced (see `json_body`)."""

    events: Sequence[RawEvent | Unusable]
    write_keys: Sequence[str] = ()
    cleaned: bool = False


class Decoder(Protocol):
    """One wire protocol. Pure: no I/O, callable at any time, in any order."""

    name: str
    """Stored with each event as `protocol`."""
    volatile_keys: frozenset[str]
    """Keys of a raw event that change from one attempt of the sender to the next."""

    def decode(self, request: Request, events_max: int) -> Decoded:
        """The request's events. Raises BodyError when nothing of the body can be used, NotPlainError see Request."""

    def success(self, request: Request, decoded: Decoded, rejections: Sequence[Rejection]) -> Answer:
        """The answer when all events of `decoded` but the rejected ones are acknowledged."""

    def failure(self, request: Request, refusal: Refusal) -> Answer:
        """The answer when the whole request is refused. One with status 429 or 503 says when to come back."""


class Document(Protocol):
    """What a browser SDK asks for before it starts. Pure."""

    def write_key(self, request: Request) -> str | None:
        """The write key that the request names, if it does so outside of the usual headers."""

    def answer(self, request: Request, write_key: str) -> Answer:
        """The document for a valid write key."""


@dataclass(frozen=True, slots=True)
class Route:
    """One path, or a pattern of paths with `{name}` parts, and what serves it: a decoder, a document, or a fixed
    answer. `choose` is for a path that two protocols share: it tells from the request whose it is; `decoder` answers
    what fails before that. A path with GET answers HEAD too."""

    path: str
    methods: frozenset[str]
    summary: str
    decoder: Decoder | None = None
    document: Document | None = None
    fixed: Callable[[Request], Answer] | None = None
    choose: Callable[[Request], Decoder] | None = None
    columns: Callable[[Request, int], ColumnarBatch | None] | None = None


class RouteTable:
    """Finds the route of a path; a trailing slash never matters."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        assert all(sum(map(bool, (route.decoder, route.document, route.fixed))) == 1 for route in routes)
        self._exact = {route.path: route for route in routes if "{" not in route.path}
        self._patterns = [
            (re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]{1,256})", re.escape(route.path))), route)
            for route in routes
            if "{" in route.path
        ]
        assert len(self._exact) + len(self._patterns) == len(routes), "a path stands twice in the table"

    def find(self, path: str) -> tuple[Route, Mapping[str, str]] | None:
        """The route of `path` and the values of its named parts."""
        route = self._exact.get(path)
        if route is None and path.endswith("/"):
            path = path.rstrip("/")
            route = self._exact.get(path)
        if route is not None:
            return route, {}
        for pattern, candidate in self._patterns:
            match = pattern.fullmatch(path)
            if match is not None:
                return candidate, match.groupdict()
        return None
