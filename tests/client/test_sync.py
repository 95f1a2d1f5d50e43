"""The sync face by itself: no event loop, any number of threads, forked processes, and workers that run its jobs.

What both faces do alike is in test_queue.py.
"""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import anyio
import pytest
from memory_and_redis import store as store
from store import RedisStore, Store, happened

from redisjobs import JobContext, Priority, State, Worker
from redisjobs.client.waiting_thread import WaitingThread
from redisjobs.drivers.memory.driver import MemoryDriver
from redisjobs.drivers.redis.sync_connection import SyncConnection
from redisjobs.sync import JobQueue

THREADS, EACH = 24, 25  # more threads than the 16 connections that a process keeps


@dataclass
class Add:
    job_name: ClassVar[str] = "Add"
    a: int


@pytest.fixture
def queue(store: Store) -> Iterator[JobQueue]:
    where = store.url if isinstance(store, RedisStore) else store.driver
    with JobQueue(where, store.queue_name) as queue:
        yield queue


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def in_threads(work: Callable[[int], object], number: int = THREADS) -> None:
    """Run `work(0)`, `work(1)`, ... all at once; raise what any of them raised."""
    together, failures = threading.Barrier(number), []

    def run(which: int) -> None:
        together.wait()
        try:
            work(which)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=[which]) for which in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise ExceptionGroup("in threads", failures)


@pytest.mark.anyio
async def test_a_call_that_blocks_an_event_loop_is_done_and_warned_of_once(
    queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    handle = queue.push(Add(1))
    for call in (lambda: queue.push(Add(2)), handle.info, lambda: handle.result(timeout=0)):
        with suppress(TimeoutError):
            call()

    (warning,) = [each.getMessage() for each in caplog.records if "blocks the event loop" in each.getMessage()]
    assert f"queue '{queue.name}': a call at {__file__}:" in warning
    assert "await a redisjobs.JobQueue there, or make the call by asyncio.to_thread" in warning
    assert len(queue.control.jobs("ready")) == 2


@pytest.mark.anyio
async def test_a_wait_that_blocks_an_event_loop_is_warned_of(
    queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    handle = await asyncio.to_thread(queue.push, Add(1))
    await asyncio.to_thread(handle.info)
    assert caplog.text == ""

    with pytest.raises(TimeoutError):
        handle.result(timeout=0)
    assert caplog.text.count("blocks the event loop of its thread") == 1


def test_no_event_loop_is_made_or_needed(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "new_event_loop", None)  # calling it would raise
    monkeypatch.setattr(asyncio.events, "new_event_loop", None)

    job_id = queue.push(Add(1), delay=60)
    (info,) = queue.control.jobs(State.DELAYED)

    assert info == queue.get(job_id)
    assert queue.cancel(job_id) == "CANCELLED"
    assert queue.control.counts().delayed == 0


def test_it_works_inside_a_running_event_loop_too(queue: JobQueue) -> None:
    async def handler_of_some_web_framework() -> str:
        return queue.push(Add(1)).id

    assert queue.get(asyncio.run(handler_of_some_web_framework()))


@pytest.mark.usefixtures("hasty")
def test_threads_share_a_queue(queue: JobQueue) -> None:
    pushed: list[str] = []

    def work(which: int) -> None:
        for n in range(EACH):
            job_id = queue.push(Add(which * 1000 + n)).id
            info = queue.get(job_id)
            assert info is not None
            assert (info.job_id, json.loads(info.parameters)) == (job_id, {"a": which * 1000 + n})
            pushed.append(job_id)

    in_threads(work)
    assert len(set(pushed)) == queue.control.counts().ready[Priority.NORMAL] == THREADS * EACH


def test_threads_that_push_one_id_make_one_job(queue: JobQueue) -> None:
    in_threads(lambda which: queue.push(Add(which), job_id="mine"))
    assert happened(queue.control.counts()) == {"pushed": 1}


def test_threads_that_push_one_unique_key_make_one_job(queue: JobQueue) -> None:
    answers: list[str] = []
    in_threads(lambda which: answers.append(queue.push(Add(which), unique="joe").id))
    assert len(set(answers)) == 1
    assert happened(queue.control.counts()) == {"pushed": 1}


def test_a_hundred_threads_at_once_each_get_their_own_answer(queue: JobQueue) -> None:
    """More than there may be connections, and some ids twice."""
    told: list[tuple[str, bool]] = []

    def push(which: int) -> None:
        job_id = f"j{which % 60}"
        handle = queue.push(Add(which), job_id=job_id)
        assert handle.id == job_id
        told.append((job_id, bool(handle.added)))

    in_threads(push, 100)

    assert len(told) == 100
    assert sorted(job_id for job_id, added in told if added) == sorted(f"j{number}" for number in range(60))


def test_threads_keep_few_connections(redis_store: RedisStore) -> None:
    with JobQueue(redis_store.url, redis_store.queue_name) as queue:
        in_threads(lambda which: queue.push_many(Add(n) for n in range(10)))
        user = redis_store.url.split("//")[1].split(":")[0]
        clients = [client for client in redis_store.admin.client_list() if client["user"] == user]
        assert 1 <= len(clients) <= 16


@pytest.mark.parametrize("where", ["__init__", "_round_trip"])
def test_a_call_that_is_interrupted_takes_no_connection_from_those_that_come_after(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """As a signal's handler may, in whatever a thread does."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with JobQueue(redis_store.url, redis_store.queue_name, deadline=1) as queue:
        if where == "_round_trip":
            queue.push(Add(0))
        with monkeypatch.context() as patched:
            patched.setattr(SyncConnection, where, interrupted)
            for call in [lambda: queue.push(Add(1)), queue.control.counts] * 20:  # there may be 16 connections
                with pytest.raises(KeyboardInterrupt):
                    call()

        queue.push(Add(2))
        assert queue.control.counts().ready[Priority.NORMAL] == (2 if where == "_round_trip" else 1)


def test_a_reply_that_no_one_asked_for_is_taken_for_none_of_a_later_call(redis_store: RedisStore) -> None:
    with JobQueue(redis_store.url, redis_store.queue_name, deadline=1) as queue:
        queue.push(Add(0))
        connections = queue._store._connections  # type: ignore[attr-defined]
        connections.idle.put(connection := connections.idle.get_nowait())
        connection._replies.feed(b"+OK\r\n")

        assert queue.push(Add(1)).added  # on another connection, as a repetition: the first may have been stored

        assert queue.control.counts().ready[Priority.NORMAL] == 2


def test_a_closed_queue_can_be_used_again(queue: JobQueue) -> None:
    queue.push(Add(1))
    queue.close()
    queue.close()
    queue.push(Add(2))
    assert queue.control.counts().ready[Priority.NORMAL] == 2


def test_a_thread_in_which_no_one_waits_any_more_ends_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    died: list[object] = []
    monkeypatch.setattr(threading, "excepthook", died.append)

    async def answer() -> int:
        return 7

    thread = WaitingThread()
    assert thread.call(answer) == 7
    thread.close(answer)

    assert died == []


FORKING = """
import os, sys
from redisjobs import JobName
from redisjobs.sync import JobQueue

queue, name = JobQueue(sys.argv[1], sys.argv[2]), JobName("n", dict[str, int])
queue.push({"n": 0}, name)  # a connection is open when the process forks
child = os.fork()
for n in range(200):
    job_id = str(queue.push({"n": n}, name, job_id=f"{'parent' if child else 'child'}-{n}"))
    info = queue.get(job_id)
    assert info and info.job_id == job_id, (job_id, info)
if child:
    assert os.waitpid(child, 0)[1] == 0
queue.close()
"""


@pytest.mark.slow
def test_a_forked_process_opens_connections_of_its_own(redis_store: RedisStore, project: Path) -> None:
    command = [sys.executable, "-c", FORKING, redis_store.url, redis_store.queue_name]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert redis_store.admin.xlen(redis_store.stream()) == 401


def register(queue: JobQueue) -> list[str]:
    """Handlers of each kind; what they did."""
    ran: list[str] = []

    @queue.register(Add)
    def add(parameters: Add, context: JobContext) -> None:
        ran.append(f"sync {parameters.a} {threading.current_thread() is threading.main_thread()}")

    @queue.job
    async def greet(name: str, context: JobContext | None = None) -> None:
        ran.append(f"async {name} {context and context.queue_name == queue.name}")

    queue.push(Add(5))
    greet.push("joe")
    greet.options(priority=Priority.HIGH).push("jim")
    return ran


@pytest.mark.anyio
async def test_a_worker_runs_what_a_sync_queue_has_handlers_for(queue: JobQueue) -> None:
    ran = register(queue)
    await Worker(queue, concurrency=1).run(until_idle=True)
    assert ran == ["async jim True", "sync 5 False", "async joe True"]
    assert queue.control.counts().totals["completed"] == 3


@pytest.mark.anyio
async def test_a_push_from_another_thread_wakes_an_idle_worker(queue: JobQueue) -> None:
    ran = anyio.Event()

    @queue.register(Add)
    async def add(parameters: Add) -> None:
        ran.set()

    worker = Worker(queue)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await anyio.to_thread.run_sync(queue.push, Add(1))
        with anyio.fail_after(4.5):  # the blocking read alone would last longer
            await ran.wait()
        worker.stop()
    assert queue.control.counts().totals["completed"] == 1


def test_sync_queues_on_one_memory_driver_are_one_queue_and_otherwise_they_are_not() -> None:
    shared = MemoryDriver()
    one, two, other = JobQueue(shared, "q"), JobQueue(shared, "q"), JobQueue("memory://", "q")
    job_id = one.push(Add(1))
    assert two.get(job_id)
    assert other.get(job_id) is None
