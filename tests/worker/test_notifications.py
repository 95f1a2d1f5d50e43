"""What comes from the channel is a hint: anybody may write to it, and it is one for all databases of a server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar

import anyio
import pytest
import redis
from store import RedisStore, eventually

from redisjobs.model.transitions import Reply
from redisjobs.queue import JobQueue
from redisjobs.worker.worker import Worker

pytestmark = pytest.mark.anyio


@dataclass
class Work:
    job_name: ClassVar[str] = "Work"
    text: str = ""


class Idle:
    """A worker in database 0 that runs a job `mine` until it is let go."""

    def __init__(self, store: RedisStore) -> None:
        self.store = store
        self.queue = JobQueue(store.url, store.queue_name)
        self.worker = Worker(self.queue, lease=60, schedules=False)
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
async def idle(redis_store: RedisStore) -> AsyncIterator[Idle]:
    idle = Idle(redis_store)
    async with idle.queue:
        await idle.queue.push(Work("wait"), job_id="mine")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(idle.worker.run)
            await idle.started.wait()
            await eventually(lambda: redis_store.admin.pubsub_numsub(idle.channel)[0][1] == 1)
            yield idle
            idle.go.set()
            idle.worker.stop()


async def runs_on(idle: Idle) -> None:
    """The job runs to its end, and the next as well."""
    await idle.queue.push(Work("next"))
    await eventually(lambda: "next" in idle.ran)
    idle.go.set()
    await eventually(lambda: "wait" in idle.ran)


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


async def test_a_cancel_in_another_database_leaves_the_job_of_that_id_alone(idle: Idle, redis_url: str) -> None:
    async with database_1(idle.store, redis_url) as elsewhere:
        await elsewhere.push(Work(), job_id="mine")
        consumer = elsewhere.driver.consumer("w", lease=60, max_deliveries=3)
        await consumer.open()
        (lease,) = (await consumer.exchange([], 1)).leases
        assert await elsewhere.cancel("mine") is Reply.CANCELLING
        await runs_on(idle)
        await consumer.release(refund=True, watch=False)
        await consumer.aclose()
    assert lease.job_id == "mine"
    await eventually(lambda: idle.store.located() == {})
    assert idle.store.admin.hget(f"{idle.store.prefix}stats", "completed") == b"2"


async def test_a_cancel_that_was_only_published_cancels_nothing(idle: Idle) -> None:
    assert idle.store.admin.publish(idle.channel, "cancel mine") == 1
    await runs_on(idle)


async def test_a_cancel_reaches_the_worker_at_once(idle: Idle) -> None:
    assert await idle.queue.cancel("mine") is Reply.CANCELLING
    await eventually(lambda: idle.store.located() == {}, within=10)  # by itself it would renew after 20 s
    assert idle.ran == []


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
async def test_nothing_that_is_published_ends_a_worker(idle: Idle, message: str | bytes) -> None:
    raw = message.encode("utf-8", "surrogatepass") if isinstance(message, str) else message
    assert idle.store.admin.publish(idle.channel, raw) == 1
    await runs_on(idle)
