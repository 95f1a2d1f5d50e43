"""What a source does next, in the order of what matters most. Pure: it is told the time."""

from dataclasses import dataclass
from enum import Enum, auto


class Step(Enum):
    """One thing to do."""

    FAIL = auto()
    """Raise what an exchange failed by: the store is away, or took the worker for dead."""
    RECOVER = auto()
    """Settle what had no answer, and find the jobs whose delivery was lost."""
    END_READ = auto()
    """End the blocking read: there is something that only a claim finds."""
    READ_CLOCK = auto()
    """Hear what time it is at the server, before any job is judged by that; and that one gets through."""
    RECLAIM = auto()
    """Look for lost workers."""
    FIND_MISSED = auto()
    """Look for jobs that are the worker's, and of which it never heard."""
    TIDY = auto()
    """Look for what dead workers left behind."""
    EXCHANGE = auto()
    """Settle outcomes, and claim jobs for free slots."""
    REST = auto()
    """Nothing: wait until something changes."""


@dataclass(slots=True)
class Situation:
    """What the next step depends on. Times are by the monotonic clock, in seconds.

    Attributes:
        has_failed: An exchange has failed.
        must_recover: Jobs may be the worker's of which it does not know, or outcomes be settled that it holds.
        is_interrupted: The blocking read is to be ended.
        knows_clock: The server has said what time it is.
        look_at: When the next look for lost workers is due.
        missed_at: When the next one for jobs that were missed is.
        tidy_at: When the next one for what dead workers left behind is.
        has_batch: There are outcomes to settle, or free slots to claim for.
        silent_at: When nothing was said to the store for so long that one has to see whether it still answers, or
            nothing was heard of a paused queue, so that one has to see whether it still is.
    """

    has_failed: bool
    must_recover: bool
    is_interrupted: bool
    knows_clock: bool
    look_at: float
    missed_at: float
    tidy_at: float
    has_batch: bool
    silent_at: float


def next_step(it: Situation, now: float) -> Step:
    """Choose a source's next step."""
    if it.has_failed:
        return Step.FAIL
    if it.must_recover:
        return Step.RECOVER
    if it.is_interrupted:
        return Step.END_READ
    if not it.knows_clock:
        return Step.READ_CLOCK
    if now >= it.look_at:
        return Step.RECLAIM
    if now >= it.missed_at:
        return Step.FIND_MISSED
    if now >= it.tidy_at:
        return Step.TIDY
    if it.has_batch:
        return Step.EXCHANGE
    if now >= it.silent_at:
        return Step.READ_CLOCK
    return Step.REST
