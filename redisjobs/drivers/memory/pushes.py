"""Adds jobs to the queue: for a push, for another job that ends, for a schedule."""

import math
from collections.abc import Sequence

from redisjobs.drivers.memory.history import noted
from redisjobs.drivers.memory.state import REMEMBERED, Fields, Memory, Push, StoredJob, encoded
from redisjobs.model.job import OnConflict, State
from redisjobs.model.transitions import After, At, Due, NewJob, Pushed, Reply

_STAYS = (b"nonce", b"queued_at", b"attempt", b"error", b"started_at")  # fields that a replaced job keeps


def push(memory: Memory, jobs: Sequence[NewJob], *, repeated: bool) -> list[Pushed]:
    """Add jobs to the queue, each id once; return what became of each."""
    for job in jobs:
        if job.sent_ms is None:
            job.sent_ms = memory.now_ms()
    answers: list[Pushed] = []
    again: set[Push] = set()
    added: set[str] = set()
    for job in jobs:
        now_ms, one = memory.now_ms(), (job.job_id, job.nonce.encode())
        before = None if job.on_conflict is OnConflict.SKIP else memory.answers.current(one, now_ms)
        if one in again:
            answer = Pushed(Reply.EXISTS)
        else:
            answer = before or _push(memory, job, one, added, repeated=repeated)
        if before or answer.reply in (Reply.OK, Reply.REPEATED, Reply.REFUSED, Reply.REPLACED):
            again.add(one)
        elif repeated and answer.reply is not Reply.UNKNOWN and one not in again:
            memory.refused.put(one, True, now_ms + REMEMBERED, now_ms)
            _remember(memory, job, one, answer)
        answers.append(answer)
    return answers


def _push(memory: Memory, job: NewJob, one: Push, added: set[str], *, repeated: bool) -> Pushed:
    """Add a job, unless its push, its id or its unique key is known; `added` has the ids that this push added."""
    now_ms, there = memory.now_ms(), living(memory, job.job_id)
    was_refused = repeated and memory.refused.current(one, now_ms) is not None
    if not was_refused and memory.ended.current(one, now_ms) is not None:
        return Pushed(Reply.REPEATED)
    if there and job.job_id not in added and (not job.nonce or there.fields.get(b"nonce", b"") == one[1]):
        return Pushed(Reply.REPEATED)
    if repeated and not was_refused and job.sent_ms is not None and now_ms - job.sent_ms > REMEMBERED:
        return Pushed(Reply.UNKNOWN)  # too old: the job may have ended, and its push may be forgotten
    if there:
        return Pushed(Reply.EXISTS)
    if was_refused:
        holder_id, replaced = _holder(memory, job)
        if replaced or not holder_id:
            return Pushed(Reply.REFUSED)
    answer = add(memory, job)
    if answer.reply is Reply.OK:
        added.add(job.job_id)
    if answer.reply is Reply.REPLACED:
        _remember(memory, job, one, answer)
    return answer


def living(memory: Memory, job_id: str) -> StoredJob | None:
    """Return the job with this id, if it has not ended."""
    job = memory.jobs.get(job_id)
    return None if job is None or job.has_ended else job


def _remember(memory: Memory, job: NewJob, one: Push, answer: Pushed) -> None:
    """Remember the answer to a push that met a unique key, so that a repetition gets the same answer."""
    if job.on_conflict is not OnConflict.SKIP and answer.holder:
        now_ms = memory.now_ms()
        memory.answers.put(one, answer, now_ms + REMEMBERED, now_ms)


def push_with(memory: Memory, parent: StoredJob, job: NewJob) -> bool:
    """Add a job that `parent` pushes as it ends; return whether it was added."""
    if living(memory, job.job_id):
        return False
    is_added = add(memory, job, parent).reply is Reply.OK
    if is_added:  # its id is made of its parent's: an earlier run may have pushed the same id
        forget_end(memory, job.job_id)
    return is_added


def add(memory: Memory, job: NewJob, parent: StoredJob | None = None) -> Pushed:
    """Add a job, unless another one holds its unique key: then replace that one, or leave it as it is.

    The key of `parent` counts as free: that job ends, and pushes this one.
    """
    holder_id, replaced = _holder(memory, job, parent)
    if replaced:
        _replace(memory, job, replaced)
        return Pushed(Reply.REPLACED, holder_id)
    if holder_id:
        return Pushed(Reply.DUPLICATE, holder_id)
    if job.nonce:
        forget_end(memory, job.job_id)
    nonce: Fields = {b"nonce": job.nonce.encode()} if job.nonce else {}
    _put(memory, job, StoredJob(job.job_id, job.priority, {}), nonce)
    memory.count("pushed")
    return Pushed(Reply.OK)


def _replace(memory: Memory, job: NewJob, holder: StoredJob) -> None:
    """Give a waiting job the content of a new push; it keeps its id, nonce, attempt and time of push."""
    before = {b"queued_at": b"%d" % min(holder.since_ms, memory.now_ms()), **holder.fields}
    past = {encoded(name): encoded(text) for name, text in noted(holder).items()}
    _put(memory, job, holder, {name: before[name] for name in _STAYS if name in before} | past)
    memory.count("replaced")


def _put(memory: Memory, job: NewJob, there: StoredJob, notes: Fields) -> None:
    """Make a job ready or delayed, with a push's fields and some notes. From now on it holds its unique key."""
    now_ms, flat = memory.now_ms(), [encoded(part) for part in job.fields]
    fields = {b"id": encoded(there.id), **dict(zip(flat[::2], flat[1::2], strict=True)), **notes}
    if job.expires_in_ms is not None:
        fields[b"expires_at"] = b"%d" % (now_ms + job.expires_in_ms)
    if job.unique:
        fields[b"unique" if job.unique_for_ms is None else b"window"] = encoded(job.unique)
        until_ms = math.inf if job.unique_for_ms is None else now_ms + job.unique_for_ms
        memory.uniques.put(job.unique, there.id, until_ms, now_ms)
    due_ms = due_time(job.due, now_ms)
    if due_ms > now_ms:
        fields.setdefault(b"queued_at", b"%d" % now_ms)
    there.priority, there.fields = job.priority, fields
    memory.enqueue(there, due_ms)


def _holder(memory: Memory, job: NewJob, parent: StoredJob | None = None) -> tuple[str, StoredJob | None]:
    """Return the id of the job that holds a new job's unique key, or ''; and that job, if it is to be replaced."""
    holder_id = holder_of(memory, job.unique)
    if not holder_id or (parent and holder_id == parent.id and job.unique == parent.text(b"unique")):
        return "", None
    holder = memory.jobs.get(holder_id)
    if holder is None or has_begun(memory, holder) or holder.state not in (State.READY, State.DELAYED):
        return holder_id, None
    if b"child_of" in holder.fields:  # its parent waits for this one's result
        return holder_id, None
    has_key = job.unique in (holder.text(b"unique"), holder.text(b"window"))
    is_replaced = has_key and job.on_conflict is OnConflict.REPLACE and not holder.is_cancelling
    return holder_id, holder if is_replaced else None


def holder_of(memory: Memory, key: str) -> str:
    """Return the id of the job that holds a unique key; '' if no job does.

    A job that holds it until its start has started if it has begun.
    """
    holder_id = memory.uniques.current(key, memory.now_ms()) if key else None
    holder = memory.jobs.get(holder_id or "")
    if holder is not None and has_begun(memory, holder):
        is_over = holder.text(b"unique") == key and holder.text(b"unique_until") == "start"
        return "" if is_over else holder.id
    return holder_id or ""


def has_begun(memory: Memory, job: StoredJob) -> bool:
    """Return whether a job runs, or goes on from where an earlier run was: what that has saved is its own."""
    return job.state is State.RUNNING or (not job.has_ended and job.id in memory.steps)


def forget_end(memory: Memory, job_id: str) -> None:
    """Forget how an earlier job with this id ended, and what it reported."""
    for known in (memory.outcomes, memory.results, memory.progress, memory.chunks):
        known.pop(job_id, None)


def due_time(due: Due | None, now_ms: int) -> int:
    """Return when a job may run, in ms; 0 means at once."""
    match due:
        case None:
            return 0
        case After(ms):
            return math.ceil(now_ms + ms)
        case At(ms):
            return ms
