"""What a producer does: the twin of `lua/push.lua`."""

from collections.abc import Mapping, Sequence

from redisjobs.drivers.memory.ends import forget_end
from redisjobs.drivers.memory.include import REMEMBERED, delay, due_time, enqueue, remember, stored
from redisjobs.drivers.memory.state import Fields, Memory, Push, encoded
from redisjobs.transitions import NewJob, Pushed, Reply


def push(memory: Memory, jobs: Sequence[NewJob], *, repeated: bool) -> list[Pushed]:
    """Put jobs on the queue, each id once.

    What ended in the last minute is looked for, `repeated` or not: it is in one place. None comes late.
    """
    with memory.lock:
        answers: list[Pushed] = []
        again: set[Push] = set()
        added: set[str] = set()
        for job in jobs:
            one = (job.job_id, job.nonce.encode())
            answer = Pushed(Reply.EXISTS) if one in again else _push(memory, job, one, added, repeated=repeated)
            if answer.reply in (Reply.OK, Reply.REPEATED, Reply.REFUSED):
                again.add(one)
            elif repeated and one not in again:
                remember(memory, memory.refused, one)
            answers.append(answer)
        return answers


def _push(memory: Memory, job: NewJob, one: Push, added: set[str], *, repeated: bool) -> Pushed:
    """Add a job, unless its push, its id or its unique key is known; `added` has the ids that this call added."""
    now_ms = memory.now_ms()
    was_refused = repeated and _lately(memory.refused, one, now_ms)
    if not was_refused and _lately(memory.finished, one, now_ms):
        return Pushed(Reply.REPEATED)
    if job.job_id in added:
        return Pushed(Reply.EXISTS)
    place, _ = memory.located.get(job.job_id, ("", ""))
    if place and place not in ("completed", "cancelled"):  # the id of one that has ended, and was kept, is free
        is_ours = not job.nonce or stored(memory, job.job_id).get(b"nonce", b"") == job.nonce.encode()
        return Pushed(Reply.REPEATED if is_ours else Reply.EXISTS)
    holder = unique_holder(memory, job.unique, now_ms)
    if holder is not None:
        return Pushed(Reply.DUPLICATE, holder)
    if was_refused:
        return Pushed(Reply.REFUSED)
    add(memory, job, now_ms)
    added.add(job.job_id)
    return Pushed(Reply.OK)


def push_with(memory: Memory, parent: str, job: NewJob) -> bool:
    """Add a job that another one pushes as it ends, unless its id or its unique key is taken; whether it was."""
    now_ms = memory.now_ms()
    place, _ = memory.located.get(job.job_id, ("", ""))
    if place and place not in ("completed", "cancelled"):
        return False
    if unique_holder(memory, job.unique, now_ms) not in (None, parent):
        return False
    add(memory, job, now_ms)
    return True


def add(memory: Memory, job: NewJob, now_ms: int) -> None:
    """Put a job on the queue; see lua/include/add_job."""
    fields = _fields(job, now_ms)
    if job.nonce:
        forget_end(memory, job.job_id)
    if job.unique:
        until = None if job.unique_for_ms is None else now_ms + job.unique_for_ms
        memory.uniques[job.unique] = (job.job_id, until)
    due_ms = due_time(job.due, now_ms)
    if due_ms > now_ms:
        fields[b"queued_at"] = b"%d" % now_ms
        delay(memory, job.job_id, job.priority, fields, due_ms)
    else:
        enqueue(memory, job.job_id, memory.stream(job.priority), fields)
    memory.count("pushed")


def _fields(job: NewJob, now_ms: int) -> Fields:
    flat = [encoded(part) for part in job.fields]
    fields: Fields = {b"id": encoded(job.job_id), **dict(zip(flat[::2], flat[1::2], strict=True))}
    if job.nonce:
        fields[b"nonce"] = job.nonce.encode()
    if job.expires_in_ms is not None:
        fields[b"expires_at"] = b"%d" % (now_ms + job.expires_in_ms)
    if job.unique and job.unique_for_ms is None:
        fields[b"unique"] = encoded(job.unique)
    return fields


def _lately(pushes: Mapping[Push, int], push: Push, now_ms: int) -> bool:
    return pushes.get(push, -REMEMBERED * 2) > now_ms - REMEMBERED


def unique_holder(memory: Memory, key: str, now_ms: int) -> str | None:
    """The id of the job that holds a unique key; None for nobody."""
    job_id, until = memory.uniques.get(key, ("", 0)) if key else ("", 0)
    return job_id if until is None or until > now_ms else None
