"""How far each file has been imported, in the control database.

`next_row` only ever moves past rows that Kafka has acknowledged. One importer at a time works on a file for a
customer: an advisory lock of the session, so that a killed one frees it at once.
"""

from dataclasses import dataclass
from typing import Any

import psycopg

from headrace.errors import UnavailableError, UsageError

FIRST_ROW = 1
LOCK_WAIT_S = 5.0  # Postgres may take a moment to notice that a killed importer is gone


@dataclass(frozen=True, slots=True)
class Started:
    """An import as `FileImports.begin` found or made it."""

    import_id: int
    run: int
    next_row: int
    rows_rejected: int

    @property
    def resumed(self) -> bool:
        """Whether an earlier, unfinished import goes on."""
        return self.next_row > FIRST_ROW


class FileImports:
    """The table `file_imports`, over one open connection in autocommit mode."""

    def __init__(self, connection: psycopg.Connection[Any], *, lock_wait_s: float = LOCK_WAIT_S) -> None:
        self._connection = connection
        self._lock_wait_s = lock_wait_s

    def begin(self, customer_id: int, file_sha256: str, reading: str, file_name: str, *, again: bool) -> Started:
        """Start, or take up again, the import of a file, read as `reading` says (`Plan.reading`).

        Raises UsageError when it is complete and `again` is not set, when another importer is at it, and when an
        unfinished import used another mapping or shift.
        """
        self._lock(f"headrace file import {customer_id} {file_sha256}", file_name, customer_id)
        row = self._connection.execute(
            """
            SELECT import_id, run, next_row, rows_rejected, state, mapping_hash, updated_at FROM file_imports
            WHERE customer_id = %s AND file_hash = %s ORDER BY run DESC LIMIT 1
            """,
            (customer_id, file_sha256),
        ).fetchone()
        if row is not None and row[4] == "running":
            if row[5] != reading:
                raise UsageError(
                    f"an unfinished import of {file_name} used another mapping or another --shift-days",
                    remedy="finish it with the same ones, so that no row is read in two ways",
                )
            return Started(int(row[0]), int(row[1]), max(int(row[2]), FIRST_ROW), int(row[3]))
        if row is not None and not again:
            raise UsageError(
                f"{file_name} was imported for customer {customer_id} on {row[6]:%Y-%m-%d %H:%M}, whole",
                remedy="--again sends it once more",
            )
        run = int(row[1]) + 1 if row is not None else 1
        made = self._one(
            """
            INSERT INTO file_imports (customer_id, file_hash, mapping_hash, run, file_name, next_row)
            VALUES (%s, %s, %s, %s, %s, %s) RETURNING import_id
            """,
            customer_id, file_sha256, reading, run, file_name, FIRST_ROW,
        )  # fmt: skip
        return Started(int(made[0]), run, FIRST_ROW, 0)

    def advance(self, import_id: int, next_row: int, rows_rejected: int) -> None:
        """Record that all rows before `next_row` are acknowledged, `rows_rejected` of them as refused."""
        self._execute(
            """
            UPDATE file_imports SET next_row = %s, rows_rejected = %s, updated_at = now()
            WHERE import_id = %s AND next_row <= %s
            """,
            next_row, rows_rejected, import_id, next_row,
        )  # fmt: skip

    def complete(self, import_id: int) -> None:
        """Record that the file's end is acknowledged."""
        self._execute(
            "UPDATE file_imports SET state = 'complete', updated_at = now() WHERE import_id = %s", import_id
        )

    def _lock(self, key: str, file_name: str, customer_id: int) -> None:
        try:
            with self._connection.transaction():
                self._execute("SELECT set_config('lock_timeout', %s, true)", f"{round(self._lock_wait_s * 1000)}ms")
                self._execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", key)
        except psycopg.errors.LockNotAvailable as error:
            raise UsageError(
                f"{file_name} is being imported for customer {customer_id} right now", remedy="let that import finish"
            ) from error

    def _one(self, statement: str, *values: object) -> tuple[Any, ...]:
        row = self._execute(statement, *values).fetchone()
        assert row is not None, "the statement answers one row"
        return tuple(row)

    def _execute(self, statement: str, *values: object) -> psycopg.Cursor[Any]:
        try:
            return self._connection.execute(statement, values)
        except psycopg.errors.LockNotAvailable:
            raise
        except psycopg.OperationalError as error:
            raise UnavailableError(
                f"the control database went away: {error}", remedy="run the same command again; it goes on"
            ) from error
