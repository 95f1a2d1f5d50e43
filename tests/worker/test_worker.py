"""A worker in this process: on memory under asyncio and trio, and on a real server."""

import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import pytest
from at_work import running
from each_setting import store as store
from results import drain
from store import Heart, RedisStore, Store, eventually, inherit
from tenacity import stop_after_attempt, stop_after_delay, wait_fixed, wait_none

from redisjobs import (
    Fail,
    JobContext,
    JobName,
    JobQueue,
    Priority,
    Reply,
    Retry,
    RetryPolicy,
    Snooze,
    State,
    Worker,
    no_retry,
)
from redisjobs.events import JobsClaimed, WorkerStarted
from redisjobs.model.outcome import CancelAsked
from redisjobs.model.queries import Find
from redisjobs.model.retention import Keep, Retention
from redisjobs.model.transitions import Lease, Release
from redisjobs.worker.running import handler_run
from redisjobs.worker.source import dispatcher, reclaimer
from redisjobs.worker.source.policy import Prefetch
from redisjobs.worker.source.settler import Settler
from redisjobs.worker.source.timer import Promoter
from redisjobs_proof.contract.acts import rows_of

pytestmark = pytest.mark.anyio

AT_ONCE = RetryPolicy(wait=wait_none(), stop=stop_after_attempt(3))
SOON = 3.0  # seconds: less than a blocking read lasts, so what happens within it was not polled for


@dataclass
class Work:
    job_name: ClassVar[str] = "Work"
    number: int = 0


working = partial(running, stop=Worker.stop_now, within=20)
"""The workers at work; at the end they stop at once, and must end soon."""


async def until(queue: JobQueue, state: State, number: int) -> None:
    """Wait until this many jobs are in a state."""
    with anyio.fail_after(SOON):
        while len(await queue.control.jobs(state)) != number:
            await anyio.lowlevel.checkpoint()


async def until_it_waits(worker: Worker) -> None:
    """Wait until a worker has found nothing to do, and waits in a blocking read."""
    await eventually(lambda: worker._current and worker._current.sources[0].fetcher.waiting)


# Running


async def test_a_drain_runs_every_ready_job_once_and_leaves_those_not_due(queue: JobQueue) -> None:
    ran: list[int] = []
    queue.register(Work)(lambda work: ran.append(work.number))
    await queue.push_many([Work(n) for n in range(30)])
    await queue.push(Work(99), delay=3600)

    await drain(queue)

    counts = await queue.control.counts()
    assert sorted(ran) == list(range(30))
    assert (sum(counts.ready.values()), counts.running, counts.delayed, counts.dead) == (0, 0, 1, 0)
    assert counts.totals["completed"] == 30


async def test_one_slot_runs_strictly_by_priority_and_in_order(queue: JobQueue) -> None:
    ran: list[int] = []
    queue.register(Work)(lambda work: ran.append(work.number))
    for number, priority in enumerate([Priority.LOW, Priority.NORMAL, Priority.HIGH] * 2):
        await queue.push(Work(number), priority=priority)

    await drain(queue, concurrency=1)

    assert ran == [2, 5, 1, 4, 0, 3]


async def test_as_many_jobs_run_at_once_as_there_are_slots(queue: JobQueue) -> None:
    now, most = 0, 0

    @queue.register(Work)
    async def work(_: Work) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await anyio.sleep(0.01)
        now -= 1

    await queue.push_many([Work(n) for n in range(20)])

    await drain(queue, concurrency=4)

    assert most == 4


@pytest.mark.parametrize(("sync_handlers", "slots"), [(0, 100), (1, 10)])
async def test_where_no_one_says_how_many_a_hundred_async_handlers_run_at_once_or_ten_beside_sync_ones(
    queue: JobQueue, sync_handlers: int, slots: int
) -> None:
    worker, started = Worker(queue), list[WorkerStarted]()
    queue.events.subscribe(WorkerStarted, started.append)

    @queue.register(Work)  # after the worker was made: what counts is how it is as a run begins
    async def work(_: Work) -> None: ...

    for _ in range(sync_handlers):

        @queue.job
        def plain() -> None: ...

    await worker.run(until_idle=True)

    assert [event.slots for event in started] == [slots]
    assert (worker.settings.concurrency, worker.settings.abandoned) == (slots, slots)


async def test_a_worker_that_has_no_room_promotes_now_and_then_and_at_once_when_it_has(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redisjobs.worker.source.timer._BUSY", 0.3)
    ran, asked, may_end = list[int](), list[float](), anyio.Event()
    consumer = type(queue.driver.consumer("w", lease=15, max_deliveries=3))
    exchange = consumer.exchange

    async def noted(self: Any, settlements: Any, count: int | None, **options: Any) -> Any:
        if count == 0:
            asked.append(time.monotonic())
        return await exchange(self, settlements, count, **options)

    @queue.register(Work)
    async def work(job: Work) -> None:
        ran.append(job.number)
        if not job.number:
            await may_end.wait()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            worker = Worker(queue, concurrency=1)
            tasks.start_soon(worker.run)
            await queue.push(Work(0))
            await eventually(lambda: bool(ran))
            monkeypatch.setattr(consumer, "exchange", noted)
            for number in range(1, 31):
                await queue.push(Work(number), delay=0.01 * number)
            while sum((await queue.control.counts()).ready.values()) < 30:  # noqa: ASYNC110  (no event tells of it)
                await anyio.sleep(0.01)  # by the worker that is busy
            since_last = [later - sooner for sooner, later in pairwise(asked)]
            may_end.set()
            await eventually(lambda: len(ran) == 31)
            worker.stop()

    assert asked
    assert all(pause > 0.25 for pause in since_last)


@pytest.mark.slow
async def test_a_delayed_job_runs_soon_though_the_worker_that_was_to_look_for_it_is_gone(
    store: Store, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = store.consumer("gone")
    assert (await gone.reclaim()).promotes
    await gone.aclose()
    ran, told, hear = anyio.Event(), anyio.Event(), Promoter.note_others

    def heard(self: Promoter, workers: int, *, promotes: bool, late: bool) -> None:
        hear(self, workers, promotes=promotes, late=late)
        assert not promotes
        told.set()

    monkeypatch.setattr(Promoter, "note_others", heard)

    @queue.register(Work)
    async def work(_: Work) -> None:
        ran.set()

    async with anyio.create_task_group() as tasks:
        worker = Worker(queue)
        tasks.start_soon(worker.run)
        await told.wait()  # that another does it; it asks again every 2 s
        await queue.push(Work(), delay=0.2)
        with anyio.fail_after(5):
            await ran.wait()
        worker.stop()


@dataclass
class Text:
    job_name: ClassVar[str] = "Text"
    text: str


@pytest.mark.parametrize("how", ["fail", "are done and kept"])
async def test_large_jobs_that_the_store_has_to_read_are_settled_by_some_megabytes_at_a_time(
    store: Store, queue: JobQueue, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    started, all_started, sizes = 0, anyio.Event(), list[int]()
    if how == "are done and kept":
        queue = JobQueue(store.driver, store.queue_name, retention=Retention(completed=Keep()))

    @queue.register(Text, retry=no_retry())
    async def work(_: Text) -> None:
        nonlocal started
        started += 1
        if started == 40:
            all_started.set()
        await all_started.wait()
        if how == "fail":
            raise ValueError("no")

    consumer = type(queue.driver.consumer("w", lease=15, max_deliveries=3))
    exchange = consumer.exchange

    async def noted(self: Any, settlements: Any, *args: Any, **options: Any) -> Any:
        sizes.append(sum(len(lease.fields[b"parameters"]) for lease, _ in settlements))
        return await exchange(self, settlements, *args, **options)

    monkeypatch.setattr(consumer, "exchange", noted)
    await queue.push_many([Text("x" * 200_000) for _ in range(40)])
    await drain(queue, concurrency=40)

    assert (await queue.control.counts()).totals["dead" if how == "fail" else "completed"] == 40
    assert 1_000_000 < max(sizes) < 2_400_000


async def test_sync_handlers_run_in_threads_beside_each_other(queue: JobQueue) -> None:
    together = threading.Barrier(3, timeout=5)
    threads = set()

    @queue.register(Work)
    def work(_: Work) -> None:
        threads.add(threading.get_ident())
        together.wait()

    await queue.push_many([Work(n) for n in range(3)])

    await drain(queue, concurrency=3)

    assert len(threads) == 3
    assert threading.get_ident() not in threads


async def test_a_plain_function_that_returns_a_coroutine_is_awaited(queue: JobQueue) -> None:
    ran: list[int] = []

    async def work(number: int) -> None:
        ran.append(number)

    queue.register(Work)(lambda parameters: work(parameters.number))
    await queue.push(Work(7))

    await drain(queue)

    assert ran == [7]


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("kept", [None, 60])
async def test_a_coroutine_that_an_async_handler_forgets_to_await_fails_the_job(
    queue: JobQueue, waits: bool, kept: int | None
) -> None:
    async def charge(number: int) -> None: ...
    async def numbers() -> AsyncIterator[int]:
        yield 1

    @queue.register(Work, retry=no_retry(), keep_result=kept)
    async def work(parameters: Work) -> Any:
        if waits:
            await anyio.lowlevel.checkpoint()
        return charge(parameters.number)

    @queue.job(retry=no_retry())
    async def lists() -> Any:
        return numbers()

    await queue.push(Work(7))
    await lists.push()
    await drain(queue)

    errors = {job.name: job.error async for job in queue.control.scan(State.DEAD)}
    assert errors == {
        "Work": "TypeError: the handler returned the coroutine of 'charge', and did not await it",
        "lists": "TypeError: the handler returned the async generator of 'numbers', and nothing iterates over it",
    }


async def test_a_handler_is_told_of_its_job(queue: JobQueue) -> None:
    seen: list[JobContext] = []

    @queue.register(Work)
    async def work(_: Work, context: JobContext) -> None:
        seen.append(context)
        context.logger.info("at work")

    await queue.push(Work(), job_id="the-id", headers={"traceparent": "00-ab"})

    await drain(queue, worker_id="host:1:me")

    (context,) = seen
    assert (context.job_id, context.job_name, context.queue_name) == ("the-id", "Work", queue.name)
    assert (context.attempt, context.deliveries, context.worker_id[:-9]) == (1, 1, "host:1:me")
    assert abs(context.queued_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert context.headers == {"traceparent": "00-ab"}
    assert context.next_scheduled_at is None


async def test_a_function_is_a_job_and_can_still_be_called(queue: JobQueue) -> None:
    ran: list[tuple[str, int, int]] = []

    @queue.job
    async def resize(path: str, context: JobContext, *, width: int = 640) -> None:
        ran.append((path, width, context.attempt))

    @queue.job(name="double-it")
    def double(number: int) -> int:
        return number * 2

    await resize.push("a.png", width=64)
    await resize.options(priority=Priority.HIGH).push("b.png")
    await double.push(4)
    await drain(queue, concurrency=1)

    assert ran == [("b.png", 640, 1), ("a.png", 64, 1)]
    assert double(21) == 42


# Failing


async def test_a_failed_job_runs_again_under_its_id_until_its_attempts_are_used_up(queue: JobQueue) -> None:
    attempts: list[tuple[str, int, int]] = []

    @queue.register(Work, retry=AT_ONCE)
    async def work(_: Work, context: JobContext) -> None:
        attempts.append((context.job_id, context.attempt, context.deliveries))
        raise ValueError(f"no luck in attempt {context.attempt}")

    job_id = (await queue.push(Work())).id
    await drain(queue)

    info = await queue.get(job_id)
    assert attempts == [(job_id, 1, 1), (job_id, 2, 1), (job_id, 3, 1)]
    assert info is not None
    assert (info.state, info.reason, info.attempt) == (State.DEAD, "failed", 3)
    assert info.error == "ValueError: no luck in attempt 3"
    assert "raise ValueError" in info.traceback


async def test_a_job_that_waits_for_its_retry_tells_of_its_last_error(queue: JobQueue) -> None:
    @queue.register(Work)
    async def work(_: Work) -> None:
        raise OSError("disk full")

    job_id = (await queue.push(Work())).id
    await drain(queue)

    info = await queue.get(job_id)
    assert info is not None
    assert (info.state, info.attempt, info.error) == (State.DELAYED, 2, "OSError: disk full")
    assert info.due_at is not None
    assert timedelta(seconds=0) < info.due_at - datetime.now(UTC) < timedelta(seconds=3.1)  # 2 s, jittered by half


async def test_a_handler_steers_by_raising(queue: JobQueue) -> None:
    raised: dict[int, BaseException] = {
        1: Retry(delay=50),
        2: Snooze(for_=timedelta(minutes=2)),
        3: Snooze(until=datetime.now(UTC) + timedelta(hours=1)),
        4: Fail("the card is stolen"),
    }

    @queue.register(Work)
    async def work(work: Work) -> None:
        raise raised[work.number]

    ids = [job.id for job in await queue.push_many([Work(n) for n in raised])]
    await drain(queue)

    retry, snooze, until, fail = [await queue.get(job_id) for job_id in ids]
    assert retry is not None
    assert snooze is not None
    assert until is not None
    assert fail is not None
    assert (retry.state, retry.attempt) == (State.DELAYED, 2)
    assert (snooze.state, snooze.attempt) == (State.DELAYED, 1)
    assert (until.state, until.attempt) == (State.DELAYED, 1)
    assert [info.due_at for info in (retry, snooze, until)] == sorted(
        info.due_at for info in (retry, snooze, until) if info.due_at
    )
    assert (fail.state, fail.reason, fail.error) == (State.DEAD, "failed", "the card is stolen")


async def test_a_retry_policy_that_raises_costs_neither_job_nor_worker(queue: JobQueue) -> None:
    def broken(_: object) -> float:
        raise ZeroDivisionError("in the policy")

    @queue.register(Work, retry=RetryPolicy(wait=broken))
    async def work(_: Work) -> None:
        raise ValueError("in the handler")

    job_id = (await queue.push(Work())).id
    await drain(queue)

    info = await queue.get(job_id)
    assert info is not None
    assert (info.state, info.attempt, info.error) == (State.DELAYED, 2, "ZeroDivisionError: in the policy")


async def test_a_job_over_its_timeout_is_cancelled_and_retried(queue: JobQueue) -> None:
    attempts = 0

    @queue.register(Work, timeout=0.05, retry=AT_ONCE)
    async def work(_: Work) -> None:
        nonlocal attempts
        attempts += 1
        await anyio.sleep_forever()

    await queue.push(Work())
    await drain(queue)

    (dead,) = await queue.control.jobs(State.DEAD)
    assert attempts == 3
    assert dead.error == "JobTimeout: the handler was still running after its timeout of 0.05 s"


async def test_a_sync_handler_over_its_timeout_is_told_and_its_outcome_ignored(queue: JobQueue) -> None:
    told = threading.Event()

    @queue.register(Work, timeout=0.5, retry=no_retry())  # time enough for its thread to begin on a busy machine
    def work(_: Work, context: JobContext) -> None:
        while not context.cancelled:
            time.sleep(0.005)
        told.set()

    await queue.push(Work())
    await drain(queue)

    (dead,) = await queue.control.jobs(State.DEAD)
    assert dead.error.startswith("JobTimeout")
    assert told.wait(5)


# Bad input


async def test_entries_that_are_no_jobs_become_dead_letters_and_the_others_run(
    queue: JobQueue, store: Store
) -> None:
    ran: list[int] = []
    queue.register(Work)(lambda work: ran.append(work.number))
    bad: list[dict[str, str | bytes]] = [
        {"name": "Work", "parameters": b"\xff\xfe not json"},
        {"name": "Work", "parameters": '{"number": "many"}'},
        {"parameters": "{}"},
        {"name": "Work"},
        {"name": "Work", "parameters": "{}", "attempt": "x"},
        {"name": "Work", "parameters": "{}", "attempt": "\u00b2"},  # a digit to `str`, but not to `int`
    ]
    entries = [store.put(fields) for fields in bad]
    await queue.push(Work(5))

    await drain(queue)

    dead = {info.job_id: info for info in await queue.control.jobs(State.DEAD)}
    assert ran == [5]
    assert sorted(dead) == sorted(entries)
    assert {info.reason for info in dead.values()} == {"undecodable"}
    assert "Work.number: should be a valid integer" in dead[entries[1]].error
    assert "no field 'name'" in dead[entries[2]].error
    row = await queue.driver.read(Find(entries[0]))
    assert row is not None
    assert row.fields[b"parameters"] == b"\xff\xfe not json"


async def test_a_job_whose_name_no_worker_knows_waits_longer_each_time(queue: JobQueue, store: Store) -> None:
    job_id = (await queue.push(Work(), JobName("NewName", Work))).id
    waits = []
    for _ in range(10):
        await drain(queue)
        info = await queue.get(job_id)
        assert info is not None
        assert info.due_at is not None
        assert (info.state, info.attempt) == (State.DELAYED, 1)
        waits.append(round(info.due_at.timestamp() - store.clock() / 1000))
        store.clock.set_to = int(info.due_at.timestamp() * 1000) + 1

    assert waits == [1, 1, 1, 1, 1, 1, 2, 2, 2, 3]


async def test_a_job_whose_name_no_worker_knows_runs_once_a_worker_does(queue: JobQueue, store: Store) -> None:
    ran: list[int] = []
    await queue.push(Work(3), JobName("NewName", Work))
    await drain(queue)

    queue.register(JobName("NewName", Work))(lambda work: ran.append(work.number))
    store.clock.advance(1.1)
    await drain(queue)

    assert ran == [3]


async def test_a_job_that_has_no_handler_is_warned_of_once_in_each_run_with_the_names_that_there_are(
    queue: JobQueue, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "redisjobs.worker")
    queue.register(Work)(lambda _: None)
    queue.register(JobName("Another", Work))(lambda _: None)
    for name in ("hello", "hello", "NewName"):
        await queue.push(Work(), JobName(name, Work))

    def said() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    await drain(queue)
    store.clock.advance(1.1)
    await drain(queue)

    there = "(this worker has: Another, Work); the job waits for a worker that has one"
    once = [f"no handler for job '{name}' {there}" for name in ("hello", "NewName")]
    assert said() == once * 2
    assert "runs again" not in caplog.text


async def test_a_worker_that_has_no_handlers_says_so_as_it_begins(
    queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    await queue.push(Work())

    await drain(queue)

    no_handlers, no_handler = caplog.messages
    assert no_handlers == (
        f"this worker has no handlers for queue '{queue.name}', so it can run no job: import the modules that "
        "register them before it starts, as `redisjobs worker --import MODULE` does"
    )
    assert no_handler.startswith("no handler for job 'Work' (this worker has none); the job waits")


async def test_a_job_whose_name_no_worker_knows_is_a_dead_letter_in_the_end(queue: JobQueue, store: Store) -> None:
    await queue.push(Work(), JobName("NewName", Work))
    await drain(queue)
    store.clock.advance(3601)

    await drain(queue)

    (dead,) = await queue.control.jobs(State.DEAD)
    assert (dead.reason, dead.attempt) == ("unknown name", 1)
    assert "NewName" in dead.error


async def test_a_job_not_started_in_time_is_a_dead_letter(queue: JobQueue, store: Store) -> None:
    ran: list[int] = []
    queue.register(Work)(lambda work: ran.append(work.number))
    await queue.push(Work(1), expires_in=10)
    await queue.push(Work(2), expires_in=1000)
    store.clock.advance(30)

    await drain(queue)

    (dead,) = await queue.control.jobs(State.DEAD)
    assert ran == [2]
    assert dead.reason == "expired"


@pytest.mark.parametrize("outcome", [ValueError("not yet"), Retry(delay=60), Snooze(for_=60)])
async def test_a_job_that_was_started_in_time_is_tried_again_however_late(
    queue: JobQueue, store: Store, outcome: Exception
) -> None:
    ran: list[int] = []

    @queue.register(Work, retry=RetryPolicy(wait=wait_fixed(60)))
    def work(_: Work) -> None:
        ran.append(1)
        if len(ran) < 3:
            raise outcome

    await queue.push(Work(), expires_in=10)
    for _ in range(3):
        await drain(queue)
        store.clock.advance(61)

    assert ran == [1, 1, 1]
    assert await queue.control.jobs(State.DEAD) == []


async def test_a_job_put_off_because_no_worker_knew_its_name_was_not_started_and_expires(
    queue: JobQueue, store: Store
) -> None:
    ran: list[int] = []
    await queue.push(Work(), JobName("NewName", Work), expires_in=10)
    await drain(queue)
    queue.register(JobName("NewName", Work))(lambda work: ran.append(work.number))
    store.clock.advance(11)

    await drain(queue)

    (dead,) = await queue.control.jobs(State.DEAD)
    assert (dead.reason, ran) == ("expired", [])


async def test_a_requeued_job_may_be_started_whenever_and_a_stop_by_time_counts_again(
    queue: JobQueue, store: Store
) -> None:
    ran: list[int] = []

    @queue.register(Work, retry=RetryPolicy(stop=stop_after_delay(100), wait=wait_fixed(60)))
    def work(_: Work) -> None:
        ran.append(len(ran))
        raise ValueError

    async def attempts() -> int:
        while not await queue.control.jobs(State.DEAD):
            await drain(queue)
            store.clock.advance(60)
        (dead,) = await queue.control.jobs(State.DEAD)
        return dead.attempt

    job_id = await queue.push(Work(), expires_in=3600)
    store.clock.advance(3000)  # that it waited for so long is none of the policy's business
    assert await attempts() == 3
    store.clock.advance(3600)

    await queue.control.requeue(job_id)

    assert await attempts() == 3
    assert len(ran) == 6


async def lose_worker(store: Store, count: int = 1) -> None:
    """Let a worker take jobs and die, as its supervisor has seen."""
    lost = store.consumer("lost")
    assert len((await lost.exchange([], count)).leases) == count
    with contextlib.closing(Heart(lost)) as heart:
        assert heart.release() == count
    await lost.aclose()


async def stop_worker(queue: JobQueue, began: anyio.Event) -> None:
    """Let a worker begin a job and be stopped."""
    async with working(Worker(queue)):
        with anyio.fail_after(SOON):
            await began.wait()


@pytest.mark.parametrize("how", ["stopped", "stopped at once", "lost"])
async def test_a_job_that_was_started_does_not_expire_when_its_worker_stops_or_dies(
    queue: JobQueue, store: Store, how: str
) -> None:
    began, runs = anyio.Event(), iter([] if how == "lost" else [anyio.sleep_forever])

    @queue.register(Work)
    async def work(_: Work) -> None:
        began.set()
        await next(runs, anyio.lowlevel.checkpoint)()

    job_id = await queue.push(Work(), expires_in=10)
    if how == "lost":
        await lose_worker(store)
    elif how == "stopped":
        await stop_worker(queue, began)
    else:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Worker(queue).run)
            await began.wait()
            tasks.cancel_scope.cancel()
    store.clock.advance(11)
    info = await queue.get(job_id)
    assert info is not None
    assert info.attempt == 1

    await drain(queue)

    assert await queue.control.jobs(State.DEAD) == []
    assert (await queue.control.counts()).totals["completed"] == 1


async def test_a_job_that_a_stopping_worker_had_not_started_expires(queue: JobQueue, store: Store) -> None:
    queue.register(Work)(lambda _: None)
    await queue.push(Work(), expires_in=10)
    consumer = store.consumer("stops")
    await consumer.open()
    (lease,) = (await consumer.exchange([], 1)).leases
    await consumer.exchange([(lease, Release())], None)
    await consumer.aclose()
    store.clock.advance(11)

    await drain(queue)

    assert [dead.reason for dead in await queue.control.jobs(State.DEAD)] == ["expired"]


@pytest.mark.parametrize("how", ["stopped", "lost"])
async def test_a_stop_by_time_counts_from_the_first_run_that_had_an_outcome(
    queue: JobQueue, store: Store, how: str
) -> None:
    began, runs = anyio.Event(), iter([anyio.sleep_forever] if how == "stopped" else [])

    @queue.register(Work, retry=RetryPolicy(stop=stop_after_delay(100), wait=wait_fixed(60)))
    async def work(_: Work) -> None:
        began.set()
        await next(runs, anyio.lowlevel.checkpoint)()
        raise ValueError

    await queue.push(Work())
    await (stop_worker(queue, began) if how == "stopped" else lose_worker(store))
    store.clock.advance(3600)

    await drain(queue)
    assert [job.attempt for job in await queue.control.jobs(State.DELAYED)] == [2]
    store.clock.advance(101)
    await drain(queue)

    (dead,) = await queue.control.jobs(State.DEAD)
    assert (dead.reason, dead.attempt) == ("failed", 2)


# Waking


async def test_an_idle_worker_wakes_at_once_for_a_push(queue: JobQueue) -> None:
    ran = anyio.Event()

    @queue.register(Work)
    async def work(_: Work) -> None:
        ran.set()

    worker = Worker(queue)
    async with working(worker):
        await until_it_waits(worker)
        await queue.push(Work())
        with anyio.fail_after(SOON):
            await ran.wait()


async def test_an_idle_worker_wakes_for_a_delayed_job_that_becomes_the_earliest(queue: JobQueue) -> None:
    ran: list[int] = []
    both = anyio.Event()

    @queue.register(Work)
    async def work(work: Work) -> None:
        ran.append(work.number)
        if len(ran) == 2:
            both.set()

    await queue.push(Work(0), delay=3600)
    worker = Worker(queue)
    async with working(worker):
        await until_it_waits(worker)
        await queue.push(Work(1), delay=0.3)
        await queue.push(Work(2), delay=0.1)
        with anyio.fail_after(SOON):
            await both.wait()

    assert ran == [2, 1]


async def test_a_push_of_all_priorities_into_one_idle_slot_loses_and_doubles_nothing(queue: JobQueue) -> None:
    ran: list[int] = []
    all_ran = anyio.Event()

    @queue.register(Work)
    async def work(work: Work) -> None:
        ran.append(work.number)
        if len(ran) == 30:
            all_ran.set()

    jobs = [queue.prepare(Work(n), priority=list(Priority)[n % 3]) for n in range(30)]
    worker = Worker(queue, concurrency=1)
    async with working(worker):
        await until_it_waits(worker)
        await queue.push_many(jobs)
        with anyio.fail_after(SOON):
            await all_ran.wait()

    assert sorted(ran) == list(range(30))


# Claiming before a slot is free


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker claims two jobs before a slot is free for them, however long its jobs take."""
    monkeypatch.setattr(Prefetch, "answered", lambda self, *_: setattr(self, "jobs", 2))


@contextlib.asynccontextmanager
async def one_runs_and_two_wait(queue: JobQueue) -> AsyncIterator[tuple[Worker, list[int], anyio.Event]]:
    """A worker that runs the first of three jobs, and has the others; which began; and what lets the first end."""
    began, may_end = list[int](), anyio.Event()

    @queue.register(Work)
    async def work(work: Work, context: JobContext) -> None:
        assert context.deliveries == 1
        began.append(work.number)
        if not work.number:
            await may_end.wait()

    await queue.push_many(Work(number) for number in range(3))
    worker = Worker(queue, concurrency=1)
    async with working(worker):
        await eventually(lambda: worker._current and worker._current.pool.slots.held == 3)
        yield worker, began, may_end


@pytest.mark.usefixtures("ahead")
async def test_a_job_that_waits_in_a_worker_is_the_next_when_a_slot_is_free(queue: JobQueue) -> None:
    async with one_runs_and_two_wait(queue) as (_, began, may_end):
        assert began == [0]
        may_end.set()
        await eventually(lambda: began == [0, 1, 2])


@pytest.mark.usefixtures("ahead")
async def test_jobs_that_wait_long_for_a_slot_are_handed_back_and_run_elsewhere(queue: JobQueue) -> None:
    async with one_runs_and_two_wait(queue) as (_, began, may_end):
        other = Worker(queue, concurrency=1)
        async with working(other):
            await eventually(lambda: sorted(began) == [0, 1, 2])
        assert (await queue.control.counts()).running == 1
        may_end.set()
        await until(queue, State.RUNNING, 0)


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize("how", ["stop", "pause"])
async def test_jobs_that_wait_for_a_slot_do_not_start_once_a_worker_stops_or_the_queue_is_paused(
    queue: JobQueue, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "PATIENCE", 60.0)
    async with one_runs_and_two_wait(queue) as (worker, began, may_end):
        if how == "stop":
            worker.stop()
        else:
            await queue.control.pause()
        await until(queue, State.READY, 2)
        may_end.set()
        await until(queue, State.RUNNING, 0)
        assert began == [0]


@pytest.mark.usefixtures("ahead")
async def test_a_job_that_is_cancelled_while_it_waits_for_a_slot_never_starts(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "PATIENCE", 60.0)
    async with one_runs_and_two_wait(queue) as (worker, began, may_end):
        assert worker._current
        leases = worker._current.sources[0].leases
        for job in await queue.control.jobs(State.RUNNING):
            if '"number":1' in job.parameters:
                await queue.cancel(job.job_id)
        await eventually(lambda: any(isinstance(run.why, CancelAsked) for run in leases))
        may_end.set()
        await until(queue, State.RUNNING, 0)
        assert began == [0, 2]
        assert (await queue.control.counts()).totals["cancelled"] == 1


@pytest.mark.usefixtures("ahead")
async def test_a_worker_with_max_jobs_claims_no_more_ahead_than_it_may_run(queue: JobQueue) -> None:
    ran: list[int] = []

    @queue.register(Work)
    async def work(work: Work) -> None:
        ran.append(work.number)
        await anyio.sleep(0.001)

    await queue.push_many(Work(number) for number in range(9))
    with anyio.fail_after(20):
        await Worker(queue, concurrency=1, max_jobs=4).run()

    assert ran == [0, 1, 2, 3]
    assert (await queue.control.counts()).totals["released"] == 0


async def test_no_job_begins_late_in_a_recycled_worker_that_is_asked_to_stop(queue: JobQueue) -> None:
    worker = Worker(queue, max_jobs=1, grace=5)

    def block(_: JobsClaimed) -> None:
        worker.stop()
        time.sleep(2 * handler_run.PATIENCE)

    @queue.register(Work)
    async def work(work: Work) -> None:
        pytest.fail("it began")

    queue.events.subscribe(JobsClaimed, block)
    await queue.push(Work(1))
    with anyio.fail_after(20):
        await worker.run()

    assert (await queue.control.counts()).totals["released"] == 1


async def test_the_last_job_of_max_jobs_runs_although_the_event_loop_was_blocked_before_it_began(
    queue: JobQueue,
) -> None:
    ran: list[int] = []

    @queue.register(Work)
    async def work(work: Work) -> None:
        ran.append(work.number)

    queue.events.subscribe(JobsClaimed, lambda _: time.sleep(2 * handler_run.PATIENCE))

    await queue.push(Work(1))
    with anyio.fail_after(20):
        await Worker(queue, max_jobs=1).run()

    assert ran == [1]
    assert (await queue.control.counts()).totals["released"] == 0


@pytest.mark.usefixtures("ahead")
async def test_jobs_that_find_no_slot_of_many_are_handed_back_as_soon(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reclaimer, "_RECLAIM", 60.0)  # nothing else wakes the worker meanwhile
    monkeypatch.setattr(reclaimer, "_ONLY_WORKER", 60.0)
    monkeypatch.setattr(Prefetch, "answered", lambda self, *_: setattr(self, "jobs", 10))
    began, may_end = list[int](), anyio.Event()

    @queue.register(Work)
    async def work(work: Work) -> None:
        began.append(work.number)
        await may_end.wait()

    await queue.push_many(Work(number) for number in range(60))
    worker, other = Worker(queue, concurrency=50, lease=60), Worker(queue, concurrency=50, lease=60)
    async with working(worker):
        await eventually(lambda: len(began) == 50)
        async with working(other):
            await eventually(lambda: len(began) == 60)
            may_end.set()
            await until(queue, State.RUNNING, 0)


@pytest.mark.usefixtures("ahead")
async def test_a_job_that_has_waited_for_a_slot_does_not_begin_where_the_lease_may_be_over(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "PATIENCE", 60.0)
    monkeypatch.setattr(handler_run, "PATIENCE", 0.0)
    answers = list[bool]()
    may_begin = property(lambda self: answers.pop() if answers else True)
    monkeypatch.setattr(Settler, "may_begin", may_begin)
    async with one_runs_and_two_wait(queue) as (_, began, may_end):
        answers[:] = [False, False]
        may_end.set()
        await eventually(lambda: began == [0, 1, 2])
        await until(queue, State.RUNNING, 0)
        assert (await queue.control.counts()).totals["released"] >= 2


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize("why", ["a limit", "several queues"])
async def test_nothing_is_claimed_ahead_where_some_jobs_have_a_limit_or_a_worker_several_queues(
    queue: JobQueue, why: str
) -> None:
    held: list[int] = []

    @queue.register(Work)
    async def work(_: Work) -> None:
        assert worker._current
        held.append(worker._current.pool.slots.held)
        await anyio.sleep(0.001)

    if why == "a limit":
        await queue.control.set_limit("Other", max_concurrency=3)
    queues = [queue] if why == "a limit" else [queue, JobQueue("memory://", "another")]
    await queue.push_many(Work(number) for number in range(20))
    worker = Worker(queues, concurrency=1)
    with anyio.fail_after(20):
        await worker.run(until_idle=True)

    assert held == [1] * 20


# Cancelling


def endless(queue: JobQueue) -> tuple[anyio.Event, anyio.Event]:
    """Register a handler that never ends; return what is set as it starts, and as it is cancelled."""
    started, cancelled = anyio.Event(), anyio.Event()

    @queue.register(Work)
    async def work(_: Work) -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    return started, cancelled


async def test_cancelling_a_running_job_cancels_its_handler(queue: JobQueue) -> None:
    started, cancelled = endless(queue)
    job_id = (await queue.push(Work())).id
    async with working(Worker(queue, lease=60)):
        await started.wait()
        word = await queue.cancel(job_id)
        with anyio.fail_after(10):  # sooner than the next heartbeat would tell
            await cancelled.wait()
        await until(queue, State.RUNNING, 0)

    assert word is Reply.CANCELLING
    assert await queue.get(job_id) is None
    assert (await queue.control.counts()).totals["cancelled"] == 1


async def test_a_cancel_that_no_notification_told_of_is_learnt_with_the_next_beat(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redisjobs.worker.source.source.Source.notified", lambda *_: None)
    started, cancelled = endless(queue)
    job_id = (await queue.push(Work())).id
    async with working(Worker(queue, lease=0.6)):
        await started.wait()
        await queue.cancel(job_id)
        with anyio.fail_after(SOON):
            await cancelled.wait()


async def test_a_cancelled_job_that_fails_meanwhile_is_not_retried(queue: JobQueue) -> None:
    @queue.register(Work, retry=AT_ONCE)
    async def work(_: Work, context: JobContext) -> None:
        await queue.cancel(context.job_id)
        raise ValueError("fails all the same")

    job_id = (await queue.push(Work())).id
    await drain(queue)

    assert await queue.get(job_id) is None


# Leases


async def test_a_worker_that_lost_its_lease_cancels_the_handler_and_settles_nothing(
    queue: JobQueue, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    started, cancelled = endless(queue)
    await queue.push(Work(), job_id="a")
    worker = Worker(queue, lease=0.9)
    async with working(worker):
        await started.wait()
        before = worker.worker_id
        leases: list[Lease] = []
        other = store.consumer("other", lease=3600)
        while not leases:  # its heartbeat may beat between the two
            store.age(60)
            leases = await inherit(other)
        with anyio.fail_after(SOON):
            await cancelled.wait()
        await eventually(lambda: worker.worker_id != before or "goes on under a new id" in caplog.text)
    await other.aclose()

    info = await queue.get("a")
    assert info is not None
    assert (info.state, info.worker, info.deliveries) == (State.RUNNING, "other", 2)
    assert leases[0].deliveries == 2
    assert "lease was lost" in caplog.text
    assert (await queue.control.counts()).totals["completed"] == 0


def other_loop(queue: JobQueue, ended: threading.Event) -> None:
    """Another worker, in a thread and loop of its own, until told to end."""

    async def run() -> None:
        worker = Worker(queue, lease=0.5)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await anyio.to_thread.run_sync(ended.wait, 10)
            worker.stop()

    anyio.run(run)


@pytest.mark.slow
async def test_a_handler_that_blocks_the_event_loop_keeps_its_job(store: Store, setting: str) -> None:
    starts: list[str] = []
    queue, other = JobQueue(store.driver, store.queue_name), None
    if isinstance(store, RedisStore):
        other = JobQueue(store.url, store.queue_name)

    async def block(_: Work, context: JobContext) -> None:
        starts.append(context.worker_id)
        time.sleep(2)  # noqa: ASYNC251  (what a careless handler does: no renewal could run in this loop)

    for each in filter(None, (queue, other)):
        each.register(Work)(block)
    await queue.push(Work())
    ended = threading.Event()
    thread = threading.Thread(target=other_loop, args=(other or queue, ended))
    worker = Worker(queue, lease=0.5, worker_id="blocked")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await until(queue, State.READY, 0)
        thread.start()
        await until(queue, State.RUNNING, 0)
        worker.stop()
    ended.set()
    await anyio.to_thread.run_sync(thread.join)
    await queue.aclose()

    assert len(starts) == 1


async def test_a_job_taken_over_by_a_worker_that_just_started_is_judged_by_the_servers_clock(
    queue: JobQueue, store: Store
) -> None:
    ran: list[int] = []
    queue.register(Work)(lambda work: ran.append(work.number))
    await queue.push(Work(1), JobName("NewName", Work))
    await queue.push(Work(2), expires_in=0)  # was given to a worker in time, which counts as started
    await lose_worker(store, 2)
    store.clock.advance(1)

    await drain(queue)  # its first claim brings what was handed back

    (parked,) = await rows_of(store.driver, State.DELAYED, 10)
    assert (parked.fields[b"name"], parked.deliveries) == (b"NewName", 0)
    assert int(parked.fields[b"unknown_since"]) == pytest.approx(store.clock(), abs=1000)
    assert ran == [2]


# Stopping


async def test_a_stopped_worker_lets_running_jobs_finish_and_claims_no_more(queue: JobQueue) -> None:
    started, finish = anyio.Event(), anyio.Event()
    ran: list[int] = []

    @queue.register(Work)
    async def work(work: Work) -> None:
        started.set()
        await finish.wait()
        ran.append(work.number)

    worker = Worker(queue, concurrency=1, grace=10)
    await queue.push_many([Work(1), Work(2)])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await started.wait()
        worker.stop()
        finish.set()

    counts = await queue.control.counts()
    assert ran == [1]
    assert (counts.ready[Priority.NORMAL], counts.running) == (1, 0)


async def test_after_the_grace_jobs_are_released_to_others_with_their_attempt_unspent(queue: JobQueue) -> None:
    started, cancelled = endless(queue)
    job_id = (await queue.push(Work())).id
    worker = Worker(queue, grace=0.05)
    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await started.wait()
            worker.stop()

    info = await queue.get(job_id)
    assert cancelled.is_set()
    assert info is not None
    assert (info.state, info.attempt, info.deliveries, info.worker) == (State.READY, 1, 0, "")


async def test_a_released_job_wakes_an_idle_worker_at_once(queue: JobQueue) -> None:
    starts: list[str] = []
    first, second = anyio.Event(), anyio.Event()

    @queue.register(Work)
    async def work(_: Work, context: JobContext) -> None:
        starts.append(context.worker_id)
        (second if first.is_set() else first).set()
        await anyio.sleep_forever()

    a, b = Worker(queue, worker_id="a"), Worker(queue, worker_id="b")
    await queue.push(Work())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(a.run)
        await first.wait()
        tasks.start_soon(b.run)
        await until_it_waits(b)
        a.stop_now()
        with anyio.fail_after(SOON):
            await second.wait()
        b.stop_now()

    assert [worker_id.partition(":")[0] for worker_id in starts] == ["a", "b"]


async def test_a_second_stop_does_not_wait_for_the_grace(queue: JobQueue) -> None:
    started = anyio.Event()

    @queue.register(Work)
    async def work(_: Work) -> None:
        started.set()
        await anyio.sleep_forever()

    await queue.push(Work())
    worker = Worker(queue, grace=3600)
    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await started.wait()
            worker.stop()
            await anyio.wait_all_tasks_blocked()
            worker.stop_now()

    assert (await queue.control.counts()).ready[Priority.NORMAL] == 1


async def test_cancelling_run_itself_releases_everything(queue: JobQueue) -> None:
    started = anyio.Event()

    @queue.register(Work)
    async def work(_: Work) -> None:
        started.set()
        await anyio.sleep_forever()

    await queue.push(Work())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Worker(queue).run)
        await started.wait()
        tasks.cancel_scope.cancel()

    counts = await queue.control.counts()
    assert (counts.ready[Priority.NORMAL], counts.running) == (1, 0)


async def test_a_handler_that_will_not_be_cancelled_does_not_keep_the_other_jobs(queue: JobQueue) -> None:
    let_go = anyio.Event()
    entered = 0

    @queue.register(Work)
    async def work(work: Work) -> None:
        nonlocal entered
        entered += 1
        with anyio.CancelScope(shield=work.number == 1):
            await let_go.wait()

    worker = Worker(queue, grace=0)
    await queue.push_many([Work(1), Work(2)])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually(lambda: entered == 2)
        worker.stop()
        await until(queue, State.READY, 2)
        let_go.set()

    counts = await queue.control.counts()
    assert (counts.ready[Priority.NORMAL], counts.running) == (2, 0)


async def test_a_worker_can_run_again_after_it_ended(queue: JobQueue) -> None:
    ran: list[int] = []
    queue.register(Work)(lambda work: ran.append(work.number))
    worker = Worker(queue)

    for number in (1, 2):
        await queue.push(Work(number))
        await worker.run(until_idle=True)

    assert ran == [1, 2]


# Saying what happens


async def test_each_change_of_state_is_one_line_and_failures_have_their_traceback(
    queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "redisjobs")

    @queue.register(Work, retry=RetryPolicy(wait=wait_none(), stop=stop_after_attempt(2)))
    async def work(work: Work) -> None:
        if work.number == 0:
            raise ValueError("no luck")

    bad, good = [job.id for job in await queue.push_many([Work(0), Work(1)])]
    await drain(queue, concurrency=1)

    said = {job: [r for r in caplog.records if getattr(r, "job_id", "") == job] for job in (good, bad)}
    assert [(r.levelname, "done" in r.message) for r in said[good]] == [("INFO", True)]
    assert [r.levelname for r in said[bad]] == ["WARNING", "ERROR"]
    assert all(r.exc_info and r.exc_info[0] is ValueError for r in said[bad])


async def test_a_job_that_is_ended_because_it_was_handed_out_too_often_is_a_line_too(
    queue: JobQueue, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    await queue.push(Work(), job_id="poison")
    await lose_worker(store)

    await drain(queue, max_deliveries=1)

    (line,) = [record for record in caplog.records if getattr(record, "job_id", "") == "poison"]
    assert (line.levelname, "worker lost" in line.message) == ("ERROR", True)


def test_a_worker_that_could_not_work_is_refused() -> None:
    queue = JobQueue("memory://")

    for bad in ({"concurrency": 0}, {"lease": 0.01}, {"max_deliveries": 0}, {"grace": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Worker(queue, **bad)
