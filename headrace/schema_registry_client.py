"""The few calls to an external schema registry that registering needs, over Confluent's REST API.

Bounded: each call by TIMEOUT_S, each answer by ANSWER_BYTES_MAX. Credentials stand in the setting's URL and nowhere
else: no error and no log names them.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec

from headrace.errors import ConfigurationError, HeadraceError, UnavailableError
from headrace.settings import Settings

TIMEOUT_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024
MESSAGE_CHARS_MAX: Final = 300
CONTENT_TYPE: Final = "application/vnd.schemaregistry.v1+json"

_OK: Final = 200
_NOT_FOUND: Final = 404
_NO_CREDENTIALS: Final = 401
_CANNOT: Final = (400, 403, 404, 405, 409, 422, 501)
"""How registries say that something cannot be done, or not by us."""
_BUSY: Final = (408, 429)
_SERVER_ERROR: Final = 500


@dataclass(frozen=True, slots=True)
class Found:
    """A schema as a subject has it."""

    schema_id: int
    version: int


class RegistryClient:
    """A registry's calls. Each raises UnavailableError when it does not answer, ConfigurationError when it does not
    take our credentials, or answers as no schema registry does."""

    def __init__(self, http: httpx.Client, place: str) -> None:
        self._http = http
        self.place = place
        """Where it is, without credentials: for people."""

    @classmethod
    @contextmanager
    def connected(cls, settings: Settings) -> Iterator["RegistryClient"]:
        """A client of the registry that the settings name. Raises ConfigurationError for a URL that is none."""
        base, auth = _parsed(settings.schema_registry_url)
        try:
            context = ssl.create_default_context(cafile=settings.schema_registry_ca_location or None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"schema_registry_ca_location {settings.schema_registry_ca_location!r} cannot be used: {error}",
                remedy="name a PEM file with the CA certificates",
            ) from error
        headers = {"accept": f"{CONTENT_TYPE}, application/json"}
        with httpx.Client(auth=auth, verify=context, headers=headers, timeout=TIMEOUT_S, trust_env=False) as http:
            yield cls(http, base)

    def schema_by_id(self, schema_id: int) -> str | None:
        """The text of the schema that has the id, if one has."""
        answer = self._ask("GET", f"/schemas/ids/{schema_id}", refusals=(_NOT_FOUND,))
        return None if answer is None else self._field(answer, "schema", str)

    def find(self, subject: str, text: str) -> Found | None:
        """The schema in the subject, if it is there."""
        answer = self._ask("POST", _subject(subject), {"schema": text}, refusals=(_NOT_FOUND,))
        return None if answer is None else Found(self._field(answer, "id", int), self._field(answer, "version", int))

    def subjects(self) -> set[str]:
        """All of them, deleted ones too where the registry tells them."""
        answer = self._ask("GET", "/subjects?deleted=true")
        if not isinstance(answer, list):
            raise self._no_registry("GET /subjects gave no list")
        return {str(name) for name in answer}

    def register(self, subject: str, text: str, *, schema_id: int | None = None, version: int | None = None) -> int:
        """Add the schema to the subject; gives its id. With `schema_id` and `version` in IMPORT mode only."""
        body: dict[str, Any] = {"schema": text}
        if schema_id is not None:
            body |= {"id": schema_id, "version": version}
        answer = self._ask("POST", f"{_subject(subject)}/versions", body)
        dealt: int = self._field(answer, "id", int)
        return dealt

    def remove(self, subject: str, text: str) -> bool:
        """Take back what `register` just added; False where the registry does not let us."""
        try:
            found = self.find(subject, text)
            if found is None:
                return True
            path = f"{_subject(subject)}/versions/{found.version}"
            if self._asked("DELETE", path).status_code not in (_OK, 204):
                return False
            self._asked("DELETE", f"{path}?permanent=true")  # where it is known; else it is gone already
        except HeadraceError:
            return False
        return True

    def mode(self, subject: str | None) -> str | None:
        """The mode of the subject, None where it has none of its own; without a subject that of all, None where the
        registry knows no modes."""
        answer = self._ask("GET", "/mode" if subject is None else _mode(subject), refusals=_CANNOT)
        found = answer.get("mode") if isinstance(answer, dict) else None
        return found if isinstance(found, str) else None

    def set_mode(self, subject: str, mode: str, *, force: bool) -> str | None:
        """Set it; where the registry does not let us: its reason."""
        response = self._asked("PUT", _mode(subject) + ("?force=true" if force else ""), {"mode": mode})
        if response.status_code in _CANNOT:
            return self._message(response)
        self._checked(response, "PUT", _mode(subject))
        return None

    def restore_mode(self, subject: str, own: str | None, common: str | None) -> bool:
        """The subject's mode as `mode` told it: its own, or none where it follows that of all. False if it failed."""
        try:
            if own is None and self._asked("DELETE", _mode(subject)).status_code == _OK:
                return True
            # Older registries know no DELETE: the same mode as all have comes nearest.
            return self.set_mode(subject, own or common or "READWRITE", force=False) is None
        except HeadraceError:
            return False

    def _ask(self, method: str, path: str, body: Any = None, *, refusals: tuple[int, ...] = ()) -> Any:
        """The answer's JSON; None for a status among `refusals`."""
        response = self._asked(method, path, body)
        if response.status_code in refusals:
            return None
        self._checked(response, method, path)
        try:
            return msgspec.json.decode(response.content)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise self._no_registry(f"{method} {path} gave no JSON") from None

    def _asked(self, method: str, path: str, body: Any = None) -> httpx.Response:
        content = None if body is None else msgspec.json.encode(body)
        headers = {} if content is None else {"content-type": CONTENT_TYPE}
        try:
            with self._http.stream(method, self.place + path, content=content, headers=headers) as response:
                pieces, size = [], 0
                for piece in response.iter_bytes():
                    size += len(piece)
                    if size > ANSWER_BYTES_MAX:
                        raise self._no_registry(f"{method} {path} gave more than {ANSWER_BYTES_MAX} bytes")
                    pieces.append(piece)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UnavailableError(
                f"the schema registry at {self.place} does not answer: {type(error).__name__}",
                remedy="is it running, and schema_registry_url right?",
            ) from None
        whole = httpx.Response(response.status_code, content=b"".join(pieces))
        if whole.status_code == _NO_CREDENTIALS:
            raise ConfigurationError(
                f"the schema registry at {self.place} does not take our credentials (401)",
                remedy="put them into schema_registry_url: https://user:password@host",
            )
        if whole.status_code in _BUSY or (whole.status_code >= _SERVER_ERROR and whole.status_code not in _CANNOT):
            raise UnavailableError(
                f"the schema registry at {self.place} answered {method} {path} with {self._message(whole)}",
                remedy="try again later",
            )
        return whole

    def _checked(self, response: httpx.Response, method: str, path: str) -> None:
        if response.status_code != _OK:
            raise ConfigurationError(
                f"the schema registry at {self.place} refused {method} {path}: {self._message(response)}",
                remedy="schema_registry_url must be the root of Confluent's API, and its user may register schemas",
            )

    def _field(self, answer: Any, name: str, kind: type) -> Any:
        found = answer.get(name) if isinstance(answer, dict) else None
        if not isinstance(found, kind):
            raise self._no_registry(f"an answer has no {name!r}")
        return found

    def _message(self, response: httpx.Response) -> str:
        try:
            told = msgspec.json.decode(response.content)
        except (msgspec.DecodeError, UnicodeDecodeError):
            told = None
        message = told.get("message") if isinstance(told, dict) else None
        text = f" ({message[:MESSAGE_CHARS_MAX]})" if isinstance(message, str) else ""
        return f"status {response.status_code}{text}"

    def _no_registry(self, what: str) -> ConfigurationError:
        return ConfigurationError(
            f"what answers at {self.place} is no schema registry: {what}",
            remedy="schema_registry_url must be the root of Confluent's API, such as http://host:8081",
        )


def _parsed(text: str) -> tuple[str, tuple[str, str] | None]:
    """The URL without its credentials, and those."""
    try:
        url = httpx.URL(text)
        if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
            raise httpx.InvalidURL("no address")
    except (httpx.InvalidURL, TypeError):
        raise ConfigurationError(
            "schema_registry_url is not an address", remedy="write http(s)://[user:password@]host[:port][/path]"
        ) from None
    auth = (url.username, url.password) if url.username or url.password else None
    return str(url.copy_with(username=None, password=None)).rstrip("/"), auth


def _subject(subject: str) -> str:
    return f"/subjects/{quote(subject, safe='')}"


def _mode(subject: str) -> str:
    return f"/mode/{quote(subject, safe='')}"
