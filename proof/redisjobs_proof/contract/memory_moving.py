"""How the memory driver moves jobs, for the contract of a driver: no command reaches a queue in memory.

Importing this module registers it with the driver.
"""

import math
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from redisjobs.drivers.memory.children import outcomes_of
from redisjobs.drivers.memory.ends import forget, remember
from redisjobs.drivers.memory.history import noted
from redisjobs.drivers.memory.pushes import forget_end, holder_of, living
from redisjobs.drivers.memory.state import Memory, StoredGroup, StoredJob, StoredSteps, answers, with_fields
from redisjobs.drivers.memory.steps import steps_of
from redisjobs.model import moving
from redisjobs.model.changes import Ending, JobStatus
from redisjobs.model.children import ChildOutcome
from redisjobs.model.job import WAITING, State
from redisjobs.model.moving import MovedOutcome, Taken
from redisjobs.model.queries import Row
from redisjobs.model.retention import DEFAULT, Retention
from redisjobs.model.steps import Steps, read_wait
from redisjobs.model.transitions import Pushed, Reply

_PAGE = 1024 * 1024  # about the bytes of the jobs that are found at once


@dataclass
class Moves:
    """The moves of one queue, from it and to it."""

    name: str = field(default_factory=lambda: secrets.token_hex(16))  # what a move of the queue calls it
    last_taken: int = 0  # the number of the last job that was put in transit
    transit: dict[str, Taken] = field(default_factory=dict)  # by place
    imported: dict[str, tuple[str, set[str]]] = field(default_factory=dict)  # by source: last place, those refused


_of_queues = WeakKeyDictionary[Memory, Moves]()


def moves_of(memory: Memory) -> Moves:
    """Return the moves of a queue."""
    return _of_queues.setdefault(memory, Moves())


@answers(moving.Take)
def _take(memory: Memory, change: moving.Take) -> moving.Took:
    replies, left, moves = list[Reply](), _PAGE, moves_of(memory)
    for row in change.rows:
        replies.append(_take_one(memory, row, change.most_bytes) if left > 0 else Reply.PARTIAL)
        if replies[-1] is Reply.OK:
            left -= _saved_bytes(moves.transit[next(reversed(moves.transit))])
    return moving.Took(moves.name, replies)


def _take_one(memory: Memory, row: Row, most_bytes: int) -> Reply:
    job = _there(memory, row)
    if job is None:
        return Reply.NOT_FOUND
    if not job.has_ended and _stays(memory, job, most_bytes):
        return Reply.STAYS
    now_ms = memory.now_ms()
    moves = moves_of(memory)
    moves.last_taken = max(moves.last_taken + 1, now_ms * 1000)
    place, is_waiting = f"{moves.last_taken:020d}", job.state in WAITING
    moves.transit[place] = Taken(
        place=place,
        job_id=job.id,
        state=job.state,
        priority=job.priority,
        fields={b"queued_at": b"%d" % min(job.since_ms, now_ms), **with_fields(job.fields, noted(job))},
        since_ms=job.since_ms,
        taken_ms=now_ms,
        due_ms=(job.due_ms or None) if job.state in (State.DELAYED, State.SUSPENDED) else None,
        held=is_waiting and memory.held.pop(job.id, None) is not None,
        window_ms=_window(memory, job) if is_waiting else None,
        outcome=_outcome(memory, job),
        steps=Steps() if job.has_ended else steps_of(memory, job.id),
        signals={} if job.has_ended else dict(memory.signals.get(job.id, {})),
        children={} if job.has_ended else dict(_ended_children(memory, job)),
    )
    key = job.text(b"unique")
    if key and memory.uniques.get(key, ("", 0))[0] == job.id:
        del memory.uniques[key]
    memory.remove(job)
    if not job.has_ended:
        forget(memory, job)
    remember(memory, job)
    return Reply.OK


def _stays(memory: Memory, job: StoredJob, most_bytes: int) -> bool:
    """Return whether a job, or its parent, waits for children; or whether their outcomes are too large."""
    steps, token = steps_of(memory, job.id), job.text(b"child_of").partition(" ")[0]
    groups = [memory.groups[each] for each in (*steps.groups.values(), token) if each in memory.groups]
    outcomes = [outcome for _, each in _ended_children(memory, job) for outcome in each]
    is_too_much = bool(outcomes) and sum(map(_outcome_bytes, outcomes)) > most_bytes
    return any(group.left for group in groups) or is_too_much


def _ended_children(memory: Memory, job: StoredJob) -> Iterator[tuple[str, list[ChildOutcome]]]:
    """Yield the token of each group of a job, and how its children have ended, in order."""
    for token in steps_of(memory, job.id).groups.values():
        if token in memory.groups:
            group = memory.groups[token]
            yield token, outcomes_of(group, sorted(group.outcomes))


def _there(memory: Memory, row: Row) -> StoredJob | None:
    """Return the job of a row, if it is still in this state."""
    if row.state in memory.aside:
        return memory.aside[row.state].get(int(row.key))
    job = memory.jobs.get(row.job_id)
    is_it = job is not None and job.state is row.state and row.key in ("", str(job.number))
    return job if is_it and row.state in WAITING else None


def _window(memory: Memory, job: StoredJob) -> int | None:
    """Return until when a job holds a unique key that it was pushed with for a time."""
    holder_id, until_ms = memory.uniques.get(job.text(b"window"), ("", 0.0))
    return int(until_ms) if holder_id == job.id and memory.now_ms() < until_ms < math.inf else None


def _outcome(memory: Memory, job: StoredJob) -> MovedOutcome | None:
    is_last = memory.jobs.get(job.id) is job
    if job.state not in memory.aside or not is_last or memory.outcomes.current(job.id, memory.now_ms()) is None:
        return None
    status, until_ms = memory.outcomes[job.id]
    value, value_until_ms = memory.results.get(job.id, (b"", 0))
    if value:
        status = JobStatus(Ending.COMPLETED, value=value)
    return MovedOutcome(status, int(until_ms), int(value_until_ms))


@answers(moving.FindTaken)
def _find(memory: Memory, query: moving.FindTaken) -> moving.InTransit:
    found, left, moves = list[Taken](), _PAGE, moves_of(memory)
    for place, job in moves.transit.items():
        if place > query.after:
            left -= _weight(job)
            if len(found) == query.limit or (found and left < 0):
                break
            found.append(job)
    return moving.InTransit(moves.name if moves.last_taken else "", found, len(moves.transit))


def _weight(job: Taken) -> int:
    """Return about how many bytes a job in transit has."""
    result = len(job.outcome.status.value) if job.outcome else 0
    return result + sum(len(name) + len(value) for name, value in job.fields.items()) + _saved_bytes(job)


def _saved_bytes(job: Taken) -> int:
    """Return about how many bytes the steps and signals of a job have, and the outcomes of its children."""
    steps = sum(len(key) + len(saved.value) for key, saved in job.steps.saved.items())
    outcomes = sum(map(_outcome_bytes, [outcome for each in job.children.values() for outcome in each]))
    return steps + len(job.steps.checkpoint or b"") + sum(map(len, job.signals.values())) + outcomes


def _outcome_bytes(outcome: ChildOutcome) -> int:
    return len(outcome.value) + len(outcome.error)


@answers(moving.ForgetTaken)
def _forget(memory: Memory, change: moving.ForgetTaken) -> Reply:
    for place in change.places:
        moves_of(memory).transit.pop(place, None)
    return Reply.OK


@answers(moving.FindRetention)
def _find_retention(memory: Memory, query: moving.FindRetention) -> Retention | None:
    return None if memory.retention is DEFAULT else memory.retention


# The target


@answers(moving.Import)
def _import(memory: Memory, change: moving.Import) -> list[Pushed]:
    imported = moves_of(memory).imported
    last, refused = imported.get(change.source, ("", set[str]()))
    answers = []
    for job in change.jobs:
        if job.place <= last and job.place not in refused:
            answers.append(Pushed(Reply.REPEATED))
            continue
        answer = _against(memory, job)
        if answer is None:
            _add(memory, job)
            refused.discard(job.place)
        else:
            refused.add(job.place)
        last = max(last, job.place)
        answers.append(answer or Pushed(Reply.OK))
    imported[change.source] = last, refused
    return answers


def _against(memory: Memory, job: Taken) -> Pushed | None:
    """Return why a job can't be added; None: it can."""
    if not job.has_ended and living(memory, job.job_id):
        return Pushed(Reply.EXISTS)
    holder_id = holder_of(memory, _key(job, memory.now_ms())[0]) if job.waits else ""
    return Pushed(Reply.DUPLICATE, holder_id) if holder_id else None


def _key(job: Taken, now_ms: int) -> tuple[str, float]:
    """Return the unique key that a waiting job holds, and until when; '' for none."""
    unique, window = (
        job.fields.get(name, b"").decode("utf-8", "surrogateescape") for name in (b"unique", b"window")
    )
    if b"steps" in job.fields and job.fields.get(b"unique_until") == b"start":
        unique = ""  # it was free from its start on
    if unique or job.window_ms is None or job.window_ms <= now_ms:
        return unique, math.inf
    return window, job.window_ms


def _add(memory: Memory, taken: Taken) -> None:
    now_ms, job = memory.now_ms(), StoredJob(taken.job_id, taken.priority, taken.fields)
    key, until_ms = _key(taken, now_ms)
    if not taken.has_ended:
        _keep_saved(memory, taken)
    if taken.waits:
        if key:
            memory.uniques.put(key, job.id, until_ms, now_ms)
        if taken.held:
            memory.held[job.id] = now_ms
        forget_end(memory, job.id)
        _begin_waiting(memory, job, taken)
    else:
        there = living(memory, job.id) if taken.has_ended else None
        memory.put(job, memory.aside[taken.state])
        job.since_ms = taken.since_ms
        if there:
            memory.jobs[job.id] = there
        else:
            _keep_outcome(memory, taken)


def _begin_waiting(memory: Memory, job: StoredJob, taken: Taken) -> None:
    """Make a job ready, delayed or suspended. One whose wait can't be read goes on where it can."""
    job.wait = read_wait(taken.fields.get(b"waits", b"")) if taken.state is State.SUSPENDED else None
    if job.wait is None:
        memory.enqueue(job, taken.due_ms or 0)
        return
    first, job.due_ms = memory.next_due(), taken.due_ms or 0
    memory.put(job, memory.suspended)
    if job.due_ms and (first is None or job.due_ms < first):
        memory.tell("due", str(job.due_ms))


def _keep_saved(memory: Memory, taken: Taken) -> None:
    """Keep the steps and the signals of a job, and how its children have ended."""
    steps = taken.steps
    if steps != Steps():
        memory.steps[taken.job_id] = StoredSteps(
            steps.version or 0, dict(steps.saved), steps.checkpoint, dict(steps.groups)
        )
    if taken.signals:
        memory.signals[taken.job_id] = dict(taken.signals)
    for key, token in steps.groups.items():
        if token in taken.children:
            outcomes = dict(enumerate(taken.children[token]))
            ids = {index: each.job_id for index, each in outcomes.items() if each.job_id}
            memory.groups[token] = StoredGroup(taken.job_id, key, len(outcomes), outcomes, ids)


def _keep_outcome(memory: Memory, taken: Taken) -> None:
    """Keep how a job has ended, unless that of another run with its id is kept longer, which ended later."""
    outcome, now_ms = taken.outcome, memory.now_ms()
    until_ms = memory.outcomes[taken.job_id][1] if taken.has_ended and taken.job_id in memory.outcomes else 0
    if outcome is None or outcome.until_ms <= max(now_ms, until_ms):
        return
    forget_end(memory, taken.job_id)
    status = outcome.status
    if status.ending is Ending.COMPLETED:
        memory.results.put(taken.job_id, status.value, outcome.value_until_ms, now_ms)
        status = JobStatus(Ending.EXPIRED)
    memory.outcomes.put(taken.job_id, status, outcome.until_ms, now_ms)
