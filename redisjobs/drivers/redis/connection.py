"""Connections to a server, async and sync. They send commands and receive the replies.

After a failure, a connection that may still receive a late reply is closed: the next call would take that reply.
"""

import asyncio
import encodings.idna  # noqa: F401  (for host names: if Ctrl-C ended this import in the first call, it would stay missing)
import math
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import anyio
import redis
from hiredis import pack_command

from redisjobs.base.logger import Log
from redisjobs.drivers.redis.commands import Command, Commands, run_steps, run_steps_sync, value_of
from redisjobs.drivers.redis.locator import Address, Question
from redisjobs.drivers.redis.replies import CLOSED_IS_LOST, Replies, reader_of
from redisjobs.drivers.redis.target import Target
from redisjobs.drivers.redis.wire import Wire, Word
from redisjobs.errors import DriverError, Unavailable

T = TypeVar("T")

logger = Log("redisjobs.model.driver")

_pack: Callable[[tuple[Word, ...]], bytes] = pack_command  # type: ignore[assignment]  # typed for one word only

CLOCK_KEPT = 60.0
"""Seconds after which we no longer trust what we know of the server's clock: it may have been set, or drift."""

_CHUNK = 64 * 1024  # bytes read at once
_QUESTION = 1.0  # seconds without an answer after which a search asks another server
_GOODBYE = 0.5  # seconds that an orderly close may take


def packed(wires: Sequence[Wire]) -> bytes:
    """Return commands as bytes to send; redis-py's own packer takes four times as long."""
    if len(wires) == 1:
        return _pack(tuple(wires[0]))
    return b"".join([_pack(tuple(wire)) for wire in wires])


def need_asyncio() -> asyncio.AbstractEventLoop:
    """Return the running event loop; raise DriverError if it is trio's."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise DriverError(
            "redis-py needs asyncio; on trio only memory:// works: run this on asyncio, which is anyio's default, "
            "or push from a thread by redisjobs.sync"
        ) from None


class ServerClock:
    """The server's clock, estimated from its last answer. It is ahead only if that clock was set back since."""

    def __init__(self) -> None:
        self._server_ms: float | None = None
        self._heard = 0.0

    @property
    def now_ms(self) -> float | None:
        """The server's time, or a little earlier; None if no answer of the last minute gave the time."""
        since = time.monotonic() - self._heard
        return None if self._server_ms is None or since > CLOCK_KEPT else self._server_ms + since * 1000

    def record(self, server_ms: float) -> None:
        self._server_ms, self._heard = server_ms, time.monotonic()

    def forget(self) -> None:
        self._server_ms = None


class Connection:
    """One async connection, opened when first used and again after a failure. One user at a time.

    Args:
        commands: The queue's.
        target: Where to connect.
        timeout: Seconds without a byte of the answer after which a call fails; None: those of the target. The
            whole answer may take longer.
        checks_server: Whether each opening first checks the server's version and the version of the queue's keys.
    """

    def __init__(
        self, commands: Commands, target: Target, timeout: float | None = None, *, checks_server: bool = False
    ) -> None:
        self.clock = ServerClock()
        self.address: Address | None = None
        self._commands = commands
        self._target = target
        self._given_timeout = timeout
        self._timeout = timeout or target.answer
        self._late = math.inf
        self._checks_server = checks_server
        self._connection: Any = None
        self._replies: Replies | None = None
        self._noticed_at = float("-inf")  # over the earlier connections

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    @property
    def noticed_at(self) -> float:
        return self._noticed_at if self._replies is None else self._replies.noticed_at

    @property
    def is_receiving(self) -> bool:
        return self._replies is not None and self._replies.is_receiving

    async def run(self, command: Command[T], until: float = math.inf) -> T:
        """Run a command; return the parsed reply. `until` is by the monotonic clock.

        Raises:
            DriverError: It failed, or no reply came.
        """
        try:
            # Not `run_all`: each push runs this code, and this way needs fewer coroutines.
            arrived = self._replies or await self.open(until)
            await self._ask((command.wire,), until)
            if arrived.took > self._late:
                await self.check_server(until)
            replies = arrived.take(1)
            if not isinstance(replies[0], Exception):
                return command.parse(replies[0])
            (value,) = await self._heal((command,), replies, until)
            return value  # type: ignore[no-any-return]
        except BaseException as error:
            await self.fail(error)
            raise

    async def run_all(self, commands: Sequence[Command[Any]], until: float = math.inf) -> list[Any]:
        """Run commands in one round trip; return their parsed replies. See `run`."""
        try:
            arrived = self._replies or await self.open(until)
            await self._ask([command.wire for command in commands], until)
            if arrived.took > self._late:
                await self.check_server(until)
            replies = arrived.take(len(commands))
            parsed = _parsed(commands, replies)
            return await self._heal(commands, replies, until) if parsed is None else parsed
        except BaseException as error:
            await self.fail(error)
            raise

    async def fail(self, error: BaseException) -> None:
        """Drop the connection, unless the error is a working server's answer; raise redis-py's errors as ours.

        The next opening looks for the server again.
        """
        if isinstance(error, DriverError) and not isinstance(error, Unavailable):
            return
        # After Unavailable another server may have taken over, so the next opening checks it. After a cancel the
        # reply may still arrive, and the next call would take it for its own.
        await self._drop()
        if isinstance(error, Exception):
            self._target.doubt(self.address, error)
        if isinstance(error, redis.RedisError | OSError):
            raise self._target.translate(error) from error

    async def _heal(self, commands: Sequence[Command[Any]], replies: list[Any], until: float) -> list[Any]:
        arrived = self._replies

        async def ask(wires: Sequence[Wire], until: float) -> list[Any]:
            await self._ask(wires, until)  # not over a new connection if this one was closed meanwhile
            assert arrived is not None
            if arrived.took > self._late:
                await self.check_server(until)
            return arrived.take(len(wires))

        return await run_steps(self._commands.healing(commands, replies), ask, until)

    def _ask(self, wires: Sequence[Wire], until: float) -> asyncio.Future[None]:
        """Send commands over the open connection; return what to await before their replies are taken."""
        left = _time_left(until, self._timeout)
        return self.send(wires).arrived(len(wires), left, until)

    async def open(self, until: float = math.inf) -> Replies:
        """Open the connection if it is closed; return the replies that arrive over it."""
        if self._connection is None or self._replies is None:
            need_asyncio()
            self._timeout = self._given_timeout or self._target.answer
            # A blocking read takes long, and what a replaced server delivers by it only runs twice.
            self._late = self._target.late if self._timeout <= self._target.answer else math.inf
            self.address = await self._find(until)
            connection = self._connection = self._target.connection(self.address)
            replies = self._replies = await self._connect(connection, until)
            self._target.opened(self)
            if self._checks_server:
                try:
                    _warn(self._target, await self.run_all(self._commands.first_checks(), until))
                except DriverError:
                    await self._drop()  # else the next call would use it unchecked
                    raise
            return replies  # if it was closed meanwhile, sending fails
        return self._replies

    async def _connect(self, connection: Any, until: float) -> Replies:
        async with asyncio.timeout(_time_left(until, self._timeout)):
            with CLOSED_IS_LOST:
                await connection.connect()
        return Replies(connection)

    async def _find(self, until: float) -> Address | None:
        """Return where the server is; ask for it if that is not known."""
        if self._target.locator.known is not None:
            return self._target.locator.known
        return await run_steps(self._target.search(), self._ask_another, until)

    async def check_server(self, until: float) -> None:
        """Ask for the server again; raise Unavailable if another one has taken over. See `Target.late`."""
        late = _was_replaced(self.address)
        self._target.doubt(self.address, late)
        if await self._find(until) != self.address:
            raise late

    async def _ask_another(self, question: Question, until: float) -> Sequence[Any] | Exception:
        """Ask a server over a connection for this only; return the replies, or the error if there were none."""
        connection = self._target.connection(question.address, is_sentinel=question.is_sentinel)
        until = time.monotonic() + _time_left(until, _QUESTION)
        try:
            replies = await self._connect(connection, until)
            replies.send(packed(question.wires))
            await replies.arrived(len(question.wires), _QUESTION, until)
            return replies.take(len(question.wires))
        except (redis.RedisError, OSError, Unavailable) as error:
            return error
        finally:
            with anyio.CancelScope(shield=True), suppress(redis.RedisError, OSError):
                await connection.disconnect(nowait=True)

    def end(self) -> None:
        """Close the connection from any thread; the call that waits fails."""
        if self._replies is not None:
            self._replies.end()

    def send(self, wires: Sequence[Wire]) -> Replies:
        """Send commands over the open connection; return its replies. Raise OSError if it is lost."""
        if self._replies is None:
            raise ConnectionError("the connection was closed")
        self._replies.send(packed(wires))
        return self._replies

    async def next(self, timeout: float) -> Any:
        """Return the next reply over the open connection, to any command; see `Replies.arrived`."""
        if self._replies is None:
            raise ConnectionError("the connection was closed")
        replies = self._replies
        await replies.arrived(1, timeout, math.inf)
        return replies.take(1)[0]

    async def aclose(self) -> None:
        """Close the connection. With TLS, wait up to half a second for the server to close its side."""
        connection = self._forget()
        if connection is not None:
            with anyio.move_on_after(_GOODBYE, shield=True), suppress(redis.RedisError, OSError):
                await connection.disconnect()

    async def _drop(self) -> None:
        """Close the connection at once, without waiting for replies."""
        connection = self._forget()
        if connection is not None:
            with anyio.CancelScope(shield=True), suppress(redis.RedisError, OSError):
                await connection.disconnect(nowait=True)

    def _forget(self) -> Any:
        """Forget the open connection, and return redis-py's object; None if it is not open."""
        self.clock.forget()
        if self._replies is not None:
            self._noticed_at = self._replies.noticed_at
            self._replies.close()
        connection, self._connection, self._replies = self._connection, None, None
        self._target.closed(self)
        return connection


class SyncConnection:
    """One sync connection, opened when first used and again after a failure. For one thread; see `Connection`."""

    def __init__(
        self, commands: Commands, target: Target, timeout: float | None = None, *, checks_server: bool = False
    ) -> None:
        self.clock = ServerClock()
        self.address: Address | None = None
        self._commands = commands
        self._target = target
        self._given_timeout = timeout
        self._timeout = timeout or target.answer
        self._late = math.inf
        self._checks_server = checks_server
        self._connection: Any = None
        self._replies: Any = None
        self._is_asking = False

    def run(self, command: Command[T], until: float = math.inf) -> T:
        # Not `run_all`: each push runs this code.
        replies = self._round_trip((command.wire,), until)
        if not isinstance(replies[0], Exception):
            return command.parse(replies[0])
        (value,) = self._heal((command,), replies, until)
        return value  # type: ignore[no-any-return]

    def run_all(self, commands: Sequence[Command[Any]], until: float = math.inf) -> list[Any]:
        replies = self._round_trip([command.wire for command in commands], until)
        parsed = _parsed(commands, replies)
        return self._heal(commands, replies, until) if parsed is None else parsed

    def _heal(self, commands: Sequence[Command[Any]], replies: list[Any], until: float) -> list[Any]:
        try:
            return run_steps_sync(self._commands.healing(commands, replies), self._round_trip, until)
        except Unavailable as error:
            self._fail(error)
            raise

    def _round_trip(self, wires: Sequence[Wire], until: float) -> list[Any]:
        if self._is_asking:  # an exception like Ctrl-C ended the last round trip: its reply may still come
            self.close()
        self._is_asking = True
        try:
            if self._connection is None:
                self._open(until)
            asked_at = time.monotonic()
            replies = self._ask(wires, until)
            if time.monotonic() - asked_at > self._late:
                self._check_server(until)
        except Unavailable as error:  # of the checks of a new connection
            self._fail(error)
            raise
        except (redis.RedisError, OSError) as error:
            self._fail(error)
            raise self._target.translate(error) from error
        self._is_asking = False
        return replies

    def _fail(self, error: Exception) -> None:
        self.close()
        self._target.doubt(self.address, error)

    def _open(self, until: float) -> None:
        self._timeout, self._late = self._given_timeout or self._target.answer, self._target.late
        self.address = self._find(until)
        self._connection = self._target.sync_connection(self.address, _time_left(until, self._timeout))
        self._connection.connect()
        self._replies = reader_of(self._connection)
        self._target.opened(self)
        if self._checks_server:  # if this raises, `_is_asking` makes the next call open the connection again
            commands = self._commands.first_checks()
            replies = self._ask([command.wire for command in commands], until)
            _warn(self._target, [value_of(*each) for each in zip(commands, replies, strict=True)])

    def _find(self, until: float) -> Address | None:
        """Return where the server is; ask for it if that is not known."""
        if self._target.locator.known is not None:
            return self._target.locator.known
        return run_steps_sync(self._target.search(), self._ask_another, until)

    def _check_server(self, until: float) -> None:
        """Do the same as `Connection.check_server`."""
        late = _was_replaced(self.address)
        self._target.doubt(self.address, late)
        if self._find(until) != self.address:
            raise late

    def _ask_another(self, question: Question, until: float) -> Sequence[Any] | Exception:
        """Ask a server over a connection for this only; return the replies, or the error if there were none."""
        left = _time_left(until, _QUESTION)
        until = time.monotonic() + left
        connection = self._target.sync_connection(question.address, left, is_sentinel=question.is_sentinel)
        try:
            connection.connect()
            return self._exchange(connection._sock, reader_of(connection), question.wires, until)
        except (redis.RedisError, OSError, Unavailable) as error:
            return error
        finally:
            with suppress(redis.RedisError, OSError):
                connection.disconnect()

    def end(self) -> None:
        """Close the connection from any thread; the call that waits fails."""
        sock = getattr(self._connection, "_sock", None)
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _ask(self, wires: Sequence[Wire], until: float) -> list[Any]:
        return self._exchange(self._connection._sock, self._replies, wires, until)

    def _exchange(self, sock: socket.socket, reader: Any, wires: Sequence[Wire], until: float) -> list[Any]:
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
        self.clock.forget()
        connection, self._connection = self._connection, None
        self._target.closed(self)
        if connection is not None:
            with suppress(redis.RedisError, OSError):
                connection.disconnect()


def _was_replaced(address: Address | None) -> Unavailable:
    return Unavailable(f"another server has taken over from {address}, so its answer does not count")


def _warn(target: Target, met: Sequence[str]) -> None:
    """Log the warning that `Commands.first_checks` returned, once for each server."""
    for warning in target.once(met[-1]):
        logger.warning("%s", warning)


def _parsed(commands: Sequence[Command[Any]], replies: Sequence[Any]) -> list[Any] | None:
    """Return the parsed replies; None if one command failed."""
    for reply in replies:
        if isinstance(reply, Exception):
            return None
    return [command.parse(reply) for command, reply in zip(commands, replies, strict=True)]


def _time_left(until: float, most: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise Unavailable("the deadline is over")
    return min(left, most)
