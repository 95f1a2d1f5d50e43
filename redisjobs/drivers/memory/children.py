"""The children of jobs: their groups, and what ends or cancels them."""

import re
from collections.abc import Iterable
from dataclasses import replace

from redisjobs.drivers.memory.pushes import add, forget_end, living
from redisjobs.drivers.memory.state import Memory, StoredGroup, StoredJob, answers, encoded
from redisjobs.drivers.memory.steps import stored, wake
from redisjobs.model.children import ChildOutcome, ChildrenFound, ChildState, FindChildren
from redisjobs.model.steps import How
from redisjobs.model.transitions import AddChildren, Group, NewJob, Reply, Suspend

_CHILD_OF = re.compile(rb"(\S+) ([0-9]{1,9})")


def add_children(memory: Memory, parent: StoredJob, step: AddChildren | Suspend, group: Group) -> list[bool]:
    """Add children of a job that are not in their group yet; return which were added."""
    stored(memory, parent, step.version).groups.setdefault(group.key, group.token)
    there = memory.groups.setdefault(group.token, StoredGroup(parent.id, group.key, group.total))
    return [_add(memory, group.token, there, job) for job in step.pushes]


def _add(memory: Memory, token: str, group: StoredGroup, job: NewJob) -> bool:
    child_of = encoded(job.fields[-1])
    index = int(child_of.split()[1])
    there = living(memory, job.job_id)
    if index in group.outcomes or (there is not None and there.fields.get(b"child_of") == child_of):
        return False
    if job.job_id != f"{token}-{index}":
        group.ids[index] = job.job_id
    if there is not None:
        group.outcomes[index] = ChildOutcome(ChildState.EXISTS, error=job.job_id)
        return False
    answer = add(memory, job)
    if answer.reply is not Reply.OK:
        group.outcomes[index] = ChildOutcome(ChildState.DUPLICATE, error=answer.holder)
        return False
    forget_end(memory, job.job_id)
    return True


def end_child(memory: Memory, job: StoredJob, outcome: ChildOutcome) -> None:
    """Note how a job has ended in the group that it is a child of; the last one wakes the parent."""
    place = _place_of(job)
    if place is not None:
        end_child_at(memory, *place, outcome)


def _place_of(job: StoredJob) -> tuple[str, int] | None:
    """Return the group of a child and its index there; None if its field, put outside redisjobs, names none."""
    found = _CHILD_OF.fullmatch(job.fields.get(b"child_of", b""))
    return None if found is None else (found[1].decode("utf-8", "surrogateescape"), int(found[2]))


def end_child_at(memory: Memory, token: str, index: int, outcome: ChildOutcome) -> None:
    """Note the outcome of the child at an index of a group."""
    group = memory.groups.get(token)
    if group is None or index in group.outcomes:
        return
    group.outcomes[index] = outcome
    if group.left:
        return
    if group.is_closed:
        forget_group(memory, token)
        return
    parent = memory.jobs.get(group.parent)
    if parent is not None and waits_for(memory, parent, token):
        wake(memory, parent, How.CHILDREN, token.encode())


def waits_for(memory: Memory, parent: StoredJob, token: str) -> bool:
    """Return whether a job is suspended until the children of this group have ended."""
    steps = memory.steps.get(parent.id)
    return parent.wait is not None and steps is not None and steps.groups.get(parent.wait.key) == token


def is_over(memory: Memory, group: Group) -> bool:
    """Return whether all children of a group have ended."""
    return group.token not in memory.groups or not memory.groups[group.token].left


def reopen(memory: Memory, job: StoredJob) -> bool:
    """Let a dead child be one of its group again, if the parent waits for others of it; return whether it is."""
    place = _place_of(job)
    group = None if place is None else memory.groups.get(place[0])
    if place is None or group is None or group.is_closed or not group.left:
        return False
    group.outcomes.pop(place[1], None)
    return True


def close_groups(memory: Memory, job: StoredJob, *, cancels: bool) -> None:
    """Let go of the children of a job that ends. `cancels`: those that have not ended are cancelled."""
    steps = memory.steps.get(job.id)
    for token in steps.groups.values() if steps else ():
        group = memory.groups.get(token)
        if group is None:
            continue
        if not group.left or not cancels:
            forget_group(memory, token)
        else:
            group.is_closed = True
            memory.cancelling.setdefault(token, 0)


def cancel_groups(memory: Memory, job: StoredJob) -> None:
    """Cancel the children of a dead letter that have not ended; the letter keeps its groups."""
    steps = memory.steps.get(job.id)
    for token in steps.groups.values() if steps else ():
        if token in memory.groups and memory.groups[token].left:
            memory.cancelling.setdefault(token, 0)


def forget_group(memory: Memory, token: str) -> None:
    """Forget a group."""
    memory.groups.pop(token, None)
    memory.cancelling.pop(token, None)


@answers(FindChildren)
def _find_children(memory: Memory, query: FindChildren) -> ChildrenFound:
    group = memory.groups.get(query.token)
    if group is None:
        return ChildrenFound("")
    indexes = range(query.first, min(query.first + query.most, group.total))
    return ChildrenFound(group.parent, group.total, group.left, outcomes_of(group, indexes), group.key)


def outcomes_of(group: StoredGroup, indexes: Iterable[int]) -> list[ChildOutcome]:
    """Return how some children of a group have ended, with their ids."""
    pending = ChildOutcome(ChildState.PENDING)
    return [replace(group.outcomes.get(each, pending), job_id=group.ids.get(each, "")) for each in indexes]
