"""The task in which a source decides what it says to the store: one step after another, as `step` orders them."""

import time
from typing import Protocol

import anyio

from redisjobs.base.eventloop import Wakeup
from redisjobs.client.backoff import NOT_NOW
from redisjobs.model.driver import Consumer, Fenced
from redisjobs.worker.source.clock import Clock
from redisjobs.worker.source.exchanger import Exchanger
from redisjobs.worker.source.idleness import Idleness
from redisjobs.worker.source.pool import RESERVED
from redisjobs.worker.source.reclaimer import Reclaimer
from redisjobs.worker.source.recovery import Recovery
from redisjobs.worker.source.step import Situation, Step, next_step
from redisjobs.worker.source.watchdog import ProgressWatchdog

_LAST_TURN = 1.0  # seconds that an idle worker waits for an answer once it was told to stop


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
