"""Serves the dashboard's files.

Owns: the page at `/` and its assets at `/static/…`, their caching and their security headers.
Guarantees: only files that were in `static/` when the site was made are ever answered, so that no path
can escape the folder; every answer carries the same strict Content-Security-Policy; the page asks nothing
of another origin.
Refuses: any method but GET and HEAD, and any knowledge of customers: the page asks the API for everything.
"""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

# `style-src 'self'` forbids style attributes and <style>, not the style properties that scripts set.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

# By suffix and not by `mimetypes`, whose answer depends on the machine's registry.
_MEDIA_TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}

# Files that already are compressed, or so small that a gzip header outweighs the gain, go out as they are.
_GZIP_BYTES_MIN = 1024


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page, held in memory (all of them together are under 1 MB)."""

    media_type: str
    body: bytes
    gzipped: bytes | None
    etag: str


def dashboard_site() -> Starlette:
    """The site as an ASGI app for the root of the API's origin; mount it after all other routes.

    Reads every asset once, here; a changed file is seen by the next process.
    """
    assets = _load(files("api.dashboard").joinpath("static"))

    async def page(request: Request) -> Response:
        return _answer(request, assets["index.html"])

    async def asset(request: Request) -> Response:
        found = assets.get(request.path_params["path"])
        if found is None:
            return PlainTextResponse("No such file on this dashboard.\n", 404, headers=dict(SECURITY_HEADERS))
        return _answer(request, found)

    return Starlette(
        routes=[
            Route("/", page, name="dashboard"),
            Route("/static/{path:path}", asset, name="dashboard-asset"),
        ]
    )


def _load(root: Traversable, prefix: str = "") -> dict[str, Asset]:
    """Every servable file under `root` by its path below it, with forward slashes."""
    assets: dict[str, Asset] = {}
    for entry in root.iterdir():
        if entry.is_dir():
            assets |= _load(entry, f"{prefix}{entry.name}/")
            continue
        suffix = entry.name[entry.name.rfind(".") :]
        media_type = _MEDIA_TYPES.get(suffix)
        if media_type is None:  # licences and notes travel with the package and are not part of the page
            continue
        body = entry.read_bytes()
        packed = gzip.compress(body, mtime=0) if suffix != ".woff2" and len(body) >= _GZIP_BYTES_MIN else None
        assets[prefix + entry.name] = Asset(media_type, body, packed, f'W/"{hashlib.sha256(body).hexdigest()[:32]}"')
    return assets


def _answer(request: Request, asset: Asset) -> Response:
    headers = {
        **SECURITY_HEADERS,
        # File names carry no version, so a browser asks each time and mostly hears 304.
        "Cache-Control": "no-cache",
        "ETag": asset.etag,
        "Vary": "Accept-Encoding",
    }
    if asset.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    body = asset.body
    if asset.gzipped is not None and "gzip" in request.headers.get("accept-encoding", ""):
        body = asset.gzipped
        headers["Content-Encoding"] = "gzip"
    return Response(body, media_type=asset.media_type, headers=headers)
