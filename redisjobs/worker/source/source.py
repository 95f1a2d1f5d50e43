"""One queue that a worker takes jobs from, and all that the worker says to the server of that queue.

One task decides what is said: an exchange settles the outcomes there are and, if slots are free, claims as many
jobs at once. Outcomes that arrive meanwhile go together in the next exchange. With nothing to do the waiting is
left to a blocking read on a connection of its own.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial

import anyio
from anyio.abc import TaskGroup

from redisjobs.client.backoff import retrying
from redisjobs.errors import DriverError
from redisjobs.events import WorkerDraining, WorkerStarted, WorkerStopped
from redisjobs.model.driver import Fenced, Notification
from redisjobs.model.transitions import Exchange, Lease
from redisjobs.scheduler.scheduler import Scheduler
from redisjobs.worker.running.chain import finder
from redisjobs.worker.running.hooks import Hooks
from redisjobs.worker.settings.health import Health
from redisjobs.worker.settings.settings import Settings
from redisjobs.worker.source.batcher import Batch, Batcher
from redisjobs.worker.source.claims import Claims
from redisjobs.worker.source.dispatcher import Dispatcher
from redisjobs.worker.source.drain import Drain
from redisjobs.worker.source.exchanger import Exchanger
from redisjobs.worker.source.fetcher import Fetcher
from redisjobs.worker.source.heartbeat import Beats
from redisjobs.worker.source.leases import Leases
from redisjobs.worker.source.member import Member
from redisjobs.worker.source.pool import Pool, Turns
from redisjobs.worker.source.reclaimer import Reclaimer
from redisjobs.worker.source.recovery import Recovery
from redisjobs.worker.source.settler import Settler
from redisjobs.worker.source.stepper import Idleness, Stepper
from redisjobs.worker.source.timer import Promoter, Timer
from redisjobs.worker.source.watchdog import ProgressWatchdog

_TIME = re.compile("[0-9]{1,15}")  # ms
_JOINING = 5.0  # seconds for which other queues leave it its turn as it joins: then its server counts as away
_FIRING_AGAIN = 60.0  # seconds until schedules are tried again that the server refused to fire

_NOT_FIRED = (
    "this worker fires no schedules of queue %s: %s. Allow what is refused, or leave schedules to others by "
    "`--no-schedules`"
)


class Source:
    """One queue of a worker: joined, claimed from, settled and left by itself.

    Args:
        settings: The worker's, for this queue.
        pool: The worker's slots.
        turns: Which of its sources claims for them.
        call_soon: Runs a function soon in the event loop.
        all_idle: Whether each source of the worker has found that nothing is left to do; asked only of a worker
            that runs until idle.
        until_idle: Whether it ends as soon as nothing is left to do.

    Attributes:
        timer: Wakes its task.
        member: The worker, as this queue knows it.
        leases: The jobs that it holds here.
        batcher: Its exchanges under way.
        fetcher: Its blocking read.
        claims: Whether it claims jobs.
        settler: Settles its jobs.
        dispatcher: Gives its jobs to slots.
        promoter: Knows when delayed jobs are due.
        reclaimer: Looks for lost workers.
        beats: Its heartbeats.
        progress: Whether anything gets through.
        exchanger: What it says in the next exchange, and what the answer means.
        recovery: Recovers from what went wrong.
        stepper: Decides what it does next.
        scheduler: Fires its schedules; None: it fires none.
    """

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        turns: Turns,
        call_soon: Callable[[Callable[[], object]], None],
        all_idle: Callable[[], bool],
        *,
        until_idle: bool,
    ) -> None:
        self._pool = pool
        self.timer = timer = Timer()
        self.member = member = Member(settings)
        retention = settings.queue.retention
        self.leases = leases = Leases(keeps_done=retention is not None and retention.completed is not None)
        # A job is claimed by an exchange or by the read, has a slot, and is settled by another exchange.
        self.batcher = batcher = Batcher(member.consumer, self._answered, self._failed)
        self.fetcher = fetcher = Fetcher(member, self._fetched, timer)
        self.claims = claims = Claims(member, pool, turns, leases, batcher, fetcher, timer, until_idle=until_idle)
        self.settler = settler = Settler(member, pool, claims, timer)
        self.dispatcher = dispatcher = Dispatcher(member, pool, claims, settler)
        # The server says when jobs are due, whether other workers are lost, and whether this one is.
        self.promoter = promoter = Promoter(member.clock, timer, until_idle=until_idle)
        self.reclaimer = reclaimer = Reclaimer(member, promoter, timer)
        self.beats = beats = Beats(member, pool, claims, settler, timer, self.fenced, call_soon)
        self.progress = progress = ProgressWatchdog(member, beats, self.break_off)
        # One task decides what is said to the server.
        self.exchanger = exchanger = Exchanger(
            member, pool, claims, settler, dispatcher, promoter, reclaimer, progress
        )
        self.recovery = recovery = Recovery(
            member, claims, settler, dispatcher, exchanger, beats, pool.shutdown, progress
        )
        idleness = Idleness(member, pool, claims, promoter, reclaimer, recovery) if until_idle else None
        self.stepper = Stepper(
            member, claims, dispatcher, exchanger, recovery, reclaimer, idleness, progress, timer, all_idle
        )
        self.scheduler = Scheduler(settings.queue) if settings.schedules else None
        self._drain = Drain(member, claims, settler, exchanger, recovery, beats)
        self._middleware = (*settings.queue.middleware, *settings.middleware)
        self._hooks = Hooks(self._middleware, lambda: self.member.settings.worker_id, member.log)
        self._started_as = ""

    # Its life

    async def run(self, tasks: TaskGroup) -> None:
        """Join the queue, work until there is nothing more to do, and leave it; for a task of the worker's own."""
        try:
            if not self.member.opened:
                self.claims.keep_turn(_JOINING)
                with self.member.opening:
                    await self.member.join()
                if self.member.opening.cancel_called:
                    await self._drain.leave_unopened()
                    return
                self._start(tasks)
            await self.stepper.run()
            # Before the handlers are waited for: one that does not end must not keep the jobs of others.
            await self.drain()
        except anyio.get_cancelled_exc_class():
            self.member.needs_recovery = True  # what was under way may still be served
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
        for duty in (self.fetcher.run, self.listen, self.timer.run, self.progress.run):
            tasks.start_soon(duty)
        if self.scheduler is not None:
            tasks.start_soon(self._fire_schedules, self.scheduler)
        self.batcher.start(tasks)
        self.settler.find = finder(settings.queue.definitions, self._middleware)
        self._hooks.start(tasks, settings.queue.events)

    async def _fire_schedules(self, scheduler: Scheduler) -> None:
        """Fire schedules. Where the server refuses that, jobs run all the same, and it is tried again later."""
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
        self.timer.wake()
        if is_first:
            self.member.tell(WorkerDraining, jobs=len(self.leases))

    async def close(self) -> None:
        """Leave the queue, if it has not yet, and close every connection."""
        if self.member.opened:
            await self.drain()
        await self.member.consumer.aclose()

    async def drain(self) -> None:
        """Settle the jobs that have an outcome, release the rest, and leave the queue; once."""
        if not self.member.left:
            self._pool.shutdown.stopping = True
            await self._drain.run(broken=self._pool.shutdown.broken)
        await self._hooks.finish()

    def tell_stopped(self) -> None:
        """Publish that the worker has stopped, if it had begun here or has said that it could not."""
        if self.member.opened or self.member.unavailable:
            self.member.tell(WorkerStopped, started_as=self._started_as, server=self.member.server)

    def health(self, *, loop_is_blocked: bool) -> Health | None:
        """Return what is wrong with it, by what it got done; None: nothing. For any thread.

        Args:
            loop_is_blocked: Whether the event loop is: then nothing is wrong with the server.
        """
        if not self.member.opened or self.member.unavailable:
            return Health(True, False, self.member.unavailable or "starting")
        if self.progress.is_stuck and (loop_is_blocked or not self.member.may_be_dead):
            what = "the event loop is blocked" if loop_is_blocked else "stuck"
            return Health(False, False, f"{what}: no exchange with the store for {self.progress.silent_for:.0f} s")
        return None

    # Notifications

    async def listen(self) -> None:
        """Listen for notifications until cancelled, on a connection of their own."""
        while True:  # also where a handler has cancelled a task of the driver's, and the listening ended in order
            await retrying(partial(self.member.consumer.listen, self.notified))

    def notified(self, notification: Notification) -> None:
        """Learn at once what the next claim or heartbeat would say later.

        Any client may write to the channel. So a notification is a hint; the truth is in a key.
        """
        if self.scheduler is not None:
            self.scheduler.hear(notification)
        match notification.kind:
            case "cancel":
                self.beats.hurry_for(notification.value)
            case "joined":
                self.reclaimer.note_another()
            case "left":
                self.reclaimer.look_at = 0.0  # the worker that looks first is to promote from now on
                self.timer.wake()
            case "released":
                self.fetcher.interrupt()
            case "paused":
                self.dispatcher.hand_back_waiting(at_once=True)
                self.exchanger.note_pause()
            case "resumed":
                self.exchanger.note_pause()
            case "due" if _TIME.fullmatch(notification.value):
                self.promoter.note_due(int(notification.value))
            case "subscribed":  # earlier notifications were missed
                self.reclaimer.note_another()
                self.exchanger.note_pause()
                self.beats.hurry()

    # What its parts call

    def _answered(self, batch: Batch, answer: Exchange) -> None:
        self.exchanger.answered(batch, answer)

    def _failed(self, batch: Batch, error: DriverError | None) -> None:
        self.exchanger.failed(batch, error)

    def _fetched(self, leases: Sequence[Lease], asked_at: float) -> None:
        self.dispatcher.take(leases, asked_at)

    def fenced(self, error: Fenced) -> None:
        """Act on a heartbeat's news that the server takes the worker for dead."""
        self.recovery.fenced(error)
        self.timer.wake()

    def break_off(self) -> None:
        """Give up what is under way and connect again: nothing gets through."""
        self.member.needs_recovery = True
        self.batcher.break_off()
        self.stepper.cut()
