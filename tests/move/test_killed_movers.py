"""Movers that are killed and frozen at any point, while workers and a producer go on: each job runs once."""

import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from movings import Ends, move
from movings import ends as ends
from store import Store, eventually

from redisjobs import JobName, JobQueue, State, Worker
from redisjobs.control.move.mover import Mover
from redisjobs.drivers import connect
from redisjobs.local import server

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(900)]

KILLS = int(os.environ.get("REDISJOBS_TRIES", "60"))
"""How many movers are killed at random times; a twentieth as many times at each of their calls."""
SEED = int(os.environ.get("REDISJOBS_SEED", random.randrange(10**6)))
Numbered = JobName("Numbered", dict[str, int])


class Runs:
    """What workers at both ends have run, and what a producer has pushed at the source."""

    def __init__(self, name: str, *ends: str) -> None:
        self.ran, self.pushed = Counter[int](), 0
        self._is_enough, self._produced = False, anyio.Event()
        self._queues = [JobQueue(url, name) for url in ends]
        for queue in self._queues:
            queue.register(Numbered)(self._count)
        self._workers = [Worker(queue) for queue in self._queues]

    async def _count(self, parameters: dict[str, int]) -> None:
        self.ran[parameters["number"]] += 1

    async def push(self, many: int) -> None:
        """Push jobs: some ready, some delayed, some with a unique key."""
        for number in range(self.pushed, self.pushed + many):
            options: dict[str, Any] = {"delay": 0.2} if number % 3 == 1 else {}
            options |= {"unique": f"key{number}"} if number % 3 == 2 else {}
            await self._queues[0].push({"number": number}, Numbered, **options)
        self.pushed += many

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let workers run at both ends until all jobs have run, and a producer push meanwhile."""
        async with self._queues[0], self._queues[1], anyio.create_task_group() as tasks:
            for each in (*(worker.run for worker in self._workers), self._produce):
                tasks.start_soon(each)
            yield
            await eventually(lambda: len(self.ran) >= self.pushed, 60)
            for worker in self._workers:
                worker.stop()

    async def _produce(self) -> None:
        while not self._is_enough:
            await self.push(5)
            await anyio.sleep(0.02)
        self._produced.set()

    async def stop_producing(self) -> None:
        """Let the producer end after its present push."""
        self._is_enough = True
        await self._produced.wait()


def urls(*stores: Store) -> list[str]:
    return [store.url for store in stores]  # type: ignore[attr-defined]


@pytest.fixture(params=["calls", "times"])
def how(request: pytest.FixtureRequest) -> list[object]:
    return ["calls", max(1, KILLS // 40)] if request.param == "calls" else ["times", KILLS, SEED]


@pytest.mark.parametrize("ends", [("redis", "postgres"), ("postgres", "redis")], indirect=True, ids=" to ".join)
async def test_each_job_runs_once_though_movers_are_killed_and_frozen(ends: Ends, how: list[object]) -> None:
    source, target = ends
    mode, *rest = how
    runs = Runs(source.queue_name, *urls(source, target))
    await runs.push(2000)
    command = [sys.executable, str(Path(__file__).with_name("moving_processes.py")), mode]
    command += [*urls(source, target), source.queue_name, *rest]

    async with runs.running():
        await anyio.run_process([*map(str, command)], stderr=None)
        await runs.stop_producing()
        assert (await move(source, target)).is_done

    assert set(runs.ran.values()) == {1}, f"seed {SEED}"
    assert len(runs.ran) == runs.pushed


async def test_each_job_is_moved_once_though_both_servers_are_killed(queue_name: str) -> None:
    chance = random.Random(SEED)
    with server.start() as source, server.start() as target:
        async with JobQueue(source.url, queue_name) as queue:
            ids = [handle.id for handle in await queue.push_many([{"number": n} for n in range(8000)], Numbered)]
        said = list[str]()
        mover = Mover(connect(source.url, queue_name), connect(target.url, queue_name), said.append)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(mover.run)
            await eventually(lambda: said)
            for number in range(6):
                await anyio.sleep(chance.uniform(0, 0.3))
                killed = (source, target)[number % 2]
                await anyio.to_thread.run_sync(killed.kill)
                await anyio.to_thread.run_sync(killed.restart)
        async with JobQueue(target.url, queue_name) as queue:
            there = [info.job_id async for info in queue.control.scan(State.READY)]

    assert there == ids, f"seed {SEED}"
    assert [line for line in said if line.endswith("trying again")]
