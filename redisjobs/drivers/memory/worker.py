"""A worker's calls: it joins, beats, settles and claims jobs, takes over from lost workers, and leaves."""

from collections.abc import Mapping, Sequence

from redisjobs.drivers.memory.children import add_children, cancel_groups, is_over
from redisjobs.drivers.memory.chunks import emit
from redisjobs.drivers.memory.ends import dead_letter, finish, keep_reported, report
from redisjobs.drivers.memory.history import event, note, noted
from redisjobs.drivers.memory.limits import give_up, has_turn, tell_turn
from redisjobs.drivers.memory.pushes import due_time, push_with
from redisjobs.drivers.memory.state import REMEMBERED, Memory, StoredJob, StoredWorker, by_rank, with_fields
from redisjobs.drivers.memory.steps import save, suspend
from redisjobs.errors import DriverError
from redisjobs.model.driver import IdTaken
from redisjobs.model.emissions import EmitChunks
from redisjobs.model.job import State
from redisjobs.model.transitions import (
    MOST_JOBS,
    Ack,
    AddChildren,
    DeadLetter,
    Exchange,
    Lease,
    Lingers,
    Reclaimed,
    Release,
    Reply,
    ReportProgress,
    Result,
    RetryLater,
    SaveStep,
    Settlement,
    Settlements,
    Silent,
    Suspend,
    Turn,
)

_WATCHED = 5.0  # seconds beyond a lease for which a fenced worker may still get jobs, which are handed back
_PROMOTES = 20_000  # ms for which one worker is the promoter
_MOST_SILENT = 100  # silent workers that one call names
_LATE, _TURN_LATE = 250, 2_000  # ms that a delayed job, or a turn, is late before the other workers look too


def join(memory: Memory, worker_id: str, lease: float, run: str) -> None:
    """Register a worker; `run` tells it from another worker with its id."""
    there = memory.workers.get(worker_id)
    if there is not None and there.run == run:
        return
    if there is not None or worker_id in memory.fenced:
        raise IdTaken(worker_id)
    memory.workers[worker_id] = StoredWorker(worker_id, run, lease, memory.monotonic() + lease)
    memory.tell("joined", "")


def beat(memory: Memory, worker_id: str, facts: Mapping[str, str]) -> StoredWorker:
    """Renew a worker's lease; return the worker, which has what was asked of it."""
    worker = memory.worker(worker_id)
    worker.facts = {**worker.facts, **facts}
    worker.until = memory.monotonic() + worker.lease
    return worker


def cancelled(memory: Memory, leases: Sequence[Lease]) -> list[Lease]:
    """Return the leases of jobs that are to be cancelled."""
    jobs = ((lease, memory.jobs.get(lease.job_id)) for lease in leases)
    return [lease for lease, job in jobs if job and job.number == lease.token and job.is_cancelling]


def settle(memory: Memory, worker_id: str, turn: Turn | None, settlements: Settlements) -> Exchange:
    """Settle jobs of a worker. A turn that is sent again gets the same answer."""
    worker = memory.worker(worker_id)
    turn = turn if settlements else None  # a worker never sends a turn without settlements again
    last, answer = worker.answers.get(turn.lane, (0, Exchange())) if turn else (0, Exchange())
    if turn and turn.number < last:
        raise DriverError("these settlements came after later ones of this worker; nothing was written")
    if turn and turn.number == last:
        return answer
    replies, added = [Reply.LEASE_LOST] * len(settlements), dict[int, list[bool]]()
    released = 0
    # Jobs that push others go first, as in Redis: the id of a job that ends in the same batch is still taken.
    in_order = sorted(enumerate(settlements), key=lambda each: not getattr(each[1][1], "pushes", ()))
    for at, (lease, settlement) in in_order:
        job = _leased(memory, worker, lease)
        if job is None:
            continue
        if isinstance(settlement, Ack) and settlement.pushes:
            added[at] = [push_with(memory, job, each) for each in settlement.pushes]
        elif (
            isinstance(settlement, AddChildren | Suspend) and settlement.group and not _is_ending(job, settlement)
        ):
            added[at] = add_children(memory, job, settlement, settlement.group)
        replies[at] = _settle(memory, job, settlement)
        released += isinstance(settlement, Release) and replies[at] is Reply.OK
    tell_released(memory, released)
    answer = Exchange(replies, added=added)
    if turn:
        worker.answers[turn.lane] = (turn.number, answer)
    return answer


def _leased(memory: Memory, worker: StoredWorker, lease: Lease) -> StoredJob | None:
    """Return the job of a lease, if the worker still holds it, from the same delivery."""
    job = memory.jobs.get(lease.job_id)
    is_held = job and job.number in worker.jobs and (job.number, job.deliveries) == (lease.token, lease.deliveries)
    return job if is_held else None


def _settle(memory: Memory, job: StoredJob, settlement: Settlement) -> Reply:
    """Settle one job as its worker asks."""
    match settlement:
        case ReportProgress(progress):
            report(memory, job, progress)
            return Reply.OK
        case Lingers():
            limit, line = memory.limits.get(job.name), memory.lines.get(job.counts_as)
            is_counted = line is not None and job.id in line.running
            return Reply.RUNNING if limit and limit.max_concurrency is not None and is_counted else Reply.OK
        case EmitChunks():
            emit(memory, job, settlement)
            return Reply.OK
        case SaveStep():
            return save(memory, job, settlement)
        case AddChildren():
            return Reply.OK
        case Release(refund):
            give_up(memory, job, refund=refund)
            if job.is_cancelling:
                finish(memory, job, State.CANCELLED, {"deliveries": str(max(0, job.deliveries - refund))})
                return Reply.CANCELLED
            if not refund:
                note(job, event(memory.now_ms(), "interrupted", job.place.worker))
            memory.hand_back(job, job.deliveries - refund)
            return Reply.OK
    give_up(memory, job)
    ran = {
        "worker": job.place.worker,
        "deliveries": str(job.deliveries),
        "ran_ms": str(int((memory.monotonic() - job.since) * 1000)),
    }
    if isinstance(settlement, RetryLater) and not job.is_cancelling:
        _retry(memory, job, settlement)
        return Reply.OK
    if isinstance(settlement, Suspend) and not job.is_cancelling:
        group = settlement.group
        suspend(memory, job, settlement, has_children=group is not None and not is_over(memory, group))
        return Reply.OK
    if isinstance(settlement, RetryLater | Suspend):
        keep_ms = settlement.changes.get("keep_result")  # maybe only its worker knows it
        finish(memory, job, State.CANCELLED, ran, Result(int(keep_ms)) if keep_ms else None)
        return Reply.CANCELLED
    if settlement.reported:
        keep_reported(memory, job, settlement.result if isinstance(settlement, Ack) else None)
    if isinstance(settlement, DeadLetter):
        noted = ("reason", "error", "traceback", "error_type", "fingerprint")
        notes = {name: getattr(settlement, name) for name in noted}
        if settlement.cancels:
            cancel_groups(memory, job)
        dead_letter(memory, job, ran | notes | ({} if settlement.reason == "failed" else {"ran_ms": ""}))
    else:
        state = State.CANCELLED if settlement.cancelled else State.COMPLETED
        is_young = job.since_ms > memory.now_ms() - REMEMBERED  # its push may still be repeated
        finish(memory, job, state, ran, settlement.result, is_remembered=is_young)
    return Reply.OK


def _is_ending(job: StoredJob, settlement: AddChildren | Suspend) -> bool:
    """Return whether a job ends here, because a cancel was asked for, and needs no children any more."""
    return job.is_cancelling and isinstance(settlement, Suspend)


def _retry(memory: Memory, job: StoredJob, settlement: RetryLater) -> None:
    """Make a job ready or delayed again."""
    now_ms = memory.now_ms()
    fields = {b"queued_at": b"%d" % min(job.since_ms, now_ms), **job.fields}
    changes, line = settlement.changes, ""
    if changes.get("error") and "attempt" in changes:
        line = event(now_ms, "failed", job.place.worker, job.text(b"attempt") or "1", changes["error"])
    job.fields = with_fields(fields, {**changes, **noted(job, line)})
    memory.enqueue(job, due_time(settlement.due, now_ms))
    memory.count("retried")


def tell_released(memory: Memory, number: int) -> None:
    """Count jobs that were handed back, and notify workers."""
    if number:
        memory.count("released", number)
        memory.tell("released", str(number))


def reclaim(memory: Memory, worker_id: str, silent: Sequence[Silent], *, others: bool) -> Reclaimed:
    """Fence lost workers, and hand back the jobs of fenced ones."""
    half = memory.worker(worker_id).lease / 2
    fenced = []
    for each in silent:
        lost = memory.workers.get(each.worker_id)
        if lost is not None and _until_ms(lost) == each.until_ms:  # it has not beaten since it was named
            fence(memory, lost)
            fenced.append(lost.id)
    due_ms, now_ms = memory.next_due(), memory.now_ms()
    over = [each for each in memory.workers.values() if each.until <= memory.monotonic()]
    known = len(memory.fenced)
    jobs = _hand_back_fenced(memory)
    memory.count("reclaimed", jobs)
    if jobs:
        memory.tell("released", str(jobs))
    if fenced or len(memory.fenced) < known:  # the worker that was to look at the next turn may be gone
        tell_turn(memory)
    return Reclaimed(
        silent=[Silent(each.id, _until_ms(each), each.lease) for each in over[:_MOST_SILENT]],
        fenced=fenced,
        jobs=jobs,
        more=jobs == MOST_JOBS,
        released=bool(memory.returned or memory.isolated),
        others=sum(job.place.worker != worker_id for job in memory.running()) if others else 0,
        server_ms=now_ms,
        workers=sum(each.until > memory.monotonic() + half for each in memory.workers.values()),
        alone=len(memory.workers) + len(memory.fenced) < 2,
        promotes=_may_promote(memory, worker_id),
        late=(due_ms is not None and due_ms <= now_ms - _LATE) or has_turn(memory, _TURN_LATE),
    )


def fence(memory: Memory, worker: StoredWorker) -> None:
    """Refuse all further calls of a worker; the next `reclaim` hands back its jobs."""
    del memory.workers[worker.id]
    worker.until = memory.monotonic() + worker.lease + _WATCHED
    memory.fenced[worker.id] = worker


def _until_ms(worker: StoredWorker) -> str:
    return f"{worker.until:.6f}"


def _hand_back_fenced(memory: Memory) -> int:
    """Hand back the jobs of fenced workers, also those of late reads; return how many jobs."""
    total, now = 0, memory.monotonic()
    for worker in list(memory.fenced.values()):
        jobs = hand_back(memory, worker, MOST_JOBS - total)
        total += jobs
        if jobs:
            worker.until = max(worker.until, now + _WATCHED)
        elif worker.until <= now and total < MOST_JOBS:
            del memory.fenced[worker.id]
    return total


def hand_back(memory: Memory, worker: StoredWorker, most: int | None = None, *, refund: bool = False) -> int:
    """Hand back jobs of a worker; return how many."""
    jobs, what = by_rank(worker.jobs.values())[:most], "released" if refund else "worker-lost"
    for job in jobs:
        note(job, event(memory.now_ms(), what, worker.id))
        give_up(memory, job, refund=refund)
        memory.hand_back(job, job.deliveries - refund)
    return len(jobs)


def _may_promote(memory: Memory, worker_id: str) -> bool:
    """Whether this worker is, or becomes, the promoter: the one that looks when delayed jobs are due."""
    now_ms, (other, until_ms) = memory.now_ms(), memory.promoter
    is_valid = now_ms < until_ms <= now_ms + _PROMOTES and other in memory.workers
    if is_valid and other != worker_id:
        return False
    memory.promoter = (worker_id, now_ms + _PROMOTES)
    return True


def release(memory: Memory, worker_id: str, *, refund: bool, watch: bool) -> int:
    """Hand back all jobs of a worker, and end its lease; return how many jobs."""
    was_fenced = worker_id in memory.fenced
    worker = memory.fenced.get(worker_id) or memory.workers.get(worker_id)
    released = 0 if worker is None else hand_back(memory, worker, refund=refund and not was_fenced)
    if worker is not None and not was_fenced:
        fence(memory, worker)
        if refund and not watch:
            del memory.fenced[worker_id]
    if memory.promoter[0] == worker_id:
        memory.promoter = ("", 0)
        memory.tell("left", "")
    tell_turn(memory)
    tell_released(memory, released)
    return released
