"""How jobs come to a worker: it claims, reads and recovers them. Jobs that may not start are passed over."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from redisjobs.drivers.memory.ends import dead_letter, finish
from redisjobs.drivers.memory.limits import Limiter, give_up, line_up, next_turn, take_turns, tell_turn
from redisjobs.drivers.memory.state import Memory, StoredJob, StoredWorker, by_rank
from redisjobs.drivers.memory.steps import wake_late
from redisjobs.model.driver import Fenced
from redisjobs.model.job import Priority, State
from redisjobs.model.transitions import Ended, Exchange, Lease, Reply


@dataclass(slots=True)
class _Claim:
    """A claim under way: its limits, and the jobs so far."""

    worker: StoredWorker
    count: int
    max_deliveries: int
    is_idle: bool
    limiter: Limiter
    jobs: list[StoredJob] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)

    @property
    def left(self) -> int:
        return self.count - len(self.jobs)

    @property
    def runs_nothing(self) -> bool:
        return self.is_idle and not self.worker.jobs


def claim(memory: Memory, worker_id: str, count: int, max_deliveries: int, *, idle: bool = False) -> Exchange:
    """Promote due jobs, then lease jobs by priority, those that were handed back first."""
    worker, now_ms, is_paused = memory.worker(worker_id), memory.now_ms(), memory.paused is not None
    for job in sorted(memory.due(now_ms), key=lambda job: job.wait is not None):
        if job.wait is None:
            memory.enqueue(job, 0)
        else:
            wake_late(memory, job)
    claimed = _Claim(worker, 0 if is_paused else count, max_deliveries, idle, Limiter(memory), ended=worker.ended)
    worker.ended = []
    turned = 0 if is_paused else take_turns(memory)
    returned = by_rank([*memory.returned.values(), *memory.isolated.values()])
    for priority in Priority:
        for job in returned:
            if job.priority is priority and claimed.left > 0:
                _deliver(memory, claimed, job)
        while claimed.left > 0 and memory.new[priority]:
            claimed.jobs += _read(memory, worker, priority, claimed.left, claimed.limiter)
    has_returned = bool(memory.returned or memory.isolated)
    if turned and claimed.left <= 0 and has_returned:
        memory.tell("released", str(turned))
    due_ms = memory.next_due()
    due_in = None if due_ms is None else max(0, due_ms - now_ms) / 1000
    waits = [memory.monotonic() - job.since for job in memory.isolated.values()]
    return Exchange(
        leases=[lease_of(job) for job in claimed.jobs],
        more=not is_paused and claimed.left <= 0 and (has_returned or any(memory.new.values())),
        ended=claimed.ended,
        due_in=due_in if is_paused else next_turn(memory, due_in),
        waits=max(waits, default=None) if claimed.count > 0 else None,
        server_ms=memory.now_ms(),
        paused=is_paused,
        restricted=memory.is_restricted(),
        lines=bool(memory.turns) and not is_paused,
        turn_in=None if is_paused else next_turn(memory, None),
    )


def _deliver(memory: Memory, claimed: _Claim, job: StoredJob) -> None:
    """Deliver a job that was handed back; or end it, park it, line it up, or keep it for an idle worker."""
    if job.place is memory.isolated and not claimed.runs_nothing:
        return
    deliveries, most = job.deliveries + 1, claimed.max_deliveries
    is_last = deliveries >= most > 1
    if job.is_cancelling:
        memory.held.pop(job.id, None)
        finish(memory, job, State.CANCELLED, {"deliveries": str(job.deliveries)})
        claimed.ended.append((job.id, Reply.CANCELLED))
    elif memory.may_not_start(job):
        memory.move(job, memory.parked)
    elif deliveries > most and (job.ran_isolated or most == 1):
        alone = ", the last time with nothing beside it" if job.ran_isolated else ""
        error = f"delivered {job.deliveries} times without an outcome{alone}: it may kill its workers"
        dead_letter(memory, job, {"reason": "worker lost", "error": error, "worker": claimed.worker.id})
        claimed.ended.append((job.id, Reply.DEAD))
    elif is_last and not claimed.runs_nothing:
        memory.move(job, memory.isolated)
    elif line := claimed.limiter.start(job, waited=True):
        line_up(memory, job, job.deliveries, line)
        return
    else:
        job.ran_isolated = is_last
        claimed.count = 1 if is_last else claimed.count
        memory.deliver(job, claimed.worker)
        claimed.jobs.append(job)
        return
    claimed.limiter.pass_on(job)


def _read(
    memory: Memory, worker: StoredWorker, priority: Priority, count: int, limiter: Limiter
) -> list[StoredJob]:
    """Deliver new jobs of a priority; return those that may start."""
    jobs = [job for _, job in zip(range(count), memory.new[priority].values(), strict=False)]
    for job in jobs:
        memory.deliver(job, worker)
    return _startable(memory, jobs, limiter) if memory.is_restricted() else jobs


def read(memory: Memory, worker_id: str, count: int) -> list[Lease] | None:
    """Lease up to `count` new jobs of each priority; return None if there are none.

    A worker that was fenced meanwhile may still get jobs, as in Redis; `reclaim` takes them from it later.

    Raises:
        Fenced: The worker is unknown; or it was fenced, and some jobs may not start.
    """
    worker = memory.workers.get(worker_id) or memory.fenced.get(worker_id)
    if worker is None or (worker_id in memory.fenced and memory.is_restricted()):
        raise Fenced(worker_id)
    if not any(memory.new.values()):
        return None
    limiter = Limiter(memory)
    jobs = [job for priority in Priority for job in _read(memory, worker, priority, count, limiter)]
    tell_turn(memory)
    return [lease_of(job) for job in jobs]


def recover(memory: Memory, worker_id: str, held: Sequence[Lease], older: float = 0) -> list[Lease]:
    """Return the jobs that a worker has had for `older` seconds without naming them in `held`."""
    known, until = {lease.token for lease in held}, memory.monotonic() - older
    jobs = by_rank(memory.worker(worker_id).jobs.values())
    missed = [job for job in jobs if job.number not in known and job.since <= until]
    found = _startable(memory, missed, Limiter(memory))
    tell_turn(memory)
    return [lease_of(job) for job in found]


def _startable(memory: Memory, jobs: Sequence[StoredJob], limiter: Limiter) -> list[StoredJob]:
    """Return those of a worker's jobs that may start; hand back, park, line up or end the others."""
    startable = []
    for job in jobs:
        deliveries, may_not = max(0, job.deliveries - 1), memory.may_not_start(job)
        if job.is_cancelling and memory.is_restricted():  # no claim would come to a parked job
            memory.worker(job.place.worker).ended.append((job.id, Reply.CANCELLED))
            give_up(memory, job, refund=True)
            memory.held.pop(job.id, None)
            finish(memory, job, State.CANCELLED, {"deliveries": str(deliveries)})
        elif may_not or memory.paused is not None:
            give_up(memory, job, refund=True)
            memory.hand_back(job, deliveries)
            if may_not:
                memory.move(job, memory.parked)
        elif line := limiter.start(job):
            line_up(memory, job, deliveries, line)
        else:
            startable.append(job)
    return startable


def lease_of(job: StoredJob) -> Lease:
    """Return the lease of a running job's present delivery."""
    return Lease(str(job.number), job.number, job.deliveries, job.id, job.fields, job.since_ms, job.rank)
