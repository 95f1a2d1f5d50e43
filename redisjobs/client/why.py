"""Why a job does not run: reads what is known of it and its queue. `reasons.py` has the words."""

import time
from dataclasses import replace
from typing import Any

from redisjobs.client import operations
from redisjobs.client.checks import id_of
from redisjobs.client.operations import Steps, ask
from redisjobs.client.reasons import Known, explain
from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.changes import GetStatus
from redisjobs.model.info import JobInfo, job_info, pause_info
from redisjobs.model.job import PushedJob, State
from redisjobs.model.queries import Ahead, Find, FindPauses, Standing
from redisjobs.model.statistics import total
from redisjobs.model.why import Why

_LATELY, _HOUR = 300, 3600  # seconds of statistics for the rate, and for the usual duration


def why(queue: str, job: str | PushedJob | None, unique: str | None) -> Steps[Why]:
    """Find out why a job does not run, by its id or by the unique key that it holds."""
    if (job is None) == (unique is None):
        raise ValueError("give a job or unique=, and not both")
    asked = Ahead(id_of(job)) if job is not None else Ahead(key=str(unique))
    standing = yield from (_or(ask(asked), None) if asked.job_id else ask(asked))
    if standing is None:  # the server's ACL allows less than that
        standing = Standing(time.time_ns() // 1_000_000, asked.job_id)
    row = (yield from ask(Find(standing.job_id))) if standing.job_id else None
    known = Known(queue, standing.job_id, standing, None if row is None else job_info(row), key=unique)
    if row is None:
        if standing.job_id:
            (status,) = yield from ask(GetStatus([standing.job_id]))
            known = replace(known, ending=status.ending)
        return explain(known)
    if row.state in (State.READY, State.DELAYED, State.RUNNING):
        known = yield from _with_queue(known, job_info(row))
    return explain(known)


def _with_queue(known: Known, job: JobInfo) -> Steps[Known]:
    known = replace(known, workers=(yield from _or(operations.workers(), None)))
    if job.state is State.RUNNING:
        hour = yield from _or(operations.statistics(_HOUR, job.name or None, None), [])
        return replace(known, usual=total(hour) if hour else None)
    pauses = yield from _or(ask(FindPauses()), None)
    minutes = yield from _or(operations.statistics(_LATELY, None, None), [])
    return replace(
        known, pauses=pause_info(pauses) if pauses else None, lately=total(minutes) if minutes else None
    )


def _or(steps: Steps[Any], default: Any) -> Steps[Any]:
    """Return an answer, or a default if the server or the driver refuses the question."""
    try:
        return (yield from steps)
    except Unavailable:
        raise
    except DriverError:
        return default
