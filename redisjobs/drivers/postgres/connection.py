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
from redisjobs.drivers.postgres.checks import CHECK, check
from redisjobs.drivers.postgres.errors import Refused, as_ours, lost, not_opened
from redisjobs.drivers.postgres.notices import Notice
from redisjobs.drivers.postgres.target import ANSWER, Target
from redisjobs.drivers.postgres.wire import Statements, answer, packed, rows_of
from redisjobs.drivers.remote.clock import Now, ServerClock, time_left
from redisjobs.drivers.remote.loops import need_asyncio
from redisjobs.errors import DriverError, Unavailable

T = TypeVar("T")
Tell = Callable[[Sequence[Notice]], object]

TRIES = 5
"""How often a statement is sent that the server ended for the sake of another one."""

_CANCEL = 1.0  # seconds that asking the server to end an abandoned statement may take


class Connection:
    """One async connection, opened when first used and again after a failure. One user at a time.

    Args:
        target: Where to connect.
        queue: The queue's name.
        now_ms: Returns the time, for tests; None: the server's clock.
        tell: Sends the notifications of a call, which is committed.

    Attributes:
        clock: The server's clock, as far as it is known.
        noticed_at: When the last bytes came, in monotonic seconds.
        on_notify: Gets the channel and the payload of each NOTIFY.
        on_lost: Is called when the connection is lost while nothing runs over it.
    """

    def __init__(self, target: Target, queue: str = "", now_ms: Now = None, tell: Tell | None = None) -> None:
        self.clock = ServerClock()
        self.noticed_at = float("-inf")
        self.on_notify: Callable[[bytes, bytes], object] | None = None
        self.on_lost: Callable[[], object] | None = None
        self._target = target
        self._queue, self._now_ms, self._tell = queue, now_ms, tell
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._statements = Statements(None, False)
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
    def session_pid(self) -> int | None:
        """The process that the server named as the connection began. Behind a pooler, others answer."""
        return None if self._connection is None else self._connection.info.backend_pid

    @property
    def is_receiving(self) -> bool:
        """Whether a part of an answer has come, and not all of it."""
        return self._has_part

    async def run(self, call: Call[T], until: float = math.inf) -> T:
        """Run a call; return what it answers. `until` is by the monotonic clock.

        Raises:
            DriverError: It failed, or no answer came.
        """
        now_ms = self._now_ms() if self._now_ms is not None else None
        rows = await self.ask(*packed(call, self._queue, now_ms), until)
        result, meta, notices = answer(call, rows)
        if "now" in meta:
            self.clock.record(meta["now"])
        if notices and self._tell is not None:
            self._tell(notices)
        return result

    async def time_ms(self, until: float = math.inf) -> float:
        """Return the time by the server's clock, or a little earlier."""
        if self._now_ms is not None:
            return self._now_ms()
        if self.clock.now_ms is None:
            (row,) = await self.ask(*CHECK, until)
            self.clock.record(check(row))
        return self.clock.now_ms or 0.0

    async def ask(
        self, statement: bytes, values: Sequence[bytes | None] = (), until: float = math.inf
    ) -> list[Row]:
        """Run a statement, again if the server ended it for the sake of another one; return its rows."""
        for left in reversed(range(TRIES)):
            try:
                if self._failure is not None:  # it was lost while nothing ran over it
                    self._drop()
                if self._connection is None:
                    await self._open(until)
                return await self._talk(statement, values, until)
            except Refused as error:
                if error.is_of_preparing:
                    self._target.prepares = False
                if error.ends_connection or error.is_of_preparing:
                    self._drop()
                if not (left and error.may_be_repeated):
                    raise as_ours(error) from error
            except TimeoutError as error:
                self._abandon()
                raise Unavailable(f"no answer in {ANSWER:g} s") from error
            except (psycopg.Error, OSError) as error:
                was_open = self._connection is not None
                self._drop()
                raise (lost(error) if was_open else not_opened(error)) from error
            except BaseException:
                self._abandon()
                raise
        raise AssertionError("unreachable")

    async def _open(self, until: float) -> None:
        need_asyncio("psycopg")
        async with asyncio.timeout(time_left(until, ANSWER)):
            connection = await self._target.connect()
        self._connection, self._loop = connection, asyncio.get_running_loop()
        self._failure = None
        self._statements = Statements(connection.pgconn, self._target.prepares)
        self._socket = socket.fromfd(connection.pgconn.socket, socket.AF_INET, socket.SOCK_STREAM)
        self._loop.add_reader(self._socket.fileno(), self._read)
        try:
            (row,) = await self._talk(*CHECK, until)
            self.clock.record(check(row))
        except DriverError:
            self._drop()  # else the next call would use it
            raise

    async def _talk(self, statement: bytes, values: Sequence[bytes | None], until: float) -> list[Row]:
        assert self._connection is not None
        time_left(until, ANSWER)  # not sent after the deadline
        steps = self._statements.talk(statement, values)
        try:
            while True:
                await self._wait(next(steps), until)
        except StopIteration as done:
            self._hear()  # what came with the answer
            return rows_of(done.value, self._connection.pgconn.user)
        finally:
            self._has_part = False

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
            async with asyncio.timeout(time_left(until, ANSWER)):
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

    def _forget(self) -> psycopg.AsyncConnection[Any] | None:
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

    def _drop(self) -> None:
        """Close the connection at once."""
        connection = self._forget()
        if connection is not None:
            connection.pgconn.finish()

    def _abandon(self) -> None:
        """Close the connection, and have the server end the statement that may still run over it.

        Its answer would be taken for the next call's. And statements that wait for a lock would pile up.
        """
        connection = self._forget()
        if connection is not None:
            task = asyncio.get_running_loop().create_task(_cancel(connection))
            _ending.add(task)  # the event loop keeps only weak references to its tasks
            task.add_done_callback(_ending.discard)
            task.add_done_callback(lambda _: connection.pgconn.finish())  # even if it never began


_ending: set[asyncio.Task[None]] = set()


async def _cancel(connection: psycopg.AsyncConnection[Any]) -> None:
    with suppress(psycopg.Error, OSError):
        await connection.cancel_safe(timeout=_CANCEL)
