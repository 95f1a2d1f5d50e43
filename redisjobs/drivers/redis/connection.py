"""Connections to a server, async and sync: they carry commands, and nothing else.

redis-py's defaults are dangerous for a queue: its automatic retries store a job twice when a reply is lost, and
its 5 s read timeout breaks a blocking read. So each connection here is told every timeout, never retries by
itself, and is dropped whenever a reply may still be under way.
"""

import asyncio
import encodings.idna  # noqa: F401  (for names of hosts: an import that Ctrl-C ends in the first call is never made up for)
import math
import re
import ssl
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

import anyio
import redis
import redis.asyncio
import redis.asyncio.retry
import redis.retry
from hiredis import pack_command
from redis.backoff import NoBackoff

from redisjobs.base.logger import Log
from redisjobs.base.visible import without_password
from redisjobs.drivers.redis.commands import Command, Commands, Wire, Word, translate, value_of
from redisjobs.drivers.redis.replies import CLOSED_IS_LOST, Replies, reader_of
from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.times import LONGEST_TRY

ANSWER = LONGEST_TRY / 2
"""Seconds in which a server sends at least one byte of an answer it owes, or accepts a connection."""

CLOCK_KEPT = 60.0
"""Seconds for which a server's clock is known that was heard; it may have been set since, or drift."""

T = TypeVar("T")

logger = Log("redisjobs.model.driver")

_pack: Callable[[tuple[Word, ...]], bytes] = pack_command  # type: ignore[assignment]  # it says tuples of one

_CHUNK = 64 * 1024  # bytes read at once
_GOODBYE = 0.5  # seconds that closing a connection in order may take
_CONNECTIONS = ("Connection", "SSLConnection", "UnixDomainSocketConnection")
_KEPT = ["host", "port", "path", "db", "username", "password", "credential_provider", "client_name"]


def _introduction() -> dict[str, Any]:
    """What redis-py tells a server about itself, as an option of its connections, where there is such an option.

    Without it redis-py looks its own version up in its installed metadata, for each connection that is made.
    """
    try:
        from redis.driver_info import DriverInfo
    except ImportError:  # an older one, which looks it up once
        return {}
    return {"driver_info": DriverInfo()}


_INTRODUCTION = _introduction()


class Target:
    """Where the server is: a URL or an existing redis-py client, and how to make connections to it.

    Attributes:
        has_answered: Whether a connection to it has opened.
        has_warned: Whether it was said that the server evicts keys: a worker that fires schedules asks twice.
        database: Of the server.
        place: Equal where the server and its database are the same.
        server: Equal where the server, its database and who we are there are the same.

    Raises:
        ValueError: The URL, or the client's kind of connection, is none we can use.
    """

    def __init__(self, where: Any) -> None:
        self.has_warned = False
        pool = _pool_of(where) if isinstance(where, str) else where.connection_pool
        self._kind = pool.connection_class.__name__
        if self._kind not in _CONNECTIONS:
            raise ValueError(
                f"{self._kind} is none of the connections redisjobs can make: {', '.join(_CONNECTIONS)}"
            )
        # Where the server is and who we are; how to talk to it is ours, and redis-py's sync and async
        # connections do not take the same options.
        kept = {key: value for key, value in pool.connection_kwargs.items() if _is_kept(key, value)}
        self._options: dict[str, Any] = {
            **kept,
            **_INTRODUCTION,
            "retry_on_timeout": False,
            "retry_on_error": [],
            "health_check_interval": 0,
            "decode_responses": False,
            "encoding": "utf-8",
            "encoding_errors": "surrogateescape",
            "protocol": 2,
        }
        if self._kind != "UnixDomainSocketConnection":
            self._options["socket_keepalive"] = True
        if self._kind == "SSLConnection":  # redis-py checks the name by itself since 6.0
            checked = self._options.get("ssl_cert_reqs") not in ("none", ssl.CERT_NONE)
            self._options.setdefault("ssl_check_hostname", checked)
        self.has_answered = False
        self.database = int(self._options.get("db") or 0)
        self._options["db"] = (
            str(self.database) if self.database else None
        )  # see `Word`: redis-py packs it as it is
        whose = self._options.get("username") or id(self._options.get("credential_provider"))
        where_at = self._options.get("path") or (
            self._options.get("host", "localhost"),
            self._options.get("port", 6379),
        )
        self.place: Hashable = where_at, self.database
        self.server = self.place, whose
        try:
            if isinstance(where, str):
                pool.make_connection()
            self.connection()
            self.sync_connection(ANSWER)
        except TypeError as error:  # nothing was opened: it's about an option that is none
            raise ValueError(f"can't connect by these options: {error}") from error

    @property
    def where(self) -> str:
        """The server and its database as a URL, without a password."""
        if self._kind == "UnixDomainSocketConnection":
            return f"unix://{self._options.get('path', '')}?db={self.database}"
        scheme = "rediss" if self._kind == "SSLConnection" else "redis"
        user = f"{name}@" if (name := self._options.get("username")) else ""
        host, port = self._options.get("host", "localhost"), self._options.get("port", 6379)
        return f"{scheme}://{user}{f'[{host}]' if ':' in host else host}:{port}/{self.database}"

    def connection(self) -> Any:  # redis-py's connections are not fully typed
        """A new async connection, not yet open. Whoever opens or reads it minds the time.

        With a time of its own redis-py sends by `asyncio.wait_for`, and on Python 3.11 that may swallow a cancel.
        """
        kind = getattr(redis.asyncio.connection, self._kind)
        retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
        return kind(**self._options, socket_connect_timeout=ANSWER, socket_timeout=None, retry=retry)

    def sync_connection(self, timeout: float) -> Any:
        """The same for sync code; opening it may take that long as well."""
        kind = getattr(redis.connection, self._kind)
        retry = redis.retry.Retry(NoBackoff(), 0)
        return kind(**self._options, socket_connect_timeout=timeout, socket_timeout=timeout, retry=retry)

    def translate(self, error: BaseException) -> DriverError:
        """One of redis-py's errors as one of ours; with a hint where only one side may speak TLS."""
        told = translate(error)
        if self.has_answered or not isinstance(told, Unavailable):
            return told
        text = str(told)
        if self._kind == "SSLConnection" and _IS_PLAIN.search(text):
            return Unavailable(f"{text}; the URL says rediss://: if no TLS is spoken there, write redis://")
        if self._kind == "Connection" and _IS_TLS.search(text):
            return Unavailable(f"{text}; the URL says redis://: if only TLS is spoken there, write rediss://")
        return told


# How it looks where one side speaks TLS: a plain server waits for the end of a line, one with TLS hangs up.
_IS_PLAIN = re.compile(r"(?i)timeout|timed out|wrong.version|record.layer|unexpected.eof|closed")
_IS_TLS = re.compile(r"(?i)reset by peer|connection lost|closed|broken pipe|protocol error")


def _pool_of(url: str) -> Any:
    """Its connections; an error about the URL names it."""
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


def packed(wires: Sequence[Wire]) -> bytes:
    """Commands as they go over the wire. By hiredis: redis-py's own way costs four times as much."""
    if len(wires) == 1:
        return _pack(tuple(wires[0]))
    return b"".join([_pack(tuple(wire)) for wire in wires])


def _is_kept(option: str, value: Any) -> bool:
    if option.startswith("ssl_validate_ocsp") and not value:  # off, and only known to sync connections
        return False
    return value is not None and (option in _KEPT or option.startswith("ssl_"))


def need_asyncio() -> asyncio.AbstractEventLoop:
    """The running event loop; any but asyncio's is refused.

    Raises:
        DriverError: It is trio's.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise DriverError(
            "redis-py needs asyncio; on trio only memory:// works: run this on asyncio, which is anyio's default, "
            "or push from a thread by redisjobs.sync"
        ) from None


class ServerClock:
    """The server's clock as one connection has heard it lately; never ahead of it, unless it was set since."""

    def __init__(self) -> None:
        self._said_ms: float | None = None
        self._heard = 0.0

    @property
    def now_ms(self) -> float | None:
        """What time it is there, or a little earlier; None if the server has not said so lately."""
        since = time.monotonic() - self._heard
        return None if self._said_ms is None or since > CLOCK_KEPT else self._said_ms + since * 1000

    def hear(self, server_ms: float) -> None:
        """Take in what an answer says that has just come: by now it is that late, at least."""
        self._said_ms, self._heard = server_ms, time.monotonic()

    def forget(self) -> None:
        """The connection ends; the next may lead to another server."""
        self._said_ms = None


class Connection:
    """One async connection, opened when first used and again after a failure. One user at a time.

    Args:
        commands: The queue's.
        target: Where to connect.
        timeout: Seconds within which some byte of an answer has to arrive. All of it may take longer.
        meets: Whether each opening asks the server first whether it and the queue's keys can be worked with.

    Attributes:
        clock: The server's, as this connection knows it.
    """

    def __init__(
        self, commands: Commands, target: Target, timeout: float = ANSWER, *, meets: bool = False
    ) -> None:
        self.clock = ServerClock()
        self._commands = commands
        self._target = target
        self._timeout = timeout
        self._meets = meets
        self._connection: Any = None
        self._replies: Replies | None = None
        self._heard_at = float("-inf")  # on those before this one

    @property
    def is_open(self) -> bool:
        """Whether it is open, as far as we know."""
        return self._connection is not None

    @property
    def heard_at(self) -> float:
        """When the last byte arrived, by the monotonic clock."""
        return self._heard_at if self._replies is None else self._replies.heard_at

    @property
    def is_receiving(self) -> bool:
        """Whether an answer has begun to arrive and is not complete."""
        return self._replies is not None and self._replies.is_receiving

    async def run(self, command: Command[T], until: float = math.inf) -> T:
        """Run a command; what it parses to.

        Args:
            command: The command.
            until: When to give up, by the monotonic clock.

        Raises:
            DriverError: It failed, or no reply came.
        """
        try:
            # Not by `_round_trip`: one coroutine less, and each push goes by here.
            arrived = self._replies or await self.open(until)
            await self._ask((command.wire,), until)
            replies = arrived.take(1)
            if not isinstance(replies[0], Exception):
                return command.parse(replies[0])
            (value,) = await self._heal((command,), replies, until)
            return value  # type: ignore[no-any-return]
        except BaseException as error:
            await self._fail(error)
            raise

    async def run_all(self, commands: Sequence[Command[Any]], until: float = math.inf) -> list[Any]:
        """Run commands in one round trip; what each parses to. See `run`."""
        try:
            replies = await self._round_trip([command.wire for command in commands], until)
            parsed = _parsed(commands, replies)
            return await self._heal(commands, replies, until) if parsed is None else parsed
        except BaseException as error:
            await self._fail(error)
            raise

    async def _fail(self, error: BaseException) -> None:
        """Drop the connection, unless a server has answered by this error that goes on serving.

        Raises:
            DriverError: It was one of redis-py's, or the operating system's.
        """
        if isinstance(error, DriverError) and not isinstance(error, Unavailable):
            return
        # Where it is unavailable another server may have taken its place: ask who it is now. Where this was
        # cancelled the reply may still come, and would answer the next question.
        await self._drop()
        if isinstance(error, redis.RedisError | OSError):
            raise self._target.translate(error) from error

    async def _heal(self, commands: Sequence[Command[Any]], replies: list[Any], until: float) -> list[Any]:
        arrived, healing = self._replies, self._commands.healing(commands, replies)
        try:
            wires = next(healing)
            while True:
                await self._ask(wires, until)  # not over another connection, should this one be closed by now
                assert arrived is not None
                wires = healing.send(arrived.take(len(wires)))
        except StopIteration as done:
            return list(done.value)

    async def _round_trip(self, wires: Sequence[Wire], until: float) -> list[Any]:
        replies = self._replies or await self.open(until)
        await self._ask(wires, until)
        return replies.take(len(wires))

    def _ask(self, wires: Sequence[Wire], until: float) -> asyncio.Future[None]:
        """Send commands over the open connection, and give what to await before their replies are taken."""
        left = _time_left(until, self._timeout)
        return self.send(wires).arrived(len(wires), left, until)

    async def open(self, until: float = math.inf) -> Replies:
        """Open it if it is not, and give what arrives over it."""
        if self._connection is None or self._replies is None:
            need_asyncio()
            connection = self._connection = self._target.connection()
            async with asyncio.timeout(_time_left(until, self._timeout)):
                with CLOSED_IS_LOST:
                    await connection.connect()
            replies = self._replies = Replies(connection)
            self._target.has_answered = True
            if self._meets:
                try:
                    _warn(self._target, await self.run_all(self._commands.meeting(), until))
                except DriverError:
                    await self._drop()  # or the next call would take it for met
                    raise
            return replies  # also if it was closed meanwhile: then sending fails
        return self._replies

    def send(self, wires: Sequence[Wire]) -> Replies:
        """Send commands over the open connection, and give what arrives over it.

        Raises:
            OSError: The connection is lost.
        """
        if self._replies is None:
            raise ConnectionError("the connection was closed")
        self._replies.send(packed(wires))
        return self._replies

    async def next(self, timeout: float) -> Any:
        """The next reply over the open connection, whatever was sent; an error reply as a value.

        Args:
            timeout: Seconds within which some byte of it has to arrive.

        Raises:
            OSError: The connection is lost, or nothing came.
            RedisError: What arrived is no reply.
        """
        if self._replies is None:
            raise ConnectionError("the connection was closed")
        replies = self._replies
        await replies.arrived(1, timeout, math.inf)
        return replies.take(1)[0]

    async def aclose(self) -> None:
        """Close the connection. With TLS that takes a word from the server; it is waited for, but not long."""
        connection = self._forget()
        if connection is not None:
            with anyio.move_on_after(_GOODBYE, shield=True), suppress(redis.RedisError, OSError):
                await connection.disconnect()

    async def _drop(self) -> None:
        """Close the connection at once, whatever is under way on it."""
        connection = self._forget()
        if connection is not None:
            with anyio.CancelScope(shield=True), suppress(redis.RedisError, OSError):
                await connection.disconnect(nowait=True)

    def _forget(self) -> Any:
        """Let go of what there is of an open connection, and give that; None if it is not open."""
        self.clock.forget()
        if self._replies is not None:
            self._heard_at = self._replies.heard_at
            self._replies.close()
        connection, self._connection, self._replies = self._connection, None, None
        return connection


class SyncConnection:
    """One sync connection, opened when first used and again after a failure. For one thread; see `Connection`."""

    def __init__(
        self, commands: Commands, target: Target, timeout: float = ANSWER, *, meets: bool = False
    ) -> None:
        self.clock = ServerClock()
        self._commands = commands
        self._target = target
        self._timeout = timeout
        self._meets = meets
        self._connection: Any = None
        self._replies: Any = None
        self._is_asking = False

    def run(self, command: Command[T], until: float = math.inf) -> T:
        """Run a command; what it parses to.

        Args:
            command: The command.
            until: When to give up, by the monotonic clock.

        Raises:
            DriverError: It failed, or no reply came.
        """
        replies = self._round_trip((command.wire,), until)
        if not isinstance(replies[0], Exception):
            return command.parse(replies[0])
        (value,) = self._heal((command,), replies, until)
        return value  # type: ignore[no-any-return]

    def run_all(self, commands: Sequence[Command[Any]], until: float = math.inf) -> list[Any]:
        """Run commands in one round trip; what each parses to. See `run`."""
        replies = self._round_trip([command.wire for command in commands], until)
        parsed = _parsed(commands, replies)
        return self._heal(commands, replies, until) if parsed is None else parsed

    def _heal(self, commands: Sequence[Command[Any]], replies: list[Any], until: float) -> list[Any]:
        healing = self._commands.healing(commands, replies)
        try:
            wires = next(healing)
            while True:
                wires = healing.send(self._round_trip(wires, until))
        except StopIteration as done:
            return list(done.value)
        except Unavailable:
            self.close()
            raise

    def _round_trip(self, wires: Sequence[Wire], until: float) -> list[Any]:
        if self._is_asking:  # another's exception, such as Ctrl-C, ended a round trip: its reply may come yet
            self.close()
        self._is_asking = True
        try:
            if self._connection is None:
                self._open(until)
            replies = self._ask(wires, until)
        except (redis.RedisError, OSError) as error:
            self.close()
            raise self._target.translate(error) from error
        self._is_asking = False
        return replies

    def _open(self, until: float) -> None:
        self._connection = self._target.sync_connection(_time_left(until, self._timeout))
        self._connection.connect()
        self._replies = reader_of(self._connection)
        self._target.has_answered = True
        if self._meets:  # should that raise, `_is_asking` has the next call open it again
            commands = self._commands.meeting()
            replies = self._ask([command.wire for command in commands], until)
            _warn(self._target, [value_of(*each) for each in zip(commands, replies, strict=True)])

    def _ask(self, wires: Sequence[Wire], until: float) -> list[Any]:
        sock, reader = self._connection._sock, self._replies
        replies: list[Any] = []
        sock.settimeout(_time_left(until, self._timeout))
        sock.sendall(packed(wires))
        while len(replies) < len(wires):
            sock.settimeout(_time_left(until, self._timeout))
            chunk = sock.recv(_CHUNK)
            if not chunk:
                raise ConnectionError("the server closed the connection")
            reader.feed(chunk)
            while (reply := reader.gets()) is not False:
                replies.append(reply)
        if len(replies) > len(wires):
            raise ConnectionError("the server gave more replies than it was asked for")
        return replies

    def close(self) -> None:
        """Drop the connection."""
        self.clock.forget()
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(redis.RedisError, OSError):
                connection.disconnect()


def _warn(target: Target, met: Sequence[str]) -> None:
    """Say once what is wrong with a server, as `Commands.meeting` has found."""
    *_, warning = met
    if warning and not target.has_warned:
        target.has_warned = True
        logger.warning("%s", warning)


def _parsed(commands: Sequence[Command[Any]], replies: Sequence[Any]) -> list[Any] | None:
    """What commands parse to; None if one of them failed."""
    for reply in replies:
        if isinstance(reply, Exception):
            return None
    return [command.parse(reply) for command, reply in zip(commands, replies, strict=True)]


def _time_left(until: float, most: float) -> float:
    """Seconds that a server has to answer, in view of the caller's deadline."""
    left = until - time.monotonic()
    if left <= 0:
        raise Unavailable("the deadline is over")
    return min(left, most)
