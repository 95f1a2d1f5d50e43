"""One run of a worker: its slots, and the sources that fill them, from the first claim to the last settlement."""

import math
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from redisjobs.base.eventloop import Gate, was_asked
from redisjobs.base.logger import Log
from redisjobs.errors import RedisJobsError
from redisjobs.events.kinds import LoopBlocked, LoopResumed
from redisjobs.model.outcome import Interrupted
from redisjobs.worker.running.cancels import CancelWatch
from redisjobs.worker.running.contexts import Contexts
from redisjobs.worker.running.execution import HandlerRuntime
from redisjobs.worker.running.threads import Threads
from redisjobs.worker.settings.health import Health, combined
from redisjobs.worker.settings.settings import Settings, quoted
from redisjobs.worker.settings.shutdown import Shutdown
from redisjobs.worker.source.demand import Demand
from redisjobs.worker.source.heartbeat import Heartbeat
from redisjobs.worker.source.policy import Allocator
from redisjobs.worker.source.pool import Pool
from redisjobs.worker.source.source import Source
from redisjobs.worker.source.watchdog import LoopWatchdog

if sys.platform != "win32":
    import resource

if TYPE_CHECKING:
    from redisjobs.worker.running.handler_pool import HandlerPool

logger = Log("redisjobs.worker")

_MEMORY = 2.0  # seconds between looks at the memory in use; less for a short lease
_UNWIND = 0.5  # seconds that cancelled handlers have to clean up before their jobs are handed back


class WorkerRun:
    """One run of a worker.

    Args:
        settings: The worker's settings, once for each of its queues: only the queue differs.
        allocator: Decides which queue is claimed from next. By default the queues take equal turns.
        breaking: Called when the run begins to end by an error or a cancel.
        asked: Called in the thread of a heartbeat when an operator asks the worker to stop; it calls `stop`.
    """

    def __init__(
        self,
        settings: Sequence[Settings],
        allocator: Allocator | None = None,
        breaking: Callable[[], object] = int,
        asked: Callable[[], object] = int,
    ) -> None:
        self._settings = first = settings[0]
        self._breaking = breaking
        self._asked = asked
        self.threads = Threads(first.abandoned, self._no_threads)
        self._opening = anyio.CancelScope()
        self._ending: Gate | None = None  # opens when every source has left its queue
        self.shutdown = Shutdown()
        self.pool = Pool(first, self.threads, self.shutdown, self.recycle, self._leave)
        self.demand = Demand(self.pool, allocator or Allocator([1] * len(settings)))
        self.sources = [Source(each, self.pool, self.demand) for each in settings]
        self.pool.share_among([source.claims for source in self.sources])
        patience = min(max(1.0, first.lease / 3), 5.0)
        self.loop = LoopWatchdog(self.threads.call_soon, patience, self._publish_blocked, self._publish_resumed)
        self.heartbeats: list[Heartbeat] = self._make_heartbeats()
        self.processes: HandlerPool | None = None

    def _make_heartbeats(self) -> list[Heartbeat]:
        """Make a heartbeat thread for each server."""
        by_server = defaultdict[Hashable, list[Source]](list)
        for source in self.sources:
            by_server[source.member.consumer.server].append(source)
        heartbeats = list[Heartbeat]()
        for sources in by_server.values():
            look = partial(self._look, len(heartbeats))
            told_of = [each.member.settings.queue.name for each in sources] if self._settings.queues else ()
            log = Log("redisjobs.worker", told_of)
            heartbeats.append(Heartbeat([each.beats for each in sources], self._settings.lease, look, log))
            for source in sources:
                source.beats.heartbeat = heartbeats[-1]
        return heartbeats

    def _look(self, number: int) -> None:
        """Watch the event loop from one heartbeat only: the first whose server has been reached."""
        if not any(heartbeat.started for heartbeat in self.heartbeats[:number]):
            self.loop.look()

    async def run(self) -> None:
        """Work until stopped, or until idle; release the jobs still held at the end."""
        watch = CancelWatch()
        try:
            with self._opening:
                await self._open_processes()
            self.pool.runtime = HandlerRuntime(Contexts(), self.pool.deadlines, self.threads, self.processes)
            try:
                await self._work(watch)
            except BaseException as error:
                self.shutdown.broken = watch.blames_jobs or not isinstance(error, anyio.get_cancelled_exc_class())
                raise
            finally:
                with anyio.CancelScope(shield=True):
                    await self._close()
        finally:
            await watch.end()
            if self.processes is not None:
                await self.processes.close()
            for source in self.sources:
                source.tell_stopped()

    async def _open_processes(self) -> None:
        queues = [source.member.settings.queue for source in self.sources]
        handlers = [each for queue in queues for each in queue.definitions.values() if each.in_process]
        if handlers:
            from redisjobs.worker.running.handler_pool import HandlerPool  # here, because it loads multiprocessing

            self.processes = HandlerPool(handlers)
            await self.processes.open()

    async def _work(self, watch: CancelWatch) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                self._start(tasks)
                try:
                    await self._wait_for_end(watch)
                except BaseException:
                    self._breaking()  # a handler that swallows its cancellation may keep us here for ever
                    raise
                tasks.cancel_scope.cancel()
        except anyio.get_cancelled_exc_class():
            if was_asked() or not watch.attacked:
                raise
            watch.forget()
        if not self._is_done:
            raise cut_off()

    def _start(self, tasks: TaskGroup) -> None:
        self.pool.start(tasks)
        for source in self.sources:
            tasks.start_soon(self._run_source, source, tasks)
        tasks.start_soon(self._watch_grace)
        if self._settings.max_rss < math.inf:
            tasks.start_soon(self._watch_memory)

    async def _run_source(self, source: Source, tasks: TaskGroup) -> None:
        await source.run(tasks)
        self.pool.changed()
        if self._is_done and self._ending is not None:
            self._ending.open()

    async def _wait_for_end(self, watch: CancelWatch) -> None:
        while not self._is_done:
            self._ending = watch.gate()
            await self._ending.wait()

    async def _close(self) -> None:
        """Leave all queues, at the same time."""
        async with anyio.create_task_group() as tasks:
            for source in self.sources:
                tasks.start_soon(source.close)
        for heartbeat in self.heartbeats:
            try:
                # With its own limiter: the application's threads may have used up the default one.
                await anyio.to_thread.run_sync(heartbeat.stop, 1.0, limiter=anyio.CapacityLimiter(1))
            except RuntimeError:  # no thread can be started to wait for the heartbeat's
                heartbeat.end()

    def stop(self, grace: float) -> None:
        """Claim no more, and give up jobs that still run after `grace` seconds. Call it in the event loop."""
        is_first = not self.shutdown.stopping
        self.shutdown.ask(grace)
        self._opening.cancel()
        for source in self.sources:
            source.stop(is_first=is_first)

    def recycle(self, why: str) -> None:
        """End once all running jobs are done, however long they take."""
        self.shutdown.recycled = True
        logger.info("%s: this worker ends when its running jobs are done", why)
        self.stop(math.inf)

    def _leave(self) -> None:
        """Stop, because an operator asked for it in one of the queues. Any thread may call it, again and again."""
        if not self.shutdown.asked_by_operator:
            self.shutdown.asked_by_operator = True
            self._asked()

    @property
    def health(self) -> Health:
        """The worker's health, judged by what its loop and its heartbeats got done. Any thread may read it."""
        common = self._common_health
        # A source that has left no longer needs its server.
        have_left = [source.member.left for source in self.sources]
        own = [
            None if left and not all(have_left) else source.health(common, loop_is_blocked=self.loop.blocked)
            for source, left in zip(self.sources, have_left, strict=True)
        ]
        names = [source.member.settings.queue.name for source in self.sources]
        return combined(common, list(zip(names, own, strict=True)))

    @property
    def _common_health(self) -> Health:
        if any(heartbeat.broken for heartbeat in self.heartbeats):
            return Health(False, False, "the heartbeat thread has ended: this worker soon counts as dead")
        for runner in (self.threads, self.processes):
            if runner is not None and runner.trouble.why:
                return Health(True, False, str(runner.trouble))
        if self.shutdown.stopping:
            return Health(True, False, f"stopping, with {self.pool.holds} jobs to go")
        quiet = [source.member.settings.queue.name for source in self.sources if source.claims.is_quiet]
        told = "" if not quiet else f"; quiet in queue {quoted(quiet)}" if self._settings.queues else "; quiet"
        busy = f"{self.pool.slots.count_busy()} of {self._settings.concurrency} slots are busy"
        return Health(True, True, busy + told)  # a probe must not restart a worker that an operator made quiet

    # What its parts report

    @property
    def _is_done(self) -> bool:
        return all(source.member.left for source in self.sources)

    def _publish_blocked(self, seconds: float, where: str) -> None:
        for source in self.sources:
            source.member.tell(LoopBlocked, seconds=seconds, where=where)

    def _publish_resumed(self, seconds: float) -> None:
        for source in self.sources:
            source.member.tell(LoopResumed, seconds=seconds)

    def _no_threads(self) -> None:
        for source in self.sources:
            source.claims.note_threads()
        if self._settings.supervised and not self.shutdown.stopping:
            self.shutdown.hindered = not self.threads.full
            self.recycle("no sync handler can be started")

    async def _watch_memory(self) -> None:
        """Recycle the worker once the process uses more than `max_rss` bytes; return at a stop.

        Raises:
            RedisJobsError: It uses more before any job was run, so the next worker would do no better.
        """
        most, every = self._settings.max_rss, min(_MEMORY, self._settings.lease / 4)
        while not self.shutdown.stopping:
            await anyio.sleep(every)
            used = rss()
            if used > most and not self.pool.begun:
                raise RedisJobsError(
                    f"{used / 1e6:.0f} MB of memory are in use though no job was run yet, and max_rss is "
                    f"{most / 1e6:.0f} MB: give it more"
                )
            if used > most and not self.shutdown.stopping:
                self.recycle(f"{used / 1e6:.0f} MB of memory are in use")

    async def _watch_grace(self) -> None:
        """When the grace is over, cancel the running jobs, give them a moment to clean up, and let go of them."""

        def limit() -> None:
            for source in self.sources:
                source.stepper.limit()

        await self.shutdown.outlast_grace(limit)
        for source in self.sources:
            for run in source.leases:
                run.give_up(Interrupted())
        await anyio.sleep(_UNWIND)
        self.shutdown.over = True
        for source in self.sources:
            source.stepper.cut()


def rss() -> int:
    """Return the resident bytes of this process, or the peak if the system shows only that; 0 if unknown."""
    if sys.platform == "linux":
        try:
            return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:  # no /proc, or no file descriptor left just now
            return 0
    if sys.platform == "win32":
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def cut_off() -> RedisJobsError:
    """Return the error with which a run ends after other code has cancelled its tasks."""
    return RedisJobsError(
        "one of the worker's tasks was cancelled, by a handler or other code in its event loop; its running jobs "
        "are handed back, and their delivery counts"
    )
