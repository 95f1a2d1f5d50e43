"""The children that a handler runs: makes them of prepared jobs, and adds them in bounded calls."""

import os
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextvars import Context, copy_context
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from redisjobs.base.eventloop import gates
from redisjobs.base.visible import visible
from redisjobs.client.backoff import retrying
from redisjobs.client.checks import prepared_by
from redisjobs.client.push import name_in
from redisjobs.client.registry import Registry
from redisjobs.errors import (
    JobCancelled,
    JobFailed,
    NoResult,
    NotAdded,
    RedisJobsError,
    ResultRefused,
    Unavailable,
)
from redisjobs.model import payload
from redisjobs.model.children import (
    MOST_CHILDREN,
    MOST_DEPTH,
    ChildOutcome,
    ChildrenFound,
    ChildState,
    FindChildren,
)
from redisjobs.model.job import OnConflict
from redisjobs.model.requests import RunChildren
from redisjobs.model.transitions import (
    MOST_BYTES,
    MOST_JOBS,
    AddChildren,
    Group,
    Lease,
    NewJob,
    Reply,
    SaveStep,
    weight_of,
)
from redisjobs.worker.running.pushes import HandlerPushes, raw

_OTHERS = (
    "this step has run {} children, and is given {} now: give the same ones in each run, or save what they are "
    "made of in a step before"
)

Write = Callable[[AddChildren, HandlerPushes], Awaitable[object]]
"""Adds children, and waits until they are there."""

Added = Callable[[HandlerPushes | Exception], bool]
"""Called with the last children of a step, or with the error; returns whether the run still waits for that."""


def new_group(key: str, jobs: Sequence[NewJob]) -> Group:
    """Return a group with a token of its own, for the children of a step."""
    return Group(os.urandom(12).hex(), key, len(jobs))


def check_children(queue: Registry, jobs: Sequence[NewJob], lease: Lease) -> None:
    """Raise an error unless these jobs may be children of this one.

    Raises:
        TypeError: One of them was not prepared.
        ValueError: There are too many, another queue prepared one, it has an option that children can't have, or
            the parent is a child of a child, too many times.
    """
    if len(jobs) > MOST_CHILDREN:
        raise ValueError(
            f"{len(jobs):,} children: a step runs {MOST_CHILDREN:,} at most; run jobs that run the rest"
        )
    if depth_of(lease) >= MOST_DEPTH:
        raise ValueError(
            f"job {visible(lease.job_id)} is a child in the {MOST_DEPTH}th generation, and can't have children: "
            "push follow-ups instead"
        )
    for job in jobs:
        _check(queue, job, lease)


def depth_of(lease: Lease) -> int:
    """Return how many generations a job is below one that is no child."""
    text = lease.fields.get(b"depth", b"")
    return int(text) if text.isdigit() and len(text) < 6 else 0


def _check(queue: Registry, job: NewJob, lease: Lease) -> None:
    if not isinstance(job, NewJob):
        raise TypeError(f"{job!r:.100} can't be a child: give what prepare returns, as render.prepare(7)")
    prepared_by(queue.name, job)
    if job.job_id == lease.job_id:
        raise ValueError(f"job_id='{visible(job.job_id)}' is the id of the parent: give the child another one")
    if job.on_conflict is not OnConflict.SKIP:
        raise ValueError(f'on_conflict="{job.on_conflict}" is not for children: leave it out')
    if job.replicas:
        raise ValueError("replicas= can't wait here: the step that suspends the parent pushes; leave it out")


class Children:
    """The children of one step, until all are added.

    Args:
        queue: The queue of parent and children.
        lease: Of the parent.
        group: Their group.
        jobs: The children, as they were prepared.
        context: The context of the call.
    """

    def __init__(
        self, queue: Registry, lease: Lease, group: Group, jobs: Sequence[NewJob], context: Context | None
    ) -> None:
        check_children(queue, jobs, lease)
        self._queue = queue
        self._lease = lease
        self._group = group
        self._jobs = [self._child(index, job) for index, job in enumerate(jobs)]
        self._context = context or copy_context()

    def _child(self, index: int, job: NewJob) -> NewJob:
        parent: list[str | bytes] = ["parent", raw(self._lease.job_id), "depth", str(depth_of(self._lease) + 1)]
        child_of = ["child_of", f"{self._group.token} {index}"]  # last: the store looks for it there
        job_id = job.job_id if job.nonce else self._group.child_id(index)
        return replace(job, job_id=job_id, fields=[*job.fields, *parent, *child_of], nonce="", tries=None)

    async def add(self, version: int, write: Write) -> HandlerPushes:
        """Add all children but the last ones, and return those: the step that suspends the parent adds them."""
        *before, last = _chunks(self._jobs)
        for chunk in before:
            await write(AddChildren(self._group, chunk, version), await self._shown(chunk))
        return await self._shown(last)

    async def _shown(self, chunk: Sequence[NewJob]) -> HandlerPushes:
        pushes = HandlerPushes(self._queue, self._lease)
        pushes.take(chunk, self._context)
        await pushes.close()
        return pushes


OnReply = Callable[[Reply, Sequence[bool]], object]
"""Called with the reply to what was written; and for children, which were added."""


class Writer(Protocol):
    """What a run uses to write while it runs; see `Messages`."""

    @property
    def lease(self) -> Lease:
        """The lease of the run's job."""

    def write(self, settlement: SaveStep | AddChildren, answered: OnReply) -> None:
        """Write a change that the job goes on after. If the lease is lost, end the run."""

    def start(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a call in a task of the worker."""


class ChildCalls:
    """Adds the children of a run, and reads their results."""

    def __init__(self, queue: Registry, run: Writer) -> None:
        self._queue = queue
        self._run = run

    def find(self, token: str, jobs: Sequence[NewJob], found: Callable[[Any], object]) -> None:
        """Read the results of all children of a group, and call `found` with them, or with the error."""
        self._run.start(partial(self._find, token, jobs, found))

    async def _find(self, token: str, jobs: Sequence[NewJob], found: Callable[[Any], object]) -> None:
        try:
            results: Any = _results_of(self._queue, token, jobs, await self._outcomes(token, len(jobs)))
        except (RedisJobsError, ValueError) as error:
            results = error
        found(results)

    async def _outcomes(self, token: str, many: int) -> Sequence[ChildOutcome]:
        outcomes = list[ChildOutcome]()
        while len(outcomes) < many:
            page = await self._read(FindChildren(token, len(outcomes)), many)
            if not page.outcomes:
                raise RedisJobsError(f"the record of the children {token} is gone: requeue the job from before")
            outcomes += page.outcomes
        return outcomes

    async def _read(self, asked: FindChildren, many: int) -> ChildrenFound:
        """Read some outcomes; raise a ValueError if the group has another number of children."""
        found = await retrying(partial(self._queue.driver.read, asked), on=(Unavailable,))
        if found.parent and found.total != many:
            raise ValueError(_OTHERS.format(found.total, many))
        return found

    def add(self, group: Group, request: RunChildren, version: int, added: Added, *, is_new: bool) -> None:
        """Add the children of a step; if the group is not new, an earlier run may have added some.

        Call `added` with the last ones, which the suspension adds, or with the error.
        """
        self._run.start(partial(self._add, group, request, version, added, is_new=is_new))

    async def _add(self, group: Group, request: RunChildren, version: int, added: Added, *, is_new: bool) -> None:
        last: HandlerPushes | Exception
        try:
            children = Children(self._queue, self._run.lease, group, request.jobs, request.context)
            if not is_new:
                await self._read(FindChildren(group.token, most=1), group.total)
            last = await children.add(version, self._write)
        except Exception as error:  # a hook may raise anything
            last = error
        if not added(last) and isinstance(last, HandlerPushes):
            last.lost()

    async def _write(self, settlement: AddChildren, pushes: HandlerPushes) -> None:
        """Add some children, and wait until they are there."""
        gate, replies = gates()(), list[Reply]()

        def answered(reply: Reply, added: Sequence[bool]) -> None:
            if reply is Reply.OK:
                pushes.confirm(added)
            else:
                pushes.lost()
            replies.append(reply)
            gate.open()

        self._run.write(settlement, answered)
        await gate.wait()
        if replies != [Reply.OK]:
            raise RedisJobsError(
                f"children of step '{visible(settlement.group.key)}' were not added: {replies[0]}"
            )


def _results_of(
    queue: Registry, token: str, jobs: Sequence[NewJob], outcomes: Sequence[ChildOutcome]
) -> list[Any]:
    """Return the result of each child, or the error that says why it has none."""
    group, results = Group(token, "", len(jobs)), list[Any]()
    for index, (job, outcome) in enumerate(zip(jobs, outcomes, strict=True)):
        result = _result(queue, job.job_id if job.nonce else group.child_id(index), job, outcome)
        if isinstance(result, NoResult):
            result.of_child = True
        results.append(result)
    return results


def _result(queue: Registry, job_id: str, job: NewJob, outcome: ChildOutcome) -> Any:
    child = f"child {visible(job_id)} ({visible(name_in(job))})"
    match outcome.state:
        case ChildState.COMPLETED:
            return _decoded(queue, child, job, outcome.value)
        case ChildState.DEAD:
            return JobFailed(job_id, outcome.error_type, outcome.error, reason=outcome.reason)
        case ChildState.CANCELLED:
            return JobCancelled(job_id, f"{child} was cancelled")
        case ChildState.REFUSED:
            return ResultRefused(job_id, f"{child} is done, but its result could not be kept: {outcome.error}")
        case ChildState.EXISTS:
            return NotAdded(job_id, f"{child} was not added: another job has its id")
        case ChildState.DUPLICATE:
            holder = visible(outcome.error)
            return NotAdded(job_id, f"{child} was not added: job {holder} holds its unique key")
        case ChildState.PENDING:
            return RedisJobsError(f"{child} has not ended, although its parent was woken")


def _decoded(queue: Registry, child: str, job: NewJob, value: bytes) -> Any:
    known = queue.definitions.get(name_in(job))
    try:
        if known is not None:
            return payload.decode_parameters(known.returns, value)
        return payload.decode_untyped(f"the result of {child}", value)
    except BaseException as error:  # code of the result's type
        return error


def _chunks(jobs: Sequence[NewJob]) -> Iterator[Sequence[NewJob]]:
    """Split children into parts that one call adds."""
    begin = size = 0
    for at, job in enumerate(jobs):
        weight = weight_of(job)
        if at > begin and (at - begin == MOST_JOBS or size + weight > MOST_BYTES):
            yield jobs[begin:at]
            begin, size = at, 0
        size += weight
    yield jobs[begin:]
