"""Where the server is, and how to make redis-py's connections to it.

redis-py's defaults are dangerous for a queue: its automatic retries store a job twice when a reply is lost, and
its 5 s read timeout breaks a blocking read. So we set all timeouts ourselves, and our connections never retry.
"""

import re
import ssl
from collections.abc import Hashable
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.retry
from redis.backoff import NoBackoff

from redisjobs.base.visible import without_password
from redisjobs.drivers.redis.wire import translate
from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.times import LONGEST_TRY

ANSWER = LONGEST_TRY / 2
"""Seconds without a byte of the answer, or without a connection, after which a call fails."""

_CONNECTIONS = ("Connection", "SSLConnection", "UnixDomainSocketConnection")
_KEPT = ["host", "port", "path", "db", "username", "password", "credential_provider", "client_name"]
_OURS: dict[str, Any] = {
    "retry_on_timeout": False,
    "retry_on_error": [],
    "health_check_interval": 0,
    "decode_responses": False,
    "encoding": "utf-8",
    "encoding_errors": "surrogateescape",
    "protocol": 2,
}


def _introduction() -> dict[str, Any]:
    """Return redis-py's description of itself. Without it, redis-py reads its metadata for each connection."""
    try:
        from redis.driver_info import DriverInfo
    except ImportError:  # an older redis-py, which reads it once
        return {}
    return {"driver_info": DriverInfo()}


_INTRODUCTION = _introduction()


class Target:
    """Where the server is: a URL or an existing redis-py client, and how to make connections to it.

    Attributes:
        has_answered: Whether a connection to it has opened.
        database: The number of the database.
        place: Equal for the same server and database.
        server: Equal for the same server, database and user.

    Raises:
        ValueError: The URL is invalid, or we can't make the client's kind of connection.
    """

    def __init__(self, where: Any) -> None:
        self._has_warned = False
        pool = _pool_of(where) if isinstance(where, str) else where.connection_pool
        self._kind = pool.connection_class.__name__
        if self._kind not in _CONNECTIONS:
            raise ValueError(
                f"redisjobs can't make connections of the class {self._kind}, only {', '.join(_CONNECTIONS)}"
            )
        # Only the address, the credentials and TLS. The other options are ours to set, and redis-py's sync and
        # async connections do not take the same ones.
        kept = {key: value for key, value in pool.connection_kwargs.items() if _is_kept(key, value)}
        self._options = {**kept, **_INTRODUCTION, **_OURS}
        if self._kind != "UnixDomainSocketConnection":
            self._options["socket_keepalive"] = True
        if self._kind == "SSLConnection":  # redis-py checks the name by itself since 6.0
            checked = kept.get("ssl_cert_reqs") not in ("none", ssl.CERT_NONE)
            self._options.setdefault("ssl_check_hostname", checked)
        self.has_answered = False
        self.database = int(kept.get("db") or 0)
        # Text, because redis-py packs it unchanged: see `Word`.
        self._options["db"] = str(self.database) if self.database else None
        self._host, self._port = kept.get("host", "localhost"), kept.get("port", 6379)
        self.place: Hashable = kept.get("path") or (self._host, self._port), self.database
        self.server = self.place, kept.get("username") or id(kept.get("credential_provider"))
        try:
            if isinstance(where, str):
                pool.make_connection()
            self.connection()
            self.sync_connection(ANSWER)
        except TypeError as error:  # nothing was opened: redis-py does not know an option
            raise ValueError(f"can't connect by these options: {error}") from error

    @property
    def where(self) -> str:
        """The server and its database as a URL, without a password."""
        if self._kind == "UnixDomainSocketConnection":
            return f"unix://{self._options.get('path', '')}?db={self.database}"
        scheme = "rediss" if self._kind == "SSLConnection" else "redis"
        user = f"{name}@" if (name := self._options.get("username")) else ""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{scheme}://{user}{host}:{self._port}/{self.database}"

    def connection(self) -> Any:  # redis-py's connections are not fully typed
        """Return a new async connection, not yet open. The caller has to limit the time of each call.

        With a timeout, redis-py sends by `asyncio.wait_for`, and on Python 3.11 that may swallow a cancel.
        """
        kind = getattr(redis.asyncio.connection, self._kind)
        retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
        return kind(**self._options, socket_connect_timeout=ANSWER, socket_timeout=None, retry=retry)

    def sync_connection(self, timeout: float) -> Any:
        """Return a new sync connection, not yet open. `timeout` limits opening it, and each send and read."""
        kind = getattr(redis.connection, self._kind)
        retry = redis.retry.Retry(NoBackoff(), 0)
        return kind(**self._options, socket_connect_timeout=timeout, socket_timeout=timeout, retry=retry)

    def translate(self, error: BaseException) -> DriverError:
        """Return redis-py's error as ours, with a hint if it looks as if only one side used TLS."""
        translated = translate(error)
        if self.has_answered or not isinstance(translated, Unavailable):
            return translated
        text = str(translated)
        if self._kind == "SSLConnection" and _IS_PLAIN.search(text):
            return Unavailable(f"{text}; the URL says rediss://: if the server does not use TLS, write redis://")
        if self._kind == "Connection" and _IS_TLS.search(text):
            return Unavailable(f"{text}; the URL says redis://: if the server requires TLS, write rediss://")
        return translated

    def once(self, warning: str) -> list[str]:
        """Return a list of the warning, if it is the first one about this server; else an empty list."""
        if not warning or self._has_warned:
            return []
        self._has_warned = True
        return [warning]


# The errors if only one side uses TLS: a server without TLS waits for the end of a line, one with TLS hangs up.
_IS_PLAIN = re.compile(r"(?i)timeout|timed out|wrong.version|record.layer|unexpected.eof|closed")
_IS_TLS = re.compile(r"(?i)reset by peer|connection lost|closed|broken pipe|protocol error")


def _pool_of(url: str) -> Any:
    """Return redis-py's pool for a URL; an error names the URL."""
    try:
        _check_database(url)
        return redis.ConnectionPool.from_url(url, **_INTRODUCTION)
    except ValueError as error:
        why = str(error)
    shown = without_password(url)
    raise ValueError(f"{shown!r}: {why}")


def _check_database(url: str) -> None:
    """Refuse a database that is no number: redis-py would take database 0 instead."""
    parts = urlsplit(url)
    if parts.scheme in ("redis", "rediss") and not re.fullmatch(r"/?[0-9]{0,9}/?", parts.path):
        raise ValueError(
            f"{parts.path[1:]!r} is no database of Redis; give a number, as redis://HOST:6379/0, and the queue's "
            "name by itself"
        )


def _is_kept(option: str, value: Any) -> bool:
    if option.startswith("ssl_validate_ocsp") and not value:  # off, and only sync connections know it
        return False
    return value is not None and (option in _KEPT or option.startswith("ssl_"))
