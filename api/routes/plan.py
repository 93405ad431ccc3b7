"""`/v1/plan`: the caller's tracking plan, and what breaks it."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from api.auth.access import Customer
from api.problems import ProblemError
from api.query.ranges import SECOND_US, rfc3339
from api.routes.answers import json_answer
from headrace.errors import UnavailableError
from headrace.shards.plan_violations import DAYS_KEPT
from headrace.shards.plans import plan_document

router = APIRouter(tags=["tracking plan"])

ITEMS_MAX: Final = 1_000


class PlanAnswer(BaseModel):
    """The plan as `headrace plan set` took it; all null for a customer without one."""

    version: int | None = Field(description="grows with every change")
    updated_at: str | None
    plan: dict[str, Any] | None = Field(description="mode, unplanned, and events: name to schema and mode")


class ViolationItem(BaseModel):
    """One rule and how many events broke it."""

    event: str = Field(description="name of a track event, else the event's type; (other): rules beyond the bound")
    path: str = Field(description="JSON path of the property, [*] for any element of a list")
    rule: str = Field(description="keyword of JSON Schema, or unplanned")
    mode: str = Field(description="warn: the events were stored; reject: they were set aside")
    count: int
    last_seen: str = Field(description="when the last such event was received")


class ViolationsAnswer(BaseModel):
    """Rules that were broken, the most frequent first, at most 1,000."""

    items: list[ViolationItem]


@router.get("/v1/plan", summary="The tracking plan", response_model=PlanAnswer)
async def get_plan(request: Request, customer_id: Customer) -> Response:
    """What events are planned, and what becomes of others."""
    try:
        stored = await request.app.state.deps.control.plan(customer_id)
    except UnavailableError as error:
        raise ProblemError("source-unavailable", error.message) from error
    if stored is None:
        return json_answer({"version": None, "updated_at": None, "plan": None})
    updated_at = rfc3339(round(stored.updated_at.timestamp() * SECOND_US))
    return json_answer({"version": stored.version, "updated_at": updated_at, "plan": plan_document(stored.plan)})


@router.get(
    "/v1/plan/violations", summary="How often each rule of the plan was broken", response_model=ViolationsAnswer
)
async def get_violations(
    request: Request, customer_id: Customer, days: Annotated[int, Query(ge=1, le=DAYS_KEPT)] = DAYS_KEPT
) -> Response:
    """Counts of the last `days` days (UTC, today being one). A few seconds behind the gateways."""
    deps = request.app.state.deps
    found = await deps.violations.read(customer_id, deps.clock.now_us(), days)
    items = [
        {**item.rule._asdict(), "count": item.count.times, "last_seen": rfc3339(item.count.last_us)}
        for item in found[:ITEMS_MAX]
    ]
    return json_answer({"items": items})
