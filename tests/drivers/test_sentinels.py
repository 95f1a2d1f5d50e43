"""Sentinels name the master: whatever fails, work goes on without a restart; what replicas have is not lost."""

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

import anyio
import anyio.to_thread
import pytest
import redis
from store import eventually
from traffic import UNSENT

import redisjobs.sync
from redisjobs import JobContext, JobQueue, Priority, Schedule, Worker
from redisjobs.errors import Unavailable
from redisjobs.local.server import Server
from redisjobs_proof.torture.topology import Sentinels, ask, until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

WATCH = "redisjobs sentinels"  # the thread


@dataclass
class Carry:
    job_name: ClassVar[str] = "Carry"


@dataclass
class Report:
    job_name: ClassVar[str] = "Report"


@pytest.fixture
def options() -> list[str]:
    """Options of the servers."""
    return []


@pytest.fixture
def sentinels(options: list[str]) -> Iterator[Sentinels]:
    with Sentinels(options=options) as sentinels:
        yield sentinels
        for each in [*sentinels.servers, *sentinels.sentinels]:
            send(each, signal.SIGCONT)


def send(server: Server, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(server.pid, number)


def replicas_of(sentinels: Sentinels) -> list[Server]:
    master = sentinels.owner()
    return [each for each in sentinels.servers if each is not master]


def watching() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == WATCH]


# Everything in flight


@dataclass
class Load:
    """Producers, workers, a waiter, a watcher and a schedule, and what became of their jobs.

    Attributes:
        pushed: When each push returned, by job id.
        ran: How often each job ran.
        slots: When a job of the schedule ran.
        waited: How many results came, and how many watches ended.
    """

    url: str
    name: str
    pushed: dict[str, float] = field(default_factory=dict)
    ran: Counter[str] = field(default_factory=Counter)
    slots: list[float] = field(default_factory=list)
    waited: Counter[str] = field(default_factory=Counter)
    is_over: bool = False

    def lost(self, stopped: float = 0, replaced: float = 0) -> list[str]:
        """The jobs that did not run, but for those pushed as a master stopped, and before it was replaced."""
        kept = {job for job, at in self.pushed.items() if not stopped - UNSENT < at < replaced}
        return [job for job in kept if not self.ran[job]]

    def queue(self) -> JobQueue:
        queue = JobQueue(self.url, self.name)

        @queue.register(Carry)
        async def carry(parameters: Carry, context: JobContext) -> None:
            self.ran[context.job_id] += 1

        @queue.register(Report)
        async def report(parameters: Report, context: JobContext) -> None:
            self.ran[context.job_id] += 1
            for part in range(5):
                context.progress(part / 5)
                await anyio.sleep(0.05)

        @queue.job(schedule=Schedule.every(1))
        async def tick() -> None:
            self.slots.append(time.monotonic())

        return queue

    async def push(self, queue: JobQueue) -> None:
        while not self.is_over:
            handle = await queue.push(Carry())
            self.pushed[handle.id] = time.monotonic()
            await anyio.sleep(0.005)

    def push_sync(self) -> None:
        with redisjobs.sync.JobQueue(self.url, self.name) as queue:
            while not self.is_over:
                handle = queue.push(Carry())
                self.pushed[handle.id] = time.monotonic()
                time.sleep(0.005)

    async def wait(self, queue: JobQueue) -> None:
        while not self.is_over:
            handle = await queue.push(Carry(), keep_result=60)
            # The old master may have kept the result alone.
            with suppress(redisjobs.errors.ResultNotKept):
                await handle.result(timeout=10)
                self.waited["result"] += 1

    async def watch(self, queue: JobQueue) -> None:
        while not self.is_over:
            handle = await queue.push(Report(), keep_result=60)
            with anyio.fail_after(15), suppress(redisjobs.errors.ResultNotKept):
                async for _ in handle.watch():
                    pass
                self.waited["watch"] += 1


@asynccontextmanager
async def load(sentinels: Sentinels, name: str) -> AsyncIterator[Load]:
    """Everything in flight; at the end all of it has gone on, the queue is empty, and no call has failed."""
    load = Load(sentinels.url, name)
    async with load.queue() as queue, load.queue() as other, anyio.create_task_group() as workers:
        for each in (queue, other):
            workers.start_soon(Worker(each, concurrency=5, lease=3).run)
        async with anyio.create_task_group() as producers:
            for producer in (load.push, load.wait, load.watch):
                producers.start_soon(producer, queue)
            producers.start_soon(anyio.to_thread.run_sync, load.push_sync)
            try:
                await eventually(lambda: load.slots and load.waited["watch"], within=15)
                yield load
                await goes_on(load)
            finally:
                load.is_over = True
        with suppress(TimeoutError):  # the test says which are missing
            await eventually(lambda: not load.lost(), within=5)
        workers.cancel_scope.cancel()


async def goes_on(load: Load) -> None:
    """Wait until everything has done something more."""
    pushed, ran, slots, before = len(load.pushed), len(load.ran), len(load.slots), load.waited.copy()
    await eventually(lambda: len(load.pushed) > pushed + 20 and len(load.ran) > ran + 20, within=15)
    await eventually(lambda: len(load.slots) > slots and load.waited["watch"] > before["watch"] + 1, within=15)
    await eventually(lambda: load.waited["result"] > before["result"] + 1, within=15)


def graceful(sentinels: Sentinels) -> None:
    """Promote a replica as an operator should: the master takes no writes meanwhile."""
    ask(sentinels.owner(), "CLIENT", "PAUSE", "5000", "WRITE")
    sentinels.fail_over()


def killed(sentinels: Sentinels) -> None:
    sentinels.owner().kill()


def frozen(sentinels: Sentinels) -> None:
    """Freeze the master until another one has taken over. Then it takes writes, for some seconds."""
    master = sentinels.owner()
    send(master, signal.SIGSTOP)
    until(lambda: sentinels.owner().port != master.port, "a replica took over")
    send(master, signal.SIGCONT)


@pytest.mark.parametrize("fault", [graceful, killed, frozen])
async def test_after_a_failover_all_goes_on_and_nothing_that_was_pushed_is_lost(
    fault: Callable[[Sentinels], None], sentinels: Sentinels, queue_name: str
) -> None:
    old = sentinels.owner()
    async with load(sentinels, queue_name) as each:
        stopped = time.monotonic()
        await anyio.to_thread.run_sync(fault, sentinels)
        await anyio.to_thread.run_sync(until, lambda: sentinels.owner().port != old.port, "a replica took over")
        replaced = time.monotonic()
    assert (each.lost() if fault is graceful else each.lost(stopped, replaced)) == []


def one_down(sentinels: Sentinels) -> None:
    sentinels.sentinels[0].kill()


def one_frozen(sentinels: Sentinels) -> None:
    send(sentinels.sentinels[0], signal.SIGSTOP)


def all_down(sentinels: Sentinels) -> None:
    for each in sentinels.sentinels:
        each.kill()


@pytest.mark.parametrize("fault", [one_down, one_frozen, all_down])
async def test_while_sentinels_fail_and_the_master_lives_work_goes_on(
    fault: Callable[[Sentinels], None], sentinels: Sentinels, queue_name: str
) -> None:
    async with load(sentinels, queue_name) as each:
        fault(sentinels)
        await anyio.sleep(1.5)  # longer than the thread waits for a sentinel
        began = time.monotonic()
        await goes_on(each)
        assert time.monotonic() - began < 5
    assert each.lost() == []
    assert set(each.ran.values()) == {1}


@pytest.mark.parametrize("options", [["--min-replicas-to-write", "1", "--min-replicas-max-lag", "1"]])
async def test_while_too_few_replicas_answer_pushes_wait_and_each_is_added_once(
    sentinels: Sentinels, queue_name: str
) -> None:
    replicas = replicas_of(sentinels)
    async with load(sentinels, queue_name) as each:
        for replica in replicas:
            send(replica, signal.SIGSTOP)
        await anyio.sleep(3.5)
        waiting = len(each.pushed)
        await anyio.sleep(0.5)
        assert len(each.pushed) == waiting
        for replica in replicas:
            send(replica, signal.SIGCONT)
    assert each.lost() == []
    assert set(each.ran.values()) == {1}


# Pushes that wait for replicas


async def test_a_push_for_replicas_fails_while_they_lack_it_and_its_repetition_adds_nothing(
    sentinels: Sentinels, queue_name: str
) -> None:
    replicas = replicas_of(sentinels)
    async with JobQueue(sentinels.url, queue_name, deadline=3) as queue:
        await queue.push(Carry(), replicas=2)
        send(replicas[0], signal.SIGSTOP)
        await queue.push(Carry(), replicas=1)
        with pytest.raises(Unavailable, match="only 1 of 2 replicas have the push") as caught:
            await queue.push(Carry(), job_id="mine", replicas=2)
        await queue.aclose()  # WAIT knows nothing of what another connection wrote
        with pytest.raises(Unavailable, match="only 1 of 2"):
            await queue.push_many(caught.value.jobs)
        send(replicas[0], signal.SIGCONT)
        (handle,) = await queue.push_many(caught.value.jobs)
        assert (handle.id, handle.added) == ("mine", True)
        assert (await queue.control.counts()).ready[Priority.NORMAL] == 3
    assert ask(replicas[0], "HEXISTS", f"redisjobs:{{{queue_name}}}:jobs", "mine") == 1


async def test_a_sync_push_for_replicas_fails_while_they_lack_it(sentinels: Sentinels, queue_name: str) -> None:
    def push() -> None:
        with redisjobs.sync.JobQueue(sentinels.url, queue_name, deadline=2) as queue:
            assert queue.push(Carry(), replicas=2).added
            assert len(queue.push_many([Carry()] * 501, replicas=2)) == 501
            for each in replicas:
                send(each, signal.SIGSTOP)
            with pytest.raises(Unavailable, match="only 0 of 2 replicas have the push"):
                queue.push(Carry(), replicas=2)

    replicas = replicas_of(sentinels)
    await anyio.to_thread.run_sync(push)


async def test_pushes_for_replicas_share_round_trips_and_hold_up_no_others(
    sentinels: Sentinels, queue_name: str
) -> None:
    master, replicas = sentinels.owner(), replicas_of(sentinels)
    async with JobQueue(sentinels.url, queue_name) as queue:
        await queue.push(Carry(), replicas=2)
        await asyncio.gather(*(queue.push(Carry(), replicas=2) for _ in range(100)))
        calls = ask(master, "INFO", "commandstats").decode()
        assert int(calls.split("cmdstat_wait:calls=")[1].split(",")[0]) < 20
        send(replicas[0], signal.SIGSTOP)
        slow = asyncio.create_task(queue.push(Carry(), replicas=2))
        await asyncio.gather(*(queue.push(Carry()) for _ in range(100)))
        assert not slow.done()
        send(replicas[0], signal.SIGCONT)
        assert (await slow).added


async def test_after_a_killed_master_nothing_is_lost_that_one_replica_had(
    sentinels: Sentinels, queue_name: str
) -> None:
    pushed = list[str]()

    async def push(queue: JobQueue) -> None:
        while True:
            pushed.append((await queue.push(Carry(), replicas=1)).id)

    async with JobQueue(sentinels.url, queue_name) as queue, anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(push, queue)
        await eventually(lambda: len(pushed) > 200)
        old = sentinels.owner()
        old.kill()
        killed = len(pushed)
        await eventually(lambda: len(pushed) > killed + 200, within=15)
        tasks.cancel_scope.cancel()
    there = redis.Redis(port=sentinels.owner().port).hkeys(f"redisjobs:{{{queue_name}}}:jobs")
    assert set(pushed) <= {job.decode() for job in there}  # type: ignore[union-attr]


# The thread


async def test_the_thread_ends_with_the_last_connection_and_starts_with_the_next(
    sentinels: Sentinels, queue_name: str
) -> None:
    queue = JobQueue(sentinels.url, queue_name)
    for _ in range(2):
        await queue.push(Carry())
        assert len(watching()) == 1
        await queue.aclose()
        await eventually(lambda: not watching())
    assert ask(sentinels.sentinels[0], "CLIENT", "LIST").decode().count("\n") < 10


async def test_the_thread_ends_when_its_queue_is_garbage(sentinels: Sentinels, queue_name: str) -> None:
    def push() -> None:
        redisjobs.sync.JobQueue(sentinels.url, queue_name).push(Carry())

    await anyio.to_thread.run_sync(push)
    gc.collect()
    await eventually(lambda: not watching())


async def test_a_forked_process_has_a_thread_of_its_own(sentinels: Sentinels, queue_name: str) -> None:
    code = f"""
import os, threading, redisjobs.sync
from dataclasses import dataclass
@dataclass
class Carry:
    job_name = "Carry"
def names():
    return [each.name for each in threading.enumerate()].count({WATCH!r})
queue = redisjobs.sync.JobQueue({sentinels.url!r}, {queue_name!r})
queue.push(Carry())
child = os.fork()
if not child:
    before = names()
    queue.push(Carry())
    os._exit(0 if (before, names()) == (0, 1) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
queue.push(Carry())
queue.close()
"""
    command = [sys.executable, "-W", "error", "-c", code]
    done = await anyio.run_process(command, check=False, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr.decode().count("Error")) == (0, 0), done.stderr.decode()


async def test_a_queue_hears_of_a_failover_from_the_sentinels_that_are_left(
    sentinels: Sentinels, queue_name: str
) -> None:
    send(sentinels.sentinels[0], signal.SIGSTOP)
    old = sentinels.owner()
    async with JobQueue(sentinels.url, queue_name) as queue:
        await queue.push(Carry())
        others = sentinels.sentinels[1:]
        until(lambda: ask(others[0], "SENTINEL", "FAILOVER", sentinels.name), "a sentinel may fail over")
        driver: Any = queue.driver
        await eventually(lambda: driver.target.locator.known.port != old.port, within=15)
        assert (await queue.push(Carry())).added


# At start


@pytest.mark.parametrize("needs", [0, 1])
async def test_a_replicated_server_that_needs_no_replica_gets_one_warning(
    needs: int, sentinels: Sentinels, queue_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    ask(sentinels.owner(), "CONFIG", "SET", "min-replicas-to-write", str(needs))
    with caplog.at_level(logging.WARNING):
        async with JobQueue(sentinels.url, queue_name) as queue:
            queue.register(Carry)(lambda parameters: None)
            await queue.push(Carry())
            await Worker(queue).run(until_idle=True)
    said = [text for text in caplog.messages if "min-replicas-to-write" in text]
    assert len(said) == (0 if needs else 1)
