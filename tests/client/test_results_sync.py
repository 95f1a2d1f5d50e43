"""Results by the sync face: threads that wait, what ends them, and forked processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest
from results import forget_waiting_threads, listening, waiting_threads, worker_in_thread
from store import MemoryStore, RedisStore, Store

from redisjobs import JobCancelled, JobFailed, no_retry
from redisjobs.client.waiting_thread import WaitingThread
from redisjobs.errors import ResultNotKept, ResultRefused
from redisjobs.sync import JobQueue


@pytest.fixture
def queue(store: Store) -> Iterator[JobQueue]:
    forget_waiting_threads()
    where = store.url if isinstance(store, RedisStore) else store.driver
    with JobQueue(where, store.queue_name) as queue:
        yield queue
    assert not waiting_threads()


@pytest.fixture
def add(queue: JobQueue) -> Any:
    @queue.job(keep_result=60)
    def add(a: int) -> int:
        return a + 1

    return add


def test_what_a_handler_returned_is_given_to_those_who_wait(queue: JobQueue, add: Any) -> None:
    @queue.job(keep_result=60, retry=no_retry())
    async def bad() -> int:
        raise LookupError("no such customer")

    @queue.job(keep_result=60)
    async def odd() -> int:
        return "5"  # type: ignore[return-value]

    with worker_in_thread(queue):
        handle = add.push(1)
        assert handle.result(timeout=30) == 2
        assert queue.result(handle.id, returns=float, timeout=30) == 2.0
        assert queue.run({"a": 5}, "add", timeout=30) == 6
        assert add.run(6) == 7
        with pytest.raises(JobFailed, match="LookupError: no such customer"):
            bad.run()
        with pytest.raises(ResultRefused, match="valid integer"):
            odd.run()
        with pytest.raises(ResultNotKept):
            add.options(keep_result=0).push(1).result()
        with pytest.raises(ResultNotKept, match="no job never"):
            queue.result("never")
        later = add.options(delay=60).push(1)
        later.cancel()
        with pytest.raises(JobCancelled):
            later.result()


def test_a_wait_that_takes_too_long_says_so(add: Any) -> None:
    handle = add.options(job_id="a").push(1)
    for timeout in (0, 0.05):
        with pytest.raises(TimeoutError) as raised:
            handle.result(timeout=timeout)
        assert str(raised.value) == f"job a has not ended in {timeout:g} s; it goes on"


def test_a_queue_that_is_moved_after_a_wait_leaves_no_thread(queue: JobQueue, add: Any) -> None:
    with pytest.raises(TimeoutError):
        add.push(1).result(timeout=0.05)

    queue._connect("memory://")

    assert not waiting_threads()


def test_threads_that_wait_share_one_connection(queue: JobQueue, add: Any, store: Store) -> None:
    with ThreadPoolExecutor(50) as threads:
        handles = [add.push(a) for a in range(50)]
        results = [threads.submit(handle.result, timeout=30) for handle in handles]
        with worker_in_thread(queue):
            assert [each.result() for each in results] == list(range(1, 51))
        assert len(waiting_threads()) == 1
        if isinstance(store, RedisStore):
            assert len(listening(store)) == 1


def test_a_sync_handler_can_wait_for_the_result_of_another_job(queue: JobQueue, add: Any) -> None:
    @queue.job(keep_result=60)
    def outer(a: int) -> int:
        returned: int = 10 * add.run(a)
        return returned

    with worker_in_thread(queue, concurrency=2):
        assert outer.run(4) == 50


def noted(store: Store) -> int:
    """The number of jobs that are waited for."""
    if isinstance(store, MemoryStore):
        return sum(bool(job.processes) for job in store.memory.jobs.values())
    assert isinstance(store, RedisStore)
    number: int = store.admin.hlen(f"{store.prefix}waiters")
    return number


def until_noted(store: Store, number: int = 1) -> None:
    end = time.monotonic() + 20
    while noted(store) < number:
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_wait_goes_on_while_the_queue_is_closed(queue: JobQueue, add: Any, store: Store) -> None:
    with ThreadPoolExecutor(10) as threads:
        handles = [add.push(a) for a in range(10)]
        results = [threads.submit(handle.result, timeout=30) for handle in handles]
        until_noted(store, 10)
        queue.close()
        with worker_in_thread(queue):
            assert [each.result() for each in results] == list(range(1, 11))
        late = add.push(1)
        with pytest.raises(TimeoutError, match=r"not ended in 0\.3 s"):
            _while_closing(queue, late)


def _while_closing(queue: JobQueue, job: Any) -> None:
    """Wait for a job, of a queue that is closed again and again meanwhile: the time goes on."""
    over = threading.Event()

    def close() -> None:
        while not over.is_set():
            queue.close()

    thread = threading.Thread(target=close)
    thread.start()
    try:
        job.result(timeout=0.3)
    finally:
        over.set()
        thread.join()


def test_a_closed_queue_has_no_thread_and_can_be_used_again(queue: JobQueue, add: Any) -> None:
    queue.close()
    with worker_in_thread(queue):
        assert add.run(1) == 2
        assert len(waiting_threads()) == 1
        queue.close()
        assert not waiting_threads()
        queue.close()
        assert add.run(2) == 3


def test_no_thread_is_left_where_a_signal_handler_raises_while_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    thread, start = WaitingThread(), threading.Thread.start

    def start_interrupted(each: threading.Thread) -> None:
        start(each)
        raise KeyboardInterrupt

    async def answer() -> str:
        return "done"

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start_interrupted)
        with pytest.raises(KeyboardInterrupt):
            thread.call(answer)
    for left in waiting_threads():
        left.join(10)
    assert not waiting_threads()
    assert thread.call(answer) == "done"
    thread.close(answer)


def test_one_call_that_raises_ends_no_other() -> None:
    thread, begun, go_on = WaitingThread(), threading.Event(), threading.Event()

    async def fails() -> None:
        raise LookupError("no")

    async def lasts() -> int:
        begun.set()
        await anyio.to_thread.run_sync(go_on.wait)
        return 5

    async def nothing() -> None: ...

    with ThreadPoolExecutor(1) as threads:
        lasting = threads.submit(thread.call, lasts)
        begun.wait()
        with pytest.raises(LookupError):
            thread.call(fails)
        go_on.set()
        assert lasting.result() == 5
    thread.close(nothing)
    thread.close(nothing)


INTERRUPTED = """
import sys
from redisjobs.sync import JobQueue

with JobQueue(sys.argv[1], sys.argv[2]) as queue:
    @queue.job(keep_result=60)
    def add(a: int) -> int:
        return a + 1

    handle = add.push(1)
    try:
        handle.result()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    try:
        handle.result(timeout=0.05)
    except TimeoutError:
        print("can wait again")
"""


@pytest.mark.slow
def test_a_ctrl_c_ends_the_wait_and_leaves_all_in_order(redis_store: RedisStore, project: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED, redis_store.url, redis_store.queue_name]
    with subprocess.Popen(
        command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as waits:
        until_noted(redis_store)
        os.kill(waits.pid, signal.SIGINT)
        said, errors = waits.communicate(timeout=30)
    assert (said, errors, waits.returncode) == ("interrupted\ncan wait again\n", "", 0)


FORKING = """
import os, sys, threading
from redisjobs.sync import JobQueue

queue = JobQueue(sys.argv[1], sys.argv[2])

@queue.job(keep_result=60)
def add(a: int) -> int:
    return a + 1

def waits(handle):
    try:
        handle.result(timeout=0.1)
    except TimeoutError:
        return "timed out"

assert waits(add.push(0)) == "timed out"  # the thread is there when the process forks
child = os.fork()
assert waits(add.push(1)) == "timed out"
queue.close()
assert waits(add.push(2)) == "timed out"
if child:
    assert os.waitpid(child, 0)[1] == 0
queue.close()
assert not [each for each in threading.enumerate() if each.name == "redisjobs waiting"]
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_has_a_thread_and_a_connection_of_its_own(redis_store: RedisStore, project: Path) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING]
    command += [redis_store.url, redis_store.queue_name]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


AT_ONCE = """
import os, sys, threading
from redisjobs.sync import JobQueue

queue = JobQueue(sys.argv[1], sys.argv[2])

@queue.job(keep_result=60)
def add(a: int) -> int:
    return a + 1

handles = [add.push(a) for a in range(8)]

def waiting():
    return [each for each in threading.enumerate() if each.name == "redisjobs waiting"]

def wait(handle, barrier):
    barrier.wait()
    try:
        handle.result(timeout=0.2)
    except TimeoutError:
        pass

def wait_at_once():
    barrier = threading.Barrier(8)
    threads = [threading.Thread(target=wait, args=(handle, barrier)) for handle in handles]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

wait_at_once()
assert not queue._store._connections.idle.empty()
child = os.fork()
assert bool(child) != queue._store._connections.idle.empty()  # the parent goes on using them
wait_at_once()
assert len(waiting()) == 1
queue.close()
assert not waiting()
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_threads_that_wait_at_once_after_a_fork_share_one_thread(redis_store: RedisStore, project: Path) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", AT_ONCE]
    command += [redis_store.url, redis_store.queue_name]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
