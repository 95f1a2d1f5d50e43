"""A worker at its edges: its options, how often it may run, stops at any time and from any thread."""

import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import anyio
import anyio.to_thread
import pytest
from each_setting import store as store
from store import Store, eventually

import redisjobs
from redisjobs import JobContext, JobQueue, Worker, sync
from redisjobs.events import WorkerStarted
from redisjobs.worker.settings.health import Health
from redisjobs.worker.source.heartbeat import Heartbeat

pytestmark = pytest.mark.anyio

PACKAGE = str(Path(redisjobs.__file__).parent)
BACKENDS = {"asyncio": "asyncio", "uvloop": ("asyncio", {"use_uvloop": True}), "trio": "trio"}


@dataclass
class Work:
    job_name: ClassVar[str] = "Work"
    number: int = 0


@pytest.fixture(params=["memory uvloop", "memory trio", "redis asyncio", "redis uvloop"])
def setting(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def anyio_backend(setting: str) -> Any:
    return BACKENDS[setting.split()[1]]


async def in_a_thread(call: Any) -> None:
    """Call it in a thread that knows no event loop."""
    thread = threading.Thread(target=call)
    thread.start()
    await anyio.to_thread.run_sync(thread.join)


# Stopping


async def test_a_stop_before_the_run_ends_it_before_anything_is_claimed(queue: JobQueue) -> None:
    ran: list[int] = []
    queue.register(Work)(lambda work: ran.append(work.number))
    await queue.push(Work())
    worker = Worker(queue)

    worker.stop()
    with anyio.fail_after(5):
        await worker.run()

    assert ran == []
    assert (await queue.control.counts()).running == 0


async def test_a_stop_before_the_runs_first_turn_ends_it(queue: JobQueue) -> None:
    ran: list[int] = []
    queue.register(Work)(lambda work: ran.append(work.number))
    await queue.push(Work())
    worker = Worker(queue)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            worker.stop()

    assert ran == []


async def test_the_stop_of_one_run_does_not_end_the_next(queue: JobQueue) -> None:
    ran: list[int] = []
    worker = Worker(queue)

    @queue.register(Work)
    async def work(work: Work) -> None:
        ran.append(work.number)
        worker.stop()
        worker.stop_now()

    for number in (1, 2, 3):
        await queue.push(Work(number))
        with anyio.fail_after(10):
            await worker.run()

    assert ran == [1, 2, 3]


@pytest.mark.parametrize("how", ["stop", "stop_now"])
async def test_another_thread_can_stop_an_idle_worker_at_once(queue: JobQueue, how: str) -> None:
    worker = Worker(queue, lease=60)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await eventually(lambda: worker._current and worker._current.sources[0].fetcher.waiting)

            asked = time.monotonic()
            await in_a_thread(getattr(worker, how))

    assert time.monotonic() - asked < 4.5  # by itself it would look up after 5 s


async def test_a_sync_handler_can_stop_its_worker(queue: JobQueue) -> None:
    worker = Worker(queue)
    queue.register(Work)(lambda _: worker.stop())
    await queue.push(Work())

    with anyio.fail_after(5):
        await worker.run()

    assert (await queue.control.counts()).totals["completed"] == 1


async def test_another_thread_can_cancel_what_runs(queue: JobQueue) -> None:
    started = anyio.Event()

    @queue.register(Work)
    async def work(_: Work) -> None:
        started.set()
        await anyio.sleep_forever()

    await queue.push(Work())
    worker = Worker(queue, grace=600)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await started.wait()
            await in_a_thread(worker.stop_now)

    assert sum((await queue.control.counts()).ready.values()) == 1


# Running, once at a time


async def test_a_worker_that_runs_refuses_to_run_a_second_time_at_once(queue: JobQueue) -> None:
    ran: list[int] = []
    queue.register(Work)(lambda work: ran.append(work.number))
    worker = Worker(queue)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually(lambda: worker.health.ready)

        with pytest.raises(RuntimeError, match="this worker runs already"):
            await worker.run()

        await queue.push(Work(1))
        await eventually(lambda: ran == [1])  # the first run is none the worse for it
        worker.stop()


async def test_each_run_of_a_worker_has_an_id_of_its_own(queue: JobQueue) -> None:
    ids: list[str] = []

    @queue.register(Work)
    async def work(_: Work, context: JobContext) -> None:
        ids.append(context.worker_id)

    worker = Worker(queue)
    first = worker.worker_id
    for _ in range(2):
        await queue.push(Work())
        await worker.run(until_idle=True)

    assert ids[0] == first
    assert ids[1] == worker.worker_id != first


async def test_each_run_under_a_name_that_was_given_has_an_id_of_its_own(queue: JobQueue) -> None:
    worker, ids = Worker(queue, worker_id="mine"), set[str]()
    queue.events.subscribe(WorkerStarted, lambda event: ids.add(event.worker))
    await worker.run(until_idle=True)
    await worker.run(until_idle=True)

    assert len(ids) == 2
    assert all(re.fullmatch("mine:[0-9a-f]{8}", each) for each in ids)


# Health


@pytest.mark.slow
async def test_health_can_be_asked_at_every_moment_of_a_run(store: Store, queue: JobQueue) -> None:
    """At each line that the worker runs, from its making to its end, by another thread."""
    queue.register(Work)(lambda _: None)
    await queue.push(Work())
    worker = Worker(queue)
    said: set[Health] = set()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            said.add(asking.submit(lambda: worker.health).result(5))
        return trace

    with ThreadPoolExecutor(1) as asking:
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            await worker.run(until_idle=True)
        finally:
            sys.settrace(before)

    assert {health.live for health in said} == {True}
    assert {health.why.partition(" ")[0] for health in said} >= {"not", "starting", "0", "1"}


class Mortal(Heartbeat):
    """A heartbeat whose thread ends on request, as by a defect."""

    dying = False

    def _beat(self) -> float:
        if self.dying:
            raise SystemExit
        return super()._beat()


@pytest.mark.slow
async def test_a_worker_that_could_not_beat_for_a_lease_is_live_and_not_ready_until_it_could(
    queue: JobQueue, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = store.consumer("unused")
    kind = type(consumer.sync)
    await consumer.aclose()
    beat, failing = kind.beat, threading.Event()

    def beat_if_it_can(heart: Any, *beats: Any) -> Any:
        if failing.is_set():
            raise redisjobs.Unavailable("no answer")
        return beat(heart, *beats)

    monkeypatch.setattr(kind, "beat", beat_if_it_can)
    worker = Worker(queue, lease=0.5)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await eventually(lambda: worker.health.ready)

            failing.set()
            await eventually(lambda: not worker.health.ready)
            await anyio.sleep(2)  # four leases, in which its exchanges go through

            assert (worker.health.live, worker.health.ready) == (True, False)
            assert worker.health.why.startswith("no heartbeat got through for ")
            failing.clear()
            await eventually(lambda: worker.health.ready)
            worker.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_worker_whose_heartbeat_is_dead_is_neither_ready_nor_live_and_ends(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redisjobs.worker.run.Heartbeat", Mortal)
    monkeypatch.setattr(Mortal, "dying", False)
    worker = Worker(queue, lease=2)

    async def run() -> None:
        with pytest.raises(redisjobs.DriverError, match="the heartbeat thread has ended"):
            await worker.run()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await eventually(lambda: worker.health.ready)

            monkeypatch.setattr(Mortal, "dying", True)

            await eventually(lambda: not worker.health.ready)
            assert worker.health == Health(
                False, False, "the heartbeat thread has ended: this worker soon counts as dead"
            )


# Options


@pytest.mark.parametrize(
    "worker_id",
    ["", "released", "alone", "a b", "a\n", "a\x00b", "{a}", "a\u2028b", "\ud800", "x" * 201, 5, b"id"],
)
def test_an_id_that_no_consumer_can_have_is_refused(worker_id: Any) -> None:
    with pytest.raises(ValueError, match=r"worker_id=.*give 1 to 200 printable characters"):
        Worker(JobQueue("memory://"), worker_id=worker_id)


@pytest.mark.parametrize("worker_id", ["web-1:4242:9f3c", "wörker", "x" * 200, "a.b/c@d"])
def test_a_name_that_a_consumer_can_have_is_taken(worker_id: str) -> None:
    name, _, run = Worker(JobQueue("memory://"), worker_id=worker_id).worker_id.rpartition(":")
    assert (name, len(run)) == (worker_id, 8)


def test_a_host_of_any_name_makes_an_id_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Joe's {Mac} book" + "x" * 300)
    worker = Worker(JobQueue("memory://"))

    assert worker.worker_id.startswith("Joe's-Mac-bookx")
    assert Worker(JobQueue("memory://"), worker_id=worker.worker_id).worker_id.startswith(worker.worker_id)


@pytest.mark.parametrize("queue", ["redis://:secret@127.0.0.1/0", None, JobQueue])
def test_what_is_no_queue_is_refused_and_its_password_kept(queue: Any) -> None:
    with pytest.raises(TypeError, match=r"give a JobQueue.*Worker\(JobQueue\(") as refused:
        Worker(queue)

    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("option", ["concurrency", "max_deliveries", "max_jobs", "max_rss", "abandoned"])
@pytest.mark.parametrize("value", [1.5, "5", True, timedelta(1)])
def test_a_number_that_is_not_whole_is_refused(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{option}=.*give a whole number"):
        Worker(JobQueue("memory://"), **{option: value})


@pytest.mark.parametrize("option", ["lease", "grace", "unknown_for"])
@pytest.mark.parametrize("value", ["5", "5s", None, True])
def test_a_duration_that_is_none_is_refused(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{option}=.*give seconds"):
        Worker(JobQueue("memory://"), **{option: value})


def test_a_sync_queue_is_taken() -> None:
    assert Worker(sync.JobQueue("memory://")).health == Health(True, False, "not running")
