"""What a producer does: the twin of `lua/push.lua`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redisjobs.drivers.memory.ends import forget_end
from redisjobs.drivers.memory.include import (
    delay,
    due_time,
    enqueue,
    holder,
    is_waiting,
    pushed_at,
    remember,
    stored,
)
from redisjobs.drivers.memory.state import Fields, Memory, Push, encoded, text_of
from redisjobs.model.job import OnConflict, Priority
from redisjobs.model.times import REMEMBERED_MS
from redisjobs.model.transitions import NewJob, Pushed, Reply

_STAYS = (b"nonce", b"queued_at", b"attempt", b"error", b"started_at")  # of a job that is replaced


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """The job that holds a unique key, and whether it may be replaced."""

    job_id: str
    is_replaceable: bool


def push(memory: Memory, jobs: Sequence[NewJob], *, repeated: bool) -> list[Pushed]:
    """Put jobs on the queue, each id once.

    What ended in the last minute is looked for, `repeated` or not: it is in one place. None comes late.
    """
    with memory.lock:
        for job in jobs:
            if job.sent_ms is None:
                job.sent_ms = memory.now_ms()
        answers: list[Pushed] = []
        again: set[Push] = set()
        added: set[str] = set()
        for job in jobs:
            one = (job.job_id, job.nonce.encode())
            answered = _lately_answered(memory, job, one)
            if one in again:
                answer = Pushed(Reply.EXISTS)
            elif answered is not None:
                answer = answered
            else:
                answer = _push(memory, job, one, added, repeated=repeated)
            if answered or answer.reply in (Reply.OK, Reply.REPEATED, Reply.REFUSED, Reply.REPLACED):
                again.add(one)
            elif repeated and answer.reply is not Reply.UNKNOWN and one not in again:
                remember(memory, memory.refused, one)
                _note_answer(memory, job, one, answer)
            answers.append(answer)
        return answers


def _push(memory: Memory, job: NewJob, one: Push, added: set[str], *, repeated: bool) -> Pushed:
    """Add a job, unless its push, its id or its unique key is known; `added` has the ids that this call added."""
    now_ms = memory.now_ms()
    was_refused = repeated and _lately(memory.refused, one, now_ms)
    if not was_refused and _lately(memory.finished, one, now_ms):
        return Pushed(Reply.REPEATED)
    place, _ = memory.located.get(job.job_id, ("", ""))
    is_there = place and place not in ("completed", "cancelled")  # the id of one that ended, and was kept, is free
    if is_there and job.job_id not in added and _is_of(memory, job):
        return Pushed(Reply.REPEATED)
    if repeated and not was_refused and job.sent_ms is not None and now_ms - job.sent_ms > REMEMBERED_MS:
        return Pushed(Reply.UNKNOWN)  # what ended before the clock was set ahead may be forgotten
    if is_there or job.job_id in added:
        return Pushed(Reply.EXISTS)
    holding = key_holder(memory, job, now_ms)
    if was_refused and not _is_kept_from(job, holding):
        return Pushed(Reply.REFUSED)
    answer = add_or_replace(memory, job, holding, now_ms)
    if answer.reply is Reply.OK:
        added.add(job.job_id)
    if answer.reply is Reply.REPLACED:
        _note_answer(memory, job, one, answer)
    return answer


def _is_of(memory: Memory, job: NewJob) -> bool:
    """Whether the job of that id which is on the queue was added by this push."""
    return not job.nonce or stored(memory, job.job_id).get(b"nonce", b"") == job.nonce.encode()


def _note_answer(memory: Memory, job: NewJob, one: Push, answer: Pushed) -> None:
    """Remember what a push was answered that met a held key, if it cares: it is answered so again."""
    if job.on_conflict is not OnConflict.SKIP and answer.holder:
        now_ms = memory.now_ms()
        memory.conflicts.pop(one, None)
        memory.conflicts[one] = (answer, now_ms)
        while next(iter(memory.conflicts.values()))[1] < now_ms - 2 * REMEMBERED_MS:
            del memory.conflicts[next(iter(memory.conflicts))]


def _lately_answered(memory: Memory, job: NewJob, one: Push) -> Pushed | None:
    """What this push was answered in the last minute, if it met a held key and cares."""
    if job.on_conflict is OnConflict.SKIP or one not in memory.conflicts:
        return None
    answer, at_ms = memory.conflicts[one]
    return answer if at_ms > memory.now_ms() - REMEMBERED_MS else None


def add_or_replace(memory: Memory, job: NewJob, holding: KeyHolder | None, now_ms: int) -> Pushed:
    """Put a job on the queue, unless another one has its unique key; that one may be replaced."""
    if holding is None:
        add(memory, job, now_ms)
        return Pushed(Reply.OK)
    if _is_kept_from(job, holding):
        return Pushed(Reply.DUPLICATE, holding.job_id)
    _replace(memory, job, holding.job_id, now_ms)
    return Pushed(Reply.REPLACED, holding.job_id)


def _is_kept_from(job: NewJob, holding: KeyHolder | None) -> bool:
    """Whether the job that holds a key stays as it is, whatever this push says."""
    if holding is None:
        return False
    return job.on_conflict is not OnConflict.REPLACE or not holding.is_replaceable


def push_with(memory: Memory, parent: str, own_key: str, job: NewJob) -> bool:
    """Add a job that another one pushes as it ends, unless its id or its unique key is taken; whether it was.

    `own_key` is the unique key that its parent holds until it ends, and that is free now.
    """
    now_ms = memory.now_ms()
    place, _ = memory.located.get(job.job_id, ("", ""))
    if place and place not in ("completed", "cancelled"):
        return False
    holding = key_holder(memory, job, now_ms)
    if holding is not None and holding.job_id == parent and job.unique == own_key:
        holding = None  # it ends now
    is_added = add_or_replace(memory, job, holding, now_ms).reply is Reply.OK
    if is_added:
        forget_end(memory, job.job_id)  # the id was made of its parent's, so an earlier run may have pushed one
    return is_added


def add(memory: Memory, job: NewJob, now_ms: int) -> None:
    """Put a job on the queue; see lua/include/add_job."""
    nonce: Fields = {b"nonce": job.nonce.encode()} if job.nonce else {}
    if job.nonce:
        forget_end(memory, job.job_id)
    _put(memory, job, job.job_id, nonce, now_ms)
    memory.count("pushed")


def _replace(memory: Memory, job: NewJob, job_id: str, now_ms: int) -> None:
    """Let a job that waits be what a new push says, all but its id, nonce, attempt and time of push."""
    fields, (place, entry) = stored(memory, job_id), memory.located[job_id]
    if place != "delayed":
        fields = {b"queued_at": pushed_at(entry, now_ms), **fields}
    stays = {name: fields[name] for name in _STAYS if name in fields}
    if place == "delayed":
        del memory.delayed[job_id]
    else:
        memory.drop(memory.stream(Priority(place)), entry)
    _put(memory, job, job_id, stays, now_ms)
    memory.count("replaced")


def _put(memory: Memory, job: NewJob, job_id: str, notes: Fields, now_ms: int) -> None:
    """Let a job be ready or delayed, and hold its key; `notes` are fields beyond those that the push says."""
    fields = _fields(job, job_id, notes, now_ms)
    if job.unique:
        until = None if job.unique_for_ms is None else now_ms + job.unique_for_ms
        memory.uniques[job.unique] = (job_id, until)
    due_ms = due_time(job.due, now_ms)
    if due_ms > now_ms:
        fields.setdefault(b"queued_at", b"%d" % now_ms)
        delay(memory, job_id, job.priority, fields, due_ms)
    else:
        enqueue(memory, job_id, memory.stream(job.priority), fields)


def _fields(job: NewJob, job_id: str, notes: Fields, now_ms: int) -> Fields:
    flat = [encoded(part) for part in job.fields]
    fields: Fields = {b"id": encoded(job_id), **dict(zip(flat[::2], flat[1::2], strict=True)), **notes}
    if job.expires_in_ms is not None:
        fields[b"expires_at"] = b"%d" % (now_ms + job.expires_in_ms)
    if job.unique:
        fields[b"unique" if job.unique_for_ms is None else b"window"] = encoded(job.unique)
    return fields


def _lately(pushes: Mapping[Push, int], push: Push, now_ms: int) -> bool:
    return pushes.get(push, -REMEMBERED_MS * 2) > now_ms - REMEMBERED_MS


def key_holder(memory: Memory, job: NewJob, now_ms: int) -> KeyHolder | None:
    """The job that holds the unique key of a new one; None where that is free. See lua/include/key_holder."""
    job_id, until = memory.uniques.get(job.unique, ("", 0)) if job.unique else ("", 0)
    if until is not None and until <= now_ms:
        return None
    place, entry = memory.located.get(job_id, ("", ""))
    if place in memory.aside or not place:
        return KeyHolder(job_id, is_replaceable=False)
    fields = stored(memory, job_id)
    has_key = job.unique in (text_of(fields, b"unique"), text_of(fields, b"window"))
    if place == "delayed":
        return KeyHolder(job_id, has_key)
    if is_waiting(holder(memory.stream(Priority(place)), entry)):
        return KeyHolder(job_id, has_key and memory.marks.get((place, entry)) != "cancelling")
    is_over = text_of(fields, b"unique") == job.unique and fields.get(b"unique_until") == b"start"
    return None if is_over else KeyHolder(job_id, is_replaceable=False)
