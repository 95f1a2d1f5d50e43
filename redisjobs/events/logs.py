"""Log lines for what has happened, written by listeners to a queue's events."""

import logging
import threading

from redisjobs.base.logger import Log
from redisjobs.base.visible import in_words, number_of, visible
from redisjobs.errors import Snooze
from redisjobs.events.kinds import (
    Events,
    JobsCancelled,
    JobsCompleted,
    JobsDead,
    JobsReclaimed,
    JobsReleased,
    JobsRetried,
    JobsSettled,
    JobsSuspended,
    LeasesLost,
    LoopBlocked,
    LoopResumed,
    ProcessEnded,
    RelayAvailable,
    RelayUnavailable,
    RowsRefused,
    ScheduleFired,
    SettledJob,
    SourceAvailable,
    SourceUnavailable,
    WorkerEvent,
    WorkerStarted,
    WorkerStopped,
)
from redisjobs.model.codec import when
from redisjobs.model.failures import deciding
from redisjobs.model.outcome import Raised, UnknownName, describe
from redisjobs.model.steps import waits_for
from redisjobs.model.transitions import Ack, After, At, DeadLetter, Due, Reply, RetryLater, Suspend

worker = Log("redisjobs.worker")
supervisor = Log("redisjobs.supervisor")
scheduler = Log("redisjobs.scheduler")
relay = Log("redisjobs.relay")

_MOST_NAMES = 100  # unknown names that a run warns about: a producer can push any number


def listen(events: Events) -> None:
    """Log what happens from now on; completed and suspended jobs only if INFO is logged, as there are many."""
    for frequent in (JobsCompleted, JobsSuspended):
        events.subscribe(frequent, _settled, when=lambda: worker.isEnabledFor(logging.INFO))
    for kind in (JobsRetried, JobsReleased, JobsCancelled, JobsDead, LeasesLost):
        events.subscribe(kind, _settled)
    events.subscribe(JobsReclaimed, _reclaimed)
    events.subscribe(WorkerStarted, _started)
    unhandled = _Unhandled()
    events.subscribe(WorkerStarted, unhandled.begin)
    events.subscribe(JobsRetried, unhandled.warn)
    events.subscribe(WorkerStopped, _stopped)
    events.subscribe(SourceUnavailable, _unavailable)
    events.subscribe(SourceAvailable, _available)
    events.subscribe(LoopBlocked, _blocked)
    events.subscribe(LoopResumed, _resumed)
    events.subscribe(ProcessEnded, _process_ended)
    events.subscribe(ScheduleFired, _schedule_fired)
    events.subscribe(RowsRefused, _rows_refused)
    events.subscribe(RelayUnavailable, _relay_unavailable)
    events.subscribe(RelayAvailable, _relay_available)


def _log_of(event: WorkerEvent) -> Log:
    """Return the log for an event, with the queue's name if its worker has several."""
    return Log("redisjobs.worker", [event.queue]) if event.queues else worker


def _is_logged_elsewhere(event: WorkerEvent) -> bool:
    """Return whether the event is about the whole worker, and is logged for the first of its queues."""
    return bool(event.queues) and event.queue != event.queues[0]


def _settled(event: JobsSettled) -> None:
    """Log one line for each job, a failure with its traceback. The record's attributes hold the job's facts."""
    log = _log_of(event)
    for job in event.jobs:
        error = job.outcome.error if isinstance(job.outcome, Raised) else None
        if isinstance(event, JobsCompleted) and _is_refused(job):
            continue  # logged when it was settled
        level, what = _what(event, job, error)
        if not worker.isEnabledFor(level):
            continue
        if job.lease is None:
            log.log(level, "job %s: %s", visible(job.job_id), what, extra={"job_id": job.job_id})
            continue
        log.log(
            level,
            "job %s (%s, attempt %d, %.3f s): %s",
            visible(job.job_id),
            visible(job.name),
            job.attempt,
            job.ran,
            what,
            exc_info=error if level >= logging.WARNING and not isinstance(event, LeasesLost) else None,
            extra={
                "job_id": job.job_id,
                "job_name": job.name,
                "attempt": job.attempt,
                "queue": event.queue,
                "worker": event.worker,
                "deliveries": job.lease.deliveries,
                "reply": job.reply.value,
                "settlement": type(job.settlement).__name__,
                "sent_at": job.sent_at,
                "resent": job.resent,
            },
        )


class _Unhandled:
    """Warns about each job name without a handler, once in a run of a worker."""

    def __init__(self) -> None:
        self._registered = ""
        self._unknown = set[str]()

    def begin(self, event: WorkerStarted) -> None:
        """Note the names that a starting run has handlers for."""
        self._registered = ", ".join(event.names)
        self._unknown = set()

    def warn(self, event: JobsRetried) -> None:
        """Warn about names that are new in this run."""
        for job in event.jobs:
            unknown = isinstance(job.outcome, UnknownName) and job.name not in self._unknown
            if not unknown or len(self._unknown) >= _MOST_NAMES:
                continue
            self._unknown.add(job.name)
            _log_of(event).warning(
                "no handler for job '%s' (this worker has%s); the job waits for a worker that has one",
                visible(job.name),
                f": {self._registered}" if self._registered else " none",
            )


def _is_refused(job: SettledJob) -> bool:
    result = job.settlement.result if isinstance(job.settlement, Ack) else None
    return result is not None and bool(result.refused)


def _what(event: JobsSettled, job: SettledJob, error: BaseException | None) -> tuple[int, str]:
    match event, job.settlement:
        case LeasesLost(), _:
            return logging.WARNING, "the lease was lost before it was settled; nothing was written"
        case JobsCancelled(), _:
            return logging.INFO, "cancelled"
        case JobsRetried(), _ if isinstance(job.outcome, UnknownName):
            return logging.DEBUG, "has no handler here"
        case JobsRetried(), RetryLater(due):
            return _retried(job, due, error)
        case JobsDead(), DeadLetter(reason, text):
            return logging.ERROR, f"dead letter, {reason}: {text}"
        case JobsDead(), _ if job.reply is Reply.UNDECODABLE:
            return (
                logging.ERROR,
                "dead letter, undecodable: it was added with redis-cli and is not a job; its error says why",
            )
        case JobsDead(), _:
            return logging.ERROR, "dead letter, worker lost: its workers were lost with it"
        case JobsSuspended(), Suspend(wait, due):
            waits = visible(waits_for(wait.what, wait.key), 220)
            return logging.INFO, f"suspended, waits for {waits}{_until(due)}"
        case JobsReleased(), _:
            return logging.INFO, "released"
        case _:
            return logging.INFO, "done"


def _until(due: Due | None) -> str:
    if due is None:
        return ""
    return f", up to {in_words(due.ms / 1000)}" if isinstance(due, After) else f", up to {_at(due)}"


def _at(due: At) -> str:
    return f"{when(due.ms):%Y-%m-%d %H:%M:%SZ}"


def _retried(job: SettledJob, due: Due, error: BaseException | None) -> tuple[int, str]:
    at = f"in {in_words(due.ms / 1000)}" if isinstance(due, After) else f"at {_at(due)}"
    if error is not None and issubclass(type(deciding(error)), Snooze):
        return logging.INFO, f"snoozed, runs again {at}"
    if error is None:
        return logging.INFO, f"runs again {at}"
    of = f" of {job.attempts}" if job.attempts else ""
    return logging.WARNING, f"attempt {job.attempt}{of} failed ({describe(error)}); next attempt {at}"


def _reclaimed(event: JobsReclaimed) -> None:
    for worker_id in event.lost:
        _log_of(event).warning("worker %s is gone: it sent no heartbeat for a lease", visible(worker_id))
    if event.jobs:
        runs = "runs" if event.jobs == 1 else "run"
        _log_of(event).warning("%s of workers that are gone %s again", number_of(event.jobs, "job"), runs)


def _started(event: WorkerStarted) -> None:
    names = ", ".join(event.names) or "no handlers"
    where = f"'{event.queue}' at {event.server}" if event.server else f"'{event.queue}'"
    slots = number_of(event.slots, "slot")
    worker.info("worker %s runs queue %s in %s: %s", event.worker, where, slots, names)
    if not event.names:
        worker.warning(
            "this worker has no handlers for queue '%s', so it can run no job: import the modules that register "
            "them before it starts, as `redisjobs worker --import MODULE` does",
            event.queue,
        )


def _stopped(event: WorkerStopped) -> None:
    _outages.end(event.queue, event.server)
    if event.queues:
        worker.info("worker %s ended on queue '%s'", event.worker, event.queue)
    else:
        worker.info("worker %s ended", event.worker)


class _Outages:
    """The queues of this process that can't reach their store. One log line covers all queues of a server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # queues may run in the event loops of several threads
        self._queues: dict[str, set[str]] = {}

    def begin(self, store: str, queue: str) -> bool:
        """Note that a store is unavailable for a queue; return whether the queue is the first to notice."""
        with self._lock:
            is_first = store not in self._queues
            self._queues.setdefault(store, set()).add(queue)
            return is_first

    def end(self, queue: str, server: str) -> bool:
        """Note that a queue reaches its store, or stops; return whether it was the last that did not reach it."""
        with self._lock:
            over = [store for store in {server, _refusing(queue)} if self._queues.get(store) == {queue}]
            for store in (server, _refusing(queue)):
                self._queues.get(store, set()).discard(queue)
            for store in over:
                del self._queues[store]
            return bool(over)


def _refusing(queue: str) -> str:
    """Return a name for a store that refuses: a refusal concerns the keys of one queue."""
    return f"queue {queue}"


_outages = _Outages()


def _unavailable(event: SourceUnavailable) -> None:
    place = f" at {event.server}" if event.server else ""
    store = _refusing(event.queue) if event.refuses or not event.server else event.server
    if not _outages.begin(store, event.queue):
        return
    log = worker if event.server and not event.refuses else _log_of(event)
    what = f"the store{place} refuses" if event.refuses else f"the store{place} is unavailable"
    if event.leases is None or event.queues:
        log.warning("%s (%s); retrying", what, event.why)
    else:
        log.warning("%s (%s); keeping %d leases, retrying", what, event.why, event.leases)


def _available(event: SourceAvailable) -> None:
    if _outages.end(event.queue, event.server):
        log = worker if event.server else _log_of(event)
        log.info("the store%s is available again", f" at {event.server}" if event.server else "")


def _blocked(event: LoopBlocked) -> None:
    if _is_logged_elsewhere(event):
        return
    worker.warning(
        "the event loop is blocked for %.1f s in %s: no other job can start or end; the leases are kept",
        event.seconds,
        event.where,
    )


def _resumed(event: LoopResumed) -> None:
    if not _is_logged_elsewhere(event):
        worker.info("the event loop runs again, after %.1f s", event.seconds)


def _process_ended(event: ProcessEnded) -> None:
    if _is_logged_elsewhere(event):
        return
    level = logging.INFO if event.in_order and event.expected else logging.WARNING
    supervisor.log(level, "worker process %d %s", event.ended, event.how)


def _schedule_fired(event: ScheduleFired) -> None:
    name, slot = visible(event.schedule), event.slot.isoformat()
    added = sum(is_added for _, _, is_added in event.jobs)
    scheduler.info("schedule '%s' fired for %s, jobs pushed: %d", name, slot, added)
    if event.missed:
        slots = number_of(event.missed, "slot")
        scheduler.warning("schedule '%s': %s before %s got no job", name, slots, slot)


def _rows_refused(event: RowsRefused) -> None:
    for seq, job_id, name, error in event.rows:
        what = f"row {seq} of redisjobs.outbox, job {visible(job_id)} ({visible(name)})"
        relay.error("queue '%s': %s, can't be pushed, and is set aside: %s", event.queue, what, visible(error))


def _relay_unavailable(event: RelayUnavailable) -> None:
    relay.warning("queue '%s': the relay can't push (%s); retrying", event.queue, visible(event.why))


def _relay_available(event: RelayAvailable) -> None:
    relay.info("queue '%s': the relay pushes again", event.queue)
