"""A worker's side of the Postgres driver: its connections, and the calls over them."""

import asyncio
import secrets
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TypeVar

from redisjobs.drivers.postgres import working
from redisjobs.drivers.postgres.calls import Call, change_call
from redisjobs.drivers.postgres.connection import Connection
from redisjobs.drivers.postgres.errors import is_refusal
from redisjobs.drivers.postgres.health import look_at_server
from redisjobs.drivers.postgres.heartbeat import SyncPostgresConsumer
from redisjobs.drivers.postgres.hub import Hub, hub_of
from redisjobs.drivers.postgres.notices import Notice, channel_of
from redisjobs.drivers.postgres.remarks import warning_texts
from redisjobs.drivers.postgres.target import Target
from redisjobs.drivers.remote.clock import Now
from redisjobs.drivers.remote.connections import ServerConnections
from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.changes import Change
from redisjobs.model.driver import Notification, Until, Unwritable
from redisjobs.model.transitions import MOST_JOBS, Ended, Exchange, Lease, Reclaimed, Settlements, Silent, Turn

T = TypeVar("T")

_NONE = 2**62  # a place in line after all others
_POLLS = (0.05, 2.0)  # seconds between two looks for jobs: at first, and at most if notifications come
_DEAF_POLL = 0.25  # at most, if they don't come
_WAKES = ("ready", "released", "resumed", "subscribed")  # notifications after which there may be jobs


class PostgresConsumer:
    """One worker's side of a queue on Postgres; see `Consumer`.

    It has a connection for each concurrent call, and one for its heartbeat. So no call waits behind another.
    """

    def __init__(
        self, target: Target, queue: str, now_ms: Now, worker_id: str, lease: float, max_deliveries: int
    ) -> None:
        self.worker_id = worker_id
        self._target, self._queue = target, queue
        self._lease_ms = int(lease * 1000)
        self._max_deliveries = max_deliveries
        self._lines = ServerConnections(lambda: Connection(target, queue, now_ms, self._tell))
        self._run_id = secrets.token_hex(8)  # tells this worker from another one with its id
        self._floors = working.Floors()
        self._news = asyncio.Event()  # something has happened that a wait waits for
        self._hearing: AbstractContextManager[None] | None = None
        self._poll = _POLLS[0]
        self._heard = 0  # notifications after which there may be jobs
        self._empty_at: int | None = None  # how many were heard when the last exchange began, if it found no job
        # The first place in line of the worker's jobs, and of those that it got lately.
        self._from = self._lowest = _NONE
        self._knows_all = False  # of all its jobs
        self._ended: list[Ended] = []  # jobs that ended as they were found again; to be reported
        self.sync = SyncPostgresConsumer(target, queue, now_ms, self, lease)

    @property
    def server(self) -> Hashable:
        return self._target.conninfo

    @property
    def noticed_at(self) -> float:
        return max((line.noticed_at for line in self._lines.all), default=float("-inf"))

    @property
    def _hub(self) -> Hub:
        hub = hub_of(self._target)
        hub.open_for(self)
        return hub

    def _tell(self, notices: Sequence[Notice]) -> None:
        self._hub.tell(self._queue, notices)

    async def open(self, worker_id: str = "") -> list[str]:
        hub_of(self._target).open_for(self)
        try:
            await self._run(working.join(worker_id or self.worker_id, self._lease_ms, self._run_id))
        except BaseException:
            await self.aclose()  # the caller of a failed `open` does not close
            raise
        self.worker_id = worker_id or self.worker_id  # not sooner: the heartbeat beats for this id
        return await self._warnings()

    async def _warnings(self) -> list[str]:
        """Return what an operator should know about the server, once for all workers of this target."""
        line = self._lines.take()
        try:
            facts = await line.run(look_at_server())
            return self._target.once(warning_texts(facts, is_shared=await line.is_shared()))
        except DriverError as error:
            return [f"could not read the settings of the database's server ({error})"]
        finally:
            await self._lines.put(line)

    async def _run(self, call: Call[T]) -> T:
        line = self._lines.take()
        has_session = line.is_open and line.failure is None
        try:
            return await line.run(call)
        except (Unavailable, asyncio.CancelledError):
            # What ended one connection has mostly ended the others, and each would fail once more.
            await self._lines.aclose_idle()
            raise
        finally:
            if not has_session:
                self._forget_places()
            await self._lines.put(line)

    def _forget_places(self) -> None:
        """Forget places in line: the server may have lost the last ones, or claims that it had answered."""
        self._floors.forget()
        self._knows_all = False  # it may have claimed jobs whose places we don't know

    async def aclose(self) -> None:
        hearing, self._hearing = self._hearing, None
        if hearing is not None:
            hearing.__exit__(None, None, None)
        await self._lines.aclose()
        await self._hub.aclose_for(self)

    async def exchange(
        self,
        settlements: Settlements,
        count: int | None,
        *,
        turn: Turn | None = None,
        idle: bool = False,
        waiting: Sequence[Lease] = (),
    ) -> Exchange:
        call = working.exchange(
            self._floors,
            self.worker_id,
            turn,
            settlements,
            count,
            self._max_deliveries,
            idle=idle,
            now=time.monotonic(),
        )
        heard = self._heard if self._hub.ears.works else None
        try:
            exchange = await self._run_claim(call)
        except DriverError as error:
            if settlements and is_refusal(error):
                raise Unwritable(str(error)) from error
            raise
        self._note(exchange.leases)
        if count:
            has_jobs = exchange.leases or exchange.more or exchange.turns or exchange.waits is not None
            self._empty_at = None if has_jobs else heard
        if count is not None and self._ended:
            ended, self._ended = self._ended, []
            return replace(exchange, ended=[*ended, *exchange.ended])
        return exchange

    def _note(self, leases: Sequence[Lease]) -> None:
        """Note the places in line of jobs that the worker got: `recover` looks from the first one on."""
        self._lowest = min([self._lowest, *(lease.token for lease in leases)])
        self._from = min(self._from, self._lowest)

    async def _run_claim(self, call: Call[T]) -> T:
        try:
            return await self._run(call)
        except BaseException:
            self._forget_places()
            raise

    async def wait(self, count: int, timeout: float, until: Until | None = None) -> list[Lease]:
        until, end = until or Until(), time.monotonic() + timeout
        self._listen_for_jobs()
        until.when_set(self._news.set)
        try:
            while not until.is_set:
                self._news.clear()
                leases = await self._look(count)
                if leases is not None:
                    self._note(leases)
                    self._poll = _POLLS[0]
                    return leases
                left = end - time.monotonic()
                if left <= 0 or until.is_set:
                    break
                await self._rest(left)
        finally:
            until.when_set(None)
        return []

    async def _look(self, count: int) -> list[Lease] | None:
        """Claim jobs; None: there are none, which the exchange before may have learned already."""
        empty_at, self._empty_at = self._empty_at, None
        if empty_at == self._heard:
            return None
        return await self._run_claim(working.read(self._floors, self.worker_id, count))

    def _listen_for_jobs(self) -> None:
        if self._hearing is None:
            self._hearing = self._hub.ears.hearing(channel_of(self._queue), self._hear)
            self._hearing.__enter__()

    def _hear(self, notice: Notice) -> None:
        if notice.kind in _WAKES:
            self._heard += 1
            self._news.set()

    async def _rest(self, left: float) -> None:
        """Wait until there may be jobs: for a notification, or until it is time to look again."""
        most = _POLLS[1] if self._hub.ears.works else _DEAF_POLL
        self._poll = min(self._poll, most)
        try:
            async with asyncio.timeout(min(left, self._poll)):
                await self._news.wait()
        except TimeoutError:
            self._poll = min(2 * self._poll, most)

    async def recover(self, held: Sequence[Lease], older: float = 0) -> list[Lease]:
        if older and any(line.is_receiving for line in self._lines.all):  # the rest of the answer may bring jobs
            return []
        found, more = list[Lease](), True  # at least once, to learn whether the worker was fenced
        while more:
            since = self._from if self._knows_all else 0
            self._lowest = _NONE
            missed = await self._run(working.recover(self.worker_id, [*held, *found], int(older * 1000), since))
            self._knows_all = True
            self._from = min(self._lowest, _NONE if missed.first is None else missed.first)
            self._ended += missed.ended
            found += missed.leases
            more = missed.more
        self.sync.has_found = self.sync.has_found or bool(found)
        return found

    async def reclaim(
        self, silent: Sequence[Silent] = (), *, others: bool = False, thorough: bool = False
    ) -> Reclaimed:
        return await self._run(working.reclaim(self.worker_id, silent, others=others))

    async def change(self, change: Change[T]) -> T:
        return await self._run(change_call(change))

    async def release(self, *, refund: bool, watch: bool) -> int:
        total = 0
        while True:
            released = await self._run(working.release(self.worker_id, refund=refund, watch=watch))
            total += released
            if released < MOST_JOBS:
                return total

    async def listen(self, on_notification: Callable[[Notification], None]) -> None:
        await self._hub.listen(self._queue, "", on_notification)
