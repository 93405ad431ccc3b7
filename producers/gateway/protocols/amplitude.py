"""Amplitude's HTTP API V2 and batch API, `{api_key, events: [event, …], client_upload_time?}`, and its older forms.

An event that cannot be stored is set aside and the answer stays 200: `events_with_invalid_fields` belongs to a 400,
on which the SDKs send all other events of the request again, though they are stored. A refusal that no retry can heal
is a 400 that names an invalid key or a missing field, whatever it was here (401, 415): the SDKs try any other
4xx again, up to twelve times. With a 429 they wait for 30 s with the events that it lists, so it lists all.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from producers.gateway.answers import Answer, Refusal, Rejection, json_answer, retry_headers
from producers.gateway.json_body import BodyError, Unusable, parse, too_many
from producers.gateway.protocols.amplitude_event import to_event
from producers.gateway.protocols.amplitude_form import EVENTS, GROUP_IDENTIFY, IDENTIFY, FormFields, read_form
from producers.gateway.protocols.decoder import Decoded, Decoder, Events, RawEvent, Request, Route, not_an_object

PROTOCOL: Final = "amplitude"
THROTTLED_MAX: Final = 2_000
"""Indexes that a 429 lists: Amplitude's own bound on the events of a request."""

_ENCODE = msgspec.json.Encoder().encode
_POST = frozenset(("POST",))
_GET = frozenset(("GET",))
_PASSING = frozenset((408, 413, 429))
"""Refusals below 500 whose status the SDKs understand; with all others a retry is useless."""
_KEY_REASONS = frozenset(("missing_write_key", "unknown_write_key"))
_FORM_SUCCESS = Answer(200, b"success", b"text/html")
_NO_CONFIG = json_answer({"configs": {}}, headers=((b"cache-control", b"public, max-age=300"),))


class Amplitude:
    """Answers in Amplitude's way; `decode` is left to the kinds of body below."""

    name = PROTOCOL
    volatile_keys: frozenset[str] = frozenset()

    def success(self, request: Request, decoded: Decoded, rejections: Sequence[Rejection]) -> Answer:
        """Code, counts and the time of receipt, with the rejected events' indexes and reasons if there are any."""
        told: dict[str, Any] = {
            "code": 200,
            "events_ingested": len(decoded.events) - len(rejections),
            "payload_size_bytes": len(request.body),
            "server_upload_time": request.received_at_us // 1000,
        }
        if rejections:
            told["rejected"] = [item.told() for item in rejections]
        return json_answer(told)

    def failure(self, request: Request, refusal: Refusal) -> Answer:
        """See the module: status and code are one, and are what makes the SDKs do the right thing."""
        status = refusal.status if refusal.status in _PASSING or refusal.status >= 500 else 400
        told: dict[str, Any] = {
            "success": False,
            "status": 0,
            "code": status,
            "message": refusal.message,
            "error": refusal.message,
            "reason": refusal.reason,
        }
        if refusal.status == 401 or refusal.reason in _KEY_REASONS:
            told["error"] = f"Invalid API key: {refusal.message}"
            told["missing_field"] = "api_key"
        elif status == 400:
            told["missing_field"] = "events"
        elif status == 429:
            told |= {"eps_threshold": 0, "throttled_devices": {}, "throttled_users": {}}
            # Refused before its body was read it lists all that there can be: what is not listed is sent at once.
            count = request.body.count(b"event_type") if request.body else THROTTLED_MAX
            told["throttled_events"] = list(range(min(count, THROTTLED_MAX)))
        return json_answer(told, status, retry_headers(refusal))


class AmplitudeJson(Amplitude):
    """The body that all current SDKs send."""

    def decode(self, request: Request, events_max: int) -> Decoded:
        parsed = parse(request.body, events_max, lenient=request.lenient)
        body = parsed.value
        if isinstance(body, Unusable):
            raise BodyError(body.reason, body.message)
        events = body.get("events") if isinstance(body, dict) else None
        if not isinstance(events, list):
            raise BodyError("events_missing", 'the body must be an object with a list "events"')
        if len(events) > events_max:
            raise too_many(len(events), events_max)
        found = AmplitudeEvents(events, body.get("client_upload_time"))
        return Decoded(found, _keys(body.get("api_key")), parsed.cleaned)


class AmplitudeForm(Amplitude):
    """A form with the events as JSON in one of its fields; a body that is JSON itself is taken as such."""

    def __init__(self, fields: FormFields, json_body: Decoder) -> None:
        self._fields = fields
        self._json_body = json_body

    def decode(self, request: Request, events_max: int) -> Decoded:
        if _is_json(request):
            return self._json_body.decode(request, events_max)
        form = read_form(request, self._fields, events_max)
        return Decoded(AmplitudeEvents(form.events, form.sent_at, self._fields.adapt), _keys(form.key), form.cleaned)

    def success(self, request: Request, decoded: Decoded, rejections: Sequence[Rejection]) -> Answer:
        """The word that the old SDKs look for."""
        if _is_json(request):
            return self._json_body.success(request, decoded, rejections)
        return _FORM_SUCCESS


class AmplitudeEvents(Events):
    """`adapt` turns an older form of an event into today's."""

    def __init__(
        self,
        events: Sequence[Any],
        sent_at: Any,
        adapt: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(events)
        self._sent_at = sent_at
        self._adapt = adapt

    def made(self, item: Any, index: int) -> RawEvent | Unusable:  # noqa: ARG002 (see Events)
        if not isinstance(item, dict):
            return not_an_object(item)
        return to_event(item if self._adapt is None else self._adapt(item), self._sent_at)


def _is_json(request: Request) -> bool:
    return request.body.lstrip()[:1] == b"{"


def _keys(key: Any) -> list[str]:
    return [key] if isinstance(key, str) and key else []


BATCH: Final = AmplitudeJson()
"""For `/batch`, which is PostHog's too: a body with `events` is Amplitude's."""


def no_remote_config(_request: Request) -> Answer:
    """What the browser SDK asks for when it starts: settings that override the page's own. There are none."""
    return _NO_CONFIG


def routes() -> list[Route]:
    """The paths of this family but `/batch`."""
    return [
        Route("/2/httpapi", _POST, "Amplitude: a batch of events", BATCH),
        Route("/httpapi", _POST, "Amplitude, older SDKs: events in a form", AmplitudeForm(EVENTS, BATCH)),
        Route("/identify", _POST, "Amplitude: user properties in a form", AmplitudeForm(IDENTIFY, BATCH)),
        Route("/groupidentify", _POST, "Amplitude: group properties in a form", AmplitudeForm(GROUP_IDENTIFY, BATCH)),
        Route("/config", _GET, "Amplitude's browser SDK: remote configuration, none", fixed=no_remote_config),
        Route(
            "/config/{api_key}", _GET, "Amplitude's browser SDK: remote configuration, none", fixed=no_remote_config
        ),
    ]
