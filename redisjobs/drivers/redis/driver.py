"""The Redis driver, async and sync: runs the commands of a queue over its connections."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import anyio

from redisjobs.drivers.redis import long_calls
from redisjobs.drivers.redis.commands import Steps, run_steps, run_steps_sync
from redisjobs.drivers.redis.connection import Connection
from redisjobs.drivers.redis.consumer import RedisConsumer
from redisjobs.drivers.redis.pushes import PushCommands, replicas_of
from redisjobs.drivers.redis.reader import Listener
from redisjobs.drivers.redis.sync_connection import SyncConnection
from redisjobs.drivers.redis.target import Target
from redisjobs.drivers.redis.worker_commands import WorkerCommands
from redisjobs.drivers.remote.clock import Now
from redisjobs.drivers.remote.coalescer import MOST_TOGETHER, Coalescer
from redisjobs.drivers.remote.connections import MOST_LINKS, ServerConnections, SyncConnections
from redisjobs.drivers.remote.loops import PerLoop, need_asyncio
from redisjobs.errors import Unavailable
from redisjobs.model.changes import Change
from redisjobs.model.driver import Notification
from redisjobs.model.queries import Query
from redisjobs.model.times import LONGEST_TRY
from redisjobs.model.transitions import NewJob, Pushed

T = TypeVar("T")


async def push_over(
    connection: Connection,
    commands: PushCommands,
    jobs: Sequence[NewJob],
    repeated: bool,
    until: float,
    replicas: int = 0,
) -> list[Pushed]:
    """Push over one connection; `until` is by the monotonic clock. See `PushCommands`."""
    steps = commands.pushing(connection.clock, jobs, repeated)
    if replicas:
        return await run_steps(commands.replicated(connection.clock, steps, replicas), connection.run_all, until)
    return await run_steps(steps, connection.run, until)


class _Loop:
    """What the calls in one event loop share."""

    def __init__(self, commands: PushCommands, target: Target) -> None:
        self.connections = ServerConnections(lambda: Connection(commands, target, checks_server=True))
        # For calls other than small pushes. Without `fast_acquire`, a free place would still let other tasks run
        # first, and the call would wait for them.
        self.room = anyio.Semaphore(MOST_LINKS, fast_acquire=True)
        self.pushes = Coalescer(self._push)
        self._replicated: dict[int, Coalescer] = {}
        self._commands = commands

    def replicated(self, replicas: int) -> Coalescer:
        """Return the pushes that wait for this many replicas. They hold up no others."""
        if replicas not in self._replicated:
            self._replicated[replicas] = Coalescer(partial(self._push, replicas=replicas))
        return self._replicated[replicas]

    async def _push(self, jobs: Sequence[NewJob], repeated: bool, until: float, replicas: int = 0) -> list[Pushed]:
        connection = self.connections.take()
        try:
            return await push_over(connection, self._commands, jobs, repeated, until, replicas)
        finally:
            await self.connections.put(connection)


class RedisDriver:
    """A producer's and an operator's side of a queue on Redis; see `Driver`.

    Args:
        where: A URL, or a redis-py client (sync or async). We copy the client's settings, and open our own
            connections.
        queue: The queue's name.
        now_ms: Returns the time, for tests; None: the server's clock.
    """

    def __init__(self, where: Any, queue: str, now_ms: Now = None) -> None:
        self.target = Target(where, queue)
        self.place = self.target.place, queue
        self.where = self.target.where
        self._queue, self._now_ms = queue, now_ms
        self.commands = PushCommands(queue, now_ms, self.target.database)
        self._worker_commands = WorkerCommands(queue, now_ms, self.target.database)
        self._loops = PerLoop("redis-py", partial(_Loop, self.commands, self.target))

    async def push(self, jobs: Sequence[NewJob], *, repeated: bool) -> list[Pushed]:
        replicas = replicas_of(jobs)
        if len(jobs) <= MOST_TOGETHER:
            loop = self._loops.here()
            pushes = loop.replicated(replicas) if replicas else loop.pushes
            return await pushes.push(jobs, repeated=repeated)  # it has a time limit itself
        need_asyncio("redis-py")
        try:
            async with asyncio.timeout(LONGEST_TRY), self._connection() as connection:
                return await push_over(connection, self.commands, jobs, repeated, math.inf, replicas)
        except TimeoutError as error:
            raise Unavailable(f"no answer in {LONGEST_TRY:g} s") from error

    async def read(self, query: Query[T]) -> T:
        async with self._connection() as connection:
            return await run_steps(long_calls.read(self.commands, query), connection.run_all)

    async def change(self, change: Change[T]) -> T:
        async with self._connection() as connection:
            return await run_steps(long_calls.change(self.commands, change), connection.run_all)

    async def listen(self, on_notification: Callable[[Notification], None], process: str = "") -> None:
        need_asyncio("redis-py")
        await Listener(self.commands, self.target, process).listen(on_notification)

    def consumer(self, worker_id: str, *, lease: float, max_deliveries: int) -> RedisConsumer:
        return RedisConsumer(self._worker_commands, self.target, worker_id, lease, max_deliveries)

    def make_sync(self) -> "SyncRedisDriver":
        return SyncRedisDriver(self.target, self._queue, self._now_ms)

    async def aclose(self) -> None:
        await self._loops.here().connections.aclose()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        loop = self._loops.here()
        async with loop.room:
            connection = loop.connections.take()
            try:
                yield connection
            finally:
                await loop.connections.put(connection)


class SyncRedisDriver:
    """A producer's and an operator's side for sync code and any number of threads; see `SyncDriver`.

    It runs no event loop. Pushes of several threads don't share a round trip: with 4 threads or fewer that gains
    nothing, and an exception that ends one thread's push would end the others' pushes too.
    """

    def __init__(self, where: Any, queue: str, now_ms: Now = None) -> None:
        self.target = where if isinstance(where, Target) else Target(where, queue)
        self.commands = PushCommands(queue, now_ms, self.target.database)
        commands, target = self.commands, self.target  # not `self`: that would be a cycle
        self._connections = SyncConnections(lambda: SyncConnection(commands, target, checks_server=True))

    def push(self, jobs: Sequence[NewJob], *, repeated: bool, until: float = math.inf) -> list[Pushed]:
        replicas = replicas_of(jobs)

        def push(connection: SyncConnection) -> list[Pushed]:
            steps = self.commands.pushing(connection.clock, jobs, repeated)
            if replicas:
                return run_steps_sync(
                    self.commands.replicated(connection.clock, steps, replicas), connection.run_all, until
                )
            return run_steps_sync(steps, connection.run, until)

        return self._connections.call(push, until)

    def read(self, query: Query[T], *, until: float = math.inf) -> T:
        return self._run(long_calls.read(self.commands, query), until)

    def change(self, change: Change[T], *, until: float = math.inf) -> T:
        return self._run(long_calls.change(self.commands, change), until)

    def close(self) -> None:
        self._connections.close()

    def _run(self, steps: Steps[T], until: float) -> T:
        return self._connections.call(lambda link: run_steps_sync(steps, link.run_all, until), until)
