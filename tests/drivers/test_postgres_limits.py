"""Limits on Postgres: as in memory, beside other connections, and under a snapshot that is held for long."""

import random
from collections.abc import Iterator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import anyio
import psycopg
import pytest
from postgres_store import PostgresStore
from store import MemoryStore, eventually

from redisjobs.drivers.postgres import functions
from redisjobs.model.changes import Cancel, Hold, Pause, Resume, Unpark
from redisjobs.model.driver import Consumer
from redisjobs.model.job import Priority
from redisjobs.model.limits import Limit
from redisjobs.model.transitions import Ack, After, DeadLetter, Lease, Release, RetryLater, Settlement
from redisjobs_proof.contract.limit_acts import all_limits, claim, limit, limited, push, tidy

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

LIMITS = ("", "max_concurrency=1", "max_concurrency=3", "rate=2/m burst=2", "max_concurrency=2 rate=4/m burst=3")
NAMES, KEYS = ("Limited", "Other", "Free"), ("", "", "k1", "k 2")
OUTCOMES: tuple[Settlement, ...] = (
    Ack(),
    Ack(),
    RetryLater(After(0)),
    RetryLater(After(9000)),
    Release(),
    Release(refund=False),
    DeadLetter("failed", "no"),
)


class Both:
    """Memory and Postgres, which get the same calls at the same times; they have to agree on each answer."""

    def __init__(self, rng: random.Random, postgres: PostgresStore) -> None:
        self.rng, self.stores = rng, (MemoryStore(postgres.queue_name), postgres)
        self.workers = [
            [store.driver.consumer(worker_id, lease=1e6, max_deliveries=3) for store in self.stores]
            for worker_id in ("w1", "w2")
        ]
        self.held: list[dict[str, tuple[Lease, ...]]] = [{}, {}]  # of each worker
        self.pushed = 0
        for store in self.stores:
            store.clock.set_to = 1_900_000_000_000

    async def push(self) -> None:
        new = []
        for _ in range(self.rng.randint(1, 5)):
            name, key, priority = self.rng.choice(NAMES), self.rng.choice(KEYS), self.rng.choice([*Priority])
            new.append(limited(f"{self.pushed}", key, name, priority=priority))
            self.pushed += 1
        for store in self.stores:
            await push(store.driver, *new)

    async def exchange(self) -> None:
        which = self.rng.randrange(2)
        held, count = self.held[which], self.rng.choice([None, 0, 1, 2, 5, 50])
        ends = [(held.pop(job_id), self.rng.choice(OUTCOMES)) for job_id in [*held] if self.rng.random() < 0.4]
        first, second = [
            await worker.exchange([(leases[store], outcome) for leases, outcome in ends], count)
            for store, worker in enumerate(self.workers[which])
        ]
        assert [*first.replies] == [*second.replies]
        assert [lease.job_id for lease in first.leases] == [lease.job_id for lease in second.leases]
        assert (first.turns, [*first.ended], first.due_in) == (second.turns, [*second.ended], second.due_in)
        held.update((one.job_id, (one, two)) for one, two in zip(first.leases, second.leases, strict=True))

    async def set_limit(self) -> None:
        name, text = self.rng.choice(NAMES[:2]), self.rng.choice(LIMITS)
        for store in self.stores:
            await limit(store.driver, text, name)

    async def cancel(self) -> None:
        job_id = f"{self.rng.randrange(self.pushed + 1)}"
        answers = [await store.driver.change(Cancel(job_id)) for store in self.stores]
        assert answers[0] == answers[1]

    async def pause(self) -> None:
        kind, name = self.rng.choice([Pause, Resume]), self.rng.choice(NAMES)
        for store in self.stores:
            await store.driver.change(kind(name))
            after = await store.driver.change(Unpark()) if kind is Resume else ""
            assert after == ""

    async def go_on(self) -> None:
        ms = self.rng.choice([1, 500, 9000, 60_000])
        for store in self.stores:
            assert store.clock.set_to
            store.clock.set_to += ms
            if ms == 60_000:
                await tidy(store.driver)

    async def agree(self) -> None:
        first, second = [await all_limits(store.driver) for store in self.stores]
        assert first == second


@pytest.mark.parametrize("seed", range(6))
async def test_memory_and_postgres_start_the_same_jobs_at_the_same_times(
    postgres_store: PostgresStore, seed: int
) -> None:
    rng = random.Random(seed)
    both = Both(rng, postgres_store)
    acts = [both.push, both.exchange, both.set_limit, both.cancel, both.pause, both.go_on]
    async with AsyncExitStack() as stack:
        for consumer in (consumer for pair in both.workers for consumer in pair):
            await consumer.open()
            stack.push_async_callback(consumer.aclose)
        stack.push_async_callback(postgres_store.driver.aclose)
        for _ in range(120):
            (act,) = rng.choices(acts, (4, 9, 1, 2, 1, 3))
            await act()
            await both.agree()


TEXTS = [
    *("", "max_concurrency=3", "max_concurrency=0", "max_concurrency=99999999999999999999", "max_concurrency=x"),
    *(
        "rate=100/s",
        "rate=0.5/m",
        "rate=5./h",
        "rate=3/s burst=7",
        "rate=7/h burst=99999999999",
        "rate=0/s burst=2",
    ),
    *(
        "rate=1/d",
        "burst=5",
        "rate=0.000001/h burst=1000000",
        "rate=99999999/s",
        "max_concurrency=3 rate=50/s burst=50",
    ),
]


@pytest.mark.parametrize("text", TEXTS)
def test_the_text_of_a_limit_means_the_same_in_the_database(postgres_store: PostgresStore, text: str) -> None:
    read = Limit.read(text)
    found = postgres_store.admin.execute(
        functions.installed_as("select * from redisjobs_f._limit_of(%s)").encode(), (text,)
    )
    assert found.fetchone() == (read.max_concurrency, read.every_us, read.ahead_us)


async def test_no_more_jobs_run_than_may_where_many_workers_claim_at_the_same_time(
    postgres_store: PostgresStore,
) -> None:
    driver, numbers, ended = postgres_store.driver, set[int](), set[str]()

    async def work(consumer: Consumer) -> None:
        held: list[Lease] = []
        while len(ended) < 120:
            answer = await consumer.exchange([(lease, Ack()) for lease in held], 2)
            ended.update(lease.job_id for lease in held)
            held = list(answer.leases)
            numbers.add(len(_running(postgres_store)))

    async with aclosing(driver), AsyncExitStack() as stack:
        await limit(driver, "max_concurrency=3")
        await push(driver, *map(str, range(120)))
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                consumer = driver.consumer(f"w{number}", lease=1e6, max_deliveries=3)
                await consumer.open()
                stack.push_async_callback(consumer.aclose)
                tasks.start_soon(work, consumer)
        assert (await all_limits(driver)).running == []

    assert max(numbers) <= 3


async def test_a_removed_limit_is_forgotten_once_its_line_and_its_jobs_have_ended(
    postgres_store: PostgresStore,
) -> None:
    postgres_store.clock.advance(0)
    driver = postgres_store.driver
    rules = "select name, value from redisjobs.rules where queue = %s"
    async with aclosing(driver), aclosing(driver.consumer("w1", lease=1e6, max_deliveries=3)) as one:
        await one.open()
        await limit(driver, "max_concurrency=1")
        await push(driver, *"abc")
        held = await claim(one)
        await limit(driver, "")
        assert postgres_store.rows(rules) == [("Limited", "")]
        assert (await all_limits(driver)).limits == {}

        held += await claim(one)
        await tidy(driver)
        assert postgres_store.rows(rules) == [("Limited", "")]  # the first job still has its share
        await claim(one, *((lease, Ack()) for lease in held))
        postgres_store.clock.advance(60)
        await tidy(driver)

    assert [lease.job_id for lease in held] == [*"abc"]
    assert [
        postgres_store.rows(f"select * from redisjobs.{each} where queue = %s") for each in ("rules", "buckets")
    ] == [[], []]


_WAITING = """select 1 from pg_stat_activity
    where datname = current_database() and wait_event_type = 'Lock' and query like '%hold%'"""


async def test_two_jobs_that_are_held_at_once_give_their_line_one_turn(postgres_store: PostgresStore) -> None:
    driver = postgres_store.driver
    async with aclosing(driver), aclosing(driver.consumer("w1", lease=1e6, max_deliveries=3)) as one:
        await one.open()
        await limit(driver, "max_concurrency=2")
        await push(driver, *"abcd")
        held = await claim(one)
        await one.exchange([(lease, Release()) for lease in held], None)
        await one.exchange([], 0)  # so two others have had their turn
        hold = functions.installed_as("select redisjobs_f.hold(%s, null, %s)").encode()
        with psycopg.connect(postgres_store.url) as other:
            other.execute(hold, (postgres_store.queue_name, "a"))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(driver.change, Hold("b"))
                await eventually(lambda: postgres_store.admin.execute(_WAITING).fetchone())
                other.commit()

        assert len(postgres_store.rows("select number from redisjobs.buckets where queue = %s")) == 1
        assert [lease.job_id for lease in await claim(one)] == ["c", "d"]


@pytest.fixture
def snapshot(postgres_store: PostgresStore) -> Iterator[Any]:
    """A transaction that keeps all rows that anyone deletes meanwhile."""
    with psycopg.connect(postgres_store.url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        yield connection


@pytest.mark.parametrize("keys", [1, 20])
async def test_an_exchange_reads_no_more_however_much_ended_while_a_snapshot_is_held(
    postgres_store: PostgresStore, snapshot: Any, keys: int
) -> None:
    driver = postgres_store.driver
    async with aclosing(driver), aclosing(driver.consumer("w1", lease=1e6, max_deliveries=3)) as one:
        await one.open()
        await limit(driver, "max_concurrency=1")
        await push(driver, *(limited(f"{number}", f"k{number % keys}") for number in range(70 * keys)))
        await claim(one)
        snapshot.execute("select 1")

        blocks = [_exchange(postgres_store, 1_900_000_000_000 + second * 1000) for second in range(60)]
        assert len(_running(postgres_store)) == keys

    assert sum(blocks[-10:]) < 1.3 * sum(blocks[5:15])


def _running(store: PostgresStore) -> list[tuple[int, str, int]]:
    found = store.rows("select seq, id, deliveries from redisjobs.jobs where queue = %s and place = 'running'")
    return [(seq, id, deliveries) for seq, id, deliveries in found]


def _exchange(store: PostgresStore, now_ms: int) -> int:
    """End the jobs that run, and claim others, as a worker does; return how many blocks that read."""
    seqs, ids, counted = zip(*_running(store), strict=True)
    call = functions.installed_as(
        "explain (analyze, buffers, format json) select * from redisjobs_f.exchange("
        "%s, %s, 'w1', null, null, %s, %s, %s, null, 50::integer, 1000000, 3, false, %s, %s, %s, null, null, null)"
    )
    floors = [0, max(seqs), 0]
    values = (store.queue_name, now_ms, list(seqs), list(ids), list(counted), floors, floors, now_ms - 2000)
    ((explained,),) = store.admin.execute(call.encode(), values).fetchall()
    return int(explained[0]["Plan"]["Shared Hit Blocks"])
