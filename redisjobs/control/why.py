"""Why a job does not run: reads what is known of it and its queue. `reasons.py` has the words."""

import time
from collections.abc import Callable
from dataclasses import replace

from redisjobs.base.arguments import is_text
from redisjobs.client.checks import id_of
from redisjobs.client.jobs import with_left, with_step
from redisjobs.client.operation import Operation, ask, or_default
from redisjobs.control import operations
from redisjobs.control.children import awaited_group
from redisjobs.control.reasons import MOST_SHOWN, JobFacts, explain
from redisjobs.control.statistics import statistics
from redisjobs.model.changes import GetStatus
from redisjobs.model.info import JobInfo, pause_info
from redisjobs.model.job import CANCELLABLE, PushedJob, State
from redisjobs.model.queries import Find, FindPauses, Row
from redisjobs.model.statistics import total
from redisjobs.model.why import Ahead, Standing, Why

_LATELY, _HOUR = 300, 3600  # seconds of statistics for the rate, and for the usual duration


def why(
    queue: str,
    job: str | PushedJob | None,
    unique: str | None = None,
    shown: Callable[[JobInfo], JobInfo] = lambda job: job,
) -> Operation[Why]:
    """Find out why a job does not run, by its id or by the unique key that it holds.

    `shown` returns the job without what must not be shown: sentences and facts repeat errors and keys.
    """
    if (job is None) == (unique is None):
        raise ValueError(f"job={job!r:.60}, unique={unique!r:.60}: give a job or unique=, and not both")
    if unique is not None and not is_text(unique, r"(?s:.{1,1000})"):
        raise ValueError(f"unique={unique!r:.60}: give 1 to 1,000 characters that UTF-8 can carry")
    asked = Ahead(id_of(job)) if job is not None else Ahead(key=unique or "")
    standing, row = yield from _look(asked)
    if row is None and asked.key and standing.job_id:  # the job may have ended between the two reads
        standing, row = yield from _look(asked)
    stored = None if row is None else (yield from with_step(row))
    group = None if row is None else (yield from or_default(awaited_group(row, MOST_SHOWN), None))
    if stored is not None and group is not None:
        stored = with_left(stored, group.total, group.left)
    found = None if stored is None else shown(stored)
    known = JobFacts(queue, standing.job_id, standing, found, key=unique)
    if group is not None:
        children = [replace(each, job=each.job and shown(each.job)) for each in group.children]
        known = replace(known, awaited=replace(group, children=children))
    if found is None:
        if standing.job_id:
            (status,) = yield from ask(GetStatus([standing.job_id]))
            known = replace(known, ending=status.ending)
        return explain(known)
    if found.state in CANCELLABLE:
        known = yield from _with_queue(known, found)
    return explain(known)


def _look(asked: Ahead) -> Operation[tuple[Standing, Row | None]]:
    standing = yield from (or_default(ask(asked), None) if asked.job_id else ask(asked))
    if standing is None:  # the server's ACL allows less than that
        standing = Standing(time.time_ns() // 1_000_000, asked.job_id)
    return standing, (yield from ask(Find(standing.job_id))) if standing.job_id else None


def _with_queue(known: JobFacts, job: JobInfo) -> Operation[JobFacts]:
    known = replace(known, workers=(yield from or_default(operations.workers(), None)))
    if job.state is State.RUNNING:
        hour = yield from or_default(statistics(_HOUR, job.name or None, None), None)
        return replace(known, usual=total(hour) if hour else None)
    pauses = yield from or_default(ask(FindPauses()), None)
    minutes = yield from or_default(statistics(_LATELY, None, None), None)
    return replace(
        known, pauses=pause_info(pauses) if pauses else None, lately=total(minutes) if minutes else None
    )
