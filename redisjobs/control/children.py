"""The operator's calls about steps and children, once for both controls; see `client/operation.py`."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from redisjobs.base.arguments import flag, whole
from redisjobs.base.visible import visible
from redisjobs.client.checks import id_of
from redisjobs.client.jobs import awaited
from redisjobs.client.operation import Operation, ask
from redisjobs.model.children import MOST_CHILDREN, ChildrenFound, ChildState, FindChildren
from redisjobs.model.codec import when
from redisjobs.model.info import ChildGroup, ChildInfo, job_info
from redisjobs.model.job import PushedJob, State, WhyWaiting
from redisjobs.model.queries import Find, Row
from redisjobs.model.steps import GetSteps, How, Saved, StepInfo, Steps, checked_key
from redisjobs.model.transitions import Group

_AT_ONCE = 1000  # children in one read
_MOST_READS = 10  # pages read to find unfinished children; results may be large
_WEIGHT = (State.SUSPENDED, State.DELAYED, State.READY, State.RUNNING)


def steps(job: str | PushedJob) -> Operation[list[StepInfo]]:
    """List the steps that a job has saved."""
    (found,) = yield from ask(GetSteps([id_of(job)]))
    return step_infos(found)


def step_infos(found: Steps | None) -> list[StepInfo]:
    """Return the steps that a job has saved, in order."""
    saved = {} if found is None else found.saved
    infos = [
        StepInfo(key, each.number, each.how, _value_of(each), when(each.at_ms)) for key, each in saved.items()
    ]
    return sorted(infos, key=lambda step: step.number)


def _value_of(step: Saved) -> str:
    return "" if step.how is How.CHILDREN else step.value.decode("utf-8", "replace")


def awaited_group(row: Row, most: int) -> Operation[ChildGroup | None]:
    """Return the group that a job waits for, with its first `most` children that have not ended, looked up."""
    token = yield from awaited(row)
    return None if token is None else (yield from _pending(token, most))


def _pending(token: str, most: int) -> Operation[ChildGroup | None]:
    first, pending, reads = 0, list[ChildInfo](), _MOST_READS
    while True:
        page = yield from ask(FindChildren(token, first, _AT_ONCE if most else 0))
        if not page.parent:
            return None
        pending += [each for each in _infos(token, first, page) if each.state is ChildState.PENDING]
        first, reads = first + len(page.outcomes), reads - 1
        if not (page.outcomes and reads and len(pending) < min(most, page.left)):
            return ChildGroup(page.key, page.total, page.left, (yield from _looked_up(pending[:most])))


def by_weight(children: Sequence[ChildInfo]) -> list[ChildInfo]:
    """Return children that were looked up, those that will take longest first."""

    def weight(child: ChildInfo) -> int:
        if child.job is None or child.job.why_waiting not in (None, WhyWaiting.NO_WORKER):
            return -1  # all wait for a worker, if there is none
        return _WEIGHT.index(child.job.state) if child.job.state in _WEIGHT else -1

    return sorted(children, key=weight)


def not_ended(group: ChildGroup, most: int) -> list[str]:
    """Return the children of a group that have not ended, and were looked up, with their states, for people."""
    texts = [
        f"{visible(each.job_id, 80)} ({each.says if each.job else 'not on the queue'})"
        for each in by_weight(group.children)[:most]
    ]
    return [*texts, *([f"and {group.left - len(texts):,} more"] if group.left > len(texts) else [])]


def children(
    job: str | PushedJob, step: str | None, first: int, limit: int, look_up: bool
) -> Operation[list[ChildGroup]]:
    """List the groups of a job's children, with some children of each."""
    job_id, only = id_of(job), None if step is None else checked_key(step, "step")
    at, most, looks_up = whole(first, "first", 0), whole(limit, "limit", 0), flag(look_up, "look_up")
    tokens = yield from _tokens(job_id)
    wanted = [token for key, token in tokens.items() if only in (None, key)]
    return (yield from _groups(wanted, at, most, looks_up))


def story(job_id: str, most: int, groups: int) -> Operation[tuple[list[StepInfo], list[ChildGroup]]]:
    """List the steps that a job has saved, and its newest groups of children, with the first children of each."""
    (found,) = yield from ask(GetSteps([job_id]))
    tokens = [*_in_order(found).values()]
    return step_infos(found), (yield from _groups(tokens[-groups:], 0, most, True, 1))


def _tokens(job_id: str) -> Operation[dict[str, str]]:
    """Return the tokens of a job's groups by key of step, in the order of the steps."""
    (found,) = yield from ask(GetSteps([job_id]))
    return _in_order(found)


def _in_order(found: Steps | None) -> dict[str, str]:
    if found is None:
        return {}
    numbers = {key: saved.number for key, saved in found.saved.items()}  # a group has none while it is awaited
    return dict(sorted(found.groups.items(), key=lambda each: (numbers.get(each[0], math.inf), each[0])))


def _groups(
    tokens: Iterable[str], first: int, limit: int, look_up: bool, reads: int = MOST_CHILDREN
) -> Operation[list[ChildGroup]]:
    groups = list[ChildGroup]()
    for token in tokens:
        group = yield from _group(token, first, limit, reads)
        if group is not None and look_up:
            group = replace(group, children=(yield from _looked_up(group.children)))
        groups += [] if group is None else [group]
    return groups


def _group(token: str, first: int, limit: int, reads: int) -> Operation[ChildGroup | None]:
    found = list[ChildInfo]()
    while True:
        at, left = first + len(found), limit - len(found)
        page = yield from ask(FindChildren(token, at, min(left, _AT_ONCE)))
        if not page.parent:
            return None
        found += _infos(token, at, page)
        reads -= 1
        if not (page.outcomes and reads and len(found) < min(limit, page.total - first)):
            return ChildGroup(page.key, page.total, page.left, found)


def _infos(token: str, first: int, page: ChildrenFound) -> list[ChildInfo]:
    group = Group(token, page.key, page.total)
    return [
        ChildInfo(
            index,
            outcome.job_id or group.child_id(index),
            outcome.state,
            outcome.value.decode("utf-8", "replace"),
            outcome.error,
            outcome.error_type,
        )
        for index, outcome in enumerate(page.outcomes, first)
    ]


def _looked_up(children: Iterable[ChildInfo]) -> Operation[list[ChildInfo]]:
    """Return children with the jobs of those that have not ended."""
    found = list[ChildInfo]()
    for child in children:
        row = (yield from ask(Find(child.job_id))) if child.state is ChildState.PENDING else None
        found.append(child if row is None else replace(child, job=job_info(row)))
    return found
