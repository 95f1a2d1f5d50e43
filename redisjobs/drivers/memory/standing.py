"""Where a job stands in line; see `Ahead`."""

from redisjobs.drivers.memory.reading import kind_of
from redisjobs.drivers.memory.state import Memory, StoredJob, answers
from redisjobs.model.job import State
from redisjobs.model.why import Ahead, Standing

_MOST, _SHOWN = 1_000, 10


@answers(Ahead)
def _ahead(memory: Memory, query: Ahead) -> Standing:
    now_ms, job_id, key_ms = memory.now_ms(), query.job_id, None
    if not job_id:
        job_id = memory.uniques.current(query.key, now_ms) or ""
        until_ms = memory.uniques[query.key][1] if job_id else 0
        key_ms = int(until_ms - now_ms) if now_ms < until_ms < float("inf") else None
    job = memory.jobs.get(job_id)
    if job is None or job.has_ended:
        ended = memory.ended.current((job_id, b""), now_ms) is not None
        return Standing(now_ms, job_id, key_ms, has_ended=ended and job is None)
    if job.state is State.DEAD:
        alike = sum(kind_of(other) == kind_of(job) for other in memory.aside[State.DEAD].values())
        return Standing(now_ms, job_id, key_ms, alike=alike)
    held_ms = memory.held.get(job_id)
    if job.state is not State.READY:
        return Standing(now_ms, job_id, key_ms, held_ms=held_ms)
    line = memory.lines.get(job.counts_as)
    if line is None or job.number not in line.waiting:
        count = _count_ahead(memory, job)
        return Standing(now_ms, job_id, key_ms, min(count, _MOST), count > _MOST, held_ms=held_ms)
    count, limit = sum(_is_before(other, job) for other in line.waiting.values()), memory.limits.get(line.name)
    holders = [(other.place.worker, other.id) for other in memory.running() if other.id in line.running]
    return Standing(
        now_ms,
        job_id,
        key_ms,
        ahead=min(count, _MOST),
        has_more=count > _MOST,
        bucket=line.counts_as,
        turn_ms=memory.turns.get(line.counts_as),
        limit=limit.text if limit else "",
        running=len(line.running),
        holders=sorted(holders, key=lambda each: each[1])[:_SHOWN],
        held_ms=held_ms,
    )


def _is_before(other: StoredJob, job: StoredJob) -> bool:
    return (other.rank, other.number) < (job.rank, job.number)


def _count_ahead(memory: Memory, job: StoredJob) -> int:
    """Count the jobs that are claimed before a ready job."""
    new = [other for place in memory.new.values() for other in place.values()]
    if job.place is memory.new[job.priority]:
        handed_back = sum(other.rank <= job.rank for other in memory.returned.values())
        return handed_back + sum(_is_before(other, job) for other in new)
    higher = sum(other.rank < job.rank for other in new)
    return higher + sum(_is_before(other, job) for other in memory.returned.values())
