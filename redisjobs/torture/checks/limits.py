"""Whether more jobs ran at once than their limit allows. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from redisjobs.events.recording import Line
from redisjobs.torture.checks.stories import Key, Run, Story
from redisjobs.torture.fleet import jobs

_GIVEN = 1.0  # seconds from when a job is given until it begins, where the network is slow


def over_the_limit(stories: Mapping[Key, Story], lines: Iterable[Line]) -> Iterator[str]:
    """Moments at which more jobs of a key ran, each under its lease, than are allowed, in words.

    A run was under its lease from its begin to the end of its handler if its outcome was accepted. All others may
    have gone on after their lease was lost, and do not count.

    Args:
        stories: All jobs.
        lines: What was written down. Where a group was destroyed, or a consumer removed, a job goes on though its
            lease is gone, and is given to others.
    """
    destroyed = [(line["db"], float(line["began"])) for line in lines if line.get("forgets_deliveries")]
    spans: defaultdict[tuple[int, str], list[tuple[float, int, str]]] = defaultdict(list)
    for story in stories.values():
        if story.name == jobs.Limited.job_name:
            for run in story.runs:
                if (end := _held_until(run)) is not None and not _is_hit(story, run, end, destroyed):
                    bucket = story.db, str(run.start.get("key", ""))
                    spans[bucket] += [(run.at, 1, story.label), (end, -1, story.label)]
    for (db, key), changes in spans.items():
        running = 0
        for at, change, label in sorted(changes):
            running += change
            if change > 0 and running > jobs.AT_ONCE:
                yield f"database {db}: {running} jobs of key {key} ran at once, as {label} was started at {at:.3f}"


def _held_until(run: Run) -> float | None:
    """Until when a run was surely under its lease; None: nobody knows."""
    if run.end is None or run.settled is None or run.refused:
        return None
    return min(float(run.end["at"]), float(run.settled["sent_at"] or run.end["at"]))


def _is_hit(story: Story, run: Run, end: float, destroyed: Sequence[tuple[int | None, float]]) -> bool:
    return any(db in (None, story.db) and run.at - _GIVEN <= at <= end for db, at in destroyed)
