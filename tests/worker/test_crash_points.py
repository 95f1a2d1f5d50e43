"""A worker that ends right before its Nth command to Redis, for every N of its life: each job still ends once."""

import asyncio
import itertools
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import anyio
import anyio.to_thread
import pytest
import redis
from store import RedisStore, eventually

from redisjobs import Fail, JobContext, JobQueue, Retry, Worker
from redisjobs.drivers.redis.connection import Connection
from redisjobs.drivers.redis.replies import Replies
from redisjobs.drivers.redis.sync_connection import SyncConnection
from redisjobs.sync import JobQueue as SyncJobQueue

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

LEASE = 0.4
BATCH = 12  # lives at once
CRASHED = 70  # how a process ends that got to its crash point


@dataclass
class Step:
    job_name: ClassVar[str] = "Step"
    kind: str


def register(queue: JobQueue, late: Callable[[], object] = lambda: None) -> None:
    @queue.register(Step)
    async def step(step: Step, context: JobContext) -> None:
        match step.kind:
            case "ack":
                await asyncio.sleep(0.15)  # long enough for a beat
            case "retry" if context.attempt == 1:
                raise Retry(delay=0)
            case "dead":
                raise Fail("as it should")
            case "late":
                late()


# In the processes that crash: they are forked by one that has imported everything


def crash_before(nth: int) -> None:
    """End this process before the nth command from now on, of whatever connection and thread."""
    sent, lock = 0, threading.Lock()
    send, round_trip = Connection.send, SyncConnection._round_trip

    def still(wires: Sequence[Any]) -> Sequence[Any]:
        nonlocal sent
        with lock:
            before, sent = sent, sent + len(wires)
        return wires[: max(0, nth - 1 - before)]

    def send_some(self: Connection, wires: Sequence[Any]) -> Replies:
        some = still(wires)
        if len(some) == len(wires):
            return send(self, wires)
        if some:
            send(self, some)
        os._exit(CRASHED)

    def round_trip_of_some(self: SyncConnection, wires: Sequence[Any], until: float) -> list[Any]:
        some = still(wires)
        replies = round_trip(self, some, until) if some else []
        if len(some) < len(wires):
            os._exit(CRASHED)
        return replies

    Connection.send = send_some  # type: ignore[method-assign]
    SyncConnection._round_trip = round_trip_of_some  # type: ignore[method-assign]


async def live(url: str, name: str, until_idle: bool) -> None:
    """One worker's life: until it is idle, or, with blocking reads, until it is stopped after the delayed job."""
    queue, over = JobQueue(url, name), asyncio.Event()
    register(queue, over.set)
    worker = Worker(queue, lease=LEASE, concurrency=4, worker_id="mortal")

    async def stop() -> None:
        await over.wait()
        worker.stop()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.run(until_idle=until_idle))
        if not until_idle:
            tasks.create_task(stop())


def be_born(url: str, name: str, nth: int, until_idle: bool) -> None:
    code = 1
    try:
        with SyncJobQueue(url, name) as producer:
            producer.push_many([Step("ack"), Step("retry"), Step("dead")])
            producer.push(Step("late"), delay=0.01 if until_idle else 0.3)
        crash_before(nth)
        asyncio.run(live(url, name, until_idle))
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def nurse(url: str, name: str, until_idle: bool) -> None:
    """Let workers live that crash ever later, until the first that ends by itself; print how each ended."""
    for first in itertools.count(1, BATCH):
        lives = {}
        for nth in range(first, first + BATCH):
            if (pid := os.fork()) == 0:
                be_born(url, f"{name}-{nth}", nth, until_idle)
            lives[pid] = nth
        codes = []
        for _ in lives:
            pid, status = os.wait()
            codes.append(os.waitstatus_to_exitcode(status))
            print(lives[pid], codes[-1], flush=True)
        if codes.count(CRASHED) < BATCH:
            return


# In the test


async def check_that_each_job_ends_once(url: str, name: str) -> None:
    store = RedisStore(redis.Redis.from_url(url), url, name)
    queue = JobQueue(url, name)
    register(queue)
    worker = Worker(queue, lease=LEASE, concurrency=4, worker_id="healthy")

    def ended() -> bool:
        return [place.split()[0] for place in store.located().values()] == ["dead"]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually(ended, within=20)
        tasks.cancel_scope.cancel()
    counts = await queue.control.counts()
    (letter,) = await queue.control.jobs("dead")
    await queue.aclose()

    once = {"pushed": 4, "completed": 3, "retried": 1, "dead": 1}
    assert {counter: total for counter, total in counts.totals.items() if counter in once} == once, name
    assert (sum(counts.ready.values()), counts.running, counts.delayed, counts.dead) == (0, 0, 0, 1), name
    assert (letter.reason, letter.error) == ("failed", "as it should"), name
    assert (store.pending(), store.faults()) == ([], []), name
    store.end()


def open_nursery(folder: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    code = (
        "import sys; from test_crash_points import nurse; nurse(sys.argv[1], sys.argv[2], sys.argv[3] == 'True')"
    )
    here = Path(__file__).parents
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, here[:3])))  # this file, the helpers, redisjobs
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=log, env=env
        )


@pytest.mark.parametrize("until_idle", [True, False], ids=["until idle", "until stopped"])
async def test_a_worker_that_crashes_before_any_command_of_its_life_costs_no_job_and_doubles_none(
    redis_url: str, queue_name: str, tmp_path: Path, until_idle: bool
) -> None:
    ends: dict[int, int] = {}
    with open_nursery(tmp_path, redis_url, queue_name, str(until_idle)) as nursery:
        assert nursery.stdout
        async with anyio.create_task_group() as tasks:
            while line := await anyio.to_thread.run_sync(nursery.stdout.readline):
                nth, ended = map(int, line.split())
                ends[nth] = ended
                tasks.start_soon(check_that_each_job_ends_once, redis_url, f"{queue_name}-{nth}")

    assert nursery.returncode == 0, (tmp_path / "log").read_text()
    assert set(ends.values()) == {CRASHED, 0}, (tmp_path / "log").read_text()
    assert ends[1] == CRASHED
    assert len(ends) >= 2 * BATCH
