"""A worker: what it is told, how it is stopped. What it does is a `WorkerRun`."""

import math
import os
import re
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import anyio

from redisjobs.base.arguments import seconds, whole
from redisjobs.base.logger import Log
from redisjobs.base.visible import number_of
from redisjobs.client.registry import Registry
from redisjobs.errors import single_cause
from redisjobs.middleware import Middleware, all_checked
from redisjobs.model.job import Duration
from redisjobs.worker.queues import Queues
from redisjobs.worker.run import WorkerRun
from redisjobs.worker.running.guard import keep_up
from redisjobs.worker.settings.health import Health, combined
from redisjobs.worker.settings.settings import Settings
from redisjobs.worker.settings.shutdown import Interrupts, stopping

logger = Log("redisjobs.worker")

_TAKEN = ("released", "alone", "parked")
_LINE = "line:"
"""Under these names wait jobs that were handed back, have to run alone, or may not start: they are no worker's."""


def _own_name() -> str:
    """Host and process, for a worker that was given no name."""
    host = re.sub(r"[\s{}]+", "-", "".join(filter(str.isprintable, socket.gethostname())))[:150]
    return f"{host}:{os.getpid()}"


def _new_id(name: str) -> str:
    """An id of one run: a worker that was frozen is another one than its successor of the same name."""
    return f"{name}:{secrets.token_hex(4)}"


def _checked_name(worker_id: str) -> str:
    """A name that can begin a consumer's name, and stand in a line of text."""
    fits = isinstance(worker_id, str) and re.fullmatch(r"[^\s{}]{1,200}", worker_id) and worker_id.isprintable()
    if not fits or worker_id in _TAKEN or worker_id.startswith(_LINE):
        raise ValueError(
            f"worker_id={worker_id!r}: give 1 to 200 printable characters without spaces or braces, and not "
            f"{' or '.join(map(repr, _TAKEN))}, and nothing that begins with {_LINE!r}"
        )
    return worker_id


_SLOTS, _ASYNC_SLOTS = 10, 100  # where nobody says how many; a thread each is dear, a task is not


class Worker:
    """Runs the jobs of a queue, or of several.

    Args:
        queue: The queue with its handlers, async or sync; or several, as a list of queues, or of pairs of a queue
            and its weight. They share this worker's slots and all that follows, but each keeps its own handlers,
            retry policies and middleware.
        weights: Of several queues by their names, where these differ: how often each has its turn while others
            have jobs as well. At 3 and 1 three of four jobs that begin are of the first. Defaults to 1 each.
        strict: Of several queues the first one listed that has jobs comes first. A later one then starts no job
            while an earlier one has enough to fill the slots: it may starve, which is meant.
        concurrency: How many jobs run at once, of all queues together. Defaults to 100 where every handler is
            async as a run begins, and to 10 where one is a plain function, which needs a thread or a process.
        lease: Seconds without a heartbeat after which this worker counts as dead, and its jobs run again
            elsewhere. It gives one every third of that. Workers of a queue may differ in it. Defaults to 15 s.
        max_deliveries: So often a job is delivered without an outcome, the last time with nothing beside it; then
            it is a dead letter, for it kills its workers. With 1 no job is delivered twice. Defaults to 3.
        grace: Seconds that running jobs may finish in after a stop. Then they are cancelled and handed on.
        unknown_for: Seconds that a job whose name no worker knows is kept, as in a rolling deploy, before it
            is a dead letter. Defaults to an hour.
        max_jobs: After so many jobs `run` returns, once all of them are done. Defaults to no limit.
        max_rss: Bytes of memory that the process may have in use; with more `run` returns as well, once what
            runs is done, for whoever started it to start it anew. One that has run nothing yet raises instead.
            Defaults to no limit.
        abandoned: With so many threads that still run a sync handler which timed out or was cancelled, and can't
            be killed, the worker starts no other sync handler, and is not ready. Those that run then may be
            abandoned too, so there are at most `abandoned - 1 + concurrency`. Defaults to `concurrency`.
        supervised: Somebody starts another worker when `run` returns with `recycled`. Then it returns as well with
            too many abandoned threads; else it goes on with async handlers.
        worker_id: The name of this worker, such as that of its pod: 1 to 200 printable characters, no spaces or
            braces. Each run adds a random part, as in `web-0:5f3a9c1e`, so the next one of this name is another
            worker. Defaults to the host and the process id.
        middleware: Who takes part in the jobs that this worker runs, of each queue, inside of that queue's own
            middleware; the outermost first. A worker pushes nothing, so `on_push` is not called.
        schedules: Fire the schedules of its queues as well, until it is stopped. Any number of workers may. A run
            `until_idle` fires none.

    `stop` and `stop_now` may be called by any thread and at any time: a stop ends the run that is under way, or
    else the next one, before that claims anything.

    A free slot waits for no queue in particular: whichever has jobs fills it. What is wrong with the store of one
    queue concerns that queue alone.

    Attributes:
        queues: The queues, in the order in which they were listed.

    Raises:
        TypeError: `queue` is no queue or list of them, or one of `middleware` is none, or has a hook that can't be
            called.
        ValueError: Another argument has a value that can't be worked with: no queue is listed, or one twice; a
            weight is none, or of no queue that is listed; or there are weights beside `strict`.
    """

    def __init__(
        self,
        queue: Registry | Iterable[Registry | tuple[Registry, float]],
        *,
        weights: Mapping[str, float] | None = None,
        strict: bool = False,
        concurrency: int | None = None,
        lease: Duration = 15,
        max_deliveries: int = 3,
        grace: Duration = 25,
        unknown_for: Duration = 3600,
        max_jobs: int | None = None,
        max_rss: int | None = None,
        abandoned: int | None = None,
        supervised: bool = False,
        worker_id: str | None = None,
        middleware: Iterable[Middleware] = (),
        schedules: bool = True,
    ) -> None:
        self._queues = Queues.of(queue, weights, strict=strict)
        self.queues = self._queues.all
        whole(max_deliveries, "max_deliveries")
        for what, limit in (
            *(("concurrency", concurrency), ("max_jobs", max_jobs)),
            *(("max_rss", max_rss), ("abandoned", abandoned)),
        ):
            if limit is not None:
                whole(limit, what)
        if seconds(lease, "lease") < 0.1:
            raise ValueError(f"lease={lease!r}: give at least 0.1 s, or renewing it can't keep up")
        self._name = None if worker_id is None else _checked_name(worker_id)
        self.settings = Settings(
            queue=self.queues[0],
            queues=self._queues.names if len(self.queues) > 1 else (),
            worker_id=self._next_id(),
            next_id=self._next_id,
            concurrency=0,  # these two as `_count_slots` says
            lease=seconds(lease, "lease"),
            max_deliveries=max_deliveries,
            unknown_ms=int(seconds(unknown_for, "unknown_for") * 1000),
            abandoned=0,
            supervised=supervised,
            max_jobs=math.inf if max_jobs is None else max_jobs,
            max_rss=math.inf if max_rss is None else max_rss,
            middleware=all_checked(middleware, awaits_push=True),
            schedules=schedules,
        )
        self._concurrency, self._abandoned = concurrency, abandoned
        self._count_slots()
        self.grace = seconds(grace, "grace")
        self.recycled = False
        """Whether `run` returned because of `max_jobs`, `max_rss` or `abandoned`, or had no threads."""
        self.hindered = False
        """Whether it was for want of threads, which the system may give the next one no sooner."""
        self.breaking: Callable[[], object] = int
        """Called when `run` begins to end by an error or a cancel; it may still wait for handlers."""
        self._has_run = False
        self._running = threading.Lock()  # held while it runs
        self._current: WorkerRun | None = None
        self._stop_asked = False  # of the run under way, or else of the next one

    async def run(self, *, until_idle: bool = False, handle_signals: bool = False) -> None:
        """Run jobs until `stop` is called or the task is cancelled.

        Args:
            until_idle: Return as soon as nothing is ready in any queue and nothing runs here. Delayed jobs that
                are not due are left, and so are those that wait for their rate; no schedule is fired. Jobs for
                which there was no thread or process are waited for. While other workers hold jobs it stays for a
                lease, as they may be dead: then it runs what they held. It stays as long for a thread that was
                given up and counts for a limit.
            handle_signals: Let SIGTERM and SIGINT stop the worker, a second one at once. Main thread only.

        An async handler that swallows its cancellation keeps this from returning, though not from releasing its
        job; the command line ends such a process by force.

        Raises:
            RuntimeError: This worker runs already.
            DriverError: The store refuses what a worker needs (too old, no permission), be it that of one of
                several queues; while it is only away the worker waits for it. Whatever this worker held is
                released.
            RedisJobsError: More memory than `max_rss` was in use before any job had run.
        """
        if not self._running.acquire(blocking=False):
            raise RuntimeError(
                "this worker runs already, and goes on; for more jobs at once give it a higher concurrency, or "
                "make another Worker"
            )
        try:
            self._begin_anew()
            await self._run(until_idle, handle_signals)
        finally:
            self._current, self._stop_asked = None, False
            self._running.release()

    @property
    def worker_id(self) -> str:
        """Who it is now: each run has an id of its own, and who was taken for dead goes on under a new one.

        Of several queues it is who it is in the first.
        """
        return self.worker_ids[0]

    @property
    def worker_ids(self) -> tuple[str, ...]:
        """Who it is now in each of its queues: the same, until it was taken for dead in one of them."""
        current = self._current
        return (self.settings.worker_id,) * len(self.queues) if current is None else current.worker_ids

    def _next_id(self) -> str:
        return _new_id(self._name or _own_name())

    def _begin_anew(self) -> None:
        if self._has_run:
            self.settings = replace(self.settings, worker_id=self._next_id())
        self._has_run, self.recycled, self.hindered = True, False, False
        self._count_slots()

    def _count_slots(self) -> None:
        """Say how many there are, where nobody has; at each run, as handlers may have been registered since."""
        all_async = all(each.is_async for queue in self.queues for each in queue.definitions.values())
        slots = self._concurrency or (_ASYNC_SLOTS if all_async else _SLOTS)
        self.settings = replace(self.settings, concurrency=slots, abandoned=self._abandoned or slots)

    async def _run(self, until_idle: bool, handle_signals: bool) -> None:
        fires = self.settings.schedules and not until_idle
        self._current = current = WorkerRun(
            [replace(self.settings, queue=queue, schedules=fires) for queue in self.queues],
            until_idle=until_idle,
            allocator=self._queues.allocator(),
            breaking=self.breaking,
        )
        if self._stop_asked:  # asked for before there was a run to tell
            return
        if len(self.queues) > 1:
            slots = number_of(self.settings.concurrency, "slot")
            logger.info("worker %s has %s for queues %s", self.worker_id, slots, self._queues)
        try:
            async with anyio.create_task_group() as tasks:
                if handle_signals:
                    tasks.start_soon(keep_up, self._watch_signals)
                await current.run()
                self.recycled, self.hindered = current.shutdown.recycled, current.shutdown.hindered
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # One cause, one error: that tasks were involved is no business of the caller's.
            error = single_cause(group)
            raise error from error.__cause__

    def stop(self) -> None:
        """Claim no more; let running jobs finish for `grace` seconds, then release them; then `run` returns.

        For any thread. Where nothing runs, the next `run` returns at once.
        """
        self._stop(self.grace)

    def stop_now(self) -> None:
        """Cancel and release what runs, at once; then `run` returns. For any thread, as `stop` is."""
        self._stop(0.0)

    def _stop(self, grace: float) -> None:
        self._stop_asked = True  # before we look whether there is a run to tell
        if (current := self._current) is not None:
            current.call_soon(lambda: current.stop(grace))

    @property
    def busy(self) -> int:
        """How many jobs it runs now; for any thread."""
        current = self._current
        return 0 if current is None else current.pool.slots.count_busy()

    @property
    def health(self) -> Health:
        """Whether it works, and of several queues each one, by what it got done; for any thread."""
        current = self._current  # once: it may be gone a moment later
        if current is not None:
            return current.health
        return combined(Health(True, False, "not running"), [(name, None) for name in self._queues.names])

    def __repr__(self) -> str:
        several = len(self.queues) > 1
        return f"<Worker of {'queues' if several else 'queue'} {self._queues}>"

    async def _watch_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            interrupts, at_once = Interrupts(), False
            async for number in signals:
                if not interrupts.is_new(number):
                    continue
                logger.info("%s", stopping(number, self.busy, self.grace, at_once=at_once))
                (self.stop_now if at_once else self.stop)()
                at_once = True
