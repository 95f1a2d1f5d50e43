"""The reference driver: the verbs of `lua/` on dicts, in one process, with the same words and states.

Read it beside `lua/`: one method a script. Streams are dicts in the order of their entry ids, with the pending
list as a dict beside them. Nothing survives the process.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from redisjobs.driver import (
    MOST_JOBS,
    Ack,
    Counts,
    DeadLetter,
    Fate,
    Lease,
    NewJob,
    Nudge,
    Pushed,
    Release,
    RetryLater,
    Row,
    Settlement,
    Word,
)
from redisjobs.job import Priority, State

Fields = dict[bytes, bytes]
Ended = list[tuple[str, Word]]

_REMEMBERED = 60_000  # ms that an ended job's id is known for, so that a repeated push adds nothing
_STRIPPED = (  # what a requeued job leaves behind: its failure, its attempts, its claims on time and uniqueness
    b"reason error traceback failed_at worker deliveries priority attempt unknown_since expires_at unique"
).split()
_RELEASED = "released"  # who holds what was handed back
_MOST_FIELDS = 500  # of an entry that a script can move; more can only have been put in by hand


@dataclass(slots=True)
class _Pending:
    """A lease: who holds the entry, by which delivery, renewed when (this process' monotonic clock)."""

    worker: str
    deliveries: int
    renewed: float


@dataclass(slots=True)
class _Stream:
    """One ready stream: its entries, which of them the group has not read, and its pending list."""

    priority: Priority
    entries: dict[str, Fields] = field(default_factory=dict)
    unread: dict[str, None] = field(default_factory=dict)
    pending: dict[str, _Pending] = field(default_factory=dict)


@dataclass(slots=True)
class _Delayed:
    priority: Priority
    fields: Fields
    due_ms: int


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
        self.delayed: dict[str, _Delayed] = {}
        self.dead: dict[str, Fields] = {}
        self.uniques: dict[str, tuple[str, int | None]] = {}  # key -> (job id, until ms)
        self.finished: dict[str, int] = {}  # job id -> when it ended, ms
        self.totals: dict[str, int] = {}
        self.ears: list[Callable[[Nudge], None]] = []
        self._last_id = (0, 0)

    def close(self) -> None:
        """Nothing is open."""

    def push(self, jobs: Sequence[NewJob], *, again: bool) -> list[Pushed]:
        with self.lock:
            return [self._push(job, again) for job in jobs]

    def _push(self, job: NewJob, again: bool) -> Pushed:
        now_ms = self.now_ms()
        holder = self._unique_holder(job.unique, now_ms)
        ended = (again or not _is_fresh(job.job_id, now_ms)) and self._finished_lately(job.job_id, now_ms)
        if job.job_id in self.located or ended:
            return Pushed(Word.EXISTS)
        if holder is not None:
            return Pushed(Word.DUPLICATE, holder)

        flat = [part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part for part in job.fields]
        fields: Fields = {b"id": _bytes(job.job_id), **dict(zip(flat[::2], flat[1::2], strict=True))}
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
        return Pushed(Word.OK)

    def claim(
        self, worker: str, count: int, max_deliveries: int, ended: Ended
    ) -> tuple[float | None, list[Lease]]:
        with self.lock:
            now_ms = self.now_ms()
            self._promote(now_ms)
            claimed: list[Lease] = []
            for number, stream in enumerate(self.streams, 1):
                for entry in [e for e, p in stream.pending.items() if p.worker == _RELEASED]:
                    if len(claimed) < count and not self._is_for_others(worker, number, entry, max_deliveries):
                        claimed += self._hand_out(worker, number, entry, max_deliveries, ended)
                claimed += self._read(worker, number, count - len(claimed))
            due = min((job.due_ms for job in self.delayed.values()), default=None)
            return None if due is None else max(0, due - now_ms) / 1000, claimed

    def read(self, worker: str, count: int) -> list[Lease]:
        """XREADGROUP: up to `count` new entries of each stream."""
        with self.lock:
            return [lease for number in (1, 2, 3) for lease in self._read(worker, number, count)]

    def reclaim(self, worker: str, count: int, lease: float, max_deliveries: int, ended: Ended) -> list[Lease]:
        with self.lock:
            oldest = time.monotonic() - lease
            claimed: list[Lease] = []
            passed = 0
            for number, stream in enumerate(self.streams, 1):
                expired = [e for e, p in stream.pending.items() if p.renewed <= oldest]
                besides = {(number, entry) for entry in expired}
                for entry in expired:
                    if len(claimed) >= count:
                        break
                    besides.discard((number, entry))
                    if self._is_for_others(worker, number, entry, max_deliveries, besides):
                        stream.pending[entry].worker = _RELEASED
                        stream.pending[entry].renewed = time.monotonic()
                        passed += 1
                    else:
                        claimed += self._hand_out(worker, number, entry, max_deliveries, ended)
            if passed:
                self._nudge("released", str(passed))
            self._count("reclaimed", len(claimed))
            return claimed

    def held_by_others(self, worker: str) -> int:
        with self.lock:
            holders = [pending.worker for stream in self.streams for pending in stream.pending.values()]
            return sum(holder not in (worker, _RELEASED) for holder in holders)

    def renew(self, worker: str, leases: Sequence[Lease]) -> list[Word]:
        with self.lock:
            return [self._renew(worker, lease) for lease in leases]

    def _renew(self, worker: str, lease: Lease) -> Word:
        pending = self._owned(worker, lease)
        if pending is None:
            return Word.LEASE_LOST
        pending.renewed = time.monotonic()
        return Word.CANCELLING if self._is_cancelling(self.streams[lease.stream - 1], lease.entry) else Word.OK

    def settle(self, worker: str, settlements: Sequence[Settlement]) -> list[Word]:
        with self.lock:
            words = [self._settle(worker, lease, fate) for lease, fate in settlements]
            released = [word for word, (_, fate) in zip(words, settlements, strict=True) if fate == Release()]
            self._tell_released(released.count(Word.OK))
            return words

    def _settle(self, worker: str, lease: Lease, fate: Fate) -> Word:
        pending = self._owned(worker, lease)
        if pending is None:
            return Word.LEASE_LOST
        stream, entry = self.streams[lease.stream - 1], lease.entry
        fields, job_id = stream.entries[entry], self._goes_by(stream, entry)
        match fate:
            case Ack(cancelled):
                young = int(entry.partition("-")[0]) > self.now_ms() - _REMEMBERED
                self._drop(stream, entry)
                self._end(job_id, fields, remember=young)
                self._count("cancelled" if cancelled else "completed")
            case RetryLater() if self._is_cancelling(stream, entry):
                self._drop(stream, entry)
                self._end(job_id, fields)
                self._count("cancelled")
                return Word.CANCELLED
            case RetryLater() if len(fields) > _MOST_FIELDS:
                return Word.OVERSIZED
            case RetryLater(due, changes):
                self._drop(stream, entry)
                self._again(job_id, entry, stream, fields, due, changes)
                self._count("retried")
            case Release():
                stream.pending[entry] = _Pending(_RELEASED, lease.deliveries - 1, time.monotonic())
            case DeadLetter(reason, error, traceback):
                notes = {"reason": reason, "error": error, "traceback": traceback, "worker": worker}
                self._bury(stream, entry, lease.deliveries, notes)
        return Word.OK

    def release_all(self, worker: str, held: Sequence[Lease], refund: int = 1) -> int:
        with self.lock:
            kept, released = {lease.place for lease in held}, 0
            for number, stream in enumerate(self.streams, 1):
                for entry, pending in stream.pending.items():
                    if pending.worker == worker and f"{number} {entry}" not in kept:
                        pending.worker, pending.deliveries = _RELEASED, max(0, pending.deliveries - refund)
                        released += 1
            self._tell_released(released)
            return released

    def cancel(self, job_id: str) -> Word:
        with self.lock:
            place, entry = self._locate(job_id)
            if not place:
                return Word.NOT_FOUND
            if place == "dead":
                return Word.DEAD
            if place == "delayed":
                fields = self.delayed.pop(job_id).fields
            else:
                stream = self._stream(Priority(place))
                pending = stream.pending.get(entry)
                if pending is not None and pending.worker != _RELEASED:
                    self.located[job_id] = (place, entry)
                    self.cancelling.add((place, entry))
                    self._nudge("cancel", job_id)
                    return Word.CANCELLING
                fields = stream.entries[entry]
                self._drop(stream, entry)
            self._end(job_id, fields)
            self._count("cancelled")
            return Word.CANCELLED

    def requeue(self, job_id: str) -> Word:
        with self.lock:
            place, letter = self.located.get(job_id, ("", ""))
            if place != "dead":
                return Word.NOT_FOUND
            fields = self.dead[letter]
            kept = {key: value for key, value in fields.items() if key not in _STRIPPED}
            if len(kept) > _MOST_FIELDS:
                return Word.OVERSIZED
            del self.dead[letter]
            self._add(job_id, self._stream(Priority(fields[b"priority"].decode())), kept)
            self._count("requeued")
            return Word.OK

    def delete(self, job_id: str) -> Word:
        with self.lock:
            place, letter = self.located.get(job_id, ("", ""))
            if place != "dead":
                return Word.NOT_FOUND
            del self.dead[letter], self.located[job_id]
            self._count("deleted")
            return Word.OK

    def find(self, job_id: str) -> Row | None:
        with self.lock:
            place, entry = self._locate(job_id)
            if not place:
                return None
            if place == "dead":
                return self._dead_row(entry)
            if place == "delayed":
                return self._delayed_row(self.delayed[job_id])
            return self._ready_row(self._stream(Priority(place)), entry)

    def jobs(self, state: State, limit: int) -> list[Row]:
        with self.lock:
            rows: Iterator[Row]
            if state is State.DELAYED:
                rows = map(self._delayed_row, (job for _, job in self._by_due()))
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

    def put(self, fields: Mapping[str, str | bytes], priority: Priority = Priority.NORMAL) -> str:
        """XADD by hand: an entry as it stands, without a locator. Its entry id."""
        with self.lock:
            raw = {_bytes(key): _bytes(value) for key, value in fields.items()}
            return self._append(self._stream(priority), raw)

    def age(self, seconds: float) -> None:
        """Let every lease look `seconds` older."""
        with self.lock:
            for stream in self.streams:
                for pending in stream.pending.values():
                    pending.renewed -= seconds

    # What the verbs share

    def _stream(self, priority: Priority) -> _Stream:
        return self.streams[list(Priority).index(priority)]

    def _new_id(self) -> str:
        now_ms = self.now_ms()
        last_ms, sequence = self._last_id
        self._last_id = (now_ms, 0) if now_ms > last_ms else (last_ms, sequence + 1)
        return f"{self._last_id[0]}-{self._last_id[1]}"

    def _locate(self, job_id: str) -> tuple[str, str]:
        """Where a job is. One put in by hand has no locator: its id is its entry id."""
        if job_id in self.located:
            return self.located[job_id]
        for stream in self.streams:
            if job_id in stream.entries and _own_id(stream.entries[job_id], job_id) == job_id:
                return stream.priority, job_id
        return "", ""

    def _goes_by(self, stream: _Stream, entry: str) -> str:
        """The id of an entry's job: its own, or the entry's where another job has that one already."""
        job_id, here = _own_id(stream.entries[entry], entry), (stream.priority, entry)
        return job_id if self.located.get(job_id, here) == here else entry

    def _is_cancelling(self, stream: _Stream, entry: str) -> bool:
        return (stream.priority, entry) in self.cancelling

    def _append(self, stream: _Stream, fields: Fields) -> str:
        entry = self._new_id()
        stream.entries[entry] = fields
        stream.unread[entry] = None
        self._nudge("ready", entry)
        return entry

    def _add(self, job_id: str, stream: _Stream, fields: Fields) -> None:
        self.located[job_id] = (stream.priority, self._append(stream, fields))

    def _drop(self, stream: _Stream, entry: str) -> None:
        del stream.entries[entry]
        stream.unread.pop(entry, None)
        stream.pending.pop(entry, None)
        self.cancelling.discard((stream.priority, entry))

    def _end(self, job_id: str, fields: Fields, *, remember: bool = True) -> None:
        """The job is over: forget it, but for its id."""
        self.located.pop(job_id, None)
        self._free(job_id, fields)
        now_ms = self.now_ms()
        if remember:
            self.finished.pop(job_id, None)
            self.finished[job_id] = now_ms
        while self.finished and next(iter(self.finished.values())) < now_ms - 2 * _REMEMBERED:
            del self.finished[next(iter(self.finished))]

    def _free(self, job_id: str, fields: Fields) -> None:
        key = fields.get(b"unique", b"").decode("utf-8", "surrogateescape")
        if self.uniques.get(key, ("", None))[0] == job_id:
            del self.uniques[key]

    def _finished_lately(self, job_id: str, now_ms: int) -> bool:
        return self.finished.get(job_id, -_REMEMBERED * 2) > now_ms - _REMEMBERED

    def _unique_holder(self, key: str, now_ms: int) -> str | None:
        job_id, until = self.uniques.get(key, ("", 0)) if key else ("", 0)
        return job_id if until is None or until > now_ms else None

    def _delay(self, job_id: str, priority: Priority, fields: Fields, due_ms: int) -> None:
        first = min((job.due_ms for job in self.delayed.values()), default=None)
        self.delayed[job_id] = _Delayed(priority, fields, due_ms)
        self.located[job_id] = ("delayed", "")
        if first is None or due_ms < first:
            self._nudge("due", str(due_ms))

    def _by_due(self, until_ms: float = math.inf) -> list[tuple[str, _Delayed]]:
        due = [item for item in self.delayed.items() if item[1].due_ms <= until_ms]
        return sorted(due, key=lambda item: (item[1].due_ms, _bytes(item[0])))

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

    def _hand_out(self, worker: str, number: int, entry: str, max_deliveries: int, ended: Ended) -> list[Lease]:
        """Give an entry that was delivered before to a worker, unless it is cancelled or poison."""
        stream = self.streams[number - 1]
        pending = stream.pending[entry]
        pending.worker, pending.renewed = worker, time.monotonic()
        pending.deliveries += 1
        lease = self._lease(number, entry)
        if self._is_cancelling(stream, entry):
            self._drop(stream, entry)
            self._end(lease.job_id, dict(lease.fields))
            self._count("cancelled")
            ended.append((lease.job_id, Word.CANCELLED))
            return []
        if pending.deliveries > max_deliveries:
            times = pending.deliveries - 1
            error = f"handed out {times} times without an outcome: its workers died or lost it"
            notes = {"reason": "worker lost", "error": error, "worker": worker}
            ended.append((self._bury(stream, entry, times, notes), Word.DEAD))
            return []
        return [lease]

    def _is_for_others(
        self,
        worker: str,
        number: int,
        entry: str,
        max_deliveries: int,
        besides: Set[tuple[int, str]] = frozenset(),
    ) -> bool:
        """Whether a job is handed out for the last time, and this worker has one like it already."""
        deliveries = self.streams[number - 1].pending[entry].deliveries + 1
        if max_deliveries == 1 or deliveries != max_deliveries:
            return False
        return any(
            pending.worker == worker
            and pending.deliveries >= max_deliveries
            and (at, held) not in {(number, entry), *besides}
            for at, stream in enumerate(self.streams, 1)
            for held, pending in stream.pending.items()
        )

    def _lease(self, number: int, entry: str) -> Lease:
        stream = self.streams[number - 1]
        fields = stream.entries[entry]
        return Lease(number, entry, stream.pending[entry].deliveries, _own_id(fields, entry), fields)

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
        kept.setdefault(b"queued_at", entry.partition("-")[0].encode())
        now_ms = self.now_ms()
        due_ms = _due(due, now_ms)
        if due_ms > now_ms:
            self._delay(job_id, stream.priority, kept, due_ms)
        else:
            self._add(job_id, stream, kept)

    def _bury(self, stream: _Stream, entry: str, deliveries: int, notes: Mapping[str, str]) -> str:
        """Make an entry a dead letter; the id it goes by."""
        fields, job_id = stream.entries[entry], self._goes_by(stream, entry)
        queued = fields.get(b"queued_at", entry.partition("-")[0].encode())
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
            self._nudge("released", str(number))

    def _nudge(self, kind: str, value: str) -> None:
        for ear in list(self.ears):
            ear(Nudge(kind, value))

    def _ready_row(self, stream: _Stream, entry: str) -> Row:
        fields, pending = stream.entries[entry], stream.pending.get(entry)
        running = pending is not None and pending.worker != _RELEASED
        return Row(
            state=State.RUNNING if running else State.READY,
            priority=stream.priority,
            entry=entry,
            due_ms=None,
            worker=pending.worker if pending and running else "",
            deliveries=pending.deliveries if pending else 0,
            cancelling=self._is_cancelling(stream, entry),
            fields=fields,
        )

    def _delayed_row(self, job: _Delayed) -> Row:
        return Row(State.DELAYED, job.priority, "", job.due_ms, "", 0, False, job.fields)

    def _dead_row(self, letter: str) -> Row:
        fields = self.dead[letter]
        return Row(State.DEAD, Priority(fields[b"priority"].decode()), letter, None, "", 0, False, fields)


def _bytes(value: str | bytes) -> bytes:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


def _own_id(fields: Fields, entry: str) -> str:
    """The id an entry says it has; its entry id for one put in by hand without."""
    return fields.get(b"id", entry.encode()).decode("utf-8", "surrogateescape")


def _is_fresh(job_id: str, now_ms: int) -> bool:
    """Whether an id, one that redisjobs made, was made just now."""
    try:
        return len(job_id) == 28 and abs(now_ms - int(job_id[:12], 16)) < 2000
    except ValueError:
        return False


def _due(text: str, now_ms: int) -> int:
    if not text:
        return 0
    return math.ceil(now_ms + float(text[1:])) if text.startswith("+") else int(text)
