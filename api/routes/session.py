"""`/v1/session`: a browser signs in with a one-time code, stays signed in, and signs out."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api.auth.access import (
    REFRESH_COOKIE,
    REFRESH_PATH,
    SESSION_COOKIE,
    Asking,
    bearer,
    check_same_origin,
    is_secure,
)
from api.auth.sessions import Session, Sessions
from api.auth.tokens import Principal, Scope
from api.problems import Fault, ProblemError
from api.routes.answers import json_answer, problem_answer
from headrace.errors import UnavailableError

router = APIRouter(tags=["session"])


class CodeRequest(BaseModel):
    """Whom the link signs in. Only an administrator names a customer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    customer_id: int | None = Field(default=None, gt=0, lt=2**63)


class CodeAnswer(BaseModel):
    """A one-time code, to be put behind the dashboard's address."""

    code: str
    expires_at: str
    fragment: str


class ExchangeRequest(BaseModel):
    """The code from the fragment of the dashboard's link."""

    model_config = ConfigDict(extra="forbid", strict=True)

    code: str = Field(min_length=1, max_length=100)


class SessionCustomer(BaseModel):
    """Whose data the session sees."""

    customer_id: int
    name: str | None


class SessionAnswer(BaseModel):
    """Until when the session lasts unless refreshed, and whose it is."""

    expires_at: str
    customer: SessionCustomer | None
    ingest_url: str | None


@router.post("/v1/session/codes", status_code=201, summary="Make a link's one-time code", response_model=CodeAnswer)
async def create_code(
    request: Request, principal: Asking, wanted: Annotated[CodeRequest, Body(default_factory=CodeRequest)]
) -> Response:
    """For the caller's own customer; an administrator names one, or none for a session of an administrator.

    Takes an API token: a session, which lasts minutes, makes no further access.
    """
    if principal.kind == "session":
        raise ProblemError("forbidden", "a session makes no codes; use an API token")
    customer_id = principal.customer_id
    if wanted.customer_id is not None and wanted.customer_id != customer_id:
        if principal.scope != "admin":
            raise ProblemError("forbidden", "only an administrator makes a code for another customer")
        customer_id = wanted.customer_id
        await _known_customer(request, customer_id)
    scope: Scope = "admin" if customer_id is None else "read"
    code, expires_s = await _sessions(request).create_code(customer_id, scope, principal.token_id)
    answer = {"code": code, "expires_at": _rfc3339(expires_s), "fragment": f"#code={code}"}
    return json_answer(answer, status=201)


@router.post("/v1/session", summary="Sign in with a one-time code", response_model=SessionAnswer)
async def exchange(request: Request, wanted: ExchangeRequest) -> Response:
    """Uses the code up and sets the cookies."""
    check_same_origin(request)
    check_parent = request.app.state.deps.verifier.check_parent
    return await _signed_in(request, await _sessions(request).exchange(wanted.code, check_parent))


@router.post("/v1/session/refresh", summary="Stay signed in", response_model=SessionAnswer)
async def refresh(request: Request) -> Response:
    """With the cookie: a new session cookie. With a bearer token: says who it is and sets nothing."""
    token = bearer(request)
    if token is not None:
        principal = await request.app.state.deps.verifier.verify(token)
        return json_answer(await _described(request, principal))
    refresh_token = request.cookies.get(REFRESH_COOKIE)
    if not refresh_token:
        raise ProblemError("unauthenticated", "there is no session to refresh; sign in with a new link")
    check_same_origin(request)
    check_parent = request.app.state.deps.verifier.check_parent
    return await _signed_in(request, await _sessions(request).refresh(refresh_token, check_parent))


@router.delete("/v1/session", status_code=204, summary="Sign out")
async def sign_out(request: Request) -> Response:
    """Ends the session on every replica and clears the cookies.

    Needs no session that still lasts: what the cookies name is ended, however old, and they are cleared in any case.
    """
    token = bearer(request)
    verifier = request.app.state.deps.verifier
    if token is not None:
        principal = await verifier.verify(token)
        token_id = principal.token_id if principal.kind == "session" else None
    else:
        check_same_origin(request)
        token_id = await verifier.session_of(request.cookies.get(SESSION_COOKIE, ""))
    try:
        await _sessions(request).end(token_id, request.cookies.get(REFRESH_COOKIE))
        response = Response(status_code=204)
    except ProblemError as problem:
        response = problem_answer(problem, request)
    response.delete_cookie(SESSION_COOKIE, path="/", httponly=True, samesite="strict")
    response.delete_cookie(REFRESH_COOKIE, path=REFRESH_PATH, httponly=True, samesite="strict")
    return response


async def _signed_in(request: Request, session: Session) -> Response:
    deps = request.app.state.deps
    response = json_answer(await _described(request, session.principal))
    secure = is_secure(deps.settings, request.url.scheme)
    lasting_s = session.principal.expires_s - deps.clock.now_us() // 1_000_000
    response.set_cookie(
        SESSION_COOKIE, session.token, max_age=lasting_s, path="/", httponly=True, samesite="strict", secure=secure
    )
    response.set_cookie(
        REFRESH_COOKIE,
        session.refresh_token,
        max_age=deps.settings.refresh_ttl_s,
        path=REFRESH_PATH,
        httponly=True,
        samesite="strict",
        secure=secure,
    )
    return response


async def _described(request: Request, principal: Principal) -> dict[str, Any]:
    deps = request.app.state.deps
    customer = None
    if principal.customer_id is not None:
        customer = {"customer_id": principal.customer_id, "name": await _name(request, principal.customer_id)}
    return {
        "expires_at": _rfc3339(principal.expires_s),
        "customer": customer,
        "ingest_url": deps.settings.ingest_url or None,
    }


async def _known_customer(request: Request, customer_id: int) -> None:
    try:
        name = await request.app.state.deps.control.customer_name(customer_id)
    except UnavailableError as error:
        raise ProblemError("source-unavailable", "the control database does not answer") from error
    if name is None:
        detail = f"there is no customer {customer_id}"
        raise ProblemError("not-found", detail, errors=[Fault("/customer_id", detail)])


async def _name(request: Request, customer_id: int) -> str | None:
    """Only decoration: a session goes on while the control database is away."""
    try:
        name: str | None = await request.app.state.deps.control.customer_name(customer_id)
    except UnavailableError:
        return None
    return name


def _sessions(request: Request) -> Sessions:
    sessions: Sessions | None = request.app.state.deps.sessions
    if sessions is None:
        raise ProblemError("sessions-unavailable", "browser sessions need Redis, and none is configured")
    return sessions


def _rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
