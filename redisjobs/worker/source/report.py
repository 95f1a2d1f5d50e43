"""How the jobs of a source were settled: counted, published as events, and logged where a job has to wait."""

import time
from collections import defaultdict
from collections.abc import Sequence

from redisjobs.base.logger import Log
from redisjobs.base.visible import visible
from redisjobs.events.kinds import JobsCompleted, JobsSettled, SettledJob, StepsSaved, kind_of
from redisjobs.model.transitions import Ack, AddChildren, Ended, Lingers, Reply, ReportProgress, SaveStep, Suspend
from redisjobs.worker.running.execution import Execution
from redisjobs.worker.source.leases import Note
from redisjobs.worker.source.member import Member
from redisjobs.worker.source.recorder import Recorder

logger = Log("redisjobs.worker")

_BUSY = (
    "%s: it has pushed others, and another transaction, which is not committed yet, has taken %s. The job is "
    "settled once that has ended; other jobs go on"
)
_NAMED = 3  # keys and ids that the message names
_QUIET = 60.0  # seconds between two such messages
_FULL = (
    "the server is out of memory: what jobs of queue '%s' push, save and emit waits until it has room, and so do "
    "these jobs; others go on. Give it memory, or take jobs off the queue"
)


class Report:
    """Collects how jobs were settled, and counts and publishes that with the rest of their batch."""

    def __init__(self, member: Member) -> None:
        self.recorder = Recorder(member.settings.queue.definitions, member.log)
        self._member = member
        self.done: list[Execution] = []  # jobs of this batch that are done
        self._settled: defaultdict[type[JobsSettled], list[SettledJob]] = defaultdict(list)
        self.is_wanted = True  # whether a listener wanted completed jobs at the last batch
        self._logged_full = False
        self._logged_busy_at = float("-inf")

    def begin(self) -> None:
        """Begin a batch: check whether a listener wants completed jobs."""
        self.is_wanted = self._member.settings.queue.events.wanted(JobsCompleted)

    def note(self, run: Execution, reply: Reply) -> None:
        """Keep how a job was settled. If no listener wants done jobs, they are only counted."""
        settlement = run.settlement
        if reply is Reply.OK and type(settlement) is Ack:
            if settlement.result and settlement.result.refused:
                # Logged here, because there may be no listener for completed jobs.
                why = settlement.result.refused.removeprefix(f"{run.name}: ")  # the line begins with the name
                self._member.log.warning("%s: done, but its result could not be kept: %s", run.description, why)
            if not settlement.cancelled:
                self.done.append(run)
                if not self.is_wanted:
                    return
        elif reply is Reply.LEASE_LOST:
            while isinstance(settlement, Lingers | ReportProgress) and settlement.then is not None:
                run.settlement = settlement = settlement.then  # the event shows the job's outcome
        self._settled[kind_of(settlement, reply)].append(run.settled(reply))

    def note_ended(self, ended: Sequence[Ended]) -> None:
        """Keep which jobs a claim ended. No worker ran them, so no other part reports them."""
        for job_id, reply in ended:
            self._settled[kind_of(None, reply)].append(SettledJob(job_id, reply))

    def tell(self) -> None:
        """Count and publish what was collected."""
        if self.done:
            done, self.done = self.done, []
            self.recorder.count_done(done)
        if self._settled:
            settled, self._settled = self._settled, defaultdict(list)
            for kind, jobs in settled.items():
                self.recorder.count(kind, jobs)
                self._member.tell(kind, jobs=jobs)

    def tell_saved(self, notes: Sequence[Note], replies: Sequence[Reply]) -> None:
        """Publish which steps running jobs have saved."""
        saved = [
            (note.run.lease.job_id, note.run.name, step.key)
            for note, reply in zip(notes, replies, strict=False)
            if reply is Reply.OK and isinstance(step := note.settlement, SaveStep) and step.key  # no checkpoint
        ]
        if saved:
            self._member.tell(StepsSaved, steps=saved)

    def log_full(self) -> None:
        """Log once that jobs wait to be settled, because the server has no memory for those that they push."""
        if not self._logged_full:
            self._logged_full = True
            logger.error(_FULL, self._member.settings.queue.name)

    def log_busy(self, run: Execution, settlement: object) -> None:
        """Log now and then that a job waits for another transaction."""
        if time.monotonic() >= self._logged_busy_at + _QUIET:
            self._logged_busy_at = time.monotonic()
            self._member.log.warning(_BUSY, run.description, _pushed_by(settlement) or "its row")


def _pushed_by(settlement: object) -> str:
    """Return the unique keys and ids of the jobs that a settlement adds; a few of them if there are many."""
    pushes = settlement.pushes if isinstance(settlement, Ack | AddChildren | Suspend) else ()
    named = [f"the unique key '{visible(job.unique)}'" for job in pushes if job.unique]
    named += [f"the id '{visible(job.job_id)}'" for job in pushes]
    return " or ".join(named[:_NAMED]) + (f" or one of {len(named) - _NAMED} more" if len(named) > _NAMED else "")
