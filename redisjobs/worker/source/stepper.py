"""The task in which a source decides what it says to the store: one step after another, by what matters most."""

import time
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

import anyio

from redisjobs.base.eventloop import Wakeup
from redisjobs.client.backoff import NOT_NOW
from redisjobs.model.driver import Consumer, Fenced
from redisjobs.worker.source.clock import Clock
from redisjobs.worker.source.exchanger import Exchanger
from redisjobs.worker.source.pool import RESERVED, Pool
from redisjobs.worker.source.promoter import Promoter
from redisjobs.worker.source.reclaimer import Reclaimer
from redisjobs.worker.source.recovery import Recovery
from redisjobs.worker.source.watchdog import ProgressWatchdog

_LAST_TURN = 1.0  # seconds that an idle worker waits for an answer once it was told to stop
_PUT_OFF = 2.0  # seconds within which a job that found no thread is due again


class Step(Enum):
    """One thing to do."""

    FAIL = auto()
    """Raise what an exchange failed by: the store is away, or took the worker for dead."""
    RECOVER = auto()
    """Settle what had no answer, and find the jobs whose delivery was lost."""
    END_READ = auto()
    """End the blocking read: there is something that only a claim finds."""
    READ_CLOCK = auto()
    """Hear what time it is at the server, before any job is judged by that; and that one gets through."""
    RECLAIM = auto()
    """Look for lost workers."""
    FIND_MISSED = auto()
    """Look for jobs that are the worker's, and of which it never heard."""
    TIDY = auto()
    """Look for what dead workers left behind."""
    EXCHANGE = auto()
    """Settle outcomes, and claim jobs for free slots."""
    REST = auto()
    """Nothing: wait until something changes."""


@dataclass(slots=True)
class Situation:
    """What the next step depends on. Times are by the monotonic clock, in seconds.

    Attributes:
        has_failed: An exchange has failed.
        must_recover: Jobs may be the worker's of which it does not know, or outcomes be settled that it holds.
        is_interrupted: The blocking read is to be ended.
        knows_clock: The server has said what time it is.
        look_at: When the next look for lost workers is due.
        missed_at: When the next one for jobs that were missed is.
        tidy_at: When the next one for what dead workers left behind is.
        has_batch: There are outcomes to settle, or free slots to claim for.
        silent_at: When nothing was said to the store for so long that one has to see whether it still answers, or
            nothing was heard of a paused queue, so that one has to see whether it still is.
    """

    has_failed: bool
    must_recover: bool
    is_interrupted: bool
    knows_clock: bool
    look_at: float
    missed_at: float
    tidy_at: float
    has_batch: bool
    silent_at: float


def next_step(it: Situation, now: float) -> Step:
    """Choose a source's next step."""
    if it.has_failed:
        return Step.FAIL
    if it.must_recover:
        return Step.RECOVER
    if it.is_interrupted:
        return Step.END_READ
    if not it.knows_clock:
        return Step.READ_CLOCK
    if now >= it.look_at:
        return Step.RECLAIM
    if now >= it.missed_at:
        return Step.FIND_MISSED
    if now >= it.tidy_at:
        return Step.TIDY
    if it.has_batch:
        return Step.EXCHANGE
    if now >= it.silent_at:
        return Step.READ_CLOCK
    return Step.REST


class Idleness:
    """Looks whether anything is left: ready, running here, or held by others who may be dead.

    A thread that was given up may run for ever too; while it counts for a limit, jobs may wait for its end.

    Args:
        pool: The worker's slots.
        exchanger: The source's exchanges.
        promoter: Its delayed jobs.
        reclaimer: What is known of other workers.
        recovery: What is to be made good.
        lease: Seconds a lease lasts.
    """

    def __init__(
        self,
        pool: Pool,
        exchanger: Exchanger,
        promoter: Promoter,
        reclaimer: Reclaimer,
        recovery: Recovery,
        *,
        lease: float,
    ) -> None:
        self._pool = pool
        self._exchanger = exchanger
        self._promoter = promoter
        self._reclaimer = reclaimer
        self._recovery = recovery
        self._lease = lease
        self._since: float | None = None  # since when nothing is left to do here

    def look(self) -> bool:
        """Whether nothing is left. Others may hold jobs: whether they do is asked first, and waited for a lease.

        Then a claim looks once more. What others held when the last one looked may have kept a line from moving,
        or may have pushed jobs, and a notification of that may still be under way.
        """
        if self._exchanger.fetcher.waiting or not self._is_dry:
            self._since = self._reclaimer.others = None
            return False
        if self._exchanger.batcher.under_way:
            return False
        now = time.monotonic()
        if self._since is None:
            self._since, self._reclaimer.look_at = now, 0.0  # do others hold anything?
            self._exchanger.wake()
        # Of those who do one may be dead: a look shows that after a lease. By its time, as this process may stall.
        waited = self._reclaimer.asked_at - self._since > self._lease + 2 * self._reclaimer.every
        has_waited = waited and not self._reclaimer.silent
        held = self._reclaimer.others or self._pool.lingering
        if self._reclaimer.others is None or (held and not has_waited):
            return False
        if self._exchanger.queue_paused or self._exchanger.claimed_at > self._reclaimer.asked_at:
            return True
        self._exchanger.claim_once_more()
        return False

    @property
    def _is_dry(self) -> bool:
        is_paused = self._exchanger.queue_paused  # then no claim looks once more, whoever asked for one
        if not (self._exchanger.is_dry or is_paused) or self._pool.holds or self._recovery.is_required:
            return False
        if self._exchanger.quarantine.one_waits and not is_paused:  # for a thread to end
            return False
        # What found no thread is ready in truth, and only put off.
        is_put_off = self._promoter.is_due or self._promoter.expects(_PUT_OFF)
        return not (self._pool.threads.turned_away and is_put_off)


class Owner(Protocol):
    """The worker's run."""

    @property
    def is_idle(self) -> bool:
        """Whether every source has found that nothing is left to do."""


class Stepper:
    """Takes a source's steps until it was told to stop, or nothing is left to do.

    Args:
        consumer: The worker's side of the store.
        exchanger: Settles and claims.
        recovery: Makes good what went wrong.
        reclaimer: Looks for lost workers.
        idleness: Looks whether anything is left, for a worker that runs until idle; None for one that does not.
        clock: The server's.
        progress: Is told of each answer.
        wakeup: Wakes this task.
        owner: The worker's run.

    Attributes:
        is_idle: Whether it has found that nothing is left to do.
    """

    def __init__(
        self,
        consumer: Consumer,
        exchanger: Exchanger,
        recovery: Recovery,
        reclaimer: Reclaimer,
        idleness: Idleness | None,
        clock: Clock,
        progress: ProgressWatchdog,
        wakeup: Wakeup,
        owner: Owner,
        *,
        lease: float,
    ) -> None:
        self.is_idle = False
        self._consumer = consumer
        self._exchanger = exchanger
        self._recovery = recovery
        self._reclaimer = reclaimer
        self._idleness = idleness
        self._clock = clock
        self._progress = progress
        self._wakeup = wakeup
        self._owner = owner
        self._lease = lease
        self._scope = anyio.CancelScope()

    async def run(self) -> None:
        """Settle and claim until stopped, or until nothing is left to do."""
        while not self._exchanger.is_ended:
            self._wakeup.begin()
            self.is_idle = False  # as far as others know: a step may take long, or bring something
            worked = True
            with anyio.CancelScope() as self._scope:
                try:
                    worked = await self._step()
                except Fenced as error:
                    await self._recovery.begin_anew(error)
                    continue
                except NOT_NOW as error:
                    await self._recovery.outlast(error)
                    continue
            self.is_idle = self._idleness is not None and self._idleness.look()
            if self.is_idle and self._owner.is_idle:
                return
            if not worked:
                await self._rest()

    def limit(self) -> None:
        """Wait no longer than a moment where there is nothing to wait for but an answer, which may never come."""
        if self._exchanger.is_through:
            self._scope.deadline = anyio.current_time() + _LAST_TURN

    def cut(self) -> None:
        """Give up the step that is under way."""
        self._scope.cancel()
        self._wakeup.wake()

    async def _step(self) -> bool:
        """Do one thing that is to be done; whether there was any."""
        self._exchanger.look_after_lines()
        self._exchanger.end_last_read()
        self._exchanger.hand_back_waiting()
        step = next_step(self._situation(), time.monotonic())
        if step in (Step.EXCHANGE, Step.REST):
            self._exchanger.busy_until = float("inf")
        else:
            self._exchanger.keep_turn(RESERVED)
        match step:
            case Step.FAIL:
                self._exchanger.raise_trouble()
            case Step.RECOVER:
                await self._recovery.recover()
            case Step.END_READ:
                await self._exchanger.end_read()
            case Step.READ_CLOCK:
                await self._read_clock()
            case Step.RECLAIM:
                await self._reclaim()
            case Step.FIND_MISSED:
                await self._recovery.find_missed()
            case Step.TIDY:
                await self._reclaimer.tidy()
            case Step.EXCHANGE:
                self._exchanger.begin()
        return step is not Step.REST

    def _situation(self) -> Situation:
        return Situation(
            has_failed=self._exchanger.trouble is not None,
            must_recover=self._recovery.is_required,
            is_interrupted=self._exchanger.fetcher.interrupted,
            knows_clock=self._clock.is_known,
            look_at=float("inf") if self._exchanger.is_stopping else self._reclaimer.look_at,
            missed_at=self._recovery.missed_at,
            tidy_at=self._reclaimer.tidy_at,
            has_batch=self._exchanger.has_batch,
            silent_at=min(self._progress.said_at, self._exchanger.paused_at) + self._lease,
        )

    async def _rest(self) -> None:
        """Wait until something changes."""
        look_at = self._exchanger.look_at
        if look_at == float("inf"):
            await self._wakeup.wait()
        else:
            with anyio.move_on_after(max(0.0, look_at - time.monotonic())):
                await self._wakeup.wait()

    async def _read_clock(self) -> None:
        """Promote what is due and hear what time it is."""
        sent = time.monotonic()
        answer = await self._consumer.exchange([], 0)
        self._progress.progressed()
        self._exchanger.hear(answer, sent)

    async def _reclaim(self) -> None:
        """Look for lost workers, and hand their jobs on."""
        released = await self._reclaimer.look(others=self._idleness is not None)
        self._progress.progressed()
        if released:
            self._exchanger.hear_of_released()
