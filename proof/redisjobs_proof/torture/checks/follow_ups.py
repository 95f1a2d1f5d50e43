"""Checks that a handler's follow-ups exist once if its run ended its job, and otherwise not at all. Pure.

Each run of a parent pushes different jobs. So only one run can have created those that exist: the run whose
settlement Redis accepted. If no reply is recorded, it may be any run that went to its end.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

from redisjobs.events import JobsPushed
from redisjobs.events.recording import Line
from redisjobs_proof.torture.checks.histories import History, Key, Run
from redisjobs_proof.torture.fleet.final import FinalState

Pushed = Mapping[tuple[str, int, int], Set[str]]
"""The jobs that each run of a parent pushed, by its lease: worker, attempt, delivery."""


def follow_up(
    histories: Mapping[Key, History], lines: Iterable[Line], finals: Sequence[FinalState]
) -> tuple[int, list[str]]:
    """Mark follow-ups that had to be created as pushed; return their number, and what is wrong, in words."""
    found: defaultdict[Key, defaultdict[tuple[str, int, int], set[str]]] = defaultdict(lambda: defaultdict(set))
    for history in histories.values():
        for line in history.pushed_by:
            found[history.db, line["parent"]][line["worker"], line["attempt"], line["deliveries"]].add(history.job)
    dead = {(db, letter.job) for db, final in enumerate(finals) for letter in final.letters}
    number, wrong = 0, list(_wrong_answers(histories, lines))
    for key, pushed in found.items():
        parent = histories.get(key, History(db=key[0], job=key[1]))
        created, complaints = _of_one(parent, pushed, histories, dead)
        number += len(created)
        wrong += complaints
    return number, wrong


def _wrong_answers(histories: Mapping[Key, History], lines: Iterable[Line]) -> Iterator[str]:
    added: Counter[Key] = Counter()
    for line in lines:
        if line["what"] == JobsPushed.__name__:
            for job, _, is_added in line["jobs"]:
                history = histories.get((line["db"], job))
                if history is None or not history.pushed_by:
                    continue
                added[line["db"], job] += is_added
                if not is_added:
                    yield f"{history.label} ({history.name}) was there already, by the answer to its parent"
    for key, times in added.items():
        if times > 1:
            yield f"{histories[key].label} ({histories[key].name}) was created {times} times"


def _of_one(
    parent: History, pushed: Pushed, histories: Mapping[Key, History], dead: Set[Key]
) -> tuple[Set[str], list[str]]:
    """Return the follow-ups of a parent that had to be created, and what is wrong with them."""
    children = set().union(*pushed.values())
    there = {job for job in children if histories[parent.db, job].was_there or (parent.db, job) in dead}
    able = _may_have_ended_it(parent, is_dead=(parent.db, parent.job) in dead)
    ways: list[tuple[Run | None, Set[str]]] = [(run, pushed.get(run.lease, set())) for run in able]
    if not able or (parent.cancel_asked and not parent.completed):
        ways.append((None, set()))  # it may never have ended as done
    # Choose the run that explains the most
    run, created = min(ways, key=lambda way: len(there ^ way[1]))
    for job in created | there:
        _take_as_pushed(histories[parent.db, job], run)
    who = f"the run of {run.lease[0]} that ended it" if run is not None else "which never ended as done"
    return created, [
        f"{histories[parent.db, job].label} was created, and its parent {parent.label} did not push it: {who}"
        for job in sorted(there - created)
    ]


def _may_have_ended_it(parent: History, *, is_dead: bool) -> list[Run]:
    """Return the runs that may have ended a job as done; none if it did not end as done."""
    if is_dead or parent.cancelled or any(line["cancelled"] for line in parent.outcomes):
        return []
    done = [run for run in parent.runs if run.done]
    took = [run for run in done if run.settled is not None and run.settled in parent.completed]
    return took or [run for run in done if not run.refused or (run.settled is not None and run.settled["resent"])]


def _take_as_pushed(history: History, run: Run | None) -> None:
    """Mark a job as pushed by its parent, at the time of the settlement if that is known."""
    history.attempted = history.acknowledged = True
    settled = run.settled if run is not None and run.accepted else None
    if settled is None or settled["resent"]:
        return
    delay = next((line["delay"] for line in history.pushed_by), 0.0)
    history.sent_at, history.ready_at = settled["sent_at"], settled["at"] + delay
    history.due_at = history.sent_at + delay if delay and history.sent_at is not None else None
