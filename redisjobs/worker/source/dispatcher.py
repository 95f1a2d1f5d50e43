"""Moves a source's leased jobs into slots, and hands back jobs that can't start soon."""

import time
from collections.abc import Sequence

from redisjobs.events.kinds import JobsClaimed
from redisjobs.model.transitions import LOWEST_RANK, Exchange, Lease
from redisjobs.worker.running.execution import Execution
from redisjobs.worker.running.handler_run import PATIENCE
from redisjobs.worker.source.batcher import Batch
from redisjobs.worker.source.claims import Claims
from redisjobs.worker.source.member import Member
from redisjobs.worker.source.settler import Settler

_MIXED = 60.0  # a priority counts as in use for this many seconds after its last job


class Dispatcher:
    """Gives leased jobs to slots, and hands back jobs that can't start soon."""

    def __init__(self, member: Member, claims: Claims, settler: Settler) -> None:
        self._came_at = [float("-inf")] * (LOWEST_RANK + 1)  # by rank: when a job last came, monotonic
        self._member = member
        self._pool = claims.pool
        self._leases = claims.leases
        self._claims = claims
        self._settler = settler

    def take(self, leases: Sequence[Lease], asked_at: float) -> None:
        """Give leased jobs, asked for at `asked_at`, to free slots, and hand back the rest."""
        if self._may_take(leases):
            room = self._room()  # read before they are held: a held job may count as one that has to end first
            for run in self._dispatch(self._held(leases, asked_at), room):
                self._settler.hand_back(run)
            self._note_begun()

    def take_claimed(self, batch: Batch, answer: Exchange) -> None:
        """Give the jobs of a claim, and the jobs that waited for it, to slots, strictly by priority.

        They get no more slots than the claim asked for. By the time another slot is free, a job may have been
        pushed that goes before them.
        """
        if not self._may_take(answer.leases):
            return
        leases, ahead = self._leases, batch.ahead
        if self.has_priorities and not self._pool.is_shared:  # with several sources, no job is claimed ahead
            # From now on these wait for a claim like all others.
            taken_back, ahead = self._take_back(0.0), 0
            for run in taken_back:
                run.is_announced = True
            leases.waiting += taken_back
        room = min(self._room(ahead), batch.count or 0)  # before they are held
        runs = self._held(answer.leases, batch.sent)
        if leases.waiting:
            runs = sorted(
                [*(run for run in leases.waiting if not run.over), *runs], key=lambda run: run.lease.rank
            )
        leases.waiting = self._dispatch(runs, room, answer.up_to)
        self._note_begun()

    def _note_begun(self) -> None:
        self._claims.demand.slots_taken(self._claims)
        self._pool.jobs_begun()

    def _take_back(self, waited: float) -> list[Execution]:
        """Take back the jobs that have waited `waited` seconds for a slot."""
        late = self._pool.take_back(waited)
        if late:
            self._claims.demand.taken_back()
        return late

    def _room(self, ahead: int = 0) -> int:
        """Return how many jobs may start or wait; none once the worker is quiet, although a claim brought them."""
        return 0 if self._claims.is_quiet else self._claims.demand.room_with(ahead)

    def _may_take(self, leases: Sequence[Lease]) -> bool:
        if self._member.is_renewing:
            return False  # jobs that a late read under our old id brought belong to other workers
        if self._member.may_be_dead and (leases or self._leases.waiting):
            if leases:
                self._member.needs_recovery = True  # if they are still ours, we find them as soon as we know
            return False
        if leases:
            self._came_at[leases[0].rank] = self._came_at[leases[-1].rank] = time.monotonic()
        return True

    def _held(self, leases: Sequence[Lease], asked_at: float) -> list[Execution]:
        """Hold the jobs that are not held yet."""
        settings, runtime, settler = self._member.settings, self._pool.runtime, self._settler
        runs = [Execution(lease, settings, runtime, settler) for lease in self._leases.new(leases, asked_at)]
        self._leases.hold(runs)
        return runs

    @property
    def has_priorities(self) -> bool:
        """Whether jobs of several priorities came lately. Claimed ahead, some would start before urgent ones."""
        since = time.monotonic() - _MIXED
        return sum(at > since for at in self._came_at) > 1

    def _dispatch(self, runs: Sequence[Execution], room: int, up_to: int = LOWEST_RANK) -> list[Execution]:
        """Give jobs to slots while there is room, but none of a rank above `up_to`; return the rest.

        A job that must run isolated and can't start now goes back, because another worker may have nothing else to
        run.
        """
        most, now = self._member.settings.max_deliveries, time.monotonic()
        given, rest, isolated = list[Execution](), list[Execution](), None
        for run in runs:
            if run.lease.deliveries >= most > 1:  # it is its last delivery
                if room > 0 and run.lease.rank <= up_to and not (given or self._pool.slots.held):
                    isolated, room = run, 0
                else:
                    self._settler.hand_back(run)
            elif room > 0 and run.lease.rank <= up_to:
                room -= 1
                run.given_at = now
                given.append(run)
            else:
                run.given_at = min(run.given_at, now)
                rest.append(run)
        if isolated is not None:
            isolated.given_at = now
            self._pool.isolate(isolated)
            self._claims.quarantine.started(now)
            given.append(isolated)
        else:
            self._pool.give(given)
        if claimed := [run.lease for run in given if not run.is_announced]:
            self._member.tell(JobsClaimed, leases=claimed)
        return rest

    @property
    def hand_back_at(self) -> float:
        """When to hand back the first waiting job, by the monotonic clock; infinity if none waits."""
        waits_since = min((run.given_at for run in self._leases.waiting), default=float("inf"))
        return min(self._pool.slots.oldest, waits_since) + PATIENCE

    def hand_back_waiting(self, *, at_once: bool = False) -> None:
        """Hand back the jobs that have waited too long for a slot, or may not start any more.

        With `at_once` all of them go back, because some may not start any more. Those that may are claimed again.
        """
        if not self._leases.waiting and self._pool.slots.oldest == float("inf"):
            return
        at_once = at_once or self._pool.shutdown.stopping or self._claims.claims_nothing
        patience = 0.0 if at_once else PATIENCE
        self.hand_back_unclaimed(time.monotonic() - patience)
        for run in self._take_back(patience):
            run.owner.hand_back(run)

    def hand_back_unclaimed(self, come_before: float = float("inf")) -> None:
        """Hand back the jobs that wait for another claim and had come by `come_before`."""
        late = [run for run in self._leases.waiting if run.given_at <= come_before]
        if late:
            self._leases.waiting = [run for run in self._leases.waiting if run.given_at > come_before]
        for run in late:
            self._settler.hand_back(run)
