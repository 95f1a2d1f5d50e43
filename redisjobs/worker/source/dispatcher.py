"""A source's jobs: from a lease into a slot, and from what a handler came to, to its settlement."""

import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Protocol

from redisjobs.base.eventloop import Wakeup
from redisjobs.base.logger import Log
from redisjobs.base.visible import visible
from redisjobs.events import JobsClaimed, JobsCompleted, JobsPushed, JobsSettled, SettledJob, kind_of
from redisjobs.model.codec import encode_progress
from redisjobs.model.outcome import CancelAsked, Done, Interrupted, LeaseGone, Outcome, Unpushable
from redisjobs.model.transitions import (
    LOWEST_RANK,
    Ack,
    Ended,
    Exchange,
    Lease,
    Lingers,
    Release,
    Reply,
    ReportProgress,
    Settlement,
)
from redisjobs.worker.running.chain import Find
from redisjobs.worker.running.execution import Execution
from redisjobs.worker.running.pushes import Pushes
from redisjobs.worker.running.reporter import Reporter
from redisjobs.worker.source.batcher import Batch
from redisjobs.worker.source.claiming import Quarantine
from redisjobs.worker.source.clock import Clock
from redisjobs.worker.source.leases import Leases
from redisjobs.worker.source.member import Member
from redisjobs.worker.source.pool import Pool

logger = Log("redisjobs.worker")

_MIXED = 60.0  # seconds after which a job of another priority is taken to have been the last of its kind
_FULL = (
    "the server is out of memory: jobs of queue '%s' that have run and push others are kept, and settled once it "
    "has room; jobs that push none go on. Give it memory, or take jobs off the queue"
)
_LINGERS = (
    "%s: it was given up, but its thread runs on, so it still counts for max_concurrency. It is settled when the "
    "thread has ended"
)
_SPOILED = "the handler has returned, and the jobs that it pushed can't be added: %s; then requeue this job"


class Report:
    """What became of jobs, told with the rest of their batch: one event a kind.

    Args:
        member: As whom to tell.

    Attributes:
        is_wanted: Whether somebody listens to jobs that are done, as the last batch has shown.
    """

    def __init__(self, member: Member) -> None:
        self._member = member
        self._settled: defaultdict[type[JobsSettled], list[SettledJob]] = defaultdict(list)
        self.is_wanted = True
        self._told_full = False

    def begin(self) -> None:
        """Begin a batch: does anybody want to know of the jobs that are done?"""
        self.is_wanted = self._member.settings.queue.events.wanted(JobsCompleted)

    def note(self, run: Execution, reply: Reply) -> None:
        """Keep what became of a job; nothing is done for one that nobody asks for."""
        settlement = run.settlement
        if reply is Reply.OK and type(settlement) is Ack:
            if settlement.result and settlement.result.refused:
                # Here, as there may be no listener for jobs that are done.
                why = settlement.result.refused.removeprefix(f"{run.name}: ")  # which the line begins with
                self._member.log.warning("%s: done, but its result could not be kept: %s", run.description, why)
            if not (settlement.cancelled or self.is_wanted):
                return
        elif reply is Reply.LEASE_LOST:
            while isinstance(settlement, Lingers | ReportProgress) and settlement.then is not None:
                run.settlement = settlement = settlement.then  # what the job came to, which is not said any more
        self._settled[kind_of(settlement, reply)].append(run.settled(reply))

    def note_ended(self, ended: Sequence[Ended]) -> None:
        """Keep what the store ended when we claimed: nobody ran those jobs, so nobody else would say it."""
        for job_id, reply in ended:
            self._settled[kind_of(None, reply)].append(SettledJob(job_id, reply))

    def tell(self) -> None:
        """Tell it."""
        if self._settled:
            settled, self._settled = self._settled, defaultdict(list)
            for kind, jobs in settled.items():
                self._member.tell(kind, jobs=jobs)

    def tell_full(self) -> None:
        """Say once that jobs wait to be settled, as the server has no room for those that they push."""
        if not self._told_full:
            self._told_full = True
            logger.error(_FULL, self._member.settings.queue.name)


class Owner(Protocol):
    """Who claims the jobs."""

    def emptied(self) -> None:
        """Look whether a job that has to run alone can start: one was let go."""


class Dispatcher:
    """Gives leased jobs to slots, and takes what they come to.

    Args:
        member: As whom the jobs are held.
        pool: The worker's slots.
        clock: The server's.
        quarantine: Says whether a job waits that has to run alone.
        wakeup: Wakes who claims and settles.
        owner: Who claims them.

    Attributes:
        leases: The book of them.
        over: Jobs that came beyond what was asked for, as some of a higher priority did too, or that are not to
            start yet; by priority. They wait for the next claim to tell that none goes before them.
        needs_recovery: Jobs came that may be another's by now: whether they are ours has to be asked.
        report: What became of them, to be told.
        reporter: Which of them have said how far they are, to be published.
        find: Gives the definition of a job name, with middleware around its handler once the worker has begun.
        refused: How many settlements were of jobs that we had lost.
    """

    def __init__(
        self, member: Member, pool: Pool, clock: Clock, quarantine: Quarantine, wakeup: Wakeup, owner: Owner
    ) -> None:
        retention = member.settings.queue.retention
        self.leases = Leases(keeps_done=retention is not None and retention.completed is not None)
        self.report = Report(member)
        self.reporter = Reporter[Execution](pool.threads.call_soon, wakeup)
        self.over: list[Execution] = []
        self._came_at = [float("-inf")] * (LOWEST_RANK + 1)  # by rank: when a job came last, monotonic
        self.refused = 0
        self._leaves = False
        self.needs_recovery = False
        self.find: Find = member.settings.queue.definitions.get
        self._member = member
        self._pool = pool
        self._clock = clock
        self._quarantine = quarantine
        self._owner = owner
        self._wakeup = wakeup

    @property
    def server_ms(self) -> int:
        """The server's clock, as well as it is known."""
        return self._clock.now_ms(time.monotonic())

    @property
    def running(self) -> int:
        """How many jobs of the worker run."""
        return self._pool.slots.count_busy()

    @property
    def is_away(self) -> bool:
        """Whether the store is: what has run can't be settled."""
        return bool(self._member.unavailable)

    def take(self, leases: Sequence[Lease], asked_at: float) -> None:
        """Give leased jobs to free slots; what exceeds them goes back.

        Args:
            leases: The jobs.
            asked_at: When they were asked for, by the monotonic clock.
        """
        if self._may_take(leases):
            room = self._pool.room  # before they are held: what is held may have to end first
            for run in self._dispatch(self._held(leases, asked_at), room):
                self.hand_back(run)
            self._pool.given(self)

    def take_claimed(self, batch: Batch, answer: Exchange) -> None:
        """Give the jobs of a claim to slots, strictly by priority, with those that waited for it.

        They have no more slots than the claim asked for: since a slot is free that it did not, a job may have
        been pushed that goes before them.
        """
        if not self._may_take(answer.leases):
            return
        ahead = batch.ahead
        if self.has_priorities and not self._pool.is_shared:  # with several sources none is claimed ahead
            # What was waits for a claim like all others from now on.
            taken_back, ahead = self._pool.take_back(0.0), 0
            for run in taken_back:
                run.is_told = True
            self.over += taken_back
        room = min(self._pool.room_with(ahead), batch.count or 0)  # before they are held
        runs = self._held(answer.leases, batch.sent)
        if self.over:
            runs = sorted([*(run for run in self.over if not run.over), *runs], key=lambda run: run.lease.rank)
        self.over = self._dispatch(runs, room, answer.up_to)
        self._pool.given(self)

    def _may_take(self, leases: Sequence[Lease]) -> bool:
        if self._member.is_renewing:
            return False  # what a late read of our old id brings is for others
        if self._member.may_be_dead and (leases or self.over):
            if leases:
                self.needs_recovery = True  # should they still be ours, they are found as soon as we know
            return False
        if leases:
            self._came_at[leases[0].rank] = self._came_at[leases[-1].rank] = time.monotonic()
        return True

    def _held(self, leases: Sequence[Lease], asked_at: float) -> list[Execution]:
        """Hold those that are not held yet."""
        settings, now = self._member.settings, time.monotonic()
        runs = list[Execution]()
        for lease in leases:
            if not self.leases.is_known(lease, asked_at):
                run = Execution(lease, settings, self._pool.means, self)
                run.given_at = now
                self.leases.hold(run)
                runs.append(run)
        return runs

    @property
    def has_priorities(self) -> bool:
        """Whether jobs of several priorities have come lately: claimed ahead, some would start before others."""
        since = time.monotonic() - _MIXED
        return sum(at > since for at in self._came_at) > 1

    def _dispatch(self, runs: Sequence[Execution], room: int, up_to: int = LOWEST_RANK) -> list[Execution]:
        """Give jobs to slots, as many as there is room for, but none of a rank above `up_to`; those left over.

        One that has to run alone and can't begin now goes back: another worker may have nothing else to run.
        """
        most, now = self._member.settings.max_deliveries, time.monotonic()
        begun, over = list[Lease](), list[Execution]()
        for run in runs:
            lease = run.lease
            alone = lease.deliveries >= most > 1  # it is its last delivery
            if room > 0 and lease.rank <= up_to and not (alone and self._pool.slots.held):
                room = 0 if alone else room - 1
                if not run.is_told:
                    begun.append(lease)
                run.given_at = now
                self._pool.give(run, alone=alone)
                if alone:
                    self._quarantine.started(now)
            elif alone:
                self.hand_back(run)
            else:
                over.append(run)
        if begun:
            self._member.tell(JobsClaimed, leases=begun)
        return over

    @property
    def over_since(self) -> float:
        """Since when the first that is over has waited, by the monotonic clock; infinity: there is none."""
        return min((run.given_at for run in self.over), default=float("inf"))

    def hand_back_over(self, come_before: float = float("inf")) -> None:
        """Hand back those that are over, and had come by then."""
        late = [run for run in self.over if run.given_at <= come_before]
        self.over = [run for run in self.over if run.given_at > come_before]
        for run in late:
            self.hand_back(run)

    @property
    def may_begin(self) -> bool:
        """Whether jobs may begin: the lease surely holds, and the worker goes on."""
        return not (self._member.may_be_dead or self._member.is_renewing or self._pool.shutdown.stopping)

    def hand_back(self, run: Execution) -> None:
        """Hand back a job that has not begun."""
        assert run.owner is self  # or it would be settled on another queue, and be held on its own for ever
        if not run.over:
            run.over, run.settlement = True, Release()
            self.leases.unsettled.append(run)
            if self._pool.alone is run:
                self._end_alone(run)
            self._wakeup.wake()

    def reported(self, run: Execution) -> None:
        """Take note that a job has said how far it is; for any thread."""
        self.reporter.note(run)

    def take_reports(self, most: int) -> Sequence[Execution]:
        """Jobs of which it is to be published now how far they are; no more than so many."""
        if self.reporter.late_at == float("inf") or most <= 0:
            return ()
        return self.reporter.take(time.monotonic(), most)

    def report_again(self, runs: Sequence[Execution]) -> None:
        """Publish anew how far jobs are: what was sent had no answer."""
        for run in runs:
            if run.reported is not None and not run.reported.is_noted:
                run.reported.is_noted = True
                self.reporter.note(run)

    def ran(self, run: Execution, outcome: Outcome) -> None:
        """Take what a job came to."""
        if not run.over:
            run.over = True
            # Else nobody will ask for it.
            if self.report.is_wanted or not isinstance(outcome, Done) or run is self._pool.alone:
                run.ended_at = time.monotonic()
            run.decide(outcome)
            if run.reported is not None:
                self.reporter.forget(run)
            if run.settlement is None:
                self.let_go(run)
            else:
                if run.has_thread or run.reported is not None:
                    run.settlement = self._before(run, run.settlement)
                self.leases.unsettled.append(run)
        elif run.pushes is not None:  # the handler went on though the job was given up
            run.pushes.lost()
        if self._pool.is_shared:
            self._pool.changed()
        else:
            self._wakeup.wake()

    def _before(self, run: Execution, settlement: Settlement) -> Settlement:
        """What is to be said of a job before it is settled; the settlement itself where there is nothing."""
        if isinstance(settlement, Release):
            return settlement
        if run.has_thread:
            settlement = Lingers(settlement)
        if run.reported is not None and run.reported.is_noted:
            # Those who watch the job are to see the last that it has said.
            settlement = ReportProgress(encode_progress(run.reported.progress), settlement)
        return settlement

    def settled(self, run: Execution, reply: Reply, added: Sequence[bool] = (), spoiled: str = "") -> None:
        """Take what the store said to a settlement; of one that pushes jobs, whether each was added.

        Args:
            run: The job.
            reply: What the store said.
            added: Of a job that pushes others, whether each was added.
            spoiled: Of one that was SPOILED, which key is of the wrong type.
        """
        if type(run.settlement) is not Ack and self._has_more_to_say(run, reply):
            run.resent = False  # it says that of the settlement that comes next
            return
        if reply is Reply.SPOILED:  # it has run, and must not run again by itself; nor may it be in others' way
            run.decide(Unpushable(_SPOILED % spoiled))
            self.leases.unsettled.append(run)
        elif reply is Reply.FULL:
            self.leases.keep(run)
            self.report.tell_full()
        else:
            self.let_go(run)
            self.refused += reply is Reply.LEASE_LOST
            self.report.note(run, reply)
            if run.pushes is not None:
                self._tell_pushed(run.pushes, added)

    def _has_more_to_say(self, run: Execution, reply: Reply) -> bool:
        """Whether a job has one more settlement, after the answer to the first one."""
        match run.settlement:
            case ReportProgress(then=then) if reply is Reply.OK:
                run.settlement = then
            case Lingers() as asked if reply in (Reply.OK, Reply.RUNNING):
                self._settle_lingering(run, asked, waits=reply is Reply.RUNNING)
                return True
            case _:
                return False
        self.leases.unsettled.append(run)
        return True

    def _settle_lingering(self, run: Execution, asked: Lingers, *, waits: bool) -> None:
        """Settle a job whose handler was given up; if it has to wait for its thread, once that has ended."""
        if not (waits and run.has_thread) or self._leaves:
            run.settlement = asked.then
            self.leases.unsettled.append(run)
            return
        if not asked.is_told:
            self._member.log.warning(_LINGERS, run.description)
        run.settlement = Lingers(asked.then, is_told=True)
        self.leases.keep(run)
        if self._pool.alone is run:
            self._end_alone(run)

    def thread_ended(self, run: Execution) -> None:
        """Settle a job that has waited for the end of its thread; one that has to run alone may have, too."""
        self._owner.emptied()
        if run in self.leases.kept and isinstance(run.settlement, Lingers):
            self.leases.kept.remove(run)
            run.settlement = run.settlement.then
            self.leases.unsettled.append(run)
            self._wakeup.wake()

    def _tell_pushed(self, pushes: Pushes, added: Sequence[bool]) -> None:
        if not added:
            pushes.lost()
            return
        told, queue = pushes.told(added), self._member.settings.queue
        if queue.events.wanted(JobsPushed):
            queue.events.publish(JobsPushed(queue.name, jobs=told))

    def let_go(self, run: Execution) -> None:
        """Hold a job no more."""
        self.leases.let_go(run)
        if self._pool.alone is run:
            self._end_alone(run)
        if self._quarantine.one_waits:
            self._owner.emptied()

    def _end_alone(self, run: Execution) -> None:
        self._pool.alone = None
        self._quarantine.finished(run.ended_at or time.monotonic())  # to settle it may have taken an outage longer

    def cancel(self, leases: Sequence[Lease]) -> None:
        """Cancel the handlers of some jobs, as somebody asked."""
        for lease in leases:
            run = self.leases.holder_of(lease)
            if run is not None and run.lease is lease:  # else it was settled meanwhile
                run.give_up(CancelAsked())

    def cancel_all(self) -> None:
        """Cancel the handlers that run: their jobs are no longer ours."""
        for run in self.leases:
            if not run.over:
                self._member.log.warning(
                    "job %s: the lease was lost; its handler is cancelled", visible(run.lease.job_id)
                )
                run.give_up(LeaseGone())
                run.over, run.settlement = True, None
                self.leases.let_go(run)
                self._pool.let_go(run)
        self.over = []

    def lose_all(self, unknown: Collection[int]) -> None:
        """Let go of all that has ended. What it came to was not written.

        Args:
            unknown: The `id` of those whose settlement had no answer: of them nobody knows.
        """
        for run in self.leases:
            if id(run) in unknown:
                self._member.log.warning(
                    "job %s: it was settled, or is another's; no answer came", visible(run.lease.job_id)
                )
            else:
                self.refused += 1
                self.report.note(run, Reply.LEASE_LOST)
            self._pool.let_go(run)
        self.report.tell()
        self.lose_pushes()
        self.leases.forget()
        self._quarantine.one_waits = True

    def lose_pushes(self) -> None:
        """Tell the middleware of what was pushed by jobs that this worker can't settle any more."""
        for run in self.leases:
            if run.over and run.pushes is not None:
                run.pushes.lost()

    def interrupt_all(self, *, broken: bool) -> None:
        """Give up what still runs, and settle it with all the rest.

        Args:
            broken: Whether an error ends the worker. What ran may be what ended it: it would be delivered for
                ever, were its delivery not counted.
        """
        self._leaves = True
        for run in self.leases:
            if not run.over:
                run.give_up(Interrupted())
                counts = run.began and (broken or self._pool.means.guard.blames(run))
                run.over, run.settlement = True, run.hand_back(refund=not counts)
                self.leases.unsettled.append(run)
        self.over = []
        self.leases.try_again()
