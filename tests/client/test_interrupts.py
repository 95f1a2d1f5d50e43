"""Exceptions that come between any two steps of a sync call: Ctrl-C, and the handler of a signal that raises."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import hiredis
import pytest
from store import RedisStore

from redisjobs import JobName
from redisjobs.drivers.redis import round_trip, sync_connection
from redisjobs.events import JobsPushed
from redisjobs.sync import JobQueue

INTERRUPTS = os.environ.get("REDISJOBS_INTERRUPTS", "500")

JOB = JobName("Work", dict[str, int])

# 4 threads push. The main thread gets real SIGINTs, the others exceptions as a debugger may set them.
PUSHING = """
import ctypes, faulthandler, itertools, os, random, signal, sys, threading, time
from redisjobs import JobName
from redisjobs.sync import JobQueue

queue, name = JobQueue(sys.argv[1], sys.argv[2]), JobName("Work", dict[str, int])
wanted, told, hits, numbers, may = int(sys.argv[3]), [], itertools.count(), itertools.count(), False
random.seed(7)
faulthandler.dump_traceback_later(110, exit=True)  # says where each thread is stuck

class Stop(BaseException): pass

def interrupt(*_):
    if may:
        next(hits)
        raise KeyboardInterrupt

def push():
    job_id = f"j{next(numbers)}"
    assert queue.push({}, name, job_id=job_id).id == job_id
    told.append(job_id)

def others():
    while not over.is_set():
        try:
            while not over.is_set():
                push()
        except Stop:
            next(hits)

def send():
    threads = []
    while not over.is_set():
        if hits.__reduce__()[1][0] >= wanted:
            over.set()
            break
        threads = [thread for thread in threads if thread.is_alive()]  # one may be hit outside of its `try`
        while len(threads) < 3:
            threads.append(threading.Thread(target=others))
            threads[-1].start()
        time.sleep(random.uniform(0, 0.001))
        os.kill(os.getpid(), signal.SIGINT)
        if random.random() < 0.3:
            ident = ctypes.c_ulong(random.choice(threads).ident)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(Stop))
    for thread in threads:
        thread.join()

threading.excepthook = lambda _: None
signal.signal(signal.SIGINT, interrupt)
over = threading.Event()
sender = threading.Thread(target=send)
sender.start()
while not over.is_set():
    try:
        may = True
        push()
        may = False
    except KeyboardInterrupt:
        may = False
sender.join()
print(*told)

def push_at_once():
    barrier.wait()
    push()

barrier = threading.Barrier(40)  # more than there may be connections
last = [threading.Thread(target=push_at_once) for _ in range(40)]
for thread in last: thread.start()
for thread in last: thread.join()
queue.close()
print(*told[-40:])
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals are others' here")
def test_threads_whose_pushes_are_interrupted_again_and_again_all_go_on_and_no_job_is_lost_or_doubled(
    redis_store: RedisStore, project: Path
) -> None:
    """As often as REDISJOBS_INTERRUPTS says."""
    command = [sys.executable, "-c", PUSHING, redis_store.url, redis_store.queue_name, INTERRUPTS]

    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr  # Python writes there what was raised in a destructor
    told, last = (line.split() for line in done.stdout.splitlines())
    stored = [fields[b"id"].decode() for _, fields in redis_store.admin.xrange(redis_store.stream())]
    assert len(last) == 40
    assert len(stored) == len({*stored})
    assert {*told, *last} <= {*stored}


@contextmanager
def handling(number: signal.Signals, handler: Callable[..., None]) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="there is no such signal here")
def test_a_signals_handler_that_pushes_does_not_wait_for_the_push_that_it_has_interrupted(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = list[bool]()
    packed = round_trip.packed
    with JobQueue(redis_store.url, redis_store.queue_name) as queue:

        def handle(*_: object) -> None:
            monkeypatch.setattr(sync_connection, "packed", packed)
            added.append(bool(queue.push({}, JOB, job_id="of the handler").added))

        def interrupted(wires: Any) -> bytes:
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
            return packed(wires)

        queue.push({}, JOB)
        with handling(signal.SIGUSR1, handle):
            monkeypatch.setattr(sync_connection, "packed", interrupted)
            assert queue.push({}, JOB, job_id="interrupted").added

    assert added == [True]
    assert {"of the handler", "interrupted"} < redis_store.located().keys()


def interrupt() -> None:
    raise KeyboardInterrupt


class AtLine:
    """Does something at one line of the code, as a signal's handler may.

    Args:
        number: Which of those that are run.
        act: What it does.
        where: The folder of the code.
    """

    def __init__(
        self, number: int, act: Callable[[], object] = interrupt, where: str = "/redisjobs/drivers/redis/"
    ) -> None:
        self._left = number
        self._act, self._where = act, where

    def __enter__(self) -> None:
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, what: str, _: object) -> Any:
        if self._where not in frame.f_code.co_filename.replace(os.sep, "/"):
            return None
        if what == "line":
            self._left -= 1
            if self._left < 0:
                sys.settrace(None)
                self._act()
                return None
        return self._trace


@pytest.mark.slow
@pytest.mark.parametrize("is_open", [True, False], ids=["over an open connection", "while one opens"])
def test_wherever_a_push_is_interrupted_the_next_calls_are_answered_and_nothing_is_lost(
    redis_store: RedisStore, is_open: bool
) -> None:
    lines = 0
    with JobQueue(redis_store.url, redis_store.queue_name, deadline=1) as queue:
        for number in range(1000):
            if is_open:
                queue.push({}, JOB, job_id=f"before-{number}")
            else:
                queue.close()
            try:
                with AtLine(number):
                    queue.push({}, JOB, job_id=f"interrupted-{number}")
            except KeyboardInterrupt:
                lines += 1
            else:
                break
            assert queue.push({}, JOB, job_id=f"after-{number}").id == f"after-{number}"
            info = queue.get(f"after-{number}")
            assert info is not None
            assert info.job_id == f"after-{number}"

        assert lines > 30
        with ThreadPoolExecutor(16) as threads:  # all connections that there may be
            barrier = threading.Barrier(16)
            handles = threads.map(lambda _: (barrier.wait(), queue.push({}, JOB))[1], range(16))
            assert all(handle.added for handle in handles)


@pytest.mark.slow
def test_a_signals_handler_may_push_wherever_it_interrupts_a_push(redis_store: RedisStore) -> None:
    """No lock that the push holds is waited for."""
    lines = 0
    while True:
        inner = list[str]()
        with JobQueue(redis_store.url, redis_store.queue_name) as queue:
            queue.events.subscribe(JobsPushed, lambda event: None)

            def push(queue: JobQueue = queue, inner: list[str] = inner) -> None:
                inner.append(queue.push({}, JOB).id)

            with AtLine(lines, push, "/redisjobs/"):
                outer = queue.push({}, JOB).id
        if not inner:
            break
        assert {outer, *inner} <= redis_store.located().keys()
        lines += 1
    assert lines > 100


def test_a_connection_packs_text_and_bytes_alone_also_as_it_opens(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number crashes hiredis where a signal's handler raises; redis-py packs some of its own."""
    redis_store.admin.execute_command("ACL", "SETUSER", redis_store.user, "+select")
    packed = list[tuple[Any, ...]]()
    pack = hiredis.pack_command

    def noted(wire: tuple[Any, ...]) -> Any:
        packed.append(wire)
        return pack(wire)

    monkeypatch.setattr(hiredis, "pack_command", noted)
    monkeypatch.setattr(round_trip, "_pack", hiredis.pack_command)

    with JobQueue(f"{redis_store.url.rpartition('/')[0]}/3", redis_store.queue_name) as queue:
        queue.control.counts()

    names = [wire[0].encode() if isinstance(wire[0], str) else wire[0] for wire in packed]
    assert [name for name in names if name != b"CLIENT"][:3] == [b"AUTH", b"SELECT", b"HELLO"]
    assert b"EVALSHA" in names
    assert [word for wire in packed for word in wire if not isinstance(word, str | bytes)] == []
