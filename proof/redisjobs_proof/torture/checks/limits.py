"""Checks that no more jobs ran at once than their limit allows. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from redisjobs.events.recording import Line
from redisjobs_proof.torture.checks.histories import History, Key, Run
from redisjobs_proof.torture.fleet import jobs

_DELIVERED = 1.0  # seconds from a job's delivery to its start, if the network is slow


def over_the_limit(histories: Mapping[Key, History], lines: Iterable[Line]) -> Iterator[str]:
    """Yield moments at which more jobs of a key ran under their leases than are allowed, in words.

    A run counts from its start to the end of its handler, if Redis accepted its outcome. Any other run may have
    gone on after its lease was lost. A run does not count if its group was destroyed or its consumer removed
    meanwhile, because then its job is delivered to other workers.
    """
    destroyed = [(line["db"], float(line["began"])) for line in lines if line.get("forgets_deliveries")]
    spans: defaultdict[tuple[int, str], list[tuple[float, int, str]]] = defaultdict(list)
    for history in histories.values():
        if history.name == jobs.Limited.job_name:
            for run in history.runs:
                if (end := _held_until(run)) is not None and not _is_hit(history, run, end, destroyed):
                    bucket = history.db, str(run.start.get("key", ""))
                    spans[bucket] += [(run.at, 1, history.label), (end, -1, history.label)]
    for (db, key), changes in spans.items():
        running = 0
        for at, change, label in sorted(changes):
            running += change
            if change > 0 and running > jobs.AT_ONCE:
                yield f"database {db}: {running} jobs of key {key} ran at once, as {label} was started at {at:.3f}"


def _held_until(run: Run) -> float | None:
    """Return the time until which a run surely had its lease; None if unknown."""
    if run.end is None or run.settled is None or run.refused:
        return None
    return min(float(run.end["at"]), float(run.settled["sent_at"] or run.end["at"]))


def _is_hit(history: History, run: Run, end: float, destroyed: Sequence[tuple[int | None, float]]) -> bool:
    return any(db in (None, history.db) and run.at - _DELIVERED <= at <= end for db, at in destroyed)
