"""Finds jobs that waited too long though a worker could have run them. Pure.

A job waits from when it may run until it starts, and again from the end of a run, or the death of its process,
until the next run. A suspended job waits from the end of its sleep, or from its signal. Time counts only while a
worker of its database had a free slot, and no fault kept workers from renewing their leases or from fencing lost
workers. Behind a backlog, as on a slow machine, it counts from when most of those that waited before have started,
and only while no job of a more urgent priority waits.
"""

from collections.abc import Iterator

from redisjobs_proof.torture.checks.capacity import Capacity, is_isolated
from redisjobs_proof.torture.checks.causes import Leases

_MARGIN = 10.0  # seconds, on top of leases, for a slow machine


def bound(lease: float, *, isolated: bool = False) -> float:
    """Return how many seconds a job may wait: a lease ends, other workers look, and the job's turn comes.

    A job that has to run isolated may be one of many that ran beside a killer, and these run one after another.
    """
    return 15 * lease + _MARGIN if isolated else 3 * lease + _MARGIN


def late(able: Capacity, leases: Leases) -> Iterator[str]:
    """Yield jobs that waited for too long, in words.

    The longest lease counts: if a worker never started a job, we may not know to which worker it was delivered.
    """
    lease = leases.longest
    for history, since, run in able.waits:
        isolated = is_isolated(run)
        if run.at - since <= (longest := bound(lease, isolated=isolated)):
            continue
        turn = since if isolated else able.turn(history.db, since)
        seconds = able.seconds(history, turn, run.at, isolated=isolated)
        if seconds > longest:
            yield (
                f"{history.label} ({history.name}) waited for {run.at - since:.1f} s, "
                f"and a worker had a slot free for {seconds:.1f} s"
            )
