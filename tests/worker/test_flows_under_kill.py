"""Many children of one parent, and a chain of many waits, while workers and the server are killed."""

import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import TypedDict

import pytest
from fleet import Fleet
from store import eventually

from redisjobs.local import server
from redisjobs.model.job import JobName
from redisjobs_proof.torture.fleet.final import FinalState, final_state
from redisjobs_proof.torture.fleet.redis_store import RedisStore

TRIES = int(os.environ.get("REDISJOBS_TRIES", "100"))
"""How many waits the chain has; the parent has ten times as many children. 1,000 is the most."""
SEED = int(os.environ.get("REDISJOBS_SEED", random.randrange(10**6)))
KILLS = max(8, TRIES // 25)

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(240 + 2 * TRIES)]

APP = """
import asyncio, os
from dataclasses import dataclass
from typing import ClassVar
from redisjobs import JobContext, JobQueue, Worker

queue = JobQueue(os.environ["REDISJOBS_URL"], os.environ["QUEUE"])


@dataclass
class Parent:
    job_name: ClassVar[str] = "Parent"
    children: int


@dataclass
class Child:
    job_name: ClassVar[str] = "Child"
    number: int


@dataclass
class Chain:
    job_name: ClassVar[str] = "Chain"
    waits: int


def note(*words: object) -> None:
    descriptor = os.open("recording", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, (" ".join(map(str, words)) + "\\n").encode())
    os.close(descriptor)


@queue.register(Parent)
async def parent(parent: Parent, context: JobContext) -> int:
    numbers = await context.run_all([queue.prepare(Child(number)) for number in range(parent.children)])
    note("woken", context.job_id)
    return sum(numbers)


@queue.register(Child)
async def child(child: Child, context: JobContext) -> int:
    note("child", child.number, context.job_id)
    return child.number


@queue.register(Chain)
async def chain(chain: Chain, context: JobContext) -> int:
    note("chain", context.job_id)
    for _ in range(chain.waits):
        await context.sleep(0.001)
    return chain.waits


if __name__ == "__main__":
    asyncio.run(Worker(queue, concurrency=20, lease=1, max_deliveries=1000).run(handle_signals=True))
"""


class Sized(TypedDict, total=False):
    """The parameters of a parent or a chain."""

    children: int
    waits: int


class Bench:
    """Two workers, a server of their own, and what kills them.

    Attributes:
        killed: How often each of them was killed.
    """

    def __init__(self, folder: Path, own: server.Server) -> None:
        (folder / "flows.py").write_text(APP)
        self.own, self.folder = own, folder
        self.fleet = Fleet(folder, own.url, "flows")
        self.store = RedisStore(own.url, "flows")
        self.killed: defaultdict[str, int] = defaultdict(int)
        self._rng = random.Random(SEED)
        self._workers = [self._worker() for _ in range(2)]

    def end(self) -> None:
        self.store.close()
        self.fleet.end()

    def push(self, name: str, size: Sized) -> str:
        return self.fleet.queue.push(size, JobName(name, Sized), keep_result=3600).id

    def lines(self) -> list[list[str]]:
        recording = self.folder / "recording"
        return [line.split() for line in recording.read_text().splitlines()] if recording.exists() else []

    def drained(self) -> bool:
        return self.store.drained

    def kill(self) -> None:
        """Kill a worker or the server, and start it again."""
        if self._rng.random() < 0.3:
            self.killed["server"] += 1
            self.own.kill()
            self.own.restart()
        else:
            self.killed["worker"] += 1
            victim = self._workers.pop(self._rng.randrange(2))
            victim.kill()
            victim.wait()
            self._workers.append(self._worker())

    def final(self) -> FinalState:
        self.store.tidy()
        return final_state(self.store)

    def _worker(self) -> "Popen[bytes]":
        return self.fleet.start([sys.executable, "flows.py"])


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with server.start(options=("--appendfsync", "always")) as own:
        bench = Bench(tmp_path, own)
        yield bench
        bench.end()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_children_and_waits_survive_kills_of_workers_and_of_the_server(bench: Bench) -> None:
    began = time.monotonic()
    parent, chain = bench.push("Parent", {"children": 10 * TRIES}), bench.push("Chain", {"waits": TRIES})
    steps = 11 * TRIES // (KILLS + 1)  # lines of the recording from one kill to the next
    goal = steps
    while not bench.drained():
        await eventually(lambda goal=goal: len(bench.lines()) >= goal or bench.drained(), within=120)  # type: ignore[misc]
        bench.kill()
        goal = len(bench.lines()) + steps
    seconds = time.monotonic() - began

    queue, totals = bench.fleet.queue, bench.store.counts().totals
    print(f"seed {SEED}: {10 * TRIES:,} children, {TRIES:,} waits; killed {dict(bench.killed)}; {seconds:.0f} s")
    assert (queue.result(parent), queue.result(chain)) == (sum(range(10 * TRIES)), TRIES), f"seed {SEED}"
    ids = defaultdict[str, set[str]](set)
    for what, *told in bench.lines():
        if what == "child":
            ids[told[0]].add(told[1])
    assert ids.keys() == {str(number) for number in range(10 * TRIES)}
    assert all(len(each) == 1 for each in ids.values()), f"seed {SEED}"
    jobs = 2 + 10 * TRIES
    assert (totals["pushed"], totals["completed"], totals["dead"]) == (jobs, jobs, 0), f"seed {SEED}"
    assert (totals["suspended"], totals["woken"]) == (1 + TRIES, 1 + TRIES), f"seed {SEED}"
    final = bench.final()
    assert (final.left, final.located) == ([], {}), f"seed {SEED}"
