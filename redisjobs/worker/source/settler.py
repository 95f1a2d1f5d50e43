"""Settles a source's jobs: decides each settlement from the handler's outcome, and acts on the answer."""

import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from redisjobs.base.logger import Log
from redisjobs.base.visible import visible
from redisjobs.errors import DriverError, UnwritableResult
from redisjobs.model.children import CancelChildren
from redisjobs.model.codec import encode_progress
from redisjobs.model.emissions import EmitChunks
from redisjobs.model.outcome import CancelAsked, Interrupted, LeaseGone, Outcome, Unpushable
from redisjobs.model.transitions import (
    ACK,
    Ack,
    AddChildren,
    DeadLetter,
    Exchange,
    Lease,
    Lingers,
    Release,
    Reply,
    ReportProgress,
    SaveStep,
    Settlement,
)
from redisjobs.worker.running.children import OnReply
from redisjobs.worker.running.execution import Execution, Find
from redisjobs.worker.running.outbox import Part
from redisjobs.worker.running.reporter import Emitter, Reporter
from redisjobs.worker.running.settling import hand_back, settle
from redisjobs.worker.running.steps import Loaded
from redisjobs.worker.source.batcher import Batch
from redisjobs.worker.source.claims import Claims
from redisjobs.worker.source.leases import Note
from redisjobs.worker.source.member import Member
from redisjobs.worker.source.report import Report
from redisjobs.worker.source.step_loader import StepLoader

logger = Log("redisjobs.worker")

_LINGERS = (
    "%s: its handler was abandoned, but the thread still runs, so the job still counts for max_concurrency. It is "
    "settled when the thread ends"
)
_SPOILED = "the handler has returned, and the jobs that it pushed can't be added: %s; then requeue this job"
_UNWRITTEN = (
    "the job has run, and the server refuses what it came to: %s; requeue it once it is smaller, or can be kept"
)
_UNSETTLED = "%s: the server refuses to settle it, and it is tried again later: %s"
_DROPPED = "%s: the server is out of memory, so the last chunks that it has emitted are lost; it has ended"


class Settler:
    """Decides how jobs are settled, and acts on the answers."""

    def __init__(self, member: Member, claims: Claims) -> None:
        self.report = Report(member)
        self.reporter = Reporter(claims.pool.threads.call_soon, member.timer)
        self.emitter = Emitter(claims.pool.threads.call_soon, member.timer)
        self.loader = StepLoader(member.settings.queue.driver)
        self.find: Find = member.settings.queue.definitions.get  # with middleware once the worker has begun
        self.refused = 0  # settlements refused because the lease was lost
        self.cancelling = 0  # calls under way that cancel children
        self._leases = claims.leases
        self._member = member
        self.server_ms = member.clock.now_ms
        self._pool = claims.pool
        self._claims = claims
        self._timer = member.timer
        self._leaves = False

    # What a job calls

    def reported(self, run: Execution) -> None:
        """Note that a job has reported progress. Any thread may call it."""
        self.reporter.note(run)

    def emitted(self, run: Execution) -> None:
        """Note that a job has emitted chunks. Any thread may call it."""
        self.emitter.note(run)

    @property
    def may_begin(self) -> bool:
        """Whether jobs may begin: the lease surely holds, and the worker was not asked to stop.

        A worker that is only recycled still runs the jobs that it has given to slots.
        """
        member = self._member
        return not (member.may_be_dead or member.is_renewing or self._pool.shutdown.has_grace)

    def hand_back(self, run: Execution) -> None:
        """Hand back a job that has not begun."""
        assert run.owner is self  # or it would be settled on another queue, and held on its own for ever
        if not run.over:
            run.over, run.settlement = True, Release()
            self._leases.unsettled.append(run)
            self._end_isolated(run)
            self._timer.wake()

    def ran(self, run: Execution, outcome: Outcome) -> None:
        """Take a job's outcome, and decide how it is settled."""
        if not run.over:
            run.over, run.ended_at = True, time.monotonic()
            settle(run, outcome)
            if run.reported is not None:
                self.reporter.forget(run)
            if run.settlement is None:
                self._forget(run)
            else:
                if run.has_thread or run.reported is not None:
                    run.settlement = _first_settlement(run, run.settlement)
                if run.outbox is None or not self.emitter.flush(run, lambda: self._leases.unsettled.append(run)):
                    self._leases.unsettled.append(run)
        elif run.pushes is not None:  # the handler went on although we gave up the job
            run.pushes.lost()
        if self._pool.is_shared:
            self._pool.changed()
        else:
            self._timer.wake()

    def thread_ended(self, run: Execution) -> None:
        """Settle a job that waited for its thread to end. An isolated job may now start, too."""
        self._claims.try_isolated()
        self._claims.note_threads()
        if run in self._leases.kept and isinstance(run.settlement, Lingers):
            self._leases.kept.remove(run)
            run.settlement = run.settlement.then
            self._leases.unsettled.append(run)
            self._timer.wake()

    def load_steps(self, run: Execution, loaded: Loaded) -> None:
        """Read what a job has saved."""
        self.loader.load(run.lease.job_id, loaded)

    def start(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a call in a task."""
        self.loader.start(call)

    def write(self, run: Execution, settlement: SaveStep | AddChildren, answered: OnReply) -> None:
        """Write what ends no lease, with the next exchange."""
        if isinstance(settlement, SaveStep) and self.emitter.write(run, Part(settlement, answered)):
            return
        self._leases.notes.append(Note(run, settlement, answered))
        self._timer.wake()

    def next_notes(self, most: int) -> list[Note]:
        """Take up to `most` notes of running jobs to write; fewer if they are large."""
        notes = self._leases.next_notes(most)
        for run, part in self.emitter.take(most - len(notes)):
            notes.append(Note(run, part.settlement, partial(self._part_answered, run, part)))
        return notes

    def _part_answered(self, run: Execution, part: Part, reply: Reply, added: Sequence[bool]) -> None:
        part.answered(reply, added)
        self.emitter.answered(run)

    # What the server answers

    def answered(self, batch: Batch, answer: Exchange) -> None:
        """Take the answers to a batch of settlements."""
        self.report.begin()
        is_plain = not (self.report.is_wanted or answer.added or answer.spoiled)
        done = self.report.done
        notes = len(batch.notes)
        replies = zip(batch.settling, batch.settlements[notes:], answer.replies[notes:], strict=False)
        for at, (run, (lease, _), reply) in enumerate(replies, notes):
            if run.lease is not lease:
                # It was handed back, or ran out, and we have claimed it again: that lease has to be settled too.
                self._leases.unsettled.append(run)
            elif is_plain and reply is Reply.OK and run.settlement is ACK and run.pushes is None:
                # Nearly all jobs: what `settled` would do, at less than half the price.
                self._forget(run)
                done.append(run)
            elif answer.added or answer.spoiled:
                self.settled(run, reply, answer.added.get(at, ()), answer.spoiled.get(at, ""))
            else:
                self.settled(run, reply)
        self.report.tell()
        noted = zip(batch.notes, batch.settlements, answer.replies, strict=False)
        for at, (note, (lease, _), reply) in enumerate(noted):
            self._noted(note, lease, reply, answer.added.get(at, ()))
        if batch.notes:
            self.report.tell_saved(batch.notes, answer.replies)

    def _noted(self, note: Note, lease: Lease, reply: Reply, added: Sequence[bool]) -> None:
        """Take the answer to what a running job has written."""
        if reply is Reply.LEASE_LOST and note.run.lease is not lease:  # claimed again, see `answered`
            self._leases.notes.append(note)
            return
        if reply is Reply.LEASE_LOST:
            note.run.give_up(LeaseGone())
        if reply is Reply.FULL and note.run.over and isinstance(note.settlement, EmitChunks):
            # Its settlement drains the server, so it must not wait for room.
            self._member.log.warning(_DROPPED, note.run.description)
            note.answered(Reply.OK, added)
            self._leases.settle_alone(note.run)
        elif reply is Reply.FULL:
            self._leases.keep_note(note)
            self.report.log_full()
        elif reply is Reply.BUSY:
            self._leases.keep_busy(note)
            self.report.log_busy(note.run, note.settlement)
        else:
            note.answered(reply, added)

    def settled(self, run: Execution, reply: Reply, added: Sequence[bool] = (), spoiled: str = "") -> None:
        """Take the answer to a settlement.

        Args:
            run: The job.
            reply: The answer.
            added: If the job pushes others, whether each was added.
            spoiled: If the reply is SPOILED, which key is of the wrong type.
        """
        if type(run.settlement) is not Ack and self._has_another(run, reply):
            run.resent = False  # the next settlement has not been sent before
            return
        if reply is Reply.OVERSIZED:
            self._refused(run, spoiled)
        elif reply is Reply.SPOILED:  # it has run, so it must not run again; nor may it block other jobs
            settle(run, Unpushable(_SPOILED % spoiled))
            self._leases.unsettled.append(run)
        elif reply is Reply.FULL:
            self._leases.keep(run)
            self.report.log_full()
        elif reply is Reply.BUSY:
            self._leases.keep_busy(run)
            self.report.log_busy(run, run.settlement)
        else:
            if run.has_left_children(reply):
                self.cancelling += 1
                self.loader.start(self._cancel_children)
            self._forget(run)
            self.refused += reply is Reply.LEASE_LOST
            self.report.note(run, reply)
            if run.pushes is not None:
                if added:
                    run.pushes.confirm(added)
                else:
                    run.pushes.lost()

    def _refused(self, run: Execution, why: str) -> None:
        """Make a job whose settlement can't be written a dead letter; if not even that can be, keep the job."""
        settlement = run.settlement
        is_last = isinstance(settlement, DeadLetter) and settlement.error_type == UnwritableResult.__name__
        if is_last or isinstance(settlement, Release):
            self._member.log.error(_UNSETTLED, run.description, why or "it can't be written")
            self._leases.keep(run)
            return
        settle(run, Unpushable(_UNWRITTEN % (why or "it can't be written"), UnwritableResult.__name__))
        run.resent = False
        self._leases.unsettled.append(run)

    async def _cancel_children(self) -> None:
        """Cancel the children of jobs that were cancelled. If this fails, tidying does it."""
        try:
            with suppress(DriverError):
                while await self._member.consumer.change(CancelChildren()):
                    pass
        finally:
            self.cancelling -= 1
            self._member.timer.wake()

    def _has_another(self, run: Execution, reply: Reply) -> bool:
        """Prepare the job's next settlement, if it has one after this answer; return whether it has."""
        match run.settlement:
            case ReportProgress(then=then) if reply in (Reply.OK, Reply.FULL, Reply.OVERSIZED):
                run.settlement = then
            case Lingers() as asked if reply in (Reply.OK, Reply.RUNNING):
                self._settle_lingering(run, asked, waits=reply is Reply.RUNNING)
                return True
            case _:
                return False
        self._leases.unsettled.append(run)
        return True

    def _settle_lingering(self, run: Execution, asked: Lingers, *, waits: bool) -> None:
        """Settle a job whose handler was abandoned, at once or when its thread has ended."""
        if not (waits and run.has_thread) or self._leaves:
            run.settlement = asked.then
            self._leases.unsettled.append(run)
            return
        if not asked.is_logged:
            self._member.log.warning(_LINGERS, run.description)
        run.settlement = Lingers(asked.then, is_logged=True)
        self._leases.keep(run)
        self._end_isolated(run)

    def _forget(self, run: Execution) -> None:
        """Hold a job no more."""
        self._leases.let_go(run)
        if self._pool.isolated is run:  # two calls less for nearly all jobs
            self._end_isolated(run)
        if self._claims.quarantine.one_waits:
            self._claims.try_isolated()

    def _end_isolated(self, run: Execution) -> None:
        if self._pool.end_isolated(run):
            # From when it ended, not from now: an outage may have delayed its settlement.
            self._claims.quarantine.finished(run.ended_at or time.monotonic())

    # Progress

    def report_again(self, runs: Sequence[Execution]) -> None:
        """Publish the progress of jobs once more, because it had no answer."""
        for run in runs:
            if run.reported is not None and not run.reported.is_noted:
                run.reported.is_noted = True
                self.reporter.note(run)

    # Giving up

    def cancel(self, leases: Sequence[Lease]) -> None:
        """Cancel the handlers of these jobs: their cancellation was asked for."""
        for lease in leases:
            run = self._leases.holder_of(lease)
            if run is not None and run.lease is lease:  # else it was settled or claimed again meanwhile
                run.give_up(CancelAsked())

    def cancel_all(self) -> None:
        """Cancel the handlers that run, because their jobs are no longer ours."""
        for run in self._leases:
            if not run.over:
                self._member.log.warning(
                    "job %s: the lease was lost; its handler is cancelled", visible(run.lease.job_id)
                )
                run.give_up(LeaseGone())
                run.over, run.settlement = True, None
                self._leases.let_go(run)
                self._pool.end_isolated(run)
        self._leases.waiting = []

    def lose_all(self, unknown: Collection[int]) -> None:
        """Let go of all jobs that have ended. Their outcome was not written.

        A run whose `id()` is in `unknown` may have been settled: no answer came.
        """
        for run in self._leases:
            if id(run) in unknown:
                self._member.log.warning(
                    "job %s: settled, or another worker has it; no answer came", visible(run.lease.job_id)
                )
            else:
                self.refused += 1
                self.report.note(run, Reply.LEASE_LOST)
            self._pool.end_isolated(run)
        self.report.tell()
        self.lose_pushes()
        self.emitter.clear()
        self._leases.forget()
        self._claims.quarantine.one_waits = True

    def lose_pushes(self) -> None:
        """Tell the middleware that no push was added by the jobs that this worker can't settle any more."""
        for run in self._leases:
            if run.over and run.pushes is not None:
                run.pushes.lost()

    def interrupt_all(self, *, broken: bool) -> None:
        """Give up the jobs that still run, and settle them with all the rest.

        If an error ends the worker (`broken`), a job that ran may be the cause. Its delivery then counts, or it
        would be delivered for ever.
        """
        self._leaves = True
        for run in self._leases:
            if not run.over:
                run.give_up(Interrupted())
                run.over, run.settlement = True, hand_back(run, refund=not (broken and run.began))
                self._leases.unsettled.append(run)
        self._leases.waiting = []
        self._leases.try_again()


def _first_settlement(run: Execution, settlement: Settlement) -> Settlement:
    """Return what has to be sent about a job before it is settled; if nothing, the settlement itself."""
    if isinstance(settlement, Release):
        return settlement
    if run.has_thread:
        settlement = Lingers(settlement)
    if run.reported is not None and run.reported.is_noted:
        # Clients that follow the job get the last report.
        settlement = ReportProgress(encode_progress(run.reported.progress), settlement)
    return settlement
