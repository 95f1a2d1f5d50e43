"""One queue that a worker takes jobs from, and all that it says to the store of that queue.

One task decides what is said: an exchange settles the outcomes there are and, if slots are free, claims as many
jobs at once. Outcomes that arrive while one is under way go together in the next. With nothing to do it leaves the
waiting to a blocking read on a connection of its own.
"""

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from redisjobs.base.eventloop import Wakeup
from redisjobs.errors import DriverError
from redisjobs.events import JobsReclaimed, WorkerDraining, WorkerStarted, WorkerStopped
from redisjobs.model.driver import Fenced
from redisjobs.scheduler.scheduler import Scheduler
from redisjobs.worker.running.chain import finder
from redisjobs.worker.running.guard import keep_up
from redisjobs.worker.running.hooks import Hooks
from redisjobs.worker.settings.health import Health
from redisjobs.worker.settings.settings import Settings
from redisjobs.worker.source.claiming import Quarantine
from redisjobs.worker.source.clock import Clock
from redisjobs.worker.source.dispatcher import Dispatcher
from redisjobs.worker.source.drain import Drain
from redisjobs.worker.source.exchanger import Exchanger
from redisjobs.worker.source.fetcher import Fetcher
from redisjobs.worker.source.heartbeat import Beats
from redisjobs.worker.source.member import Member
from redisjobs.worker.source.pool import Pool
from redisjobs.worker.source.promoter import Promoter
from redisjobs.worker.source.reclaimer import Reclaimer
from redisjobs.worker.source.recovery import Recovery
from redisjobs.worker.source.stepper import Idleness, Stepper
from redisjobs.worker.source.subscriber import Subscriber
from redisjobs.worker.source.watchdog import ProgressWatchdog

_JOINING = 5.0  # seconds for which other queues leave it its turn as it joins: then its server counts as away
_FIRING_AGAIN = 60.0  # seconds until it is tried again to fire schedules, where the store refused

_NOT_FIRED = (
    "this worker fires no schedules of queue %s: %s. Allow what is refused, or leave schedules to others by "
    "`--no-schedules`"
)


class Owner(Protocol):
    """The worker's run."""

    @property
    def broken(self) -> bool:
        """Whether it ends by an error."""

    @property
    def is_idle(self) -> bool:
        """Whether every source has found that nothing is left to do."""

    def ended(self) -> None:
        """Note that a source has ended in order."""


class Source:
    """One queue of a worker: joined, claimed from, settled and left by itself.

    Args:
        settings: What the worker is told for this queue.
        pool: The worker's slots.
        owner: The worker's run.
        call_soon: Runs a function soon in the event loop.
        until_idle: Whether it ends as soon as nothing is left to do.

    Attributes:
        member: The worker, as this queue knows it.
        dispatcher: The jobs that it holds here.
        beats: Its heartbeats here.
        stepper: What it does, step by step.
    """

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        owner: Owner,
        call_soon: Callable[[Callable[[], object]], None],
        *,
        until_idle: bool,
    ) -> None:
        lease, wakeup = settings.lease, Wakeup()
        clock, quarantine = Clock(), Quarantine(lease)
        self.member = member = Member(settings)
        consumer = member.consumer
        self.dispatcher = Dispatcher(member, pool, clock, quarantine, wakeup, self)
        self.beats = Beats(member, self.dispatcher, self, call_soon)
        self.fetcher = Fetcher(consumer, self.dispatcher, wakeup, lease=lease)
        self.promoter = Promoter(clock, wakeup, until_idle=until_idle)
        self.reclaimer = Reclaimer(consumer, clock, self.promoter, self, member.log, lease=lease)
        self.progress = ProgressWatchdog(member, self, lease)
        self.exchanger = Exchanger(
            pool,
            consumer,
            self.dispatcher,
            self.fetcher,
            self.promoter,
            self.reclaimer,
            quarantine,
            self.progress,
            wakeup,
            until_idle=until_idle,
        )
        self.scheduler = Scheduler(settings.queue) if settings.schedules else None
        self.subscriber = Subscriber(
            consumer, self.exchanger, self.promoter, self.beats, self.reclaimer, self.scheduler
        )
        self.recovery = Recovery(
            member, self.dispatcher, self.exchanger, self.beats, clock, pool.shutdown, self.progress
        )
        idleness = Idleness(pool, self.exchanger, self.promoter, self.reclaimer, self.recovery, lease=lease)
        self.stepper = Stepper(
            consumer,
            self.exchanger,
            self.recovery,
            self.reclaimer,
            idleness if until_idle else None,
            clock,
            self.progress,
            wakeup,
            owner,
            lease=lease,
        )
        self._middleware = (*settings.queue.middleware, *settings.middleware)
        self._hooks = Hooks(self._middleware, lambda: self.member.settings.worker_id, member.log)
        self._drain = Drain(member, self.exchanger, self.recovery, self.beats)
        self._started_as = ""
        self._pool = pool
        self._owner = owner
        self._wakeup = wakeup

    # Its life

    async def run(self, tasks: TaskGroup) -> None:
        """Join the queue, work until there is nothing more to do, and leave it; for a task of the worker's own."""
        try:
            if not self.member.opened:
                self.exchanger.keep_turn(_JOINING)
                with anyio.CancelScope() as self.member.opening:  # a new one: this may be done again
                    if self._pool.shutdown.stopping:
                        self.member.opening.cancel()
                    await self.member.join()
                if self.member.opening.cancel_called:
                    await self._drain.leave_unopened()
                    self._owner.ended()
                    return
                self._start(tasks)
            await self.stepper.run()
            # Before the handlers are waited for: one that won't end must not keep the others' jobs.
            await self.drain()
            self._owner.ended()
        except anyio.get_cancelled_exc_class():
            self.recovery.is_needed = True  # should it go on
            raise

    def _start(self, tasks: TaskGroup) -> None:
        settings = self.member.settings
        self.member.opened = True
        self.beats.start()
        self.progress.resumed()
        self._started_as = settings.worker_id
        names, busy = sorted(settings.queue.definitions), self._pool.slots.count_busy
        server = settings.queue.driver.where
        self.member.tell(WorkerStarted, slots=settings.concurrency, names=names, server=server, busy=busy)
        parts = (self.fetcher, self.subscriber, self.promoter, self.progress)
        for duty in (*(part.run for part in parts), self._watch_leases):
            tasks.start_soon(keep_up, duty)
        if self.scheduler is not None:
            tasks.start_soon(keep_up, partial(self._fire_schedules, self.scheduler))
        self.exchanger.batcher.start(tasks)
        threads, processes = self._pool.threads, self._pool.means.processes
        self.dispatcher.find = finder(settings.queue.definitions, self._middleware, threads, processes)
        self._hooks.start(tasks, settings.queue.events)

    async def _fire_schedules(self, scheduler: Scheduler) -> None:
        """Fire schedules. Where the store refuses that, jobs run all the same, and it is tried again."""
        told = ""
        while True:
            try:
                await scheduler.run(listens=False)
                return  # it was stopped
            except DriverError as error:
                if str(error) != told:
                    told, where = str(error), f"'{self.member.settings.queue.name}' at {self.member.server}"
                    self.member.log.error(_NOT_FIRED, where, error)
                await anyio.sleep(_FIRING_AGAIN)

    def stop(self, *, is_first: bool) -> None:
        """Claim no more: the worker was asked to stop, for the first time or once more."""
        self.member.opening.cancel()
        if self.scheduler is not None:
            self.scheduler.stop()
        self.fetcher.interrupt()
        self._wakeup.wake()
        if is_first:
            self.member.tell(WorkerDraining, jobs=len(self.dispatcher.leases))

    async def close(self) -> None:
        """Leave the queue, if it has not yet, and close every connection."""
        if self.member.opened:
            await self.drain()
        await self.member.consumer.aclose()

    async def drain(self) -> None:
        """Settle what has an outcome, release all the rest, and leave the queue; once."""
        if not self.member.left:
            self._pool.shutdown.stopping = True
            await self._drain.run(broken=self._owner.broken)
        await self._hooks.finish()

    def tell_stopped(self) -> None:
        """Tell that the worker has stopped, if it had begun here, or has told that it could not."""
        if self.member.opened or self.member.unavailable:
            self.member.tell(WorkerStopped, started_as=self._started_as, server=self.member.server)

    def health(self, *, loop_is_blocked: bool) -> Health | None:
        """What is wrong with it, by what it got done; None: nothing. For any thread.

        Args:
            loop_is_blocked: Whether the event loop is: then nothing is wrong with the store.
        """
        if not self.member.opened or self.member.unavailable:
            return Health(True, False, self.member.unavailable or "starting")
        if self.progress.is_stuck and (loop_is_blocked or not self.member.may_be_dead):
            what = "the event loop is blocked" if loop_is_blocked else "stuck"
            return Health(False, False, f"{what}: no exchange with the store for {self.progress.silent_for:.0f} s")
        return None

    async def _watch_leases(self) -> None:
        await anyio.sleep(self.reclaimer.every * random.random())  # who started together looks at different times
        while True:
            self.exchanger.emptied()  # one could not be had, for a thread that may have ended by now
            self.dispatcher.leases.try_again_later()
            self._wakeup.wake()
            pause, until_look = self.reclaimer.every, self.reclaimer.next_at - time.monotonic()
            await anyio.sleep(pause if self._pool.shutdown.stopping else min(pause, max(0.01, until_look)))

    # What its parts tell it

    @property
    def must_recover(self) -> bool:
        """Whether it waits for a heartbeat to get through."""
        return self.recovery.is_required

    def beaten(self) -> None:
        """A heartbeat got through."""
        self._wakeup.wake()

    def fenced(self, error: Fenced) -> None:
        """A heartbeat was told that the store takes the worker for dead."""
        self.recovery.fenced(error)
        self._wakeup.wake()

    def emptied(self) -> None:
        """Look whether a job that has to run alone can start: one was let go."""
        self.exchanger.emptied()

    def reclaimed(self, lost: Sequence[str], jobs: int) -> None:
        """Tell of lost workers, and of what they held."""
        self.member.tell(JobsReclaimed, lost=lost, jobs=jobs)

    @property
    def lacks_heartbeat(self) -> bool:
        """Whether the heartbeat's thread has ended."""
        return self.beats.heartbeat.broken

    def break_off(self) -> None:
        """Give up what is under way, and connect anew: nothing gets through."""
        self.recovery.is_needed = True
        self.exchanger.batcher.break_off()
        self.stepper.cut()
