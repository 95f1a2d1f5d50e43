"""What comes from the channel is a hint: anybody may write to it, and it is one for all databases of a server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar

import anyio
import pytest
import redis
from store import RedisStore, eventually

from redisjobs.driver import Reply
from redisjobs.queue import JobQueue
from redisjobs.worker.worker import Worker

pytestmark = pytest.mark.anyio


@dataclass
class Work:
    job_name: ClassVar[str] = "Work"
    text: str = ""


class Crew:
    """A worker in database 0 that runs a job `mine` until it is let go."""

    def __init__(self, store: RedisStore) -> None:
        self.store = store
        self.queue = JobQueue(store.url, store.queue_name)
        self.worker = Worker(self.queue, lease=60)
        self.started, self.go = anyio.Event(), anyio.Event()
        self.ran: list[str] = []
        self.queue.register(Work)(self.run)

    async def run(self, work: Work) -> None:
        if work.text == "wait":
            self.started.set()
            await self.go.wait()
        self.ran.append(work.text)

    @property
    def channel(self) -> str:
        return f"{self.store.prefix}control:0"


@pytest.fixture
async def crew(redis_store: RedisStore) -> AsyncIterator[Crew]:
    crew = Crew(redis_store)
    async with crew.queue:
        await crew.queue.push(Work("wait"), job_id="mine")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(crew.worker.run)
            await crew.started.wait()
            await eventually(lambda: redis_store.admin.pubsub_numsub(crew.channel)[0][1] == 1)
            yield crew
            crew.go.set()
            crew.worker.stop()


async def runs_on(crew: Crew) -> None:
    """The job runs to its end, and the next as well."""
    await crew.queue.push(Work("next"))
    await eventually(lambda: "next" in crew.ran)
    crew.go.set()
    await eventually(lambda: "wait" in crew.ran)


@asynccontextmanager
async def database_1(store: RedisStore, url: str) -> AsyncIterator[JobQueue]:
    """The queue of the same name in another database, gone at the end."""
    there = url.removesuffix("/0") + "/1"
    admin = redis.Redis.from_url(there)
    async with JobQueue(there, store.queue_name) as queue:
        yield queue
    for key in admin.scan_iter(f"{store.prefix}*"):
        admin.delete(key)
    admin.close()


async def test_a_cancel_in_another_database_leaves_the_job_of_that_id_alone(crew: Crew, redis_url: str) -> None:
    async with database_1(crew.store, redis_url) as elsewhere:
        await elsewhere.push(Work(), job_id="mine")
        consumer = elsewhere.driver.consumer("w", lease=60, max_deliveries=3)
        await consumer.open()
        (lease,) = (await consumer.exchange([], 1)).leases
        assert await elsewhere.cancel("mine") is Reply.CANCELLING
        await runs_on(crew)
        await consumer.release(refund=True, watch=False)
        await consumer.aclose()
    assert lease.job_id == "mine"
    await eventually(lambda: crew.store.located() == {})
    assert crew.store.admin.hget(f"{crew.store.prefix}stats", "completed") == b"2"


async def test_a_cancel_that_somebody_only_published_cancels_nothing(crew: Crew) -> None:
    assert crew.store.admin.publish(crew.channel, "cancel mine") == 1
    await runs_on(crew)


async def test_a_cancel_reaches_the_worker_at_once(crew: Crew) -> None:
    assert await crew.queue.cancel("mine") is Reply.CANCELLING
    await eventually(lambda: crew.store.located() == {}, within=10)  # by itself it would renew after 20 s
    assert crew.ran == []


@pytest.mark.parametrize(
    "message",
    [
        *(
            "due ²",
            "due " + "9" * 400,
            "due -1",
            "due 1e9",
            "due ",
            "due",
            "",
            "cancel",
            "cancel \ud800",
            "released x",
        ),
        *("subscribed ", "nothing known", b"\xff\xfe \xff", b"cancel mine\x00", "due ٣"),
    ],
)
async def test_nothing_that_is_published_ends_a_worker(crew: Crew, message: str | bytes) -> None:
    raw = message.encode("utf-8", "surrogatepass") if isinstance(message, str) else message
    assert crew.store.admin.publish(crew.channel, raw) == 1
    await runs_on(crew)


async def test_a_worker_whose_listening_a_task_was_cancelled_of_listens_again(crew: Crew) -> None:
    """As by code that ends what it takes for a library's leftovers."""
    (ping,) = [task for task in asyncio.all_tasks() if "_ping" in task.get_name()]
    ping.cancel()
    await eventually(lambda: ping.done())
    await eventually(lambda: crew.store.admin.pubsub_numsub(crew.channel)[0][1] == 1)

    await crew.queue.cancel("mine")
    await eventually(lambda: crew.store.located() == {}, within=10)  # by itself it would renew after 20 s
