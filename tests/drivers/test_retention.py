"""What a queue keeps, and for how long: said by its workers, trimmed by whichever of them tidies, in steps."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from postgres_store import PostgresStore
from store import MemoryStore, RedisStore, Store

from redisjobs import JobQueue, Keep, Retention, Worker, sync
from redisjobs.events import SourceUnavailable
from redisjobs.model.changes import Delete, Requeue, Retain, Tidied, Tidy
from redisjobs.model.driver import Consumer, Driver
from redisjobs.model.job import State
from redisjobs.model.queries import Count, Find
from redisjobs.model.transitions import Ack, DeadLetter, NewJob, Reply
from redisjobs.model.why import Ahead
from redisjobs_proof.contract.acts import rows_of

pytestmark = pytest.mark.anyio

DAY = 24 * 3600
FAILED = DeadLetter("failed", "ValueError: no")


@pytest.fixture
async def worker(store: Store, driver: Driver) -> AsyncIterator[Consumer]:
    consumer = store.consumer("w")
    await consumer.open()
    yield consumer
    await consumer.aclose()


def job(job_id: str, **options: Any) -> NewJob:
    return NewJob(job_id, ["name", "Work", "parameters", "{}"], **options)


async def die(driver: Driver, worker: Consumer, *job_ids: str, **options: Any) -> None:
    """Let jobs of these ids become dead letters, in this order."""
    for job_id in job_ids:
        await driver.push([job(job_id, **options)], repeated=False)
        answer = await worker.exchange([], 1)
        while not answer.leases:
            answer = await worker.exchange([], 1)
        assert (await worker.exchange([(answer.leases[0], FAILED)], None)).replies == [Reply.OK]


async def tidy(driver: Driver, store: Store) -> int:
    """Tidy to the end, as if a minute had passed since the last time; how many jobs were thrown away."""
    if isinstance(store, RedisStore):
        store.admin.hdel(f"{store.prefix}layout", "tidied_at")
    elif isinstance(store, MemoryStore):
        store.memory.tidied_ms = None
    else:
        assert isinstance(store, PostgresStore)
        store.rows("delete from redisjobs.settings where queue = %s and name = 'tidied' returning name")
    tidied = await driver.change(Tidy())
    total = tidied.trimmed
    while tidied.after:
        tidied = await driver.change(Tidy(tidied.after))
        total += tidied.trimmed
    return total


async def there(driver: Driver, state: State = State.DEAD) -> list[str]:
    """The ids of the jobs of a state, the newest first."""
    return [row.job_id for row in await rows_of(driver, state, 500)]


# What is said


@pytest.mark.parametrize("limits", [{"age": -1}, {"age": 0}, {"age": timedelta(0)}, {"count": -5}, {"count": 0}])
def test_a_limit_that_is_not_more_than_nothing_is_an_error_where_it_is_written(limits: Any) -> None:
    with pytest.raises(ValueError, match="give "):
        Keep(**limits)


async def test_what_is_said_last_counts(store: Store, driver: Driver, worker: Consumer) -> None:
    await die(driver, worker, *"abc")
    for count in (1, 2):
        assert await driver.change(Retain(Retention(dead=Keep(count=count)))) is Reply.OK

    assert await tidy(driver, store) == 1

    assert await there(driver) == ["c", "b"]


@pytest.mark.parametrize("keeps", [False, True])
async def test_a_kept_job_is_not_taken_for_one_that_ended_and_left_no_trace(
    store: Store, driver: Driver, worker: Consumer, keeps: bool
) -> None:
    if keeps:
        await driver.change(Retain(Retention(completed=Keep())))
    await driver.push([job("a")], repeated=False)
    (lease,) = (await worker.exchange([], 1)).leases
    assert (await worker.exchange([(lease, Ack())], None)).replies == [Reply.OK]

    assert (await driver.read(Ahead("a"))).has_ended is not keeps


@pytest.mark.parametrize("make", [JobQueue, sync.JobQueue])
async def test_a_worker_of_a_queue_with_a_retention_stores_it_and_one_without_leaves_it(
    redis_store: RedisStore, make: Any
) -> None:
    def stored() -> dict[bytes, bytes]:
        return redis_store.admin.hgetall(f"{redis_store.prefix}retention")  # type: ignore[no-any-return]

    said = Retention(completed=Keep(age=timedelta(hours=1)), cancelled=Keep(count=5), dead=Keep())
    for retention in (None, said, None):
        queue = make(redis_store.url, redis_store.queue_name, retention=retention)
        await Worker(queue).run(until_idle=True)
        await queue._disconnect()
        assert retention is not None or stored() in (
            {},
            {b"completed": b"3600000 -", b"cancelled": b"- 5", b"dead": b"- -"},
        )

    assert stored() == {b"completed": b"3600000 -", b"cancelled": b"- 5", b"dead": b"- -"}


async def test_a_worker_that_can_not_store_it_yet_says_why_and_begins_once_it_can(redis_store: RedisStore) -> None:
    spoiled = f"{redis_store.prefix}retention"
    redis_store.admin.set(spoiled, "junk")
    queue = JobQueue(redis_store.url, redis_store.queue_name, retention=Retention(dead=Keep(count=5)))
    why: list[str] = []

    def mend(event: SourceUnavailable) -> None:
        why.append(event.why)
        redis_store.admin.delete(spoiled)

    queue.events.subscribe(SourceUnavailable, mend)
    async with queue:
        await Worker(queue).run(until_idle=True)

    assert [text.partition(";")[0] for text in why] == [f"WRONGTYPE {spoiled} is a string, it must be a hash"]
    assert redis_store.admin.hget(spoiled, "dead") == b"- 5"


# What is trimmed


async def test_nothing_said_dead_letters_are_kept_for_30_days(
    store: Store, driver: Driver, worker: Consumer
) -> None:
    await die(driver, worker, "a")
    store.clock.advance(29 * DAY)
    assert await tidy(driver, store) == 0
    assert await there(driver) == ["a"]

    store.clock.advance(2 * DAY)
    assert await tidy(driver, store) == 1

    assert await there(driver) == []
    assert await driver.read(Find("a")) is None
    counts = await driver.read(Count())
    assert (counts.dead, counts.totals["trimmed"]) == (0, 1)


async def test_over_their_number_the_oldest_go(store: Store, driver: Driver, worker: Consumer) -> None:
    await driver.change(Retain(Retention(dead=Keep(count=2))))
    await die(driver, worker, *"abcde")

    assert await tidy(driver, store) == 3

    assert await there(driver) == ["e", "d"]


async def test_without_limits_all_stay(store: Store, driver: Driver, worker: Consumer) -> None:
    await driver.change(Retain(Retention(dead=Keep())))
    await die(driver, worker, *"abc")
    store.clock.advance(1000 * DAY)

    assert await tidy(driver, store) == 0


async def test_an_id_whose_letter_was_trimmed_is_free(store: Store, driver: Driver, worker: Consumer) -> None:
    await driver.change(Retain(Retention(dead=Keep(age=60))))
    await die(driver, worker, "a", nonce="first", unique="k")
    store.clock.advance(3600)
    await tidy(driver, store)

    assert [each.reply for each in await driver.push([job("a", nonce="second", unique="k")], repeated=False)] == [
        "OK"
    ]
    assert await driver.change(Requeue("a")) is Reply.NOT_FOUND


async def test_a_push_that_is_repeated_after_its_letter_was_trimmed_adds_nothing(
    store: Store, driver: Driver, worker: Consumer
) -> None:
    store.clock.advance(0)
    await driver.change(Retain(Retention(dead=Keep(count=1))))
    await die(driver, worker, "a", "b", nonce="n")
    assert await tidy(driver, store) == 1

    (answer,) = await driver.push([job("a", nonce="n")], repeated=True)

    assert answer.reply is Reply.REPEATED


async def test_one_that_was_requeued_since_is_another_job(store: Store, driver: Driver, worker: Consumer) -> None:
    await die(driver, worker, "a")
    assert await driver.change(Requeue("a")) is Reply.OK
    store.clock.advance(40 * DAY)

    assert await tidy(driver, store) == 0

    row = await driver.read(Find("a"))
    assert row is not None
    assert row.state is State.READY


# By steps, and by one worker


async def test_it_goes_by_bounded_steps_and_no_one_else_begins_meanwhile(redis_store: RedisStore) -> None:
    store, driver = redis_store, redis_store.driver
    with store.admin.pipeline(transaction=False) as pipe:
        for number in range(1200):
            fields = {"id": f"j{number}", "name": "Work", "parameters": "{}", "reason": "failed"}
            pipe.xadd(f"{store.prefix}dead", fields, id=f"{1000 + number}-0")
            pipe.hset(f"{store.prefix}jobs", f"j{number}", f"dead {1000 + number}-0")
        pipe.execute()
    store.clock.advance(0)

    step = await driver.change(Tidy())
    assert step == Tidied(after="trim ")
    steps = []
    while step.after:
        store.clock.advance(50)
        assert await driver.change(Tidy()) == Tidied(), "another worker, which would begin"
        step = await driver.change(Tidy(step.after))
        steps.append(step.trimmed)

    assert steps == [500, 500, 200]
    assert store.admin.xlen(f"{store.prefix}dead") == len(store.located()) == 0
    await driver.aclose()


async def test_a_step_takes_about_a_megabyte(redis_store: RedisStore) -> None:
    store = redis_store
    for number in range(20):
        fields = {"id": f"j{number}", "name": "Work", "parameters": "x" * 300_000}
        store.admin.xadd(f"{store.prefix}dead", fields, id=f"{1000 + number}-0")

    step = await store.driver.change(Tidy("trim "))

    assert (step.trimmed, step.after) == (4, "trim more")
    await store.driver.aclose()


async def test_the_locator_of_an_id_that_another_letter_has_stays(redis_store: RedisStore) -> None:
    store = redis_store
    for entry in ("1000-0", "9999999999999-0"):
        store.admin.xadd(f"{store.prefix}dead", {"id": "a", "name": "Work", "parameters": "{}"}, id=entry)
    store.admin.hset(f"{store.prefix}jobs", "a", "dead 9999999999999-0")

    assert await tidy(store.driver, store) == 1

    assert store.located() == {"a": "dead 9999999999999-0"}
    assert await store.driver.change(Delete("a")) is Reply.OK
    await store.driver.aclose()


@pytest.mark.parametrize("text", ["", "much", "5", "- x", "-1 -5"])
async def test_a_retention_that_was_made_unreadable_with_redis_cli_is_no_limit_to_dead_letters(
    redis_store: RedisStore, text: str
) -> None:
    store = redis_store
    store.admin.hset(f"{store.prefix}retention", "dead", text)
    store.admin.xadd(f"{store.prefix}dead", {"name": "Work", "parameters": "{}"})

    trimmed = await tidy(store.driver, store)

    assert trimmed == (1 if text == "-1 -5" else 0)
    store.admin.delete(f"{store.prefix}dead")
    await store.driver.aclose()
