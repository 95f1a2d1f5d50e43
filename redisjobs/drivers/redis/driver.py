"""The Redis driver, async or sync: runs `queue_commands.py` over the connections of `connection.py`."""

import asyncio
import math
import time
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import anyio

from redisjobs.base.forks import begin_after_fork
from redisjobs.drivers.redis.coalescer import Coalescer
from redisjobs.drivers.redis.commands import Command, Further
from redisjobs.drivers.redis.connection import Connection, ServerClock, SyncConnection, Target, need_asyncio
from redisjobs.drivers.redis.consumer import RedisConsumer
from redisjobs.drivers.redis.queue_commands import PushAnswer, QueueCommands, are_plain
from redisjobs.drivers.redis.reader import Listener
from redisjobs.drivers.redis.worker_commands import WorkerCommands
from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.changes import Change, ChangeMany
from redisjobs.model.driver import Notification, PushedInPart
from redisjobs.model.queries import Query
from redisjobs.model.times import LONGEST_TRY
from redisjobs.model.transitions import NewJob, Pushed

T = TypeVar("T")
Now = Callable[[], int] | None

_MOST_LINKS = (
    16  # connections that concurrent calls of one process share; an event loop's small pushes have others
)
_LOOK_AGAIN = 0.1  # seconds after which a call that waits for one of these counts them again
_MOST_TOGETHER = 50  # jobs of a push that may go together with others
_TELLINGS = 3  # times that a push is sent before the server's clock counts as one that doesn't run evenly
_RESTLESS = "the server's clock was set again and again, or answers take too long"


def pushing(
    clock: ServerClock, commands: QueueCommands, jobs: Sequence[NewJob], repeated: bool
) -> Generator[Command[PushAnswer], PushAnswer, list[Pushed]]:
    """Push over one connection, with the time it is by the server's clock.

    On a new connection, or after a silence, that is not known. The first answer refuses the push then, and tells.
    Yields commands, and is sent what they parse to, or thrown why they failed.

    Raises:
        PushedInPart: A command failed, and one before it had answered some of the jobs.
    """
    if repeated and len({job.sent_ms for job in jobs}) > 1:
        return (yield from _pushing_apart(clock, commands, jobs))
    is_plain, stale, most = not repeated and are_plain(jobs), 0, len(jobs)
    told: list[Pushed] = []
    while stale < _TELLINGS:
        left = jobs[len(told) : len(told) + most] if told else jobs
        sent_ms = clock.now_ms
        first = [job for job in left if job.sent_ms is None]
        for job in first:
            job.sent_ms = sent_ms
        try:
            if is_plain:
                answer = yield commands.push_plain(left, sent_ms=sent_ms)
            else:
                answer = yield commands.push(left, repeated=repeated, sent_ms=sent_ms)
        except Unavailable:
            raise  # all of it is to be repeated
        except DriverError as error:
            if not told:
                raise
            raise PushedInPart(error, [*told, *[None] * (len(jobs) - len(told))]) from error
        clock.hear(answer.server_ms)
        if answer.pushed is None:
            for job in first:
                job.sent_ms = None
            stale += 1
            continue
        told += answer.pushed
        if len(told) == len(jobs):
            return told
        if not is_plain:  # it met large jobs: what it did not come to is not all sent again and again
            most = 8 * len(answer.pushed)
        is_plain = False
    raise Unavailable(_RESTLESS)


def _pushing_apart(
    clock: ServerClock, commands: QueueCommands, jobs: Sequence[NewJob]
) -> Generator[Command[PushAnswer], PushAnswer, list[Pushed]]:
    """Push again what was first sent at several times, each of these by itself."""
    positions: dict[float | None, list[int]] = {}
    for at, job in enumerate(jobs):
        positions.setdefault(job.sent_ms, []).append(at)
    told: dict[int, Pushed] = {}
    for these in positions.values():
        try:
            answers = yield from pushing(clock, commands, [jobs[at] for at in these], True)
        except Unavailable:
            raise
        except DriverError as error:
            cause = error
            if isinstance(error, PushedInPart):
                cause = error.cause
                told.update((at, each) for at, each in zip(these, error.answers, strict=True) if each)
            if not told:
                raise
            raise PushedInPart(cause, [told.get(at) for at in range(len(jobs))]) from error
        told.update(zip(these, answers, strict=True))
    return [told[at] for at in range(len(jobs))]


async def push_over(
    connection: Connection, commands: QueueCommands, jobs: Sequence[NewJob], repeated: bool, until: float
) -> list[Pushed]:
    """Push over one connection, until then by the monotonic clock; see `pushing`."""
    steps = pushing(connection.clock, commands, jobs, repeated)
    command = next(steps)
    while True:
        try:
            answer = await connection.run(command, until)
        except DriverError as error:
            command = steps.throw(error)  # which raises
        try:
            command = steps.send(answer)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


class _Connections:
    """Connections that the calls in one event loop share.

    Attributes:
        idle: Those that nobody uses.
        room: How many more there may be, for calls other than small pushes.
        pushes: What is pushed in this loop.
    """

    def __init__(self, commands: QueueCommands, target: Target) -> None:
        self.idle: list[Connection] = []
        self.room = anyio.Semaphore(_MOST_LINKS)
        self.pushes = Coalescer(self._push)
        self._commands = commands
        self._target = target

    async def _push(self, jobs: Sequence[NewJob], repeated: bool, until: float) -> list[Pushed]:
        connection = self.take()
        try:
            return await push_over(connection, self._commands, jobs, repeated, until)
        finally:
            self.idle.append(connection)

    def take(self) -> Connection:
        """A connection that nobody uses."""
        return self.idle.pop() if self.idle else Connection(self._commands, self._target, meets=True)


class RedisDriver:
    """A producer's and an operator's side of a queue on Redis; see `Driver`.

    Args:
        where: A URL, or a redis-py client (sync or async) whose settings are taken over; its own connections
            are not used.
        queue: The queue's name.
        now_ms: The time to say it is, for tests; None leaves that to the server.
    """

    def __init__(self, where: Any, queue: str, now_ms: Now = None) -> None:
        self.target = Target(where)
        self.place = self.target.place, queue
        self.where = self.target.where
        self._queue, self._now_ms = queue, now_ms
        self.commands = QueueCommands(queue, now_ms, self.target.database)
        self._worker_commands = WorkerCommands(queue, now_ms, self.target.database)
        # Connections live in one event loop; a program may run one after another, or one in each thread.
        self._loops: dict[asyncio.AbstractEventLoop, _Connections] = {}

    async def push(self, jobs: Sequence[NewJob], *, repeated: bool) -> list[Pushed]:
        if len(jobs) <= _MOST_TOGETHER:
            return await self._connections().pushes.push(jobs, repeated=repeated)  # in time by itself
        need_asyncio()
        try:
            async with asyncio.timeout(LONGEST_TRY), self._connection() as connection:
                return await push_over(connection, self.commands, jobs, repeated, math.inf)
        except TimeoutError as error:
            raise Unavailable(f"no answer in {LONGEST_TRY:g} s") from error

    async def read(self, query: Query[T]) -> T:
        return await self._run(self.commands.read(query))

    async def change(self, change: Change[T]) -> T:
        if isinstance(change, ChangeMany):
            replies: Any = await self._run_all([self.commands.change(each) for each in change.changes])
            return replies  # type: ignore[no-any-return]
        return await self._run(self.commands.change(change))

    async def listen(self, on_notification: Callable[[Notification], None], process: str = "") -> None:
        need_asyncio()
        await Listener(self.commands, self.target, process).listen(on_notification)

    def consumer(self, worker_id: str, *, lease: float, max_deliveries: int) -> "RedisConsumer":
        return RedisConsumer(self._worker_commands, self.commands, self.target, worker_id, lease, max_deliveries)

    def make_sync(self) -> "SyncRedisDriver":
        """The same for sync code, over connections of its own."""
        return SyncRedisDriver(self.target, self._queue, self._now_ms)

    async def aclose(self) -> None:
        idle = self._connections().idle
        while idle:
            await idle.pop().aclose()

    async def _run(self, command: Command[T]) -> T:
        async with self._connection() as connection:
            answer: Any = await connection.run(command)
            while isinstance(answer, Further):
                answer = answer.join(await connection.run_all(answer.commands))
            return answer  # type: ignore[no-any-return]

    async def _run_all(self, commands: Sequence[Command[T]]) -> list[T]:
        async with self._connection() as connection:
            return await connection.run_all(commands)

    def _connections(self) -> _Connections:
        loop = need_asyncio()
        if loop not in self._loops:
            for ended in [other for other in list(self._loops) if other.is_closed()]:
                self._loops.pop(ended, None)  # another thread may be faster
            self._loops[loop] = _Connections(self.commands, self.target)
        return self._loops[loop]

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        connections = self._connections()
        try:
            connections.room.acquire_nowait()  # `acquire` lets others run first: the push would wait for them
        except anyio.WouldBlock:
            await connections.room.acquire()
        try:
            connection = connections.take()
            try:
                yield connection
            finally:
                connections.idle.append(connection)  # after a failure it is closed, and opens again when used
        finally:
            connections.room.release()


class _SyncConnections:
    """Connections that threads share, at most 16.

    A signal's handler may raise, as at Ctrl-C, between any two steps of a call. A call that ended so might neither
    give back its place nor release a lock. So there is no lock, and no count of places: what counts is which
    connections exist, and one that no call holds is deleted. A forked process starts with none, because its parent
    goes on using them.

    Attributes:
        idle: Those that nobody uses.
    """

    def __init__(self, make: Callable[[], SyncConnection]) -> None:
        self._make = make
        self.begin()
        begin_after_fork(self)

    def begin(self) -> None:
        """Begin with none."""
        self.idle: SimpleQueue[SyncConnection] = SimpleQueue()
        self._made: set[weakref.ref[SyncConnection]] = set()

    def take(self, until: float) -> SyncConnection:
        """A connection for the caller alone. It belongs into `idle` again, by a `finally` right behind this call.

        Raises:
            Unavailable: All of them are busy until then, by the monotonic clock.
        """
        while True:
            try:
                return self.idle.get_nowait()
            except Empty:
                pass
            connection = self._make()
            self._made.add(weakref.ref(connection))
            self._made.difference_update([ref for ref in list(self._made) if ref() is None])
            if len(self._made) <= _MOST_LINKS:
                return connection
            del connection
            left = until - time.monotonic()
            if left <= 0:
                raise Unavailable(f"all {_MOST_LINKS} connections of this process are busy")
            with suppress(Empty):  # not for longer: a connection that was lost leaves room, and wakes no thread
                return self.idle.get(timeout=min(left, _LOOK_AGAIN))

    def close(self) -> None:
        """Close those that no call uses; the next call opens another."""
        with suppress(Empty):
            while True:
                self.idle.get_nowait().close()


class SyncRedisDriver:
    """The same for sync code and any number of threads; see `Driver`. It opens no event loop.

    Threads' pushes don't go together, as those of an event loop do: at 4 threads or fewer that gains nothing, and
    an exception that ended one thread's push would be the others' trouble.
    """

    def __init__(self, where: Any, queue: str, now_ms: Now = None) -> None:
        self.target = where if isinstance(where, Target) else Target(where)
        self.commands = QueueCommands(queue, now_ms, self.target.database)
        self._connections = _SyncConnections(lambda: SyncConnection(self.commands, self.target, meets=True))

    def push(self, jobs: Sequence[NewJob], *, repeated: bool, until: float = math.inf) -> list[Pushed]:
        def push(connection: SyncConnection) -> list[Pushed]:
            steps = pushing(connection.clock, self.commands, jobs, repeated)
            command = next(steps)
            while True:
                try:
                    answer = connection.run(command, until)
                except DriverError as error:
                    command = steps.throw(error)  # which raises
                try:
                    command = steps.send(answer)
                except StopIteration as done:
                    return done.value  # type: ignore[no-any-return]

        return self._call(push, until)

    def read(self, query: Query[T], *, until: float = math.inf) -> T:
        return self._run(self.commands.read(query), until)

    def change(self, change: Change[T], *, until: float = math.inf) -> T:
        if isinstance(change, ChangeMany):
            commands = [self.commands.change(each) for each in change.changes]
            replies: Any = self._call(lambda connection: connection.run_all(commands, until), until)
            return replies  # type: ignore[no-any-return]
        return self._run(self.commands.change(change), until)

    def close(self) -> None:
        self._connections.close()

    def _run(self, command: Command[T], until: float) -> T:
        def run(connection: SyncConnection) -> T:
            answer: Any = connection.run(command, until)
            while isinstance(answer, Further):
                answer = answer.join(connection.run_all(answer.commands, until))
            return answer  # type: ignore[no-any-return]

        return self._call(run, until)

    def _call(self, call: Callable[[SyncConnection], T], until: float) -> T:
        """Call with a connection."""
        connections = self._connections
        connection = connections.take(until)
        try:
            return call(connection)
        except Unavailable:
            connections.close()  # these were opened before, so the next calls would fail by each of them in turn
            raise
        finally:
            connections.idle.put(connection)  # after a failure it is closed, and opens again when used
