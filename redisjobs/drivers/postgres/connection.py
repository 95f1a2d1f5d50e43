"""An async connection to the database: it runs calls, one at a time.

It speaks through libpq directly. psycopg's cursors take several times as long for a call, and a cancelled one
waits for the server to end the statement.
"""

import asyncio
import math
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import psycopg

from redisjobs.drivers.postgres.calls import Call, Row
from redisjobs.drivers.postgres.errors import lost
from redisjobs.drivers.postgres.link import Link, Steps
from redisjobs.drivers.postgres.notices import Notice
from redisjobs.drivers.postgres.target import ANSWER, Target
from redisjobs.drivers.remote.clock import Now, time_left
from redisjobs.drivers.remote.loops import need_asyncio
from redisjobs.errors import DriverError

T = TypeVar("T")
Tell = Callable[[Sequence[Notice]], object]

_CANCEL = 1.0  # seconds that asking the server to end an abandoned statement may take


class Connection(Link["psycopg.AsyncConnection[Any]"]):
    """One async connection; see `Link`.

    Args:
        target: Where to connect.
        queue: The queue's name.
        now_ms: Returns the time, for tests; None: the server's clock.
        tell: Sends the notifications of a call, which is committed.

    Attributes:
        noticed_at: When the last bytes came, in monotonic seconds.
        on_notify: Gets the channel and the payload of each NOTIFY.
        on_lost: Is called when the connection is lost while nothing runs over it.
    """

    def __init__(self, target: Target, queue: str = "", now_ms: Now = None, tell: Tell | None = None) -> None:
        super().__init__(target, queue, now_ms, ANSWER)
        self.noticed_at = float("-inf")
        self.on_notify: Callable[[bytes, bytes], object] | None = None
        self.on_lost: Callable[[], object] | None = None
        self._tell = tell
        self._loop: asyncio.AbstractEventLoop | None = None
        # Ours, of the same connection: libpq closes its own in any call, and another may get that number at once.
        self._socket: socket.socket | None = None
        self._awaited: asyncio.Future[None] | None = None  # set when bytes come
        self._has_part = False  # of an answer
        self._failure: Exception | None = None

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    @property
    def failure(self) -> DriverError | None:
        """Why the open connection was lost; None: it was not, as far as is known."""
        return None if self._failure is None else lost(self._failure)

    @property
    def is_receiving(self) -> bool:
        """Whether a part of an answer has come, and not all of it."""
        return self._has_part

    async def run(self, call: Call[T], until: float = math.inf) -> T:
        """Run a call; return what it answers. `until` is by the monotonic clock.

        Raises:
            DriverError: It failed, or no answer came.
        """
        result, notices = await self._drive(self._running(call, self._queue, until), until)
        if notices and self._tell is not None:
            self._tell(notices)
        return result

    async def time_ms(self, until: float = math.inf) -> float:
        """Return the time by the server's clock, or a little earlier."""
        return await self._drive(self._timing(until), until)

    async def is_shared(self) -> bool:
        """Return whether others may have the session, too, as behind a pooler."""
        return await self._drive(self._sharing(), math.inf)

    async def ask(
        self, statement: bytes, values: Sequence[bytes | None] = (), until: float = math.inf
    ) -> list[Row]:
        """Run a statement, again if the server ended it for the sake of another one; return its rows."""
        return await self._drive(self._asking(statement, values, until), until)

    async def _drive(self, steps: Steps[T], until: float) -> T:
        if self._failure is not None:  # it was lost while nothing ran over it
            self._drop()
        try:
            wants = next(steps)
            while True:
                try:
                    await (self._open(until) if wants is None else self._wait(wants, until))
                except BaseException as error:
                    wants = steps.throw(error)
                else:
                    wants = next(steps)
        except StopIteration as done:
            self._hear()  # what came with the answer
            return done.value  # type: ignore[no-any-return]
        finally:
            self._has_part = False

    async def _open(self, until: float) -> None:
        need_asyncio("psycopg")
        async with asyncio.timeout(time_left(until, self._timeout)):
            connection = await self._target.connect()
        self._connection, self._loop, self._failure = connection, asyncio.get_running_loop(), None
        self._socket = socket.fromfd(connection.pgconn.socket, socket.AF_INET, socket.SOCK_STREAM)
        self._loop.add_reader(self._socket.fileno(), self._read)

    async def _wait(self, sends: bool, until: float) -> None:
        """Wait until bytes came; with `sends`, or until there is room to send more."""
        if self._failure is not None:
            raise self._failure
        assert self._loop is not None
        assert self._socket is not None
        awaited = self._awaited = self._loop.create_future()
        if sends:
            self._loop.add_writer(self._socket.fileno(), self._wake)
        try:
            async with asyncio.timeout(time_left(until, self._timeout)):
                await awaited
        finally:
            self._awaited = None
            if sends and self._socket is not None:
                self._loop.remove_writer(self._socket.fileno())

    def _read(self) -> None:
        """Take the bytes that came."""
        assert self._connection is not None
        pgconn = self._connection.pgconn
        try:
            pgconn.consume_input()
        except psycopg.Error as error:
            self._failure = error
            self._unwatch()
            if self.on_lost is not None:
                self.on_lost()
        else:
            self.noticed_at = time.monotonic()
            self._has_part = self._awaited is not None
            self._hear()
        self._wake()

    def _hear(self) -> None:
        if self.on_notify is not None and self._connection is not None:
            while (notify := self._connection.pgconn.notifies()) is not None:
                self.on_notify(notify.relname, notify.extra)

    def _wake(self) -> None:
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(None)

    async def aclose(self) -> None:
        """Close the connection; it opens again when used."""
        self._drop()

    def _forget(self) -> "psycopg.AsyncConnection[Any] | None":
        self.clock.forget()
        self._failure = None
        connection, self._connection = self._connection, None
        self._unwatch()
        return connection

    def _unwatch(self) -> None:
        watched, self._socket = self._socket, None
        if watched is None:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(watched.fileno())
            self._loop.remove_writer(watched.fileno())
        watched.close()

    def _abandon(self) -> None:
        connection = self._forget()
        if connection is not None:
            task = asyncio.get_running_loop().create_task(_cancel(connection))
            _ending.add(task)  # the event loop keeps only weak references to its tasks
            task.add_done_callback(_ending.discard)
            task.add_done_callback(lambda _: connection.pgconn.finish())  # even if it never began


_ending: set[asyncio.Task[None]] = set()


async def _cancel(connection: "psycopg.AsyncConnection[Any]") -> None:
    with suppress(psycopg.Error, OSError):
        await connection.cancel_safe(timeout=_CANCEL)
