"""Notifications through Postgres: few statements, lost ones, a LISTEN that died, and poolers."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import psycopg
import pytest
from postgres_store import PostgresStore, jobs
from store import eventually

from redisjobs import JobName, JobQueue, Unavailable, sync
from redisjobs.drivers.postgres import consumer as consuming
from redisjobs.drivers.postgres import ears as hearing
from redisjobs.drivers.postgres import working
from redisjobs.drivers.postgres.consumer import PostgresConsumer
from redisjobs.drivers.postgres.driver import PostgresDriver
from redisjobs.drivers.postgres.hub import Hub, hub_of
from redisjobs.drivers.postgres.notices import Notice, Pending, channel_of, notices_in
from redisjobs.drivers.postgres.within import transaction_of
from redisjobs.model.changes import Pause, Resume
from redisjobs.model.driver import Notification
from redisjobs.model.transitions import After, NewJob

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

Add = JobName("Add", dict[str, int])


@pytest.fixture
async def driver(postgres_store: PostgresStore) -> AsyncIterator[PostgresDriver]:
    assert isinstance(postgres_store.driver, PostgresDriver)
    yield postgres_store.driver
    await postgres_store.driver.aclose()


@pytest.fixture
async def worker(driver: PostgresDriver) -> AsyncIterator[PostgresConsumer]:
    consumer = driver.consumer("w", lease=15, max_deliveries=3)
    await consumer.open()
    yield consumer
    await consumer.release(refund=True, watch=False)
    await consumer.aclose()


def hub(driver: PostgresDriver) -> Hub:
    """That of the running event loop."""
    return hub_of(driver.target)


class Heard:
    """What listeners hear, and how their listening ended."""

    def __init__(self) -> None:
        self.all: list[Notification] = []
        self.errors: list[Exception] = []

    @property
    def kinds(self) -> list[str]:
        return [each.kind for each in self.all]

    async def listen(self, listen: Callable[[Callable[[Notification], None]], Awaitable[None]]) -> None:
        try:
            await listen(self.all.append)
        except Unavailable as error:
            self.errors.append(error)

    async def until(self, count: int) -> None:
        """Wait until that many notifications came."""
        await eventually(lambda: len(self.all) >= count)


@asynccontextmanager
async def listening(
    listen: Callable[[Callable[[Notification], None]], Awaitable[None]],
) -> AsyncIterator[Heard]:
    heard = Heard()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(heard.listen, listen)
        await heard.until(1)
        yield heard
        tasks.cancel_scope.cancel()


@pytest.fixture
def raw(postgres_store: PostgresStore) -> Iterator[Callable[[], list[str]]]:
    """Returns the payloads that came on the queue's channel."""
    channel = channel_of(postgres_store.queue_name)
    with psycopg.connect(postgres_store.url, autocommit=True) as other:
        other.execute(f"listen {channel}".encode())
        yield lambda: [each.payload for each in other.notifies(timeout=0.3)]


async def test_pushes_that_come_together_send_few_notifications(
    driver: PostgresDriver, raw: Callable[[], list[str]]
) -> None:
    began = asyncio.get_running_loop().time()
    async with anyio.create_task_group() as tasks:
        for number in range(300):
            tasks.start_soon(partial(driver.push, jobs(str(number)), repeated=False))
    took = asyncio.get_running_loop().time() - began
    await driver.aclose()

    assert 1 <= raw().count("\tready\t") <= 2 + took / 0.01


async def test_a_worker_does_not_look_again_for_what_its_exchange_did_not_find(
    driver: PostgresDriver, worker: PostgresConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, read = list[object](), working.read

    def look(*given: Any) -> Any:
        looks.append(given)
        return read(*given)

    monkeypatch.setattr(working, "read", look)
    monkeypatch.setattr(consuming, "_POLLS", (60.0, 60.0))
    await worker.wait(1, 0.01)
    await eventually(lambda: channel_of(driver._queue) in hub(driver).ears._listens)
    looks.clear()

    assert not (await worker.exchange([], 1)).leases
    assert await worker.wait(1, 0) == []
    assert not looks
    assert await worker.wait(1, 0) == []
    assert len(looks) == 1

    assert not (await worker.exchange([], 1)).leases
    await driver.push(jobs("a"), repeated=False)
    assert [lease.job_id for lease in await worker.wait(1, 10)] == ["a"]


async def test_a_driver_that_closes_sends_what_waits(driver: PostgresDriver, raw: Callable[[], list[str]]) -> None:
    for _ in range(3):
        await driver.change(Pause())
        await driver.change(Resume())
    await driver.aclose()

    payloads = raw()
    assert payloads.count("\tpaused\t") >= 1
    assert payloads[-1] == "\tresumed\t"


def test_sync_calls_send_notifications_too_at_most_one_statement_each_10_ms(
    postgres_store: PostgresStore, raw: Callable[[], list[str]]
) -> None:
    assert isinstance(postgres_store.driver, PostgresDriver)
    driver, began = postgres_store.driver.make_sync(), time.monotonic()
    for number in range(100):
        driver.push(jobs(str(number)), repeated=False)
    driver.close()
    took = time.monotonic() - began

    assert 1 <= raw().count("\tready\t") <= 3 + 2 * took / 0.01


async def test_a_waiting_worker_gets_a_job_at_once_by_its_notification(
    driver: PostgresDriver, worker: PostgresConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consuming, "_POLLS", (60.0, 60.0))
    monkeypatch.setattr(worker, "_poll", 60.0)
    leases = list[Any]()

    async def wait() -> None:
        leases.extend(await worker.wait(10, 60))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await eventually(lambda: hub(driver).ears.works)
        with anyio.fail_after(5):
            await anyio.to_thread.run_sync(lambda: driver.make_sync().push(jobs("a"), repeated=False))
            while not leases:  # noqa: ASYNC110
                await anyio.sleep(0.005)

    assert [each.job_id for each in leases] == ["a"]


async def test_a_worker_that_hears_nothing_finds_jobs_by_looking(
    driver: PostgresDriver, worker: PostgresConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub(driver).ears._connection, "on_notify", None)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.wait, 10, 4)
            await driver.push(jobs("a"), repeated=False)


async def test_listeners_of_several_queues_share_a_connection(
    postgres_store: PostgresStore, driver: PostgresDriver
) -> None:
    other = PostgresDriver(postgres_store.url, f"{postgres_store.queue_name}-b")
    async with listening(driver.listen) as heard, listening(other.listen) as others:
        await other.change(Pause())
        await others.until(2)
        await driver.change(Pause())
        await heard.until(2)
        found = postgres_store.admin.execute(
            "select pid from pg_stat_activity where datname = current_database() and query ilike 'listen %'"
        )
        assert len(found.fetchall()) == 1
    assert (heard.kinds, others.kinds) == (["subscribed", "paused"], ["subscribed", "paused"])
    await other.change(Resume())
    await other.aclose()


async def test_a_listener_ends_with_its_connection_and_the_next_one_is_subscribed(
    postgres_store: PostgresStore, driver: PostgresDriver
) -> None:
    async with listening(driver.listen) as heard:
        postgres_store.admin.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and query ilike 'listen %'"
        )
        await eventually(lambda: heard.errors)

    async with listening(driver.listen) as heard:
        await driver.change(Pause())
        await heard.until(2)
    assert heard.kinds == ["subscribed", "paused"]


async def test_a_listen_that_died_silently_is_noticed(
    driver: PostgresDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing, "BEAT", 0.1)
    monkeypatch.setattr(hearing, "HEARD", 0.3)
    async with listening(driver.listen) as heard:
        await hub(driver).ears._connection.ask(b"unlisten *")
        await eventually(lambda: heard.errors)

    assert "don't come any more" in str(heard.errors[0])
    async with listening(driver.listen) as heard:
        await driver.change(Pause())
        await heard.until(2)


async def test_where_notifications_never_come_it_is_said_once_and_listeners_look_now_and_then(
    driver: PostgresDriver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def swallow(channels: Sequence[str], payloads: Sequence[str]) -> None:
        pass

    for name, value in (("HEARD", 0.05), ("DEAF", 0.02), ("_TRIED_AGAIN", 3)):
        monkeypatch.setattr(hearing, name, value)
    ears = hub(driver).ears
    monkeypatch.setattr(ears, "_send", swallow)
    caplog.set_level(logging.WARNING)
    async with listening(driver.listen) as heard:
        await heard.until(8)  # also after it has tried again

    assert set(heard.kinds) == {"subscribed"}
    assert not heard.errors
    (record,) = caplog.records
    assert "as behind a pooler" in record.getMessage()
    assert driver.where in record.getMessage()


async def test_whatever_others_write_to_the_channel_hurts_no_one(
    postgres_store: PostgresStore, driver: PostgresDriver
) -> None:
    async with listening(driver.listen) as heard:
        for payload in ("", "x", "\t", "\t\t\t", "a\tb\tc", "\tx\ty\tz"):
            postgres_store.admin.execute(
                "select pg_notify(%s, %s)", (channel_of(postgres_store.queue_name), payload)
            )
        await driver.change(Pause())
        await eventually(lambda: "paused" in heard.kinds)

    assert heard.all[1:] == [Notification("x", "y\tz"), Notification("paused", "")]


def test_what_one_statement_sends() -> None:
    pending = Pending()
    pending.add("one", [Notice("", "ready", "a"), Notice("", "ready", "b"), Notice("", "cancel", "x" * 9000)])
    pending.add("two", [Notice("", "ready", "a")])
    pending.add("one", [Notice("p", "changed", str(each)) for each in range(300)])

    channels, payloads = pending.take()

    assert not pending
    sent = list(zip(channels, payloads, strict=True))
    assert sent[:3] == [("one", "\tready\t"), ("one", "\tsubscribed\t"), ("two", "\tready\t")]
    assert sent[3] == ("one", "p\tchanged\t0")
    assert sent[-1] == ("one", "p\tsubscribed\t")
    assert len(sent) == 3 + 100 + 1


def test_notices_are_read_from_lines() -> None:
    assert notices_in("") == []
    assert notices_in("\tdue\t5\np\tchanged\ta\tb") == [Notice("", "due", "5"), Notice("p", "changed", "a\tb")]
    assert notices_in("x\n\ty\n") == []


async def test_a_worker_that_promotes_a_due_job_wakes_those_that_wait(
    postgres_store: PostgresStore, driver: PostgresDriver, worker: PostgresConsumer
) -> None:
    postgres_store.admin.execute(f"listen {channel_of(postgres_store.queue_name)}".encode())
    await driver.push([NewJob("a", ["name", "Work", "parameters", "{}"], due=After(1000))], repeated=False)
    postgres_store.clock.advance(1.5)
    assert (await worker.exchange([], 0)).leases == []
    kinds = (each.payload.split("\t")[1] for each in postgres_store.admin.notifies(timeout=10))
    heard = await anyio.to_thread.run_sync(
        lambda: [next(each for each in kinds if each != "joined") for _ in "12"]
    )
    assert heard == ["due", "ready"]


@pytest.mark.parametrize(("due", "told"), [(None, "\tready\t"), (After(60_000), "\tdue\t")], ids=str)
async def test_a_push_within_a_transaction_notifies_once_of_what_it_added_and_not_before_its_end(
    postgres_store: PostgresStore, driver: PostgresDriver, due: After | None, told: str
) -> None:
    made = [NewJob(f"{number}", ["name", "Work", "parameters", "{}"], due=due) for number in range(3)]
    postgres_store.admin.execute(f"listen {channel_of(postgres_store.queue_name)}".encode())
    with psycopg.connect(postgres_store.url) as connection:
        transaction = transaction_of(connection)
        for writing in await driver.within(made):
            writing.answers(transaction.run(writing.statement, *writing.values))
            writing.follow(transaction)
        await anyio.sleep(0.05)
        assert [*postgres_store.admin.notifies(timeout=0)] == []
        connection.commit()
        assert [*postgres_store.admin.notifies(timeout=0)] == []  # by this process, and not by the transaction
    await driver.aclose()
    heard = list(postgres_store.admin.notifies(timeout=5, stop_after=1))
    assert [notice.payload[: len(told)] for notice in heard] == [told]
    assert [*postgres_store.admin.notifies(timeout=0)] == []


@pytest.mark.parametrize("is_sync", [False, True])
async def test_a_waiting_worker_gets_a_job_of_a_transaction_once_it_commits(
    postgres_store: PostgresStore, worker: PostgresConsumer, is_sync: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consuming, "_POLLS", (60.0, 60.0))
    monkeypatch.setattr(worker, "_poll", 60.0)
    url, name = postgres_store.url, postgres_store.queue_name
    committed = asyncio.Event()

    async def push() -> str:
        async with JobQueue(url, name) as queue, await psycopg.AsyncConnection.connect(url) as connection:
            pushed = await queue.push({}, Add, within=connection)
            await anyio.sleep(0.1)
            await connection.commit()
            await committed.wait()
        return pushed.id

    def push_sync() -> str:
        with sync.JobQueue(url, name) as queue, psycopg.connect(url) as connection:
            pushed = queue.push({}, Add, within=connection)
            connection.commit()
            anyio.from_thread.run(committed.wait)
        return pushed.id

    async with anyio.create_task_group() as tasks:
        leases = list[Any]()

        async def wait() -> None:
            leases.extend(await worker.wait(10, 60))
            committed.set()

        tasks.start_soon(wait)
        await eventually(lambda: worker._hub.ears.works)
        with anyio.fail_after(10):
            pushed = await (anyio.to_thread.run_sync(push_sync) if is_sync else push())
    assert [lease.job_id for lease in leases] == [pushed]
