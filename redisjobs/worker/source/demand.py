"""Decides how many jobs a worker asks for, and in which of its queues: all that a claim or a read may bring."""

import time

from redisjobs.model.transitions import MOST_JOBS
from redisjobs.worker.running.execution import Execution
from redisjobs.worker.source.batcher import WORTH
from redisjobs.worker.source.policy import Allocator, Prefetch
from redisjobs.worker.source.pool import RESERVED, Claimant, Pool

_BATCH = 50  # jobs that fit into one exchange, even in a worker with few slots
_MOST_CLAIMS = 2  # of all sources together
_MOST_AHEAD = 2  # jobs for each slot; with one, two workers on two cores wait for the server


class Demand:
    """How many jobs a worker asks for.

    Free slots are not divided among the sources. The source that has the turn may claim for all of them.

    Args:
        pool: The slots to fill, and the sources that share them.
        allocator: Gives the sources their turns, by weight or in strict order.

    Attributes:
        ahead: How many more jobs than free slots may be claimed, because some jobs end meanwhile.
    """

    def __init__(self, pool: Pool, allocator: Allocator) -> None:
        self.ahead = 0
        self._pool = pool
        self._allocator = allocator
        self._prefetch = Prefetch(_MOST_AHEAD * pool.concurrency)

    # The answers

    def to_claim(self, source: Claimant) -> int:
        """Return how many jobs a source may claim now. If it is another's turn, wake that one and return 0."""
        if not self._pool.is_shared:
            return min(self.room_with(self.ahead), self.batch)
        return min(self._share(source), self.batch)

    def to_read(self, source: Claimant) -> int:
        """Return how many jobs of each priority a source's blocking read may bring; 0: it may not read."""
        if self._allocator.is_strict and self.others_want_jobs(source):
            return 0  # others come first, and each free slot would end the read
        room = self.room
        # COUNT applies to each of three streams, so a third of the slots leaves little to hand back.
        return max(1, room // (3 * len(self._pool.sources))) if room else 0

    @property
    def batch(self) -> int:
        """How many jobs one exchange claims or settles: half of the worker's places, so that two fill them."""
        places = self._pool.concurrency + self.ahead
        return min(MOST_JOBS, max(_BATCH, -(-places // 2)))

    @property
    def room(self) -> int:
        """How many jobs could start now, beyond those that claims have asked for."""
        return self.room_with(0)

    def room_with(self, ahead: int) -> int:
        """Return how many jobs could start, or (up to `ahead`) wait, beyond those that claims asked for."""
        pool = self._pool
        if pool.shutdown.stopping or (pool.isolated is not None and self._keeps_others_out(pool.isolated)):
            return 0
        asked, since, one_waits = 0, self._reserved_since, False
        for source in pool.sources:
            if source.batcher.under_way:
                if source.batcher.may_bring_isolated(since):
                    return 0
                asked += source.batcher.asked(since)
            one_waits = one_waits or source.quarantine.one_waits
        if one_waits and self._takes_no_new_jobs:
            return 0
        places = min(pool.concurrency + ahead - pool.slots.held, pool.max_jobs - pool.begun)
        return max(0, int(places - asked))

    @property
    def _reserved_since(self) -> float:
        """Claims sent since then keep slots for their jobs, so a server that hangs delays only its own source.

        Jobs that come later go back if the slots have been filled.
        """
        return time.monotonic() - RESERVED if self._pool.is_shared else float("-inf")

    # Jobs that run isolated

    def _keeps_others_out(self, run: Execution) -> bool:
        """Return whether the isolated job has the worker to itself: until it is settled, or its server is away."""
        if not self._pool.is_shared or not run.ended:
            return True
        return not any(each.is_away and run in each.leases for each in self._pool.sources)

    @property
    def _takes_no_new_jobs(self) -> bool:
        """Whether the worker takes no new jobs until the running ones are done, so that a job can run isolated.

        Jobs of a server that is away can't be settled, so it would wait for ever.
        """
        now, pool = time.monotonic(), self._pool
        if not any(each.quarantine.is_on(now) for each in pool.sources):
            return False
        holders = [each for each in pool.sources if each.leases.running]
        return bool(holders) and (not pool.is_shared or not any(holder.is_away for holder in holders))

    # Several sources

    def _share(self, source: Claimant) -> int:
        pool, room = self._pool, self.room
        if not room:
            return 0
        if self._allocator.is_strict:
            return self._left_for(source, room)
        since = self._reserved_since
        claims = sum(other.batcher.asked(since) > 0 for other in pool.sources if other is not source)
        if claims >= _MOST_CLAIMS or (claims and room < WORTH):
            return 0
        turn = self._allocator.next(self._wanting(source))
        if turn is None or pool.sources[turn] is source:
            return room
        pool.sources[turn].wake()
        return 0

    def _wanting(self, source: Claimant) -> list[bool]:
        """Return whether each source would claim; `source` counts in any case."""
        return [each is source or each.wants_jobs for each in self._pool.sources]

    def _left_for(self, source: Claimant, room: int) -> int:
        """Return how many free slots a source may have in strict order: those that no earlier one had jobs for."""
        left = room
        for other in self._pool.sources:
            if other is source:
                break
            if other.wants_jobs:
                left = min(left, room - self._new_to(other, room))
                if not left:
                    other.wake()
                    return 0
        if time.monotonic() < source.skip_until:
            left -= room - self._new_to(source, room)
        return max(0, left)

    def _new_to(self, source: Claimant, room: int) -> int:
        """Return for how many of the free slots a source has not claimed since they became free."""
        if source.emptied_at is None:
            return room
        asked = source.batcher.asked(self._reserved_since)
        return min(room, max(0, self._pool.ended - source.emptied_at - asked))

    def has_new_slots_for(self, source: Claimant) -> bool:
        """Return whether, in strict order, a source has not claimed for some slots since they became free."""
        return self._pool.is_shared and self._allocator.is_strict and self._new_to(source, self.room) > 0

    def others_want_jobs(self, source: Claimant) -> bool:
        """Return whether other sources would claim if they had slots."""
        return any(each is not source and each.wants_jobs for each in self._pool.sources)

    # What changes the answers

    def claiming(self, source: Claimant) -> None:
        """Note that a source claims in its turn."""
        if self._pool.is_shared:
            self._allocator.claimed(self._pool.sources.index(source), self._wanting(source))
            self._pool.changed()

    def claimed(self, source: Claimant, jobs: int, sent_at: float, *, more: bool, prefetches: bool) -> None:
        """Note how many jobs a claim sent at `sent_at` brought, and whether there are more.

        `prefetches`: no limit or priority holds these jobs back, so the next claim may ask for more jobs than
        there are free slots. With several sources none does, because they would get more or less than their share.
        None does for the last jobs of a worker either.

        Turns are counted by jobs. Counted by claims, a source whose turn comes whenever many slots are free would
        get more than its share. If all jobs took the same time, that would go on for ever.
        """
        pool = self._pool
        if pool.is_shared:
            number = pool.sources.index(source)
            if jobs > 1:  # `claiming` counted the first
                self._allocator.claimed(number, self._wanting(source), jobs - 1)
            if not more:
                self._allocator.emptied(number)
            return
        self._prefetch.answered(pool.ended, sent_at, time.monotonic())
        wanted = self._prefetch.jobs if more and prefetches else 0
        self.ahead = max(0, int(min(wanted, pool.max_jobs - pool.begun - pool.concurrency)))

    def taken_back(self) -> None:
        """Note that a job waited too long for a slot: claim none ahead until the rate of their ends is known."""
        self._prefetch.forget()
        self.ahead = 0

    def slots_taken(self, by: Claimant) -> None:
        """Note that a source has given jobs to slots. If no slot is left, others need no blocking read."""
        if self._pool.is_shared and not self.room:
            for other in self._pool.sources:
                if other is not by and other.fetcher.waiting:
                    other.make_room()
