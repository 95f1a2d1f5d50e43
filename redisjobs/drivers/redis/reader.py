"""Blocking reads, and notifications: each on its own connection, so that no other call waits behind them."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio

from redisjobs.drivers.redis.commands import Command, Commands
from redisjobs.drivers.redis.connection import Connection
from redisjobs.drivers.redis.target import Target
from redisjobs.errors import DriverError, QueueFull, Unavailable
from redisjobs.model.driver import Notification, Until
from redisjobs.model.transitions import Lease

BLOCK = 5.0
"""Seconds a blocking read may last."""

_UNBLOCKING = (0.02, 0.05, 0.2, 0.5)  # seconds to wait for the read to return, after each CLIENT UNBLOCK
_IN_ORDER = 2.0  # seconds that all of these tries may take; then we cut the connection
_MARGIN = 3.0  # seconds beyond its block after which a silent read's connection counts as half-open
_PING = 10.0  # seconds of silence before a PING on the connection that only listens


class Reader:
    """Runs blocking reads, one at a time, and ends them early without losing their jobs.

    `run` runs a command over another connection.
    """

    def __init__(
        self, commands: Commands, target: Target, run: Callable[[Command[Any]], Awaitable[object]]
    ) -> None:
        self._connection = Connection(commands, target, BLOCK + _MARGIN)
        self._run = run
        self._id: int | None = None  # the server's id of the connection
        self._may_unblock = True

    @property
    def is_receiving(self) -> bool:
        return self._connection.is_receiving

    async def aclose(self) -> None:
        await self._connection.aclose()

    async def read(
        self, command: Command[tuple[list[Lease], bool]], after: Command[bool], until: Until
    ) -> tuple[tuple[list[Lease], bool], bool]:
        """Run a blocking read, and `after` right behind it. Once `until` is set, have the server end the read.

        Raises:
            Unavailable: The connection broke, or the server did not end the read and we cut the connection.
        """
        ending: list[asyncio.Task[None]] = []
        over = anyio.Event()
        with anyio.CancelScope() as cut:
            # Start a task only to end the read: one for each read costs too much if jobs come one by one.
            until.when_set(lambda: ending.append(asyncio.create_task(self._end(cut, over))))
            try:
                if not self._connection.is_open:
                    await self._ask_id()  # it may hang too, so `until` has to be able to end it
                found: tuple[list[Lease], bool] = [], False
                answer = False
                if not until.is_set:
                    found, answer = await self._connection.run_all((command, after))
            except BaseException:
                for task in ending:
                    task.cancel()
                raise
            finally:
                until.when_set(None)
                over.set()
            for task in ending:  # not cancelled: that would close the connection of its command
                await task
            return found, answer
        # Until the server sees that the connection is closed, it may still deliver jobs over it.
        raise Unavailable("the server did not end a blocking read in time, so its connection was closed")

    async def _ask_id(self) -> None:
        self._id = None
        try:
            self._id = await self._connection.run(Command(["CLIENT", "ID"], int))
        except (Unavailable, QueueFull):
            raise
        except DriverError:
            if not self._connection.is_open:  # for example, the server refused the credentials
                raise
            self._may_unblock = False  # the ACL forbids it

    async def _end(self, cut: anyio.CancelScope, over: anyio.Event) -> None:
        """Make the read return with its jobs; cut its connection if the server does not end it."""
        with suppress(Unavailable, QueueFull), anyio.move_on_after(_IN_ORDER):
            for pause in _UNBLOCKING:
                # Try again: an UNBLOCK that arrives before the read has no effect.
                if over.is_set() or not await self._unblock():
                    break
                with anyio.move_on_after(pause):
                    await over.wait()
        if not over.is_set():
            cut.cancel()

    async def _unblock(self) -> bool:
        """Have the server end the read, if it has begun; return False if the server can't."""
        if self._id is not None and self._may_unblock:
            try:
                await self._run(Command(["CLIENT", "UNBLOCK", str(self._id)], int))
            except (Unavailable, QueueFull):
                raise
            except DriverError:  # the ACL forbids it: cut the connection instead
                self._may_unblock = False
        return self._may_unblock


class Listener:
    """Receives a queue's notifications; with `process`, those about the jobs that this process waits for."""

    def __init__(self, commands: Commands, target: Target, process: str = "") -> None:
        self._connection = Connection(commands, target)
        self._channel = commands.channel(process)

    async def aclose(self) -> None:
        await self._connection.aclose()

    async def listen(self, on_notification: Callable[[Notification], None]) -> None:
        """Call `on_notification` for each, first with `subscribed`, until the connection ends."""
        try:
            await self._connection.open()
            self._connection.send([["SUBSCRIBE", self._channel]])
            while True:
                reply = await self._next()
                if isinstance(reply, Exception):
                    raise reply
                if (notification := _notification(reply)) is not None:
                    on_notification(notification)
        except BaseException as error:
            await self._connection.fail(error)
            raise
        finally:
            await self._connection.aclose()

    async def _next(self) -> Any:
        try:
            return await self._connection.next(_PING)
        except TimeoutError:  # a silent connection may be a dead one, or its server may have been replaced
            self._connection.send([["PING"]])
            reply = await self._connection.next(_MARGIN)
            await self._connection.check_server(math.inf)
            return reply


def _notification(reply: Any) -> Notification | None:
    """Return a reply as a notification; None for the answer to a PING."""
    if reply[0] == b"subscribe":
        return Notification("subscribed", "")
    if reply[0] != b"message":
        return None
    kind, _, value = reply[2].decode("utf-8", "surrogateescape").partition(" ")
    return Notification(kind, value)
