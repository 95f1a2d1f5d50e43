"""Whether what handlers pushed was created once if their run ended its job, and never otherwise. Pure.

Each run of a parent pushes others than the one before. So only one of them can have made what is there: the one
whose settlement the store took. Where nobody heard its answer it is any that went to its end.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

from redisjobs.events import JobsPushed
from redisjobs.events.recording import Line
from redisjobs.torture.checks.stories import Key, Run, Story
from redisjobs.torture.fleet.store import Final

Pushed = Mapping[tuple[str, int, int], Set[str]]
"""What each run of a parent pushed, by its lease: worker, attempt, delivery."""


def follow_up(
    stories: Mapping[Key, Story], lines: Iterable[Line], finals: Sequence[Final]
) -> tuple[int, list[str]]:
    """Take what handlers pushed as pushed, where it had to be created.

    Args:
        stories: All jobs.
        lines: What was written down.
        finals: What is in each database at the end.

    Returns:
        How many follow-ups there are, and what must not be, in words.
    """
    found: defaultdict[Key, defaultdict[tuple[str, int, int], set[str]]] = defaultdict(lambda: defaultdict(set))
    for story in stories.values():
        for line in story.pushed_by:
            found[story.db, line["parent"]][line["worker"], line["attempt"], line["deliveries"]].add(story.job)
    dead = {(db, letter.job) for db, final in enumerate(finals) for letter in final.letters}
    number, wrong = 0, list(_by_what_workers_were_told(stories, lines))
    for key, pushed in found.items():
        parent = stories.get(key, Story(db=key[0], job=key[1]))
        created, complaints = _of_one(parent, pushed, stories, dead)
        number += len(created)
        wrong += complaints
    return number, wrong


def _by_what_workers_were_told(stories: Mapping[Key, Story], lines: Iterable[Line]) -> Iterator[str]:
    added: Counter[Key] = Counter()
    for line in lines:
        if line["what"] == JobsPushed.__name__:
            for job, _, is_added in line["jobs"]:
                story = stories.get((line["db"], job))
                if story is None or not story.pushed_by:
                    continue
                added[line["db"], job] += is_added
                if not is_added:
                    yield f"{story.label} ({story.name}) was told to its parent to be there already"
    for key, times in added.items():
        if times > 1:
            yield f"{stories[key].label} ({stories[key].name}) was created {times} times"


def _of_one(
    parent: Story, pushed: Pushed, stories: Mapping[Key, Story], dead: Set[Key]
) -> tuple[Set[str], list[str]]:
    """What of a parent's follow-ups had to be created, and what is wrong with it."""
    children = set().union(*pushed.values())
    there = {job for job in children if stories[parent.db, job].was_there or (parent.db, job) in dead}
    able = _may_have_ended_it(parent, is_dead=(parent.db, parent.job) in dead)
    ways: list[tuple[Run | None, Set[str]]] = [(run, pushed.get(run.lease, set())) for run in able]
    if not able or (parent.cancel_asked and not parent.completed):
        ways.append((None, set()))  # it may never have ended as done
    # Where several may be: the one that explains most.
    run, created = min(ways, key=lambda way: len(there ^ way[1]))
    for job in created | there:
        _take_as_pushed(stories[parent.db, job], run)
    who = f"the run of {run.lease[0]} that ended it" if run is not None else "which never ended as done"
    return created, [
        f"{stories[parent.db, job].label} was created, and its parent {parent.label} did not push it: {who}"
        for job in sorted(there - created)
    ]


def _may_have_ended_it(parent: Story, *, is_dead: bool) -> list[Run]:
    """The runs one of which has ended a job as done; none if it did not end so."""
    if is_dead or parent.cancelled or any(line["cancelled"] for line in parent.outcomes):
        return []
    done = [run for run in parent.runs if run.done]
    took = [run for run in done if run.settled is not None and run.settled in parent.completed]
    return took or [run for run in done if not run.refused or (run.settled is not None and run.settled["resent"])]


def _take_as_pushed(story: Story, run: Run | None) -> None:
    """As if its parent had been told that it is there; when, if it is known."""
    story.attempted = story.acknowledged = True
    settled = run.settled if run is not None and run.accepted else None
    if settled is None or settled["resent"]:
        return
    delay = next((line["delay"] for line in story.pushed_by), 0.0)
    story.sent_at, story.ready_at = settled["sent_at"], settled["at"] + delay
    story.due_at = story.sent_at + delay if delay and story.sent_at is not None else None
