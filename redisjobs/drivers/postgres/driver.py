"""The Postgres driver, async and sync: runs the calls of a queue over its connections."""

import math
import time
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TypeVar

import anyio

from redisjobs.drivers.postgres import (  # noqa: F401  # they register the calls of queries and changes
    chunks,
    health,
    keeping,
    limits,
    moving,
    pausing,
    reading,
    requeuing,
    results,
    schedules,
    settings,
    standing,
    statistics,
    steps,
)
from redisjobs.drivers.postgres.calls import Call, change_call, query_call
from redisjobs.drivers.postgres.connection import Connection
from redisjobs.drivers.postgres.consumer import PostgresConsumer
from redisjobs.drivers.postgres.errors import Locked
from redisjobs.drivers.postgres.hub import Hub, hub_of
from redisjobs.drivers.postgres.notices import Notice, SendNow, SyncNotifier, channel_of
from redisjobs.drivers.postgres.pushes import BusyPush, Written, identity, push, within
from redisjobs.drivers.postgres.sync_connection import SyncConnection
from redisjobs.drivers.postgres.target import Target
from redisjobs.drivers.postgres.within import Transaction
from redisjobs.drivers.remote.clock import Now, ServerClock
from redisjobs.drivers.remote.coalescer import MOST_TOGETHER, Coalescer
from redisjobs.drivers.remote.connections import MOST_LINKS, ServerConnections, SyncConnections
from redisjobs.drivers.remote.loops import PerLoop
from redisjobs.errors import Unavailable
from redisjobs.model.changes import Change
from redisjobs.model.driver import Notification
from redisjobs.model.queries import Query
from redisjobs.model.times import LONGEST_TRY
from redisjobs.model.transitions import NewJob, Pushed

T = TypeVar("T")

_LONGEST_NAME = 200  # bytes of a queue's name: an entry of an index has it with an id, or with a limit key
_MOST_STALE = 3  # tries of a push that the database gets too late, by its clock
_UNEVEN = "the database's clock does not run evenly, or its answers take too long; nothing was pushed"


def _set_time(jobs: Sequence[NewJob], now_ms: float) -> list[NewJob]:
    """Set when jobs were first sent, if they were not sent yet; return these."""
    unsent = [job for job in jobs if job.sent_ms is None]
    for job in unsent:
        job.sent_ms = now_ms
    return unsent


def _unset_time(unsent: Sequence[NewJob], clock: ServerClock) -> None:
    """Undo `_set_time`: nothing was written, because the server's clock is not what we knew of it."""
    clock.forget()
    for job in unsent:
        job.sent_ms = None


class _Loop:
    """What the calls in one event loop share."""

    def __init__(self, target: Target, queue: str, now_ms: Now) -> None:
        self.hub: Hub = hub_of(target)
        tell = partial(self.hub.tell, queue)
        self.connections = ServerConnections(lambda: Connection(target, queue, now_ms, tell))
        # For calls other than small pushes. Without `fast_acquire`, a free place would still let other tasks run
        # first, and the call would wait for them.
        self.room = anyio.Semaphore(MOST_LINKS, fast_acquire=True)
        self.pushes = Coalescer(self.push)
        self.keyed = Coalescer(self.push)  # by themselves: they may wait for other transactions

    async def push(self, jobs: Sequence[NewJob], repeated: bool, until: float) -> list[Pushed]:
        connection = self.connections.take()
        try:
            for _ in range(_MOST_STALE):
                sent_ms = await connection.time_ms(until)
                unsent = _set_time(jobs, sent_ms)
                call = partial(push, jobs, repeated=repeated, sent_ms=sent_ms)
                try:
                    pushed = await connection.run(call(), until)
                except Locked:
                    pushed = await connection.run(call(apart=True), until)
                if pushed is not None:
                    return pushed
                _unset_time(unsent, connection.clock)
            raise Unavailable(_UNEVEN)
        finally:
            await self.connections.put(connection)

    async def run(self, call: Call[T]) -> T:
        async with self.room:
            connection = self.connections.take()
            try:
                return await connection.run(call)
            finally:
                await self.connections.put(connection)


class PostgresDriver:
    """A producer's and an operator's side of a queue on Postgres; see `Driver`.

    Args:
        where: The URL of the database.
        queue: The queue's name.
        now_ms: Returns the time, for tests; None: the server's clock.

    Raises:
        ValueError: The URL is invalid, or the queue's name is too long.
    """

    def __init__(self, where: str, queue: str, now_ms: Now = None) -> None:
        if len(queue.encode()) > _LONGEST_NAME:
            raise ValueError(
                f"{queue!r} can't name a queue in Postgres: give up to {_LONGEST_NAME} bytes of UTF-8"
            )
        self.target = Target(where)
        self.place: Hashable = (self.target.place, queue)
        self.where = self.target.where
        self._queue, self._now_ms = queue, now_ms
        self._database = ""  # the name of the database; see `identity`
        self._loops = PerLoop("psycopg", partial(_Loop, self.target, queue, now_ms))

    async def push(self, jobs: Sequence[NewJob], *, repeated: bool) -> list[Pushed]:
        loop, is_keyed = self._loop(), any(job.unique or job.nonce for job in jobs)
        pushed = await self._push(loop, jobs, repeated, is_keyed)
        waiting = BusyPush(jobs, pushed, repeated, time.monotonic() + LONGEST_TRY)
        while left := waiting.left():
            await anyio.sleep(waiting.pause())
            waiting.take(await self._push(loop, left, repeated, is_keyed))
        return waiting.answers

    async def _push(self, loop: _Loop, jobs: Sequence[NewJob], repeated: bool, is_keyed: bool) -> list[Pushed]:
        if len(jobs) <= MOST_TOGETHER:  # these have a time limit themselves
            return await (loop.keyed if is_keyed else loop.pushes).push(jobs, repeated=repeated)
        async with loop.room:
            return await loop.push(jobs, repeated, time.monotonic() + LONGEST_TRY)

    async def within(self, jobs: Sequence[NewJob]) -> list[Written]:
        """Return the statements that push jobs within a transaction of the queue's database."""
        if not self._database:
            self._database = await self._loop().run(identity())
        tell = partial(self._loop().hub.tell_after, self._queue)
        now_ms = self._now_ms() if self._now_ms else None
        return within(self._queue, now_ms, self._database, jobs, tell)

    async def read(self, query: Query[T]) -> T:
        return await self._loop().run(query_call(query))

    async def change(self, change: Change[T]) -> T:
        return await self._loop().run(change_call(change))

    async def listen(self, on_notification: Callable[[Notification], None], process: str = "") -> None:
        await self._loop().hub.listen(self._queue, process, on_notification)

    def consumer(self, worker_id: str, *, lease: float, max_deliveries: int) -> PostgresConsumer:
        return PostgresConsumer(self.target, self._queue, self._now_ms, worker_id, lease, max_deliveries)

    def make_sync(self) -> "SyncPostgresDriver":
        return SyncPostgresDriver(self.target, self._queue, self._now_ms)

    async def aclose(self) -> None:
        loop = self._loop()
        await loop.connections.aclose()
        await loop.hub.aclose_for(self)

    def _loop(self) -> _Loop:
        loop = self._loops.here()
        loop.hub.open_for(self)
        return loop


class SyncPostgresDriver:
    """A producer's and an operator's side for sync code and any number of threads; see `SyncDriver`."""

    def __init__(self, target: Target, queue: str, now_ms: Now = None) -> None:
        # Not `self` in these functions: that would be a cycle.
        notifier = self._notifier = SyncNotifier(lambda *what: _notify(connections, *what))
        channel = channel_of(queue)

        def tell(notices: Sequence[Notice], send: SendNow) -> None:
            notifier.tell(channel, notices, send)

        connections = self._connections = SyncConnections(lambda: SyncConnection(target, queue, now_ms, tell))
        self._queue, self._now_ms, self._database = queue, now_ms, ""

    def push(self, jobs: Sequence[NewJob], *, repeated: bool, until: float = math.inf) -> list[Pushed]:
        def send(jobs: Sequence[NewJob], connection: SyncConnection) -> list[Pushed]:
            for _ in range(_MOST_STALE):
                sent_ms = connection.time_ms(until)
                unsent = _set_time(jobs, sent_ms)
                call = partial(push, jobs, repeated=repeated, sent_ms=sent_ms)
                try:
                    pushed = connection.run(call(), until)
                except Locked:
                    pushed = connection.run(call(apart=True), until)
                if pushed is not None:
                    return pushed
                _unset_time(unsent, connection.clock)
            raise Unavailable(_UNEVEN)

        waiting = BusyPush(jobs, self._connections.call(partial(send, jobs), until), repeated, until)
        while left := waiting.left():
            time.sleep(waiting.pause())
            waiting.take(self._connections.call(partial(send, left), until))
        return waiting.answers

    def within(self, jobs: Sequence[NewJob], *, until: float = math.inf) -> list[Written]:
        """Return the statements that push jobs within a transaction of the queue's database."""
        if not self._database:
            self._database = self._run(identity(), until)
        now_ms = self._now_ms() if self._now_ms else None
        return within(self._queue, now_ms, self._database, jobs, self._tell_after)

    def _tell_after(self, transaction: Transaction, notices: Sequence[Notice]) -> None:
        is_open = transaction.watch(loosely=True)
        self._notifier.tell_after(transaction.key, is_open, channel_of(self._queue), notices)

    def read(self, query: Query[T], *, until: float = math.inf) -> T:
        return self._run(query_call(query), until)

    def change(self, change: Change[T], *, until: float = math.inf) -> T:
        return self._run(change_call(change), until)

    def close(self) -> None:
        self._notifier.close()
        self._connections.close()

    def _run(self, call: Call[T], until: float) -> T:
        return self._connections.call(lambda link: link.run(call, until), until)


def _notify(
    connections: SyncConnections[SyncConnection], channels: Sequence[str], payloads: Sequence[str]
) -> None:
    connection = connections.take(math.inf)
    try:
        connection.notify(channels, payloads)
    finally:
        connections.put(connection)
