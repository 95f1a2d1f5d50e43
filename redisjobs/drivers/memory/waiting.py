"""How jobs stand that somebody waits for: the twin of `lua/ask.lua`."""

from dataclasses import replace

from redisjobs.drivers.memory.ends import kept_ms, last_progress
from redisjobs.drivers.memory.include import locate
from redisjobs.drivers.memory.state import Fields, Memory, text_of
from redisjobs.model.changes import Ending, GetStatus, JobStatus

_MOST = 100  # processes that are told of one job


def ask(memory: Memory, change: GetStatus) -> list[JobStatus]:
    """Say how jobs stand, and note who waits for those that have not ended."""
    with memory.lock:
        return [_standing(memory, job_id, change.process) for job_id in change.job_ids]


def _standing(memory: Memory, asked: str, process: str) -> JobStatus:
    job_id, place, entry = locate(memory, asked)
    if place == "dead":
        return replace(_dead(memory.aside[place][entry]), progress=last_progress(memory, job_id))
    if not place or place in memory.aside:
        return replace(_ended(memory, job_id, place), progress=last_progress(memory, job_id))
    if process:
        waiting = memory.ends.waiters.setdefault(job_id, [])
        if process not in waiting:
            waiting.append(process)
            del waiting[:-_MOST]
    fields = memory.delayed[job_id].fields if place == "delayed" else memory.entries(place)[entry]
    return JobStatus(Ending.PENDING, place, keep=kept_ms(fields), progress=memory.progress.get(job_id, b""))


def _dead(fields: Fields) -> JobStatus:
    return JobStatus(
        Ending.DEAD,
        error=text_of(fields, b"error"),
        error_type=text_of(fields, b"error_type"),
        traceback=text_of(fields, b"traceback"),
        reason=text_of(fields, b"reason"),
    )


def _ended(memory: Memory, job_id: str, place: str) -> JobStatus:
    known = memory.ends.outcomes.get(job_id)
    now_ms = memory.now_ms()
    if known is None or known.until_ms <= now_ms:
        kept = {"completed": Ending.NOT_KEPT, "cancelled": Ending.CANCELLED}
        return JobStatus(kept.get(place, Ending.NOT_FOUND))
    match known.word:
        case "cancelled":
            return JobStatus(Ending.CANCELLED)
        case "refused":
            return JobStatus(Ending.REFUSED, error=known.text)
        case "dead":
            error_type, _, error = known.text.partition(" ")
            return JobStatus(Ending.DEAD, error=error, error_type=error_type)
        case _ if known.value_until_ms > now_ms:
            return JobStatus(Ending.COMPLETED, value=known.value)
    return JobStatus(Ending.EXPIRED)
