"""An operator's side: functions that answer queries and make changes, also those that workers declare."""

import math
from collections.abc import Callable, Iterable, Sequence

from redisjobs.drivers.memory.children import end_child_at, forget_group, reopen
from redisjobs.drivers.memory.ends import finish, forget, remember, trim
from redisjobs.drivers.memory.history import add_line, event, history, note
from redisjobs.drivers.memory.limits import give_turns, tidy_lines
from redisjobs.drivers.memory.pushes import due_time, forget_end, holder_of, living
from redisjobs.drivers.memory.state import CHANGES, REMEMBERED, Memory, StoredJob, answers, encoded
from redisjobs.drivers.memory.steps import forget_from, has_step
from redisjobs.errors import DriverError
from redisjobs.model import changes, queries
from redisjobs.model.children import CancelChildren, ChildOutcome, ChildState
from redisjobs.model.info import STOPPING
from redisjobs.model.job import WAITING, Priority, State, WhyWaiting
from redisjobs.model.transitions import MOST_JOBS, After, Reply

_SINCE = {State.DEAD: b"failed_at", State.COMPLETED: b"finished_at", State.CANCELLED: b"finished_at"}
_NEVER = 2**53  # ms: when a job is due that waits for no time
_MOST_CHILDREN = 100  # that one call cancels
_MOST_TAKEN = 200  # dead letters that one step of a bulk change takes
_REQUEUED = (Reply.OK, Reply.INDEPENDENT)
_CHANGED = (*_REQUEUED, Reply.CANCELLED, Reply.CANCELLING)
_TIDY_MS = 55_000  # the queue is not tidied again within this time
_STRIPPED = (  # fields that a requeued job loses: its failure, its attempts, its unique key, its expiry
    b"reason error traceback error_type fingerprint failed_at worker deliveries priority attempt unknown_since "
    b"expires_at started_at suspended_at waits window finished_at ran_ms"
).split()


@answers(queries.Find)
def _find(memory: Memory, query: queries.Find) -> queries.Row | None:
    job = memory.jobs.get(query.job_id)
    return None if job is None else _row(memory, job)


def _row(memory: Memory, job: StoredJob) -> queries.Row:
    is_running, is_later = job.state is State.RUNNING, job.state in (State.DELAYED, State.SUSPENDED)
    is_waiting, now_ms = is_later or job.state is State.READY, memory.now_ms()
    ran_ms = int((memory.monotonic() - job.since) * 1000) if is_running else None
    return queries.Row(
        job_id=job.id,
        state=job.state,
        priority=job.priority,
        key="" if is_later else str(job.number),
        queued_ms=0 if is_later else job.since_ms,
        due_ms=(job.due_ms or None) if is_later else None,
        worker=job.place.worker,
        deliveries=job.deliveries,
        cancelling=job.is_cancelling,
        fields=job.fields,
        held=job.id in memory.held if is_waiting else False,
        started_ms=None if ran_ms is None else now_ms - ran_ms,
        ran_ms=ran_ms,
        why_waiting=_obstacle(memory, job) if is_waiting else None,
        progress=((is_waiting or is_running) and memory.progress.current(job.id, now_ms)) or b"",
        history=encoded(history(job)).decode("utf-8", "replace"),
    )


def _obstacle(memory: Memory, job: StoredJob) -> WhyWaiting | None:
    """Return what keeps a waiting job from starting; None: nothing but its place in line, or its due time."""
    line = memory.lines.get(job.counts_as)
    obstacles = {
        WhyWaiting.HELD: job.id in memory.held,
        WhyWaiting.PAUSED: memory.paused is not None,
        WhyWaiting.NAME_PAUSED: job.name in memory.paused_names,
        WhyWaiting.LIMIT: line is not None and job.number in line.waiting,
        WhyWaiting.NO_WORKER: all(worker.until <= memory.monotonic() for worker in memory.workers.values()),
        WhyWaiting.NO_HANDLER: b"unknown_since" in job.fields,
        WhyWaiting.LAST_DELIVERY: job.place is memory.isolated,
    }
    return next((why for why, is_so in obstacles.items() if is_so), None)


@answers(queries.Scan)
def _scan(memory: Memory, query: queries.Scan) -> queries.Scanned:
    rows: list[queries.Row] = []
    jobs = _after(memory, query.state, query.after, query.filter.fingerprint)
    for looked, (after, job) in enumerate(jobs, 1):
        if _passes(job, query.filter, memory.now_ms()):
            rows.append(_row(memory, job))
        if looked == MOST_JOBS or len(rows) == query.limit:
            return queries.Scanned(rows, after)
    return queries.Scanned(rows)


def _after(memory: Memory, state: State, after: str, fingerprint: str) -> list[tuple[str, StoredJob]]:
    """Return the jobs of a state that come after a place, in order, each with its own place."""

    def place(job: StoredJob) -> tuple[int, int]:
        if state in memory.aside:
            return 0, -job.number  # the newest first
        if state is State.SUSPENDED:
            return job.due_ms or _NEVER, job.number
        return job.due_ms if state is State.DELAYED else job.rank, job.number

    places = {**memory.aside, State.DELAYED: memory.delayed, State.SUSPENDED: memory.suspended}
    jobs: Iterable[StoredJob] = places.get(state, memory.delayed).values()
    if state is State.DEAD and fingerprint:
        jobs = [job for job in jobs if kind_of(job) == fingerprint]
    if state in (State.READY, State.RUNNING):
        jobs = memory.waiting() if state is State.READY else memory.running()
    try:
        begin = tuple(map(int, after.split())) if after else (-1, 0)
    except ValueError:
        raise DriverError(f"after={after!r:.60}: no scan ends there") from None
    found = sorted(((place(job), job) for job in jobs), key=lambda each: each[0])
    return [(f"{at[0]} {at[1]}", job) for at, job in found if at > begin]


def _passes(job: StoredJob, wanted: queries.Filter, now_ms: int) -> bool:
    exact = {b"name": wanted.name, b"reason": wanted.reason}
    if any(text and job.text(name) != text for name, text in exact.items()):
        return False
    worker = job.place.worker or job.text(b"worker")
    if wanted.fingerprint not in ("", kind_of(job)) or wanted.worker not in ("", worker):
        return False
    since_ms = _time_of(job, _SINCE.get(job.state, b"queued_at"))
    if wanted.older_ms is not None and since_ms > now_ms - wanted.older_ms:
        return False
    return any(wanted.text in job.text(name) for name in (b"parameters", b"error"))


def _time_of(job: StoredJob, name: bytes) -> int:
    """Return the time in a field, in ms; without one, when the job came to its place."""
    text = job.fields.get(name, b"")
    return int(text) if text.isdigit() and len(text) < 16 else job.since_ms


def kind_of(job: StoredJob) -> str:
    """Return the kind of failure that a dead letter counts under."""
    return job.text(b"fingerprint") or job.text(b"reason")


@answers(queries.GroupDead)
def _group_dead(memory: Memory, query: queries.GroupDead) -> queries.Grouped:
    kinds: dict[str, list[StoredJob]] = {}
    for job in reversed(memory.aside[State.DEAD].values()):
        kinds.setdefault(kind_of(job), []).append(job)
    groups = [_group(kind, jobs, memory.now_ms()) for kind, jobs in kinds.items()]
    groups.sort(key=lambda group: (group.last_ms, group.fingerprint), reverse=True)
    return queries.Grouped(groups)


def _group(kind: str, jobs: Sequence[StoredJob], now_ms: int) -> queries.DeadKind:
    newest, times = jobs[0], [_time_of(job, b"failed_at") for job in jobs]
    ages = [(now_ms - ms) // 300_000 for ms in times]
    return queries.DeadKind(
        fingerprint=kind,
        reason=newest.text(b"reason"),
        error_type=newest.text(b"error_type"),
        count=len(jobs),
        first_ms=min(times),
        last_ms=max(times),
        job_id=newest.id,
        error=newest.text(b"error"),
        names=list(dict.fromkeys(job.name for job in jobs[:10])),
        recent=[ages.count(age) for age in range(11, -1, -1)],
    )


@answers(queries.Count)
def count(memory: Memory, query: queries.Count) -> queries.Counts:
    """Count the jobs in each state."""
    ready = dict.fromkeys(Priority, 0)
    for job in memory.waiting():
        ready[job.priority] += 1
    aside = {str(state): len(place) for state, place in memory.aside.items()}
    running, suspended = sum(1 for _ in memory.running()), len(memory.suspended)
    return queries.Counts(
        ready, running, len(memory.delayed), totals=dict(memory.totals), **aside, suspended=suspended
    )


@answers(queries.GetBacklog)
def backlog(memory: Memory, query: queries.GetBacklog) -> queries.Backlog:
    """Find the oldest ready jobs."""
    new = [next(iter(place.values())) for place in memory.new.values() if place]
    now_ms, now = memory.now_ms(), memory.monotonic()
    since = [
        (job.priority, float(job.since_ms)) for job in (*memory.returned.values(), *memory.isolated.values(), *new)
    ]
    since += [(job.priority, float(job.due_ms)) for job in memory.due(now_ms) if job.wait is None][:1]
    return queries.backlog_since(since, now_ms, sum(worker.until > now for worker in memory.workers.values()))


@answers(queries.FindWorkers)
def _find_workers(memory: Memory, query: queries.FindWorkers) -> queries.WorkersFound:
    now = memory.monotonic()
    found = [
        (each.id, each.until - now, {**each.facts, "wish": each.wish or ""}) for each in memory.workers.values()
    ]
    return queries.WorkersFound(found)


@answers(changes.AskWorker)
def _ask_worker(memory: Memory, change: changes.AskWorker) -> Reply:
    worker = memory.workers.get(change.worker_id)
    if worker is None:
        return Reply.NOT_FOUND
    is_stopping = worker.wish is changes.Wish.STOP or worker.facts.get("state") == STOPPING
    if is_stopping and change.wish is not changes.Wish.STOP:
        return Reply.STOPPING
    worker.wish = change.wish
    memory.tell("wish", worker.id)
    return Reply.OK


@answers(queries.FindPauses)
def _find_pauses(memory: Memory, query: queries.FindPauses) -> queries.Pauses:
    return queries.Pauses(memory.paused, dict(memory.paused_names), len(memory.held))


@answers(changes.Cancel)
def _cancel(memory: Memory, change: changes.Cancel) -> Reply:
    return _once(memory, change, lambda: _cancel_one(memory, change.job_id))


def _once(memory: Memory, change: changes.Once, make: Callable[[], Reply]) -> Reply:
    now_ms = memory.now_ms()
    word = memory.changed.current(change.nonce, now_ms)
    if word is None:
        word = make()
        if word in _CHANGED:
            memory.changed.put(change.nonce, word, now_ms + REMEMBERED, now_ms)
    return word


@answers(CancelChildren)
def _cancel_children(memory: Memory, change: CancelChildren) -> bool:
    token, first = next(iter(memory.cancelling.items()), ("", 0))
    group = memory.groups.get(token)
    if group is None:
        return False
    until = min(first + _MOST_CHILDREN, group.total)
    memory.cancelling[token] = until
    for index in range(first, until):
        if index not in group.outcomes:
            reply = _cancel_one(memory, group.ids.get(index, f"{token}-{index}"))
            if reply is Reply.NOT_FOUND:  # its parent has not come to add it
                end_child_at(memory, token, index, ChildOutcome(ChildState.CANCELLED))
    if until == group.total:
        memory.cancelling.pop(token, None)
    return bool(memory.cancelling)


def _cancel_one(memory: Memory, job_id: str) -> Reply:
    job = living(memory, job_id)
    if job is None or job.state is State.DEAD:
        return Reply.DEAD if job else Reply.NOT_FOUND
    if job.state is not State.RUNNING:
        memory.held.pop(job.id, None)
        finish(memory, job, State.CANCELLED, {})
        return Reply.CANCELLED
    job.is_cancelling = True
    note(job, event(memory.now_ms(), "cancel-asked", job.place.worker))
    if job.place.worker in memory.workers:
        memory.workers[job.place.worker].cancels += 1
    memory.tell("cancel", job.id)
    return Reply.CANCELLING


@answers(changes.Requeue)
def _requeue(memory: Memory, change: changes.Requeue) -> Reply:
    return _once(memory, change, lambda: _requeue_one(memory, change))


def _requeue_one(memory: Memory, change: changes.Requeue) -> Reply:
    job = memory.jobs.get(change.job_id)
    if job is None or not (job.state is State.DEAD or (change.ended and job.has_ended)):
        return Reply.NOT_FOUND
    if change.key not in ("", str(job.number)):
        return Reply.NOT_FOUND
    if not has_step(memory, job, change.from_step):
        return Reply.NO_STEP
    key = job.text(b"unique") if change.unique is None else change.unique
    if holder_of(memory, key):
        return Reply.DUPLICATE
    for token in forget_from(memory, job, change.from_step):
        forget_group(memory, token)
    fields = {name: value for name, value in job.fields.items() if name not in _STRIPPED}
    if key:
        fields[b"unique"] = encoded(key)
        memory.uniques.put(key, job.id, math.inf, memory.now_ms())
    else:
        fields.pop(b"unique", None)
    is_independent = b"child_of" in fields and not reopen(memory, job)
    fields[b"history"] = encoded(_story_of(memory, job, change.parameters is not None, is_independent))
    if change.parameters is not None:
        fields[b"parameters"] = change.parameters
    if change.limit_key:
        fields[b"limit_key"] = encoded(change.limit_key)
    if is_independent:
        del fields[b"child_of"]
    job.fields = fields
    memory.enqueue(job, due_time(change.due, memory.now_ms()))
    forget_end(memory, job.id)
    memory.count("requeued")
    return Reply.INDEPENDENT if is_independent else Reply.OK


def _story_of(memory: Memory, job: StoredJob, is_edited: bool, is_independent: bool) -> str:
    """Return a job's history, with how it ended, and that it is requeued."""
    what, note, ended_ms = "ended", "", job.since_ms
    if job.state is State.DEAD:
        what, note, ended_ms = "died", f"{job.text(b'reason')}: {job.text(b'error')}", _time_of(job, b"failed_at")
    ended = event(ended_ms, what, job.text(b"worker"), job.text(b"attempt"), note)
    old = job.text(b"parameters") if is_edited else ""
    now_ms = memory.now_ms()
    text = add_line(history(job, ended), event(now_ms, "edited" if is_edited else "requeued", note=old))
    return add_line(text, event(now_ms, "independent", note="its parent had gone on")) if is_independent else text


@answers(changes.Delete)
def _delete(memory: Memory, change: changes.Delete) -> Reply:
    return _once(memory, change, lambda: _delete_one(memory, change.job_id))


def _delete_one(memory: Memory, job_id: str) -> Reply:
    job = memory.jobs.get(job_id)
    if job is None or job.state not in memory.aside:
        return Reply.NOT_FOUND
    memory.remove(job)
    if job.state is State.DEAD:
        forget(memory, job)
    remember(memory, job)
    memory.count("deleted")
    return Reply.OK


@answers(changes.RequeueAll)
def _requeue_all(memory: Memory, change: changes.RequeueAll) -> changes.BulkResult:
    wait_ms = change.wait_ms

    def take(job_id: str) -> Reply:
        nonlocal wait_ms
        reply = _requeue_one(memory, changes.Requeue(job_id, After(wait_ms) if wait_ms > 0 else None))
        wait_ms += change.pause_ms if reply in _REQUEUED else 0
        return reply

    return _take(memory, change.filter, change.after, take)


@answers(changes.DeleteAll)
def _delete_all(memory: Memory, change: changes.DeleteAll) -> changes.BulkResult:
    return _take(memory, change.filter, change.after, lambda job_id: _delete_one(memory, job_id))


def _take(memory: Memory, wanted: queries.Filter, after: str, take: Callable[[str], Reply]) -> changes.BulkResult:
    """Call `take` with the dead letters that pass a filter, from where an earlier step left off."""
    if not after:  # the first step only notes the newest dead letter, and takes none that comes later
        newest = next(reversed(memory.aside[State.DEAD]), None)
        return changes.BulkResult([], "" if newest is None else f"0 {-newest - 1}")
    step = _scan(memory, queries.Scan(State.DEAD, wanted, after, _MOST_TAKEN))
    replies = {row.job_id: take(row.job_id) for row in step.rows}
    taken = [job_id for job_id, reply in replies.items() if reply in _REQUEUED]
    return changes.BulkResult(taken, step.after, len(replies) - len(taken))


@answers(changes.ChangeMany)
def _change_many(memory: Memory, many: changes.ChangeMany) -> list[Reply]:
    return [CHANGES[type(each)](memory, each) for each in many.changes]


@answers(changes.Hold)
def _hold(memory: Memory, change: changes.Hold) -> Reply:
    job = living(memory, change.job_id)
    if job is None or job.state not in WAITING:
        return Reply[job.state.name] if job else Reply.NOT_FOUND
    memory.held.setdefault(job.id, memory.now_ms())
    return Reply.HELD


@answers(changes.Unhold)
def _unhold(memory: Memory, change: changes.Unhold) -> Reply:
    was_held = change.job_id in memory.held
    memory.held.pop(change.job_id, None)
    job = memory.jobs.get(change.job_id)
    if job is not None and job.place is memory.parked and not memory.may_not_start(job):
        memory.hand_back(job, job.deliveries)
        memory.tell("released", "1")
        return Reply.OK
    return Reply.OK if was_held else Reply.NOT_FOUND


@answers(changes.Pause)
def _pause(memory: Memory, change: changes.Pause) -> Reply:
    if change.name:
        memory.paused_names.setdefault(change.name, memory.now_ms())
    elif memory.paused is None:
        memory.paused = memory.now_ms()
        memory.tell("paused", "")
    return Reply.OK


@answers(changes.Resume)
def _resume(memory: Memory, change: changes.Resume) -> Reply:
    if change.name:
        if memory.paused_names.pop(change.name, None) is not None:
            give_turns(memory, change.name)
    elif memory.paused is not None:
        memory.paused = None
        memory.tell("resumed", "")
    return Reply.OK


@answers(changes.Unpark)
def _unpark(memory: Memory, change: changes.Unpark) -> str:
    jobs = [job for job in memory.parked.values() if not memory.may_not_start(job)]
    for job in jobs:
        memory.hand_back(job, job.deliveries)
    if jobs:
        memory.tell("released", str(len(jobs)))
    return ""


@answers(changes.Retain)
def _retain(memory: Memory, change: changes.Retain) -> Reply:
    memory.retention = change.retention
    return Reply.OK


@answers(changes.Declare)
def _declare(memory: Memory, change: changes.Declare) -> bool:
    is_known = change.declaration in memory.declared
    if change.done:
        memory.declared.add(change.declaration)
    return is_known


@answers(changes.Tidy)
def _tidy(memory: Memory, change: changes.Tidy) -> changes.Tidied:
    now_ms = memory.now_ms()
    if memory.tidied_ms is not None and memory.tidied_ms <= now_ms < memory.tidied_ms + _TIDY_MS:
        return changes.Tidied()
    memory.tidied_ms = now_ms
    _unpark(memory, changes.Unpark())
    tidy_lines(memory)
    while _cancel_children(memory, CancelChildren()):
        pass
    return changes.Tidied(trimmed=trim(memory))
