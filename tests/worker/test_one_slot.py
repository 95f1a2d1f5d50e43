"""One worker with one slot runs a parent and its children, because a parent needs no slot while it waits."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from databases import ON_POSTGRES_TOO
from each_setting import store as store
from results import drain, result

from redisjobs import JobContext, JobQueue, sync

pytestmark = [pytest.mark.anyio, ON_POSTGRES_TOO]

CHILDREN = 100


@dataclass
class Runs:
    """What has run, and how many handlers ran at once."""

    of: Counter[str] = field(default_factory=Counter)
    running: int = 0
    at_once: int = 0

    def __enter__(self) -> None:
        self.running += 1
        self.at_once = max(self.at_once, self.running)

    def __exit__(self, *error: object) -> None:
        self.running -= 1


def in_loop(queue: JobQueue, runs: Runs) -> None:
    @queue.job
    async def square(number: int) -> int:
        with runs:
            runs.of[f"child {number}"] += 1
            return number**2

    @queue.job
    async def parent(context: JobContext) -> int:
        with runs:
            runs.of["parent"] += 1
            squares = await context.run_all([square.prepare(number) for number in range(CHILDREN)])
            assert squares == [number**2 for number in range(CHILDREN)]
            return sum(squares)


def in_thread(queue: JobQueue, runs: Runs) -> None:
    @queue.job
    def square(number: int) -> int:
        with runs:
            runs.of[f"child {number}"] += 1
            return number**2

    @queue.job
    def parent(context: sync.JobContext) -> int:
        with runs:
            runs.of["parent"] += 1
            squares = context.run_all([square.prepare(number) for number in range(CHILDREN)])
            assert squares == [number**2 for number in range(CHILDREN)]
            return sum(squares)


@pytest.mark.parametrize("register", [in_loop, in_thread])
async def test_one_worker_with_one_slot_runs_a_parent_with_100_children_each_once(
    queue: JobQueue, register: Callable[[JobQueue, Runs], None]
) -> None:
    runs = Runs()
    register(queue, runs)
    handle = await queue.push({}, "parent", keep_result=60)
    await drain(queue, concurrency=1)

    assert await result(handle.result()) == sum(number**2 for number in range(CHILDREN))
    assert runs.of == {"parent": 2, **{f"child {number}": 1 for number in range(CHILDREN)}}
    assert runs.at_once == 1


async def test_children_that_have_children_need_no_more_than_one_slot(queue: JobQueue) -> None:
    runs = Runs()

    @queue.job
    async def tree(depth: int, context: JobContext) -> int:
        with runs:
            if not depth:
                return 1
            below: list[int] = await context.run_all(
                [queue.prepare({"depth": depth - 1}, "tree") for _ in range(3)]
            )
            return 1 + sum(below)

    handle = await tree.options(keep_result=60).push(3)
    await drain(queue, concurrency=1)

    assert await result(handle.result()) == 40
    assert runs.at_once == 1
