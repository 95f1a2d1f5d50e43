"""A worker's side of the Redis driver: its connections, and the calls over each."""

import asyncio
import secrets
from collections.abc import Callable, Hashable, Iterator, Sequence, Set
from dataclasses import replace
from typing import Any, TypeVar

from redisjobs.drivers.redis import long_calls
from redisjobs.drivers.redis.commands import Command, Steps, hello, loss_warning, run_steps
from redisjobs.drivers.redis.connection import Connection
from redisjobs.drivers.redis.heartbeat import SyncRedisConsumer
from redisjobs.drivers.redis.outlook import REPLY_BYTES, Outlook, Prospect, bytes_of
from redisjobs.drivers.redis.reader import BLOCK, Listener, Reader
from redisjobs.drivers.redis.settling import Settling
from redisjobs.drivers.redis.target import Target
from redisjobs.drivers.redis.wire import is_refusal
from redisjobs.drivers.redis.worker_commands import WorkerCommands
from redisjobs.drivers.remote.connections import ServerConnections
from redisjobs.drivers.remote.loops import need_asyncio
from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.changes import Change, Tidied
from redisjobs.model.driver import Fenced, Notification, Until, Unwritable
from redisjobs.model.job import Priority
from redisjobs.model.transitions import (
    MOST_JOBS,
    Ended,
    Exchange,
    Lease,
    Reclaimed,
    Reply,
    Settlements,
    Silent,
    Turn,
)

T = TypeVar("T")

_RECOVERED = 100  # entries that one call of `recover` gets
_LAST_ENTRY = f"{2**64 - 1}-{2**64 - 1}"  # none can come after it


class RedisConsumer:
    """One worker's side of a queue on Redis; see `Consumer`.

    It has a connection for each concurrent call, one for blocking reads, one that listens, and one for its
    heartbeat. So no call waits behind another.
    """

    def __init__(
        self, commands: WorkerCommands, target: Target, worker_id: str, lease: float, max_deliveries: int
    ) -> None:
        self.worker_id = worker_id
        self._commands = commands
        self._target = target
        self._lease_ms = int(lease * 1000)
        self._max_deliveries = max_deliveries
        self._lines = ServerConnections(lambda: Connection(commands, target))
        self._reader = Reader(commands, target, self._run)
        self._listener = Listener(commands, target)
        self._run_id = secrets.token_hex(8)  # tells this worker from another one with its id
        self._outlook = Outlook()
        self._names_server = True  # the server says which one it is; it refuses that to some users
        self.sync = SyncRedisConsumer(commands, target, self, self._lease_ms)
        self._ended: list[Ended] = []  # jobs that ended after a read; to be reported

    @property
    def server(self) -> Hashable:
        return self._target.server

    @property
    def noticed_at(self) -> float:
        return max((line.noticed_at for line in self._lines.all), default=float("-inf"))

    async def open(self, worker_id: str = "") -> list[str]:
        need_asyncio("redis-py")
        try:
            return await self._join(worker_id or self.worker_id)
        except BaseException:
            await self.aclose()  # the caller of a failed `open` does not close
            raise

    async def _join(self, worker_id: str) -> list[str]:
        await self._run(hello())
        await self._run(self._commands.join(worker_id, self._lease_ms, self._run_id))
        self.worker_id = worker_id  # not sooner: the heartbeat beats for this id
        self._outlook.forget()
        self._names_server = True
        try:
            (warning,) = await self._run(loss_warning())
        except DriverError as error:
            return [f"could not read the server's memory policy ({error}): make sure it is noeviction"]
        return self._target.once(warning)

    async def _run(self, *commands: Command[Any]) -> list[Any]:
        line = self._lines.take()
        try:
            return await line.run_all(commands)
        except (Unavailable, asyncio.CancelledError):
            # What ended one connection has mostly ended the others, and each would fail once more.
            await self._lines.aclose_idle()
            raise
        finally:
            await self._lines.put(line)

    async def _run_steps(self, steps: Steps[T]) -> T:
        return await run_steps(steps, lambda commands, _: self._run(*commands))

    async def aclose(self) -> None:
        await self._reader.aclose()
        await self._listener.aclose()
        await self._lines.aclose()

    async def exchange(
        self,
        settlements: Settlements,
        count: int | None,
        *,
        turn: Turn | None = None,
        idle: bool = False,
        waiting: Sequence[Lease] = (),
    ) -> Exchange:
        by_script = bool(count) and (idle or self._outlook.needs_script)
        most = min(count or 0, MOST_JOBS)
        reads = self._outlook.reads(most, waiting) if most and not by_script else []
        settling = Settling(self._commands, self.worker_id, turn, settlements)
        settles = settling.calls(
            promote=count is not None and not by_script,
            needs_one=not by_script,
            server_ms=self._outlook.clock.now_ms,
        )
        try:
            answers = await self._run(*settles, *self._claims(most, reads, by_script=by_script, idle=idle))
            settled, claimed = answers[: len(settles)], answers[len(settles) :]
            is_fenced = any(isinstance(answer, Fenced) for answer in answers)
            outcome = await settling.answer(settled, is_fenced=is_fenced, run=self._run)
        except DriverError as error:
            self._outlook.forget()
            if settlements and is_refusal(error):
                raise Unwritable(str(error)) from error
            raise
        if is_fenced:
            self._outlook.forget()
        if is_fenced or count is None:
            return outcome
        if by_script:
            (claim,) = claimed
            self._outlook.after_claim(claim.ahead, claim.waits_ms)
            return await self._answer(outcome, claim.ahead, claim.leases, claim.ended, by_script=True)
        ahead = settled[-1].ahead
        leases = await self._brought(ahead, reads, claimed)
        self._outlook.after_reads(ahead)
        return await self._answer(outcome, ahead, leases, (), by_script=False)

    def _claims(
        self, most: int, reads: Sequence[tuple[slice, int]], *, by_script: bool, idle: bool
    ) -> list[Command[Any]]:
        if by_script:
            return [self._commands.claim(self.worker_id, most, self._max_deliveries, idle=idle)]
        if not reads:
            return []
        # Ask again behind the reads: jobs that may not start since the last answer are parked before they can run.
        return [
            *(self._commands.read(self.worker_id, streams, most) for streams, most in reads),
            self._commands.is_restricted(),
        ]

    async def _brought(
        self, ahead: Prospect, reads: Sequence[tuple[slice, int]], answers: Sequence[Any]
    ) -> list[Lease]:
        """Return the jobs that the reads brought, without those that may not start."""
        leases = list[Lease]()
        for read, brought in zip(reads, answers, strict=False):
            ahead.note_read(brought, *read)  # its counts are from before the reads
            leases += brought
        if leases and answers[-1]:
            try:
                leases = await self._screen(leases)
            except Fenced:
                leases = []  # other workers will run them; the settlements before the reads count
        return leases

    async def _answer(
        self, outcome: Exchange, ahead: Prospect, leases: list[Lease], ended: Sequence[Ended], *, by_script: bool
    ) -> Exchange:
        self._outlook.weigh(leases)
        leases = await self._jobs_among(leases)
        read, self._ended = self._ended, []
        return self._outlook.exchange(outcome, ahead, leases, [*ended, *read], by_script=by_script)

    async def _screen(self, leases: Sequence[Lease]) -> list[Lease]:
        """Return the jobs that may start; the script parks the others, lines them up, or ends them.

        Raises:
            Fenced: The worker was fenced: other workers will run these jobs.
        """
        kept: list[Lease] = []
        for some in _in_parts(leases):
            ((those, cancelled),) = await self._run(self._commands.screen(self.worker_id, some))
            kept += those
            self._ended += cancelled
        return kept

    async def _jobs_among(self, leases: list[Lease]) -> list[Lease]:
        """Return the leases of jobs; make dead letters of entries that no push has added."""
        others = [lease for lease in leases if not lease.job_id]
        if not others:
            return leases
        for some in _in_parts(others):
            (ids,) = await self._run(self._commands.reject(some))
            self._ended += [(job_id, Reply.UNDECODABLE) for job_id in ids]
        return [lease for lease in leases if lease.job_id]

    async def wait(self, count: int, timeout: float, until: Until | None = None) -> list[Lease]:
        block = max(1, int(min(timeout, BLOCK) * 1000))  # 0 would block for ever
        most = max(1, self._outlook.readable(3 * count) // 3)  # jobs of each stream
        command = self._commands.wait(self.worker_id, most, block)
        after = self._commands.is_restricted_or_lost(self.worker_id)
        (leases, inbox), restricted = await self._reader.read(command, after, until or Until())
        if inbox:  # the claim script pushes the inbox's entries as jobs, and the next read finds these
            (claim,) = await self._run(self._commands.claim(self.worker_id, 0, self._max_deliveries, idle=False))
            if isinstance(claim, Fenced):
                raise claim
            self._ended += claim.ended
        if leases and restricted:
            leases = await self._screen(leases)
        self._outlook.weigh(leases)
        return await self._jobs_among(leases)

    async def recover(self, held: Sequence[Lease], older: float = 0) -> list[Lease]:
        is_receiving = self._reader.is_receiving or any(line.is_receiving for line in self._lines.all)
        if older and is_receiving:  # the rest of the reply may bring jobs
            return []
        idle_ms, found = int(older * 1000), list[Lease]()
        unknown = await self._unknown({lease.key for lease in held}, idle_ms)
        while True:  # at least once, to learn whether the worker was fenced
            command = self._commands.recover(self.worker_id, idle_ms, unknown[:_RECOVERED])
            (looked, leases), restricted = await self._run(command, self._commands.is_restricted())
            unknown = unknown[looked:]
            found += await self._screen(leases) if restricted else leases
            if not unknown:
                break
        self.sync.has_found = self.sync.has_found or bool(found)
        return await self._jobs_among(found)

    async def _unknown(self, held: Set[str], idle_ms: int) -> list[str]:
        """Return the places of entries that are pending for this worker, except those in `held`."""
        unknown: list[str] = []
        for number in range(1, len(Priority) + 1):
            start = "-"
            while start:
                (page,) = await self._run(self._commands.pending(self.worker_id, number, idle_ms, start))
                unknown += [place for entry in page if (place := f"{number} {entry}") not in held]
                start = f"({page[-1]}" if len(page) == MOST_JOBS and page[-1] != _LAST_ENTRY else ""
        return unknown

    async def reclaim(
        self, silent: Sequence[Silent] = (), *, others: bool = False, thorough: bool = False
    ) -> Reclaimed:
        steps = self._commands.reclaim(
            self.worker_id, silent, others=others, thorough=thorough, names_server=self._names_server
        )
        reclaimed = await self._run_steps(steps)
        self._outlook.clock.record(reclaimed.server_ms)
        if reclaimed.released:
            self._outlook.forget()  # only a claim by script takes jobs that were handed back
        self._names_server = bool(reclaimed.server)
        return reclaimed if reclaimed.server else replace(reclaimed, server=str(self._target.locator.known or ""))

    async def change(self, change: Change[T]) -> T:
        answer = await self._run_steps(long_calls.change(self._commands, change))
        if isinstance(answer, Tidied) and answer.restored:
            self._outlook.forget()  # only a claim by script takes jobs that were handed back
        return answer

    async def release(self, *, refund: bool, watch: bool) -> int:
        total = 0
        while True:
            (released,) = await self._run(self._commands.release(self.worker_id, refund=refund, watch=watch))
            total += int(released)
            if not released:
                return total

    async def listen(self, on_notification: Callable[[Notification], None]) -> None:
        def receive(notification: Notification) -> None:
            if notification.kind in ("released", "paused", "resumed"):
                self._outlook.forget()  # only a claim by script takes released jobs, and learns of a pause
            on_notification(notification)

        await self._listener.listen(receive)


def _in_parts(leases: Sequence[Lease]) -> Iterator[Sequence[Lease]]:
    """Split jobs into parts that a script may read in one call, by number and by bytes."""
    begin = size = 0
    for at, lease in enumerate(leases):
        size += bytes_of(lease)
        if at + 1 - begin == MOST_JOBS or size >= REPLY_BYTES or at + 1 == len(leases):
            yield leases[begin : at + 1]
            begin, size = at + 1, 0
