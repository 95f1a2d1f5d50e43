"""An async connection to a server: it sends commands and receives the replies.

After a failure, a connection that may still receive a late reply is closed: the next call would take that reply.
"""

import asyncio
import encodings.idna  # noqa: F401  (for host names: if Ctrl-C ended this import in the first call, it would stay missing)
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeVar

import anyio
import redis

from redisjobs.drivers.redis.commands import Command, Commands, run_steps
from redisjobs.drivers.redis.locator import Address, Question
from redisjobs.drivers.redis.replies import CLOSED_IS_LOST, Replies
from redisjobs.drivers.redis.round_trip import QUESTION, packed, parsed_all, warn, was_replaced
from redisjobs.drivers.redis.target import Target
from redisjobs.drivers.redis.wire import Wire
from redisjobs.drivers.remote.clock import ServerClock, time_left
from redisjobs.drivers.remote.loops import need_asyncio
from redisjobs.errors import DriverError, Unavailable

T = TypeVar("T")

_GOODBYE = 0.5  # seconds that an orderly close may take


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
        self._closings = 0
        self._noticed_at = float("-inf")  # over the earlier connections

    @property
    def is_open(self) -> bool:
        return self._replies is not None

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
            replies = arrived.take(1)
            if arrived.took > self._late:
                await self.check_server(until)
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
            replies = arrived.take(len(commands))
            if arrived.took > self._late:
                await self.check_server(until)
            parsed = parsed_all(commands, replies)
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
            again = arrived.take(len(wires))
            if arrived.took > self._late:
                await self.check_server(until)
            return again

        return await run_steps(self._commands.healing(commands, replies), ask, until)

    def _ask(self, wires: Sequence[Wire], until: float) -> asyncio.Future[None]:
        """Send commands over the open connection; return what to await before their replies are taken."""
        left = time_left(until, self._timeout)
        return self.send(wires).arrived(len(wires), left, until)

    async def open(self, until: float = math.inf) -> Replies:
        """Open the connection if it is closed; return the replies that arrive over it."""
        if self._replies is None:
            need_asyncio("redis-py")
            self._timeout = self._given_timeout or self._target.answer
            # A blocking read takes long, and what a replaced server delivers by it only runs twice.
            self._late = self._target.late if self._timeout <= self._target.answer else math.inf
            closings = self._closings
            self.address = await self._find(until)
            connection, began = self._target.connection(self.address), time.monotonic()
            replies = await self._connect(connection, until)
            self._connection, self._replies = connection, replies
            if time.monotonic() - began > self._late:
                await self.check_server(until)
            if self._closings > closings:  # in another task; the caller's `fail` closes this connection
                raise ConnectionError("the connection was closed")
            self._target.opened(self)
            if self._checks_server:
                try:
                    warn(self._target, await self.run_all(self._commands.first_checks(), until))
                except DriverError:
                    await self._drop()  # else the next call would use it unchecked
                    raise
            return replies  # if it was closed meanwhile, sending fails
        return self._replies

    async def _connect(self, connection: Any, until: float) -> Replies:
        try:
            async with asyncio.timeout(time_left(until, self._timeout)):
                with CLOSED_IS_LOST:
                    await connection.connect()
            return Replies(connection)
        except BaseException:
            await _close(connection)
            raise

    async def _find(self, until: float) -> Address | None:
        """Return where the server is; ask for it if that is not known."""
        known = self._target.locator.known  # read once: another thread may doubt it meanwhile
        if known is not None:
            return known
        return await run_steps(self._target.search(), self._ask_another, until)

    async def check_server(self, until: float) -> None:
        """Ask for the server again; raise Unavailable if another one has taken over. See `Target.late`."""
        late = was_replaced(self.address)
        self._target.doubt(self.address, late)
        try:
            found = await self._find(until)
        except DriverError as error:  # even if no later call can succeed, this one may have
            raise Unavailable(str(error)) from error
        if found != self.address:
            raise late

    async def _ask_another(self, question: Question, until: float) -> Sequence[Any] | Exception:
        """Ask a server over a connection for this only; return the replies, or the error if there were none."""
        connection = self._target.connection(question.address, is_sentinel=question.is_sentinel)
        until = time.monotonic() + time_left(until, QUESTION)
        try:
            replies = await self._connect(connection, until)
            replies.send(packed(question.wires))
            await replies.arrived(len(question.wires), QUESTION, until)
            return replies.take(len(question.wires))
        except (redis.RedisError, OSError, Unavailable) as error:
            return error
        finally:
            await _close(connection)

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
            await _close(connection, _GOODBYE)

    async def _drop(self) -> None:
        """Close the connection at once, without waiting for replies."""
        connection = self._forget()
        if connection is not None:
            await _close(connection)

    def _forget(self) -> Any:
        """Forget the open connection, and return redis-py's object; None if it is not open."""
        self._closings += 1
        self.clock.forget()
        if self._replies is not None:
            self._noticed_at = self._replies.noticed_at
            self._replies.close()
        connection, self._connection, self._replies = self._connection, None, None
        self._target.closed(self)
        return connection


async def _close(connection: Any, goodbye: float | None = None) -> None:
    """Close a connection of redis-py; wait that many seconds for the server, which with TLS closes its side too.

    Bytes that it has not taken are dropped: else they would keep the connection open while the server is frozen.
    """
    writer = connection._writer
    try:
        with anyio.move_on_after(goodbye, shield=True), suppress(redis.RedisError, OSError):
            await connection.disconnect(nowait=goodbye is None)
    finally:  # no shield holds off a cancel by asyncio itself
        if writer is not None:
            writer.transport.abort()
