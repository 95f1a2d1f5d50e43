"""How a worker's jobs come and go: the twins of `lua/{settle,claim,recover}.lua`, and of XREADGROUP.

There is none of adopt: jobs put in by hand have their ids when they are leased.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from redisjobs.drivers.memory.ends import end_progress
from redisjobs.drivers.memory.include import (
    MOST_FIELDS,
    any_back,
    dead_letter,
    delay,
    due_time,
    enqueue,
    finish,
    identify,
    is_restricted,
    may_not_start,
    next_due,
    promote,
    pushed_at,
    tell_released,
)
from redisjobs.drivers.memory.producer import push_with
from redisjobs.drivers.memory.shares import Limiter, give_up, limit_of, line_up, next_turn, take_turns, tell_turn
from redisjobs.drivers.memory.state import (
    ALONE,
    PARKED,
    RELEASED,
    Fields,
    Memory,
    Pending,
    Stream,
    encoded,
    text_of,
)
from redisjobs.errors import DriverError
from redisjobs.model.times import REMEMBERED_MS
from redisjobs.model.transitions import (
    Ack,
    DeadLetter,
    Ended,
    Exchange,
    Lease,
    Lingers,
    Release,
    Reply,
    ReportProgress,
    Result,
    RetryLater,
    Settlement,
    Settlements,
    Turn,
)


def settle(memory: Memory, worker: str, turn: Turn | None, settlements: Settlements) -> Exchange:
    """End the leases of many jobs, each by its settlement; a turn that comes again is answered as before."""
    with memory.lock:
        record = memory.record(worker)
        turn = turn if settlements else None  # what settles nothing is never sent again
        last, answer = record.answers.get(turn.lane, (0, Exchange())) if turn else (0, Exchange())
        if turn and turn.number < last:
            raise DriverError("these settlements came after later ones of this worker; nothing was written")
        if turn and turn.number == last:
            return answer
        added: dict[int, list[bool]] = {}
        replies = [Reply.LEASE_LOST] * len(settlements)
        for at in sorted(range(len(settlements)), key=lambda at: _order(*settlements[at])):
            replies[at] = _settle_one(memory, worker, *settlements[at], partial(added.__setitem__, at))
        for reply, (lease, settlement) in zip(replies, settlements, strict=True):
            if reply in (Reply.OK, Reply.CANCELLED) and not isinstance(settlement, ReportProgress | Lingers):
                refund = isinstance(settlement, Release) and settlement.refund
                give_up(memory, (memory.streams[lease.token[0] - 1].priority, lease.token[1]), refund=refund)
        answered = zip(replies, settlements, strict=True)
        tell_released(memory, sum(reply is Reply.OK and isinstance(one, Release) for reply, (_, one) in answered))
        answer = Exchange(replies, added=added)
        if turn:
            record.answers[turn.lane] = (turn.number, answer)
        return answer


def _order(lease: Lease, settlement: Settlement) -> int:
    """Which come first of those that are settled together, as on Redis: it shows where some have one id, by hand.

    Those that push others, as these are calls of their own; then what is done by its first delivery, by priority.
    """
    if isinstance(settlement, Ack) and settlement.pushes:
        return 0
    is_plain = isinstance(settlement, Ack) and not settlement.cancelled and lease.deliveries == 1
    return int(lease.token[0]) if is_plain else 4


def _settle_one(
    memory: Memory, worker: str, lease: Lease, settlement: Settlement, added: Callable[[list[bool]], object]
) -> Reply:
    number, entry = lease.token
    stream = memory.streams[number - 1]
    if not _owns(stream, worker, lease):
        return Reply.LEASE_LOST
    job_id = identify(memory, stream.priority, entry)
    match settlement:
        case ReportProgress(progress):
            if memory.located.get(job_id) == (stream.priority, entry):
                memory.progress[job_id] = progress
                for process in memory.ends.waiters.get(job_id, ()):
                    memory.tell_process(process, job_id)
        case Lingers():
            bucket = memory.shares.get((stream.priority, entry))
            limit = limit_of(memory, bucket) if bucket is not None else None
            return Reply.OK if limit is None or limit.max_concurrency is None else Reply.RUNNING
        case Ack(cancelled, result, pushes, reported):
            if reported:
                end_progress(memory, job_id)
            if pushes:
                own_key = text_of(stream.entries[entry], b"unique")
                added([push_with(memory, job_id, own_key, each) for each in pushes])
            # Of one that was pushed longer ago the push can't be repeated any more.
            is_young = int(entry.partition("-")[0]) > memory.now_ms() - REMEMBERED_MS
            counter = "cancelled" if cancelled else "completed"
            is_here = memory.located.get(job_id) == (stream.priority, entry)
            ran = _ran(stream, lease)
            finish(memory, stream, entry, job_id, counter, ran, result, is_remembered=is_young, is_located=is_here)
        case RetryLater():
            return _retry(memory, worker, stream, lease, job_id, settlement)
        case Release(refund):
            stream.pending[entry] = Pending(RELEASED, lease.deliveries - refund, time.monotonic())
        case DeadLetter(reason, error, traceback, error_type, fingerprint, reported):
            if reported:
                end_progress(memory, job_id)
            told = {"traceback": traceback, "error_type": error_type, "fingerprint": fingerprint}
            known = {name: text for name, text in told.items() if text}
            if reason == "failed":
                known["ran_ms"] = _ran(stream, lease)["ran_ms"]
            notes = {"reason": reason, "error": error, "worker": worker} | known
            dead_letter(memory, stream, entry, job_id, lease.deliveries, notes)
    return Reply.OK


def _owns(stream: Stream, worker: str, lease: Lease) -> bool:
    pending = stream.pending.get(lease.token[1])
    return pending is not None and (pending.worker, pending.deliveries) == (worker, lease.deliveries)


def _ran(stream: Stream, lease: Lease) -> dict[str, str]:
    """What is kept of the run of a job, beside the job."""
    pending = stream.pending[lease.token[1]]
    ran_ms = int((time.monotonic() - pending.since) * 1000)
    return {"worker": pending.worker, "deliveries": str(lease.deliveries), "ran_ms": str(ran_ms)}


def _retry(
    memory: Memory, worker: str, stream: Stream, lease: Lease, job_id: str, settlement: RetryLater
) -> Reply:
    entry = lease.token[1]
    if memory.marks.get((stream.priority, entry)) == "cancelling":
        ran = _ran(stream, lease)
        keep_ms = settlement.changes.get("keep_result")  # where only its worker knew
        finish(memory, stream, entry, job_id, "cancelled", ran, Result(int(keep_ms)) if keep_ms else None)
        return Reply.CANCELLED
    fields = stream.entries[entry]
    if len(fields) > MOST_FIELDS:
        return Reply.OVERSIZED
    memory.drop(stream, entry)
    now_ms = memory.now_ms()
    kept = _changed(fields, settlement)
    kept[b"id"] = encoded(job_id)
    kept.setdefault(b"queued_at", pushed_at(entry, now_ms))
    due_ms = due_time(settlement.due, now_ms)
    if due_ms > now_ms:
        delay(memory, job_id, stream.priority, kept, due_ms)
    else:
        enqueue(memory, job_id, stream, kept)
    memory.count("retried")
    return Reply.OK


def _changed(fields: Fields, settlement: RetryLater) -> Fields:
    """The fields of a job that runs again; see lua/include/with."""
    changes = {encoded(key): encoded(value) for key, value in settlement.changes.items()}
    kept = {key: value for key, value in fields.items() if key not in changes}
    return kept | {key: value for key, value in changes.items() if value}


@dataclass(slots=True)
class _Claim:
    """A claim: what was asked, and what it has come to."""

    worker: str
    count: int
    max_deliveries: int
    idle: bool
    leases: list[Lease] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    limiter: Limiter = field(kw_only=True)

    @property
    def left(self) -> int:
        return self.count - len(self.leases)


def claim(memory: Memory, worker: str, count: int, max_deliveries: int, *, idle: bool = False) -> Exchange:
    """Promote what is due, then lease jobs by priority, those that were handed back first; no replies."""
    with memory.lock:
        memory.record(worker)
        now_ms = memory.now_ms()
        promote(memory, now_ms)
        paused = memory.paused is not None
        limiter = Limiter(memory)
        claimed = _Claim(worker, 0 if paused else count, max_deliveries, idle, limiter=limiter)
        turned = 0 if paused else take_turns(memory)
        for stream in memory.streams:
            for entry in stream.held(RELEASED, ALONE):
                if claimed.left > 0:
                    _deliver(memory, claimed, stream, entry)
            claimed.leases += _read_startable(memory, worker, stream, claimed.left, limiter)
        if turned and claimed.left <= 0 and any_back(memory):
            memory.tell("released", str(turned))
        due_in = _due_in(memory, now_ms)
        if not paused:
            due_in = next_turn(memory, due_in)
        return Exchange(
            leases=claimed.leases,
            more=not paused and claimed.left <= 0 and _has_more(memory),
            ended=claimed.ended,
            due_in=due_in,
            waits=_waits(memory) if claimed.count > 0 else None,
            server_ms=memory.now_ms(),
            paused=paused,
            restricted=is_restricted(memory),
            lines=bool(memory.turns) and not paused,
            turn_in=None if paused else next_turn(memory, None),
        )


def has_turn(memory: Memory) -> bool:
    """Whether a job that waited for a limit may start now."""
    with memory.lock:
        return min(memory.turns.values(), default=math.inf) <= memory.now_ms()


def _has_more(memory: Memory) -> bool:
    return any_back(memory) or any(stream.unread for stream in memory.streams)


def _waits(memory: Memory) -> float | None:
    """For how long a job has been waiting that has to run alone, the first of a stream."""
    firsts = [stream.pending[entry].since for stream in memory.streams for entry in stream.held(ALONE)[:1]]
    return time.monotonic() - min(firsts) if firsts else None


def _deliver(memory: Memory, claimed: _Claim, stream: Stream, entry: str) -> None:
    """Give a worker an entry that was handed back; or end its job; or leave it to one that runs nothing else."""
    pending, here = stream.pending[entry], (stream.priority, entry)
    if pending.worker == ALONE and not _runs_nothing(memory, claimed):
        return
    mark, deliveries = memory.marks.get(here), pending.deliveries + 1
    if mark == "cancelling":
        job_id = identify(memory, *here)
        memory.held.pop(job_id, None)
        claimed.limiter.pass_on(stream, entry)
        finish(memory, stream, entry, job_id, "cancelled", {"deliveries": str(pending.deliveries)})
        claimed.ended.append((job_id, Reply.CANCELLED))
        return
    if may_not_start(memory, stream, entry):
        claimed.limiter.pass_on(stream, entry)
        stream.pending[entry] = Pending(PARKED, pending.deliveries, time.monotonic())
        return
    if deliveries > claimed.max_deliveries and (mark == "alone" or claimed.max_deliveries == 1):
        claimed.limiter.pass_on(stream, entry)
        _end_killer(memory, claimed, stream, entry)
        return
    is_last = deliveries >= claimed.max_deliveries > 1
    if is_last and not _runs_nothing(memory, claimed):
        claimed.limiter.pass_on(stream, entry)
        stream.pending[entry] = Pending(ALONE, pending.deliveries, pending.since)
        return
    bucket = claimed.limiter.start(stream, entry, waited=True)
    if bucket is not None:
        line_up(memory, stream, entry, pending.deliveries, bucket)
        return
    if is_last:
        memory.marks[here] = "alone"
        memory.located[identify(memory, *here)] = here  # the mark stands beside its place there
        claimed.count = 1
    else:
        memory.marks.pop(here, None)
    stream.pending[entry] = Pending(claimed.worker, deliveries, time.monotonic())
    claimed.leases.append(_lease(memory, stream, entry))


def _end_killer(memory: Memory, claimed: _Claim, stream: Stream, entry: str) -> None:
    """Make an entry a dead letter that was delivered as often as it may be."""
    here, deliveries = (stream.priority, entry), stream.pending[entry].deliveries
    alone = ", the last time with nothing beside it" if memory.marks.get(here) == "alone" else ""
    error = f"delivered {deliveries} times without an outcome{alone}: it may kill its workers"
    job_id = identify(memory, *here)
    notes = {"reason": "worker lost", "error": error, "worker": claimed.worker}
    dead_letter(memory, stream, entry, job_id, deliveries, notes)
    claimed.ended.append((job_id, Reply.DEAD))


def _runs_nothing(memory: Memory, claimed: _Claim) -> bool:
    if not claimed.idle or claimed.leases:
        return False
    return not any(stream.held(claimed.worker) for stream in memory.streams)


def _due_in(memory: Memory, now_ms: int) -> float | None:
    due_ms = next_due(memory)
    return None if due_ms is None else max(0, due_ms - now_ms) / 1000


def read(memory: Memory, worker: str, count: int) -> list[Lease] | None:
    """XREADGROUP, and `lua/screen.lua`: of up to `count` new entries of each stream those that may start.

    None: there was no new entry.
    """
    with memory.lock:
        leases = [lease for stream in memory.streams for lease in _read(memory, worker, stream, count)]
        if leases and worker not in memory.workers and is_restricted(memory):
            return []  # it was fenced: they are for others
        return screen(memory, leases) if leases else None


def screen(memory: Memory, leases: Sequence[Lease], limiter: Limiter | None = None) -> list[Lease]:
    """Keep a worker those of its jobs that may start, and hand the others on."""
    limiting = limiter or Limiter(memory)
    kept = [lease for lease in leases if not _handed_on(memory, lease, limiting)]
    if limiter is None and limiting.has_turned:
        tell_turn(memory)
    return kept


def _handed_on(memory: Memory, lease: Lease, limiter: Limiter) -> bool:
    number, entry = lease.token
    stream, deliveries = memory.streams[number - 1], max(0, lease.deliveries - 1)
    may_not = may_not_start(memory, stream, entry)
    if may_not or memory.paused is not None:
        stream.pending[entry] = Pending(PARKED if may_not else RELEASED, deliveries, time.monotonic())
        give_up(memory, (stream.priority, entry), refund=True)
        return True
    bucket = limiter.start(stream, entry)
    if bucket is not None:
        line_up(memory, stream, entry, deliveries, bucket)
    return bucket is not None


def _read_startable(memory: Memory, worker: str, stream: Stream, count: int, limiter: Limiter) -> list[Lease]:
    """Of new entries so many that may start; those between them are parked, or wait in line."""
    leases: list[Lease] = []
    while len(leases) < count:
        read = _read(memory, worker, stream, count - len(leases))
        if not read:
            break
        leases += screen(memory, read, limiter)
    return leases


def _read(memory: Memory, worker: str, stream: Stream, count: int) -> list[Lease]:
    entries = list(stream.unread)[: max(0, count)]
    for entry in entries:
        del stream.unread[entry]
        stream.pending[entry] = Pending(worker, 1, time.monotonic())
    return [_lease(memory, stream, entry) for entry in entries]


def _lease(memory: Memory, stream: Stream, entry: str) -> Lease:
    fields = stream.entries[entry]
    job_id = text_of(fields, b"id")
    if not job_id:  # put in by hand: from now on it has a locator, as by lua/adopt.lua
        job_id = identify(memory, stream.priority, entry)
        memory.located[job_id] = (stream.priority, entry)
    deliveries, queued_ms = stream.pending[entry].deliveries, int(entry.partition("-")[0])
    place, rank = (stream.number, entry), stream.number - 1
    return Lease(f"{stream.number} {entry}", place, deliveries, job_id, fields, queued_ms, rank)


def recover(memory: Memory, worker: str, held: Sequence[Lease], older: float = 0) -> list[Lease]:
    """What a worker has beyond what it names, and has had for so many seconds."""
    with memory.lock:
        memory.record(worker)
        known, until = {lease.key for lease in held}, time.monotonic() - older
        found = [
            _lease(memory, stream, entry)
            for stream in memory.streams
            for entry in stream.held(worker)
            if f"{stream.number} {entry}" not in known and stream.pending[entry].since <= until
        ]
        return screen(memory, found)
