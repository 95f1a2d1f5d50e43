"""Runs a statement in the caller's transaction, on a connection of any of the libraries that applications use.

::

    transaction_of(connection).run("SELECT %s::text", "x")  # [('x',)], or a coroutine of it

Statements have `%s` for each value, and no other `%`. Values are texts, numbers and None: each library knows them.
A connection without a transaction to write in is refused before anything is written.
"""

import asyncio
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Hashable
from contextlib import suppress
from itertools import count
from typing import Any, Protocol

from redisjobs.errors import NoTransaction

Rows = list[tuple[Any, ...]]
IsOpen = Callable[[], bool]

_IDLE, _ACTIVE, _IN_BLOCK, _IN_ERROR, _UNKNOWN = range(5)  # psycopg's TransactionStatus
_ABORTED = "25P02"
_REFUSALS = frozenset(
    # asyncpg's two, SQLAlchemy's four and Django's; Django has an InterfaceError, too
    (
        "InterfaceError ConnectionDoesNotExistError "
        "PendingRollbackError ResourceClosedError InvalidRequestError IllegalStateChangeError "
        "TransactionManagementError"
    ).split()
)
"""Errors of a library that sent nothing, because the connection can't be used now."""

_TAKEN = (
    "a connection of psycopg or asyncpg, a connection or session of SQLAlchemy (each with Postgres), or Django's "
    "connection"
)


class Transaction(Protocol):
    """The transaction of a connection.

    Attributes:
        is_async: Whether `run` returns a coroutine.
        key: Tells its connection from others.
    """

    is_async: bool
    key: Hashable

    def run(self, statement: str, *values: Any) -> Any:
        """Run a statement with its values, and return its rows, or a coroutine of them.

        Raises:
            NoTransaction: The connection has no transaction to write in. Nothing was written.
        """

    def watch(self, *, loosely: bool = False) -> IsOpen:
        """Return a function that says whether the transaction of the last statement is still open.

        False if that can't be known: a pool may have given the connection to others since. With `loosely`, it
        may be a later transaction of this connection that is open.
        """


def transaction_of(connection: Any) -> Transaction:
    """Return the transaction of a connection or session.

    Raises:
        TypeError: It is none of those that we know.
    """
    connection = _unscoped(connection)
    for module, names, kind in _KINDS:
        loaded = sys.modules.get(module)  # an object of a library that is not loaded can't be here
        types = tuple(getattr(loaded, name) for name in names.split() if hasattr(loaded, name))
        if isinstance(connection, types):
            return kind(connection)
    hint = ""
    if hasattr(connection, "connect") or hasattr(connection, "getconn"):
        hint = ": that opens other connections; give the one whose transaction has your data"
    elif hasattr(connection, "execute") and hasattr(connection, "connection"):
        hint = ": give its connection"
    raise TypeError(f"within={type(connection).__module__}.{type(connection).__qualname__} is not {_TAKEN}{hint}")


def state_of(error: BaseException | None) -> str:
    """Return the SQLSTATE of a library's error, or of the error that it wraps; '' if there is none."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if state := getattr(error, "sqlstate", None) or getattr(error, "pgcode", None):
            return str(state)
        error = getattr(error, "orig", None) or error.__cause__
    return ""


class _Sync(ABC):
    is_async = False

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.key: Hashable = id(connection)

    def run(self, statement: str, *values: Any) -> Rows:
        try:
            return self._run(statement, values)
        except Exception as error:
            if refusal := _refusal(error):
                raise refusal from error
            raise

    @abstractmethod
    def _run(self, statement: str, values: tuple[Any, ...]) -> Rows:
        """Run it by the library."""

    @abstractmethod
    def watch(self, *, loosely: bool = False) -> IsOpen:
        """See `Transaction`."""


class _Async(ABC):
    is_async = True

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.key: Hashable = id(connection)

    async def run(self, statement: str, *values: Any) -> Rows:
        try:
            return await self._run(statement, values)
        except Exception as error:
            if refusal := _refusal(error):
                raise refusal from error
            raise

    @abstractmethod
    def _run(self, statement: str, values: tuple[Any, ...]) -> Coroutine[Any, Any, Rows]:
        """Run it by the library."""

    @abstractmethod
    def watch(self, *, loosely: bool = False) -> IsOpen:
        """See `Transaction`."""


def _refusal(error: Exception) -> NoTransaction | None:
    """Return an error as a NoTransaction if it means that; None: the caller gets the error of the library."""
    if state_of(error) == _ABORTED:
        return NoTransaction(_ABORTED_TEXT)
    if type(error).__name__ in _REFUSALS:
        return NoTransaction(f"within= a connection that can't be used now ({error}). Nothing was written")
    return None


_ABORTED_TEXT = (
    "within= an aborted transaction: an earlier error ended it; roll it back first. Nothing was written"
)
_AUTOCOMMIT_TEXT = (
    "within= a connection in autocommit, without a transaction: begin one, so that the push commits with your "
    "data. Nothing was written"
)


class _Psycopg(_Sync):
    def _run(self, statement: str, values: tuple[Any, ...]) -> Rows:
        _check_psycopg(self._connection)
        with self._connection.cursor(row_factory=_row_factory()) as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def watch(self, *, loosely: bool = False) -> IsOpen:
        return _watched_psycopg(self._connection, loosely)


class _AsyncPsycopg(_Async):
    async def _run(self, statement: str, values: tuple[Any, ...]) -> Rows:
        _check_psycopg(self._connection)
        async with self._connection.cursor(row_factory=_row_factory()) as cursor:
            await cursor.execute(statement, values)
            return await cursor.fetchall() if cursor.description else []

    def watch(self, *, loosely: bool = False) -> IsOpen:
        return _watched_psycopg(self._connection, loosely)


def _row_factory() -> Any:
    return sys.modules["psycopg.rows"].tuple_row


def _check_psycopg(connection: Any) -> None:
    status = connection.info.transaction_status
    if connection.closed or status == _UNKNOWN:
        raise NoTransaction("within= a closed connection. Nothing was written")
    if status == _IN_ERROR:
        raise NoTransaction(_ABORTED_TEXT)
    if status == _ACTIVE and connection.pgconn.pipeline_status == 0:
        raise NoTransaction("within= a connection that runs another statement now. Nothing was written")
    if status == _IDLE and connection.autocommit:
        raise NoTransaction(_AUTOCOMMIT_TEXT)


def _watched_psycopg(connection: Any, loosely: bool) -> IsOpen:
    if getattr(connection, "_pool", None) is not None and not loosely:
        return lambda: False
    return lambda: connection.info.transaction_status in (_ACTIVE, _IN_BLOCK, _IN_ERROR)


class _Asyncpg(_Async):
    async def _run(self, statement: str, values: tuple[Any, ...]) -> Rows:
        connection = self._connection
        if connection.is_closed():
            raise NoTransaction("within= a closed connection. Nothing was written")
        if getattr(connection, "_loop", None) not in (None, asyncio.get_running_loop()):
            raise NoTransaction("within= a connection of another event loop. Nothing was written")
        if not connection.is_in_transaction():
            raise NoTransaction(_AUTOCOMMIT_TEXT)
        return [tuple(row) for row in await connection.fetch(_numbered(statement), *values)]

    def watch(self, *, loosely: bool = False) -> IsOpen:
        return self._is_open

    def _is_open(self) -> bool:
        with suppress(sys.modules["asyncpg"].InterfaceError):  # a pool has taken its proxy back
            return not self._connection.is_closed() and self._connection.is_in_transaction()
        return False


def _numbered(statement: str) -> str:
    """Return a statement with `$1`, `$2` and so on for `%s`."""
    numbers = count(1)
    return "".join(part if part != "%s" else f"${next(numbers)}" for part in _parts(statement))


def _parts(statement: str) -> list[str]:
    first, *others = statement.split("%s")
    return [first, *(part for other in others for part in ("%s", other))]


class _Sqlalchemy(_Sync):
    def _run(self, statement: str, values: tuple[Any, ...]) -> Rows:
        connection = self._open()
        _check_sqlalchemy(connection, connection.connection.dbapi_connection)
        done = connection.exec_driver_sql(*_for_dialect(connection.dialect, statement, values))
        return [tuple(row) for row in done] if done.returns_rows else []

    def _open(self) -> Any:
        return self._connection

    def watch(self, *, loosely: bool = False) -> IsOpen:
        return _watched_sqlalchemy(self._connection)


class _SqlalchemySession(_Sqlalchemy):
    def _open(self) -> Any:
        return self._connection.connection()


class _AsyncSqlalchemy(_Async):
    async def _run(self, statement: str, values: tuple[Any, ...]) -> Rows:
        connection = await self._open()
        raw = await connection.get_raw_connection()
        _check_sqlalchemy(connection, raw.dbapi_connection)
        done = await connection.exec_driver_sql(*_for_dialect(connection.dialect, statement, values))
        return [tuple(row) for row in done] if done.returns_rows else []

    async def _open(self) -> Any:
        return self._connection

    def watch(self, *, loosely: bool = False) -> IsOpen:
        return _watched_sqlalchemy(self._connection)


class _AsyncSqlalchemySession(_AsyncSqlalchemy):
    async def _open(self) -> Any:
        return await self._connection.connection()


def _check_sqlalchemy(connection: Any, raw: Any) -> None:
    if connection.dialect.name != "postgresql":
        raise TypeError(f"within= a connection to {connection.dialect.name}: the outbox is in Postgres")
    if getattr(raw, "autocommit", False):
        raise NoTransaction(_AUTOCOMMIT_TEXT)


def _watched_sqlalchemy(connection: Any) -> IsOpen:
    begun = connection.get_transaction()
    return lambda: begun is not None and bool(begun.is_active)


def _for_dialect(dialect: Any, statement: str, values: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    is_numbered = dialect.paramstyle == "numeric_dollar"
    return (_numbered(statement) if is_numbered else statement), values


class _Django(_Sync):
    def _run(self, statement: str, values: tuple[Any, ...]) -> Rows:
        connection = self._connection
        if connection.vendor != "postgresql":
            raise TypeError(f"within= a connection to {connection.vendor}: the outbox is in Postgres")
        try:
            connection.validate_thread_sharing()
        except Exception as error:
            raise NoTransaction(
                f"within= the connection of another thread. Nothing was written ({error})"
            ) from error
        if connection.closed_in_transaction:
            raise NoTransaction("within= a closed connection. Nothing was written")
        if connection.needs_rollback:
            raise NoTransaction(_ABORTED_TEXT)
        if not connection.in_atomic_block and connection.get_autocommit():
            raise NoTransaction(_AUTOCOMMIT_TEXT)
        with connection.cursor() as cursor:
            cursor.execute(statement, values)
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

    def watch(self, *, loosely: bool = False) -> IsOpen:
        return lambda: bool(self._connection.in_atomic_block)


def _unscoped(connection: Any) -> Any:
    """Return the session of a scoped session."""
    registry = getattr(connection, "registry", None)
    is_scoped = type(connection).__name__ in ("scoped_session", "async_scoped_session")
    return registry() if is_scoped and callable(registry) else connection


_KINDS: tuple[tuple[str, str, Callable[[Any], Transaction]], ...] = (
    ("psycopg", "Connection", _Psycopg),
    ("psycopg", "AsyncConnection", _AsyncPsycopg),
    ("asyncpg", "Connection", _Asyncpg),
    ("asyncpg.pool", "PoolConnectionProxy", _Asyncpg),
    ("sqlalchemy.engine", "Connection", _Sqlalchemy),
    ("sqlalchemy.orm", "Session", _SqlalchemySession),
    ("sqlalchemy.ext.asyncio", "AsyncConnection", _AsyncSqlalchemy),
    ("sqlalchemy.ext.asyncio", "AsyncSession", _AsyncSqlalchemySession),
    ("django.db.backends.base.base", "BaseDatabaseWrapper", _Django),
    ("django.utils.connection", "ConnectionProxy", _Django),
)
"""The module of each kind of connection, and the names of its classes there."""
