"""The torture's own sessions with a PostgreSQL server."""

from typing import Any

from redisjobs.drivers.postgres import connecting
from redisjobs.drivers.postgres.errors import lost

NAME = "redisjobs torture"
"""The name of the torture's own sessions: faults spare them."""

_WITHIN = 2  # seconds in which a server has to accept a connection


class Session:
    """A session with a server, for any statements; it may hold a transaction open.

    Attributes:
        connection: Of psycopg.

    Raises:
        DriverError: The server can't be reached, or refuses. This also holds for `run`.
    """

    def __init__(self, url: str) -> None:
        psycopg = connecting.library()
        self._error: type[Exception] = psycopg.Error
        try:
            self.connection: Any = psycopg.connect(
                url, autocommit=True, connect_timeout=_WITHIN, application_name=NAME
            )
        except self._error as error:
            raise lost(error) from error

    def run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement, with %s for each value; return its rows."""
        try:
            cursor = self.connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []
        except self._error as error:
            raise lost(error) from error

    def close(self) -> None:
        """Close it; a transaction that is open is rolled back."""
        self.connection.close()
