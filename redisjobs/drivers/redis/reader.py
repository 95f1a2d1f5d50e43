"""The connection of a worker that waits for jobs, and the one that listens: no call ever waits behind them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import redis

from redisjobs.drivers.redis.commands import Command, Commands
from redisjobs.drivers.redis.connection import Connection
from redisjobs.drivers.redis.target import Target
from redisjobs.drivers.redis.wire import translate
from redisjobs.errors import DriverError, QueueFull, Unavailable
from redisjobs.model.driver import Notification, Until
from redisjobs.model.transitions import Lease

BLOCK = 5.0
"""Seconds a blocking read may last."""

_UNBLOCKING = (0.02, 0.05, 0.2, 0.5)  # seconds to wait after each try to let it end in order
_IN_ORDER = 2.0  # seconds that all of that may take; then it is cut off
_MARGIN = 3.0  # seconds after which a blocking read's connection counts as half-open
_PING = 10.0  # seconds of silence before a PING on the connection that only listens


class Reader:
    """Runs blocking reads, one at a time, and ends them in order; `run` is for another connection."""

    def __init__(
        self, commands: Commands, target: Target, run: Callable[[Command[Any]], Awaitable[object]]
    ) -> None:
        self._connection = Connection(commands, target, BLOCK + _MARGIN)
        self._run = run
        self._id: int | None = None  # by which the server knows the connection
        self._may_unblock = True

    @property
    def is_receiving(self) -> bool:
        return self._connection.is_receiving

    async def aclose(self) -> None:
        await self._connection.aclose()

    async def read(
        self, command: Command[tuple[list[Lease], bool]], after: Command[bool], until: Until
    ) -> tuple[tuple[list[Lease], bool], bool]:
        """Read, and ask `after` right behind; end in order if `until` is set meanwhile, and the server lets us.

        Raises:
            Unavailable: The connection broke, or the read had to be cut off.
        """
        ending: list[asyncio.Task[None]] = []
        over = anyio.Event()
        with anyio.CancelScope() as cut:
            # A task only once it is to end: one for each read would cost too much where jobs come singly.
            until.when_set(lambda: ending.append(asyncio.create_task(self._end(cut, over))))
            try:
                if not self._connection.is_open:
                    await self._ask_id()  # that may hang, too
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
            for task in ending:  # not cancelled: what is under way on its connection would be lost
                await task
            return found, answer
        # It can still be delivered to, until the server sees that the connection is closed.
        raise Unavailable("a blocking read that was to end had to be cut off")

    async def _ask_id(self) -> None:
        self._id = None
        try:
            self._id = await self._connection.run(Command(["CLIENT", "ID"], int))
        except (Unavailable, QueueFull):
            raise
        except DriverError:
            if not self._connection.is_open:  # the credentials were refused, say
                raise
            self._may_unblock = False  # the ACL forbids it

    async def _end(self, cut: anyio.CancelScope, over: anyio.Event) -> None:
        """Let the read return with what it leased; cut it off if the server does not help."""
        with suppress(Unavailable, QueueFull), anyio.move_on_after(_IN_ORDER):
            for pause in _UNBLOCKING:
                # Again if it was too early: a read that had not arrived could not be ended.
                if over.is_set() or not await self._unblock():
                    break
                with anyio.move_on_after(pause):
                    await over.wait()
        if not over.is_set():
            cut.cancel()

    async def _unblock(self) -> bool:
        """Let the read return, if it has begun; False if only cutting it off helps."""
        if self._id is not None and self._may_unblock:
            try:
                await self._run(Command(["CLIENT", "UNBLOCK", str(self._id)], int))
            except (Unavailable, QueueFull):
                raise
            except DriverError:  # the ACL forbids it: then it has to be done without
                self._may_unblock = False
        return self._may_unblock


class Listener:
    """Listens to a queue's notifications; with a process, to those about jobs that it waits for."""

    def __init__(self, commands: Commands, target: Target, process: str = "") -> None:
        self._connection = Connection(commands, target)
        self._channel = commands.channel(process)

    async def aclose(self) -> None:
        await self._connection.aclose()

    async def listen(self, on_notification: Callable[[Notification], None]) -> None:
        """Call `on_notification` for each, until the connection ends; first with `subscribed`."""
        try:
            await self._connection.open()
            self._connection.send([["SUBSCRIBE", self._channel]])
            while True:
                reply = await self._next()
                if isinstance(reply, Exception):
                    raise reply
                if (notification := _notification(reply)) is not None:
                    on_notification(notification)
        except (redis.RedisError, OSError) as error:
            raise translate(error) from error
        finally:
            await self._connection.aclose()

    async def _next(self) -> Any:
        try:
            return await self._connection.next(_PING)
        except TimeoutError:  # a silent connection may be a dead one
            self._connection.send([["PING"]])
            return await self._connection.next(_MARGIN)


def _notification(reply: Any) -> Notification | None:
    """Return what was published; None for the answer to a PING."""
    if reply[0] == b"subscribe":
        return Notification("subscribed", "")
    if reply[0] != b"message":
        return None
    kind, _, value = reply[2].decode("utf-8", "surrogateescape").partition(" ")
    return Notification(kind, value)
