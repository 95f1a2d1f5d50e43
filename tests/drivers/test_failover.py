"""A primary is replaced by a replica that lags: what it missed is as if it never was, and workers go on."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import anyio
import pytest
import redis
from store import (
    Heart,
    eventually,
    lease_at,
)

import redisjobs.sync
from redisjobs import JobContext, JobQueue, Worker
from redisjobs.drivers.redis.consumer import RedisConsumer
from redisjobs.drivers.redis.driver import RedisDriver
from redisjobs.local import server
from redisjobs.model.changes import Cancel
from redisjobs.model.transitions import Ack, After, DeadLetter, Lease, NewJob, Release, Reply, RetryLater
from redisjobs_proof.torture.proxy import HOST, Proxy

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

LEASE = 0.6


@dataclass
class Carry:
    job_name: ClassVar[str] = "Carry"
    label: str


class Address(Proxy):
    """Where clients find the primary, whichever server that is."""

    def move(self, to: server.Server) -> None:
        """Lead new connections there; those that are open stay with the old one."""
        self.target = (HOST, to.port)


class Pair:
    """A primary and its replica, behind one address.

    Attributes:
        old: The primary.
        new: The replica, the primary to be.
        address: Where clients connect to.
    """

    def __init__(self, old: server.Server, new: server.Server, address: Address, queue_name: str) -> None:
        self.old, self.new, self.address = old, new, address
        self.prefix = f"redisjobs:{{{queue_name}}}:"
        self.admins: list[Any] = [redis.Redis.from_url(each.url) for each in (old, new)]
        self.follow(of=old, replica=1)

    def follow(self, of: server.Server, replica: int) -> None:
        """Let one server replicate the other; return when it does."""
        admin = self.admins[replica]
        admin.execute_command("REPLICAOF", HOST, of.port)

    async def in_step(self) -> None:
        """Wait until the replica has all that the primary has."""
        await eventually(lambda: self.admins[1].info("replication").get("master_link_status") == "up", within=15)
        self.admins[0].incr("step")  # WAIT waits for what its own connection wrote, and so for all before it
        assert self.admins[0].wait(1, 5000) == 1

    def detach(self) -> None:
        """From here on the replica misses everything."""
        self.admins[1].execute_command("REPLICAOF", HOST, 1)

    def promote(self, *, demote: bool = False, drop: bool = True) -> None:
        """Let the replica be the primary.

        Args:
            demote: Let the old primary be its replica, as an operator or Sentinel does, and not be gone.
            drop: Whether the connections to the old one end.
        """
        self.admins[1].execute_command("REPLICAOF", "NO", "ONE")
        if demote:
            self.follow(of=self.new, replica=0)
        self.address.move(self.new)
        if drop:
            self.address.drop_all()

    def located(self, number: int = 1) -> dict[str, str]:
        jobs: Any = self.admins[number].hgetall(f"{self.prefix}jobs")
        return {job.decode(): place.decode() for job, place in jobs.items()}

    def total(self, counter: str, number: int = 1) -> int:
        return int(self.admins[number].hget(f"{self.prefix}stats", counter) or 0)

    def close(self) -> None:
        for admin in self.admins:
            admin.close()


@contextmanager
def two_servers() -> Iterator[tuple[server.Server, server.Server]]:
    options = ["--repl-diskless-sync-delay", "0", "--appendonly", "no"]
    with server.start(options=options) as old, server.start(options=options) as new:
        yield old, new


@pytest.fixture
def pair(queue_name: str) -> Iterator[Pair]:
    with two_servers() as (old, new), Address(HOST, old.port) as address:
        pair = Pair(old, new, address, queue_name)
        yield pair
        pair.close()


class Deployment:
    """A worker, and what it did."""

    def __init__(self, url: str, queue_name: str) -> None:
        self.queue = JobQueue(url, queue_name)
        self.worker = Worker(self.queue, lease=LEASE, worker_id="w")
        self.starts: list[str] = []
        self.ends: list[str] = []
        self.may_end = anyio.Event()

        @self.queue.register(Carry)
        async def carry(carry: Carry, context: JobContext) -> None:
            self.starts.append(carry.label)
            if carry.label == "gated":
                await self.may_end.wait()
            self.ends.append(carry.label)


@asynccontextmanager
async def at_work(pair: Pair, queue_name: str) -> AsyncIterator[Deployment]:
    deployment = Deployment(pair.address.url, queue_name)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(deployment.worker.run)
            yield deployment
            deployment.worker.stop()
    finally:
        with anyio.CancelScope(shield=True):
            await deployment.queue.aclose()


async def test_what_was_not_replicated_never_was_and_the_worker_goes_on(pair: Pair, queue_name: str) -> None:
    await pair.in_step()
    async with at_work(pair, queue_name) as deployment:
        await deployment.queue.push(Carry("gated"), job_id="gated")
        await eventually(lambda: deployment.starts == ["gated"])
        await pair.in_step()

        pair.detach()
        deployment.may_end.set()
        await eventually(lambda: pair.located(0) == {})
        await deployment.queue.push(Carry("unreplicated"), job_id="unreplicated", delay=3600)
        pair.promote()
        await eventually(lambda: pair.located() == {})

        assert deployment.ends == ["gated", "gated"]
        assert await deployment.queue.get("unreplicated") is None
        assert (await deployment.queue.push(Carry("unreplicated"), job_id="unreplicated")).added
        await eventually(lambda: deployment.ends[2:] == ["unreplicated"])
        await eventually(lambda: pair.total("completed") == 2)


async def test_an_entry_id_that_came_again_for_another_job_is_not_settled_by_the_old_one(
    pair: Pair, queue_name: str
) -> None:
    await pair.in_step()
    old = RedisDriver(pair.address.url, queue_name)
    await old.push([NewJob("first", ["name", "Carry", "parameters", '{"label": "a"}'])], repeated=False)
    consumer = old.consumer("w", lease=15, max_deliveries=3)
    await consumer.open()
    await pair.in_step()
    pair.detach()
    await old.push([NewJob("lost", ["name", "Carry", "parameters", '{"label": "b"}'])], repeated=False)
    first, lost = (await consumer.exchange([], 2)).leases

    pair.promote()
    await mint_again(pair, lost, "another")
    again = await claim(consumer)

    # The same entry id, the same worker, the same delivery: only the job is another.
    assert [(lease.token[1], lease.deliveries) for lease in again] == [(first.token[1], 1), (lost.token[1], 1)]
    assert [lease.job_id for lease in again] == ["first", "another"]
    for settlement in (
        Ack(),
        Ack(cancelled=True),
        RetryLater(After(0)),
        RetryLater(After(5)),
        Release(),
        DeadLetter("f", "e"),
    ):
        assert (await consumer.exchange([(lost, settlement)], None)).replies == [Reply.LEASE_LOST]
    assert pair.located() == {
        "first": f"normal {first.token[1]}",
        "another": f"normal {lost.token[1]}",
    }
    heart = Heart(consumer)
    heart.beat(list, {})
    with suppress(redisjobs.Unavailable):  # its connection leads to the old primary still
        await old.change(Cancel("another"))
    assert await old.change(Cancel("another")) is Reply.CANCELLING
    assert heart.beat(lambda: [lost, again[1]], {}) == [again[1]]
    heart.close()
    assert (await consumer.exchange([(lease, Ack()) for lease in again], None)).replies == [Reply.OK] * 2
    assert (pair.total("pushed"), pair.total("completed"), pair.located()) == (1, 2, {})
    await consumer.aclose()
    await old.aclose()


async def mint_again(pair: Pair, lost: Lease, job_id: str) -> None:
    """The new primary gives an entry id that the old one has given already."""
    stream = f"{pair.prefix}ready:normal"
    fields = {"id": job_id, "name": "Carry", "parameters": '{"label": "another"}'}
    pair.admins[1].xadd(stream, dict(fields), id=lost.token[1])
    pair.admins[1].hset(f"{pair.prefix}jobs", job_id, f"normal {lost.token[1]}")


async def claim(consumer: RedisConsumer) -> list[Lease]:
    """What there is, over the connection that may have to be opened again."""
    try:
        return list((await consumer.exchange([], 9)).leases)
    except redisjobs.Unavailable:
        return list((await consumer.exchange([], 9)).leases)


async def test_a_handler_that_runs_on_does_not_end_the_job_that_has_its_entry_id_now(
    pair: Pair, queue_name: str
) -> None:
    await pair.in_step()
    async with at_work(pair, queue_name) as deployment:
        await eventually(lambda: pair.admins[0].exists(f"{pair.prefix}ready:normal"))
        await pair.in_step()
        pair.detach()
        await deployment.queue.push(Carry("gated"), job_id="lost")
        await eventually(lambda: deployment.starts == ["gated"])
        entry = pair.located(0)["lost"].split()[1]

        pair.promote()
        await mint_again(pair, lease_at(2, entry, 1, "lost", {}), "another")
        await eventually(lambda: "another" in deployment.starts)
        deployment.may_end.set()
        await eventually(lambda: pair.located() == {})
        await deployment.queue.push(Carry("after"))
        await eventually(lambda: "after" in deployment.ends)
        await eventually(lambda: pair.total("completed") == 2)

    assert (deployment.ends.count("another"), deployment.ends.count("after")) == (1, 1)
    assert pair.total("completed") == 2


@pytest.mark.parametrize("drop", [True, False], ids=["dropped", "kept"])
async def test_a_demoted_primary_is_left_for_the_new_one(pair: Pair, queue_name: str, drop: bool) -> None:
    await pair.in_step()
    async with at_work(pair, queue_name) as deployment:
        with redisjobs.sync.JobQueue(pair.address.url, queue_name) as producer:
            await anyio.to_thread.run_sync(producer.push, Carry("gated"))
            await deployment.queue.push(Carry("before"))
            await eventually(lambda: deployment.starts == ["gated", "before"])
            await pair.in_step()

            pair.promote(demote=True, drop=drop)
            deployment.may_end.set()
            await deployment.queue.push(Carry("async"))
            await anyio.to_thread.run_sync(producer.push, Carry("sync"))
            await eventually(lambda: {"async", "sync"} <= set(deployment.ends), within=10)
            await eventually(lambda: pair.located() == {})

    assert set(deployment.starts) == {"gated", "before", "async", "sync"}
    assert pair.total("completed") == 4
