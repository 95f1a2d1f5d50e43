"""The jobs that a worker holds: running, or finished and waiting to be settled."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from redisjobs.model.emissions import EmitChunks
from redisjobs.model.transitions import (
    Ack,
    AddChildren,
    Lease,
    Lingers,
    Release,
    ReportProgress,
    SaveStep,
    size_of,
)
from redisjobs.worker.running.children import OnReply
from redisjobs.worker.running.execution import Execution

_REFUSED = 5.0  # seconds before a new try to write a dead letter that can't be written
_BUSY = 0.5  # seconds before a new try of what waits for another transaction
_MOST_TRIED = 50  # such jobs that are tried together: each may wait for a lock, and the others wait meanwhile

# Settling costs Redis time by the bytes of results, and of the entries it reads: those of jobs that are retried,
# push others, become dead letters or may be kept. A delayed retry costs most: about 5 ms a MB, and 28 µs each.
# Removing an entry of 500 kB that is not read takes 50 µs.
_MOST_WEIGHT = 2 * 1024 * 1024
_BY_ITSELF = 8 * 1024  # added to a job's bytes, unless it simply completed on its first delivery


def _together(runs: Sequence[Execution], *, kept: bool) -> int:
    """Return how many leading runs fit into one call, limited by the bytes that Redis reads."""
    weight = 0
    for many, run in enumerate(runs, 1):
        settlement = run.settlement
        if (
            kept
            or type(settlement) is not Ack
            or settlement.cancelled
            or settlement.pushes
            or run.lease.deliveries > 1
        ):
            weight += _BY_ITSELF + _bytes_read(run, kept=kept)
        if type(settlement) is Ack and settlement.result is not None:
            weight += len(settlement.result.value or b"")
        if weight >= _MOST_WEIGHT:
            return many
    return len(runs)


def _bytes_read(run: Execution, *, kept: bool) -> int:
    """Return how many bytes of a job's entry Redis reads to settle it."""
    match run.settlement:
        case Release() | Lingers() | ReportProgress():
            return 0
        case Ack(cancelled=False, pushes=()) if not kept:
            return 0
    return sum(map(len, run.lease.fields.values()))


@dataclass(slots=True, eq=False)
class Note:
    """What a running job writes. It ends no lease.

    Attributes:
        answered: Called with the reply, and for children, which were added.
    """

    run: Execution
    settlement: SaveStep | AddChildren | EmitChunks
    answered: OnReply

    @property
    def weight(self) -> int:
        """About how many bytes it writes."""
        return size_of(self.settlement)


class Leases:
    """All jobs that a worker holds in one queue. `len()` counts them."""

    def __init__(self, *, keeps_done: bool) -> None:
        self._keeps_done = keeps_done
        self.unsettled: list[Execution] = []  # jobs whose settlement has to be sent
        # Jobs that can't be settled now and are tried again: a dead letter can't be written, say, or a thread
        # still runs.
        self.kept: list[Execution] = []
        # Jobs that can't start yet and wait for the next claim. Either more came than the claim asked for, because
        # jobs of a higher priority came too, or jobs that the claim left behind go first.
        self.waiting: list[Execution] = []  # by priority
        self.notes = deque[Note]()  # what running jobs write
        self.kept_notes: list[Note] = []  # those for which the server has no memory now
        self.kept_at = float("-inf")  # since when there are kept jobs
        # Jobs whose settlement waits for another transaction, and such notes. They are tried again soon.
        self.busy: list[Execution] = []
        self.busy_notes: list[Note] = []
        self.busy_until = float("inf")  # when they are tried again
        self._held: dict[str, Execution] = {}
        self._found: dict[str, float] = {}  # when we found the job of each key: a late reply may bring it too
        self._ended: set[str] | None = None  # keys of jobs that end while we search for missed ones

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Execution]:
        """Iterate over all jobs of this moment. They may come and go meanwhile, also in another thread."""
        return iter(list(self._held.values()))

    @property
    def running(self) -> int:
        """Number of jobs except the kept and the busy ones, whose handlers have ended."""
        return len(self._held) - len(self.kept) - len(self.busy)

    @property
    def lingering(self) -> int:
        """Number of jobs kept because an abandoned thread of their handler still runs."""
        return sum(isinstance(run.settlement, Lingers) for run in self.kept)

    @property
    def unwritable(self) -> int:
        """Number of jobs kept because the server can't settle them now."""
        return len(self.kept) - self.lingering

    @property
    def all(self) -> list[Lease]:
        """The leases of all jobs held now. Any thread may read it."""
        return [run.lease for run in self]

    def holder_of(self, lease: Lease) -> Execution | None:
        """Return the job that is held under the key of this lease."""
        return self._held.get(lease.key)

    def is_known(self, lease: Lease, asked_at: float) -> bool:
        """Return whether a lease belongs to a job that we hold already, or found meanwhile.

        A job that we hold may come again: it was handed back from outside while its handler runs, or while its
        outcome is on its way. From then on it has the newer lease.
        """
        if asked_at < self._found.get(lease.key, float("-inf")):
            return True
        mine = self._held.get(lease.key)
        if mine is None or mine.lease.job_id != lease.job_id or isinstance(mine.settlement, Release):
            return False
        if mine.lease.deliveries != lease.deliveries:  # else the settlement on its way settles this one too
            mine.lease = lease
        return True

    def new(self, leases: Sequence[Lease], asked_at: float) -> list[Lease]:
        """Return the leases that have come and are not known yet; see `is_known`."""
        if not self._found:  # the usual case
            held = self._held
            return [lease for lease in leases if lease.key not in held or not self.is_known(lease, asked_at)]
        return [lease for lease in leases if not self.is_known(lease, asked_at)]

    def hold(self, runs: Sequence[Execution]) -> None:
        """Hold these jobs from now on."""
        for run in runs:
            self._held[run.lease.key] = run

    def let_go(self, run: Execution) -> None:
        """Stop holding a job: it is settled, or another worker has it."""
        if self._held.get(run.lease.key) is run:  # after a failover another job may be in its place
            del self._held[run.lease.key]
            if self._ended is not None:
                self._ended.add(run.lease.key)

    def next(self, most: int) -> list[Execution]:
        """Take up to `most` jobs to settle, the oldest first; fewer if they are large."""
        most = min(most, _together(self.unsettled[:most], kept=self._keeps_done))
        some, self.unsettled = self.unsettled[:most], self.unsettled[most:]
        return some

    def next_notes(self, most: int) -> list[Note]:
        """Take up to `most` notes to write, the oldest first; fewer if they are large."""
        notes, weight = list[Note](), 0
        while self.notes and len(notes) < most and weight < _MOST_WEIGHT:
            notes.append(self.notes.popleft())
            weight += notes[-1].weight
        return notes

    def keep(self, run: Execution) -> None:
        """Keep a job that can't be settled now: it must not run again, and no other job waits for it."""
        if not self.kept:  # else each new one could put off the next try
            self.kept_at = time.monotonic()
        self.kept.append(run)

    def keep_note(self, note: Note) -> None:
        """Keep what can't be written now."""
        if not (self.kept or self.kept_notes):
            self.kept_at = time.monotonic()
        self.kept_notes.append(note)

    def settle_alone(self, run: Execution) -> None:
        """Settle a kept job again at once, as what it had to write before is dropped."""
        if run in self.kept and not any(note.run is run for note in self.kept_notes):
            self.kept.remove(run)
            self.unsettled.append(run)

    def keep_busy(self, what: Execution | Note) -> None:
        """Keep what can't be settled or written until another transaction has ended."""
        self.busy_until = min(self.busy_until, time.monotonic() + _BUSY)
        if isinstance(what, Note):
            self.busy_notes.append(what)
        else:
            self.busy.append(what)

    def try_busy(self) -> None:
        """Settle the busy jobs, if it is time."""
        if time.monotonic() >= self.busy_until:
            self.unsettled, self.busy = self.unsettled + self.busy[:_MOST_TRIED], self.busy[_MOST_TRIED:]
            self.notes.extend(self.busy_notes)
            self.busy_notes, self.busy_until = [], time.monotonic() + _BUSY if self.busy else float("inf")

    def try_again_later(self) -> None:
        """Settle the kept jobs, if the first was kept long enough ago."""
        if (self.kept or self.kept_notes) and time.monotonic() >= self.kept_at + _REFUSED:
            self.try_again()

    def try_again(self) -> None:
        """Settle the jobs that are kept, and the busy ones."""
        self.busy_until = float("-inf")
        self.try_busy()
        self.unsettled, self.kept = self.unsettled + self.kept, []
        self.notes.extend(self.kept_notes)
        self.kept_notes = []

    def forget(self) -> None:
        """Hold no job any more."""
        self._held.clear()
        self.notes.clear()
        self.kept_notes, self.busy_notes = [], []
        self.unsettled, self.kept, self.busy = [], [], []

    @contextmanager
    def missed(self, keep: float) -> Iterator[Callable[[Sequence[Lease]], list[Lease]]]:
        """Yield a filter for the jobs that Redis finds and no answer brought: it drops those that ended meanwhile.

        It remembers for `keep` seconds that they were found.
        """
        began, self._ended = time.monotonic(), set[str]()
        ended = self._ended

        def new(leases: Sequence[Lease]) -> list[Lease]:
            self._found = {key: at for key, at in self._found.items() if at > began - keep}
            found = [lease for lease in leases if lease.key not in ended]
            self._found |= {lease.key: began for lease in found}
            return found

        try:
            yield new
        finally:
            self._ended = None
