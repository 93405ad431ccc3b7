"""From a request to its principal: bearer token or cookie, and the rules that go with each.

A cookie is only good from our own pages: everything but GET and HEAD must prove that it comes from this origin
(`Sec-Fetch-Site`, else `Origin`, else a header that other sites cannot send without our leave), besides the
cookie's SameSite=Strict.
"""

from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import Depends, Request

from api.auth.tokens import Principal, Verifier
from api.problems import ProblemError
from headrace.settings import Settings

SESSION_COOKIE: Final = "headrace_session"
REFRESH_COOKIE: Final = "headrace_refresh"
REFRESH_PATH: Final = "/v1/session"
CSRF_HEADER: Final = "x-headrace"
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


async def principal_of(request: Request) -> Principal:
    """Whoever sent a valid token or session cookie. Raises ProblemError."""
    verifier: Verifier = request.app.state.deps.verifier
    token = bearer(request)
    if token is None:
        token = request.cookies.get(SESSION_COOKIE)
        if token is None:
            raise ProblemError("unauthenticated", "send `Authorization: Bearer TOKEN`, or sign in")
        check_same_origin(request)
    return await verifier.verify(token)


async def customer_of(principal: Annotated[Principal, Depends(principal_of)]) -> int:
    """The customer whose data the request may see: from the token, never from the request."""
    if principal.customer_id is None:
        raise ProblemError(
            "forbidden", "an administrator's token belongs to no customer; use a customer's read token"
        )
    return principal.customer_id


Asking = Annotated[Principal, Depends(principal_of)]
Customer = Annotated[int, Depends(customer_of)]


def is_secure(settings: Settings, scheme: str) -> bool:
    """Whether browsers reach us by TLS: by our own, or by the setting; never by a header that a client sends."""
    return scheme == "https" or settings.public_url.lower().startswith("https://")


def bearer(request: Request) -> str | None:
    """The token of the Authorization header; None without the header."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise ProblemError("unauthenticated", "the Authorization header is `Bearer TOKEN`")
    return token.strip()


def check_same_origin(request: Request) -> None:
    """Raises ProblemError unless the request provably comes from this origin (or changes nothing)."""
    site = request.headers.get("sec-fetch-site")
    if request.method in SAFE_METHODS:
        if site in ("cross-site", "same-site"):
            raise ProblemError("cross-site", "another site asked with this browser's cookie")
        return
    if site is not None:
        if site in ("same-origin", "none"):
            return
    elif (origin := request.headers.get("origin")) is not None:
        if urlsplit(origin).netloc == request.headers.get("host"):
            return
    elif request.headers.get(CSRF_HEADER) is not None:
        return
    raise ProblemError("cross-site", "a request with a cookie must come from the dashboard's own origin")
