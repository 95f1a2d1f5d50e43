"""How a settled job is counted, in metrics and in statistics."""

from redisjobs.errors import Snooze
from redisjobs.events.kinds import (
    JobsCancelled,
    JobsCompleted,
    JobsDead,
    JobsRetried,
    JobsSettled,
    JobsSuspended,
    SettledJob,
)
from redisjobs.model.failures import deciding
from redisjobs.model.outcome import Raised
from redisjobs.model.transitions import DeadLetter, Reply

UNKNOWN = "unknown"
"""The name for jobs without a handler in this process, because producers may push any number of names."""


def outcome_of(kind: type[JobsSettled], job: SettledJob) -> str:
    """Return the outcome as one word: completed, retried, snoozed, suspended, dead, cancelled or released."""
    if kind is JobsCompleted:
        return "completed"
    if kind is JobsDead:
        return "dead"
    if kind is JobsSuspended:
        return "suspended"
    if kind is JobsCancelled:
        return "cancelled"
    if kind is JobsRetried and isinstance(job.outcome, Raised):
        # Not `isinstance`: it may run code of the exception, and that may raise.
        return "snoozed" if issubclass(type(deciding(job.outcome.error)), Snooze) else "retried"
    return "released"  # also a job that waits for a thread, or for a worker with its handler: no attempt is spent


def reason_of(job: SettledJob) -> str:
    """Return why a job is a dead letter, in a word or two."""
    if isinstance(job.settlement, DeadLetter):
        return job.settlement.reason
    return "undecodable" if job.reply is Reply.UNDECODABLE else "worker lost"
