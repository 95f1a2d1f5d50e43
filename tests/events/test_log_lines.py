"""What a worker's log says, as people read it."""

import contextvars
import functools
import logging
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any, cast
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import tenacity
from process_handlers import running_here
from store import RedisStore, Store, eventually

import redisjobs.sync
from redisjobs import JobContext, JobQueue, Middleware, RetryPolicy, Snooze, Worker, current_job
from redisjobs.base.visible import in_words
from redisjobs.client import waiting
from redisjobs.events import JobsCompleted, JobsDead, LoopBlocked, SourceUnavailable, WorkerStopped
from redisjobs.events.middleware import CallNext, RunningJob
from redisjobs_proof.torture.proxy import HOST, Proxy

pytestmark = pytest.mark.anyio


def lines_of(caplog: pytest.LogCaptureFixture, level: int, name: str = "redisjobs.worker") -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno == level and each.name == name]


# What became of jobs


async def test_a_failed_attempt_says_which_it_was_what_failed_and_when_the_next_one_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with JobQueue("memory://") as queue:

        @queue.job(retry=RetryPolicy(stop=tenacity.stop_after_attempt(4), wait=tenacity.wait_fixed(2.2)))
        async def fetch() -> None:
            raise ConnectionError("refused")

        @queue.job(retry=RetryPolicy(stop=tenacity.stop_after_delay(60), wait=tenacity.wait_fixed(600)))
        async def other() -> None:
            raise ValueError

        @queue.job
        async def rest() -> None:
            raise Snooze(for_=7200)

        await fetch.push()
        await other.push()
        await rest.push()
        await Worker(queue).run(until_idle=True)

    assert [line.partition("): ")[2] for line in lines_of(caplog, logging.WARNING)] == [
        "attempt 1 of 4 failed (ConnectionError: refused); next attempt in 2.2 s",
        "attempt 1 failed (ValueError); next attempt in 10 min",
    ]
    assert any(line.endswith("snoozed, runs again in 2.0 h") for line in lines_of(caplog, logging.INFO))
    assert "After(" not in caplog.text


def test_durations_are_shown_in_a_unit_that_fits() -> None:
    assert [in_words(each) for each in (0, 0.25, 2.2, 45.3, 300, 7200)] == [
        *("0 s", "0.25 s", "2.2 s", "45 s", "5 min", "2.0 h")
    ]


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
async def test_a_result_that_could_not_be_kept_is_a_warning_and_not_just_done(
    caplog: pytest.LogCaptureFixture, level: int
) -> None:
    caplog.set_level(level)
    async with JobQueue("memory://") as queue:

        @queue.job(keep_result=60)
        async def large() -> str:
            return "\ud800"

        await large.options(job_id="mine").push()
        await Worker(queue).run(until_idle=True)

    (line,) = lines_of(caplog, logging.WARNING)
    assert line.startswith("job mine (large): done, but its result could not be kept: the result can't be written")

    assert not any(line.endswith("): done") for line in lines_of(caplog, logging.INFO))


# What handlers say


async def test_a_line_of_a_handler_begins_with_its_job_and_names_the_place_in_the_handler(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with JobQueue("memory://") as queue:

        @queue.job
        def talk(context: JobContext) -> None:
            context.logger.info("at %d %%", 40)
            context.logger.warning("100 %")
            context.logger.info("%(done)d done", {"done": 3})

        await talk.options(job_id="50%d").push()
        await Worker(queue).run(until_idle=True)

    records = [each for each in caplog.records if each.name == "redisjobs.job"]
    assert [each.getMessage() for each in records] == [
        "job 50%d (talk): at 40 %",
        "job 50%d (talk): 100 %",
        "job 50%d (talk): 3 done",
    ]
    assert {(each.funcName, each.filename) for each in records} == {("talk", "test_log_lines.py")}


async def test_a_handler_and_what_it_calls_know_the_job_that_runs() -> None:
    known: dict[str, str] = {}

    def note(where: str) -> None:
        known[where] = current_job().job_id

    async with JobQueue("memory://") as queue:

        @queue.job
        async def on_loop() -> None:
            note("async")
            await anyio.lowlevel.checkpoint()
            note("async, later")
            await anyio.to_thread.run_sync(note, "its thread")

        @queue.job
        def in_thread() -> None:
            note("thread")
            own = threading.Thread(target=contextvars.copy_context().run, args=(note, "a thread of its own"))
            own.start()
            own.join()

        await on_loop.options(job_id="a").push()
        await in_thread.options(job_id="b").push()
        await Worker(queue, concurrency=1).run(until_idle=True)

    assert known == {
        **dict.fromkeys(("async", "async, later", "its thread"), "a"),
        **dict.fromkeys(("thread", "a thread of its own"), "b"),
    }
    with pytest.raises(LookupError, match="no job runs here"):
        current_job()


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_handler_in_a_process_knows_its_job_too() -> None:
    async with JobQueue("memory://") as queue:
        running = queue.job(run_in="process", keep_result=60)(running_here)
        handle = await running.options(job_id="mine").push()
        await Worker(queue).run(until_idle=True)
        assert await handle.result(timeout=5) == "mine"


# A blocked event loop


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_worker_with_a_usual_lease_reports_a_loop_that_is_blocked_for_a_second() -> None:
    async with JobQueue("memory://") as queue:
        told = threading.Event()
        queue.events.subscribe(LoopBlocked, lambda event: told.set())

        @queue.job
        async def block() -> bool:
            return told.wait(20)  # it ends once that was logged

        await block.push()
        await Worker(queue, lease=600).run(until_idle=True)  # the lease has no say in it

    assert told.is_set()


@pytest.mark.slow
def test_a_look_at_where_the_loop_is_blocked_outlasts_garbage_that_is_due_to_be_collected() -> None:
    code = """
        import gc, threading
        from redisjobs.worker.source.watchdog import _frame_of

        class Garbage:
            def __init__(self):
                self.me, self.own = self, threading.local()
                self.own.value = 1

        never = threading.Event()
        for later in range(12):  # one of these has the collector run in the middle of the look
            for _ in range(4):
                threading.Thread(target=never.wait, daemon=True).start()
            gc.disable()
            gc.collect()
            Garbage()
            gc.set_threshold(gc.get_count()[0] + later)
            gc.enable()
            assert _frame_of(threading.get_ident()) is not None
            assert gc.isenabled()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=30, check=True)


class Around(Middleware):
    async def around(self, job: RunningJob, context: JobContext, call_next: CallNext) -> Any:
        return await call_next()


middlewares = pytest.mark.parametrize("middleware", [[], [Around()]], ids=["plain", "middleware"])


@middlewares
@pytest.mark.parametrize("limit", [{"timeout": 0.8}, {"stalled_after": 0.8}], ids=["timeout", "stalled after"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_blocked_loop_is_not_counted_as_the_time_of_a_job_in_a_thread(
    middleware: list[Middleware], limit: dict[str, Any]
) -> None:
    ran: dict[str, float] = {}
    began, blocked, ended = threading.Event(), threading.Event(), threading.Event()
    async with JobQueue("memory://", middleware=middleware) as queue:

        @queue.job(**limit)
        def short(context: JobContext) -> None:
            began.set()
            blocked.wait(5)
            context.progress(1)
            ended.set()

        @queue.job
        async def block() -> None:
            await eventually(began.is_set)
            blocked.set()
            ended.wait(5)
            time.sleep(1)  # noqa: ASYNC251  (that is what is tested)

        for kind in (JobsCompleted, JobsDead):
            queue.events.subscribe(kind, lambda event: ran.update({job.name: job.ran for job in event.jobs}))
        await block.push()
        await short.push()
        await Worker(queue).run(until_idle=True)
        counts = await queue.control.counts()

    assert ran["short"] < 0.8 < ran["block"]
    assert (counts.totals["completed"], counts.totals["retried"], counts.dead) == (2, 0, 0)


@middlewares
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_job_whose_thread_begins_late_as_the_loop_is_blocked_has_all_of_its_timeout(
    middleware: list[Middleware],
) -> None:
    ran: dict[str, float] = {}
    async with JobQueue("memory://", middleware=middleware) as queue:

        @queue.job(timeout=0.2)
        def short() -> None: ...

        @queue.job
        async def block() -> None:
            time.sleep(0.5)  # noqa: ASYNC251  (that is what is tested)

        queue.events.subscribe(JobsCompleted, lambda event: ran.update({job.name: job.ran for job in event.jobs}))
        await short.push()  # its thread is asked for first, and begins when the loop runs again
        await block.push()
        await Worker(queue).run(until_idle=True)
        counts = await queue.control.counts()

    assert ran["short"] < 0.2 < ran["block"]
    assert (counts.totals["completed"], counts.totals["retried"]) == (2, 0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_job_whose_thread_began_late_is_still_ended_at_its_timeout() -> None:
    released = threading.Event()
    async with JobQueue("memory://") as queue:

        @queue.job(timeout=0.2, retry=RetryPolicy(stop=tenacity.stop_after_attempt(1)))
        def long() -> None:
            released.wait(20)

        @queue.job
        async def block() -> None:
            time.sleep(0.3)  # noqa: ASYNC251  (that is what is tested)

        await long.push()
        await block.push()
        dead = threading.Event()
        queue.events.subscribe(JobsDead, lambda event: dead.set())
        async with anyio.create_task_group() as tasks:
            worker = Worker(queue)
            tasks.start_soon(worker.run)
            await eventually(dead.is_set)
            released.set()
            worker.stop()
        (letter,) = await queue.control.jobs("dead")

    assert "JobTimeout: the handler was still running after its timeout of 0.2 s" in letter.error


# A server that is away


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_server_that_is_away_is_one_line_with_its_address_and_one_when_it_is_back(
    caplog: pytest.LogCaptureFixture, redis_store: RedisStore
) -> None:
    caplog.set_level(logging.INFO, "redisjobs.worker")
    port, told = urlsplit(redis_store.url).port or 0, list[SourceUnavailable]()
    with Proxy(HOST, port) as proxy:
        proxy.refuse(True)
        url = redis_store.url.replace(f"{HOST}:{port}", f"{HOST}:{proxy.port}")
        first, second = (JobQueue(url, redis_store.queue_name) for _ in range(2))
        for queue in (first, second):
            queue.job(name="rest")(lambda: None)
            queue.events.subscribe(SourceUnavailable, told.append)
        workers = [Worker(first, lease=2), Worker(second, lease=2)]
        async with first, second, anyio.create_task_group() as tasks:
            for worker in workers:
                tasks.start_soon(worker.run)
            await eventually(lambda: len(told) > 6, within=20)  # they were logged again and again
            proxy.refuse(False)
            await eventually(lambda: all(worker.health.ready for worker in workers), within=20)
            told.clear()
            proxy.refuse(True)
            proxy.drop_all()
            await eventually(lambda: len(told) == 2, within=20)
            proxy.refuse(False)
            await eventually(lambda: all(worker.health.ready for worker in workers), within=20)
            for worker in workers:
                worker.stop()

    address = f"the store at {first.driver.where}"
    lines = [each.getMessage().partition(" (")[0] for each in caplog.records]
    outages = [line for line in lines if line.startswith("the store at")]
    assert outages == [f"{address} is unavailable", f"{address} is available again"] * 2
    assert "no heartbeat got through" not in caplog.text
    assert not lines_of(caplog, logging.WARNING, "redisjobs.scheduler")  # schedulers of workers say nothing beside


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_worker_that_was_stopped_before_it_reached_its_server_hides_no_later_outage(
    caplog: pytest.LogCaptureFixture, redis_store: RedisStore
) -> None:
    caplog.set_level(logging.INFO, "redisjobs.worker")
    port = urlsplit(redis_store.url).port or 0
    with Proxy(HOST, port) as proxy:
        proxy.refuse(True)
        url = redis_store.url.replace(f"{HOST}:{port}", f"{HOST}:{proxy.port}")
        async with JobQueue(url, redis_store.queue_name) as queue:
            queue.job(name="rest")(lambda: None)
            for _ in range(2):
                told, ended = list[SourceUnavailable](), list[WorkerStopped]()
                queue.events.subscribe(SourceUnavailable, told.append)
                queue.events.subscribe(WorkerStopped, ended.append)
                worker = Worker(queue)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(worker.run)
                    await eventually(lambda: told)  # noqa: B023
                    worker.stop()
                assert [event.started_as for event in ended] == [""]

    assert sum("is unavailable" in line for line in lines_of(caplog, logging.WARNING)) == 2


# Who waits without end


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_LATE", 0.05)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_wait_without_a_timeout_logs_once_that_no_worker_is_alive_and_goes_on(
    caplog: pytest.LogCaptureFixture, redis_store: RedisStore
) -> None:
    results: list[int] = []

    async def wait() -> None:
        results.append(await answer.run())

    async with JobQueue(redis_store.url, redis_store.queue_name) as queue:
        answer: Any = queue.job(name="answer", keep_result=60)(lambda: 42)
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(wait)
            await eventually(lambda: caplog.records)
            with pytest.raises(TimeoutError):  # a wait with a timeout warns of nothing
                await (await answer.push()).result(timeout=0.2)
            await Worker(queue).run(until_idle=True)

    assert results == [42] * 3
    (line,) = lines_of(caplog, logging.WARNING, "redisjobs")
    where = f"queue '{redis_store.queue_name}' at {queue.driver.where}"
    assert f"is waited for without a timeout, and no worker of {where} is alive: start one, as" in line
    assert "@127.0.0.1:" in line


@pytest.mark.usefixtures("soon")
def test_a_sync_wait_without_a_timeout_says_so_too(caplog: pytest.LogCaptureFixture) -> None:
    queue = redisjobs.sync.JobQueue("memory://", "shop")
    queue.job(name="answer", keep_result=60)(lambda: 42)
    queue.control.pause("answer")
    waits = threading.Thread(target=queue.run, args=({}, "answer"), daemon=True)
    waits.start()
    while not caplog.records:
        waits.join(0.01)
    queue.control.resume("answer")
    anyio.run(functools.partial(Worker(queue).run, until_idle=True))
    waits.join(20)
    queue.close()

    (line,) = lines_of(caplog, logging.WARNING, "redisjobs")
    assert line.endswith(
        "is waited for without a timeout, and jobs of its name are paused on queue 'shop' at memory://: "
        "`redisjobs resume --name answer --queue shop` ends the pause"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("way", ["async", "thread"])
async def test_the_log_warns_of_a_handler_that_waits_for_a_slot_of_its_own_one_slot_worker(
    caplog: pytest.LogCaptureFixture, store: Store, way: str
) -> None:
    async with JobQueue(store.driver, store.queue_name) as queue:
        answer: Any = queue.job(name="answer", keep_result=60)(lambda: 42)
        sync_face = redisjobs.sync.JobQueue(store.driver, store.queue_name)
        sync_face.job(name="answer", keep_result=60)(lambda: 42)

        @queue.job(name="asks")
        async def asks() -> int:
            return cast(int, await answer.run())

        @queue.job(name="asks-in-thread")
        def asks_in_thread() -> object:
            return sync_face.run({}, "answer")

        function: Any = asks if way == "async" else asks_in_thread
        await function.push()
        worker = Worker(queue, concurrency=1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await eventually(lambda: lines_of(caplog, logging.WARNING, "redisjobs"))
            await Worker(queue).run(until_idle=True)  # it has a slot for the other job
            worker.stop()
        await anyio.to_thread.run_sync(sync_face.close)

    (line,) = lines_of(caplog, logging.WARNING, "redisjobs")
    assert "the handler that waits for it has the only slot of its worker of queue" in line
