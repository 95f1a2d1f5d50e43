"""One queue of a worker. `Source` makes the parts that talk to its server, and starts and stops them.

One task decides what to send. An exchange settles the jobs that have an outcome and, if slots are free, claims
jobs for them. Outcomes that arrive meanwhile go together in the next exchange. When there is nothing to do, a
blocking read on a second connection waits for jobs.
"""

import re
from contextlib import suppress
from functools import partial

import anyio
from anyio.abc import TaskGroup

from redisjobs.client.backoff import retrying
from redisjobs.errors import DriverError, WrongType
from redisjobs.events.kinds import WorkerDraining, WorkerStarted, WorkerStopped
from redisjobs.model.driver import Fenced, Notification
from redisjobs.worker.running.middleware import Hooks, finder
from redisjobs.worker.scheduler.scheduler import Scheduler
from redisjobs.worker.settings.health import Health
from redisjobs.worker.settings.settings import Settings
from redisjobs.worker.source.batcher import Batcher
from redisjobs.worker.source.claims import Claims
from redisjobs.worker.source.demand import Demand
from redisjobs.worker.source.dispatcher import Dispatcher
from redisjobs.worker.source.exchanger import Exchanger
from redisjobs.worker.source.fetcher import Fetcher
from redisjobs.worker.source.heartbeat import Beats
from redisjobs.worker.source.leases import Leases
from redisjobs.worker.source.member import Member
from redisjobs.worker.source.pool import Pool
from redisjobs.worker.source.reclaimer import Reclaimer
from redisjobs.worker.source.recovery import Recovery
from redisjobs.worker.source.settler import Settler
from redisjobs.worker.source.stepper import Stepper
from redisjobs.worker.source.timer import Promoter
from redisjobs.worker.source.watchdog import ProgressWatchdog

_TIME = re.compile("[0-9]{1,15}")  # ms
_JOINING = 5.0  # seconds for which a source that joins keeps its turn; after that its server counts as away
_DRAIN = 5.0  # seconds for the last settlements; jobs that are not settled by then run again
_LAST_TRY = 1.0  # seconds to release what could not be settled, or to leave if nothing was claimed
_FIRING_AGAIN = 60.0  # seconds before a new try, after the server refused to fire schedules

_NOT_FIRED = (
    "this worker fires no schedules of queue %s: %s. Give this user the missing permission, or start the worker "
    "with `--no-schedules`"
)


class Source:
    """One queue of a worker: joins it, claims and settles its jobs, and leaves it.

    Args:
        settings: The worker's settings for this queue.
        pool: The slots of the worker.
        demand: Decides for how many of the free slots this source may claim.
    """

    def __init__(self, settings: Settings, pool: Pool, demand: Demand) -> None:
        self._pool = pool
        self.member = member = Member(settings)
        retention = settings.queue.retention
        self.leases = leases = Leases(keeps_done=retention is not None and retention.completed is not None)
        # An exchange or the blocking read claims a job, a slot runs it, and another exchange settles it.
        self.batcher = batcher = Batcher(member.consumer)
        self.fetcher = fetcher = Fetcher(member)
        self.claims = claims = Claims(member, pool, demand, leases, batcher, fetcher)
        self.settler = settler = Settler(member, claims)
        self.dispatcher = dispatcher = Dispatcher(member, claims, settler)
        # The server reports when jobs are due, whether other workers are lost, and whether this one is.
        self.promoter = promoter = Promoter(member.clock, member.timer, until_idle=settings.until_idle)
        self.reclaimer = reclaimer = Reclaimer(member, promoter)
        self.beats = beats = Beats(member, claims, settler, dispatcher)
        self.progress = progress = ProgressWatchdog(member, beats)
        # One task decides what to send to the server.
        self.exchanger = exchanger = Exchanger(member, claims, settler, dispatcher, promoter, reclaimer, progress)
        batcher.report_to(exchanger.answered, exchanger.failed)
        self.recovery = recovery = Recovery(member, claims, settler, dispatcher, exchanger, beats, progress)
        self.stepper = Stepper(member, claims, dispatcher, exchanger, recovery, promoter, reclaimer, progress)
        self.scheduler = Scheduler(settings.queue) if settings.schedules else None
        self._middleware = (*settings.queue.middleware, *settings.middleware)
        self._hooks = Hooks(self._middleware, lambda: member.settings.worker_id, member.log)
        self._started_as = ""

    # Its life

    async def run(self, tasks: TaskGroup) -> None:
        """Join the queue, work until there is nothing more to do, and leave it; the worker runs this as a task."""
        try:
            if not self.member.opened:
                self.claims.keep_turn(_JOINING)
                with self.member.opening:
                    await self.member.join()
                if self.member.opening.cancel_called:
                    await self._leave_unopened()
                    return
                self._start(tasks)
            await self.stepper.run()
            # Before the worker waits for its handlers: one that does not end must not keep the other jobs.
            await self.drain()
        except anyio.get_cancelled_exc_class():
            self.member.needs_recovery = True  # the server may still serve requests that were under way
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
        for duty in (self.listen, self.member.timer.run, self.settler.loader.run):
            tasks.start_soon(duty)
        tasks.start_soon(self.progress.run, self.break_off)
        tasks.start_soon(self.fetcher.run, self.dispatcher.take)
        self.batcher.start(tasks)
        if self.scheduler is not None:
            tasks.start_soon(self._fire_schedules, self.scheduler)
        self.settler.find = finder(settings.queue.definitions, self._middleware)
        self._hooks.start(tasks, settings.queue.events)

    async def _fire_schedules(self, scheduler: Scheduler) -> None:
        """Fire schedules. If the server refuses, log why and try again later; jobs still run."""
        told = ""
        while True:
            try:
                await scheduler.run(listens=False)
                return  # the scheduler was stopped
            except DriverError as error:
                if str(error) != told:
                    told, where = str(error), f"'{self.member.settings.queue.name}' at {self.member.server}"
                    self.member.log.error(_NOT_FIRED, where, error)
                await anyio.sleep(_FIRING_AGAIN)

    def stop(self, *, is_first: bool) -> None:
        """Claim no more. `is_first`: the worker was asked to stop for the first time."""
        self.member.opening.cancel()
        if self.scheduler is not None:
            self.scheduler.stop()
        self.fetcher.interrupt()
        self.member.timer.wake()
        if is_first:
            self.member.tell(WorkerDraining, jobs=len(self.leases))

    async def close(self) -> None:
        """Leave the queue, if that has not happened yet, and close every connection."""
        if self.member.opened:
            await self.drain()
        await self.member.consumer.aclose()

    async def drain(self) -> None:
        """Settle the jobs that have an outcome, release the rest, and leave the queue. Safe to call twice."""
        if not self.member.left:
            self._pool.shutdown.stopping = True
            await self._settle_and_leave()
        await self._hooks.finish()

    async def _settle_and_leave(self) -> None:
        """Settle the jobs that have an outcome and release the rest, including jobs that no answer brought."""
        broken = self._pool.shutdown.broken
        self.settler.interrupt_all(broken=broken)
        why = "no answer came in time"

        async def settle() -> None:
            nonlocal why
            try:
                await self._settle()
            except WrongType as error:
                why = str(error)
                raise

        try:
            with anyio.fail_after(_DRAIN):
                await retrying(settle)
        except (DriverError, TimeoutError) as error:
            self._log_unsettled(str(error) or why)
            if not broken:  # if no error ended the worker, no job is to blame: give the deliveries back
                with suppress(DriverError, TimeoutError), anyio.fail_after(_LAST_TRY):
                    await self._release()
        self.member.left = True

    async def _settle(self) -> None:
        leases = self.leases
        await self.fetcher.end()
        await self.batcher.quiet()
        try:
            await self.batcher.send_again()
            while leases.unsettled or self.settler.emitter.urgent:
                await self.batcher.carry(self.exchanger.next_batch())
        except Fenced as error:
            self.member.log.warning("%s; other workers will run its %d jobs", error, len(leases))
            self.recovery.lose_all()
        await self._release()
        if left := leases.kept + leases.busy:
            self.member.log.warning("%d jobs could not be settled, and run again", len(left))
            self.settler.lose_pushes()

    async def _release(self) -> None:
        self.beats.is_beating = False  # stop the beats: a worker that has left must not renew its lease
        await self.member.consumer.release(refund=True, watch=self.recovery.may_read_late)

    def _log_unsettled(self, why: str) -> None:
        log = self.member.log
        if held := len(self.leases):
            log.warning("%d jobs could not be settled, and run again once their leases are over: %s", held, why)
            self.settler.lose_pushes()
        else:
            log.info("the server does not know that this worker has ended, and forgets it later: %s", why)

    async def _leave_unopened(self) -> None:
        """Leave before anything was claimed. The server may have registered the worker already."""
        with suppress(DriverError), anyio.move_on_after(_LAST_TRY):
            await self.member.consumer.release(refund=True, watch=False)
        self.member.left = True

    def tell_stopped(self) -> None:
        """Publish `WorkerStopped`, if the worker had started here or had reported the server as unavailable."""
        if self.member.opened or self.member.unavailable:
            self.member.tell(WorkerStopped, started_as=self._started_as, server=self.member.server)

    def health(self, common: Health, *, loop_is_blocked: bool) -> Health | None:
        """Return what is wrong here beyond the worker's `common` health, or None. Any thread may call it."""
        member = self.member
        if not member.opened or member.unavailable:
            return Health(True, False, member.unavailable or "starting")
        # If the event loop is blocked, nothing is wrong with the server.
        if self.progress.is_stuck and (loop_is_blocked or not member.may_be_dead):
            what = "the event loop is blocked" if loop_is_blocked else "stuck"
            return Health(False, False, f"{what}: no exchange with the store for {self.progress.silent_for:.0f} s")
        if common.ready and member.may_be_dead:
            return Health(True, False, f"no heartbeat got through for {member.unheard:.0f} s")
        return None

    # Notifications

    async def listen(self) -> None:
        """Listen for notifications until cancelled, on a separate connection."""
        while True:  # again: a handler may cancel a task of the driver, and listening then ends without an error
            await retrying(partial(self.member.consumer.listen, self.notified))

    def notified(self, notification: Notification) -> None:
        """Learn at once what the next claim or heartbeat would report later.

        Any client may write to the channel. So a notification is only a hint; a key holds the truth.
        """
        if self.scheduler is not None:
            self.scheduler.notified(notification)
        match notification.kind:
            case "cancel":
                self.beats.hurry_for(notification.value)
            case "wish" if notification.value == self.member.settings.worker_id:
                self.beats.heartbeat.hurry()
            case "joined":
                self.reclaimer.note_another()
            case "left":
                self.reclaimer.look_at = 0.0  # the worker that looks first promotes from now on
                self.member.timer.wake()
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
                self.beats.heartbeat.hurry()

    # What its parts call

    def break_off(self) -> None:
        """Cancel what is under way and connect again, because nothing gets through."""
        self.member.needs_recovery = True
        self.batcher.break_off()
        self.stepper.cut()
