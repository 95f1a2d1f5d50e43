"""What jobs have saved, and signals to them, as calls of functions in the database."""

from collections.abc import Sequence
from functools import partial

from redisjobs.drivers.postgres.calls import Call, Meta, Row, answer_of, answers
from redisjobs.drivers.postgres.entries import bytes_of, given, text_of
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
    saved, checkpoint, its_version = dict[str, Saved](), None, None
    for key, number, at_ms, how, value, version in rows:
        if key:
            saved[given(key)] = Saved(number, at_ms, How(how), bytes_of(value or ""))
        else:
            checkpoint, its_version = None if value is None else bytes_of(value), version
    return Steps(saved, checkpoint, its_version)


@answers(Signal)
def _signal(change: Signal) -> Call[Reply]:
    texts = [text_of(each) for each in (change.job_id, change.name, change.value, change.nonce)]
    return Call("signal", [*texts, MOST_SIGNALS, MOST_STEP_BYTES], answer_of(Reply))
