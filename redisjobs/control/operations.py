"""The operator's calls on a queue, each written once for both controls; see `client/operation.py`."""

import time
from collections.abc import Callable
from typing import Any

from redisjobs.base.arguments import one_of, pause_of, whole
from redisjobs.base.logger import Log
from redisjobs.base.visible import number_of
from redisjobs.client.jobs import cancel_children
from redisjobs.client.operation import Operation, ask, pages_of
from redisjobs.control.filters import FilterOptions, filter_of
from redisjobs.model.changes import (
    CHANGED,
    AskWorker,
    BulkResult,
    Cancel,
    Change,
    ChangeMany,
    DeleteAll,
    Hold,
    JobChange,
    Pause,
    RequeueAll,
    Resume,
    SetLimit,
    Unhold,
    Unpark,
    Wish,
)
from redisjobs.model.info import (
    DeadGroup,
    JobInfo,
    LimitInfo,
    WorkerInfo,
    group_infos,
    job_info,
    limit_infos,
    pause_info,
    worker_infos,
)
from redisjobs.model.job import CANCELLABLE, WAITING, JobName, State, checked_name
from redisjobs.model.limits import Limit
from redisjobs.model.queries import FindLimits, FindPauses, FindWorkers, GroupDead, Row, Scan
from redisjobs.model.transitions import MOST_JOBS, Reply

logger = Log("redisjobs")

_AT_ONCE = 100  # changes in one round trip; a server needs a few ms for them


# Find jobs


def jobs(state: State | str | None, limit: int, options: FilterOptions) -> Operation[list[JobInfo]]:
    """List jobs of one state, or of all states."""
    states = [*State] if state is None else [one_of(State, state, "state")]
    wanted, most, found = filter_of(options), min(whole(limit, "limit"), MOST_JOBS), list[JobInfo]()
    for each in states:
        page: Scan | None = Scan(each, wanted, "", most)
        last = len(found) + most
        while page is not None:
            step = yield from ask(page)
            found += map(job_info, step.rows)
            page = Scan(each, wanted, step.after, last - len(found)) if step.after and len(found) < last else None
    return found


def first_page(state: State | str, options: FilterOptions) -> Scan:
    """Return the query that begins a scan of one state."""
    return Scan(one_of(State, state, "state"), filter_of(options))


# Read the queue


def dead_groups() -> Operation[list[DeadGroup]]:
    """List the groups of dead letters."""
    return group_infos((yield from pages_of(GroupDead)))


def workers() -> Operation[list[WorkerInfo]]:
    """List the workers."""
    return worker_infos((yield from pages_of(FindWorkers)))


def limits() -> Operation[list[LimitInfo]]:
    """List the limits."""
    return limit_infos((yield from pages_of(FindLimits)))


# Change the queue


def name_or_all(name: str | JobName[Any] | None) -> str:
    """Return a job name as text; '' for None, which means all."""
    return "" if name is None else checked_name(name)


def is_paused(name: str | JobName[Any] | None) -> Operation[bool]:
    """Return whether the queue, or a job name, is paused."""
    found = pause_info((yield from ask(FindPauses())))
    return found.is_paused(name_or_all(name))


def pause(name: str | JobName[Any] | None) -> Operation[None]:
    """Stop the jobs of the queue, or of one name, from starting."""
    yield from ask(Pause(name_or_all(name)))


def resume(name: str | JobName[Any] | None) -> Operation[None]:
    """Let the jobs of the queue, or of one name, start again."""
    yield from ask(Resume(name_or_all(name)))
    after = None if name is not None else ""
    while after != "":
        after = yield from ask(Unpark(after or ""))


def ask_worker(worker: str | WorkerInfo, wish: Wish) -> Operation[Reply]:
    """Ask a worker for something."""
    worker_id = worker.worker_id if isinstance(worker, WorkerInfo) else worker
    if not isinstance(worker_id, str):
        raise TypeError(f"worker={worker!r:.60}: give the id of a worker, or one of `control.workers()`")
    return (yield from ask(AskWorker(worker_id, wish)))


def set_limit(
    name: str | JobName[Any], max_concurrency: int | None, rate: str | None, burst: int | None
) -> Operation[None]:
    """Set the limit of a name, or remove it."""
    limit, after = Limit(max_concurrency, rate, burst).text, None
    while after != "":
        after = yield from ask(SetLimit(checked_name(name), limit, after or ""))


# Change jobs


def requeue_all(options: FilterOptions, rate: str | None) -> Operation[int]:
    """Make all matching dead letters ready again, at once or at a rate."""
    wanted, pause_ms, began = filter_of(options), 0.0 if rate is None else pause_of(rate), time.monotonic()

    def step(after: str, total: int) -> RequeueAll:
        passed_ms = (time.monotonic() - began) * 1000
        return RequeueAll(wanted, after, total * pause_ms - passed_ms if pause_ms else 0.0, pause_ms)

    return (yield from _take_all(step))


def delete_all(options: FilterOptions) -> Operation[int]:
    """Delete all matching dead letters."""
    wanted = filter_of(options)
    return (yield from _take_all(lambda after, _: DeleteAll(wanted, after)))


def _take_all(step: Callable[[str, int], Change[BulkResult]]) -> Operation[int]:
    after, total, duplicates = "", 0, 0
    while True:
        taken = yield from ask(step(after, total))
        after, total, duplicates = taken.after, total + len(taken.job_ids), duplicates + taken.duplicates
        if not after:
            break
    if duplicates:
        logger.warning("%s not requeued: other jobs hold the unique keys", number_of(duplicates, "dead letter"))
    return total


def cancel_all(state: State | str, options: FilterOptions) -> Operation[int]:
    """Cancel all matching jobs, even if they run by now."""
    wanted = one_of(State, state, "state")
    if wanted not in CANCELLABLE:
        raise ValueError(
            f"state={state!r}: give ready, delayed, suspended or running; `delete_all` deletes dead letters"
        )
    total = yield from _change_all(wanted, options, lambda row: Cancel(row.job_id))
    yield from cancel_children()
    return total


def hold_all(state: State | str, options: FilterOptions) -> Operation[int]:
    """Hold all matching jobs, except those that run by now."""
    return (yield from _change_all(_waiting(state), options, lambda row: Hold(row.job_id)))


def unhold_all(state: State | str, options: FilterOptions) -> Operation[int]:
    """Let all matching held jobs start again."""
    change: Callable[[Row], JobChange | None] = lambda row: Unhold(row.job_id) if row.held else None  # noqa: E731
    return (yield from _change_all(_waiting(state), options, change))


def _waiting(state: State | str) -> State:
    wanted = one_of(State, state, "state")
    if wanted not in WAITING:
        raise ValueError(f"state={state!r}: give ready, delayed or suspended; only jobs that wait can be held")
    return wanted


def _change_all(state: State, options: FilterOptions, change: Callable[[Row], JobChange | None]) -> Operation[int]:
    wanted, after, total = filter_of(options), None, 0
    while after != "":
        step = yield from ask(Scan(state, wanted, after or "", _AT_ONCE))
        changes = [each for each in map(change, step.rows) if each is not None]
        if changes:
            replies = yield from ask(ChangeMany(changes))
            total += sum(reply in CHANGED for reply in replies)
        after = step.after
    return total
