"""Where the database is, and how to make connections to it."""

from collections.abc import Hashable, Sequence
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from redisjobs.base.visible import without_password
from redisjobs.model.times import LONGEST_TRY

ANSWER = LONGEST_TRY / 2
"""Seconds without a byte of the answer, or without a connection, after which a call fails."""

_DEFAULTS = {
    "application_name": "redisjobs",
    "connect_timeout": str(int(ANSWER)),
    # A connection whose other side is gone is noticed within half a minute, also if it only listens.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}


class Target:
    """Where a database is, and how to make connections to it.

    Args:
        where: A `postgresql://` URL, with any of libpq's parameters.

    Attributes:
        conninfo: What libpq needs, with the password: show it nowhere.
        place: Equal for the same database.
        where: The URL for messages, without a password.
        prepares: Whether statements may be prepared; False once that has failed, as behind some poolers.

    Raises:
        ValueError: The URL is invalid.
    """

    def __init__(self, where: str) -> None:
        options = _options_of(where)
        self.place: Hashable = _places(options), options.get("dbname")
        self.where = _shown(options)
        self.prepares = True
        if len(_places(options)) > 1:  # a replica among them can't run the calls
            options.setdefault("target_session_attrs", "read-write")
        self.conninfo = make_conninfo("", **(_DEFAULTS | options | {"client_encoding": "UTF8"}))
        self._said: set[str] = set()

    async def connect(self) -> psycopg.AsyncConnection[Any]:
        """Open an async connection."""
        return await psycopg.AsyncConnection.connect(self.conninfo, autocommit=True, prepare_threshold=None)

    def connect_sync(self, timeout: float) -> psycopg.Connection[Any]:
        """Open a sync connection within about this many seconds."""
        conninfo = make_conninfo(self.conninfo, connect_timeout=max(1, round(timeout)))
        return psycopg.Connection.connect(conninfo, autocommit=True, prepare_threshold=None)

    def once(self, warnings: Sequence[str]) -> list[str]:
        """Return those of the warnings about this database that were not returned before."""
        new = [each for each in warnings if each not in self._said]
        self._said.update(new)
        return new


def _options_of(url: str) -> dict[str, Any]:
    try:
        options = dict(conninfo_to_dict(url))
    except psycopg.ProgrammingError as error:
        # Only libpq's complaint of an option: the others may quote a part of the password.
        why = f": {error}" if "query parameter" in str(error) else ""
        raise ValueError(f"{without_password(url)!r} is no valid URL of a database{why}".strip()) from None
    return {name: value for name, value in options.items() if value is not None}


def _places(options: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return each host with its port."""
    hosts = str(options.get("host") or options.get("hostaddr") or "").split(",")
    ports = str(options.get("port") or "5432").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    return tuple(zip(hosts, ports, strict=False))


def _shown(options: dict[str, Any]) -> str:
    user = f"{options['user']}@" if options.get("user") else ""
    places = ",".join(f"{host}:{port}" if host else "" for host, port in _places(options))
    return f"postgresql://{user}{places}/{options.get('dbname') or ''}"
