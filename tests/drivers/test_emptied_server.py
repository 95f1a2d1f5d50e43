"""The server loses its data under running workers: what their code declares holds again, and no job runs twice."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import anyio
import pytest
import redis
from store import RedisStore, eventually

from conftest import ENGINES
from redisjobs import JobQueue, Keep, Retention, Worker
from redisjobs.drivers.redis.commands import run_id
from redisjobs.local import server
from redisjobs.model.driver import Fenced
from redisjobs.model.job import Priority
from redisjobs.model.transitions import NewJob

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

KEPT = Retention(completed=Keep(count=7))


def test_a_server_is_known_by_the_name_of_its_process_whatever_bytes_its_paths_have() -> None:
    facts = b"# Server\r\nexecutable:/j\xfcrgen/run_id:none\r\nrun_id:7e1f\r\nconfig_file:\xff\r\n"

    assert [run_id().parse(reply) for reply in (facts, b"# Server\r\n")] == ["7e1f", ""]


@dataclass
class Import:
    job_name: ClassVar[str] = "Import"
    number: int = 0


@pytest.fixture(params=ENGINES)
def own(request: pytest.FixtureRequest) -> Iterator[server.Server]:
    """A server of the test's own that keeps nothing on the disk."""
    with server.start(server.inspect(ENGINES[request.param]), options=["--appendonly", "no"]) as own:
        yield own


@pytest.fixture
def admin(own: server.Server) -> Iterator[Any]:
    with redis.Redis.from_url(own.url) as admin:
        yield admin


@dataclass
class Fleet:
    """Workers of one queue that run at most one job at once, and what they did."""

    url: str
    name: str
    now: int = 0
    most: int = 0
    started: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    queues: list[JobQueue] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.queue = self._queue()
        self.prefix = f"redisjobs:{{{self.name}}}:"

    def _queue(self) -> JobQueue:
        queue = JobQueue(self.url, self.name, retention=KEPT)
        self.queues.append(queue)

        @queue.register(Import, max_concurrency=1)
        async def run(job: Import) -> None:
            self.now += 1
            self.most = max(self.most, self.now)
            self.started.append(job.number)
            await anyio.sleep(0.02)
            self.ended.append(job.number)
            self.now -= 1

        return queue

    def add(self) -> Worker:
        self.workers.append(Worker(self._queue(), concurrency=10, lease=1))
        return self.workers[-1]

    async def do(self, numbers: range) -> None:
        """Push jobs, and wait until they have run."""
        await self.queue.push_many([Import(number) for number in numbers])
        await eventually(lambda: sorted(self.ended[-len(numbers) :]) == list(numbers), within=20)

    def has_joined(self, admin: Any) -> bool:
        """Whether the server knows all workers as those that they are now, and what they declare."""
        known = {worker.decode() for worker in admin.zrange(f"{self.prefix}workers", 0, -1)}
        declared = admin.hexists(f"{self.prefix}layout", "declared")
        return bool(declared) and {worker.worker_id for worker in self.workers} == known


@asynccontextmanager
async def at_work(own: server.Server, admin: Any, name: str, workers: int = 2) -> AsyncIterator[Fleet]:
    fleet = Fleet(own.url, name)
    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(workers):
                tasks.start_soon(fleet.add().run)
            await eventually(lambda: fleet.has_joined(admin))
            yield fleet
            for worker in fleet.workers:
                worker.stop()
    finally:
        with anyio.CancelScope(shield=True):
            for queue in fleet.queues:
                await queue.aclose()


def emptied(own: server.Server, admin: Any) -> None:
    admin.flushall()


def restarted(own: server.Server, admin: Any) -> None:
    own.kill()
    own.restart()


@pytest.mark.parametrize("lose", [emptied, restarted])
async def test_a_declared_limit_and_retention_hold_after_the_server_has_lost_its_data(
    own: server.Server, admin: Any, queue_name: str, lose: Callable[[server.Server, Any], None]
) -> None:
    async with at_work(own, admin, queue_name) as fleet:
        await fleet.do(range(5))
        lose(own, admin)
        await eventually(lambda: fleet.has_joined(admin), within=20)
        await fleet.do(range(5, 30))

        assert fleet.most == 1
        assert admin.hget(f"{fleet.prefix}retention", "completed") == KEPT.completed.text.encode()  # type: ignore[union-attr]
        assert sorted(fleet.started) == list(range(30))


async def test_a_limit_holds_after_the_server_was_restarted_with_data_from_before_it_was_declared(
    own: server.Server, admin: Any, queue_name: str
) -> None:
    old = JobQueue(own.url, queue_name)
    await old.control.set_limit("Import", max_concurrency=10)
    await Worker(old).run(until_idle=True)
    admin.save()
    async with at_work(own, admin, queue_name) as fleet:
        await fleet.do(range(3))
        own.kill()
        own.restart()
        assert admin.hget(f"{fleet.prefix}limits", "Import") == b"max_concurrency=10"
        await eventually(lambda: fleet.has_joined(admin), within=20)
        await fleet.do(range(3, 20))

        assert fleet.most == 1
    await old.aclose()


@pytest.mark.parametrize("registers", ["", "another handler since"])
async def test_a_worker_that_was_merely_fenced_leaves_a_limit_that_was_set_since(
    own: server.Server, admin: Any, queue_name: str, registers: str
) -> None:
    async with at_work(own, admin, queue_name, workers=1) as fleet:
        (worker,) = fleet.workers
        if registers:
            fleet.queues[-1].job(name="Late", max_concurrency=5)(lambda: None)
        await fleet.queue.control.set_limit("Import", max_concurrency=3)
        admin.hset(f"{fleet.prefix}retention", "completed", "- 9")
        was = worker.worker_id
        admin.delete(f"{fleet.prefix}worker:{was}")  # as after its lease, and the time for which it is remembered
        admin.zrem(f"{fleet.prefix}workers", was)
        await eventually(lambda: worker.worker_id != was and fleet.has_joined(admin))
        await fleet.do(range(3))

        assert admin.hget(f"{fleet.prefix}limits", "Import") == b"max_concurrency=3"
        assert admin.hget(f"{fleet.prefix}retention", "completed") == b"- 9"


async def test_a_job_pushed_right_after_the_server_was_emptied_runs_once(
    own: server.Server, admin: Any, queue_name: str
) -> None:
    starts, may_end = list[str](), anyio.Event()
    queue = JobQueue(own.url, queue_name)

    @queue.job()
    async def work(label: str) -> None:
        starts.append(label)
        await may_end.wait()

    async with queue, anyio.create_task_group() as tasks:
        workers = [Worker(queue, concurrency=2, lease=1.5) for _ in range(2)]
        for worker in workers:
            tasks.start_soon(worker.run)
        await eventually(lambda: sum("b" in client["flags"] for client in admin.client_list()) == 2)
        ids = [worker.worker_id for worker in workers]
        admin.flushall()
        await work.push("first")
        await eventually(lambda: all(worker.worker_id not in ids for worker in workers))
        await work.push("second")
        await eventually(lambda: "second" in starts)

        assert sorted(starts) == ["first", "second"]
        may_end.set()
        await eventually(lambda: admin.hget(f"redisjobs:{{{queue_name}}}:stats", "completed") == b"2")
        for worker in workers:
            worker.stop()


async def test_a_worker_without_a_record_makes_no_group_and_is_given_no_job(engine_store: RedisStore) -> None:
    store = engine_store
    worker, other = store.consumer("w"), store.consumer("other")
    async with aclosing(store.driver), aclosing(worker), aclosing(other):
        await worker.exchange([], 1)
        store.admin.delete(*store.admin.scan_iter(f"{store.prefix}*"))

        for ask in (
            lambda: worker.wait(1, 0.01),
            lambda: worker.exchange([], 1),
            lambda: worker.recover([]),
        ):
            with pytest.raises(Fenced):
                await ask()
        assert store.keys() == {}

        await other.open("other-2")
        await store.driver.push([NewJob("a", ["name", "Work", "parameters", "{}"])], repeated=False)
        with pytest.raises(Fenced):
            await worker.wait(1, 0.01)
        await worker.release(refund=False, watch=True)
        (lease,) = (await other.exchange([], 2)).leases
        assert (lease.job_id, lease.deliveries) == ("a", 2)


async def test_a_worker_makes_a_group_again_that_an_operator_has_removed(engine_store: RedisStore) -> None:
    store = engine_store
    worker = store.consumer("w")
    async with aclosing(store.driver), aclosing(worker):
        await worker.exchange([], 1)
        store.admin.delete(*(store.stream(priority) for priority in Priority))
        await store.driver.push([NewJob("a", ["name", "Work", "parameters", "{}"])], repeated=False)

        assert [lease.job_id for lease in await worker.wait(1, 1)] == ["a"]


async def test_jobs_run_once_though_the_server_was_restarted_with_data_that_lacks_the_beats_of_a_lease(
    own: server.Server, admin: Any, queue_name: str
) -> None:
    starts, may_end = list[int](), anyio.Event()
    queue = JobQueue(own.url, queue_name)

    @queue.job()
    async def work(number: int) -> None:
        starts.append(number)
        await may_end.wait()

    def ends_of_leases() -> list[float]:
        return [end for _, end in admin.zrange(f"redisjobs:{{{queue_name}}}:workers", 0, -1, withscores=True)]

    async with queue, anyio.create_task_group() as tasks:
        workers = [Worker(queue, concurrency=2, lease=2) for _ in range(3)]
        for worker in workers:
            tasks.start_soon(worker.run)
        for number in range(6):
            await work.push(number)
        await eventually(lambda: len(starts) == 6)
        admin.save()
        saved = max(ends_of_leases())
        await eventually(
            lambda: min(ends_of_leases()) > saved + 2000
        )  # by then, all leases that were saved are over
        own.kill()
        own.restart()
        await eventually(lambda: min(ends_of_leases()) > saved + 5000)  # each beats at the restarted server
        may_end.set()
        await eventually(lambda: admin.hget(f"redisjobs:{{{queue_name}}}:stats", "completed") == b"6")
        for worker in workers:
            worker.stop()

    assert sorted(starts) == list(range(6))
