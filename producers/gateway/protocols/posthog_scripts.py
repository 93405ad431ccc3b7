"""The script of posthog-js, which PostHog's HTML snippet loads from where it sends its events to.

It is PostHog's and not shipped with us: `posthog_js_dir` names the operator's own copy (the folder `dist` of the npm
package). Its files are read once, when the gateway starts; only names of SCRIPTS are looked for, so that no request
reaches another file. Without the setting the answer is a 404 that says what to do: an empty script in its stead would
keep the snippet waiting without a word.
"""

import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headrace.errors import ConfigurationError
from headrace.settings import Settings
from producers.gateway.answers import Answer, Refusal, refusal_answer
from producers.gateway.protocols.decoder import Request, Route

MAIN_SCRIPT: Final = "array.js"
SCRIPTS: Final = (
    MAIN_SCRIPT,
    "array.full.js",
    "array.full.es5.js",
    "array.full.no-external.js",
    "array.no-external.js",
    "dead-clicks-autocapture.js",
    "exception-autocapture.js",
    "lazy-recorder.js",
    "logs.js",
    "posthog-recorder.js",
    "product-tours.js",
    "recorder.js",
    "surveys.js",
    "tracing-headers.js",
    "web-vitals.js",
    "web-vitals-soft-navs.js",
    "web-vitals-with-attribution.js",
    "web-vitals-with-attribution-soft-navs.js",
)
"""What snippets load, and what the loaded script asks for by itself where a page turns a feature on."""
SCRIPT_BYTES_MAX: Final = 2 * 1024 * 1024
"""Of one file; version 1.449's largest has 0.8 MB, all together 4 MB."""
CACHE_S: Final = 3600
"""How long browsers keep a script; then they ask whether it changed."""

_GZIP: Final = re.compile(r"(?<![\w-])gzip(?!\s*;\s*q=0(\.0*)?\s*(,|$))", re.IGNORECASE)
_SCRIPT: Final = b"application/javascript; charset=utf-8"


@dataclass(frozen=True, slots=True)
class _Script:
    plain: Answer
    zipped: Answer
    unchanged: Answer
    tag: str


class Scripts:
    """The files of SCRIPTS that `folder` has; without one, none."""

    def __init__(self, folder: Path | None = None) -> None:
        self._scripts: Mapping[str, _Script] = {} if folder is None else _read(folder)

    @classmethod
    def of(cls, settings: Settings) -> "Scripts":
        """As set. Raises ConfigurationError for a folder that is none of posthog-js."""
        return cls(Path(settings.posthog_js_dir) if settings.posthog_js_dir else None)

    def answer(self, request: Request) -> Answer:
        """The script that the path names; `/array/{write_key}/array.js` is the main one."""
        name = request.parameters.get("script", MAIN_SCRIPT)
        script = self._scripts.get(name)
        if script is None:
            return refusal_answer(Refusal(404, "no_script", _missing(name, some=bool(self._scripts))))
        if script.tag in request.headers.get("if-none-match", ""):
            return script.unchanged
        return script.zipped if _GZIP.search(request.headers.get("accept-encoding", "")) else script.plain


def routes(scripts: Scripts) -> list[Route]:
    """Where snippets of all ages look for the script."""
    summary = "PostHog's HTML snippet: the operator's copy of posthog-js"
    get = frozenset(("GET",))
    return [
        Route("/static/{script}", get, summary, fixed=scripts.answer),
        Route("/array/{write_key}/array.js", get, summary, fixed=scripts.answer),
    ]


def _read(folder: Path) -> dict[str, _Script]:
    found: dict[str, _Script] = {}
    for name in SCRIPTS:
        try:
            with (folder / name).open("rb") as file:
                content = file.read(SCRIPT_BYTES_MAX + 1)
        except FileNotFoundError:
            continue  # versions have more and fewer of them
        except OSError as error:
            raise ConfigurationError(f"posthog_js_dir: {folder / name} cannot be read: {error.strerror}") from error
        if len(content) > SCRIPT_BYTES_MAX:
            raise ConfigurationError(f"posthog_js_dir: {folder / name} has more than {SCRIPT_BYTES_MAX} bytes")
        found[name] = _script(content)
    if MAIN_SCRIPT not in found:
        raise ConfigurationError(
            f"posthog_js_dir: {folder} has no {MAIN_SCRIPT}",
            remedy="name the folder dist of the npm package posthog-js",
        )
    return found


def _script(content: bytes) -> _Script:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = (
        (b"cache-control", b"public, max-age=%d" % CACHE_S),
        (b"etag", b"W/" + tag.encode()),  # weak: the same for both encodings
        (b"vary", b"Accept-Encoding"),
        (b"x-content-type-options", b"nosniff"),
    )
    zipped = gzip.compress(content, mtime=0)
    return _Script(
        Answer(200, content, _SCRIPT, headers),
        Answer(200, zipped, _SCRIPT, (*headers, (b"content-encoding", b"gzip"))),
        Answer(304, b"", _SCRIPT, headers),
        tag,
    )


def _missing(name: str, *, some: bool) -> str:
    if some and name not in SCRIPTS:
        return f"{name[:100]!r} is not among the scripts of posthog-js that are served"
    if some:
        return f"{name!r} is not in the folder that posthog_js_dir names"
    return (
        "posthog-js is not served here: its operator can name a copy of it (HEADRACE_POSTHOG_JS_DIR), or the page "
        'loads posthog-js from npm, or from a host of yours, with this gateway as "api_host"'
    )
