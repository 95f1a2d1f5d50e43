"""Metrics for Prometheus: of what this process pushes and runs, and of whole queues. Needs the extra `metrics`.

`Metrics` listens to events, one for a whole batch; a middleware would cost each job a call. `QueueMetrics` reads
from Redis at each scrape.
"""

import collections
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from weakref import WeakKeyDictionary, WeakSet

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
    from prometheus_client.values import ValueClass
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "prometheus_client":
        raise
    raise ModuleNotFoundError(
        "redisjobs.contrib.metrics needs prometheus_client; in a checkout of redisjobs: pip install '.[metrics]'",
        name="prometheus_client",
    ) from error

from redisjobs.base.logger import Log
from redisjobs.base.visible import visible
from redisjobs.client.backoff import retrying_sync
from redisjobs.client.registry import Registry
from redisjobs.drivers import sync_side
from redisjobs.errors import DriverError, Unavailable
from redisjobs.events.kinds import (
    Event,
    JobsClaimed,
    JobsDead,
    JobsPushed,
    JobsSettled,
    LeasesLost,
    LoopBlocked,
    LoopResumed,
    OutboxMeasured,
    PushFailed,
    StepsSaved,
    WorkerStarted,
    WorkerStopped,
)
from redisjobs.events.outcomes import UNKNOWN, outcome_of, reason_of
from redisjobs.model.driver import Driver, SyncDriver
from redisjobs.model.job import ENDED, Priority, State
from redisjobs.model.queries import COUNTERS, Backlog, Count, Counts, FindPauses, GetBacklog, Pauses, Query
from redisjobs.model.stored import ListSchedules, ScheduleInfo, schedule_infos

T = TypeVar("T")

logger = Log("redisjobs")

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)  # seconds
_IN_FILES: bool = getattr(ValueClass, "_multiprocess", True)  # another process reads the counts
_PATIENCE = 4.0  # seconds for all queues of a scrape together: less than the responder waits


class Metrics:
    """Counts and times what happens on queues, in this process.

    One `Metrics` can listen to any number of queues and their workers. Several with one registry count together,
    and nothing twice. The reference lists the metrics. With prometheus_client's `PROMETHEUS_MULTIPROC_DIR`,
    several processes count together.

    Args:
        registry: Where the metrics are registered. Defaults to `prometheus_client.REGISTRY`.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._families = _families(REGISTRY if registry is None else registry)

    def listen(self, queue: Registry) -> None:
        """Count what happens on a queue, and what its workers do, in this process from now on. Safe to repeat."""
        self._families.listen(queue)


_LOCK = threading.Lock()
_ALL: "WeakKeyDictionary[CollectorRegistry, _Families]" = WeakKeyDictionary()


def _families(registry: CollectorRegistry) -> "_Families":
    with _LOCK:
        found = _ALL.get(registry)
        if found is None:
            found = _ALL[registry] = _Families(registry)
        return found


class _Families:
    """The metrics of one registry, and the queues that they count."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, registry=registry)
        histogram = partial(Histogram, buckets=_BUCKETS, registry=registry)
        of_job = ["queue", "name", "outcome"]
        self.jobs = counter("redisjobs_jobs", "Jobs that were settled, by outcome.", of_job)
        self.duration = histogram("redisjobs_job_duration_seconds", "How long a run took.", of_job)
        waited = "How long a job was ready before a run of it started; a deliberate delay does not count."
        self.wait = histogram("redisjobs_job_wait_seconds", waited, ["queue", "name"])
        self.pushes = counter("redisjobs_pushes", "Jobs that were pushed, by result.", ["queue", "result"])
        self.dead = counter("redisjobs_dead", "Jobs that became dead letters, by reason.", ["queue", "reason"])
        self.steps = counter("redisjobs_steps", "Steps that jobs have saved.", ["queue", "name"])
        lost = "Settlements that were refused, because another worker had the job by then."
        self.lost = counter("redisjobs_lease_lost", lost, ["queue"])
        gauge = partial(Gauge, labelnames=["queue"], registry=registry, multiprocess_mode="livemax")
        self.waiting = gauge("redisjobs_outbox_rows", "Rows of an outbox that wait for a relay.")
        self.oldest = gauge("redisjobs_outbox_oldest_seconds", "How long the oldest of these rows has waited.")
        self.refused = gauge("redisjobs_outbox_refused_rows", "Rows that a relay has set aside.")
        self._slots = _BusySlots(registry)
        self._loops = _Loops(registry)
        self._listening: WeakSet[Registry] = WeakSet()

    def listen(self, queue: Registry) -> None:
        with _LOCK:
            if queue in self._listening:
                return
            self._listening.add(queue)
        events, of_queue = queue.events, _OfQueue(self, queue)
        self._loops.listen(queue)
        self._slots.listen(queue)
        events.subscribe(JobsSettled, of_queue.settled)
        events.subscribe(StepsSaved, of_queue.saved)
        events.subscribe(JobsPushed, of_queue.pushed)
        events.subscribe(PushFailed, of_queue.failed)
        events.subscribe(OutboxMeasured, of_queue.measured)


class _OfQueue:
    """What happens on one queue."""

    def __init__(self, families: _Families, queue: Registry) -> None:
        self._families = families
        self._name = queue.name
        self._definitions = queue.definitions
        self._series: dict[tuple[str, str], _JobSeries] = {}
        self._added, self._duplicate, self._failed = (
            families.pushes.labels(queue.name, result) for result in ("added", "duplicate", "failed")
        )
        self._lost = families.lost.labels(queue.name)

    def settled(self, event: JobsSettled) -> None:
        kind = type(event)
        if kind is LeasesLost:
            self._lost.inc(len(event.jobs))
            return
        for job in event.jobs:
            name = self._known(job.name)
            key = name, outcome_of(kind, job)
            series = self._series.get(key)
            if series is None:
                series = self._series[key] = _JobSeries(self._families, self._name, *key)
            series.jobs.inc()
            if job.ran:
                series.duration.observe(job.ran)
                series.wait.observe(job.waited)
            if kind is JobsDead:
                self._families.dead.labels(self._name, reason_of(job)).inc()

    def saved(self, event: StepsSaved) -> None:
        for name, many in collections.Counter(self._known(name) for _, name, _ in event.steps).items():
            self._families.steps.labels(self._name, name).inc(many)

    def _known(self, name: str) -> str:
        return name if name in self._definitions else UNKNOWN

    def pushed(self, event: JobsPushed) -> None:
        added = sum(is_added for _, _, is_added in event.jobs)
        if added:
            self._added.inc(added)
        if added < len(event.jobs):
            self._duplicate.inc(len(event.jobs) - added)

    def failed(self, event: PushFailed) -> None:
        self._failed.inc(len(event.jobs))

    def measured(self, event: OutboxMeasured) -> None:
        self._families.waiting.labels(self._name).set(event.waiting)
        self._families.oldest.labels(self._name).set(event.oldest)
        self._families.refused.labels(self._name).set(event.refused)


class _JobSeries:
    """The metrics of jobs of one name and one outcome."""

    __slots__ = ("duration", "jobs", "wait")

    def __init__(self, families: _Families, queue: str, name: str, outcome: str) -> None:
        self.jobs = families.jobs.labels(queue, name, outcome)
        self.duration = families.duration.labels(queue, name, outcome)
        self.wait = families.wait.labels(queue, name)


class _BusySlots:
    """How many slots the workers of this process have, and how many of these run a job."""

    def __init__(self, registry: CollectorRegistry) -> None:
        gauge = Gauge(
            "redisjobs_worker_slots",
            "Slots of workers, by whether they run a job.",
            ["state"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._busy, self._free = gauge.labels("busy"), gauge.labels("free")
        self._workers: dict[tuple[str, str], tuple[Callable[[], int], int]] = {}
        # This process answers with the current count. A file holds the value that was set last.
        self._busy.set_function(lambda: self._count()[0])
        self._free.set_function(lambda: self._count()[1])

    def listen(self, queue: Registry) -> None:
        queue.events.subscribe(WorkerStarted, self._started)
        queue.events.subscribe(WorkerStopped, self._stopped)
        if _IN_FILES:
            for kind in (JobsClaimed, JobsSettled):
                queue.events.subscribe(kind, self._changed)

    def _started(self, event: WorkerStarted) -> None:
        self._workers[event.queue, event.worker] = event.busy, event.slots
        self._changed(event)

    def _stopped(self, event: WorkerStopped) -> None:
        self._workers.pop((event.queue, event.started_as), None)
        self._changed(event)

    def _changed(self, event: Event) -> None:
        busy, free = self._count()
        self._busy.set(busy)
        self._free.set(free)

    def _count(self) -> tuple[int, int]:
        slots = dict(list(self._workers.values()))  # a worker of several queues counts once
        busy = sum(count_busy() for count_busy in slots)
        return busy, sum(slots.values()) - busy


class _Loops:
    """The time for which event loops were blocked."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._blocked = Counter(
            "redisjobs_loop_blocked_seconds",
            "For how long handlers blocked event loops of workers, each by half a second or more.",
            registry=registry,
        )
        self._counted: dict[str, float] = {}  # by worker: the seconds counted so far of a block that still lasts
        self._lock = threading.Lock()  # the events come from any thread

    def listen(self, queue: Registry) -> None:
        queue.events.subscribe(LoopBlocked, self._begins)
        queue.events.subscribe(LoopResumed, self._ends)

    def _begins(self, event: LoopBlocked) -> None:
        with self._lock:
            if event.worker not in self._counted:  # else another queue of this worker has published it
                self._counted[event.worker] = event.seconds
                self._blocked.inc(event.seconds)

    def _ends(self, event: LoopResumed) -> None:
        with self._lock:
            counted = self._counted.pop(event.worker, None)
            if counted is not None:
                self._blocked.inc(max(0.0, event.seconds - counted))


class QueueMetrics(Collector):
    """The state of whole queues, read at each scrape. Register it in only one process, or sums are multiplied.

    `redisjobs metrics` is such a process. In your own: `registry.register(QueueMetrics(queue))`. A scrape blocks
    its thread, for up to 4 s if Redis is unavailable. A queue that did not answer has only `redisjobs_queue_up`,
    with the value 0.

    Args:
        queues: The queues, async or sync; they need no handlers.

    Raises:
        ValueError: A queue has a driver for async code only.
    """

    def __init__(self, *queues: Registry) -> None:
        self._stores = [_Store(queue) for queue in queues]

    def describe(self) -> Sequence[Metric]:
        """Return nothing. Otherwise registering this would read from Redis."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read the state of all queues, and yield the metrics."""
        patience = _PATIENCE / max(1, len(self._stores))
        found = [(store.queue.name, store.ask(patience)) for store in self._stores]
        up = _gauge("redisjobs_queue_up", "Whether the store of a queue answers.")
        for queue, state in found:
            up.add_metric([queue], 0 if state is None else 1)
        yield up
        yield from _queue_families([(queue, state) for queue, state in found if state is not None])


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a queue."""

    counts: Counts
    backlog: Backlog
    pauses: Pauses
    schedules: Sequence[ScheduleInfo]


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["queue", *labels])


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, labels=["queue", *labels])


def _queue_families(states: Sequence[tuple[str, Snapshot]]) -> Iterator[Metric]:
    jobs = _gauge("redisjobs_queue_jobs", "Jobs by state, ready ones also by priority.", "state", "priority")
    waited = "For how long the oldest ready job has been ready; 0 if none is."
    latency = _gauge("redisjobs_queue_latency_seconds", waited, "priority")
    events = _counter("redisjobs_queue_events", "What was counted since the queue began.", "event")
    workers = _gauge("redisjobs_queue_workers", "Workers whose leases run.")
    is_paused = "1 while the queue is paused, else 0; and 1 for each paused job name."
    paused = _gauge("redisjobs_queue_paused", is_paused, "name")
    for queue, known in states:
        counts, backlog = known.counts, known.backlog
        for priority in Priority:
            jobs.add_metric([queue, "ready", priority], counts.ready[priority])
            latency.add_metric([queue, priority], backlog.oldest.get(priority, 0.0))
        for state in State:
            if state is not State.READY and state not in ENDED:
                jobs.add_metric([queue, state, ""], counts.of(state))
        for event in COUNTERS:
            events.add_metric([queue, event], counts.totals[event])
        workers.add_metric([queue], backlog.workers)
        paused.add_metric([queue, ""], int(known.pauses.queue is not None))
        for name in known.pauses.names:
            paused.add_metric([queue, visible(name)], 1)
    yield from (jobs, latency, events, workers, paused)
    yield from _schedule_families(states)


def _schedule_families(states: Sequence[tuple[str, Snapshot]]) -> Iterator[Metric]:
    fired = _gauge("redisjobs_schedule_last_fired_timestamp_seconds", "The slot that fired last.", "schedule")
    following = _gauge("redisjobs_schedule_next_timestamp_seconds", "The slot that is to fire next.", "schedule")
    missed = _counter("redisjobs_schedule_missed", "Slots that had no job of their own.", "schedule")
    for queue, known in states:
        for schedule in known.schedules:
            name = [queue, visible(schedule.name)]
            if schedule.last_slot is not None:
                fired.add_metric(name, schedule.last_slot.timestamp())
            if schedule.next_slot is not None:
                following.add_metric(name, schedule.next_slot.timestamp())
            missed.add_metric(name, schedule.missed)
    yield from (fired, following, missed)


class _Store:
    """Reads the state of one queue, in any thread."""

    def __init__(self, queue: Registry) -> None:
        self.queue = queue
        self._driver: Driver = queue.driver
        self._side: SyncDriver = sync_side(queue.driver)

    def ask(self, patience: float) -> Snapshot | None:
        """Return the queue's state; None if the store did not answer within `patience` seconds, or refused."""
        if self.queue.driver is not self._driver:  # the queue was moved
            self._driver, self._side = self.queue.driver, sync_side(self.queue.driver)
        until = time.monotonic() + patience
        try:
            pages = [self._read(ListSchedules(), until)]
            while pages[-1].more is not None:
                pages.append(self._read(ListSchedules(after=pages[-1].more), until))
            counts, backlog = self._read(Count(), until), self._read(GetBacklog(), until)
            return Snapshot(counts, backlog, self._read(FindPauses(), until), schedule_infos(pages))
        except DriverError as error:
            logger.warning("no metrics of queue '%s': %s", self.queue.name, error)
            return None

    def _read(self, query: Query[T], until: float) -> T:
        return retrying_sync(
            lambda: self._side.read(query, until=until), on=(Unavailable,), within=until - time.monotonic()
        )
