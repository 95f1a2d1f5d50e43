"""Steps that the contract's tests share: push, claim, settle, beat, and bring a job into each state."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio

from redisjobs.model.changes import Cancel, Delete, Wish
from redisjobs.model.driver import Beat, Consumer, Driver, Fenced, Notification
from redisjobs.model.job import OnConflict, Priority, State
from redisjobs.model.queries import Counts, Find, Row, Scan
from redisjobs.model.steps import GetSteps, Steps
from redisjobs.model.transitions import (
    MOST_JOBS,
    Ack,
    After,
    DeadLetter,
    Ended,
    Lease,
    NewJob,
    Pushed,
    Reclaimed,
    Release,
    Reply,
    RetryLater,
    Settlement,
)
from redisjobs_proof.contract.store import DriverStore

Hear = Callable[[Notification], None]
Open = Callable[..., Awaitable[Consumer]]
FAILED = DeadLetter("failed", "ValueError: no", "the traceback", "ValueError", "0123456789ab")
AGAIN = RetryLater(After(0), {"attempt": "2"})
WORK = {"name": "Work", "parameters": "{}"}
LATER = RetryLater(After(5000), {"attempt": "2"})
PRIORITIES = list(Priority)
ODD = [
    "with  spaces ", "ünïcödé 🐇", "quotes'\"\\", "100% %s %1", "line\nbreak\r\n", "nul\0", "{brace}:*?[a-z]",
    "x" * 500, "1-1", "normal 1-1", "delayed", "dead 1-1 cancelling", "-", "+5000",
]  # fmt: skip
"""Ids that are hard to write down."""


def job(job_id: str, name: str = "Work", parameters: str = "{}", **options: Any) -> NewJob:
    return NewJob(job_id, ["name", name, "parameters", parameters], **options)


def newer(job_id: str, text: str = '{"new":true}', **options: Any) -> NewJob:
    """Return a push that replaces a waiting job with the same key."""
    options = {"unique": "key", "on_conflict": OnConflict.REPLACE, **options}
    return NewJob(job_id, ["name", "Work", "parameters", text], **options)


def until_start(job_id: str, **options: Any) -> NewJob:
    """Return a job that holds its key until it starts."""
    made = job(job_id, unique="key", **options)
    return replace(made, fields=[*made.fields, "unique_until", "start"])


def another(job_id: str, **options: Any) -> NewJob:
    """Return a new push of an id that was pushed before."""
    return job(job_id, nonce=secrets.token_hex(8), **options)


def happened(counts: Counts) -> dict[str, int]:
    """Return the counters of a queue that are not 0."""
    return {counter: number for counter, number in counts.totals.items() if number}


class Slots:
    """Starts jobs as a worker does: a few at a time, strictly by priority, while the others wait."""

    def __init__(self, consumer: Consumer) -> None:
        self.started: list[str] = []
        self._consumer = consumer
        self._over: list[Lease] = []

    async def claim(self, count: int) -> list[str]:
        """Claim for this many slots; return the ids of the jobs that start."""
        answer = await self._consumer.exchange([], count, waiting=self._over)
        there = sorted([*self._over, *answer.leases], key=lambda lease: lease.rank)
        some = [lease for lease in there if lease.rank <= answer.up_to][:count]
        self._over = [lease for lease in there if lease not in some]
        self.started += ids(some)
        return ids(some)


class Heart:
    """The heartbeats of one worker, from the caller's thread."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.wish: Wish | None = None  # what the last answer said that an operator asks of the worker
        self.close = consumer.sync.close

    def beat(self, held: Callable[[], Sequence[Lease]], facts: Mapping[str, str]) -> Sequence[Lease]:
        """Return the held jobs that are to be cancelled; raise Fenced if the worker is fenced."""
        (answer,) = self.consumer.sync.beat(Beat(self.consumer, held, facts))
        if isinstance(answer, Fenced):
            raise answer
        self.wish = answer.wish
        return answer.cancelled

    def release(self) -> int:
        """Release the jobs of a dead worker."""
        return self.consumer.sync.release(refund=False, watch=True)


@asynccontextmanager
async def listening(listen: Callable[[Hear], Coroutine[Any, Any, None]]) -> AsyncIterator[list[Notification]]:
    """Collect the notifications while the block runs, from `subscribed` on."""
    heard: list[Notification] = []
    subscribed = anyio.Event()

    def hear(notification: Notification) -> None:
        heard.append(notification)
        subscribed.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen, hear)
        with anyio.fail_after(5):
            await subscribed.wait()
        yield heard
        tasks.cancel_scope.cancel()


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until other tasks have made a condition true."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.005)


async def take_over(heir: Consumer) -> Reclaimed:
    """Fence each worker whose lease is over, and hand back the jobs of fenced workers."""
    return await heir.reclaim((await heir.reclaim()).silent)


async def push(store: DriverStore, *jobs: NewJob | str, repeated: bool = False) -> list[Pushed]:
    return await store.driver.push([job(j) if isinstance(j, str) else j for j in jobs], repeated=repeated)


async def rows_of(driver: Driver, state: State, limit: int = MOST_JOBS) -> list[Row]:
    """Return the first jobs of one state."""
    rows: list[Row] = []
    after = None
    while after != "" and len(rows) < limit:
        step = await driver.read(Scan(state, after=after or "", limit=limit - len(rows)))
        rows += step.rows
        after = step.after
    return rows


async def row_of(driver: Driver, job_id: str) -> Row:
    """Return a job's row; check that a scan of its state returns the same."""
    row = await driver.read(Find(job_id))
    assert row is not None
    (listed,) = [each for each in await rows_of(driver, row.state) if each.job_id == job_id]
    assert (listed.why_waiting, listed.progress) == (row.why_waiting, row.progress)
    assert (listed.started_ms is None, listed.ran_ms is None) == (row.started_ms is None, row.ran_ms is None)
    return row


async def claim(consumer: Consumer, count: int = 10, *, idle: bool = False) -> list[Lease]:
    """Claim as long as there is more, like a worker that has just learned which jobs are ready."""
    return (await claim_with_ended(consumer, count, idle=idle))[0]


async def claim_with_ended(
    consumer: Consumer, count: int, *, idle: bool = False
) -> tuple[list[Lease], list[Ended]]:
    """Claim in the same way; return also the jobs that the claims ended."""
    await consumer.exchange([], 0)
    leases: list[Lease] = []
    ended: list[Ended] = []
    while True:
        exchange = await consumer.exchange([], count - len(leases), idle=idle)
        leases += exchange.leases
        ended += exchange.ended
        if len(leases) == count or not exchange.more or (idle and leases):  # the job may have to run alone
            return leases, ended


async def claim_one(consumer: Consumer) -> Lease:
    (lease,) = await claim(consumer)
    return lease


async def settle(consumer: Consumer, lease: Lease, settlement: Settlement) -> Reply:
    (reply,) = (await consumer.exchange([(lease, settlement)], None)).replies
    return reply


def beat(consumer: Consumer, *held: Lease) -> list[str]:
    """Beat for a worker that holds these jobs; return the ids of those that are to be cancelled."""
    heart = Heart(consumer)
    try:
        return [lease.job_id for lease in heart.beat(lambda: held, {"host": "here"})]
    finally:
        heart.close()


async def outlive(store: DriverStore, *living: Consumer) -> Reclaimed:
    """Make all other workers fall silent; the first of `living` fences them and hands back their jobs."""
    store.age(60)
    for consumer in living:
        beat(consumer)
    return await take_over(living[0])


async def inherit(store: DriverStore, heir: Consumer, count: int = 10, *, idle: bool = False) -> list[Lease]:
    """Make all other workers fall silent, take over their jobs, and claim."""
    await outlive(store, heir)
    return await claim(heir, count, idle=idle)


async def found(store: DriverStore, job_id: str) -> Row:
    row = await store.driver.read(Find(job_id))
    assert row is not None
    return row


async def saved(store: DriverStore, job_id: str = "a") -> Steps:
    """Return what a job has saved."""
    (steps,) = await store.driver.read(GetSteps([job_id]))
    assert steps is not None
    return steps


def ids(leases: list[Lease]) -> list[str]:
    return [lease.job_id for lease in leases]


def texts(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in fields.items()}


async def delay(store: DriverStore, consumer: Consumer) -> None:
    store.clock.advance(0)
    await push(store, job("a", due=After(1000)))


async def wait_in_line(store: DriverStore, consumer: Consumer) -> None:
    await push(store, "a")


async def run(store: DriverStore, consumer: Consumer) -> None:
    await push(store, "a")
    await claim_one(consumer)


async def retry(store: DriverStore, consumer: Consumer) -> None:
    await push(store, "a")
    assert await settle(consumer, await claim_one(consumer), LATER) is Reply.OK


async def release(store: DriverStore, consumer: Consumer) -> None:
    await push(store, "a")
    assert await settle(consumer, await claim_one(consumer), Release()) is Reply.OK


async def fail(store: DriverStore, consumer: Consumer) -> None:
    await push(store, "a")
    assert await settle(consumer, await claim_one(consumer), FAILED) is Reply.OK


async def finish(store: DriverStore, consumer: Consumer) -> None:
    await push(store, "a")
    assert await settle(consumer, await claim_one(consumer), Ack()) is Reply.OK


async def cancel(store: DriverStore, consumer: Consumer) -> None:
    await push(store, "a")
    assert await store.driver.change(Cancel("a")) is Reply.CANCELLED


async def discard(store: DriverStore, consumer: Consumer) -> None:
    await fail(store, consumer)
    assert await store.driver.change(Delete("a")) is Reply.OK


async def cancel_running(store: DriverStore, consumer: Consumer) -> None:
    await run(store, consumer)
    assert await store.driver.change(Cancel("a")) is Reply.CANCELLING
