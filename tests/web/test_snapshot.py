"""Reads that all viewers share."""

import anyio
import pytest

from redisjobs.errors import Unavailable
from redisjobs.web.board.snapshot import Snapshots

pytestmark = pytest.mark.anyio


class Source:
    """Something to read: counts its reads and waits for a gate."""

    def __init__(self) -> None:
        self.reads = 0
        self.gate = anyio.Event()

    async def read(self) -> int:
        self.reads += 1
        await self.gate.wait()
        return self.reads


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def time() -> list[float]:
    return [0.0]


@pytest.fixture
def snapshots(time: list[float]) -> Snapshots:
    return Snapshots(lambda: time[0])


async def test_ten_viewers_make_one_read(snapshots: Snapshots, source: Source) -> None:
    got = list[int]()

    async def view() -> None:
        got.append(await snapshots.get("a", source.read))

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(view)
        await anyio.wait_all_tasks_blocked()
        source.gate.set()

    assert (got, source.reads) == ([1] * 10, 1)


async def test_an_answer_is_kept_for_a_second(snapshots: Snapshots, source: Source, time: list[float]) -> None:
    source.gate.set()

    assert await snapshots.get("a", source.read) == 1
    time[0] = 0.9
    assert await snapshots.get("a", source.read) == 1
    time[0] = 1.1
    assert await snapshots.get("a", source.read) == 2


async def test_a_slow_read_is_kept_for_longer(snapshots: Snapshots, time: list[float]) -> None:
    reads = list[int]()

    async def slow() -> int:
        time[0] += 2
        reads.append(1)
        return len(reads)

    await snapshots.get("a", slow)
    time[0] += 19
    assert await snapshots.get("a", slow) == 1
    time[0] += 2
    assert await snapshots.get("a", slow) == 2


async def test_an_error_is_shared_too_and_only_for_a_second(snapshots: Snapshots, time: list[float]) -> None:
    reads = list[int]()

    async def fail() -> int:
        reads.append(1)
        time[0] += 3  # the deadline of a call
        raise Unavailable("gone")

    for _ in range(3):
        with pytest.raises(Unavailable, match="gone"):
            await snapshots.get("a", fail)
    assert len(reads) == 1
    time[0] += 1.1
    with pytest.raises(Unavailable):
        await snapshots.get("a", fail)
    assert len(reads) == 2


async def test_a_viewer_who_leaves_makes_another_one_read(snapshots: Snapshots, source: Source) -> None:
    got = list[int]()

    async def view() -> None:
        got.append(await snapshots.get("a", source.read))

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as leaving:
            async with anyio.create_task_group() as first:
                first.start_soon(view)
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(view)
                await anyio.wait_all_tasks_blocked()
                leaving.cancel()
        await anyio.wait_all_tasks_blocked()
        source.gate.set()

    assert (got, source.reads) == ([2], 2)


async def test_a_read_that_began_before_a_change_is_not_kept(snapshots: Snapshots, source: Source) -> None:
    async def view() -> None:
        assert await snapshots.get("a", source.read) == 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(view)
        await anyio.wait_all_tasks_blocked()
        snapshots.forget()
        source.gate.set()

    assert await snapshots.get("a", source.read) == 2


async def test_few_answers_are_kept(snapshots: Snapshots, source: Source) -> None:
    source.gate.set()

    for number in range(1_000):
        await snapshots.get(number, source.read)

    assert len(snapshots._kept) == 100
