"""Ends jobs: done, cancelled or dead. Keeps what the queue retains, and notifies waiting processes."""

import math
from collections.abc import Mapping
from dataclasses import replace

from redisjobs.drivers.memory.children import close_groups, end_child, forget_group
from redisjobs.drivers.memory.history import noted
from redisjobs.drivers.memory.state import REMEMBERED, Memory, StoredJob, answers, with_fields
from redisjobs.model.changes import Ending, GetStatus, JobStatus
from redisjobs.model.children import ChildOutcome, ChildState
from redisjobs.model.job import State
from redisjobs.model.transitions import Result

_WATCHED = 60_000  # ms for which the last progress outlives its job
_MOST_PROCESSES = 100  # waiting processes that are notified about one job
_DAY = 86_400_000  # the most ms for which progress is kept, and for which an outcome outlives its result


def finish(
    memory: Memory,
    job: StoredJob,
    state: State,
    notes: Mapping[str, str],
    result: Result | None = None,
    *,
    is_remembered: bool = True,
) -> None:
    """End a job that is done or cancelled; keep it with these notes, if the queue keeps such jobs."""
    now_ms = memory.now_ms()
    _conclude(memory, job, state, result)
    close_groups(memory, job, cancels=state is State.CANCELLED)
    memory.remove(job)
    forget(memory, job)
    if is_remembered:
        remember(memory, job)
    memory.count(state)
    if memory.retention.of(state) is not None:
        _set_aside(memory, job, state, {"finished_at": str(now_ms), **notes})


def dead_letter(memory: Memory, job: StoredJob, notes: Mapping[str, str]) -> None:
    """Make a job a dead letter, with notes about its failure."""
    known = {"deliveries": str(job.deliveries), "failed_at": str(memory.now_ms()), **notes}
    memory.count("dead")
    _set_aside(memory, job, State.DEAD, known)
    _conclude(memory, job, State.DEAD)


def _set_aside(memory: Memory, job: StoredJob, state: State, notes: Mapping[str, str]) -> None:
    """Keep a job that has failed or ended, with some notes."""
    queued_at = b"%d" % min(job.since_ms, memory.now_ms())
    added = {"id": job.id, "priority": str(job.priority), **notes, **noted(job)}
    job.fields = with_fields({b"queued_at": queued_at, **job.fields}, added)
    memory.put(job, memory.aside[state])


def forget(memory: Memory, job: StoredJob) -> None:
    """Forget the steps, the children and the signals of a job that ends, or is deleted."""
    steps = memory.steps.pop(job.id, None)
    for token in steps.groups.values() if steps else ():
        if token in memory.groups and not memory.groups[token].is_closed:
            forget_group(memory, token)
    memory.signals.pop(job.id, None)
    job.wait = None


def remember(memory: Memory, job: StoredJob) -> None:
    """Remember the push of a job, so that a repetition adds nothing."""
    now_ms = memory.now_ms()
    memory.ended.put((job.id, job.fields.get(b"nonce", b"")), True, now_ms + REMEMBERED, now_ms)


def _conclude(memory: Memory, job: StoredJob, state: State, result: Result | None = None) -> None:
    """Free a job's unique key, note how it ended if its result is kept, and notify waiting processes."""
    key, now_ms = job.text(b"unique"), memory.now_ms()
    if key and memory.uniques.get(key, ("", 0))[0] == job.id:
        del memory.uniques[key]
    result = result or Result(0)
    keep_ms = result.keep_ms or kept_ms(job) or 0
    if keep_ms > 0 and (result.refused or result.value is not None or state is not State.COMPLETED):
        outcome = JobStatus(Ending.CANCELLED if state is State.CANCELLED else Ending.EXPIRED)
        if result.refused:
            outcome = JobStatus(Ending.REFUSED, error=result.refused)
        elif state is State.DEAD:
            outcome = JobStatus(Ending.DEAD, error=job.text(b"error"), error_type=job.text(b"error_type"))
        elif result.value is not None:
            memory.results.put(job.id, result.value, now_ms + keep_ms, now_ms)
        memory.outcomes.put(job.id, outcome, now_ms + keep_ms + min(keep_ms, _DAY), now_ms)
        keep_reported(memory, job, result)
    memory.tell_processes(job)
    job.processes = ()
    if b"child_of" in job.fields:
        end_child(memory, job, _outcome(job, state, result))


def _outcome(job: StoredJob, state: State, result: Result) -> ChildOutcome:
    if state is State.DEAD:
        error, error_type, reason = (job.text(name) for name in (b"error", b"error_type", b"reason"))
        return ChildOutcome(ChildState.DEAD, error=error, error_type=error_type, reason=reason)
    if state is State.CANCELLED:
        return ChildOutcome(ChildState.CANCELLED)
    if result.refused:
        return ChildOutcome(ChildState.REFUSED, error=result.refused)
    return ChildOutcome(ChildState.COMPLETED, result.value or b"")


def report(memory: Memory, job: StoredJob, progress: bytes) -> None:
    """Store a job's reported progress, and notify the processes that wait for it."""
    now_ms = memory.now_ms()
    memory.progress.put(job.id, progress, now_ms + _DAY, now_ms)
    memory.tell_processes(job)


def keep_reported(memory: Memory, job: StoredJob, result: Result | None) -> None:
    """Keep a job's last progress for another minute, and its chunks as long as its result, if that is longer."""
    now_ms = memory.now_ms()
    progress, chunks = memory.progress.current(job.id, now_ms), memory.chunks.current(job.id, now_ms)
    if progress is not None:
        memory.progress[job.id] = progress, now_ms + _WATCHED
    if chunks is not None:
        keep_ms = (result.keep_ms if result else 0) or kept_ms(job) or 0
        memory.chunks[job.id] = chunks, now_ms + max(_WATCHED, keep_ms)


def kept_ms(job: StoredJob) -> int | None:
    """Return for how many ms a job's result is kept; None: the push did not say."""
    text = job.text(b"keep_result")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 14 else None


@answers(GetStatus)
def _status(memory: Memory, change: GetStatus) -> list[JobStatus]:
    statuses = []
    for job_id in change.job_ids:
        job = memory.jobs.get(job_id)
        found = _ended(memory, job_id, job) if job is None or job.has_ended else _living(job, change.process)
        progress = memory.progress.current(job_id, memory.now_ms())
        statuses.append(replace(found, progress=progress or b""))
    return statuses


def _living(job: StoredJob, process: str) -> JobStatus:
    if job.state is State.DEAD:
        error, error_type = job.text(b"error"), job.text(b"error_type")
        traceback, reason = job.text(b"traceback"), job.text(b"reason")
        return JobStatus(Ending.DEAD, error=error, error_type=error_type, traceback=traceback, reason=reason)
    if process and process not in job.processes:
        job.processes = (*job.processes, process)[-_MOST_PROCESSES:]
    place = job.state if job.state in (State.DELAYED, State.SUSPENDED) else job.priority
    return JobStatus(Ending.PENDING, place, keep=kept_ms(job))


def _ended(memory: Memory, job_id: str, job: StoredJob | None) -> JobStatus:
    now_ms = memory.now_ms()
    value = memory.results.current(job_id, now_ms)
    if value is not None:
        return JobStatus(Ending.COMPLETED, value=value)
    kept = {State.COMPLETED: Ending.NOT_KEPT, State.CANCELLED: Ending.CANCELLED}
    otherwise = JobStatus(kept[job.state] if job else Ending.NOT_FOUND)
    return memory.outcomes.current(job_id, now_ms) or otherwise


def trim(memory: Memory) -> int:
    """Delete jobs that are older, or more, than the retention allows; return how many."""
    total, now_ms = 0, memory.now_ms()
    for state, place in memory.aside.items():
        jobs, keep = list(place.values()), memory.retention.of(state)
        most = 0 if keep is None else len(jobs) if keep.count is None else keep.count
        oldest_ms = -math.inf if keep is None or keep.age_ms is None else now_ms - keep.age_ms
        over = [job for at, job in enumerate(jobs) if at < len(jobs) - most or job.since_ms <= oldest_ms]
        for job in over:
            memory.remove(job)
            if state is State.DEAD:
                forget(memory, job)
            if job.since_ms > now_ms - REMEMBERED:
                remember(memory, job)
        total += len(over)
    memory.count("trimmed", total)
    return total
