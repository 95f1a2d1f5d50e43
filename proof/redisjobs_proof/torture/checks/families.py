"""Checks that each child is added once, and that its parent goes on once, with the outcomes of all. Pure.

A parent records its children only when all have ended, so a child counts as pushed if it ran, or if its parent saw
its outcome.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, MutableMapping, Sequence, Set

from redisjobs.events.recording import Line
from redisjobs_proof.torture.checks.histories import History, Key, Run
from redisjobs_proof.torture.fleet.final import FinalState
from redisjobs_proof.torture.fleet.flows import Family

_GROUP = 100
"""The children of a group have numbers from its own number times this on, if their parent is a `Family`."""


def adopt(histories: MutableMapping[Key, History]) -> Counter[int]:
    """Mark children as pushed by their parents; return how many more there may be in each database."""
    for (db, job), history in list(histories.items()):
        for line in history.noted("passed"):
            for index, outcome in enumerate(line["value"] if line["how"] == "children" else ()):
                child = histories.setdefault((db, outcome["job"]), History(db=db, job=outcome["job"]))
                if not child.runs:  # else it says itself whose child it is
                    child.parent, child.number = job, _number(history, line, index)
                child.acknowledged = True
        parent = histories.get((db, job.rpartition(".")[0]))
        if parent is not None and history.cancel_asked and not history.attempted:  # of a family that names them
            history.parent = parent.job
    for history in histories.values():
        if history.parent:
            history.attempted = True
            history.acknowledged = history.acknowledged or bool(history.runs) or history.cancelled
            history.cancel_asked = any(each.cancel_asked for each in _line_of(history, histories))
    return _unseen(histories)


def family_names(histories: Mapping[Key, History], names: Set[str]) -> Set[str]:
    """Return the parents and the children of some jobs, and so on, besides these jobs."""
    families: defaultdict[str, set[str]] = defaultdict(set)
    for history in histories.values():
        if history.parent:
            *_, first = _line_of(history, histories)
            families[first.job] |= {first.job, history.job}
    return {*names, *(job for jobs in families.values() if jobs & names for job in jobs)}


def estranged(histories: Mapping[Key, History], finals: Sequence[FinalState]) -> Iterator[str]:
    """Yield children that were added twice, and parents that saw other outcomes than there were, in words."""
    added: defaultdict[tuple[int, str, int], set[str]] = defaultdict(set)
    for history in histories.values():
        if history.parent and history.runs:
            added[history.db, history.parent, history.number].add(history.job)
    for (_, parent, number), jobs in added.items():
        if len(jobs) > 1:
            yield f"child {number} of {parent} was added {len(jobs)} times: {' and '.join(sorted(jobs))}"
    dead = {(db, letter.job) for db, final in enumerate(finals) for letter in final.letters}
    for history in histories.values():
        begun = {line["key"]: line["children"] for line in history.noted("waits") if line["wait"] == "children"}
        for line in history.noted("passed"):
            if line["how"] == "children":
                yield from _of_group(history, line, begun[line["key"]], histories, dead)


def _number(parent: History, passed: Line, index: int) -> int:
    """Return the number of the child whose outcome the parent saw in this place."""
    return index + (passed["key"] * _GROUP if parent.name == Family.job_name else 0)


def _line_of(history: History, histories: Mapping[Key, History]) -> Iterator[History]:
    """Yield a job, its parent, and so on."""
    while True:
        yield history
        parent = histories.get((history.db, history.parent)) if history.parent else None
        if parent is None:
            return
        history = parent


def _unseen(histories: Mapping[Key, History]) -> Counter[int]:
    """Count the children of groups that did not end in time for their parents, and that never ran."""
    seen, unseen = Counter[Key](), Counter[int]()
    for history in histories.values():
        if history.parent:
            seen[history.db, history.parent] += 1
    for key, history in histories.items():
        groups = {line["key"]: line["children"] for line in history.noted("waits") if line["wait"] == "children"}
        unseen[history.db] += max(0, sum(groups.values()) - seen[key])
    return unseen


def _of_group(
    parent: History, passed: Line, many: int, histories: Mapping[Key, History], dead: Set[Key]
) -> Iterator[str]:
    about = f"{parent.label} ({parent.name})"
    outcomes = passed["value"]
    if len(outcomes) != many:
        yield f"{about} has {many} children, and saw the outcomes of {len(outcomes)}"
    for index, outcome in enumerate(outcomes):
        child = histories[parent.db, outcome["job"]]
        number = _number(parent, passed, index)
        if (child.parent, child.number) != (parent.job, number):
            yield f"{about} saw the outcome of {child.label} as that of its child {number}"
        elif not _fits(outcome, child, is_dead=(child.db, child.job) in dead):
            yield f"{about} saw that {child.label} ended as {outcome['how']}, {outcome['result']}, and it did not"
        elif any(line["sent_at"] > passed["at"] and not line["resent"] for line in child.completed):
            yield f"{about} was woken before its child {child.label} had ended"


def _fits(outcome: Line, child: History, *, is_dead: bool) -> bool:
    """Whether a child may have ended in this way."""
    cancelled = child.cancelled or any(line["cancelled"] for line in child.outcomes)
    match outcome["how"]:
        case "JobFailed":
            return is_dead
        case "JobCancelled":
            return cancelled or (child.cancel_asked and not child.completed and not is_dead)
        case "done":
            result = outcome["result"]
            lease = result["worker"], result["attempt"], result["deliveries"]
            ran = any(run.lease == lease and _may_have_ended_it(run) for run in child.done)
            return ran and not is_dead and not cancelled
    return False


def _may_have_ended_it(run: Run) -> bool:
    return not run.refused or (run.settled is not None and bool(run.settled["resent"]))
