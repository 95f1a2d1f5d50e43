"""A worker's side of the Redis driver: its connections, and what it says over each."""

import asyncio
import secrets
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import Any, cast

import anyio
import redis

from redisjobs.driver import (
    MOST_JOBS,
    Beat,
    Beaten,
    Ended,
    Exchange,
    Fenced,
    Lease,
    Notification,
    Reclaimed,
    Reply,
    Settlements,
    Silent,
    Turn,
    Until,
)
from redisjobs.drivers.redis.commands import Command, client_id, hello, memory_policy, translate, unblock
from redisjobs.drivers.redis.connection import (
    ANSWER,
    Connection,
    ServerClock,
    SyncConnection,
    Target,
    need_asyncio,
)
from redisjobs.drivers.redis.worker_commands import Ahead, Claimed, Settled, WorkerCommands
from redisjobs.errors import DriverError, QueueFull, Unavailable

_BLOCK = 5.0  # seconds a blocking read may last
_UNBLOCKING = (0.02, 0.05, 0.2, 0.5)  # seconds to wait after each try to let it end in order
_IN_ORDER = 2.0  # seconds that all of that may take; then it is cut off
_MARGIN = 3.0  # seconds after which a blocking read's connection counts as half-open
_PING = 10.0  # seconds between PINGs on the connection that only listens
_GONE_MS = 3_600_000  # an unheard-of consumer with nothing pending is removed after this
_TIDY_MS = 55_000  # all consumers are looked at so often, by whichever worker comes first
_REPLY_BYTES = 1024 * 1024  # of jobs in one reply, or of one job that has more
_FIRST_JOB_BYTES = 64 * 1024  # of a job, as long as none was seen
_SAMPLE = 8  # jobs of a reply whose size is looked at
_HEARING = 4  # beats for which marks are looked for after a cancel: its job may have been on its way to us


class RedisConsumer:
    """One worker's side of a queue on Redis; see `Consumer`.

    It keeps a connection for each call under way, one that only waits in a blocking read, one that only listens,
    and its heartbeat has one. So none ever waits behind another.
    """

    def __init__(
        self, commands: WorkerCommands, target: Target, worker_id: str, lease: float, max_deliveries: int
    ) -> None:
        self.worker_id = worker_id
        self._commands = commands
        self._target = target
        self._lease_ms = int(lease * 1000)
        self._max_deliveries = max_deliveries
        self._lines: list[Connection] = []  # that nobody uses now; there are as many as there were calls at once
        self._all_lines: list[Connection] = []
        self._reader = Connection(commands, target, _BLOCK + _MARGIN)
        self._ear = Connection(commands, target)
        self._reader_id: int | None = None  # by which the server knows that connection
        self._may_unblock = True
        self._run_id = secrets.token_hex(8)  # tells us from another worker of our id
        self._ahead: Ahead | None = None  # what the next claim may find; None: not known
        self._restoring: tuple[int, bytes] | None = None  # where `tidy` goes on; None: it begins anew
        self._waits: float | None = None  # for how long a job has been waiting that has to run alone
        self._job_bytes: float = _FIRST_JOB_BYTES
        self._clock = ServerClock()
        self.sync = SyncRedisConsumer(commands, target, self, self._lease_ms)
        self.has_found = False  # jobs that may have been cancelled before we knew of them

    @property
    def server(self) -> Hashable:
        return self._target.server

    @property
    def heard_at(self) -> float:
        return max((line.heard_at for line in self._all_lines), default=float("-inf"))

    async def open(self, worker_id: str = "") -> list[str]:
        need_asyncio()
        try:
            return await self._join(worker_id or self.worker_id)
        except BaseException:
            await self.aclose()  # a worker that is refused has nothing to close
            raise

    async def _join(self, worker_id: str) -> list[str]:
        await self._run(hello())
        await self._run(self._commands.join(worker_id, self._lease_ms, self._run_id))
        self.worker_id, self._ahead = worker_id, None  # not sooner: the heartbeat speaks for whom this names
        try:
            (policy,) = await self._run(memory_policy())
        except DriverError as error:
            return [f"could not read the server's memory policy ({error}): make sure it is noeviction"]
        if policy in ("", "noeviction"):
            return []
        return [
            f"the server evicts keys when memory runs out (maxmemory-policy {policy}): jobs can vanish; "
            "set it to noeviction"
        ]

    async def _run(self, *commands: Command[Any]) -> list[Any]:
        line = self._lines.pop() if self._lines else self._new_line()
        try:
            return await line.run(*commands)
        except (Unavailable, asyncio.CancelledError):
            # What ended one connection has mostly ended the others: each would fail once more by itself.
            while self._lines:
                await self._lines.pop().aclose()
            raise
        finally:
            self._lines.append(line)

    def _new_line(self) -> Connection:
        line = Connection(self._commands, self._target)
        self._all_lines.append(line)
        return line

    async def aclose(self) -> None:
        for connection in (self._reader, self._ear, *self._lines):
            await connection.aclose()

    async def exchange(
        self, settlements: Settlements, count: int | None, *, turn: Turn | None = None, idle: bool = False
    ) -> Exchange:
        asks = bool(count)
        # The script that claims knows what was handed back, and all else; a plain read costs the server much less.
        by_script = asks and (self._ahead is None or self._ahead.released)
        stream = self._ahead.stream if asks and not by_script and self._ahead is not None else None
        most = min(count or 0, MOST_JOBS, max(1, int(_REPLY_BYTES / self._job_bytes)))
        commands: list[Command[Any]] = []
        if settlements or not by_script:
            commands.append(
                self._commands.settle(
                    self.worker_id,
                    turn,
                    settlements,
                    promote=count is not None and not by_script,
                    server_ms=self._clock.now_ms,
                )
            )
        if by_script:
            commands.append(
                self._commands.claim(self.worker_id, most, _REPLY_BYTES, self._max_deliveries, idle=idle)
            )
        elif stream is not None:
            commands.append(self._commands.read(self.worker_id, stream, most))
        try:
            replies = await self._run(*commands)
        except DriverError:
            self._ahead = None
            raise
        settled: Settled | None = replies[0] if isinstance(replies[0], Settled) else None
        if by_script:
            return await self._claimed(settled, replies[-1])
        assert settled is not None
        leases: list[Lease] = replies[1] if stream is not None else []
        if count is None:
            return Exchange(settled.replies)
        if stream is not None:  # it was promoted and counted before we read
            left = settled.ahead.unread[stream - 1] - len(leases) if len(leases) == most else 0
            settled.ahead.unread[stream - 1] = max(0, left)
        if not settled.ahead.released:
            self._waits = None  # who waits is with those that were handed back
        return await self._taken(settled.replies, leases, settled)

    async def _claimed(self, settled: Settled | None, claimed: Claimed) -> Exchange:
        replies = settled.replies if settled is not None else ()
        self._waits = claimed.waits_ms / 1000 if claimed.waits_ms >= 0 else None
        return await self._taken(replies, claimed.leases, claimed, claimed.ended)

    async def _taken(
        self,
        replies: Sequence[Reply],
        leases: list[Lease],
        told: Settled | Claimed,
        ended: Sequence[Ended] = (),
    ) -> Exchange:
        self._ahead = told.ahead
        self._clock.hear(told.now_us / 1000)
        self._weigh(leases)
        await self._adopt(leases)
        due_in = told.due_in_us / 1e6 if told.due_in_us >= 0 else None
        return Exchange(replies, leases, bool(told.ahead), ended, due_in, self._waits, told.now_us / 1000)

    def _weigh(self, leases: Sequence[Lease]) -> None:
        """Learn how large jobs are, by some of them: at once where they are larger, step by step where smaller."""
        some = leases[:: max(1, len(leases) // _SAMPLE)]
        if some:
            size = sum(len(part) for lease in some for pair in lease.fields.items() for part in pair)
            self._job_bytes = max(size / len(some), self._job_bytes / 4, 1.0)

    async def _adopt(self, leases: Sequence[Lease]) -> None:
        nameless = [lease for lease in leases if lease.job_id == lease.entry]
        for start in range(0, len(nameless), MOST_JOBS):
            some = nameless[start : start + MOST_JOBS]
            (ids,) = await self._run(self._commands.adopt(some))
            for lease, job_id in zip(some, ids, strict=True):
                lease.job_id = job_id

    async def wait(self, count: int, timeout: float, until: Until | None = None) -> list[Lease]:
        until = until or Until()
        if not self._reader.is_open:
            await self._know_reader()
        if until.is_set:
            return []
        block = max(1, int(min(timeout, _BLOCK) * 1000))  # 0 would block for ever
        most = min(count, max(1, int(_REPLY_BYTES / 3 / self._job_bytes)))
        leases = await self._read(self._commands.wait(self.worker_id, most, block), until)
        self._weigh(leases)
        await self._adopt(leases)
        return leases

    async def _know_reader(self) -> None:
        self._reader_id = None
        try:
            (self._reader_id,) = await self._reader.run(client_id())
        except (Unavailable, QueueFull):
            raise
        except DriverError:  # the ACL forbids it
            self._may_unblock = False

    async def _read(self, command: Command[list[Lease]], until: Until) -> list[Lease]:
        """Read, and end in order where `until` is set meanwhile, if the server lets us."""
        ending: list[asyncio.Task[None]] = []
        over = anyio.Event()
        with anyio.CancelScope() as cut:
            # A task only once it is to end: one for each read would cost too much where jobs come singly.
            until.when_set(lambda: ending.append(asyncio.create_task(self._end_read(cut, over))))
            try:
                (leases,) = await self._reader.run(command)
            except BaseException:
                for task in ending:
                    task.cancel()
                raise
            finally:
                until.when_set(None)
                over.set()
            for task in ending:  # not cancelled: what is under way on its connection would be lost
                await task
            return leases  # type: ignore[no-any-return]
        # It can still be delivered to, until the server sees that the connection is closed.
        raise Unavailable("a blocking read that was to end had to be cut off")

    async def _end_read(self, cut: anyio.CancelScope, over: anyio.Event) -> None:
        """Let the read return with whatever it leased; cut it off if the server does not help."""
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
        """Let the reader's call return; False if only cutting it off helps."""
        if self._reader_id is not None and self._may_unblock:
            try:
                await self._run(unblock(self._reader_id))
            except (Unavailable, QueueFull):
                raise
            except DriverError:  # the ACL forbids it: then it has to be done without
                self._may_unblock = False
        return self._may_unblock and self._reader_id is not None

    async def recover(self, held: Sequence[Lease], older: float = 0) -> list[Lease]:
        keys = [lease.key for lease in held]
        found: list[Lease] = []
        more = not older or not any(connection.is_receiving for connection in (self._reader, *self._all_lines))
        while more:
            command = self._commands.recover(self.worker_id, _REPLY_BYTES, int(older * 1000), keys)
            ((more, leases),) = await self._run(command)
            found += leases
            keys += [lease.key for lease in leases]
        await self._adopt(found)
        self.has_found = self.has_found or bool(found)
        return found

    async def reclaim(
        self, silent: Sequence[Silent] = (), *, others: bool = False, thorough: bool = False
    ) -> Reclaimed:
        command = self._commands.reclaim(self.worker_id, MOST_JOBS, silent, others=others, thorough=thorough)
        (reclaimed,) = await self._run(command)
        self._clock.hear(reclaimed.server_ms)
        if reclaimed.released:
            self._ahead = None  # a claim by script takes them
        return reclaimed  # type: ignore[no-any-return]

    async def release(self, *, refund: bool, watch: bool) -> int:
        total = 0
        while True:
            (released,) = await self._run(self._commands.release(self.worker_id, refund=refund, watch=watch))
            total += int(released)
            if not released:
                return total

    async def tidy(self) -> tuple[int, bool]:
        if self._restoring is None:
            ((_, suspects),) = await self._run(self._commands.tidy(_GONE_MS, _TIDY_MS))
            self._restoring = (1, b"-") if suspects else None
            return 0, suspects
        ((number, start, restored),) = await self._run(self._commands.restore(*self._restoring, _REPLY_BYTES))
        self._restoring = (number, start) if number else None
        if restored:
            self._ahead = None  # a claim by script takes them
        return restored, self._restoring is not None

    async def listen(self, on_notification: Callable[[Notification], None]) -> None:
        try:
            async with asyncio.timeout(ANSWER):
                connection = await self._ear.open()
            await self._ear.send(connection, [["SUBSCRIBE", self._commands.control]])
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._ping, connection)
                while True:
                    async with asyncio.timeout(_PING + _MARGIN):
                        reply = await self._ear.read(connection)
                    if isinstance(reply, Exception):
                        raise reply
                    if reply[0] == b"subscribe":
                        on_notification(Notification("subscribed", ""))
                    elif reply[0] == b"message":
                        kind, _, value = reply[2].decode("utf-8", "surrogateescape").partition(" ")
                        if kind == "released":
                            self._ahead = None  # a claim by script takes them
                        on_notification(Notification(kind, value))
        except (redis.RedisError, OSError) as error:
            raise translate(error) from error
        except BaseExceptionGroup as group:
            # Not `except*`: what is raised there comes out as a group, which nobody takes for Unavailable.
            failed, other = group.split((redis.RedisError, OSError))
            if failed is None or other is not None:
                raise
            raise translate(failed.exceptions[0]) from group
        finally:
            await self._ear.aclose()

    async def _ping(self, connection: Any) -> None:
        """A connection on which nothing is said can't be told from a dead one."""
        while True:
            await anyio.sleep(_PING)
            await self._ear.send(connection, [["PING"]])


class SyncRedisConsumer:
    """The same for sync code, over a connection of its own; see `SyncConsumer`.

    Its answers are waited for no longer than a lease can bear: one that is late may be repeated, and one that
    hangs must not let the lease run out.
    """

    def __init__(self, commands: WorkerCommands, target: Target, consumer: RedisConsumer, lease_ms: int) -> None:
        self._connection = SyncConnection(commands, target, min(ANSWER, lease_ms / 3000))
        self._commands = commands
        self._consumer = consumer
        self._known: tuple[str, int] = ("", 0)  # how many cancels were asked for of which worker
        self._listens = 0  # beats for which marks are still looked for

    def beat(self, *beats: Beat) -> Sequence[Beaten]:
        those = [cast("RedisConsumer", each.consumer).sync for each in beats]
        workers = [one._consumer.worker_id for one in those]
        commands = [
            one._commands.beat(worker_id, each.facts)
            for one, worker_id, each in zip(those, workers, beats, strict=True)
        ]
        answers = self._connection.run(*commands)
        return [
            one._beaten(worker_id, cancels, each.held, self._connection)
            for one, worker_id, each, cancels in zip(those, workers, beats, answers, strict=True)
        ]

    def _beaten(
        self, worker_id: str, cancels: int | None, held: Callable[[], Sequence[Lease]], connection: SyncConnection
    ) -> Beaten:
        """Which of the held jobs somebody has asked to cancel, looked for if there may be any."""
        if cancels is None:
            return Fenced(worker_id)
        found, self._consumer.has_found = self._consumer.has_found, False
        if (worker_id, cancels) != self._known or found:
            self._listens = _HEARING if cancels else 0
            self._known = worker_id, cancels
        if not self._listens:
            return ()
        self._listens -= 1
        leases, asked = held(), list[Lease]()
        for start in range(0, len(leases), MOST_JOBS):
            (marked,) = connection.run(self._commands.cancelled(leases[start : start + MOST_JOBS]))
            asked += marked
        return asked

    def release(self, *, refund: bool, watch: bool) -> int:
        total = 0
        while True:
            command = self._commands.release(self._consumer.worker_id, refund=refund, watch=watch)
            (released,) = self._connection.run(command)
            total += int(released)
            if not released:
                return total

    def close(self) -> None:
        self._connection.close()
