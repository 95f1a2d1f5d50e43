"""The class `Worker`: a worker's settings, and how it is stopped. `WorkerRun` does the work."""

import logging
import math
import os
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import anyio

from redisjobs.base.arguments import seconds, whole
from redisjobs.base.logger import Log, log_from_thread
from redisjobs.base.visible import number_of
from redisjobs.client.registry import Registry
from redisjobs.errors import single_cause
from redisjobs.events.middleware import Middleware, all_checked
from redisjobs.model.job import Duration
from redisjobs.worker.run import WorkerRun, cut_off
from redisjobs.worker.settings.health import Health, combined
from redisjobs.worker.settings.settings import Queues, Settings
from redisjobs.worker.settings.shutdown import signals_to_stop, stopping, waiting
from redisjobs.worker.source.policy import Allocator

logger = Log("redisjobs.worker")

_RESERVED = ("released", "alone", "parked")
_LINE = "line:"
"""Consumers that are not workers. Jobs wait there that were handed back, must run isolated, or may not start."""


def _checked_name(worker_id: str) -> str:
    """Return the name if it can begin a consumer's name and fits into a line of text."""
    fits = isinstance(worker_id, str) and re.fullmatch(r"[^\s{}]{1,200}", worker_id) and worker_id.isprintable()
    if not fits or worker_id in _RESERVED or worker_id.startswith(_LINE):
        raise ValueError(
            f"worker_id={worker_id!r}: give 1 to 200 printable characters without spaces or braces, and not "
            f"{' or '.join(map(repr, _RESERVED))}, and nothing that begins with {_LINE!r}"
        )
    return worker_id


def _checked_limit(limit: int | None, what: str) -> int | None:
    """Return the limit if it is None, or a whole number of at least 1."""
    if limit is not None:
        whole(limit, what)
    return limit


_SLOTS, _ASYNC_SLOTS = 10, 100  # by default; a thread for each slot is expensive, a task is not


class Worker:
    """Runs the jobs of one or more queues.

    Args:
        queue: The queue with its handlers, async or sync. Or a list of queues, or of pairs of a queue and its
            weight. They share this worker's slots and all settings below. Each keeps its own handlers, retry
            policies and middleware.
        weights: The weights of several queues by name: the share of jobs that each starts while others have jobs
            too. With 3 and 1, the first queue starts three of four jobs. Defaults to 1 each.
        strict: Start a job of a later queue only while no earlier queue has enough jobs to fill the slots. Later
            queues may starve, by intent.
        concurrency: How many jobs run at once, in all queues together. Defaults to 100 if every handler is async
            when a run begins, and to 10 if one is a plain function, which needs a thread or a process.
        lease: Seconds without a heartbeat after which this worker counts as dead, and its jobs run again
            elsewhere. It beats every third of that. Workers of one queue may differ in it. Defaults to 15 s.
        max_deliveries: Deliveries without an outcome before a job becomes a dead letter: it seems to kill
            its workers. The last delivery runs isolated, with no other job beside it. With 1 no job is delivered
            twice. Defaults to 3.
        grace: Seconds that running jobs have to finish after a stop. Then they are cancelled and handed back.
        unknown_for: Seconds for which a job waits for a worker with a handler for its name, as in a rolling
            deploy. Then it becomes a dead letter. Defaults to an hour.
        max_jobs: The number of jobs after which `run` returns, once all of them are done. Defaults to no limit.
        max_rss: Bytes of memory above which `run` returns too, once the running jobs are done, so that the process
            can be restarted. If no job has run yet, it raises instead. Defaults to no limit.
        abandoned: The number of abandoned threads at which the worker starts no other sync handler, and is not
            ready. An abandoned thread still runs a handler that timed out or was cancelled; it can't be killed.
            Handlers that run then may be abandoned too, so there are at most `abandoned - 1 + concurrency`.
            Defaults to `concurrency`.
        supervised: Whether a supervisor starts another worker once `run` returns with `recycled`. If so, `run`
            also returns when too many threads are abandoned. Otherwise the worker then goes on with async
            handlers.
        worker_id: The name of this worker, for example the name of its pod: 1 to 200 printable characters, no
            spaces or braces. Each run adds a random part, as in `web-0:5f3a9c1e`, so the next run of this name is
            another worker. Defaults to the host and the process id.
        middleware: Middleware around the jobs that this worker runs, in each queue, inside the queue's own
            middleware; the outermost first. A worker pushes nothing, so `on_push` is not called.
        schedules: Whether it fires the schedules of its queues, until it is stopped. Any number of workers may do
            so. A run `until_idle` fires none.

    You may call `stop` and `stop_now` from any thread at any time. A stop ends the current run. If there is none,
    it ends the next one before that claims anything. An operator can stop the current run: see
    `Control.stop_worker`.

    No slot is reserved for a queue: the next job of any queue fills it. A server that fails affects its own queues
    only.

    Attributes:
        queues: The queues, in the order in which they were listed.

    Raises:
        TypeError: `queue` is not a queue or a list of them, or an item of `middleware` is not a middleware or has
            a hook that can't be called.
        ValueError: Another argument has an invalid value. For example, no queue is listed, or one is listed twice;
            a weight is not a positive number, or its queue is not listed; or there are weights together with
            `strict`.
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
        self._concurrency = _checked_limit(concurrency, "concurrency")
        self._abandoned = _checked_limit(abandoned, "abandoned")
        self._name = None if worker_id is None else _checked_name(worker_id)
        whole(max_deliveries, "max_deliveries")
        if seconds(lease, "lease") < 0.1:
            raise ValueError(f"lease={lease!r}: give at least 0.1 s, or renewing it can't keep up")
        self.settings = Settings(
            queue=self.queues[0],
            queues=self._queues.names if len(self.queues) > 1 else (),
            worker_id=self._next_id(),
            next_id=self._next_id,
            concurrency=0,  # `_count_slots` sets these two
            lease=seconds(lease, "lease"),
            max_deliveries=max_deliveries,
            unknown_ms=int(seconds(unknown_for, "unknown_for") * 1000),
            abandoned=0,
            supervised=supervised,
            max_jobs=_checked_limit(max_jobs, "max_jobs") or math.inf,
            max_rss=_checked_limit(max_rss, "max_rss") or math.inf,
            middleware=all_checked(middleware, awaits_push=True),
            schedules=schedules,
        )
        self._count_slots()
        self.grace = seconds(grace, "grace")
        self.recycled = False
        """Whether `run` returned because of `max_jobs`, `max_rss` or `abandoned`, or because it got no threads."""
        self.hindered = False
        """Whether the system gave it no threads. It may give none to the next run either."""
        self.asked_by_operator = False
        """Whether an operator asked the current run, or the last one, to stop, by `Control.stop_worker`."""
        self.when_asked: Callable[[], object] = int
        """Called when an operator asks the worker to stop, after `stop`, in the thread of a heartbeat."""
        self.breaking: Callable[[], object] = int
        """Called when `run` begins to end by an error or a cancel. `run` may still wait for handlers then."""
        self._has_run = False
        self._running = threading.Lock()  # held while it runs
        self._current: WorkerRun | None = None
        self._stop_asked = False  # of the current run, or else of the next one

    async def run(self, *, until_idle: bool = False, handle_signals: bool = False) -> None:
        """Run jobs until `stop` is called or the task is cancelled.

        Args:
            until_idle: Return as soon as no job is ready in any queue and none runs here. Delayed jobs that are
                not due stay, and so do jobs that wait for a rate limit. No schedule is fired. The run waits for
                jobs that found no thread or process. While other workers hold jobs, it waits for a lease, because
                they may be dead; then it runs their jobs. It waits just as long for an abandoned thread that
                counts for a limit.
            handle_signals: Let SIGTERM and SIGINT stop the worker, a second one at once. Main thread only.

        An async handler that swallows its cancellation keeps `run` from returning. Its job is released all the
        same. The command line ends such a process by force.

        Raises:
            RuntimeError: This worker runs already.
            DriverError: The server of one of its queues refuses what a worker needs: it is too old, or a
                permission is missing. The jobs that the worker held are released. While a server is only
                unavailable, the worker waits for it.
            RedisJobsError: More memory than `max_rss` was in use before any job had run.
        """
        if not self._running.acquire(blocking=False):
            raise RuntimeError(
                "this worker runs already, and goes on; for more jobs at once give it a higher concurrency, or "
                "make another Worker"
            )
        try:
            self._reset()
            await self._run(until_idle, handle_signals)
        finally:
            self._current, self._stop_asked = None, False
            self._running.release()

    @property
    def worker_id(self) -> str:
        """The current id. Each run has its own, and a worker that was taken for dead goes on under a new one.

        With several queues, it is the id in the first.
        """
        return self.worker_ids[0]

    @property
    def worker_ids(self) -> tuple[str, ...]:
        """The current id in each of its queues. They are the same until it is taken for dead in one of them."""
        current = self._current
        if current is None:
            return (self.settings.worker_id,) * len(self.queues)
        return tuple(source.member.settings.worker_id for source in current.sources)

    def _next_id(self) -> str:
        """Return an id for one run: a frozen worker and its successor of the same name must differ."""
        name = self._name
        if name is None:
            host = re.sub(r"[\s{}]+", "-", "".join(filter(str.isprintable, socket.gethostname())))[:150]
            name = f"{host}:{os.getpid()}"
        return f"{name}:{secrets.token_hex(4)}"

    def _reset(self) -> None:
        if self._has_run:
            self.settings = replace(self.settings, worker_id=self._next_id())
        self._has_run, self.recycled, self.hindered, self.asked_by_operator = True, False, False, False
        self._count_slots()

    def _count_slots(self) -> None:
        """Set the default number of slots. Each run does this, because handlers may have been registered since."""
        all_async = all(each.is_async for queue in self.queues for each in queue.definitions.values())
        slots = self._concurrency or (_ASYNC_SLOTS if all_async else _SLOTS)
        self.settings = replace(self.settings, concurrency=slots, abandoned=self._abandoned or slots)

    async def _run(self, until_idle: bool, handle_signals: bool) -> None:
        fires = self.settings.schedules and not until_idle
        settings = replace(self.settings, schedules=fires, until_idle=until_idle)
        self._current = current = WorkerRun(
            [replace(settings, queue=queue) for queue in self.queues],
            Allocator(self._queues.weights, strict=self._queues.strict),
            self.breaking,
            self._stop_for_operator,
        )
        if self._stop_asked:  # before there was a run to stop
            return
        if len(self.queues) > 1:
            slots = number_of(self.settings.concurrency, "slot")
            logger.info("worker %s has %s for queues %s", self.worker_id, slots, self._queues)
        ended = False
        try:
            async with anyio.create_task_group() as tasks:
                if handle_signals:
                    tasks.start_soon(self._watch_signals)
                await current.run()
                self.recycled, self.hindered = current.shutdown.recycled, current.shutdown.hindered
                ended = True
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # One cause, one error: the caller need not know that there were tasks.
            error = single_cause(group)
            raise error from error.__cause__
        if not ended:
            raise cut_off()

    def stop(self) -> None:
        """Claim no more; let running jobs finish for `grace` seconds, then release them; then `run` returns.

        Any thread may call it. If the worker does not run, the next `run` returns at once.
        """
        self._stop(self.grace)

    def stop_now(self) -> None:
        """Cancel and release the running jobs at once; then `run` returns. Any thread may call it, like `stop`."""
        self._stop(0.0)

    def _stop(self, grace: float) -> None:
        self._stop_asked = True  # before we look for a run
        if (current := self._current) is not None:
            current.threads.call_soon(lambda: current.stop(grace))

    def _stop_for_operator(self) -> None:
        self.asked_by_operator = True
        self.stop()
        self.when_asked()
        told = waiting(self.busy, self.grace)
        log_from_thread(logger, logging.INFO, "an operator asked this worker to stop; %s", told)

    @property
    def busy(self) -> int:
        """Number of jobs that run now. Any thread may read it."""
        current = self._current
        return 0 if current is None else current.pool.slots.count_busy()

    @property
    def health(self) -> Health:
        """The health of the worker, and of each of several queues, judged by what it got done. For any thread."""
        current = self._current  # read once: it may be gone a moment later
        if current is not None:
            return current.health
        return combined(Health(True, False, "not running"), [(name, None) for name in self._queues.names])

    def __repr__(self) -> str:
        several = len(self.queues) > 1
        return f"<Worker of {'queues' if several else 'queue'} {self._queues}>"

    async def _watch_signals(self) -> None:
        at_once = False
        async for number in signals_to_stop():
            logger.info("%s", stopping(number, self.busy, self.grace, at_once=at_once))
            (self.stop_now if at_once else self.stop)()
            at_once = True
