"""Changes that an operator makes, also those that workers declare."""

import math
from collections.abc import Callable

from redisjobs.drivers.memory.children import end_child_at, forget_group, reopen
from redisjobs.drivers.memory.ends import finish, forget, remember, trim
from redisjobs.drivers.memory.history import add_line, event, history, note
from redisjobs.drivers.memory.limits import give_turns, tidy_lines
from redisjobs.drivers.memory.pushes import due_time, forget_end, holder_of, living
from redisjobs.drivers.memory.reading import scan, time_of
from redisjobs.drivers.memory.state import CHANGES, REMEMBERED, Memory, StoredJob, answers, encoded
from redisjobs.drivers.memory.steps import forget_from, has_step
from redisjobs.model import changes, queries
from redisjobs.model.children import CancelChildren, ChildOutcome, ChildState
from redisjobs.model.info import STOPPING
from redisjobs.model.job import WAITING, State
from redisjobs.model.transitions import After, Reply

_MOST_CHILDREN = 100  # that one call cancels
_MOST_TAKEN = 200  # dead letters that one step of a bulk change takes
_REQUEUED = (Reply.OK, Reply.INDEPENDENT)
_CHANGED = (*_REQUEUED, Reply.CANCELLED, Reply.CANCELLING)
_TIDY_MS = 55_000  # the queue is not tidied again within this time
_STRIPPED = (  # fields that a requeued job loses: its failure, its attempts, its unique key, its expiry
    b"reason error traceback error_type fingerprint failed_at worker deliveries priority attempt unknown_since "
    b"expires_at started_at suspended_at waits window finished_at ran_ms"
).split()


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
        what, note, ended_ms = "died", f"{job.text(b'reason')}: {job.text(b'error')}", time_of(job, b"failed_at")
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
    step = scan(memory, queries.Scan(State.DEAD, wanted, after, _MOST_TAKEN))
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
