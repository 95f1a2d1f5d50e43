"""Opens connections to Postgres, with errors that show no password."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redisjobs.base.visible import visible, without_password
from redisjobs.errors import DriverError, Forbidden, Unavailable

FORBIDDEN = "42501"
"""The SQLSTATE of an error about a right that the role lacks."""

NO_SCHEMA = ("3F000", "42P01", "42703", "42883")
"""Those of errors about a schema, a table, a column or a function that is not there."""

_WITHIN = 5  # seconds in which a server must answer
_OPTIONS: dict[str, Any] = {
    "autocommit": True,
    "connect_timeout": _WITHIN,
    "prepare_threshold": None,  # prepared statements do not work through a pooler in transaction mode
    "application_name": "redisjobs",
}


def checked(url: str) -> str:
    """Return a database's URL as libpq reads it.

    Raises:
        ValueError: It is no URL of a Postgres database.
    """
    if not re.match(r"postgres(ql)?://", url):
        raise ValueError(f"{shown(url)!r} is no database: give postgresql://USER@HOST/NAME")
    return url


def shown(url: str) -> str:
    """Return a URL for messages: without what may be a password."""
    return visible(re.sub("//.*@", "//…@", without_password(url)))


@contextmanager
def connect(url: str) -> Iterator[Any]:
    """Yield a connection of psycopg in autocommit, and close it. Errors are ours, as by `translated`."""
    psycopg = library()
    with translated(url), psycopg.connect(checked(url), **_OPTIONS) as connection:
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED  # each transaction begins so
        yield connection


async def connect_async(url: str) -> Any:
    """Return an async connection of psycopg in autocommit. Errors of its making are ours, as by `translated`."""
    psycopg = library()
    with translated(url):
        connection = await psycopg.AsyncConnection.connect(checked(url), **_OPTIONS)
        await connection.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
        return connection


def library() -> Any:
    """Return the module psycopg.

    Raises:
        DriverError: It is not installed.
    """
    try:
        import psycopg
    except ImportError as error:
        raise DriverError(
            f"Postgres needs psycopg ({error}): install redisjobs with its extra `postgres`"
        ) from error
    return psycopg


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Raise errors of psycopg as ours.

    Raises:
        Unavailable: The server did not answer, or the connection ended.
        Forbidden: The role may not do that.
        DriverError: The database refused otherwise.
    """
    psycopg = library()
    try:
        yield
    except psycopg.Error as error:
        raise _translation(error, url) from None  # libpq's message may show the URL


def unavailable(url: str, why: str) -> Unavailable:
    """Return the error for a database that does not answer."""
    return Unavailable(f"Postgres at {shown(url)} is unavailable ({why})")


def _translation(error: Exception, url: str) -> DriverError:
    state = getattr(error, "sqlstate", None)
    said = visible(str(error).strip().replace(url, shown(url)))
    if state == FORBIDDEN:
        return Forbidden(f"Postgres at {shown(url)}: {said}")
    # 08 connection, 57P an operator or a restart, 53 out of resources, 40 conflicts, 25 a server that takes no
    # writes or ended an idle transaction; without a state: the client's own.
    if state is None or state[:2] in ("08", "53", "40", "25") or state.startswith("57P"):
        return unavailable(url, said)
    return DriverError(f"Postgres at {shown(url)}: {said}")
