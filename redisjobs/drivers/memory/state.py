"""The reference driver: the verbs of `lua/` on dicts, in one process, with the same words and states.

Read it beside `lua/`: one method a script. Streams are dicts in the order of their entry ids, with the pending
list as a dict beside them. Nothing survives the process.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from redisjobs.driver import (
    MOST_JOBS,
    Ack,
    Counts,
    DeadLetter,
    Ended,
    Fenced,
    IdTaken,
    Lease,
    NewJob,
    Notification,
    Pushed,
    Reclaimed,
    Release,
    Reply,
    RetryLater,
    Row,
    Settlement,
    Settlements,
    Silent,
    Turn,
)
from redisjobs.errors import DriverError
from redisjobs.job import Priority, State

Fields = dict[bytes, bytes]
Push = tuple[str, bytes]  # job id, nonce

_REMEMBERED = 60_000  # ms that an ended job's id is known for, so that a repeated push adds nothing
_STRIPPED = (  # what a requeued job leaves behind: its failure, its attempts, its claims on time and uniqueness
    b"reason error traceback failed_at worker deliveries priority attempt unknown_since expires_at started_at "
    b"unique"
).split()
_RELEASED = "released"  # who holds what was handed back
_WATCHED = 5.0  # seconds, beyond its lease, that a late read of a fenced worker is looked for
_MOST_SILENT = 100  # workers that one look names
_MOST_FIELDS = 500  # of an entry that a script can move; more can only have been put in by hand


@dataclass(slots=True)
class _Pending:
    """An entry that was delivered: who holds it, by which delivery, since when (this process' monotonic clock)."""

    worker: str
    deliveries: int
    since: float


@dataclass(slots=True)
class _Stream:
    """One ready stream: its entries, which of them the group has not read, and its pending list."""

    priority: Priority
    entries: dict[str, Fields] = field(default_factory=dict)
    unread: dict[str, None] = field(default_factory=dict)
    pending: dict[str, _Pending] = field(default_factory=dict)


@dataclass(slots=True)
class _Delayed:
    """A delayed job; `line` is its place among those due at the same time."""

    priority: Priority
    fields: Fields
    due_ms: int
    line: int


@dataclass(slots=True)
class _Worker:
    """A worker's record.

    Attributes:
        run: Tells it from another one of the same id.
        lease: In seconds.
        until: When its lease ends, by this process' monotonic clock.
        cancels: How often somebody has asked to cancel a job of it.
        answers: The last turn of each lane, and what it was answered.
    """

    run: object
    lease: float
    until: float
    cancels: int = 0
    answers: dict[int, tuple[int, list[Reply]]] = field(default_factory=dict)


class Memory:
    """The state of one queue and every verb on it; sync, and safe for threads.

    Args:
        now_ms: What time it is; None for this machine's clock.
    """

    def __init__(self, now_ms: Callable[[], int] | None = None) -> None:
        self.now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        self.lock = threading.RLock()
        self.streams = [_Stream(priority) for priority in Priority]
        self.located: dict[str, tuple[str, str]] = {}  # job id -> (place, entry)
        self.cancelling: set[tuple[str, str]] = set()  # where a job runs that is to be cancelled
        self.alone: set[tuple[str, str]] = set()  # where a job was delivered with nothing beside it
        self.delayed: dict[str, _Delayed] = {}
        self.dead: dict[str, Fields] = {}
        self.uniques: dict[str, tuple[str, int | None]] = {}  # key -> (job id, until ms)
        self.finished: dict[Push, int] = {}  # whose job ended -> when, ms
        self.refused: dict[Push, int] = {}  # that was refused when it was repeated -> when, ms
        self.totals: dict[str, int] = {}
        self.workers: dict[str, _Worker] = {}
        self.fenced: dict[str, float] = {}  # worker id -> until when late reads of it are looked for
        self.ears: list[Callable[[Notification], None]] = []
        self._last_id = (0, 0)
        self._line = 0

    def close(self) -> None:
        """Nothing is open."""

    def push(self, jobs: Sequence[NewJob], *, repeated: bool) -> list[Pushed]:
        """What ended in the last minute is looked for, `repeated` or not: it is in one place. None comes late."""
        with self.lock:
            answers: list[Pushed] = []
            seen: set[Push] = set()
            added: set[str] = set()
            for job in jobs:
                push = job.job_id, job.nonce.encode()
                answer = Pushed(Reply.EXISTS) if push in seen else self._push(job, added, repeated=repeated)
                if answer.reply in (Reply.OK, Reply.REPEATED, Reply.REFUSED):
                    seen.add(push)
                elif repeated and push not in seen:
                    self._remember(self.refused, push)
                answers.append(answer)
            return answers

    def _push(self, job: NewJob, added: set[str], *, repeated: bool) -> Pushed:
        now_ms = self.now_ms()
        holder = self._unique_holder(job.unique, now_ms)
        push = job.job_id, job.nonce.encode()
        was_refused = repeated and _lately(self.refused, push, now_ms)
        if not was_refused and _lately(self.finished, push, now_ms):
            return Pushed(Reply.REPEATED)
        if job.job_id in added:
            return Pushed(Reply.EXISTS)
        if job.job_id in self.located:
            ours = not job.nonce or self._stored(job.job_id).get(b"nonce", b"") == job.nonce.encode()
            return Pushed(Reply.REPEATED if ours else Reply.EXISTS)
        if holder is not None:
            return Pushed(Reply.DUPLICATE, holder)
        if was_refused:
            return Pushed(Reply.REFUSED)

        flat = [part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part for part in job.fields]
        fields: Fields = {b"id": _bytes(job.job_id), **dict(zip(flat[::2], flat[1::2], strict=True))}
        if job.nonce:
            fields[b"nonce"] = job.nonce.encode()
        if job.expires_in_ms is not None:
            fields[b"expires_at"] = b"%d" % (now_ms + job.expires_in_ms)
        if job.unique:
            until = None if job.unique_for_ms is None else now_ms + job.unique_for_ms
            self.uniques[job.unique] = (job.job_id, until)
            if until is None:
                fields[b"unique"] = _bytes(job.unique)
        due_ms = _due(job.due, now_ms)
        if due_ms > now_ms:
            fields[b"queued_at"] = b"%d" % now_ms
            self._delay(job.job_id, job.priority, fields, due_ms)
        else:
            self._add(job.job_id, self._stream(job.priority), fields)
        self._count("pushed")
        added.add(job.job_id)
        return Pushed(Reply.OK)

    def join(self, worker: str, lease: float, run: object) -> None:
        """Let a worker begin; `run` tells it from another one of its id."""
        with self.lock:
            if worker in self.workers and self.workers[worker].run is run:
                return
            if worker in self.workers or worker in self.fenced:
                raise IdTaken(worker)
            self.workers[worker] = _Worker(run, lease, time.monotonic() + lease)

    def beat(self, worker: str) -> int:
        """Start a worker's lease anew; how often somebody has asked to cancel a job of it."""
        with self.lock:
            record = self._record(worker)
            record.until = time.monotonic() + record.lease
            return record.cancels

    def cancelled(self, leases: Sequence[Lease]) -> list[Lease]:
        with self.lock:
            places = [(self.streams[lease.stream - 1].priority, lease.entry) for lease in leases]
            return [lease for lease, place in zip(leases, places, strict=True) if place in self.cancelling]

    def _record(self, worker: str) -> _Worker:
        if worker not in self.workers:
            raise Fenced(worker)
        return self.workers[worker]

    def claim(
        self, worker: str, count: int, max_deliveries: int, ended: list[Ended], *, idle: bool = False
    ) -> tuple[float | None, float | None, list[Lease], bool]:
        """Lease jobs.

        Returns:
            Seconds until the next delayed job, for how many one waits that has to run alone, the leases, and
            whether there is more.
        """
        with self.lock:
            self._record(worker)
            now_ms = self.now_ms()
            self._promote(now_ms)
            claimed: list[Lease] = []
            waits: float | None = None
            for number, stream in enumerate(self.streams, 1):
                for entry in [e for e, p in stream.pending.items() if p.worker == _RELEASED]:
                    if len(claimed) < count:
                        idle = idle and not claimed and not self._holds_any(worker)
                        since = stream.pending[entry].since
                        lease, alone = self._deliver(worker, number, entry, max_deliveries, ended, idle=idle)
                        claimed += [lease] if lease else []
                        if lease and alone:
                            count = 1
                        elif alone:
                            waits = max(waits or 0.0, time.monotonic() - since)
                claimed += self._read(worker, number, count - len(claimed))
            due = min((job.due_ms for job in self.delayed.values()), default=None)
            due_in = None if due is None else max(0, due - now_ms) / 1000
            return due_in, waits, claimed, len(claimed) >= count and self._has_more()

    def read(self, worker: str, count: int) -> list[Lease]:
        """XREADGROUP: up to `count` new entries of each stream, in that order of their priority."""
        with self.lock:
            return [lease for number in (1, 2, 3) for lease in self._read(worker, number, count)]

    def _has_more(self) -> bool:
        return any(stream.unread or self._held(stream, _RELEASED) for stream in self.streams)

    def recover(self, worker: str, held: Sequence[Lease], older: float = 0) -> list[Lease]:
        """What a worker has beyond what it names, and has had for so many seconds."""
        with self.lock:
            self._record(worker)
            known, until = {lease.key for lease in held}, time.monotonic() - older
            return [
                self._lease(number, entry)
                for number, stream in enumerate(self.streams, 1)
                for entry in self._held(stream, worker)
                if f"{number} {entry}" not in known and stream.pending[entry].since <= until
            ]

    def reclaim(self, worker: str, silent: Sequence[Silent], *, others: bool) -> Reclaimed:
        with self.lock:
            self._record(worker)
            now = time.monotonic()
            fenced = []
            for each in silent:
                record = self.workers.get(each.worker_id)
                if record is not None and f"{record.until:.6f}" == each.until_ms:
                    self._fence(each.worker_id)
                    fenced.append(each.worker_id)
            named = [
                Silent(other, f"{record.until:.6f}", record.lease)
                for other, record in self.workers.items()
                if record.until <= now
            ]
            jobs = 0
            for gone in list(self.fenced):
                some = self._hand_back(gone, MOST_JOBS - jobs, refund=0)
                jobs += some
                if some:
                    self.fenced[gone] = max(self.fenced[gone], now + _WATCHED)
                elif self.fenced[gone] <= now and jobs < MOST_JOBS:
                    del self.fenced[gone]
            self._count("reclaimed", jobs)
            if jobs:
                self._notify("released", str(jobs))
            return Reclaimed(
                named[:_MOST_SILENT],
                fenced,
                jobs,
                jobs == MOST_JOBS,
                any(self._held(stream, _RELEASED) for stream in self.streams),
                self._held_by_others(worker) if others else 0,
                self.now_ms(),
            )

    def release(self, worker: str, *, refund: bool, watch: bool) -> int:
        """Hand back all that a worker holds, and forget it."""
        with self.lock:
            was_fenced = worker in self.fenced
            released = self._hand_back(worker, None, refund=int(refund and not was_fenced))
            if not was_fenced and (watch or not refund):
                self._fence(worker)
            self.workers.pop(worker, None)
            self._tell_released(released)
            return released

    def _fence(self, worker: str) -> None:
        record = self.workers.pop(worker, None)
        self.fenced[worker] = time.monotonic() + (record.lease if record else 0.0) + _WATCHED

    def _hand_back(self, worker: str, most: int | None, *, refund: int) -> int:
        """Pass entries of a worker to `released`; how many."""
        released = 0
        for stream in self.streams:
            for entry in self._held(stream, worker)[: None if most is None else most - released]:
                deliveries = max(0, stream.pending[entry].deliveries - refund)
                stream.pending[entry] = _Pending(_RELEASED, deliveries, time.monotonic())
                released += 1
        return released

    @staticmethod
    def _held(stream: _Stream, worker: str) -> list[str]:
        return [entry for entry, pending in stream.pending.items() if pending.worker == worker]

    def _held_by_others(self, worker: str) -> int:
        holders = [pending.worker for stream in self.streams for pending in stream.pending.values()]
        return sum(holder not in (worker, _RELEASED) for holder in holders)

    def settle(self, worker: str, turn: Turn | None, settlements: Settlements) -> list[Reply]:
        with self.lock:
            record = self._record(worker)
            turn = turn if settlements else None  # what settles nothing is never sent again
            last, answer = record.answers.get(turn.lane, (0, [])) if turn else (0, [])
            if turn and turn.number < last:
                raise DriverError("these settlements came after later ones of this worker; nothing was written")
            if turn and turn.number == last:
                return answer
            replies = [self._settle(worker, lease, settlement) for lease, settlement in settlements]
            released = [
                reply
                for reply, (_, settlement) in zip(replies, settlements, strict=True)
                if isinstance(settlement, Release)
            ]
            self._tell_released(released.count(Reply.OK))
            if turn:
                record.answers[turn.lane] = (turn.number, replies)
            return replies

    def _settle(self, worker: str, lease: Lease, settlement: Settlement) -> Reply:
        pending = self._owned(worker, lease)
        if pending is None:
            return Reply.LEASE_LOST
        stream, entry = self.streams[lease.stream - 1], lease.entry
        fields, job_id = stream.entries[entry], self._identify(stream.priority, entry)
        match settlement:
            case Ack(cancelled):
                self._drop(stream, entry)
                # Of one that was pushed longer ago the push can't be repeated any more.
                is_young = int(entry.partition("-")[0]) > self.now_ms() - _REMEMBERED
                self._end(job_id, fields, is_remembered=is_young)
                self._count("cancelled" if cancelled else "completed")
            case RetryLater() if self._is_cancelling(stream, entry):
                self._drop(stream, entry)
                self._end(job_id, fields)
                self._count("cancelled")
                return Reply.CANCELLED
            case RetryLater() if len(fields) > _MOST_FIELDS:
                return Reply.OVERSIZED
            case RetryLater(due, changes):
                self._drop(stream, entry)
                self._again(job_id, entry, stream, fields, due, changes)
                self._count("retried")
            case Release(refund):
                stream.pending[entry] = _Pending(_RELEASED, lease.deliveries - refund, time.monotonic())
            case DeadLetter(reason, error, traceback):
                notes = {"reason": reason, "error": error, "traceback": traceback, "worker": worker}
                self._handle_end(stream, entry, lease.deliveries, notes)
        return Reply.OK

    def cancel(self, job_id: str) -> Reply:
        with self.lock:
            job_id, place, entry = self._locate(job_id)
            if not place:
                return Reply.NOT_FOUND
            if place == "dead":
                return Reply.DEAD
            if place == "delayed":
                fields = self.delayed.pop(job_id).fields
            else:
                stream = self._stream(Priority(place))
                pending = stream.pending.get(entry)
                if pending is not None and pending.worker != _RELEASED:
                    self.located[job_id] = (place, entry)
                    self.cancelling.add((place, entry))
                    if pending.worker in self.workers:
                        self.workers[pending.worker].cancels += 1
                    self._notify("cancel", job_id)
                    return Reply.CANCELLING
                fields = stream.entries[entry]
                self._drop(stream, entry)
            self._end(job_id, fields)
            self._count("cancelled")
            return Reply.CANCELLED

    def requeue(self, job_id: str) -> Reply:
        with self.lock:
            job_id, place, letter = self._locate(job_id)
            if place != "dead":
                return Reply.NOT_FOUND
            fields = self.dead[letter]
            kept = {key: value for key, value in fields.items() if key not in _STRIPPED}
            if len(kept) > _MOST_FIELDS:
                return Reply.OVERSIZED
            del self.dead[letter]
            self._add(job_id, self._stream(Priority(fields[b"priority"].decode())), kept)
            self._count("requeued")
            return Reply.OK

    def delete(self, job_id: str) -> Reply:
        with self.lock:
            job_id, place, letter = self._locate(job_id)
            if place != "dead":
                return Reply.NOT_FOUND
            fields = self.dead.pop(letter)
            self._end(job_id, fields)
            self._count("deleted")
            return Reply.OK

    def find(self, job_id: str) -> Row | None:
        with self.lock:
            job_id, place, entry = self._locate(job_id)
            if not place:
                return None
            if place == "dead":
                return self._dead_row(entry)
            if place == "delayed":
                return self._delayed_row(job_id, self.delayed[job_id])
            return self._ready_row(self._stream(Priority(place)), entry)

    def jobs(self, state: State, limit: int) -> list[Row]:
        with self.lock:
            rows: Iterator[Row]
            if state is State.DELAYED:
                rows = (self._delayed_row(job_id, job) for job_id, job in self._by_due())
            elif state is State.DEAD:
                rows = map(self._dead_row, reversed(list(self.dead)))
            else:
                every = (self._ready_row(s, e) for s in self.streams for e in s.entries)
                rows = (row for row in every if row.state is state)
            return [row for row, _ in zip(rows, range(limit), strict=False)]

    def counts(self) -> Counts:
        with self.lock:
            running = {s.priority: sum(p.worker != _RELEASED for p in s.pending.values()) for s in self.streams}
            ready = {s.priority: len(s.entries) - running[s.priority] for s in self.streams}
            totals = dict(self.totals)
            return Counts(ready, sum(running.values()), len(self.delayed), len(self.dead), totals)

    def put(
        self, fields: Mapping[str, str | bytes], priority: Priority = Priority.NORMAL, *, entry: str = "*"
    ) -> str:
        """XADD by hand: an entry as it stands, without a locator. Its entry id."""
        with self.lock:
            raw = {_bytes(key): _bytes(value) for key, value in fields.items()}
            return self._append(self._stream(priority), raw, entry)

    def age(self, seconds: float) -> None:
        """Let every beat, and every delivery, look `seconds` older."""
        with self.lock:
            for record in self.workers.values():
                record.until -= seconds
            for stream in self.streams:
                for pending in stream.pending.values():
                    pending.since -= seconds

    # What the verbs share

    def _stream(self, priority: Priority) -> _Stream:
        return self.streams[list(Priority).index(priority)]

    def _new_id(self) -> str:
        now_ms = self.now_ms()
        last_ms, sequence = self._last_id
        self._last_id = (now_ms, 0) if now_ms > last_ms else (last_ms, sequence + 1)
        return f"{self._last_id[0]}-{self._last_id[1]}"

    def _locate(self, job_id: str) -> tuple[str, str, str]:
        """Which job that is, its place, and the entry there; see lua/include/locate."""
        if job_id in self.located:
            return job_id, *self.located[job_id]
        entry, _, name = job_id.partition("@")
        for place in [name] if name else list(Priority):
            fields = self.dead.get(entry) if place == "dead" else self._entries(place).get(entry)
            if fields is not None:
                known = self._identify(place, entry)
                if name or known == job_id:
                    return known, place, entry
        return job_id, "", ""

    def _entries(self, place: str) -> dict[str, Fields]:
        return self._stream(Priority(place)).entries if place in list(Priority) else {}

    def _identify(self, place: str, entry: str) -> str:
        """The id that the job of an entry goes by; see lua/include/identify."""
        fields, here, suffix = self._fields(place, entry), (place, entry), f"@{place}"
        said = _said(fields)
        ids = [said or entry, *(entry + suffix * more for more in range(1, 5))]
        for job_id in ids:
            if self.located.get(job_id) == here:
                return job_id
        if said:
            taken = said in self.located
        else:
            ranked: list[str] = list(Priority)
            above = [self._entries(other) for other in ranked[: ranked.index(place) if place in ranked else 0]]
            twins = [entries[entry] for entries in above if entry in entries]
            taken = entry in self.located or not all(map(_said, twins))
        if not taken:
            return ids[0]
        return next((job_id for job_id in ids[1:] if job_id not in self.located), ids[-1])

    def _address(self, place: str, entry: str) -> str:
        """How to name the job of an entry to an operator, so that it is found."""
        job_id = self._identify(place, entry)
        is_located = self.located.get(job_id) == (place, entry)
        return f"{entry}@{place}" if not is_located and _said(self._fields(place, entry)) else job_id

    def _fields(self, place: str, entry: str) -> Fields:
        return self.dead[entry] if place == "dead" else self._entries(place)[entry]

    def _stored(self, job_id: str) -> Fields:
        """The fields of a job that is located."""
        place, entry = self.located[job_id]
        return self.delayed[job_id].fields if place == "delayed" else self._fields(place, entry)

    def _is_cancelling(self, stream: _Stream, entry: str) -> bool:
        return (stream.priority, entry) in self.cancelling

    def _append(self, stream: _Stream, fields: Fields, entry: str = "*") -> str:
        entry = self._new_id() if entry == "*" else entry
        stream.entries[entry] = fields
        stream.unread[entry] = None
        self._notify("ready", entry)
        return entry

    def _add(self, job_id: str, stream: _Stream, fields: Fields) -> None:
        self.located[job_id] = (stream.priority, self._append(stream, fields))

    def _drop(self, stream: _Stream, entry: str) -> None:
        del stream.entries[entry]
        stream.unread.pop(entry, None)
        stream.pending.pop(entry, None)
        self.cancelling.discard((stream.priority, entry))
        self.alone.discard((stream.priority, entry))

    def _end(self, job_id: str, fields: Fields, *, is_remembered: bool = True) -> None:
        """The job is over: forget it, but for its push."""
        self.located.pop(job_id, None)
        self._free(job_id, fields)
        if is_remembered:
            self._remember(self.finished, (job_id, fields.get(b"nonce", b"")))

    def _remember(self, pushes: dict[Push, int], push: Push) -> None:
        now_ms = self.now_ms()
        pushes.pop(push, None)
        pushes[push] = now_ms
        while pushes and next(iter(pushes.values())) < now_ms - 2 * _REMEMBERED:
            del pushes[next(iter(pushes))]

    def _free(self, job_id: str, fields: Fields) -> None:
        key = fields.get(b"unique", b"").decode("utf-8", "surrogateescape")
        if self.uniques.get(key, ("", None))[0] == job_id:
            del self.uniques[key]

    def _unique_holder(self, key: str, now_ms: int) -> str | None:
        job_id, until = self.uniques.get(key, ("", 0)) if key else ("", 0)
        return job_id if until is None or until > now_ms else None

    def _delay(self, job_id: str, priority: Priority, fields: Fields, due_ms: int) -> None:
        first = min((job.due_ms for job in self.delayed.values()), default=None)
        self._line += 1
        self.delayed[job_id] = _Delayed(priority, fields, due_ms, self._line)
        self.located[job_id] = ("delayed", "")
        if first is None or due_ms < first:
            self._notify("due", str(due_ms))

    def _by_due(self, until_ms: float = math.inf) -> list[tuple[str, _Delayed]]:
        due = [item for item in self.delayed.items() if item[1].due_ms <= until_ms]
        return sorted(due, key=lambda item: (item[1].due_ms, item[1].line))

    def _promote(self, now_ms: int) -> None:
        for job_id, job in self._by_due(now_ms)[:MOST_JOBS]:
            del self.delayed[job_id]
            self._add(job_id, self._stream(job.priority), job.fields)

    def _read(self, worker: str, number: int, count: int) -> list[Lease]:
        stream = self.streams[number - 1]
        entries = list(stream.unread)[: max(0, count)]
        for entry in entries:
            del stream.unread[entry]
            stream.pending[entry] = _Pending(worker, 1, time.monotonic())
        return [self._lease(number, entry) for entry in entries]

    def _deliver(
        self, worker: str, number: int, entry: str, max_deliveries: int, ended: list[Ended], *, idle: bool
    ) -> tuple[Lease | None, bool]:
        """Give a worker an entry that was delivered before; see lua/claim.lua.

        Returns:
            The lease, and whether it is to run alone; or None, and whether it waits for a worker with nothing else
            to run: then nothing was changed.
        """
        stream = self.streams[number - 1]
        pending, here = stream.pending[entry], (stream.priority, entry)
        deliveries = pending.deliveries + 1
        if self._is_cancelling(stream, entry):
            fields, job_id = stream.entries[entry], self._identify(*here)
            self._drop(stream, entry)
            self._end(job_id, fields)
            self._count("cancelled")
            ended.append((job_id, Reply.CANCELLED))
            return None, False
        if deliveries > max_deliveries and (here in self.alone or max_deliveries == 1):
            alone = ", the last time with nothing beside it" if here in self.alone else ""
            error = f"delivered {deliveries - 1} times without an outcome{alone}: it may kill its workers"
            notes = {"reason": "worker lost", "error": error, "worker": worker}
            ended.append((self._handle_end(stream, entry, deliveries - 1, notes), Reply.DEAD))
            return None, False
        is_alone = deliveries >= max_deliveries > 1
        if is_alone and not idle:
            return None, True
        if is_alone:
            self.alone.add(here)
            self.located[self._identify(*here)] = here  # the mark stands beside its place there
        else:
            self.alone.discard(here)
        pending.worker, pending.since, pending.deliveries = worker, time.monotonic(), deliveries
        return self._lease(number, entry), is_alone

    def _holds_any(self, worker: str) -> bool:
        return any(pending.worker == worker for stream in self.streams for pending in stream.pending.values())

    def _lease(self, number: int, entry: str) -> Lease:
        stream = self.streams[number - 1]
        fields, here = stream.entries[entry], (stream.priority, entry)
        job_id = _said(fields)
        if not job_id:  # put in by hand: from now on it has a locator
            job_id = self._identify(*here)
            self.located[job_id] = here
        return Lease(number, entry, stream.pending[entry].deliveries, job_id, fields)

    def _owned(self, worker: str, lease: Lease) -> _Pending | None:
        pending = self.streams[lease.stream - 1].pending.get(lease.entry)
        if pending is None or (pending.worker, pending.deliveries) != (worker, lease.deliveries):
            return None
        return pending

    def _again(
        self, job_id: str, entry: str, stream: _Stream, fields: Fields, due: str, changes: Mapping[str, str]
    ) -> None:
        changed = {_bytes(key): _bytes(value) for key, value in changes.items()}
        kept = {key: value for key, value in fields.items() if key not in changed}
        kept |= {key: value for key, value in changed.items() if value}
        kept[b"id"] = _bytes(job_id)
        now_ms = self.now_ms()
        kept.setdefault(b"queued_at", _pushed_at(entry, now_ms))
        due_ms = _due(due, now_ms)
        if due_ms > now_ms:
            self._delay(job_id, stream.priority, kept, due_ms)
        else:
            self._add(job_id, stream, kept)

    def _handle_end(self, stream: _Stream, entry: str, deliveries: int, notes: Mapping[str, str]) -> str:
        """Make an entry a dead letter; the id it goes by."""
        fields, job_id = stream.entries[entry], self._identify(stream.priority, entry)
        queued = fields.get(b"queued_at", _pushed_at(entry, self.now_ms()))
        noted = {key: value for key, value in notes.items() if value or key != "traceback"}
        more = {"priority": stream.priority, "deliveries": str(deliveries), "failed_at": str(self.now_ms())}
        letter = self._new_id()
        self.dead[letter] = {
            b"queued_at": queued,
            **fields,
            b"id": _bytes(job_id),
            **{_bytes(key): _bytes(value) for key, value in (more | noted).items()},
        }
        self.located[job_id] = ("dead", letter)
        self._drop(stream, entry)
        self._free(job_id, fields)
        self._count("dead")
        return job_id

    def _count(self, counter: str, number: int = 1) -> None:
        if number:
            self.totals[counter] = self.totals.get(counter, 0) + number

    def _tell_released(self, number: int) -> None:
        if number:
            self._count("released", number)
            self._notify("released", str(number))

    def _notify(self, kind: str, value: str) -> None:
        for ear in list(self.ears):
            ear(Notification(kind, value))

    def _ready_row(self, stream: _Stream, entry: str) -> Row:
        fields, pending = stream.entries[entry], stream.pending.get(entry)
        running = pending is not None and pending.worker != _RELEASED
        return Row(
            job_id=self._address(stream.priority, entry),
            state=State.RUNNING if running else State.READY,
            priority=stream.priority,
            entry=entry,
            due_ms=None,
            worker=pending.worker if pending and running else "",
            deliveries=pending.deliveries if pending else 0,
            cancelling=self._is_cancelling(stream, entry),
            fields=fields,
        )

    def _delayed_row(self, job_id: str, job: _Delayed) -> Row:
        return Row(job_id, State.DELAYED, job.priority, "", job.due_ms, "", 0, False, job.fields)

    def _dead_row(self, letter: str) -> Row:
        fields, job_id = self.dead[letter], self._address("dead", letter)
        priority = Priority(fields[b"priority"].decode())
        return Row(job_id, State.DEAD, priority, letter, None, "", 0, False, fields)


def _lately(pushes: Mapping[Push, int], push: Push, now_ms: int) -> bool:
    return pushes.get(push, -_REMEMBERED * 2) > now_ms - _REMEMBERED


def _bytes(value: str | bytes) -> bytes:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


def _said(fields: Fields) -> str:
    """The id an entry says it has; '' for one put in by hand without."""
    return fields.get(b"id", b"").decode("utf-8", "surrogateescape")


def _pushed_at(entry: str, now_ms: int) -> bytes:
    """When an entry was pushed, in ms, as its id tells; never later than now."""
    return b"%d" % min(int(entry.partition("-")[0]), now_ms)


def _due(text: str, now_ms: int) -> int:
    if not text:
        return 0
    return math.ceil(now_ms + float(text[1:])) if text.startswith("+") else int(text)
