"""A worker's side of the Redis driver: its connections, and what it says over each."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio
import redis

from redisjobs.driver import MOST_JOBS, Exchange, Lease, Nudge, Settlement, Word
from redisjobs.drivers.commands import (
    Claimed,
    Command,
    Commands,
    client_id,
    hello,
    memory_policy,
    translate,
    unblock,
)
from redisjobs.drivers.link import ANSWER, Link, SyncLink, Target, need_asyncio
from redisjobs.errors import DriverError, QueueFull, Unavailable

_BLOCK = 5.0  # seconds a blocking read may last
_MARGIN = 3.0  # seconds after which a blocking read's connection counts as half-open
_PING = 10.0  # seconds between signs of life on the connection that only listens
_GONE_MS = 3_600_000  # an unheard-of consumer with nothing pending is removed after this


class RedisConsumer:
    """One worker's side of a queue on Redis; see `Consumer`.

    It keeps a connection for each call under way, one that only waits in a blocking read, one that only listens,
    and its heartbeat has one. So none ever waits behind another.
    """

    def __init__(
        self, commands: Commands, target: Target, worker_id: str, lease: float, max_deliveries: int
    ) -> None:
        self.worker_id = worker_id
        self.ended: list[tuple[str, Word]] = []
        self.elsewhere = self.waiting = 0
        self._commands = commands
        self._target = target
        self._lease_ms = int(lease * 1000)
        self._max_deliveries = max_deliveries
        self._lines: list[Link] = []  # that nobody uses now; there are as many as there were calls at once
        self._reader = Link(commands, target, _BLOCK + _MARGIN)
        self._ear = Link(commands, target)
        self._reader_id: int | None = None  # by which the server knows that connection
        self._may_unblock = True
        self._cursors = ["0-0"] * len(commands.streams)

    async def open(self) -> list[str]:
        need_asyncio()
        try:
            return await self._join()
        except BaseException:
            await self.aclose()  # a worker that is refused has nothing to close
            raise

    async def _join(self) -> list[str]:
        await self._run(hello())
        await self._run(self._commands.join())
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
        line = self._lines.pop() if self._lines else Link(self._commands, self._target)
        try:
            return await line.run(*commands)
        except Unavailable:
            # What ended one connection has mostly ended the others: each would fail once more by itself.
            while self._lines:
                await self._lines.pop().aclose()
            raise
        finally:
            self._lines.append(line)

    async def aclose(self) -> None:
        for link in (self._reader, self._ear, *self._lines):
            await link.aclose()

    async def exchange(
        self, settlements: Sequence[Settlement], count: int | None, *, idle: bool = False
    ) -> Exchange:
        settles = self._commands.settle(self.worker_id, settlements)
        commands: list[Command[Any]] = [command for _, command in settles]
        if count is not None:
            commands.append(self._commands.claim(self.worker_id, count, self._max_deliveries, idle=idle))
        replies = await self._run(*commands)
        words = [Word.OK] * len(settlements)
        for (positions, _), answers in zip(settles, replies, strict=False):
            for position, word in zip(positions, answers, strict=True):
                words[position] = word
        if count is None:
            return Exchange(words)
        claimed: Claimed = replies[-1]
        self.ended += claimed.ended
        await self.adopt(claimed.leases)
        return Exchange(
            words,
            claimed.leases,
            claimed.due_in_us / 1e6 if claimed.due_in_us >= 0 else None,
            claimed.waits_ms / 1000 if claimed.waits_ms >= 0 else None,
            claimed.now_us / 1000,
        )

    async def adopt(self, leases: Sequence[Lease]) -> None:
        nameless = [lease for lease in leases if lease.job_id == lease.entry]
        for start in range(0, len(nameless), MOST_JOBS):
            some = nameless[start : start + MOST_JOBS]
            (ids,) = await self._run(self._commands.adopt(some))
            for lease, job_id in zip(some, ids, strict=True):
                lease.job_id = job_id

    async def wait(self, count: int, timeout: float) -> list[Lease]:
        block = max(1, int(min(timeout, _BLOCK) * 1000))  # 0 would block for ever
        if not self._reader.is_open:
            await self._know_reader()
        (leases,) = await self._reader.run(self._commands.wait(self.worker_id, count, block))
        return leases  # type: ignore[no-any-return]

    async def _know_reader(self) -> None:
        self._reader_id = None
        try:
            (self._reader_id,) = await self._reader.run(client_id())
        except (Unavailable, QueueFull):
            raise
        except DriverError:  # the ACL forbids it
            self._may_unblock = False

    async def reclaim(self, count: int, latest_ms: int | None = None) -> list[Lease]:
        command = self._commands.reclaim(
            self.worker_id, count, self._lease_ms, self._max_deliveries, self._cursors, latest_ms
        )
        (answer,) = await self._run(command)
        self._cursors, leases, ended, self.elsewhere, self.waiting = answer
        self.ended += ended
        await self.adopt(leases)
        return leases  # type: ignore[no-any-return]

    async def release_all(self, held: Sequence[Lease]) -> int:
        total = 0
        while True:
            (released,) = await self._run(self._commands.release_all(self.worker_id, held, refund=True))
            total += int(released)
            if not released:
                return total

    async def unblock(self) -> bool:
        if self._reader_id is not None and self._may_unblock:
            try:
                await self._run(unblock(self._reader_id))
            except (Unavailable, QueueFull):
                raise
            except DriverError:  # the ACL forbids it: then it has to be done without
                self._may_unblock = False
        return self._reader_id is not None and self._may_unblock

    async def leave(self) -> None:
        await self.release_all([])
        await self._run(self._commands.leave(self.worker_id))

    async def tidy(self) -> None:
        await self._run(self._commands.tidy(_GONE_MS))

    async def listen(self, heard: Callable[[Nudge], None]) -> None:
        try:
            async with asyncio.timeout(ANSWER):
                connection = await self._ear.open()
            await self._ear.send(connection, [["SUBSCRIBE", self._commands.control]])
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._ping, connection)
                while True:
                    async with asyncio.timeout(_PING + _MARGIN):
                        reply = await connection.read_response()
                    if reply[0] == b"subscribe":
                        heard(Nudge("subscribed", ""))
                    elif reply[0] == b"message":
                        kind, _, value = reply[2].decode("utf-8", "surrogateescape").partition(" ")
                        heard(Nudge(kind, value))
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

    def heartbeat(self) -> "RedisHeartbeat":
        return RedisHeartbeat(
            SyncLink(self._commands, self._target), self._commands, self.worker_id, self._lease_ms
        )


class RedisHeartbeat:
    """Renews leases over a sync connection of its own; see `Heartbeat`."""

    def __init__(self, link: SyncLink, commands: Commands, worker_id: str, lease_ms: int) -> None:
        self._link = link
        self._commands = commands
        self._worker_id = worker_id
        self._lease_ms = lease_ms

    def renew(self, leases: Sequence[Lease], facts: Mapping[str, str]) -> list[Word]:
        alive_ms = 2 * self._lease_ms
        calls = [self._commands.renew(self._worker_id, leases[:MOST_JOBS], facts, alive_ms)]
        for start in range(MOST_JOBS, len(leases), MOST_JOBS):
            calls.append(self._commands.renew(self._worker_id, leases[start : start + MOST_JOBS], {}, alive_ms))
        return [word for words in self._link.run(*calls) for word in words]

    def hand_over(self) -> int:
        total = 0
        while True:
            (released,) = self._link.run(self._commands.release_all(self._worker_id, [], refund=False))
            total += int(released)
            if not released:
                self._link.run(self._commands.leave(self._worker_id))
                return total

    def close(self) -> None:
        self._link.close()
