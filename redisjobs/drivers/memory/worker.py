"""How a worker begins, lives and ends: the twins of `lua/{join,reclaim,release,beat}.lua`.

There are none of tidy and restore: by nobody's hand are jobs taken here from those who hold them.
"""

import math
import time
from collections.abc import Mapping, Sequence

from redisjobs.drivers.memory.include import WATCHED, any_back, by_due, fence, hand_back, is_waiting, tell_released
from redisjobs.drivers.memory.shares import tell_turn
from redisjobs.drivers.memory.state import Memory, Record
from redisjobs.model.driver import IdTaken
from redisjobs.model.transitions import MOST_JOBS, Lease, Reclaimed, Silent

_PROMOTES = 20_000  # ms for which a worker that asked looks when delayed jobs are due
_LATE, _TURN_LATE = 250, 2_000  # ms after which others look as well
_MOST_SILENT = 100  # workers that one look names


def join(memory: Memory, worker: str, lease: float, run: object) -> None:
    """Let a worker begin; `run` tells it from another one of its id."""
    with memory.lock:
        if worker in memory.workers and memory.workers[worker].run is run:
            return
        if worker in memory.workers or worker in memory.fenced:
            raise IdTaken(worker)
        memory.workers[worker] = Record(run, lease, time.monotonic() + lease)
        memory.tell("joined", "")  # who was alone has somebody to look after now


def reclaim(memory: Memory, worker: str, silent: Sequence[Silent], *, others: bool) -> Reclaimed:
    """Fence workers that are lost, and hand back what fenced ones hold."""
    with memory.lock:
        memory.record(worker)
        now = time.monotonic()
        fenced = _fence_silent(memory, silent)
        named = _silent(memory, now)
        known = len(memory.fenced)
        jobs = _hand_back_fenced(memory, now)
        memory.count("reclaimed", jobs)
        if jobs:
            memory.tell("released", str(jobs))
        if fenced or len(memory.fenced) < known:  # it may be the one that was to look then
            tell_turn(memory)
        return Reclaimed(
            named,
            fenced,
            jobs,
            jobs == MOST_JOBS,
            any_back(memory),
            _held_by_others(memory, worker) if others else 0,
            memory.now_ms(),
            len(memory.workers) + len(memory.fenced),
            _may_promote(memory, worker),
            _is_late(memory),
        )


def _may_promote(memory: Memory, worker: str) -> bool:
    """Whether a worker is the one that looks when delayed jobs are due."""
    now_ms, (other, until) = memory.now_ms(), memory.promoter
    is_valid = now_ms < until <= now_ms + _PROMOTES and other in memory.workers
    if is_valid and other != worker:
        return False
    memory.promoter = (worker, now_ms + _PROMOTES)
    return True


def _is_late(memory: Memory) -> bool:
    """Whether a delayed job, or one that waited in line, should have been seen to by those who look for them."""
    now_ms = memory.now_ms()
    has_late_turn = min(memory.turns.values(), default=math.inf) <= now_ms - _TURN_LATE
    return has_late_turn or bool(by_due(memory, now_ms - _LATE))


def _fence_silent(memory: Memory, silent: Sequence[Silent]) -> list[str]:
    """Fence those who have not beaten since they were named."""
    fenced = []
    for each in silent:
        record = memory.workers.get(each.worker_id)
        if record is not None and _until_ms(record) == each.until_ms:
            fence(memory, each.worker_id)
            fenced.append(each.worker_id)
    return fenced


def _silent(memory: Memory, now: float) -> list[Silent]:
    """Those whose lease is over."""
    over = ((worker, record) for worker, record in memory.workers.items() if record.until <= now)
    return [Silent(worker, _until_ms(record), record.lease) for worker, record in over][:_MOST_SILENT]


def _until_ms(record: Record) -> str:
    return f"{record.until:.6f}"


def _hand_back_fenced(memory: Memory, now: float) -> int:
    """Hand back what fenced workers hold, also what late reads of theirs have fetched since; how many jobs."""
    jobs = 0
    for worker in list(memory.fenced):
        some = hand_back(memory, worker, MOST_JOBS - jobs)
        jobs += some
        if some:
            memory.fenced[worker] = max(memory.fenced[worker], now + WATCHED)
        elif memory.fenced[worker] <= now and jobs < MOST_JOBS:
            del memory.fenced[worker]
    return jobs


def _held_by_others(memory: Memory, worker: str) -> int:
    holders = [pending.worker for stream in memory.streams for pending in stream.pending.values()]
    return sum(holder != worker and not is_waiting(holder) for holder in holders)


def release(memory: Memory, worker: str, *, refund: bool, watch: bool) -> int:
    """Hand back all that a worker holds, and forget it."""
    with memory.lock:
        was_fenced = worker in memory.fenced
        released = hand_back(memory, worker, refund=int(refund and not was_fenced))
        if not was_fenced and (watch or not refund):
            fence(memory, worker)
        memory.workers.pop(worker, None)
        if memory.promoter[0] == worker:
            memory.promoter = ("", 0)
            memory.tell("left", "")
        tell_turn(memory)
        tell_released(memory, released)
        return released


def beat(memory: Memory, worker: str, facts: Mapping[str, str]) -> int:
    """Start a worker's lease anew; how often somebody has asked to cancel a job of it."""
    with memory.lock:
        record = memory.record(worker)
        record.facts = {**record.facts, **facts}
        record.until = time.monotonic() + record.lease
        return record.cancels


def cancelled(memory: Memory, leases: Sequence[Lease]) -> list[Lease]:
    """Those of them that somebody has asked to cancel."""
    with memory.lock:
        places = [
            (memory.streams[stream - 1].priority, entry) for stream, entry in (lease.token for lease in leases)
        ]
        marks = [memory.marks.get(place) for place in places]
        return [lease for lease, mark in zip(leases, marks, strict=True) if mark == "cancelling"]
