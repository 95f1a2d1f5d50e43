"""The findings of the checker."""

from dataclasses import dataclass, field

from redisjobs_proof.torture.checks.recovery import Recovery
from redisjobs_proof.torture.checks.stalls import Stall


@dataclass(slots=True)
class Verdict:
    """The counts of a torture, and everything that was wrong in it.

    Attributes:
        pushed: Jobs that a producer tried to push.
        acknowledged: Jobs whose push was answered.
        slots: Slots that schedules fired: one job each.
        left_out: Slots without a job, because a later slot has one.
        external: Entries written outside redisjobs.
        follow_ups: Jobs that handlers pushed as their own job ended.
        steps: Steps that jobs have saved.
        waits: The waits of jobs that were over, by how they ended.
        signals: The answers to signals, by kind; '' for none.
        results: Jobs whose results were to be kept.
        answers: The answers to waits for a result, by kind: `result`, or the error.
        watches: Jobs that were watched until they ended.
        dead: Dead letters by reason.
        lost: Acknowledged jobs that never ended.
        left: Contents of Redis that should be gone.
        stolen: Accepted settlements of workers that no longer owned the job.
        twice: Jobs that ended more than once.
        wrong: Every other violation.
        full: Pushes that were refused because the queue was full.
        refused: Settlements that were refused with LEASE_LOST.
        again: Jobs that started again without a failure, by the fault that hit the run before. `none`: no fault
            did, which is wrong.
        duplicates: Jobs whose handler ran to its end more than once, by the same fault.
        worker_lost: Harmless jobs that are dead letters, `worker lost`, by the fault that took the last worker.
        exposed: The jobs, schedules and keys that a server wrote just before another one replaced it.
        replication: What is wrong with these, by kind: replication is asynchronous, so Redis may have lost writes.
        keeps_jobs: Whether the exposed are only claims, and ends without a result, as in a crash of Postgres.
        stalls: The longest time in which a database stood still, for each database.
        faults: How long recovery took, by the fault's name.
    """

    pushed: int = 0
    acknowledged: int = 0
    slots: int = 0
    left_out: int = 0
    external: int = 0
    follow_ups: int = 0
    steps: int = 0
    waits: dict[str, int] = field(default_factory=dict)
    signals: dict[str, int] = field(default_factory=dict)
    results: int = 0
    answers: dict[str, int] = field(default_factory=dict)
    watches: int = 0
    done: int = 0
    cancelled: int = 0
    dead: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    stolen: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    full: int = 0
    refused: int = 0
    again: dict[str, int] = field(default_factory=dict)
    duplicates: dict[str, int] = field(default_factory=dict)
    worker_lost: dict[str, int] = field(default_factory=dict)
    exposed: int = 0
    replication: dict[str, list[str]] = field(default_factory=dict)
    keeps_jobs: bool = False
    stalls: list[Stall] = field(default_factory=list)
    faults: dict[str, Recovery] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.left or self.stolen or self.twice or self.wrong)
