"""The operator's calls on a queue, each written once for the async and the sync queue.

An operation is a generator. It yields queries and changes, gets their answers, and returns the call's result.
`Calls._do` and `SyncCalls._do` carry it out.
"""

import time
from collections.abc import Callable, Generator
from datetime import timedelta
from typing import Any, Protocol, TypedDict, TypeVar

from redisjobs.base.arguments import is_text, milliseconds, one_of, pause_of, seconds, whole
from redisjobs.base.logger import Log
from redisjobs.base.visible import number_of, visible
from redisjobs.client.checks import id_of
from redisjobs.errors import DriverError, StepsFull, Unavailable
from redisjobs.model.changes import (
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
from redisjobs.model.children import CancelChildren
from redisjobs.model.codec import new_nonce, when
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
from redisjobs.model.job import WAITING, JobName, PushedJob, State, checked_name
from redisjobs.model.limits import Limit
from redisjobs.model.payload import encode_plain
from redisjobs.model.queries import Filter, FindLimits, FindPauses, FindWorkers, GroupDead, Query, Row, Scan
from redisjobs.model.steps import (
    MOST_SIGNALS,
    MOST_STEP_BYTES,
    GetSteps,
    How,
    Saved,
    Signal,
    StepInfo,
    checked_step,
)
from redisjobs.model.steps import Steps as Saves
from redisjobs.model.transitions import MOST_JOBS, Reply

T = TypeVar("T")
D = TypeVar("D")

logger = Log("redisjobs")

Steps = Generator[Query[Any] | Change[Any], Any, T]
"""An operation that returns a T."""

DONE = (Reply.OK, Reply.INDEPENDENT, Reply.CANCELLED, Reply.CANCELLING, Reply.HELD)
"""The replies that mean that the job was changed."""

_AT_ONCE = 100  # changes in one round trip; a server needs a few ms for them
_ALL = (State.RUNNING, State.READY, State.DELAYED, State.SUSPENDED, State.DEAD, State.COMPLETED, State.CANCELLED)


class FilterOptions(TypedDict, total=False):
    """Filters for jobs. A job must match all options that are given.

    A wrong value or state is a `ValueError`. An option that does not exist is a `TypeError`.

    Attributes:
        name: The job's name.
        text: A text in its stored parameters or its last error; not a pattern.
        fingerprint: The kind of a dead letter's failure; see `JobInfo.fingerprint`.
        reason: The reason of a dead letter; see `JobInfo.reason`.
        worker: The worker that runs it; for a dead letter or a kept job, the one that settled it.
        older_than: The least age, in seconds or as a timedelta. It counts from when a job came to the queue, from
            when a dead letter died, and from when a kept job ended.
    """

    name: str | None
    text: str | None
    fingerprint: str | None
    reason: str | None
    worker: str | None
    older_than: float | timedelta | None


def filter_of(options: FilterOptions) -> Filter:
    """Return the filter that is sent to the store.

    Raises:
        ValueError: The value of an option is wrong.
        TypeError: An option does not exist.
    """
    unknown = options.keys() - FilterOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(FilterOptions.__annotations__)
        raise TypeError(f"jobs are not chosen by {', '.join(sorted(unknown))}=; give one of {known}")
    older_than = options.get("older_than")
    return Filter(
        _text(options.get("name"), "name"),
        _text(options.get("text"), "text"),
        _text(options.get("fingerprint"), "fingerprint"),
        _text(options.get("reason"), "reason"),
        _text(options.get("worker"), "worker"),
        None if older_than is None else milliseconds(seconds(older_than, "older_than")),
    )


def _text(text: str | None, what: str) -> str:
    if text is None or is_text(text, r"(?s:.{1,1000})"):
        return text or ""
    raise ValueError(f"{what}={text!r:.60}: give 1 to 1,000 characters that UTF-8 can carry")


def ask(request: Query[T] | Change[T]) -> Steps[T]:
    """Yield one query or change, and return its answer."""
    answer: T = yield request
    return answer


def or_default(steps: Steps[T], default: D) -> Steps[T | D]:
    """Return an operation's result, or a default if the server or the driver refuses to answer."""
    try:
        return (yield from steps)
    except Unavailable:
        raise
    except DriverError:
        return default


# Find jobs


def jobs(state: State | str | None, limit: int, options: FilterOptions) -> Steps[list[JobInfo]]:
    """List jobs of one state, or of all states."""
    states = _ALL if state is None else [one_of(State, state, "state")]
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


class _Page(Protocol):
    @property
    def after(self) -> str: ...


Page = TypeVar("Page", bound=_Page)


def pages_of(query: Callable[[str], Query[Page]]) -> Steps[list[Page]]:
    """Read all pages of a query, which is given where the last page ended."""
    pages = [(yield from ask(query("")))]
    while pages[-1].after:
        pages.append((yield from ask(query(pages[-1].after))))
    return pages


def dead_groups() -> Steps[list[DeadGroup]]:
    """List the groups of dead letters."""
    return group_infos((yield from pages_of(GroupDead)))


def workers() -> Steps[list[WorkerInfo]]:
    """List the workers."""
    return worker_infos((yield from pages_of(FindWorkers)))


def limits() -> Steps[list[LimitInfo]]:
    """List the limits."""
    return limit_infos((yield from pages_of(FindLimits)))


# Change the queue


def name_or_all(name: str | JobName[Any] | None) -> str:
    """Return a job name as text; '' for None, which means all."""
    return "" if name is None else checked_name(name)


def is_paused(name: str | JobName[Any] | None) -> Steps[bool]:
    """Return whether the queue, or a job name, is paused."""
    found = pause_info((yield from ask(FindPauses())))
    return found.is_paused(name_or_all(name))


def pause(name: str | JobName[Any] | None) -> Steps[None]:
    """Stop the jobs of the queue, or of one name, from starting."""
    yield from ask(Pause(name_or_all(name)))


def resume(name: str | JobName[Any] | None) -> Steps[None]:
    """Let the jobs of the queue, or of one name, start again."""
    yield from ask(Resume(name_or_all(name)))
    after = None if name is not None else ""
    while after != "":
        after = yield from ask(Unpark(after or ""))


def ask_worker(worker: str | WorkerInfo, wish: Wish) -> Steps[Reply]:
    """Ask a worker for something."""
    worker_id = worker.worker_id if isinstance(worker, WorkerInfo) else worker
    if not isinstance(worker_id, str):
        raise TypeError(f"worker={worker!r:.60}: give the id of a worker, or one of `queue.workers()`")
    return (yield from ask(AskWorker(worker_id, wish)))


def set_limit(
    name: str | JobName[Any], max_concurrency: int | None, rate: str | None, burst: int | None
) -> Steps[None]:
    """Set the limit of a name, or remove it."""
    limit, after = Limit(max_concurrency, rate, burst).text, None
    while after != "":
        after = yield from ask(SetLimit(checked_name(name), limit, after or ""))


# Change jobs


def steps(job: str | PushedJob) -> Steps[list[StepInfo]]:
    """List the steps that a job has saved."""
    (found,) = yield from ask(GetSteps([id_of(job)]))
    return step_infos(found)


def step_infos(found: Saves | None) -> list[StepInfo]:
    """Return the steps that a job has saved, in order."""
    saved = {} if found is None else found.saved
    infos = [
        StepInfo(key, each.number, each.how, _value_of(each), when(each.at_ms)) for key, each in saved.items()
    ]
    return sorted(infos, key=lambda step: step.number)


def _value_of(step: Saved) -> str:
    return "" if step.how is How.CHILDREN else step.value.decode("utf-8", "replace")


def signal(job: str | PushedJob, name: str, value: Any, longest: int) -> Steps[Reply]:
    """Send a signal to a job."""
    job_id, called = id_of(job), checked_step(name, "signal")
    change = Signal(job_id, called, encode_plain(f"signal '{called}'", value, longest), new_nonce())
    reply = yield from ask(change)
    if reply is Reply.OVERSIZED:
        raise StepsFull(
            f"job {visible(change.job_id)} keeps {MOST_SIGNALS} signals, or {MOST_STEP_BYTES:,} bytes of them, "
            "that it has not waited for yet: signal it again later; this signal was not kept"
        )
    return reply


def requeue_all(options: FilterOptions, rate: str | None) -> Steps[int]:
    """Make all matching dead letters ready again, at once or at a rate."""
    wanted, pause_ms, began = filter_of(options), 0.0 if rate is None else pause_of(rate), time.monotonic()

    def step(after: str, total: int) -> RequeueAll:
        passed_ms = (time.monotonic() - began) * 1000
        return RequeueAll(wanted, after, total * pause_ms - passed_ms if pause_ms else 0.0, pause_ms)

    return (yield from _take_all(step))


def delete_all(options: FilterOptions) -> Steps[int]:
    """Delete all matching dead letters."""
    wanted = filter_of(options)
    return (yield from _take_all(lambda after, _: DeleteAll(wanted, after)))


def _take_all(step: Callable[[str, int], Change[BulkResult]]) -> Steps[int]:
    after, total, duplicates = "", 0, 0
    while True:
        taken = yield from ask(step(after, total))
        after, total, duplicates = taken.after, total + len(taken.job_ids), duplicates + taken.duplicates
        if not after:
            break
    if duplicates:
        logger.warning("%s not requeued: other jobs hold the unique keys", number_of(duplicates, "dead letter"))
    return total


def cancel(job: str | PushedJob) -> Steps[Reply]:
    """Cancel a job, and its children that have not ended."""
    reply = yield from ask(Cancel(id_of(job)))
    if reply is Reply.CANCELLED:
        yield from _cancel_children()
    return reply


def _cancel_children() -> Steps[None]:
    """Cancel the children of all jobs that were cancelled; if this fails, a worker does it within two minutes."""
    more = True
    while more:
        more = yield from ask(CancelChildren())


def cancel_all(state: State | str, options: FilterOptions) -> Steps[int]:
    """Cancel all matching jobs, even if they run by now."""
    wanted = one_of(State, state, "state")
    if wanted not in (*WAITING, State.RUNNING):
        raise ValueError(
            f"state={state!r}: give ready, delayed, suspended or running; `delete_all` deletes dead letters"
        )
    total = yield from _change_all(wanted, options, lambda row: Cancel(row.job_id))
    yield from _cancel_children()
    return total


def hold_all(state: State | str, options: FilterOptions) -> Steps[int]:
    """Hold all matching jobs, except those that run by now."""
    return (yield from _change_all(_waiting(state), options, lambda row: Hold(row.job_id)))


def unhold_all(state: State | str, options: FilterOptions) -> Steps[int]:
    """Let all matching held jobs start again."""
    change: Callable[[Row], JobChange | None] = lambda row: Unhold(row.job_id) if row.held else None  # noqa: E731
    return (yield from _change_all(_waiting(state), options, change))


def _waiting(state: State | str) -> State:
    wanted = one_of(State, state, "state")
    if wanted not in WAITING:
        raise ValueError(f"state={state!r}: give ready, delayed or suspended; only jobs that wait can be held")
    return wanted


def _change_all(state: State, options: FilterOptions, change: Callable[[Row], JobChange | None]) -> Steps[int]:
    wanted, after, total = filter_of(options), None, 0
    while after != "":
        step = yield from ask(Scan(state, wanted, after or "", _AT_ONCE))
        changes = [each for each in map(change, step.rows) if each is not None]
        if changes:
            replies = yield from ask(ChangeMany(changes))
            total += sum(reply in DONE for reply in replies)
        after = step.after
    return total
