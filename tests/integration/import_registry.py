"""A schema registry with IMPORT mode, by the rules of Confluent's documentation: it runs in the test's own process.

No registry that has the mode comes from a package index. Kept are the rules that registering meets: ids are dealt out
over all subjects and by content; an id and a version may be given in IMPORT mode only, and must then be free; a
subject is imported into only while it is empty, or by force; deleted subjects keep their ids.
"""

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Answer = tuple[int, Any]


@dataclass
class ImportRegistry:
    """Its state. `user`: `name:password` that every call must bring, if set; `mutable`: whether modes may change;
    `broken`: what every call is answered with instead, if set."""

    user: str = ""
    mutable: bool = True
    broken: tuple[int, bytes] | None = None
    common_mode: str = "READWRITE"
    modes: dict[str, str] = field(default_factory=dict)
    schemas: dict[int, str] = field(default_factory=dict)
    subjects: dict[str, dict[int, int]] = field(default_factory=dict)
    """Of each subject the schema ids by version."""
    writes: list[str] = field(default_factory=list)
    knows_delete_mode: bool = True
    port: int = 0

    @property
    def url(self) -> str:
        """Its address, with the credentials it asks for."""
        return f"http://{self.user + '@' if self.user else ''}127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator["ImportRegistry"]:
        """Serve until the end of the block."""
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._serve()

            do_POST = do_PUT = do_DELETE = do_GET

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                given = self.headers.get("authorization", "")
                status, answer = registry.broken or registry.answer(self.command, self.path, body, given)
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/vnd.schemaregistry.v1+json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Nothing on the terminal."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.port = server.server_address[1]
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()

    def answer(self, method: str, target: str, body: bytes, authorization: str) -> Answer:
        """One call."""
        if self.user and authorization != "Basic " + base64.b64encode(self.user.encode()).decode():
            return 401, {"error_code": 401, "message": "Unauthorized"}
        if method in ("PUT", "DELETE") or target.endswith("/versions"):
            self.writes.append(f"{method} {target}")
        url = urlsplit(target)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        sent = json.loads(body) if body else {}
        match method, parts:
            case "GET", ["subjects"]:
                return 200, sorted(self.subjects)
            case "GET", ["schemas", "ids", number]:
                text = self.schemas.get(int(number))
                return (200, {"schema": text}) if text else (404, {"error_code": 40403, "message": "not found"})
            case "POST", ["subjects", subject]:
                return self._find(subject, sent["schema"])
            case "POST", ["subjects", subject, "versions"]:
                return self._register(subject, sent)
            case "DELETE", ["subjects", subject, "versions", version]:
                return (200, int(version)) if self.subjects[subject].pop(int(version), None) else (404, {})
            case "GET", ["mode"]:
                return 200, {"mode": self.common_mode}
            case "GET", ["mode", subject]:
                mode = self.modes.get(subject)
                return (200, {"mode": mode}) if mode else (404, {"error_code": 40409, "message": "no mode"})
            case "PUT", ["mode", subject]:
                return self._set_mode(subject, sent["mode"], forced="force=true" in url.query)
            case "DELETE", ["mode", subject] if self.knows_delete_mode:
                return 200, {"mode": self.modes.pop(subject)}
        return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}

    def put(self, subject: str, text: str) -> int:
        """Another's schema, registered as anybody does."""
        status, answer = self._register(subject, {"schema": text})
        assert status == 200, answer
        return int(answer["id"])

    def _find(self, subject: str, text: str) -> Answer:
        if subject not in self.subjects:
            return 404, {"error_code": 40401, "message": "Subject not found."}
        for version, number in self.subjects[subject].items():
            if self.schemas[number] == normal(text):
                return 200, {"subject": subject, "id": number, "version": version, "schema": self.schemas[number]}
        return 404, {"error_code": 40403, "message": "Schema not found"}

    def _register(self, subject: str, sent: dict[str, Any]) -> Answer:
        mode = self.modes.get(subject, self.common_mode)
        text = normal(sent["schema"])
        versions = self.subjects.get(subject, {})
        if mode in ("READONLY", "READONLY_OVERRIDE"):
            return 422, {"error_code": 42205, "message": f"Subject {subject} is in read-only mode"}
        if (mode == "IMPORT") != ("id" in sent):
            return 422, {"error_code": 42205, "message": f"Subject {subject} is not in import mode"}
        if "id" in sent:
            number, version = sent["id"], sent["version"]
            if self.schemas.get(number, text) != text or version in versions:
                return 422, {
                    "error_code": 42207,
                    "message": f"Overwrite new schema with id {number} is not permitted.",
                }
        else:
            number = next((known for known, held in self.schemas.items() if held == text), None)
            number = number or max(self.schemas, default=0) + 1
            version = next((at for at, held in versions.items() if held == number), max(versions, default=0) + 1)
        self.schemas[number] = text
        self.subjects.setdefault(subject, {})[version] = number
        return 200, {"id": number}

    def _set_mode(self, subject: str, mode: str, *, forced: bool) -> Answer:
        if not self.mutable:
            return 422, {"error_code": 42205, "message": "Mode changes are not allowed"}
        if mode == "IMPORT" and self.subjects.get(subject) and not forced:
            return 422, {"error_code": 42205, "message": "Cannot import since found existing subjects"}
        self.modes[subject] = mode
        return 200, {"mode": mode}


def normal(text: str) -> str:
    """Registries write documents anew, without the blanks between."""
    return re.sub(r"\s+", " ", json.dumps(json.loads(text), separators=(",", ":")))
