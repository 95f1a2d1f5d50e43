"""What must not come before what: starts, cancels, due times, and the ends of jobs that hold a key. Pure.

All times are of one machine's clock. What the store did it did between a line that says it was asked and one that
says what it answered; here each is taken by the one that leaves no doubt.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from redisjobs.events.recording import Line
from redisjobs.torture.checks.clock import Clock
from redisjobs.torture.checks.stories import Key, Run, Story, is_outcome

_MOMENT = 1.0  # seconds in which one that was held up starts what it had been given
_ROUNDED = 0.01  # seconds: delays and the server's clock are in whole ms


def disorder(stories: Mapping[Key, Story], faults: Sequence[Line], clock: Clock) -> Iterator[str]:
    """What came when it must not have, in words.

    Args:
        stories: All jobs.
        faults: Faults and stalls, as they were written down.
        clock: The store's, by which jobs are due.
    """
    for story in stories.values():
        yield from _after_its_cancel(story, faults)
        yield from _before_its_time(story, clock)
        yield from _held_by_none(story, stories)


def _after_its_cancel(story: Story, faults: Iterable[Line]) -> Iterator[str]:
    """A job that the store itself has cancelled was in nobody's hands: nobody may start it from then on.

    Unless somebody had been given it before, and lost it, as a fault held him up until now.
    """
    if story.cancelled_at is None:
        return
    for run in story.runs:
        if run.at > story.cancelled_at and not any(_held_up(fault, run, story.cancelled_at) for fault in faults):
            yield (
                f"{story.label} ({story.name}) was started by {run.lease[0]} (delivery {run.lease[2]}) "
                f"{run.at - story.cancelled_at:.3f} s after it was cancelled while nobody ran it"
            )


def _held_up(fault: Line, run: Run, since: float) -> bool:
    """Whether a fault may be why a run of what its worker was given before that begins only now."""
    mine = run.pid in fault["pids"] if fault["hits"] == "pids" else fault["hits"] == "all"
    until = fault["ended"] + fault["reaches"] + _MOMENT
    here = fault.get("db") in (None, run.start["db"])
    return bool(mine and here and fault["began"] <= since and run.at <= until)


def _before_its_time(story: Story, clock: Clock) -> Iterator[str]:
    """The store took the push after it was sent, and counts the delay from then: no run comes sooner than that."""
    if story.due_at is None or story.sent_at is None or not story.runs:
        return
    began = min(run.at for run in story.runs)
    asked = story.due_at - story.sent_at
    pushed_at = max(story.sent_at, min(began, (story.ready_at or story.sent_at + asked) - asked))
    due = clock.earliest(story.db, story.sent_at, pushed_at) + asked
    early = due - clock.latest(story.db, story.sent_at, began)
    if early > _ROUNDED:
        yield f"{story.label} ({story.name}) was started {early:.3f} s before it was due"


def _held_by_none(story: Story, stories: Mapping[Key, Story]) -> Iterator[str]:
    """A key that kept a job from being added was held by one that had not ended before it was pushed."""
    holder = stories.get((story.db, story.holder)) if story.holder else None
    if holder is None or story.sent_at is None:
        return
    if (ended_at := _ended_at(holder)) is not None and ended_at < story.sent_at:
        yield (
            f"{story.label} was told that {story.holder} holds its key, "
            f"which had ended {story.sent_at - ended_at:.3f} s before it was pushed"
        )


def _ended_at(story: Story) -> float | None:
    """By when a job had surely ended; None if nobody was told that it has."""
    ends = [line["at"] for line in story.settled if is_outcome(line)]
    ends += [at for at in (story.cancelled_at, story.buried_at) if at is not None]
    return min(ends, default=None)
