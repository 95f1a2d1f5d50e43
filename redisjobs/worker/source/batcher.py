"""The exchanges of a worker that are under way. Each sends outcomes and brings jobs.

With one exchange at a time, the worker is idle while the server works, and the server while the worker does. So
there may be two, but the second only for a batch that is worth a round trip. Outcomes that come one by one wait
for the answer to the first exchange, and go together.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.abc import TaskGroup

from redisjobs.base.eventloop import Gate, gates
from redisjobs.client.backoff import NOT_NOW
from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.codec import encode_progress
from redisjobs.model.driver import Consumer, Fenced, NoAnswer, Unwritable
from redisjobs.model.transitions import (
    Exchange,
    Lease,
    Reply,
    ReportProgress,
    Settlement,
    Turn,
    size_of,
)
from redisjobs.worker.running.execution import Execution
from redisjobs.worker.source.leases import Note

_MOST = 2  # exchanges at once
WORTH = 25  # outcomes, or free slots, that make a second exchange worthwhile
_LARGE = 512 * 1024  # bytes from which an exchange may be too large for the server, or for a proxy before it
_UNHEARD = "the server answers, but not this, which may be too large for it ({})"
_TRIES = 3  # that no answer came to a large exchange, until it counts as refused


@dataclass(slots=True, eq=False)
class Batch:
    """One exchange: what it sends, and what the worker needs to handle its answer."""

    settling: list[Execution]
    count: int | None  # jobs to claim; 0 only promotes, None asks for nothing
    ahead: int = 0  # how many of these jobs may have to wait for a slot
    idle: bool = False  # the worker is idle once it is applied, so its claim may bring an isolated job
    turn: Turn = Turn(0, 0)  # its number, by which the server recognizes a repeat; set when it is sent
    unknown: bool = False  # the server may have applied it: a try had no answer
    sent: float = field(default_factory=time.monotonic)
    notes: Sequence[Note] = ()  # what running jobs write
    reporting: Sequence[Execution] = ()  # running jobs whose progress it publishes
    # Set if it claims for a worker that runs until idle and held no job: how many jobs had begun by then. If the
    # number is still the same, no job has run since that could have pushed one.
    after: int | None = None
    waiting: Sequence[Lease] = ()  # claimed before; they wait until this claim shows that no job goes before them
    ended: int = 0  # jobs of the worker that had ended when it was sent
    unheard: int = 0  # tries that had no answer, while the server answered others
    rest: "list[Batch]" = field(default_factory=list)  # parts of a refused batch, to be sent after this one
    # What was sent: a job may have another lease by now.
    settlements: list[tuple[Lease, Settlement]] = field(init=False)

    def __post_init__(self) -> None:
        # Notes first: a run that wrote one may have ended since, and after its settlement the note is refused.
        self.settlements = [(note.run.lease, note.settlement) for note in self.notes]
        self.settlements += [(run.lease, run.settlement) for run in self.settling if run.settlement is not None]
        self.settlements += [
            (run.lease, ReportProgress(encode_progress(run.progress))) for run in self.reporting if run.progress
        ]

    @property
    def is_lone(self) -> bool:
        """Whether one settlement is all that it sends."""
        return self.count is None and len(self.settlements) <= 1

    @property
    def is_large(self) -> bool:
        """Whether it may be too large for the server."""
        return sum(size_of(settlement) for _, settlement in self.settlements) >= _LARGE

    def halves(self) -> "list[Batch]":
        """Return what it sends in two parts, without the claim; in one if it can't be parted."""
        most = len(self.notes) + len(self.settling) + len(self.reporting)
        half = -(-most // 2)
        return [self._part(begin, end) for begin, end in ((0, half), (half, most)) if begin < end]

    def _part(self, begin: int, end: int) -> "Batch":
        lists = list[list[Any]]()
        for each in (self.notes, self.settling, self.reporting):
            lists.append(list(each[max(0, begin) : max(0, end)]))
            begin, end = begin - len(each), end - len(each)
        notes, settling, reporting = lists
        return Batch(settling, None, notes=notes, reporting=reporting)


class Batcher:
    """Sends batches to the server; `consumer` is the worker's side of the driver."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._scopes: set[anyio.CancelScope] = set()
        self._batches: list[Batch] = []  # begun, and not yet taken by a task
        self._idle: list[Gate] = []
        self._ended = False  # the tasks have ended
        self._done = anyio.Event()
        self._under_way: list[Batch] = []  # at most two
        self._lanes = dict.fromkeys(range(1, _MOST + 1), 0)  # free lanes, and the number that each used last
        self.unanswered: list[Batch] = []  # batches that may or may not have arrived; sent again before any other

    def report_to(
        self,
        answered: Callable[[Batch, Exchange], object],
        failed: Callable[[Batch, DriverError | None], object],
    ) -> None:
        """Set what handles the result of each batch. Call it before the first one is sent.

        Args:
            answered: Takes a batch and the answer to it.
            failed: Takes a batch that may or may not have arrived, and the error. What it settles is sent again
                unchanged.
        """
        self._answered, self._failed = answered, failed

    @property
    def under_way(self) -> int:
        """Number of exchanges under way."""
        return len(self._under_way)

    def asked(self, since: float = float("-inf")) -> int:
        """Return how many jobs the batches sent since a time of the monotonic clock may still bring."""
        return sum(batch.count or 0 for batch in self._under_way if batch.sent >= since)

    def may_bring_isolated(self, since: float = float("-inf")) -> bool:
        """Return whether a claim of an idle worker is under way. It may bring a job that must run isolated."""
        return any(batch.idle and batch.sent >= since for batch in self._under_way)

    @property
    def oldest(self) -> float:
        """When the oldest batch under way was sent, by the monotonic clock; infinity if there is none."""
        return min((batch.sent for batch in self._under_way), default=float("inf"))

    def has_room(self, outcomes: int, free: int) -> bool:
        """Return whether to begin another exchange, for this many outcomes and free slots."""
        return not self.under_way or (self.under_way < _MOST and max(outcomes, free) >= WORTH)

    def start(self, tasks: TaskGroup) -> None:
        """Start the tasks that send batches. An error other than `NOT_NOW` and `Fenced` ends them all."""
        self._new_gate = gates()
        for _ in range(_MOST):
            tasks.start_soon(self._carry_on)

    def begin(self, batch: Batch) -> None:
        """Send a batch in one of the tasks. If they have ended, it fails at once."""
        self._start_sending(batch)
        if self._ended:
            self._arrive(batch)
            self._fail(batch, None)
            return
        self._batches.append(batch)
        if self._idle:
            self._idle.pop().open()

    async def carry(self, batch: Batch) -> None:
        """Send a batch in the current task; if it is refused, its parts.

        Raises:
            DriverError: The batch may or may not have arrived; `failed` was called.
        """
        self._start_sending(batch)
        try:
            await self._send_waiting(batch)
        except Unwritable:
            await self.send_again()

    async def send_again(self) -> None:
        """Send the batches that had no answer again, one by one. The server answers as if for the first time.

        One that the server refuses is halved until what it refuses stands alone. That is answered OVERSIZED.

        Raises:
            DriverError: A batch has no answer this time either.
        """
        while self.unanswered:
            batch = self.unanswered.pop(0)
            batch.count, batch.idle = None, False
            self._depart(batch)
            with suppress(Unwritable):  # its parts are to be sent now
                await self._send_waiting(batch)

    def forget(self) -> None:
        """Forget the batches that had no answer, because their jobs are no longer ours."""
        while self.unanswered:
            self._free_lane(self.unanswered.pop(0))

    async def quiet(self) -> None:
        """Wait until no exchange is under way."""
        while self.under_way:
            self._done = anyio.Event()
            await self._done.wait()

    def break_off(self) -> None:
        """Let the batches under way fail, as if the server were away."""
        for scope in self._scopes:
            scope.cancel()

    def _start_sending(self, batch: Batch) -> None:
        lane, number = self._lanes.popitem()
        batch.turn = Turn(lane, number + 1)
        self._depart(batch)

    def _depart(self, batch: Batch) -> None:
        batch.sent = time.monotonic()
        for other in self._under_way:  # if this batch is answered first, its jobs may take the other's slots
            other.ahead = max(other.ahead, batch.ahead)
        self._under_way.append(batch)

    async def _carry_on(self) -> None:
        self._ended = False
        try:
            while True:
                while not self._batches:
                    gate = self._new_gate()
                    self._idle.append(gate)
                    try:
                        await gate.wait()
                    finally:
                        if gate in self._idle:  # cancelled: no task waits at this gate any more
                            self._idle.remove(gate)
                with suppress(*NOT_NOW, Fenced, Unwritable):  # `failed` was called
                    await self._send_waiting(self._batches.pop(0))
        finally:
            self._ended = True
            while self._batches:  # cancelled before a task took them
                batch = self._batches.pop(0)
                self._arrive(batch)
                self._fail(batch, None)

    def _free_lane(self, batch: Batch) -> None:
        if batch.rest:
            self._queue_parts(batch, batch.rest)
        else:
            self._lanes[batch.turn.lane] = batch.turn.number

    def _queue_parts(self, batch: Batch, parts: Sequence[Batch]) -> None:
        """Send parts of a batch next, one after the other: each is an exchange with a number of its own."""
        first, *first.rest = parts
        first.turn = Turn(batch.turn.lane, batch.turn.number + 1)
        self.unanswered.insert(0, first)

    def _fail(self, batch: Batch, error: DriverError | None) -> None:
        """Keep what a batch settles: it may or may not have arrived. Of a refused one, keep the parts."""
        is_refused = isinstance(error, Unwritable)
        batch.unknown = batch.unknown or not (is_refused or isinstance(error, Fenced))
        if is_refused:
            self._queue_parts(batch, [*batch.halves(), *batch.rest])
        elif batch.settling or batch.notes:
            self.unanswered.append(batch)
        else:
            self._free_lane(batch)
        self._failed(batch, error)

    def _arrive(self, batch: Batch) -> None:
        self._under_way.remove(batch)
        self._done.set()

    async def _send_waiting(self, batch: Batch) -> None:
        answer: Exchange | None = None
        error: DriverError | None = None
        try:
            with anyio.CancelScope() as scope:
                self._scopes.add(scope)
                answer = await self._consumer.exchange(
                    batch.settlements, batch.count, turn=batch.turn, idle=batch.idle, waiting=batch.waiting
                )
            if answer is None:
                error = Unavailable("the exchange was broken off")
        except NoAnswer as failure:
            error = Unwritable(_UNHEARD.format(failure)) if await self._is_unheard(batch) else failure
        except DriverError as failure:
            error = failure
        finally:
            self._scopes.discard(scope)
            self._arrive(batch)
            if isinstance(error, Unwritable) and batch.is_lone:
                answer, error = Exchange([Reply.OVERSIZED], spoiled={0: str(error)}), None
            if answer is None:
                self._fail(batch, error)
            else:
                self._free_lane(batch)
        if error is not None:
            raise error
        assert answer is not None
        self._answered(batch, answer)

    async def _is_unheard(self, batch: Batch) -> bool:
        """Return whether again and again no answer came to a large batch, while the server answers a small one.

        A server closes the connection if a request is longer than it takes, and may not say so.
        """
        batch.unheard += 1
        if batch.unheard < _TRIES - 1 or not batch.is_large:
            return False
        try:
            await self._consumer.exchange([], None)
        except DriverError:
            batch.unheard = 0
        return batch.unheard >= _TRIES
