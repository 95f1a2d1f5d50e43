"""A queue whose keys are of another version: each side refuses it and writes nothing, until it is empty."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import anyio.to_thread
import pytest
from store import RedisStore

from redisjobs import JobQueue, Worker, sync
from redisjobs.drivers.redis.commands import LAYOUT
from redisjobs.errors import DriverError
from redisjobs.queries import Declare

pytestmark = pytest.mark.anyio

ASKS: dict[str, Callable[[JobQueue], Awaitable[object]]] = {
    "push": lambda queue: queue.push({}, "Work"),
    "push_many": lambda queue: queue.push_many([{}] * 100, "Work"),
    "get": lambda queue: queue.get("a"),
    "cancel": lambda queue: queue.cancel("a"),
    "pause": lambda queue: queue.pause(),
    "counts": lambda queue: queue.counts(),
    "declare": lambda queue: queue.driver.change(Declare("c0ffee", done=True)),
    "worker": lambda queue: Worker(queue).run(until_idle=True),
}


@pytest.fixture
def old(engine_store: RedisStore) -> RedisStore:
    """A queue as a release with version 2 of the keys left it: one job is ready, one is a dead letter."""
    admin, prefix = engine_store.admin, engine_store.prefix
    ready = admin.xadd(f"{prefix}ready:normal", {"id": "a", "name": "Work", "parameters": "{}"}).decode()
    dead = admin.xadd(
        f"{prefix}dead", {"id": "b", "name": "Work", "parameters": "{}", "reason": "failed"}
    ).decode()
    admin.xgroup_create(f"{prefix}ready:normal", "workers", "0")
    admin.hset(f"{prefix}jobs", mapping={"a": f"ready:normal {ready}", "b": f"dead {dead}"})
    admin.hset(f"{prefix}layout", mapping={"version": "2", "tidied_at": "1700000000000"})
    admin.hset(f"{prefix}stats", "pushed", "2")
    admin.zadd(f"{prefix}workers", {"gone:1:abcd": 1})
    return engine_store


@pytest.fixture
async def queue(engine_store: RedisStore) -> AsyncIterator[JobQueue]:
    async with aclosing(JobQueue(engine_store.url, engine_store.queue_name)) as queue:
        queue.job(name="Work")(lambda: None)
        yield queue


def emptied(store: RedisStore) -> None:
    """As the older release leaves the queue once its last job has ended."""
    store.admin.xtrim(store.stream(), 0, approximate=False)
    store.admin.xtrim(f"{store.prefix}dead", 0, approximate=False)
    store.admin.delete(f"{store.prefix}jobs")


def make_orderly(store: RedisStore) -> None:
    emptied(store)
    store.admin.delete(f"{store.prefix}workers")


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("version", ["2", "9"])
async def test_a_release_refuses_a_queue_of_another_version_and_writes_nothing(
    old: RedisStore, queue: JobQueue, version: str, ask: str
) -> None:
    old.admin.hset(f"{old.prefix}layout", "version", version)
    before = old.contents()
    way = "run the queue empty" if version == "2" else "too old"

    with pytest.raises(
        DriverError, match=rf"of version {version}, .* version {LAYOUT}: .*{way}.*nothing was written"
    ):
        await ASKS[ask](queue)

    assert old.contents() == before
    make_orderly(old)


async def test_the_sync_face_refuses_it_as_well(old: RedisStore) -> None:
    before = old.contents()
    with sync.JobQueue(old.url, old.queue_name) as queue:
        queue.job(name="Work")(lambda: None)
        for ask in (lambda: queue.push({}, "Work"), queue.counts):
            with pytest.raises(DriverError, match="of version 2"):
                await anyio.to_thread.run_sync(ask)

    assert old.contents() == before
    make_orderly(old)


async def test_a_worker_takes_a_queue_of_an_older_version_over_once_it_holds_no_jobs(
    old: RedisStore, queue: JobQueue
) -> None:
    emptied(old)
    with pytest.raises(DriverError, match="start a worker of this release"):
        await queue.push({}, "Work")

    await Worker(queue).run(until_idle=True)

    assert old.admin.hget(f"{old.prefix}layout", "version") == str(LAYOUT).encode()
    assert (await queue.push({}, "Work")).added
    await Worker(queue).run(until_idle=True)
    assert (await queue.counts()).totals["completed"] == 1
    make_orderly(old)


@pytest.mark.parametrize("left", ["a locator", "an entry without one", "a worker"])
async def test_what_only_the_older_release_can_read_keeps_the_queue_from_being_taken_over(
    old: RedisStore, queue: JobQueue, left: str
) -> None:
    emptied(old)
    match left:
        case "a locator":
            old.admin.hset(f"{old.prefix}jobs", "c", "delayed 1700000000000-0")
        case "an entry without one":
            old.put({"name": "Work", "parameters": "{}"})
        case _:
            old.admin.zadd(f"{old.prefix}workers", {"lives:2:abcd": 32503680000000})
    before = old.contents()

    with pytest.raises(DriverError, match="of version 2"):
        await Worker(queue).run(until_idle=True)

    assert old.contents() == before
    make_orderly(old)
