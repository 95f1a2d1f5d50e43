"""Where the server is, and how to make redis-py's connections to it.

redis-py's defaults are dangerous for a queue: its automatic retries store a job twice when a reply is lost, and
its 5 s read timeout breaks a blocking read. So we set all timeouts ourselves, and our connections never retry.
"""

import math
import re
import ssl
import weakref
from collections.abc import Hashable, Mapping
from typing import Any, Protocol

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.retry
from redis.backoff import NoBackoff

from redisjobs.base.forks import begin_after_fork
from redisjobs.drivers.redis.locator import Address, BySlot, Fixed, Search, moved_to, slot_of
from redisjobs.drivers.redis.origin import INTRODUCTION, origin_of
from redisjobs.drivers.redis.sentinels import SentinelWatch
from redisjobs.drivers.redis.wire import is_a_sentinel, translate
from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.times import LONGEST_TRY

ANSWER = LONGEST_TRY / 2
"""Seconds without a byte of the answer, or without a connection, after which a call fails."""

_LATE = 0.5
_FOUND_ANSWER = 2.0  # the same where the server has to be found: another one may take over soon
_KEPT = ["path", "db", "username", "password", "credential_provider", "client_name"]
_OURS: dict[str, Any] = {
    "retry_on_timeout": False,
    "retry_on_error": [],
    "health_check_interval": 0,
    "decode_responses": False,
    "encoding": "utf-8",
    "encoding_errors": "surrogateescape",
    "protocol": 2,
}


class Target:
    """Where the server of a queue is, and how to make connections to it.

    Args:
        where: A URL, or a redis-py client.
        queue: The queue's name: on a cluster, its slot has a node of its own.

    Attributes:
        has_answered: Whether a connection to it has opened.
        database: The number of the database.
        locator: Knows where the server is, or finds it.
        place: Equal for the same server and database.

    Raises:
        ValueError: The URL is invalid, or we can't make the client's kind of connection.
    """

    def __init__(self, where: Any, queue: str = "") -> None:
        self._has_warned = False
        self._queue = queue
        self.begin()
        begin_after_fork(self)
        origin = self._origin = origin_of(where)
        self.locator = origin.locator(queue)
        self._watch = SentinelWatch(self) if origin.master else None
        # Only the address, the credentials and TLS. The other options are ours to set, and redis-py's sync and
        # async connections do not take the same ones.
        kept = _kept(origin.options)
        self._options = _ours(kept, origin.kind)
        self._sentinel_options = _ours(_kept(origin.sentinel_options), origin.kind)
        self.has_answered = False
        self.database = int(kept.get("db") or 0)
        # Text, because redis-py packs it unchanged: see `Word`.
        self._options["db"] = str(self.database) if self.database else None
        where_it_is: Hashable = kept.get("path") or (tuple(origin.nodes), origin.master)
        self.place: Hashable = where_it_is, self.database
        self._user: Hashable = kept.get("username") or id(kept.get("credential_provider"))
        try:
            one = next(iter(origin.nodes), None)
            self.connection(one)
            self.sync_connection(one, ANSWER)
        except TypeError as error:  # nothing was opened: redis-py does not know an option
            raise ValueError(f"can't connect by these options: {error}") from error

    def begin(self) -> None:
        """Start without open connections: those that a forked process has are its parent's."""
        # No WeakSet: threads share it, and one may open a connection while another one looks at all of them.
        self._opened: set[weakref.ref[Opened]] = set()

    @property
    def answer(self) -> float:
        """Seconds without a byte of the answer, or without a connection, after which a call fails."""
        return ANSWER if isinstance(self.locator, Fixed) else _FOUND_ANSWER

    @property
    def late(self) -> float:
        """Seconds after which an answer counts only if its server is still the one.

        A primary that was frozen and replaced takes writes for a moment when it wakes up. They are lost.
        """
        return math.inf if isinstance(self.locator, Fixed) else _LATE

    @property
    def server(self) -> Hashable:
        """Equal for queues that one connection can serve now: of the same server, database and user."""
        return self.place, self._queue if isinstance(self.locator, BySlot) else "", self._user

    @property
    def where(self) -> str:
        """The server and its database as a URL, without a password."""
        return self._origin.shown

    def connection(self, address: Address | None, *, is_sentinel: bool = False) -> Any:
        """Return a new async connection, not yet open. The caller has to limit the time of each call.

        With a timeout, redis-py sends by `asyncio.wait_for`, and on Python 3.11 that may swallow a cancel.
        """
        kind = getattr(redis.asyncio.connection, self._origin.kind)
        retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
        options = self._options_for(address, is_sentinel)
        return kind(**options, socket_connect_timeout=self.answer, socket_timeout=None, retry=retry)

    def sync_connection(self, address: Address | None, timeout: float, *, is_sentinel: bool = False) -> Any:
        """Return a new sync connection, not yet open. `timeout` limits opening it, and each send and read."""
        kind = getattr(redis.connection, self._origin.kind)
        retry = redis.retry.Retry(NoBackoff(), 0)
        options = self._options_for(address, is_sentinel)
        return kind(**options, socket_connect_timeout=timeout, socket_timeout=timeout, retry=retry)

    def _options_for(self, address: Address | None, is_sentinel: bool) -> dict[str, Any]:
        options = self._sentinel_options if is_sentinel else self._options
        return options if address is None else {**options, "host": address.host, "port": address.port}

    def opened(self, connection: "Opened") -> None:
        """Note an open connection, and end those to other addresses: the server has left these."""
        self.has_answered = True
        self._opened.add(weakref.ref(connection, self._opened.discard))
        self.end_others()
        if self._watch is not None:
            self._watch.start()

    @property
    def has_open(self) -> bool:
        """Whether a connection is open."""
        return len(self._opened) > 0

    def closed(self, connection: "Opened") -> None:
        """Note that a connection was closed."""
        self._opened.discard(weakref.ref(connection))

    def search(self) -> Search:
        """Find the server; see `Locator`."""
        try:
            return (yield from self.locator.search())
        except Unavailable as error:
            raise self.translate(error) from error.__cause__

    def doubt(self, address: Address | None, error: BaseException) -> None:
        """Note that a call to the server at this address has failed."""
        if isinstance(self.locator, Fixed) and address is not None and moved_to(error) is not None:
            self.locator = BySlot([address], slot_of(self._queue))  # a cluster behind one address
        self.locator.doubt(address, error)
        self.end_others()

    def end_others(self) -> None:
        """End the connections to other addresses than the one that is known."""
        known = self.locator.known
        if known is None or isinstance(self.locator, Fixed):
            return
        for ref in list(self._opened):
            connection = ref()
            if connection is not None and connection.address != known:
                self._opened.discard(ref)
                connection.end()

    def translate(self, error: BaseException) -> DriverError:
        """Return redis-py's error as ours, with a hint if it looks as if only one side used TLS."""
        translated = translate(error)
        if any(text in str(translated) for text in _NO_DATABASE):
            return DriverError(
                f"the server has no database {self.database}; a cluster has only database 0: correct the number "
                "in the URL, or leave it out"
            )
        if "unknown command 'SELECT'" in str(translated):
            return is_a_sentinel()
        if self.has_answered or not isinstance(translated, Unavailable):
            return translated
        text, scheme = str(translated), self.where.partition(":")[0]
        other = scheme.replace("rediss", "redis") if "rediss" in scheme else scheme.replace("redis", "rediss")
        if self._origin.kind == "SSLConnection" and _IS_PLAIN.search(text):
            return Unavailable(
                f"{text}; the URL says {scheme}://: if the server does not use TLS, write {other}://"
            )
        if self._origin.kind == "Connection" and _IS_TLS.search(text):
            return Unavailable(f"{text}; the URL says {scheme}://: if the server requires TLS, write {other}://")
        return translated

    def once(self, warning: str) -> list[str]:
        """Return a list of the warning, if it is the first one about this server; else an empty list."""
        if not warning or self._has_warned:
            return []
        self._has_warned = True
        return [warning]


# What a cluster says to SELECT, and what Valkey 9 says, on a cluster too.
_NO_DATABASE = ("SELECT is not allowed in cluster mode", "DB index is out of range")

# The errors if only one side uses TLS: a server without TLS waits for the end of a line, one with TLS hangs up.
_IS_PLAIN = re.compile(r"(?i)timeout|timed out|wrong.version|record.layer|unexpected.eof|closed")
_IS_TLS = re.compile(r"(?i)reset by peer|connection lost|closed|broken pipe|protocol error")


class Opened(Protocol):
    """An open connection, which another thread may end."""

    @property
    def address(self) -> Address | None:
        """Where its server is."""

    def end(self) -> None:
        """Close it at once; the call that waits fails."""


def _kept(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if _is_kept(key, value)}


def _ours(kept: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return options of a connection: those that were kept, and ours."""
    options = {**kept, **INTRODUCTION, **_OURS}
    if kind != "UnixDomainSocketConnection":
        options["socket_keepalive"] = True
    if kind == "SSLConnection":  # redis-py checks the name by itself since 6.0
        checked = kept.get("ssl_cert_reqs") not in ("none", ssl.CERT_NONE)
        options.setdefault("ssl_check_hostname", checked)
    return options


def _is_kept(option: str, value: Any) -> bool:
    if option.startswith("ssl_validate_ocsp") and not value:  # off, and only sync connections know it
        return False
    return value is not None and (option in _KEPT or option.startswith("ssl_"))
