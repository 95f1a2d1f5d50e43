"""The task in which a source decides what it says to the server, step by step, what matters most first."""

import math
import time
from dataclasses import dataclass
from enum import Enum, auto

import anyio

from redisjobs.client.backoff import NOT_NOW
from redisjobs.model.driver import Fenced
from redisjobs.worker.source.claims import Claims
from redisjobs.worker.source.dispatcher import Dispatcher
from redisjobs.worker.source.exchanger import Exchanger
from redisjobs.worker.source.member import Member
from redisjobs.worker.source.pool import RESERVED
from redisjobs.worker.source.reclaimer import Reclaimer
from redisjobs.worker.source.recovery import Recovery
from redisjobs.worker.source.timer import Promoter
from redisjobs.worker.source.watchdog import ProgressWatchdog

_LAST_TURN = 1.0  # seconds that an idle worker waits for an answer once it was asked to stop
_PUT_OFF = 2.0  # seconds within which a job that found no thread is due again


class Step(Enum):
    """One thing to do."""

    FAIL = auto()
    """Raise what an exchange failed by: the server is away, or took the worker for dead."""
    RECOVER = auto()
    """Send again what had no answer, and find the jobs whose delivery was lost."""
    END_READ = auto()
    """End the blocking read: there is something that only a claim finds."""
    READ_CLOCK = auto()
    """Ask the server for its time, before any job is judged by that; and see that it answers."""
    RECLAIM = auto()
    """Look for lost workers."""
    FIND_MISSED = auto()
    """Look for jobs that are the worker's, though no answer brought them."""
    TIDY = auto()
    """Look for what dead workers left behind."""
    EXCHANGE = auto()
    """Settle outcomes, and claim jobs for free slots."""
    REST = auto()
    """Wait until something changes, or until the first of the times below."""


@dataclass(slots=True)
class Situation:
    """What the next step depends on. Times are by the monotonic clock, in seconds.

    Attributes:
        has_failed: An exchange has failed.
        must_recover: Jobs may be the worker's that it does not know of, or a settlement had no answer.
        is_interrupted: The blocking read has to be ended.
        knows_clock: The server has said its time.
        look_at: When the next look for lost workers is due.
        missed_at: When the next look for jobs that no answer brought is due.
        tidy_at: When the next look for what dead workers left behind is due.
        has_batch: There are outcomes to settle, or free slots to claim for.
        silent_at: When the last exchange is so long ago that the worker has to see whether the server answers, or
            whether a paused queue still is paused.
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
    """Return a source's next step."""
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
    """Whether anything is left to do: ready, running here, or held by other workers that may be dead.

    An abandoned thread may run for ever too. While it counts for a limit, jobs may wait for its end.
    """

    def __init__(
        self, member: Member, claims: Claims, promoter: Promoter, reclaimer: Reclaimer, recovery: Recovery
    ) -> None:
        self._pool = claims.pool
        self._claims = claims
        self._promoter = promoter
        self._reclaimer = reclaimer
        self._recovery = recovery
        self._lease = member.settings.lease
        self._since: float | None = None  # since when nothing is left to do here

    def look(self) -> bool:
        """Return whether nothing is left. If other workers hold jobs, that takes a lease.

        Then a claim looks once more. Jobs that others held at the last look may have kept a line from moving, or
        may have pushed jobs, and a notification of that may still be under way.
        """
        claims, reclaimer = self._claims, self._reclaimer
        if claims.fetcher.waiting or not self._is_dry:
            self._since = reclaimer.others = None
            return False
        if claims.batcher.under_way:
            return False
        if self._since is None:
            self._since, reclaimer.look_at = time.monotonic(), 0.0  # do others hold anything?
            claims.wake()
        # One of them may be dead: a look shows that after a lease. Looks tell the time, as this process may stall.
        waited = reclaimer.asked_at - self._since > self._lease + 2 * reclaimer.every
        held = reclaimer.others or self._pool.lingering
        if reclaimer.others is None or (held and not (waited and not reclaimer.silent)):
            return False
        if claims.queue_paused or claims.claimed_at > reclaimer.asked_at:
            return True
        claims.claim_once_more()
        return False

    @property
    def _is_dry(self) -> bool:
        claims = self._claims
        is_paused = claims.queue_paused  # then no claim looks once more, whatever asked for one
        if not (claims.is_dry or is_paused) or self._pool.holds or self._recovery.is_required:
            return False
        if claims.quarantine.one_waits and not is_paused:  # for a thread to end
            return False
        # A job that found no thread is ready in truth, and only put off.
        return not (self._pool.threads.turned_away and self._promoter.expects(_PUT_OFF))


class Stepper:
    """Takes a source's steps until it is asked to stop, or nothing is left to do."""

    def __init__(
        self,
        member: Member,
        claims: Claims,
        dispatcher: Dispatcher,
        exchanger: Exchanger,
        recovery: Recovery,
        reclaimer: Reclaimer,
        progress: ProgressWatchdog,
        idleness: Idleness | None,
    ) -> None:
        self._member = member
        self._claims = claims
        self._dispatcher = dispatcher
        self._exchanger = exchanger
        self._recovery = recovery
        self._reclaimer = reclaimer
        self._idleness = idleness
        self._progress = progress
        self._timer = member.timer
        self._lease = member.settings.lease
        self._try_at = -math.inf  # when to try again what could not be settled, or could not start
        self._scope = anyio.CancelScope()

    async def run(self) -> None:
        """Settle and claim until a stop, or until nothing is left to do."""
        while not self._exchanger.is_ended:
            self._timer.begin()
            self._claims.is_idle = False  # as far as others know: a step may take long, or bring something
            worked = True
            with anyio.CancelScope() as self._scope:
                try:
                    worked = await self._step()
                except Fenced as error:
                    await self._recovery.rejoin(error)
                    continue
                except NOT_NOW as error:
                    await self._recovery.wait_until_available(error)
                    continue
            self._claims.is_idle = self._idleness is not None and self._idleness.look()
            if all(source.is_idle for source in self._claims.pool.sources):
                return
            if not worked:
                await self._timer.wait()

    def limit(self) -> None:
        """Wait only a moment where nothing is left to wait for but an answer, which may never come."""
        if self._exchanger.is_through:
            self._scope.deadline = anyio.current_time() + _LAST_TURN

    def cut(self) -> None:
        """Give up the step that is under way."""
        self._scope.cancel()
        self._timer.wake()

    async def _step(self) -> bool:
        """Take the next step; return whether there was anything to do."""
        self._exchanger.end_read_for_line()
        self._claims.end_last_read()
        self._dispatcher.hand_back_waiting()
        self._try_again()
        it = self._situation()
        step = next_step(it, time.monotonic())
        if step in (Step.EXCHANGE, Step.REST):
            self._claims.busy_until = math.inf
        else:
            self._claims.keep_turn(RESERVED)
        match step:
            case Step.FAIL:
                self._exchanger.raise_failure()
            case Step.RECOVER:
                await self._recovery.recover()
            case Step.END_READ:
                await self._claims.end_read()
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
            case Step.REST:  # until the earliest of all times that the parts keep
                times = it.look_at, it.missed_at, it.tidy_at, it.silent_at, self._try_at
                self._timer.wake_at(min(*times, self._exchanger.look_at))
        return step is not Step.REST

    def _try_again(self) -> None:
        """Try now and then what could not be done: an abandoned thread may have ended, or the server have room."""
        if time.monotonic() >= self._try_at:
            self._try_at = time.monotonic() + self._reclaimer.every
            self._claims.try_isolated()
            self._claims.leases.try_again_later()

    def _situation(self) -> Situation:
        return Situation(
            has_failed=self._exchanger.failure is not None,
            must_recover=self._recovery.is_required,
            is_interrupted=self._claims.fetcher.interrupted,
            knows_clock=self._member.clock.is_known,
            look_at=math.inf if self._exchanger.is_stopping else self._reclaimer.look_at,
            missed_at=self._recovery.missed_at,
            tidy_at=self._reclaimer.tidy_at,
            has_batch=self._exchanger.has_batch,
            silent_at=min(self._progress.said_at, self._exchanger.paused_at) + self._lease,
        )

    async def _read_clock(self) -> None:
        """Promote what is due, and read the server's clock."""
        sent = time.monotonic()
        answer = await self._member.consumer.exchange([], 0)
        self._progress.progressed()
        self._exchanger.learn(answer, sent)

    async def _reclaim(self) -> None:
        """Look for lost workers, and hand their jobs on."""
        released = await self._reclaimer.look(others=self._idleness is not None)
        self._progress.progressed()
        if released:
            self._claims.note_released()
