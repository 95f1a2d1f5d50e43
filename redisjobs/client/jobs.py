"""Operations on one job, for the async and the sync queue: look up, cancel, signal; see `operation.py`."""

from dataclasses import replace
from typing import Any

from redisjobs.base.visible import visible
from redisjobs.client.checks import id_of
from redisjobs.client.operation import Operation, ask, or_default
from redisjobs.errors import StepsFull
from redisjobs.model.changes import Cancel
from redisjobs.model.children import CancelChildren, ChildrenFound, FindChildren
from redisjobs.model.codec import new_nonce
from redisjobs.model.info import JobInfo, job_info
from redisjobs.model.job import PushedJob, State
from redisjobs.model.payload import encode_plain
from redisjobs.model.queries import Find, Row
from redisjobs.model.steps import MOST_SIGNALS, MOST_STEP_BYTES, GetSteps, Signal, checked_step, read_wait
from redisjobs.model.transitions import Reply, WaitsFor


def get(job: str | PushedJob) -> Operation[JobInfo | None]:
    """Look a job up."""
    row = yield from ask(Find(id_of(job)))
    return None if row is None else (yield from informed(row))


def cancel(job: str | PushedJob) -> Operation[Reply]:
    """Cancel a job, and its children that have not ended."""
    reply = yield from ask(Cancel(id_of(job)))
    if reply is Reply.CANCELLED:
        yield from cancel_children()
    return reply


def cancel_children() -> Operation[None]:
    """Cancel the children of all jobs that were cancelled; if this fails, a worker does it within two minutes."""
    more = True
    while more:
        more = yield from ask(CancelChildren())


def signal(job: str | PushedJob, name: str, value: Any, longest: int) -> Operation[Reply]:
    """Send a signal to a job; its JSON may have `longest` bytes."""
    job_id, called = id_of(job), checked_step(name, "signal")
    change = Signal(job_id, called, encode_plain(f"signal '{called}'", value, longest), new_nonce())
    reply = yield from ask(change)
    if reply is Reply.OVERSIZED:
        raise StepsFull(
            f"job {visible(change.job_id)} keeps {MOST_SIGNALS} signals, or {MOST_STEP_BYTES:,} bytes of them, "
            "that it has not waited for yet: signal it again later; this signal was not kept"
        )
    return reply


# What only groups of children know of a job


def informed(row: Row) -> Operation[JobInfo]:
    """Return the job in a row, with the step that it is a child of, and how many children it still waits for."""
    job = yield from with_step(row)
    group = yield from or_default(_awaited_group(row), None)
    return job if group is None else with_left(job, group.total, group.left)


def with_step(row: Row) -> Operation[JobInfo]:
    """Return the job in a row, with the step that it is a child of."""
    job = job_info(row)
    if job.child_of is None:
        return job
    token = row.fields[b"child_of"].partition(b" ")[0].decode("utf-8", "surrogateescape")
    found = yield from or_default(ask(FindChildren(token, most=0)), ChildrenFound(""))
    return replace(job, child_of=replace(job.child_of, step=found.key))


def with_left(job: JobInfo, total: int, left: int) -> JobInfo:
    """Return a job with how many children it waits for, and how many of them have not ended."""
    return replace(job, waits_for=job.waits_for and replace(job.waits_for, total=total, left=left))


def _awaited_group(row: Row) -> Operation[ChildrenFound | None]:
    token = yield from awaited(row)
    found = ChildrenFound("") if token is None else (yield from ask(FindChildren(token, most=0)))
    return found if found.parent else None


def awaited(row: Row) -> Operation[str | None]:
    """Return the token of the children that a job waits for; None if it waits for none."""
    wait = read_wait(row.fields.get(b"waits", b"")) if row.state is State.SUSPENDED else None
    if wait is None or wait.what is not WaitsFor.CHILDREN:
        return None
    (found,) = yield from ask(GetSteps([row.job_id]))
    return None if found is None else found.groups.get(wait.key)
