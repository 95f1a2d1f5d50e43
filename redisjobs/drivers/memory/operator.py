"""What an operator does and sees: the twins of `lua/{cancel,requeue,delete,find,jobs,counts,backlog}.lua`."""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from redisjobs.drivers.memory.ends import conclude, forget_end
from redisjobs.drivers.memory.include import (
    MOST_FIELDS,
    by_due,
    delay,
    due_time,
    enqueue,
    finish,
    forget_job,
    holder,
    is_waiting,
    keep,
    locate,
)
from redisjobs.drivers.memory.limits import limit, limits
from redisjobs.drivers.memory.pauses import hold, pause, pauses, resume, unhold, unpark
from redisjobs.drivers.memory.retention import declare, retain, tidy
from redisjobs.drivers.memory.rows import aside_row, delayed_row, ready_row
from redisjobs.drivers.memory.scans import groups, scan
from redisjobs.drivers.memory.schedules import (
    fire,
    pause_schedule,
    put_schedule,
    remove_schedule,
    schedules,
    withdraw_schedules,
)
from redisjobs.drivers.memory.state import ALONE, RELEASED, Memory, encoded
from redisjobs.drivers.memory.waiting import ask
from redisjobs.model.changes import (
    BulkResult,
    Cancel,
    Change,
    ChangeMany,
    Declare,
    Delete,
    DeleteAll,
    GetStatus,
    Hold,
    Pause,
    Requeue,
    RequeueAll,
    Resume,
    Retain,
    SetLimit,
    Tidy,
    Unhold,
    Unpark,
)
from redisjobs.model.driver import supported
from redisjobs.model.job import Priority, State
from redisjobs.model.queries import (
    Backlog,
    Count,
    Counts,
    Filter,
    Find,
    FindLimits,
    FindPauses,
    FindWorkers,
    GetBacklog,
    GroupDead,
    Query,
    Row,
    Scan,
    WorkersFound,
    backlog_since,
)
from redisjobs.model.stored import (
    Fire,
    ListSchedules,
    PauseSchedule,
    PutSchedules,
    RemoveSchedule,
    WithdrawSchedules,
)
from redisjobs.model.transitions import After, Reply

T = TypeVar("T")

_MOST_TAKEN = 200  # dead letters of a step
_STRIPPED = (  # what a requeued job leaves behind: its failure, its attempts, its claims on time and uniqueness
    b"reason error traceback error_type fingerprint failed_at worker deliveries priority attempt unknown_since "
    b"expires_at started_at unique unique_until window finished_at ran_ms"
).split()


def cancel(memory: Memory, change: Cancel) -> Reply:
    """Cancel a job, wherever it is."""
    with memory.lock:
        job_id, place, entry = locate(memory, change.job_id)
        if not place or place in ("completed", "cancelled"):
            return Reply.NOT_FOUND
        if place == "dead":
            return Reply.DEAD
        if place == "delayed":
            memory.held.pop(job_id, None)
            job = memory.delayed.pop(job_id)
            conclude(memory, job_id, "cancelled", job.fields)
            forget_job(memory, job_id, job.fields)
            memory.count("cancelled")
            keep(memory, "cancelled", job.priority, entry, job_id, job.fields, {})
            return Reply.CANCELLED
        stream = memory.stream(Priority(place))
        worker = holder(stream, entry)
        if not is_waiting(worker):
            _mark(memory, job_id, place, entry, worker)
            return Reply.CANCELLING
        memory.held.pop(job_id, None)
        finish(memory, stream, entry, job_id, "cancelled", {})
        return Reply.CANCELLED


def _mark(memory: Memory, job_id: str, place: str, entry: str, worker: str) -> None:
    """Note beside the place of a job that runs, and in the record of who runs it, that it is to be cancelled."""
    memory.located[job_id] = (place, entry)
    memory.marks[place, entry] = "cancelling"
    if worker in memory.workers:
        memory.workers[worker].cancels += 1
    memory.tell("cancel", job_id)


def requeue(memory: Memory, change: Requeue) -> Reply:
    """Give a dead letter another life; where it is asked for, a job that was kept."""
    with memory.lock:
        job_id, place, letter = locate(memory, change.job_id)
        if place not in memory.aside or not (place == State.DEAD or change.ended):
            return Reply.NOT_FOUND
        fields = memory.aside[place][letter]
        kept = {key: value for key, value in fields.items() if key not in _STRIPPED}
        if len(kept) > MOST_FIELDS:
            return Reply.OVERSIZED
        if change.parameters is not None:
            kept[b"parameters"] = change.parameters
        if change.limit_key:
            kept[b"limit_key"] = encoded(change.limit_key)
        del memory.aside[place][letter]
        priority, now_ms = Priority(fields[b"priority"].decode()), memory.now_ms()
        due_ms = due_time(change.due, now_ms)
        if due_ms > now_ms:
            delay(memory, job_id, priority, kept, due_ms)
        else:
            enqueue(memory, job_id, memory.stream(priority), kept)
        forget_end(memory, job_id)
        memory.count("requeued")
        return Reply.OK


def delete(memory: Memory, change: Delete) -> Reply:
    """Throw a dead letter away, or a job that was kept."""
    with memory.lock:
        job_id, place, letter = locate(memory, change.job_id)
        if place not in memory.aside:
            return Reply.NOT_FOUND
        forget_job(memory, job_id, memory.aside[place].pop(letter))
        memory.count("deleted")
        return Reply.OK


def requeue_all(memory: Memory, change: RequeueAll) -> BulkResult:
    """Give dead letters another life, one step."""
    wait_ms = change.wait_ms

    def take(letter: str) -> bool:
        nonlocal wait_ms
        due = After(wait_ms) if wait_ms > 0 else None
        is_taken = requeue(memory, Requeue(letter, due)) is Reply.OK
        wait_ms += change.pause_ms if is_taken else 0.0
        return is_taken

    return _take(memory, change.filter, change.after, take)


def delete_all(memory: Memory, change: DeleteAll) -> BulkResult:
    """Throw dead letters away, one step."""
    return _take(memory, change.filter, change.after, lambda letter: delete(memory, Delete(letter)) is Reply.OK)


def _take(memory: Memory, wanted: Filter, after: str, take: Callable[[str], bool]) -> BulkResult:
    with memory.lock:
        if not after:
            newest = next(reversed(memory.aside["dead"]), "")
            return BulkResult([], newest and _next_to(newest))
        step = scan(memory, Scan(State.DEAD, wanted, after, _MOST_TAKEN))
        return BulkResult([row.job_id for row in step.rows if take(f"{row.key}@dead")], step.after)


def _next_to(entry: str) -> str:
    ms, _, sequence = entry.partition("-")
    return f"{ms}-{int(sequence) + 1}"


def several(memory: Memory, changes: ChangeMany) -> list[Reply]:
    """Make some changes, one after another."""
    return [change(memory, each) for each in changes.changes]


def find(memory: Memory, query: Find) -> Row | None:
    """Where one job is."""
    with memory.lock:
        job_id, place, entry = locate(memory, query.job_id)
        if not place:
            return None
        if place in memory.aside:
            return aside_row(memory, State(place), entry)
        if place == "delayed":
            return delayed_row(memory, job_id, memory.delayed[job_id])
        return ready_row(memory, memory.stream(Priority(place)), entry)


def counts(memory: Memory, query: Count) -> Counts:
    """Count the jobs in each state, and tell the counters."""
    with memory.lock:
        running = {s.priority: sum(not is_waiting(p.worker) for p in s.pending.values()) for s in memory.streams}
        ready = {s.priority: len(s.entries) - running[s.priority] for s in memory.streams}
        aside = {state: len(entries) for state, entries in memory.aside.items()}
        return Counts(ready, sum(running.values()), len(memory.delayed), totals=dict(memory.totals), **aside)


def backlog(memory: Memory, query: GetBacklog) -> Backlog:
    """Tell since when the oldest ready jobs have been ready, and how many workers there are."""
    with memory.lock:
        since: list[tuple[Priority, float]] = []
        for stream in memory.streams:
            back = stream.held(RELEASED, ALONE)
            since += [(stream.priority, _ms_of(entry)) for entry in [*back, *stream.unread]]
        now_ms, now = memory.now_ms(), time.monotonic()
        first = next(iter(by_due(memory)), None)
        if first is not None and first[1].due_ms <= now_ms:
            since.append((first[1].priority, first[1].due_ms))
        return backlog_since(since, now_ms, sum(record.until > now for record in memory.workers.values()))


def workers(memory: Memory, query: FindWorkers) -> WorkersFound:
    """Tell which workers there are, and what each said at its last heartbeat."""
    with memory.lock:
        now = time.monotonic()
        return WorkersFound([(worker, each.until - now, each.facts) for worker, each in memory.workers.items()])


def _ms_of(entry: str) -> int:
    return int(entry.partition("-")[0])


_READS: Mapping[type[Query[Any]], Callable[[Memory, Any], Any]] = {
    Find: find,
    FindLimits: limits,
    FindPauses: pauses,
    FindWorkers: workers,
    Scan: scan,
    GroupDead: groups,
    Count: counts,
    ListSchedules: schedules,
    GetBacklog: backlog,
}
_CHANGES: Mapping[type[Change[Any]], Callable[[Memory, Any], Any]] = {
    Cancel: cancel,
    Requeue: requeue,
    Delete: delete,
    ChangeMany: several,
    RequeueAll: requeue_all,
    DeleteAll: delete_all,
    GetStatus: ask,
    Retain: retain,
    Declare: declare,
    Tidy: tidy,
    Hold: hold,
    Unhold: unhold,
    Pause: pause,
    Resume: resume,
    Unpark: unpark,
    SetLimit: limit,
    PutSchedules: put_schedule,
    WithdrawSchedules: withdraw_schedules,
    PauseSchedule: pause_schedule,
    RemoveSchedule: remove_schedule,
    Fire: fire,
}


def read(memory: Memory, query: Query[T]) -> T:
    """Answer a query."""
    answer: T = supported(_READS, query, "memory")(memory, query)
    return answer


def change(memory: Memory, change: Change[T]) -> T:
    """Make a change."""
    answer: T = supported(_CHANGES, change, "memory")(memory, change)
    return answer
