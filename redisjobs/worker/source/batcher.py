"""The exchanges of a worker with its store that are under way: outcomes go, jobs come.

One at a time would leave the worker idle while the store works, and the store while the worker does. So there may
be two, but the second only for a batch worth its round trip: what comes singly waits for the answer to the first,
and goes together.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from redisjobs.base.eventloop import Gate, gates, was_asked
from redisjobs.client.backoff import NOT_NOW
from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.codec import encode_progress
from redisjobs.model.driver import Consumer, Fenced
from redisjobs.model.transitions import MOST_JOBS, Exchange, Lease, ReportProgress, Settlement, Turn
from redisjobs.worker.running.execution import Execution
from redisjobs.worker.running.guard import keep_up

_MOST = 2  # exchanges at once
_BATCH = 50  # jobs of one exchange, at least, before there is a second one beside it
_WORTH = _BATCH // 2  # outcomes, or free slots, that are worth a second exchange


@dataclass(slots=True, eq=False)
class Batch:
    """One exchange.

    Attributes:
        settling: Jobs with a settlement.
        count: How many jobs to claim; 0 only promotes, None asks for nothing.
        ahead: How many of those may have to wait for a slot.
        idle: Whether the worker then runs nothing, and asks for nothing else.
        turn: By what the store knows it; given when it sets out.
        sent: When it was sent last, by the monotonic clock.
        unknown: Whether nobody knows if it was applied: a try had no answer.
        reporting: Others that run on, and have said how far they are.
        after: How many jobs the worker had begun, where it claims and held none; None: else. Kept only where it
            runs until idle: if none has begun since, none has pushed any.
        ended: How many jobs of the worker had ended when it set out.
        waiting: Jobs that were claimed before, and wait for this claim to tell that none goes before them.
        settlements: What was sent of those with a settlement, and then of those that report: by now a job may have
            another lease.
    """

    settling: list[Execution]
    count: int | None
    ahead: int = 0
    idle: bool = False
    turn: Turn = Turn(0, 0)
    unknown: bool = False
    sent: float = field(default_factory=time.monotonic)
    reporting: Sequence[Execution] = ()
    after: int | None = None
    waiting: Sequence[Lease] = ()
    ended: int = 0
    settlements: list[tuple[Lease, Settlement]] = field(init=False)

    def __post_init__(self) -> None:
        self.settlements = [(run.lease, run.settlement) for run in self.settling if run.settlement is not None]
        self.settlements += [
            (run.lease, ReportProgress(encode_progress(run.progress))) for run in self.reporting if run.progress
        ]


def most_of(places: int) -> int:
    """How many jobs one batch takes, where a worker has so many places: half of them, so that two fill them."""
    return min(MOST_JOBS, max(_BATCH, -(-places // 2)))


Answered = Callable[[Batch, Exchange], object]
"""Takes a batch and the answer to it."""

Failed = Callable[[Batch, DriverError | None], object]
"""Takes a batch that may or may not have arrived, and why. What it settles is sent again as it is."""


class Batcher:
    """Sends batches to the server.

    Args:
        consumer: The worker's side of the driver.
        answered: Is called for each answer.
        failed: Is called for each batch that has no answer.

    Attributes:
        unanswered: Batches that may or may not have arrived. They are sent again before any other.
    """

    def __init__(self, consumer: Consumer, answered: Answered, failed: Failed) -> None:
        self._consumer = consumer
        self._answered = answered
        self._failed = failed
        self._scopes: set[anyio.CancelScope] = set()
        self._batches: list[Batch] = []  # for a carrier that is about to be idle
        self._idle: list[Gate] = []
        self._ended = False  # the carriers have
        self._done = anyio.Event()
        self._under_way: list[Batch] = []  # at most two
        self._lanes = dict.fromkeys(range(1, _MOST + 1), 0)  # free ones, and the number each used last
        self.unanswered: list[Batch] = []

    @property
    def under_way(self) -> int:
        """How many exchanges are under way."""
        return len(self._under_way)

    def asked(self, since: float = float("-inf")) -> int:
        """How many jobs were asked for since a time of the monotonic clock, and may still come."""
        return sum(batch.count or 0 for batch in self._under_way if batch.sent >= since)

    def may_bring_isolated(self, since: float = float("-inf")) -> bool:
        """Whether an idle worker's claim is under way: what it brings may have to run alone."""
        return any(batch.idle and batch.sent >= since for batch in self._under_way)

    @property
    def oldest(self) -> float:
        """When the first of those that are under way was sent, by the monotonic clock; infinity: none is."""
        return min((batch.sent for batch in self._under_way), default=float("inf"))

    def has_room(self, outcomes: int, free: int) -> bool:
        """Whether to begin another, for so many outcomes and free slots."""
        return not self.under_way or (self.under_way < _MOST and max(outcomes, free) >= _WORTH)

    def start(self, tasks: TaskGroup) -> None:
        """Start the tasks that carry batches; what fails for good fails them all."""
        self._new_gate = gates()
        for _ in range(_MOST):
            # They last: a task for each batch could be cancelled before its first step, and nobody would know.
            tasks.start_soon(keep_up, self._carry_on)

    def begin(self, batch: Batch) -> None:
        """Carry a batch, in one of these tasks; where they have ended it fails at once."""
        self._set_out(batch)
        if self._ended:
            self._arrive(batch)
            self._fail(batch, None)
            return
        self._batches.append(batch)
        if self._idle:
            self._idle.pop().open()

    async def carry(self, batch: Batch) -> None:
        """Carry a batch, here and now.

        Raises:
            DriverError: It may or may not have arrived; its owner was told.
        """
        self._set_out(batch)
        await self._carry(batch)

    async def send_again(self) -> None:
        """Carry the batches that had no answer, one after another: they are answered as if for the first time.

        Raises:
            DriverError: One has no answer once more.
        """
        while self.unanswered:
            batch = self.unanswered.pop(0)
            batch.count, batch.idle = None, False
            self._depart(batch)
            await self._carry(batch)

    def forget(self) -> None:
        """Give up what had no answer: it concerns nobody any more."""
        while self.unanswered:
            self._free_lane(self.unanswered.pop(0))

    async def quiet(self) -> None:
        """Wait until none is under way."""
        while self.under_way:
            self._done = anyio.Event()
            await self._done.wait()

    def break_off(self) -> None:
        """Let those that are under way fail, as if the store were away."""
        for scope in self._scopes:
            scope.cancel()

    def _set_out(self, batch: Batch) -> None:
        lane, number = self._lanes.popitem()
        batch.turn = Turn(lane, number + 1)
        self._depart(batch)

    def _depart(self, batch: Batch) -> None:
        batch.sent = time.monotonic()
        for other in self._under_way:  # should this one be answered first, its jobs may have the other's slots
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
                        if gate in self._idle:  # cancelled: nobody waits there any more
                            self._idle.remove(gate)
                with suppress(*NOT_NOW, Fenced):  # the owner was told
                    await self._carry(self._batches.pop(0))
        finally:
            self._ended = True
            while self._batches:  # cancelled before it took them
                batch = self._batches.pop(0)
                self._arrive(batch)
                self._fail(batch, None)

    def _free_lane(self, batch: Batch) -> None:
        self._lanes[batch.turn.lane] = batch.turn.number

    def _fail(self, batch: Batch, error: DriverError | None) -> None:
        """Keep a batch that may or may not have arrived; one that settles nothing is not worth it."""
        batch.unknown = batch.unknown or not isinstance(error, Fenced)
        if batch.settling:
            self.unanswered.append(batch)
        else:
            self._free_lane(batch)
        self._failed(batch, error)

    def _arrive(self, batch: Batch) -> None:
        self._under_way.remove(batch)
        self._done.set()

    async def _carry(self, batch: Batch) -> None:
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
        except DriverError as failure:
            error = failure
        except anyio.get_cancelled_exc_class():
            if was_asked():
                raise
            error = Unavailable("the exchange was cut off, by a handler that cancelled all tasks")
        finally:
            self._scopes.discard(scope)
            self._arrive(batch)
            if answer is None:
                self._fail(batch, error)
            else:
                self._free_lane(batch)
        if error is not None:
            raise error
        assert answer is not None
        self._answered(batch, answer)
