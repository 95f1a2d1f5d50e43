"""One run of a worker: it claims jobs into free slots, runs them, and settles what they came to.

One task decides what is said to the store: an exchange settles the outcomes there are and, if
slots are free, claims as many jobs at once. Outcomes that arrive while one is under way go together in the next.
With nothing to do it leaves the waiting to a blocking read on a connection of its own.
"""

import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Concatenate, ParamSpec

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from redisjobs._version import __version__
from redisjobs.backoff import NOT_NOW, retrying
from redisjobs.driver import Ack, Ended, Exchange, Fenced, IdTaken, Lease, Release, Reply, RetryLater
from redisjobs.errors import DriverError, QueueFull, RedisJobsError, Unavailable, WrongType
from redisjobs.eventloop import Gate, gates, threadsafe_caller
from redisjobs.events import (
    Event,
    JobsClaimed,
    JobsCompleted,
    JobsReclaimed,
    JobsSettled,
    LoopBlocked,
    SettledJob,
    SourceAvailable,
    SourceUnavailable,
    WorkerDraining,
    WorkerStarted,
    WorkerStopped,
    kind_of,
)
from redisjobs.logger import Log
from redisjobs.outcome import CancelAsked, Interrupted, LeaseGone, Outcome
from redisjobs.visible import visible
from redisjobs.worker.batcher import Batch, Batcher
from redisjobs.worker.chain import finder
from redisjobs.worker.clearance import Clearance
from redisjobs.worker.clock import Clock
from redisjobs.worker.contexts import Contexts
from redisjobs.worker.execution import Execution, Means
from redisjobs.worker.fetcher import Fetcher
from redisjobs.worker.guard import Guard, keep_up
from redisjobs.worker.health import Health
from redisjobs.worker.heartbeat import Heartbeat
from redisjobs.worker.hooks import Hooks
from redisjobs.worker.leases import Leases
from redisjobs.worker.promoter import Promoter
from redisjobs.worker.reclaimer import Reclaimer
from redisjobs.worker.rss import rss
from redisjobs.worker.settings import Settings
from redisjobs.worker.shutdown import Shutdown
from redisjobs.worker.slots import Slots
from redisjobs.worker.subscriber import Subscriber
from redisjobs.worker.threads import Threads
from redisjobs.worker.watchdog import LoopWatchdog

if TYPE_CHECKING:
    from redisjobs.worker.processes import Processes

Facts = ParamSpec("Facts")

logger = Log("redisjobs.worker")

_LATEST = 5.0  # seconds, beyond a lease, that a read which was given up may still be served for
_UNWIND = 0.5  # seconds that cancelled handlers have to clean up before their jobs are handed on
_LAST_TURN = 1.0  # seconds that an idle worker waits for an answer once it was told to stop
_STUCK = 3  # leases without a byte from the store, though beats get through: start anew; as many more: give up
_LATER = "+60000"  # ms until a job runs again for which no ready stream has an entry id left
_REFUSED = 5.0  # seconds between tries while somebody's key, or entry, is in the way
_NO_DEAD_LETTERS = (
    "no dead letter can be written: the stream redisjobs:{%s}:dead has no entry ids left, as somebody has written "
    "the largest. The jobs are kept and tried again. Copy the letters to a new stream, as lua/README.md shows; or "
    "requeue or delete them, then delete the key"
)
_PUT_OFF = 2.0  # seconds within which a job that found no thread is due again
_DRAIN = 5.0  # seconds for the last settlements; after that the leases run out by themselves


def _refuses(error: DriverError) -> bool:
    return isinstance(error, QueueFull | WrongType)


def _described(error: DriverError) -> str:
    """What health says of the store; a refusal with its reason, which holds no address."""
    return f"the store refuses: {error}" if _refuses(error) else "the store is unavailable"


class Processor:
    """One run of a worker, from its first claim to its last settlement."""

    def __init__(self, settings: Settings, *, until_idle: bool, breaking: Callable[[], object] = int) -> None:
        self.settings = settings
        self.breaking = breaking  # called when it begins to end by an error, or is cancelled
        self.until_idle = until_idle
        self.consumer = settings.queue.driver.consumer(
            settings.worker_id, lease=settings.lease, max_deliveries=settings.max_deliveries
        )
        self.leases = Leases()
        self.told_no_ids = False
        # What became of jobs, to be told with the rest of their batch.
        self.settled: defaultdict[type[JobsSettled], list[SettledJob]] = defaultdict(list)
        self.tells_completed = False  # whether anybody wants to know of those that are done
        self.begun = 0  # jobs given to slots since the start
        self.refused = 0  # settlements of jobs that we had lost
        self.alone: Execution | None = None  # the job that runs with nothing beside it
        self.clearance = Clearance(settings.lease)
        self.one_waits = True  # perhaps: a job that has to run alone, for a worker that runs nothing
        self.clock = Clock()
        self.fetcher = Fetcher(self.consumer, self, lease=settings.lease)
        self.subscriber = Subscriber(self.consumer, self)
        self.promoter = Promoter(self.clock, self)
        self.reclaimer = Reclaimer(self.consumer, self.clock, self, lease=settings.lease)
        self.slots = Slots(settings.concurrency, lambda: self.server_ms, self._ran)
        self.threads = Threads(settings.abandoned, self._threads_changed)
        self.middleware = (*settings.queue.middleware, *settings.middleware)
        self.hooks = Hooks(self.middleware, lambda: self.settings.worker_id)
        self.call_soon = threadsafe_caller()
        self.loop = LoopWatchdog(self.call_soon, min(max(1.0, settings.lease / 3), 5.0), self._tell_blocked)
        self.heartbeat = Heartbeat(
            self.consumer.heartbeat(),
            settings.lease,
            held=self._held,
            facts=self._facts,
            beaten=self._beaten,
            fenced=lambda error: self.call_soon(lambda: self._hear_of_fence(error)),
            look=self.loop.look,
        )
        self.opening = anyio.CancelScope()
        self.batcher = Batcher(self.consumer, settings.concurrency, self._answered, self._failed)
        self.found_nothing = False  # the last exchange neither settled nor claimed anything
        self.trouble: DriverError | None = None  # why an exchange failed
        self.turn = anyio.CancelScope()
        self.opened = False
        self.unavailable = ""  # how the store is, if nothing can be done with it

        self.needs_recovery = False  # jobs may have been delivered into a reply that was lost
        self.missed_at = time.monotonic() + settings.lease  # and for jobs of ours that we never heard of
        self.renewing = False  # we were fenced, and are not yet somebody new
        self.lost_at = float("-inf")  # when a call was given up that may have brought jobs, by our monotonic clock
        self.idle_since: float | None = None  # since when nothing is left to do here
        self.rounds, self.round_at = 0, time.monotonic()  # exchanges completed, and when the last one was
        self.shutdown = Shutdown()
        self.processes: Processes | None = None
        self.broken = False  # it ends by an error
        self.done = False  # it ends in order
        self.ending: Gate | None = None  # opens then
        self.left = False  # all is settled or released

        self.new_gate = gates()
        self.wakeup = self.new_gate()  # opens when there is something to do
        self.started = datetime.now(UTC)

    async def run(self) -> None:
        """Work until stopped, or until idle if so asked; what is still held at the end is released."""
        guard = Guard()
        try:
            with self.opening:
                await guard.outlast(self._open)
            if self.opening.cancel_called:
                await self._leave_unopened()
                return
            find = finder(self.settings.queue.definitions, self.middleware, self.threads, self.processes)
            self.means = Means(guard, Contexts(), self.threads, self.processes, find)
            try:
                self.heartbeat.start()
                self.round_at, self.opened = time.monotonic(), True
                await self._work(guard)
            except BaseException as error:
                self.broken = guard.broken or not isinstance(error, anyio.get_cancelled_exc_class())
                raise
            finally:
                with anyio.CancelScope(shield=True):
                    await guard.outlast(self._close)
        finally:
            guard.end()
            if self.processes is not None:
                await self.processes.close()
            if self.opened:
                self._tell(WorkerStopped)

    async def _leave_unopened(self) -> None:
        """End before anything was claimed; the store may know us all the same."""
        with suppress(DriverError), anyio.move_on_after(_LAST_TURN):
            await self.consumer.release(refund=True, watch=False)
        await self.consumer.aclose()

    async def _work(self, guard: Guard) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                with guard.own_tasks():
                    self._start(tasks)
                try:
                    await guard.outlast(self._wait_for_end)
                except BaseException:
                    self.breaking()  # a handler that swallows its cancellation may keep us here for ever
                    raise
                tasks.cancel_scope.cancel()
        except anyio.get_cancelled_exc_class():
            if not guard.forgive():
                raise
        if not self.done:  # by whoever cancelled one of its tasks
            raise RedisJobsError("one of the worker's tasks was cancelled, by code that is no job's")

    async def _wait_for_end(self) -> None:
        while not self.done:
            self.ending = self.means.guard.gate()
            await self.ending.wait()

    async def _close(self) -> None:
        await self._drain()
        try:
            # With a limiter of its own: the application's threads may have taken all of the default one.
            await anyio.to_thread.run_sync(self.heartbeat.stop, 1.0, limiter=anyio.CapacityLimiter(1))
        except RuntimeError:  # no thread can be started to wait for that one
            self.heartbeat.end()
        await self.consumer.aclose()
        await self.hooks.finish()

    def _tell(
        self, kind: Callable[Concatenate[str, str, Facts], Event], *args: Facts.args, **facts: Facts.kwargs
    ) -> None:
        """Tell whoever listens to events of the queue, if anybody does; `kind` is the event's class."""
        events, queue = self.settings.queue.events, self.settings.queue.name
        if events.wanted(kind):  # type: ignore[arg-type]  # a class is a callable that knows its arguments
            events.publish(kind(queue, self.settings.worker_id, *args, **facts))

    def stop(self, grace: float) -> None:
        """Claim no more, and give up what still runs after `grace` seconds. A callback of the loop may call it."""
        was_stopping = self.shutdown.stopping
        self.shutdown.ask(grace)
        self.opening.cancel()
        self.fetcher.interrupt()
        self.wakeup.open()
        if not was_stopping:
            self._tell(WorkerDraining, jobs=len(self.leases))

    async def _open(self) -> None:
        """Reach the store, however long that takes."""

        def say(error: DriverError) -> None:
            self.unavailable = _described(error)
            self._tell(SourceUnavailable, why=str(error), refuses=_refuses(error), leases=None)

        in_processes = [each for each in self.settings.queue.definitions.values() if each.in_process]
        if in_processes:
            from redisjobs.worker.processes import Processes  # here, for what it loads

            self.processes = Processes(in_processes, self._processes_changed)
            await self.processes.open()
        unanswered = False

        async def join() -> list[str]:
            nonlocal unanswered
            try:
                return await self.consumer.open(self.settings.worker_id)
            except IdTaken:
                if not unanswered:
                    raise
                # By ourselves: an earlier try had no answer, and was fenced since.
                self.settings = replace(self.settings, worker_id=self.settings.next_id())
                return await self.consumer.open(self.settings.worker_id)
            except NOT_NOW:
                unanswered = True
                raise

        warnings = await retrying(join, failed=say)
        if self.unavailable:
            self.unavailable = ""
            self._tell(SourceAvailable)
        for warning in warnings:
            logger.warning("%s", warning)
        self._tell(WorkerStarted, slots=self.settings.concurrency, names=sorted(self.settings.queue.definitions))

    def _start(self, tasks: TaskGroup) -> None:
        parts = (self.fetcher.run, self.subscriber.run, self.promoter.run)
        watches = (*parts, self._watch_leases, self._watch_grace, self._watch_progress)
        for duty in (*watches, self._run_to_the_end):
            tasks.start_soon(keep_up, duty)
        self.batcher.start(tasks)
        self.slots.start(tasks, self.means.guard)
        self.hooks.start(tasks, self.settings.queue.events)

    @property
    def health(self) -> Health:
        """How it goes, by what its loop and its heartbeat got done; for any thread."""
        now, lease = time.monotonic(), self.settings.lease
        silent, unheard = now - self._progress_at, now - self.heartbeat.beat_at
        if self.heartbeat.broken:
            return Health(False, False, "the heartbeat thread has ended: this worker soon counts as dead")
        if not self.opened or self.unavailable:
            return Health(True, False, self.unavailable or "starting")
        if silent > _STUCK * lease and (unheard < lease or self.loop.blocked):
            what = "the event loop is blocked" if self.loop.blocked else "stuck"
            return Health(False, False, f"{what}: no exchange with the store for {silent:.0f} s")
        if self.threads.trouble.why:
            return Health(True, False, f"no sync handler is started: {self.threads.trouble.why}")
        if self.processes is not None and self.processes.trouble.why:
            return Health(True, False, f"no handler in a process is started: {self.processes.trouble.why}")
        if self.shutdown.stopping:
            return Health(True, False, f"stopping, with {len(self.leases)} jobs to go")
        if unheard >= lease:
            return Health(True, False, f"no heartbeat got through for {unheard:.0f} s")
        return Health(True, True, f"{self.slots.busy} of {self.settings.concurrency} slots are busy")

    @property
    def _progress_at(self) -> float:
        """When an exchange came to its end last, or a byte of one came in, by the monotonic clock."""
        return max(self.round_at, self.consumer.heard_at)

    @property
    def server_ms(self) -> int:
        """The server's clock, as well as we know it."""
        return self.clock.now_ms(time.monotonic())

    # What to do next

    async def _run_to_the_end(self) -> None:
        try:
            await self._run_steps()
            # Before the handlers are waited for: one that won't end must not keep the others' jobs.
            await self._drain()
            await self.hooks.finish()
            self.done = True
            if self.ending is not None:
                self.ending.open()
        except anyio.get_cancelled_exc_class():
            self.needs_recovery = True  # should it go on
            raise

    async def _run_steps(self) -> None:
        """Settle and claim until stopped, or until nothing is left to do."""
        while not self._ended():
            self.wakeup = self.new_gate()
            worked = True
            with anyio.CancelScope() as self.turn:
                try:
                    worked = await self._turn()
                except Fenced as error:
                    await self._begin_anew(error)
                    continue
                except NOT_NOW as error:
                    await self._wait_out(error)
                    continue
            if self._drained():
                return
            if not worked:
                await self.wakeup.wait()

    def _drained(self) -> bool:
        """Whether nothing is left for a worker that runs until idle."""
        if not self.until_idle or not self._runs_dry():
            self.idle_since = self.reclaimer.others = None
            return False
        now = time.monotonic()
        if self.idle_since is None:
            self.idle_since, self.reclaimer.look_at = now, 0.0  # do others hold anything?
            self.wakeup.open()
        # Of those who do one may be dead: that shows within a lease.
        waited = now - self.idle_since > self.settings.lease + 2 * self.reclaimer.every
        return self.reclaimer.others is not None and (waited or not self.reclaimer.others)

    def _runs_dry(self) -> bool:
        if not self.found_nothing or self.leases or self.batcher.under_way or self._must_recover:
            return False
        if self.one_waits:  # for a thread to end
            return False
        # What found no thread is ready in truth, and only put off.
        return not (self.threads.turned_away and (self.promoter.is_due or self.promoter.expects(_PUT_OFF)))

    @property
    def _must_recover(self) -> bool:
        """Whether jobs may be ours of which we don't know, or outcomes be settled that we hold."""
        return self.needs_recovery or self.fetcher.needs_recovery or bool(self.batcher.unanswered)

    @property
    def _may_read_late(self) -> bool:
        """Whether a read that was given up may still be served."""
        lost_at = max(self.lost_at, self.fetcher.lost_at)
        return self._must_recover or time.monotonic() - lost_at < self.settings.lease + _LATEST

    def _progressed(self) -> None:
        """Note that an exchange came to its end."""
        self.rounds, self.round_at = self.rounds + 1, time.monotonic()

    def _ended(self) -> bool:
        return self.shutdown.over or self._is_through

    @property
    def _is_through(self) -> bool:
        """Whether it was told to stop and has nothing left to wait for; what is kept may take for ever."""
        return self.shutdown.stopping and len(self.leases) == len(self.leases.kept)

    async def _turn(self) -> bool:
        """Do one thing that is to be done; whether there was any."""
        now = time.monotonic()
        if self.trouble is not None:
            trouble, self.trouble = self.trouble, None
            raise trouble
        if self._must_recover:
            await self._recover()
        elif self.fetcher.interrupted:
            await self.fetcher.end()
            self.one_waits = True  # perhaps: it may be what was released
        elif not self.clock.is_known:
            await self._read_clock()  # before any job is judged by the server's clock
        elif now >= self.reclaimer.look_at and not self.shutdown.stopping:
            await self._reclaim()
        elif now >= self.missed_at:
            await self._find_missed()
        elif now >= self.reclaimer.tidy_at:
            await self.reclaimer.tidy()
        elif self._has_batch():
            self.batcher.begin(self._next_batch())
        elif now - self.round_at >= self.settings.lease:
            await self._read_clock()  # nothing else was said for long: to see that we would get through
        else:
            return False
        return True

    def _has_batch(self) -> bool:
        asks = not self.fetcher.waiting and not (self.until_idle and self.found_nothing)
        outcomes, free = len(self.leases.unsettled), self.free if asks else 0
        if self.one_waits and self.batcher.under_way:
            return False  # the next one may find that nothing runs here
        return bool(outcomes or free or self.promoter.is_due) and self.batcher.has_room(outcomes, free)

    @property
    def free(self) -> int:
        """How many jobs could start now."""
        if self.shutdown.stopping or self.alone is not None or self.batcher.brings_one_alone:
            return 0
        if self.leases and self.clearance.is_on(time.monotonic()):
            return 0
        taken, begun = self.slots.busy + self.batcher.asked, self.begun + self.batcher.asked
        return int(min(self.settings.concurrency - taken, self.settings.max_jobs - begun))

    async def _read_clock(self) -> None:
        """Promote what is due and hear what time it is."""
        sent = time.monotonic()
        answer = await self.consumer.exchange([], 0)
        self._progressed()
        self.reclaimer.hear_time(answer.server_ms, sent)
        self.promoter.learn(answer.due_in, sent)

    def _next_batch(self, *, asks: bool = True) -> Batch:
        """What the next exchange takes: outcomes, and, if it asks for jobs, room for as many."""
        most = self.batcher.most
        settling = self.leases.next(most)
        sent_at = time.time()
        for run in settling:
            run.sent_at = sent_at
        if not asks:
            return Batch(settling, None)
        count = min(self.free, most) if not self.fetcher.waiting else 0
        asks = bool(count or self.promoter.is_due) and not self.shutdown.stopping
        self.promoter.is_due = False
        # Only where one may wait: there is no second exchange beside one that may bring a job to run alone.
        idle = bool(count) and self.one_waits and len(settling) == len(self.leases) and self._runs_nothing()
        return Batch(settling, count if asks else None, idle)

    def _answered(self, batch: Batch, answer: Exchange) -> None:
        self._progressed()
        self.tells_completed = self.settings.queue.events.wanted(JobsCompleted)
        for run, (lease, _), reply in zip(batch.settling, batch.settlements, answer.replies, strict=True):
            if run.lease is lease:
                self._settled(run, reply)
            else:  # handed back, or run out, and taken again by us meanwhile: that lease has to be settled too
                self.leases.unsettled.append(run)
        self._tell_settled()
        if batch.count is not None:
            self.reclaimer.hear_time(answer.server_ms, batch.sent)
            self.promoter.learn(answer.due_in, batch.sent)
            self._tell_ended(answer.ended)
            self._dispatch(answer.leases, batch.sent)
        if batch.count:
            self._hear_of_one_alone(answer.waits)
        one_more = self.one_waits and not self.leases and self._runs_nothing()
        self.found_nothing = not (batch.settling or answer.leases or answer.more or one_more)
        got_all = batch.count and not answer.more
        if got_all and self.free and not self.until_idle and not self.fetcher.waiting:
            # COUNT goes for each of three streams, so a third of the slots leaves little to hand back.
            self.fetcher.begin(max(1, self.free // 3), batch.sent)
        self.wakeup.open()

    def _runs_nothing(self) -> bool:
        """Whether a job that ran now would run alone, once our outcomes are settled.

        A thread of a handler that was given up may be what ends this process. It may also run for ever: who has
        waited long enough for it takes the job, or, where there is another to do that, makes room.
        """
        threads = self.threads.abandoned and not self.clearance.is_on(time.monotonic())
        return not (threads or self.slots.busy or self.batcher.under_way)

    def _hear_of_one_alone(self, waits: float | None) -> None:
        self.one_waits = waits is not None
        self.clearance.hear(waits, time.monotonic())
        if self.threads.abandoned and self.settings.supervised and self.clearance.is_on(time.monotonic()):
            self._recycle("a job has to run alone, and threads of handlers that were given up still run")

    def _failed(self, batch: Batch, error: DriverError | None) -> None:
        for run in batch.settling:
            run.resent = True
        self.needs_recovery, self.lost_at = True, time.monotonic()
        self.trouble = error
        self.wakeup.open()

    def _tell_ended(self, ended: Sequence[Ended]) -> None:
        """Say what the store ended when we claimed: nobody ran those jobs, so nobody else would say it."""
        for job_id, reply in ended:
            if reply is Reply.NO_IDS:
                self._tell_no_ids()
            else:
                self.settled[kind_of(None, reply)].append(SettledJob(job_id, reply))
        self._tell_settled()

    @property
    def _may_be_dead(self) -> bool:
        """Whether no heartbeat has got through for a lease: others may have our jobs by now."""
        return time.monotonic() - self.heartbeat.beat_at >= self.settings.lease

    def _dispatch(self, leases: Sequence[Lease], asked_at: float = float("inf")) -> None:
        """Give leased jobs to free slots; what exceeds them goes back. `asked_at` is when they were asked for."""
        if self.renewing:
            return  # what a late read of our old id brings is for others
        if leases and self._may_be_dead:
            self.needs_recovery = True  # should they still be ours, they are found as soon as we know
            return
        free, begun = self.free, list[Lease]()
        for lease in leases:
            if self.leases.is_known(lease, asked_at):
                continue
            suspect = self.settings.is_suspect(lease.deliveries)
            fits = free > 0 and not (suspect and self.slots.busy)  # one that has to run alone
            run = Execution(lease, self.settings, self.means)
            self.leases.hold(run)
            if fits:
                free -= 1
                if suspect:
                    self.alone, free = run, 0
                self.begun += 1
                begun.append(lease)
                self.slots.give(run)
            else:
                run.over, run.settlement = True, Release()
                self.leases.unsettled.append(run)
        if begun:
            self._tell(JobsClaimed, leases=begun)
        if self.begun >= self.settings.max_jobs and not self.shutdown.stopping:
            self._recycle(f"{self.begun} jobs were run")
        self.wakeup.open()

    def _recycle(self, why: str) -> None:
        """End once all that runs has run, however long it takes."""
        self.shutdown.recycled = True
        logger.info("%s: this worker ends when those that run are done", why)
        self.stop(float("inf"))

    async def _recover(self) -> None:
        """Settle what may be settled, and find what was delivered into a lost reply: it is ours, so we run it."""
        if isinstance(self.trouble, Fenced):
            fenced, self.trouble = self.trouble, None
            raise fenced
        if self._may_be_dead:
            self.heartbeat.hurry()
            raise Unavailable("no heartbeat got through for a lease")
        await self.batcher.quiet()
        await self.fetcher.end()  # what a read still delivers would not be found
        await self.batcher.send_again()
        leases = await self.consumer.recover(self.leases.all)
        self.needs_recovery = self.fetcher.needs_recovery = False
        if leases:
            logger.info("found %d jobs whose delivery was lost on the way", len(leases))
        self._dispatch(leases)

    async def _find_missed(self) -> None:
        """Find jobs that are ours and of which we never heard: a claim that was given up arrived after all."""
        lease, began = self.settings.lease, time.monotonic()
        self.missed_at = began + lease
        late = min(self.batcher.oldest, self.fetcher.reading_since) < began - 0.9 * lease
        if late or not self.clock.vouches(lease, began):
            return  # what is on its way may bring them; and their age is told by the server's clock
        with self.leases.missed(10 * lease) as new:
            leases = new(await self.consumer.recover(self.leases.all, lease))
        if leases:
            logger.warning("found %d jobs that a claim brought which was given up", len(leases))
        self._dispatch(leases)

    async def _reclaim(self) -> None:
        """Look for lost workers, and hand their jobs on."""
        released = await self.reclaimer.look(others=self.until_idle)
        self._progressed()
        if released:
            self.found_nothing = False
            if not (self.one_waits and self.leases):
                self.fetcher.interrupt()  # only a claim takes them

    async def _begin_anew(self, error: Fenced) -> None:
        """The store takes us for dead, and others may run our jobs: let go of all, and go on under a new id."""
        if error.worker_id != self.consumer.worker_id:
            return  # that was before
        logger.warning("%s; its jobs are for others, and it goes on under a new id", error)
        self.renewing = True
        self._cancel_all()
        await self.batcher.quiet()
        self._lose_all()
        if self.shutdown.stopping:
            return
        began = 0.0

        async def join() -> None:
            nonlocal began
            await self.fetcher.end()
            if self.consumer.worker_id == error.worker_id:
                await self.consumer.release(refund=False, watch=True)  # what a late read of ours brought
            began = time.monotonic()
            # Another id each time: one whose reply was lost may have been fenced since.
            await self.consumer.open(self.settings.next_id())

        try:
            await retrying(join, failed=self._note_unavailable)
        finally:
            self.unavailable = ""
            if self.consumer.worker_id != error.worker_id:  # also where it was cut off as soon as it had joined
                self._go_on(began)

    def _note_unavailable(self, error: DriverError) -> None:
        self.unavailable = _described(error)

    def _go_on(self, joined_at: float) -> None:
        """Work under the new id."""
        self.settings = replace(self.settings, worker_id=self.consumer.worker_id)
        self.heartbeat.beat_at = joined_at  # to join was a beat
        self.renewing = self.needs_recovery = self.fetcher.needs_recovery = self.found_nothing = False
        self.round_at = time.monotonic()
        logger.info("this worker is now %s", self.settings.worker_id)

    def _cancel_all(self) -> None:
        """Cancel the handlers that run: their jobs are no longer ours."""
        for run in self.leases:
            if not run.over:
                logger.warning("job %s: the lease was lost; its handler is cancelled", visible(run.lease.job_id))
                run.give_up(LeaseGone())
                run.over, run.settlement = True, None
                self.leases.let_go(run)

    def _lose_all(self) -> None:
        """Let go of all that has ended. What it came to was not written; of what had no answer nobody knows."""
        unknown = {id(run) for batch in self.batcher.unanswered if batch.unknown for run in batch.settling}
        self.batcher.forget()
        for run in self.leases:
            if id(run) in unknown:
                logger.warning(
                    "job %s: it was settled, or is another's; no answer came", visible(run.lease.job_id)
                )
            else:
                self.refused += 1
                self._note_settled(run, Reply.LEASE_LOST)
        self._tell_settled()
        self.leases.forget()
        self.alone, self.one_waits = None, True

    async def _wait_out(self, error: DriverError) -> None:
        """The store is unavailable, or refuses: keep what we hold, and try again with backoff until it is back."""
        self._tell(SourceUnavailable, why=str(error), refuses=_refuses(error), leases=len(self.leases))

        async def probe() -> None:
            if not self._ended():
                try:
                    await self._recover()
                except Fenced as gone:
                    await self._begin_anew(gone)
                self._tell(SourceAvailable)

        self.unavailable = _described(error)
        try:
            if (
                isinstance(error, WrongType) and not self.shutdown.stopping
            ):  # it answers, so there is no waiting for that
                await self.shutdown.wait(_REFUSED)
            await retrying(probe, failed=self._note_unavailable)
        finally:
            self.unavailable = ""
        self.round_at = time.monotonic()

    async def _drain(self) -> None:
        """Settle what has an outcome and release all the rest, also what was delivered and never seen."""
        if self.left:
            return
        for run in self.leases:
            if not run.over:
                run.give_up(Interrupted())
                # What ran may be what ends us: it would be delivered for ever, were its delivery not counted.
                counts = run.began and (self.broken or self.means.guard.blames(run))
                run.over, run.settlement = True, run.hand_back(refund=not counts)
                self.leases.unsettled.append(run)
        self.leases.try_again()

        why = "no answer came in time"

        async def settle() -> None:
            nonlocal why
            await self.fetcher.end()
            await self.batcher.quiet()
            try:
                await self.batcher.send_again()
                while self.leases.unsettled:
                    await self.batcher.carry(self._next_batch())
            except WrongType as error:
                why = str(error)
                raise
            except Fenced as error:
                logger.warning("%s; its %d jobs are for others", error, len(self.leases))
                self._lose_all()
            self.heartbeat.end()  # or it would beat for a worker that has left
            await self.consumer.release(refund=True, watch=self._may_read_late)
            if self.leases.kept:
                logger.warning("%d jobs could not be settled, and run again", len(self.leases.kept))

        self.shutdown.stopping = True
        try:
            with anyio.fail_after(_DRAIN):
                await retrying(settle)
        except (DriverError, TimeoutError) as error:
            why = str(error) or why
            if held := len(self.leases):
                logger.warning(
                    "%d jobs could not be settled, and run again once their leases are over: %s", held, why
                )
            else:
                logger.info("the store did not hear that this worker has ended, and forgets it later: %s", why)
            await self._hand_back()
        self.left = True

    async def _hand_back(self) -> None:
        """Hand back what could not be settled: a refusal by the store is no sign that a job kills its workers."""
        if not self.broken:
            self.heartbeat.end()
            with suppress(DriverError, TimeoutError), anyio.fail_after(_LAST_TURN):
                await self.consumer.release(refund=True, watch=self._may_read_late)

    # What slots come to

    def _ran(self, run: Execution, outcome: Outcome) -> None:
        if not run.over:
            run.over = True
            run.decide(outcome, self)
            if run.settlement is None:
                self._let_go(run)
            else:
                self.leases.unsettled.append(run)
        self.wakeup.open()

    def _settled(self, run: Execution, reply: Reply) -> None:
        if reply is Reply.OK:
            self._let_go(run)
            self._note_settled(run, reply)
            return
        if reply is Reply.NO_IDS and isinstance(
            run.settlement, RetryLater
        ):  # nothing was written; but it can be delayed
            run.settlement = RetryLater(_LATER, run.settlement.changes)
            self.leases.unsettled.append(run)
            return
        if reply is Reply.NO_IDS:  # a dead letter
            self._keep(run)
            return
        self._let_go(run)
        self.refused += reply is Reply.LEASE_LOST
        self._note_settled(run, reply)

    def _note_settled(self, run: Execution, reply: Reply) -> None:
        """Keep for the event of the batch what became of a job; nothing is done for one that nobody asks for."""
        settlement = run.settlement
        if (
            reply is Reply.OK
            and isinstance(settlement, Ack)
            and not (settlement.cancelled or self.tells_completed)
        ):
            return
        self.settled[kind_of(settlement, reply)].append(run.settled(reply))

    def _tell_settled(self) -> None:
        if self.settled:
            settled, self.settled = self.settled, defaultdict(list)
            for kind, jobs in settled.items():
                self._tell(kind, jobs=jobs)

    def _keep(self, run: Execution) -> None:
        """Keep a job whose dead letter can't be written now: it must not run again, and no other waits for it."""
        self.leases.keep(run)
        self._tell_no_ids()
        if self.alone is run:
            self.alone, self.one_waits = None, True

    def _tell_no_ids(self) -> None:
        if not self.told_no_ids:
            self.told_no_ids = True
            logger.error(_NO_DEAD_LETTERS, self.settings.queue.name)

    def _threads_changed(self) -> None:
        why = self.threads.trouble.why
        if not why:
            logger.info("sync handlers are started again")
        else:
            logger.error("no sync handler is started, their jobs wait or go to other workers: %s", why)
            if self.settings.supervised and not self.shutdown.stopping:
                self.shutdown.hindered = not self.threads.full
                self._recycle("no sync handler can be started")

    def _processes_changed(self) -> None:
        why = self.processes.trouble.why if self.processes is not None else ""
        if not why:
            logger.info("handlers in processes are started again")
        else:
            logger.error("no handler in a process is started, their jobs wait or go to other workers: %s", why)

    def _let_go(self, run: Execution) -> None:
        self.leases.let_go(run)
        if self.alone is run:
            self.alone, self.one_waits = None, True  # there may be more of its kind
        if self.one_waits:
            self._look_for_one_alone()

    def _look_for_one_alone(self) -> None:
        if not self.leases:
            self.fetcher.interrupt()  # only a claim takes it

    # What its parts tell it

    def arrived(self, leases: Sequence[Lease]) -> None:
        """Take jobs that the blocking read leased."""
        self._dispatch(leases, self.fetcher.reading_since)

    def changed(self) -> None:
        """Look again what is to be done."""
        self.wakeup.open()

    def listening(self) -> None:
        """Learn what was said before: of jobs by a claim, of cancels by a beat."""
        self.fetcher.interrupt()
        self.heartbeat.hurry()

    def released(self) -> None:
        """Claim what was handed back."""
        self.fetcher.interrupt()

    def due(self, due_ms: int) -> None:
        """Set the timer, if this is earlier than what is known."""
        self.promoter.hear(due_ms)

    def reclaimed(self, lost: Sequence[str], jobs: int) -> None:
        """Tell of lost workers, and of what they held."""
        self._tell(JobsReclaimed, lost=lost, jobs=jobs)

    def cancelled(self, job_id: str) -> None:
        """Somebody says that a job is cancelled; whether it is, the store tells with the next beat."""
        if any(lease.job_id == job_id for lease in self.leases.all):
            self.heartbeat.hurry()

    # Watching

    async def _watch_leases(self) -> None:
        await anyio.sleep(self.reclaimer.every * random.random())  # who started together looks at different times
        while True:
            if self.one_waits and not self.leases:  # it could not be had, for a thread that may have ended by now
                self.found_nothing = False
                self.fetcher.interrupt()
            self.wakeup.open()
            if self.leases.kept and time.monotonic() >= self.leases.kept_at + _REFUSED:
                self.leases.try_again()
            if self.settings.max_rss < float("inf") and not self.shutdown.stopping:
                self._mind_memory()
            pause, until_look = self.reclaimer.every, self.reclaimer.next_at - time.monotonic()
            await anyio.sleep(pause if self.shutdown.stopping else min(pause, max(0.01, until_look)))

    def _mind_memory(self) -> None:
        used, most = rss(), self.settings.max_rss
        if used > most and not self.begun:  # whoever is started in its place would fare no better
            raise RedisJobsError(
                f"{used / 1e6:.0f} MB of memory are in use though no job was run yet, and max_rss is "
                f"{most / 1e6:.0f} MB: give it more"
            )
        if used > most:
            self._recycle(f"{used / 1e6:.0f} MB of memory are in use")

    async def _watch_grace(self) -> None:
        """When the grace is over: cancel what runs, give it a moment to clean up, then let go of it."""
        await self.shutdown.outlast_grace(self._limit_last_turn)
        for run in self.leases:
            run.give_up(Interrupted())
        await anyio.sleep(_UNWIND)
        self.shutdown.over = True
        self.turn.cancel()
        self.wakeup.open()

    def _limit_last_turn(self) -> None:
        if self._is_through:  # nothing to wait for but an answer, which may never come
            self.turn.deadline = anyio.current_time() + _LAST_TURN

    async def _watch_progress(self) -> None:
        """A worker that gets nothing through, though its heartbeat does, is stuck: it starts anew, then gives up.

        It counts its own ticks, not the time: a loop that was blocked could get nothing through. One whose
        heartbeat thread has ended can keep no job, and gives up at once.
        """
        seen, still, lease = (-1, 0.0), 0, self.settings.lease
        while True:
            await anyio.sleep(lease / 2)
            if self.heartbeat.broken:
                raise DriverError(
                    "the heartbeat thread has ended, so that this worker would soon count as dead; what is held "
                    "is released or runs again when its lease is over"
                )
            store_is_there = time.monotonic() - self.heartbeat.beat_at < lease
            got = self.rounds, self.consumer.heard_at
            still = still + 1 if got == seen and store_is_there else 0
            seen = got
            if still == 2 * _STUCK:
                logger.error("stuck: nothing got through for %g s; connecting anew", _STUCK * lease)
                self.needs_recovery = True
                self.batcher.break_off()
                self.turn.cancel()
            elif still >= 4 * _STUCK:
                raise DriverError(
                    f"stuck: nothing got through for {2 * _STUCK * lease:g} s though the store is there; "
                    "what is held is released or runs again when its lease is over"
                )

    # The heartbeat's side: called in its thread

    def _held(self) -> list[Lease]:
        return self.leases.all

    def _facts(self) -> dict[str, str]:
        host, pid, *_ = [*self.settings.worker_id.split(":"), "", ""]
        return {
            "host": host,
            "pid": pid,
            "started": self.started.isoformat(timespec="seconds"),
            "concurrency": str(self.settings.concurrency),
            "running": str(self.slots.busy),
            "refused": str(self.refused),
            "version": __version__,
        }

    def _tell_blocked(self, seconds: float, where: str) -> None:
        self._tell(LoopBlocked, seconds=seconds, where=where)

    def _beaten(self, cancelled: Sequence[Lease]) -> None:
        if cancelled or self._must_recover:
            self.call_soon(lambda: self._hear_of_cancels(cancelled))

    # And in the loop again

    def _hear_of_cancels(self, cancelled: Sequence[Lease]) -> None:
        for lease in cancelled:
            run = self.leases.holder_of(lease)
            if run is not None and run.lease is lease:  # else it was settled meanwhile
                run.give_up(CancelAsked())
        self.wakeup.open()

    def _hear_of_fence(self, error: Fenced) -> None:
        if error.worker_id == self.consumer.worker_id:
            self.renewing = True  # no job is begun from now on
            self._cancel_all()
            self.trouble = error
            self.wakeup.open()
