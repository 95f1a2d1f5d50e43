"""The task in which a source decides, step by step, what to send to the server; the most urgent goes first."""

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

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


@dataclass(eq=False, repr=False)
class Stepper:
    """Takes a source's steps until it is asked to stop, or nothing is left to do."""

    member: Member
    claims: Claims
    dispatcher: Dispatcher
    exchanger: Exchanger
    recovery: Recovery
    promoter: Promoter
    reclaimer: Reclaimer
    progress: ProgressWatchdog

    def __post_init__(self) -> None:
        self._pool = self.claims.pool
        self._lease = self.member.settings.lease
        self._idle_since: float | None = None  # since when nothing is left to do here
        self._try_at = -math.inf  # when to retry what could not be settled, or could not start
        self._scope = anyio.CancelScope()

    async def run(self) -> None:
        """Settle and claim until a stop, or until nothing is left to do."""
        while not self.exchanger.is_ended:
            self.member.timer.begin()
            self.claims.is_idle = False  # for the other sources: a step may take long, or bring something
            worked = True
            with anyio.CancelScope() as self._scope:
                try:
                    worked = await self._step()
                except Fenced as error:
                    await self.recovery.rejoin(error)
                    continue
                except NOT_NOW as error:
                    await self.recovery.wait_until_available(error)
                    continue
            self.claims.is_idle = self.member.settings.until_idle and self._nothing_is_left()
            if all(source.is_idle for source in self._pool.sources):
                return
            if not worked:
                await self.member.timer.wait()

    def limit(self) -> None:
        """Wait only a moment longer if all that is left is an answer that may never come."""
        if self.exchanger.only_kept_jobs_left:
            self._scope.deadline = anyio.current_time() + _LAST_TURN

    def cut(self) -> None:
        """Cancel the step that is under way."""
        self._scope.cancel()
        self.member.timer.wake()

    async def _step(self) -> bool:
        """Take the next step; return whether there was anything to do."""
        self.exchanger.end_read_for_line()
        self.claims.end_last_read()
        self.dispatcher.hand_back_waiting()
        self._try_again()
        self.claims.keep_turn(RESERVED)
        self.member.raise_failure()  # the server is away, or took the worker for dead
        if (duty := self._duty()) is not None:
            await duty()
            return True
        self.claims.busy_until = math.inf
        if self.exchanger.has_batch:
            self.exchanger.begin()
            return True
        again_at = min(self._try_at, self.claims.leases.busy_until)
        times = self.recovery.missed_at, self.reclaimer.tidy_at, again_at, self.exchanger.look_at
        self.member.timer.wake_at(min(*times, self._reclaim_at, self._silent_at))
        return False

    def _duty(self) -> Callable[[], Awaitable[object]] | None:
        """Return what has to be done before the next exchange; None if nothing."""
        now = time.monotonic()
        if self.recovery.is_required:
            return self.recovery.recover
        if self.claims.fetcher.interrupted:
            return self.claims.end_read
        if not self.member.clock.is_known:  # jobs are judged by the server's time, so it must be known
            return self._read_clock
        if now >= self._reclaim_at:
            return self._reclaim
        if now >= self.recovery.missed_at:
            return self.recovery.find_missed
        if now >= self.reclaimer.tidy_at:
            return self.reclaimer.tidy
        if now >= self._silent_at and not self.exchanger.has_batch:
            return self._read_clock
        return None

    @property
    def _reclaim_at(self) -> float:
        return math.inf if self._pool.shutdown.stopping else self.reclaimer.look_at

    @property
    def _silent_at(self) -> float:
        """When to check whether a silent server still answers, or whether a queue is still paused."""
        return min(self.progress.done_at, self.exchanger.paused_at) + self._lease

    def _try_again(self) -> None:
        """Retry now and then what failed: an abandoned thread may have ended, or the server may have room."""
        self.claims.leases.try_busy()
        if time.monotonic() >= self._try_at:
            self._try_at = time.monotonic() + self.reclaimer.every
            self.claims.try_isolated()
            self.claims.leases.try_again_later()

    async def _read_clock(self) -> None:
        """Promote what is due, and read the server's clock."""
        sent = time.monotonic()
        answer = await self.member.consumer.exchange([], 0)
        self.progress.progressed()
        self.exchanger.learn(answer, sent)

    async def _reclaim(self) -> None:
        """Look for lost workers, and hand their jobs on."""
        released = await self.reclaimer.look(others=self.member.settings.until_idle)
        self.progress.progressed()
        if released:
            self.claims.note_released()

    # Until idle

    def _nothing_is_left(self) -> bool:
        """Return whether nothing is left to do. If other workers hold jobs, that takes a lease: they may be dead.

        Then one more claim looks. Jobs that others held at the last look may have kept a line from moving. Or they
        may have pushed jobs whose notification is still under way.
        """
        claims, reclaimer = self.claims, self.reclaimer
        if claims.fetcher.waiting or not self._is_dry:
            self._idle_since = reclaimer.others = None
            return False
        if claims.batcher.under_way:
            return False
        if self._idle_since is None:
            self._idle_since, reclaimer.look_at = time.monotonic(), 0.0  # find out whether others hold jobs
            claims.wake()
        # Another worker may be dead: a look shows that after a lease. Count by looks: this process may stall.
        waited = reclaimer.asked_at - self._idle_since > self._lease + 2 * reclaimer.every
        # An abandoned thread may run for ever, too. While it counts for a limit, jobs may wait for its end.
        held = reclaimer.others or self._pool.lingering
        if reclaimer.others is None or (held and not (waited and not reclaimer.silent)):
            return False
        if claims.claims_nothing or claims.claimed_at > reclaimer.asked_at:
            return True
        claims.claim_once_more()
        return False

    @property
    def _is_dry(self) -> bool:
        """Whether no job is ready, runs or waits here."""
        claims = self.claims
        claims_nothing = claims.claims_nothing  # then no claim looks again, even if one was asked for
        if not (claims.is_dry or claims_nothing) or self._pool.holds or self.recovery.is_required:
            return False
        if claims.quarantine.one_waits and not claims_nothing:  # a job waits for a thread to end
            return False
        if self.exchanger.settler.cancelling:  # children of jobs that were cancelled, or died
            return False
        # A job that found no thread is really ready, and only put off.
        return not (self._pool.threads.turned_away and self.promoter.expects(_PUT_OFF))
