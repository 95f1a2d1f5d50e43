"""Moves jobs of a queue to and from other stores, as calls of functions in the database."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from redisjobs.drivers.postgres.calls import Call, Meta, answer_of, answers
from redisjobs.drivers.postgres.calls import Row as Values
from redisjobs.drivers.postgres.entries import bytes_of, columns_of, fields_of, given, text_of
from redisjobs.drivers.postgres.pushes import answers_of
from redisjobs.drivers.postgres.steps import outcome_of, steps_of
from redisjobs.model import moving
from redisjobs.model.changes import Ending, JobStatus
from redisjobs.model.children import ChildOutcome
from redisjobs.model.job import Priority, State
from redisjobs.model.moving import MovedOutcome, Taken
from redisjobs.model.retention import Keep, Retention, keep_of
from redisjobs.model.steps import How, Steps
from redisjobs.model.transitions import Pushed, Reply

_PRIORITIES = list(Priority)
_WIDTH = 20  # digits of a place
_MOST = 2**63 - 1
_STEP = ("key", "number", "at_ms", "how", "value", "version")  # columns of a step


@answers(moving.Take)
def _take(change: moving.Take) -> Call[moving.Took]:
    ids = [text_of(row.job_id) for row in change.rows]
    seqs = [int(row.key) if row.key else None for row in change.rows]
    return Call("take", [ids, [str(row.state) for row in change.rows], seqs, change.most_bytes], answer_of(_took))


def _took(found: Mapping[str, Any]) -> moving.Took:
    return moving.Took(found["name"], [Reply(word) for word in found["words"]])


@answers(moving.FindTaken)
def _find_taken(query: moving.FindTaken) -> Call[moving.InTransit]:
    return Call("find_taken", [int(query.after or 0), query.limit], _in_transit)


def _in_transit(meta: Meta, rows: Sequence[Values]) -> moving.InTransit:
    return moving.InTransit(meta["a"]["name"], [*map(_taken, rows)], meta["a"]["total"])


def _taken(row: Values) -> Taken:
    *row, steps, signals, children = row
    facts = orjson.loads(row[0])
    return Taken(
        place=str(facts["place"]).zfill(_WIDTH),
        job_id=given(row[1]),
        state=State(facts["state"]),
        priority=_PRIORITIES[facts["rank"]],
        fields=fields_of(*row[1:]),
        since_ms=facts["since"],
        taken_ms=facts["taken"],
        due_ms=facts["due"],
        held=facts["held"],
        window_ms=facts["window"],
        outcome=facts["ending"] and _outcome(**facts["ending"]),
        steps=steps_of([[step[name] for name in _STEP] for step in orjson.loads(steps or "[]")]),
        signals={given(name): bytes_of(value) for name, value in orjson.loads(signals or "{}").items()},
        children={
            given(token): [outcome_of(*each) for each in outcomes]
            for token, outcomes in orjson.loads(children or "{}").items()
        },
    )


def _outcome(
    ending: str, value: str | None, value_until_ms: int, error: str, error_type: str, until_ms: int, **_: object
) -> MovedOutcome:
    status = JobStatus(Ending(ending), error=given(error), error_type=given(error_type))
    if value is not None:
        status = JobStatus(Ending.COMPLETED, value=bytes_of(value))
    return MovedOutcome(status, until_ms, value_until_ms)


@answers(moving.ForgetTaken)
def _forget_taken(change: moving.ForgetTaken) -> Call[Reply]:
    return Call("forget_taken", [[int(place) for place in change.places]], answer_of(Reply))


@answers(moving.Import)
def _import(change: moving.Import) -> Call[list[Pushed]]:
    jobs = orjson.dumps([*map(_job, change.jobs)])
    return Call("import_jobs", [text_of(change.source), jobs], answers_of)


def _job(job: Taken) -> dict[str, Any]:
    made = {
        **columns_of({**job.fields, b"id": job.job_id.encode("utf-8", "surrogateescape")}),
        "place": job.place,
        "state": job.state,
        "rank": _PRIORITIES.index(job.priority),
        "since": job.since_ms,
        "due": None if job.due_ms is None else max(-_MOST, min(job.due_ms, _MOST)),
        "held": job.held or None,
        "window": job.window_ms,
        "ending": job.outcome and _ending(job.outcome),
        "steps": [*_steps(job.steps, job.taken_ms)] or None,
        "children": {text_of(token): [*map(_words_of, each)] for token, each in job.children.items()} or None,
        "signals": {text_of(name): text_of(value) for name, value in job.signals.items()} or None,
    }
    return {name: value for name, value in made.items() if value is not None}


def _steps(steps: Steps, now_ms: int) -> Iterator[dict[str, Any]]:
    """Yield the rows that `steps_of` reads."""
    if steps != Steps():
        checkpoint = None if steps.checkpoint is None else text_of(steps.checkpoint)
        yield {"key": "", "at_ms": now_ms, "value": checkpoint, "version": steps.version}
    for key, step in steps.saved.items():
        yield {
            "key": text_of(key),
            "number": step.number,
            "at_ms": step.at_ms,
            "how": step.how,
            "value": text_of(step.value),
        }
    for key, token in steps.groups.items():
        if key not in steps.saved:
            yield {"key": text_of(key), "at_ms": now_ms, "how": How.CHILDREN, "value": text_of(token)}


def _words_of(outcome: ChildOutcome) -> list[str]:
    notes = (outcome.error, outcome.error_type, outcome.reason)
    return [text_of(each) for each in (outcome.job_id, outcome.state, outcome.value, *notes)]


def _ending(outcome: MovedOutcome) -> dict[str, Any]:
    status = outcome.status
    is_done = status.ending is Ending.COMPLETED
    return {
        "ending": Ending.EXPIRED if is_done else status.ending,
        "value": text_of(status.value) if is_done else None,
        "value_until_ms": outcome.value_until_ms,
        "error": text_of(status.error),
        "error_type": text_of(status.error_type),
        "until_ms": outcome.until_ms,
    }


@answers(moving.FindRetention)
def _find_retention(query: moving.FindRetention) -> Call[Retention | None]:
    return Call("find_retention", [], answer_of(_retention))


def _retention(found: Mapping[str, str] | None) -> Retention | None:
    if found is None:
        return None
    kept = {state: keep_of(text) for state, text in found.items() if text}
    return Retention(kept.get("completed"), kept.get("cancelled"), kept.get("dead") or Keep())
