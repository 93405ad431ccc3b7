"""The Schema Registry's read paths, over the pinned schemas, so that registry-aware tools decode our topics.

Public: the schemas are the same in every installation and say nothing of anybody.
"""

from fastapi import APIRouter, Request, Response

from api.routes.answers import json_answer
from schemas.registry import RegisteredSchema, all_schemas

router = APIRouter(tags=["schema registry"])

SUBJECT_NOT_FOUND = 40401
VERSION_NOT_FOUND = 40402
SCHEMA_NOT_FOUND = 40403


@router.get("/schemas/ids/{schema_id}", summary="A schema by its id")
async def by_id(schema_id: int) -> Response:
    """As the Confluent Schema Registry answers."""
    for found in all_schemas():
        if found.schema_id == schema_id:
            return json_answer({"schema": found.text})
    return _missing(SCHEMA_NOT_FOUND, f"Schema {schema_id} not found")


@router.get("/subjects", summary="All subjects")
async def subjects(request: Request) -> Response:
    """Names, under this installation's topic prefix."""
    return json_answer(sorted({_subject(request, found) for found in all_schemas()}))


@router.get("/subjects/{subject}/versions", summary="Versions of a subject")
async def versions(request: Request, subject: str) -> Response:
    """Numbers, ascending."""
    found = [item.version for item in all_schemas() if _subject(request, item) == subject]
    return json_answer(sorted(found)) if found else _missing(SUBJECT_NOT_FOUND, "Subject not found")


@router.get("/subjects/{subject}/versions/{version}", summary="One version of a subject")
async def version(request: Request, subject: str, version: str) -> Response:
    """`latest` or a number."""
    found = [item for item in all_schemas() if _subject(request, item) == subject]
    if not found:
        return _missing(SUBJECT_NOT_FOUND, "Subject not found")
    newest = max(item.version for item in found)
    wanted = newest if version == "latest" else int(version) if version.isascii() and version.isdigit() else -1
    for item in found:
        if item.version == wanted:
            return json_answer(
                {"subject": subject, "version": item.version, "id": item.schema_id, "schema": item.text}
            )
    return _missing(VERSION_NOT_FOUND, "Version not found")


def _subject(request: Request, found: RegisteredSchema) -> str:
    return str(request.app.state.deps.settings.topic_prefix) + found.subject


def _missing(code: int, message: str) -> Response:
    # The registry's own error shape: its clients look at `error_code`.
    return json_answer({"error_code": code, "message": message}, status=404)
