"""Errors of Postgres and of psycopg, as ours."""

import re
from typing import Any

import psycopg
from psycopg import pq

from redisjobs.drivers.postgres import functions
from redisjobs.drivers.postgres.connecting import FORBIDDEN, NO_SCHEMA
from redisjobs.drivers.postgres.schema import MIGRATE, MIGRATE_OR_LEARN
from redisjobs.errors import DriverError, Forbidden, QueueFull, Unavailable
from redisjobs.model.driver import NoAnswer

_AGAIN = ("40001", "40P01")  # serialization failure, deadlock
_UNPREPARED = ("26000", "42P05")
_NOT_NOW = (
    *_AGAIN,
    *"25006 53300 53400 57014 57P01 57P02 57P03 57P04 57P05".split(),
    "0A000",  # of statements that are right: a plan is no good any more, or the server is a replica now
)
_FULL = ("53100", "53200", "53000")  # the disk, or the memory
_GONE = ("57P01", "57P02", "57P03", "57P05", "25006", "08")  # the session, or its server, can't be used any more
_UNWRITABLE = ("22", "54")  # data exceptions, and limits of the server
_REFUSED = (  # what no new try changes; a failed connection has no SQLSTATE
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "does not exist",
    "permission denied",
    "invalid ",
    "certificate",
    "SASL",
)


class Refused(DriverError):
    """A statement's error as the server gave it; `as_ours` makes it one for callers.

    Attributes:
        state: The SQLSTATE.
        role: Who asked.
    """

    def __init__(self, message: str, state: str, role: str = "") -> None:
        super().__init__(message)
        self.state, self.role = state, role

    @property
    def may_be_repeated(self) -> bool:
        """Whether the same statement may succeed at once: nothing of it was written."""
        return self.state in (*_AGAIN, *_UNPREPARED)

    @property
    def is_of_preparing(self) -> bool:
        """Whether a prepared statement was not there, or was there already: a pooler changes sessions."""
        return self.state in _UNPREPARED

    @property
    def ends_connection(self) -> bool:
        """Whether another connection is needed."""
        return self.state.startswith(_GONE)


class Locked(Unavailable):
    """Another transaction, maybe one of an application's, has locked what a call needs. Nothing was written."""


def refusal(result: Any, role: bytes = b"") -> Refused | psycopg.Error:
    """Return the error of a result: of the server, which `role` asked, or of libpq if the connection was lost."""
    state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
    message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message
    text = message.decode("utf-8", "replace").strip()
    return Refused(text, state, role.decode("utf-8", "replace")) if state else psycopg.OperationalError(text)


def as_ours(error: Refused) -> DriverError:
    """Return a server's refusal as an error for callers."""
    text, state = str(error), error.state
    if state in NO_SCHEMA:
        return DriverError(f"the database lacks what this release of redisjobs needs ({text}): {MIGRATE_OR_LEARN}")
    if state == FORBIDDEN:
        return _forbidden(error)
    if state in _FULL:
        return QueueFull(f"the database is full: {text}; nothing was written")
    if state == "25006":
        return Unavailable(
            f"this server is a replica, or has default_transaction_read_only on ({text}): writes need the primary"
        )
    if state == "55000":
        return Unavailable(f"{text}: it was published a moment ago; workers see to it, or {MIGRATE}")
    if state == "55P03":
        return Locked(f"another transaction has locked what this call needs ({text})")
    if state in _NOT_NOW or state.startswith("08"):
        return Unavailable(text)
    return DriverError(text)


def _forbidden(error: Refused) -> Forbidden:
    """Return which right a role lacks, and how it gets that."""
    missing = next(filter(None, map(functions.part_for, re.findall(r"\w+", str(error)))), "producer")
    return Forbidden(
        f"the role {error.role!r} may not do this ({error}). As the owner of the schema, run: "
        f"select redisjobs.allow({_quoted(error.role)}, '{missing}')"
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def is_refusal(error: DriverError) -> bool:
    """Whether the server refuses a request for its data: it can't take them, or there are too many."""
    said = error.__cause__
    return isinstance(said, Refused) and said.state.startswith(_UNWRITABLE)


def lost(error: Exception) -> Unavailable:
    """Return the error of a connection that ended as ours."""
    return NoAnswer(next(iter(str(error).splitlines()), type(error).__name__))


def not_opened(error: Exception) -> DriverError:
    """Return the error of a connection that could not be opened as ours."""
    text = " ".join(str(error).split()) or type(error).__name__
    if any(each in text for each in _REFUSED):
        return DriverError(f"the database refuses the connection: {text}")
    return Unavailable(text)
