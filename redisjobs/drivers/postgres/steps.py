"""What jobs have saved, signals to them, and their children, as calls of functions in the database."""

from collections.abc import Sequence
from functools import partial

from redisjobs.drivers.postgres.calls import Call, Meta, Row, answer_of, answers
from redisjobs.drivers.postgres.entries import bytes_of, given, text_of
from redisjobs.model.children import CancelChildren, ChildOutcome, ChildrenFound, ChildState, FindChildren
from redisjobs.model.steps import MOST_SIGNALS, MOST_STEP_BYTES, GetSteps, How, Saved, Signal, Steps
from redisjobs.model.transitions import Reply


@answers(GetSteps)
def _get_steps(query: GetSteps) -> Call[Sequence[Steps | None]]:
    ids = [text_of(job_id) for job_id in query.job_ids]
    return Call("steps", [ids], partial(_found, len(ids)))


def _found(asked: int, meta: Meta, rows: Sequence[Row]) -> Sequence[Steps | None]:
    looked: int = meta["a"]
    by_job: list[list[Row]] = [[] for _ in range(looked)]
    for _, job, *row in rows:
        by_job[job].append(row)
    return [*map(steps_of, by_job), *[None] * (asked - looked)]


def steps_of(rows: Sequence[Row]) -> Steps:
    """Return what a job has saved, from rows of key, number, time, how, value and version."""
    saved, groups, checkpoint, its_version = dict[str, Saved](), dict[str, str](), None, None
    for key, number, at_ms, how, value, version in rows:
        if not key:
            checkpoint, its_version = None if value is None else bytes_of(value), version
            continue
        if number is not None:  # else its children have not ended
            saved[given(key)] = Saved(number, at_ms, How(how), bytes_of(value or ""))
        if how == How.CHILDREN:
            groups[given(key)] = given(value)
    return Steps(saved, checkpoint, its_version, groups)


@answers(Signal)
def _signal(change: Signal) -> Call[Reply]:
    texts = [text_of(each) for each in (change.job_id, change.name, change.value, change.nonce)]
    return Call("signal", [*texts, MOST_SIGNALS, MOST_STEP_BYTES], answer_of(Reply))


@answers(FindChildren)
def _find_children(query: FindChildren) -> Call[ChildrenFound]:
    return Call("find_children", [text_of(query.token), query.first, query.most], partial(_children, query.first))


def _children(first: int, meta: Meta, rows: Sequence[Row]) -> ChildrenFound:
    if meta["a"] is None:
        return ChildrenFound("")
    parent, key, total, pending, following = meta["a"]
    outcomes = [ChildOutcome(ChildState.PENDING)] * (following - first)
    for _, index, *outcome in rows:
        outcomes[index - first] = outcome_of(*outcome)
    return ChildrenFound(parent, total, pending, outcomes, key)


def outcome_of(job_id: str | None, state: str | None, value: str | None, *notes: str | None) -> ChildOutcome:
    """Return how a child has ended, given the columns; the notes are error, error type and reason."""
    texts = [given(text or "") for text in (*notes, job_id)]
    return ChildOutcome(ChildState(state or "pending"), bytes_of(value or ""), *texts)


@answers(CancelChildren)
def _cancel_children(change: CancelChildren) -> Call[bool]:
    return Call("cancel_children", [], answer_of(bool))
