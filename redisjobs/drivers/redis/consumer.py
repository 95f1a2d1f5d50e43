"""A worker's side of the Redis driver: its connections, and what it says over each."""

import asyncio
import secrets
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, TypeVar, cast

from redisjobs.drivers.redis.commands import Command, Further, eviction_warning, hello, memory_policy
from redisjobs.drivers.redis.connection import (
    ANSWER,
    Connection,
    ServerClock,
    SyncConnection,
    Target,
    need_asyncio,
)
from redisjobs.drivers.redis.queue_commands import QueueCommands
from redisjobs.drivers.redis.reader import BLOCK, Listener, Reader
from redisjobs.drivers.redis.worker_commands import Ahead, Claimed, Settled, WorkerCommands
from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.changes import Change, Tidied
from redisjobs.model.driver import Beat, Beaten, Fenced, Notification, Until
from redisjobs.model.job import Priority
from redisjobs.model.transitions import (
    LOWEST_RANK,
    MOST_JOBS,
    Ack,
    Ended,
    Exchange,
    Lease,
    NewJob,
    Reclaimed,
    Reply,
    Settlement,
    Settlements,
    Silent,
    Turn,
    weight_of,
)

T = TypeVar("T")

_REPLY_BYTES = 1024 * 1024  # of jobs in one reply, or of one job that has more
_FIRST_JOB_BYTES = 64 * 1024  # of a job, as long as none was seen
_SAMPLE = 8  # jobs of a reply whose size is looked at
_STALE = 1.0  # seconds after which what was told of jobs to come is no longer relied on,
_UNTOLD = 50  # and so many are read until it is told anew
_TURN_LATE_US = 1_000_000
_ALL = slice(0, len(Priority))  # streams
_RECOVERED = 100  # entries that one call looks at
_LARGEST = 2**64 - 1  # either part of an entry id
_SPARE_STEPS = 10  # calls, of those that settle the rest of jobs that push others, that may come no further
_HEARING = 4  # beats for which marks are looked for after a cancel: its job may have been on its way to us


class RedisConsumer:
    """One worker's side of a queue on Redis; see `Consumer`.

    It keeps a connection for each call under way, one that only waits in a blocking read, one that only listens,
    and its heartbeat has one. So none ever waits behind another.
    """

    def __init__(
        self,
        commands: WorkerCommands,
        changes: QueueCommands,
        target: Target,
        worker_id: str,
        lease: float,
        max_deliveries: int,
    ) -> None:
        self.worker_id = worker_id
        self._commands = commands
        self._changes = changes
        self._target = target
        self._lease_ms = int(lease * 1000)
        self._max_deliveries = max_deliveries
        self._lines: list[Connection] = []  # that nobody uses now; there are as many as there were calls at once
        self._all_lines: list[Connection] = []
        self._reader = Reader(commands, target, self._run)
        self._listener = Listener(commands, target)
        self._run_id = secrets.token_hex(8)  # tells us from another worker of our id
        self._ahead: Ahead | None = None  # what the next claim may find; None: not known
        self._told_at = float("-inf")  # when that was told, by the monotonic clock
        self._waits: float | None = None  # for how long a job has been waiting that has to run alone
        self._job_bytes: float | None = None  # of a job; None: none was seen yet
        self._clock = ServerClock()
        self._turn_us = 0  # by the server's clock: when somebody in line may start, and we are the one to look
        self.sync = SyncRedisConsumer(commands, target, self, self._lease_ms)
        self.has_found = False  # jobs that may have been cancelled before we knew of them
        self._rejected: list[Ended] = []  # entries that were no jobs, and became dead letters; not reported yet

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
        warning = eviction_warning(policy)
        if not warning or self._target.has_warned:
            return []
        self._target.has_warned = True
        return [warning]

    async def _run(self, *commands: Command[Any]) -> list[Any]:
        line = self._lines.pop() if self._lines else self._new_line()
        try:
            return await line.run_all(commands)
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
        await self._reader.aclose()
        await self._listener.aclose()
        for line in self._lines:
            await line.aclose()

    async def exchange(
        self,
        settlements: Settlements,
        count: int | None,
        *,
        turn: Turn | None = None,
        idle: bool = False,
        waiting: Sequence[Lease] = (),
    ) -> Exchange:
        asks = bool(count)
        # The script that claims knows what was handed back, and all else; a plain read costs the server much less.
        by_script = asks and (idle or self._ahead is None or self._ahead.released or self._ahead.restricted)
        most = min(count or 0, MOST_JOBS)
        reads = self._reads(most, waiting) if asks and not by_script else []
        parts = _Parts(settlements)
        # First, so that what they push is there to be claimed.
        commands: list[Command[Any]] = self._settle_with_pushes(parts, turn)
        first = len(commands)
        if parts.plain or not by_script:
            commands.append(
                self._commands.settle(
                    self.worker_id,
                    turn,
                    parts.plain,
                    promote=count is not None and not by_script,
                    server_ms=self._clock.now_ms,
                )
            )
        if by_script:
            commands.append(
                self._commands.claim(self.worker_id, most, _REPLY_BYTES, self._max_deliveries, idle=idle)
            )
        elif reads:
            commands += [self._commands.read(self.worker_id, streams, most) for streams, most in reads]
            # Asked again behind the reads: what may not start since the last answer is parked before it can run.
            commands.append(self._commands.is_restricted())
        if parts.pushing:
            commands = [_fenced_as_answer(command) for command in commands]
        try:
            answers = await self._run(*commands)
            pushed, replies = answers[:first], answers[first:]
            if parts.pushing:
                if any(isinstance(answer, Fenced) for answer in answers):
                    return self._cut_off(parts, answers)
                pushed = await self._settle_rest(parts, turn, pushed)
        except DriverError:
            self._ahead = None
            raise
        settled: Settled | None = replies[0] if isinstance(replies[0], Settled) else None
        told = parts.told(settled, pushed)
        if by_script:
            return await self._claimed(told, replies[-1])
        assert settled is not None
        if count is None:
            return told
        leases = list[Lease]()
        for read, brought in zip(reads, replies[1:], strict=False):
            settled.ahead.note_read(brought, *read)  # it was promoted and counted before we read
            leases += brought
        if leases and replies[-1]:
            try:
                leases = await self._screen(leases)
            except Fenced:
                leases = []  # they are for others; what was settled before counts
        if not settled.ahead.released:
            self._waits = None  # who waits is with those that were handed back
        return await self._taken(told, leases, settled)

    def _reads(self, count: int, waiting: Sequence[Lease]) -> list[tuple[slice, int]]:
        """Which streams to read, and how many jobs of each: down to the first that is known to have some.

        Those above it may have some since that answer. One command has one limit for all its streams, so it may
        bring more than `count`: those that are over wait in the worker, and the next read asks for fewer.
        """
        stream = self._ahead.stream if self._ahead is not None else None
        if stream is None:
            return []
        if time.monotonic() >= self._told_at + _STALE:
            count = min(count, _UNTOLD)
        over = sum(lease.rank < stream for lease in waiting)
        if not over:
            parts = [(slice(0, stream), count)]
        else:
            parts = [(slice(0, stream - 1), count), (slice(stream - 1, stream), count - over)]
        return [
            (streams, self._readable(most, streams))
            for streams, most in parts
            if most > 0 and streams.start < streams.stop
        ]

    def _settle_with_pushes(self, parts: "_Parts", turn: Turn | None) -> list[Command[Any]]:
        return [
            self._commands.settle_with_pushes(self.worker_id, turn, str(number), some)
            for number, some in enumerate(parts.pushing)
        ]

    async def _settle_rest(self, parts: "_Parts", turn: Turn | None, pushed: Sequence[Settled]) -> list[Settled]:
        """Settle those again of whose pushes a call looked at some only, as it met large jobs; to the end.

        Should an answer be lost, the whole exchange is sent again in the same parts: a call is known by number.

        Raises:
            DriverError: There is no end to it. Each step settles one more of these jobs, or looks at one more and
                frees its key, so there is, unless each time others push and start a large job under that key.
        """
        whole = []
        for number, (some, settled) in enumerate(zip(parts.pushing, pushed, strict=True)):
            most, step = _SPARE_STEPS + 2 * sum(len(_pushes(one)) for _, one in some), 0
            while settled.looked:
                step += 1
                if step > most:
                    raise DriverError("the jobs that these settlements push meet large ones again and again")
                left = _left(some, settled)
                rest = [_with_pushes(*some[at], numbers) for at, numbers in left.items()]
                command = self._commands.settle_with_pushes(self.worker_id, turn, f"{number}.{step}", rest)
                try:
                    (answer,) = await self._run(command)
                except Fenced:  # whatever the worker says next is refused, so it hears of that then
                    answer = Settled([Reply.LEASE_LOST] * len(rest), settled.now_us, -1, settled.ahead)
                settled = _joined(some, settled, left, answer)
            whole.append(settled)
        return whole

    def _cut_off(self, parts: "_Parts", answers: Sequence[Any]) -> Exchange:
        """What an exchange came to within which the worker was fenced: what was settled is told, the rest is lost.

        Whatever the worker says next is refused, so it hears of that then.

        Raises:
            Fenced: Nothing was settled.
        """
        if not any(isinstance(answer, Settled) for answer in answers):
            raise next(answer for answer in answers if isinstance(answer, Fenced))
        self._ahead = None
        return parts.told_in_part(answers)

    async def _claimed(self, told: Exchange, claimed: Claimed) -> Exchange:
        self._waits = claimed.waits_ms / 1000 if claimed.waits_ms >= 0 else None
        answer = await self._taken(told, claimed.leases, claimed, claimed.ended)
        if told.turns and not claimed.ahead.sees_to_turns:
            # The server had to be given the script that settles first, so the claim came before it.
            return replace(answer, due_in=0.0)
        return answer

    async def _taken(
        self,
        settled: Exchange,
        leases: list[Lease],
        told: Settled | Claimed,
        ended: Sequence[Ended] = (),
    ) -> Exchange:
        self._ahead = ahead = told.ahead
        self._told_at = time.monotonic()
        self._clock.hear(told.now_us / 1000)
        self._weigh(leases)
        leases = await self._jobs_among(leases)
        rejected, self._rejected = self._rejected, []
        return Exchange(
            settled.replies,
            leases,
            bool(ahead),
            [*ended, *rejected],
            self._due_in(told),
            self._waits,
            told.now_us / 1000,
            ahead.paused,
            settled.added,
            restricted=ahead.restricted,
            lines=ahead.turn_in_us >= 0,
            turn_in=self._turn_in(told),
            late_in=self._late_in(told),
            spoiled=settled.spoiled,
            # The script that claims takes what was handed back in its turn; a read knows nothing of it.
            up_to=min(ahead.unread_rank, LOWEST_RANK if isinstance(told, Claimed) else ahead.released_rank),
        )

    def _due_in(self, told: Settled | Claimed) -> float | None:
        """In how many seconds to look after delayed jobs, and after those in line.

        Whoever has changed when the next in line may start, or has looked when it might, looks then; others a
        second later, should that one be gone. Else all of a fleet would look each time that a rate lets another
        job start.
        """
        due = told.due_in_us / 1e6 if told.due_in_us >= 0 else None
        waits = [wait for wait in (due, self._turn_in(told), self._late_in(told)) if wait is not None]
        return min(waits, default=None)

    @staticmethod
    def _late_in(told: Settled | Claimed) -> float | None:
        """In how many seconds to look after jobs in line, should the worker whose turn it is be gone."""
        return (told.ahead.turn_in_us + _TURN_LATE_US) / 1e6 if told.ahead.turn_in_us >= 0 else None

    def _turn_in(self, told: Settled | Claimed) -> float | None:
        """In how many seconds to look after jobs in line, where that is this worker's to do."""
        if told.ahead.turn_in_us >= 0 and told.ahead.sees_to_turns:
            self._turn_us = told.now_us + told.ahead.turn_in_us
            return told.ahead.turn_in_us / 1e6
        return (self._turn_us - told.now_us) / 1e6 if self._turn_us > told.now_us else None

    async def _screen(self, leases: Sequence[Lease]) -> list[Lease]:
        """Those that may start, now that some may not.

        Raises:
            Fenced: The worker was fenced: they are for others.
        """
        kept: list[Lease] = []
        for some in _in_parts(leases):
            (those,) = await self._run(self._commands.screen(self.worker_id, some))
            kept += those
        return kept

    def _readable(self, count: int, streams: slice = _ALL) -> int:
        """How many jobs, up to a count, one read may bring of each of some streams.

        By how large those were that came lately they make up a usual reply; and where larger ones are to come, the
        server has said how many it reads at once.
        """
        usual = int(_REPLY_BYTES / (self._job_bytes or _FIRST_JOB_BYTES))
        limits = [limit for limit in self._ahead.readable[streams] if limit] if self._ahead is not None else []
        return max(1, min(count, usual, *(limit // len(limits) for limit in limits)))

    def _weigh(self, leases: Sequence[Lease]) -> None:
        """Learn how large jobs are, by some of them: at once where they are larger, step by step where smaller."""
        some = leases[:: max(1, len(leases) // _SAMPLE)]
        if some:
            self._job_bytes = max(sum(map(_bytes_of, some)) / len(some), (self._job_bytes or 0) / 4, 1.0)

    async def _jobs_among(self, leases: list[Lease]) -> list[Lease]:
        """Return these without entries that no push has added: those become dead letters."""
        others = [lease for lease in leases if not lease.job_id]
        if not others:
            return leases
        for some in _in_parts(others):
            (ids,) = await self._run(self._commands.reject(some))
            self._rejected += [(job_id, Reply.UNDECODABLE) for job_id in ids]
        return [lease for lease in leases if lease.job_id]

    async def wait(self, count: int, timeout: float, until: Until | None = None) -> list[Lease]:
        block = max(1, int(min(timeout, BLOCK) * 1000))  # 0 would block for ever
        most = max(1, self._readable(3 * count) // 3)  # of each stream
        command = self._commands.wait(self.worker_id, most, block)
        after = self._commands.is_restricted_or_lost(self.worker_id)
        (leases, inbox), restricted = await self._reader.read(command, after, until or Until())
        if inbox:  # the script that claims pushes it on; the next read finds the jobs
            claim = self._commands.claim(self.worker_id, 0, _REPLY_BYTES, self._max_deliveries, idle=False)
            (claimed,) = await self._run(claim)
            self._rejected += claimed.ended
        if leases and restricted:
            leases = await self._screen(leases)
        self._weigh(leases)
        return await self._jobs_among(leases)

    @property
    def _is_receiving(self) -> bool:
        """Whether a reply has begun to arrive, and may bring jobs."""
        return self._reader.is_receiving or any(line.is_receiving for line in self._all_lines)

    async def recover(self, held: Sequence[Lease], older: float = 0) -> list[Lease]:
        if older and self._is_receiving:
            return []
        idle_ms, found = int(older * 1000), list[Lease]()
        unknown = await self._unknown({lease.key for lease in held}, idle_ms)
        while True:  # once also where there is none, to hear whether the worker was fenced
            some = unknown[:_RECOVERED]
            command = self._commands.recover(self.worker_id, _REPLY_BYTES, idle_ms, some)
            (looked, leases), restricted = await self._run(command, self._commands.is_restricted())
            unknown = unknown[looked:]
            found += await self._screen(leases) if restricted else leases
            if not unknown:
                break
        self.has_found = self.has_found or bool(found)
        return await self._jobs_among(found)

    async def _unknown(self, held: Set[str], idle_ms: int) -> list[str]:
        """The places that are pending for this worker beyond those that it knows it holds."""
        unknown: list[str] = []
        for number in range(1, len(Priority) + 1):
            start: str | None = "-"
            while start is not None:
                (page,) = await self._run(self._commands.pending(self.worker_id, number, idle_ms, start))
                unknown += [place for entry in page if (place := f"{number} {entry}") not in held]
                start = _after(page[-1]) if len(page) == MOST_JOBS else None
        return unknown

    async def reclaim(
        self, silent: Sequence[Silent] = (), *, others: bool = False, thorough: bool = False
    ) -> Reclaimed:
        command = self._commands.reclaim(self.worker_id, MOST_JOBS, silent, others=others, thorough=thorough)
        reclaimed = await self._asked_further(command)
        self._clock.hear(reclaimed.server_ms)
        if reclaimed.released:
            self._ahead = None  # a claim by script takes them
        return reclaimed

    async def change(self, change: Change[T]) -> T:
        answer = await self._asked_further(self._changes.change(change))
        if isinstance(answer, Tidied) and answer.restored:
            self._ahead = None  # a claim by script takes them
        return answer

    async def _asked_further(self, command: Command[T]) -> T:
        (answer,) = await self._run(command)
        while isinstance(answer, Further):
            answer = answer.join(await self._run(*answer.commands))
        return answer  # type: ignore[no-any-return]

    async def release(self, *, refund: bool, watch: bool) -> int:
        total = 0
        while True:
            (released,) = await self._run(self._commands.release(self.worker_id, refund=refund, watch=watch))
            total += int(released)
            if not released:
                return total

    async def listen(self, on_notification: Callable[[Notification], None]) -> None:
        def hear(notification: Notification) -> None:
            if notification.kind in ("released", "paused", "resumed"):
                self._ahead = None  # only a claim by script takes them, and hears whether the queue is paused
            on_notification(notification)

        await self._listener.listen(hear)


def _after(entry: str) -> str | None:
    """The entry id that comes after one; None: that is the largest there is."""
    ms, sequence = map(int, entry.split("-"))
    if sequence < _LARGEST:
        return f"{ms}-{sequence + 1}"
    return f"{ms + 1}-0" if ms < _LARGEST else None


def _bytes_of(lease: Lease) -> int:
    """How long the names and values of a job are in all."""
    return sum(map(len, lease.fields)) + sum(map(len, lease.fields.values()))


def _in_parts(leases: Sequence[Lease]) -> Iterator[Sequence[Lease]]:
    """These jobs by so many as a script may read at once: by their number, and by their bytes."""
    begin = size = 0
    for at, lease in enumerate(leases):
        size += _bytes_of(lease)
        if at + 1 - begin == MOST_JOBS or size >= _REPLY_BYTES or at + 1 == len(leases):
            yield leases[begin : at + 1]
            begin, size = at + 1, 0


class _Parts:
    """The settlements of one exchange, as they go to the server: those that push jobs in calls of their own.

    Attributes:
        plain: Those that push none, for one call.
        pushing: The others, in calls that each push a bounded number of jobs and bytes.
    """

    def __init__(self, settlements: Settlements) -> None:
        self.plain: Settlements = settlements
        self.pushing: list[list[tuple[Lease, Settlement]]] = []
        self._order: list[int] | None = None  # the positions of all of them, in the order in which they go
        for _, one in settlements:  # any() takes twice as long, and each job goes by here
            if type(one) is Ack and one.pushes:
                self._part(settlements)
                break

    def _part(self, settlements: Settlements) -> None:
        pushing, plain = list[int](), list[int]()
        jobs = size = 0
        for position, (lease, settlement) in enumerate(settlements):
            pushes = _pushes(settlement)
            if not pushes:
                plain.append(position)
                continue
            if not self.pushing or jobs + len(pushes) > MOST_JOBS or size > _REPLY_BYTES:
                self.pushing.append([])
                jobs = size = 0
            jobs += len(pushes)
            size += sum(map(weight_of, pushes))
            self.pushing[-1].append((lease, settlement))
            pushing.append(position)
        self.plain = [settlements[position] for position in plain]
        self._order = pushing + plain

    def told(self, plain: Settled | None, pushing: Sequence[Settled]) -> Exchange:
        """The answers to all of them, in their own order."""
        replies, turns = (plain.replies, plain.ahead.turns) if plain is not None else ((), False)
        if self._order is None:
            return Exchange(replies, turns=turns)
        turns = turns or any(each.ahead.turns for each in pushing)
        said = [reply for each in pushing for reply in each.replies]
        pushed = [each.added.get(at, ()) for each in pushing for at in range(len(each.replies))]
        wrong = [each.spoiled.get(at, "") for each in pushing for at in range(len(each.replies))]
        by_position = dict(zip(self._order, [*said, *replies], strict=True))
        added = {at: some for at, some in zip(self._order, pushed, strict=False) if some}
        spoiled = {at: why for at, why in zip(self._order, wrong, strict=False) if why}
        said = [by_position[at] for at in sorted(by_position)]
        return Exchange(said, added=added, turns=turns, spoiled=spoiled)

    def told_in_part(self, answers: Sequence[Any]) -> Exchange:
        """The same where some calls were refused, as the worker was fenced: their jobs were no longer its own."""
        calls, nothing = [*self.pushing, self.plain], Ahead(0, [0, 0, 0], -1)
        *pushing, plain = [
            _unless_partial(answer)
            if isinstance(answer, Settled)
            else Settled([Reply.LEASE_LOST] * len(call), 0, -1, nothing)
            for call, answer in zip(calls, answers, strict=False)
        ]
        return replace(self.told(plain, pushing), server_ms=max(each.now_us for each in [*pushing, plain]) / 1000)


def _unless_partial(settled: Settled) -> Settled:
    """The same, as there is no further call: what was PARTIAL was not settled."""
    replies = [Reply.LEASE_LOST if at in settled.looked else reply for at, reply in enumerate(settled.replies)]
    return replace(settled, replies=replies)


def _left(some: Settlements, settled: Settled) -> dict[int, list[int]]:
    """By the position of a settlement that was PARTIAL, which of the jobs that it pushes are to be sent again."""
    return {
        at: [i for i in range(len(_pushes(some[at][1]))) if i >= len(looked) or looked[i]]
        for at, looked in settled.looked.items()
    }


def _joined(some: Settlements, settled: Settled, left: Mapping[int, Sequence[int]], answer: Settled) -> Settled:
    """The answer to a part, with that to those which were sent again."""
    replies, added, spoiled = [*settled.replies], {**settled.added}, {**settled.spoiled}
    looked: dict[int, Sequence[bool]] = {}
    for position, (at, numbers) in enumerate(left.items()):
        replies[at] = answer.replies[position]
        if position in answer.added:
            added[at] = _spread(numbers, answer.added[position], len(_pushes(some[at][1])))
        if position in answer.spoiled:
            spoiled[at] = answer.spoiled[position]
        if position in answer.looked:
            bits = answer.looked[position]
            looked[at] = _spread(numbers, bits, numbers[len(bits)])
    ahead = answer.ahead if answer.ahead.turns else settled.ahead
    return replace(settled, replies=replies, added=added, spoiled=spoiled, looked=looked, ahead=ahead)


def _spread(numbers: Sequence[int], bits: Sequence[bool], many: int) -> list[bool]:
    """A number of bits: those with these numbers as given, the others not set."""
    spread = [False] * many
    for number, bit in zip(numbers, bits, strict=False):
        spread[number] = bit
    return spread


def _pushes(settlement: Settlement) -> Sequence[NewJob]:
    return settlement.pushes if isinstance(settlement, Ack) else ()


def _with_pushes(lease: Lease, settlement: Settlement, numbers: Sequence[int]) -> tuple[Lease, Settlement]:
    """The same settlement, which pushes only the jobs with these numbers."""
    assert isinstance(settlement, Ack)
    return lease, replace(settlement, pushes=[settlement.pushes[number] for number in numbers])


def _fenced_as_answer(command: Command[Any]) -> Command[Any]:
    """The same command, which answers that the worker was fenced instead of raising it."""

    def parse(reply: Any) -> Any:
        try:
            return command.parse(reply)
        except Fenced as error:
            return error

    return replace(command, parse=parse)


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
        answers = self._connection.run_all(commands)
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
            marked = connection.run(self._commands.cancelled(leases[start : start + MOST_JOBS]))
            asked += marked
        return asked

    def release(self, *, refund: bool, watch: bool) -> int:
        total = 0
        while True:
            command = self._commands.release(self._consumer.worker_id, refund=refund, watch=watch)
            released = self._connection.run(command)
            total += int(released)
            if not released:
                return total

    def close(self) -> None:
        self._connection.close()
