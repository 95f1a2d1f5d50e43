"""Checks that each dead letter has a reason that its job may have. Pure."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from redisjobs_proof.torture.checks.causes import MAX_DELIVERIES, NONE, Causes
from redisjobs_proof.torture.checks.clock import Clock
from redisjobs_proof.torture.checks.histories import History, Key, was
from redisjobs_proof.torture.checks.verdict import Verdict
from redisjobs_proof.torture.fleet.store import Letter

KILLERS = ("Poison",)
"""Names of jobs that kill their worker."""

_GROWN = 300_000  # bytes by which a dead letter may be larger than its entry: an error, with all of its traceback
_UNSTARTED = 2  # at most this many jobs of a database may die with a worker that had not started them yet
_REASONS: Mapping[str, Sequence[str]] = {
    "Poison": ("worker lost", "failed"),  # failed: the cancel that it sent reached its own task first
    "Flaky": ("failed",),
    "Hopeless": ("failed",),
    "BadChild": ("failed",),
    "Raiser": ("failed",),
    "ThreadRaiser": ("failed",),
    "Bulky": ("failed",),
    "external": ("failed", "undecodable", "unknown name", "expired"),
}
"""The reasons that jobs of a name may have. Any job may be `worker lost` if a fault took its last worker."""


def check_letters(
    verdict: Verdict,
    letters: Sequence[tuple[Letter, Key]],
    histories: Mapping[Key, History],
    causes: Causes,
    clock: Clock,
    db: int,
    destroyed: Sequence[float],
) -> None:
    """Check the dead letters of one database, each with the key of its job.

    Adds its findings to `verdict`. At each time in `destroyed`, the count of deliveries began at zero again.
    """
    unstarted = 0
    verdict.wrong += _grown(letters, histories)
    for letter, key in letters:
        history = histories.get(key, History(job=letter.job))
        if letter.reason == "worker lost" and history.name not in KILLERS:
            failed_at = clock.when(db, letter.failed_at, max((run.at for run in history.runs), default=0.0))
            cause, was_started = _cause(history, letter.deliveries, failed_at, causes, db, destroyed)
            unstarted += not was_started
            verdict.worker_lost[cause] = verdict.worker_lost.get(cause, 0) + 1
            if cause == NONE:
                verdict.wrong.append(
                    f"{history.label} ({history.name or '?'}) is a dead letter: worker lost; it kills no worker, "
                    "and no fault took its last one"
                )
        elif letter.reason not in _REASONS.get(history.name, ()):
            verdict.wrong.append(f"{history.label} ({history.name or '?'}) is a dead letter: {letter.reason}")
    for key, times in Counter(key for _, key in letters).items():
        if times > 1 and key in histories:
            verdict.twice.append(f"{histories[key].label} is a dead letter {times} times")
    if unstarted > _UNSTARTED:
        verdict.wrong.append(
            f"{unstarted} jobs are dead letters, worker lost, that their last worker had not started"
        )


def _grown(letters: Sequence[tuple[Letter, Key]], histories: Mapping[Key, History]) -> Iterator[str]:
    """Yield entries that have grown while their jobs ran again and again, in words."""
    for letter, key in letters:
        put = histories[key].size if key in histories else 0
        if put and letter.size > put + _GROWN:
            yield f"{histories[key].label} was put with {put:,} bytes, and its dead letter has {letter.size:,}"


def _cause(
    history: History, deliveries: int, failed_at: float, causes: Causes, db: int, destroyed: Sequence[float]
) -> tuple[str, bool]:
    """Return the fault that took a harmless job's last worker, and whether that worker had started the job."""
    counted_since = max((at for at in (*destroyed, *_recounted(history)) if at <= failed_at), default=0.0)
    runs = [run for run in history.runs if run.at >= counted_since]
    last = max(runs, key=lambda run: run.lease[2], default=None)
    if last is not None and last.lease[2] >= (deliveries or MAX_DELIVERIES):
        return causes.of_end(last, failed_at), True
    return causes.of_unstarted(db, max((run.at for run in runs), default=0.0), failed_at), False


def _recounted(history: History) -> list[float]:
    """Return when the deliveries of a job began to count from zero: a suspension forgets them."""
    return [*history.recounted, *(line["sent_at"] for line in history.settled if was(line, "Suspend"))]
