"""The book of a worker's jobs: those that run, and those whose outcome is still to be settled."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from redisjobs.model.transitions import Ack, Lease, Lingers, Release, ReportProgress
from redisjobs.worker.running.execution import Execution

_REFUSED = 5.0  # seconds between tries to write a dead letter that can't be written

# What takes a store its time: the bytes of results, and of jobs that are read, as all are that are retried, push
# others, are dead letters or may be kept. A delayed retry is the dearest: some 5 ms a MB, and 28 µs each; to take
# out an entry of 500 kB that is not read takes 50 µs.
_MOST_WEIGHT = 2 * 1024 * 1024
_BY_ITSELF = 8 * 1024  # that each weighs beside its bytes which did not just end well by its first delivery


def _together(runs: Sequence[Execution], *, kept: bool) -> int:
    """How many of these are settled together, so that none holds a store up for long.

    Args:
        runs: The jobs.
        kept: Whether those that are done are kept.
    """
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
    """How many bytes of a job's entry a store reads to settle it."""
    match run.settlement:
        case Release() | Lingers() | ReportProgress():
            return 0
        case Ack(cancelled=False, pushes=()) if not kept:
            return 0
    return sum(map(len, run.lease.fields.values()))


class Leases:
    """All jobs that a worker holds, by the key of their lease; its length is how many.

    Args:
        keeps_done: Whether the queue keeps jobs that are done.

    Attributes:
        unsettled: Those that have a settlement, to be sent.
        kept: Those that can't be settled now, to be tried again: a dead letter can't be written, say, or a thread
            of the handler runs on.
        kept_at: Since when any are kept, by the monotonic clock.
        waiting: Those that have come and can't start yet: more than the claim asked for, as some of a higher
            priority came too, or some that jobs left behind go before. They wait for the next claim, by priority.
    """

    def __init__(self, *, keeps_done: bool) -> None:
        self._keeps_done = keeps_done
        self.unsettled: list[Execution] = []
        self.kept: list[Execution] = []
        self.waiting: list[Execution] = []
        self.kept_at = float("-inf")
        self._held: dict[str, Execution] = {}
        self._found: dict[str, float] = {}  # by key, when we found it: a late reply may bring it as well
        self._ended: set[str] | None = (
            None  # keys of those that ended while we look for missed ones; None: we don't
        )

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Execution]:
        """All of them, as they are now: they may come and go meanwhile, also in another thread."""
        return iter(list(self._held.values()))

    @property
    def running(self) -> int:
        """How many there are but for those that are kept: nothing waits for the end of these."""
        return len(self._held) - len(self.kept)

    @property
    def lingering(self) -> int:
        """How many are kept because a thread of their handler, which was given up, runs on."""
        return sum(isinstance(run.settlement, Lingers) for run in self.kept)

    @property
    def unwritable(self) -> int:
        """How many are kept that the store does not take."""
        return len(self.kept) - self.lingering

    @property
    def all(self) -> list[Lease]:
        """What is held now; for any thread."""
        return [run.lease for run in self]

    def holder_of(self, lease: Lease) -> Execution | None:
        """The job that is held under the key of a lease."""
        return self._held.get(lease.key)

    def is_known(self, lease: Lease, asked_at: float) -> bool:
        """Whether a lease that has come is of a job that is held already, or was found meanwhile.

        A job of our own may come again: handed back by somebody's hand while its handler still runs, or its
        outcome is on its way. It has the newer lease from then on.

        Args:
            lease: The lease.
            asked_at: When it was asked for, by the monotonic clock.
        """
        if asked_at < self._found.get(lease.key, float("-inf")):
            return True
        mine = self._held.get(lease.key)
        if mine is None or mine.lease.job_id != lease.job_id or isinstance(mine.settlement, Release):
            return False
        if mine.lease.deliveries != lease.deliveries:  # else what is on its way settles this one too
            mine.lease = lease
        return True

    def new(self, leases: Sequence[Lease], asked_at: float) -> list[Lease]:
        """Return those leases that have come of which `is_known` is false."""
        if not self._found:  # as almost always
            held = self._held
            return [lease for lease in leases if lease.key not in held or not self.is_known(lease, asked_at)]
        return [lease for lease in leases if not self.is_known(lease, asked_at)]

    def hold(self, runs: Sequence[Execution]) -> None:
        """Hold these jobs from now on."""
        for run in runs:
            self._held[run.key] = run

    def let_go(self, run: Execution) -> None:
        """Hold a job no more: it is settled, or another's."""
        if self._held.get(run.key) is run:  # after a failover another job may be in its place
            del self._held[run.key]
            if self._ended is not None:
                self._ended.add(run.key)

    def next(self, most: int) -> list[Execution]:
        """Take out up to so many of those that are to be settled, the oldest first; fewer if they are large."""
        most = min(most, _together(self.unsettled[:most], kept=self._keeps_done))
        some, self.unsettled = self.unsettled[:most], self.unsettled[most:]
        return some

    def keep(self, run: Execution) -> None:
        """Keep a job that can't be settled now: it must not run again, and no other waits for it."""
        if not self.kept:  # else one after another could put off the next try
            self.kept_at = time.monotonic()
        self.kept.append(run)

    def try_again_later(self) -> None:
        """Settle those that were kept, if the first of them was long enough ago."""
        if self.kept and time.monotonic() >= self.kept_at + _REFUSED:
            self.try_again()

    def try_again(self) -> None:
        """Settle those that were kept."""
        self.unsettled, self.kept = self.unsettled + self.kept, []

    def forget(self) -> None:
        """Hold nothing any more."""
        self._held.clear()
        self.unsettled, self.kept = [], []

    @contextmanager
    def missed(self, keep: float) -> Iterator[Callable[[Sequence[Lease]], list[Lease]]]:
        """While jobs are looked for that are ours and of which we never heard: which of those that come are.

        Args:
            keep: Seconds for which it is remembered that they were found.
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
