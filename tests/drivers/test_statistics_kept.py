"""Statistics as Redis keeps them: how long, how large, and what someone may have changed there."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
import redis
from store import RedisStore

from redisjobs.errors import QueueFull, WrongType
from redisjobs.local import server
from redisjobs.model.recording import BOUNDS, FindIntervals, Record, Sums
from redisjobs_proof.contract.acts import claim, push
from redisjobs_proof.contract.recording import BEGIN, DIED, DONE, counted, last, read

pytestmark = pytest.mark.anyio

HOUR = 3_600_000
MINUTE = f"minute:{BEGIN // 60_000}"
TEN = f"ten:{BEGIN // 600_000}"


@pytest.fixture
async def timed(engine_store: RedisStore) -> AsyncIterator[RedisStore]:
    engine_store.clock.set_to = BEGIN
    yield engine_store
    await engine_store.driver.aclose()


async def test_minutes_are_kept_for_8_hours_and_ten_minutes_for_3_days(timed: RedisStore) -> None:
    await timed.driver.change(counted(1, Send=DONE))

    lasts = timed.keys()
    assert 0 < lasts[MINUTE] - 8 * HOUR <= 60_000
    assert 0 < lasts[TEN] - 72 * HOUR <= 600_000
    assert 0 < lasts["recorded:r1"] <= HOUR


async def test_a_person_can_read_the_texts(timed: RedisStore) -> None:
    await timed.driver.change(counted(1, Send=DONE, causes={"worker lost": 1}))
    await timed.driver.change(counted(2, Send=DIED))

    kept = {key.decode(): text.decode() for key, text in timed.admin.hgetall(timed.prefix + MINUTE).items()}

    assert kept.pop("queue").startswith("ready=0 running=0 delayed=0 suspended=0 dead=0 oldest_ms=")
    text = "completed=3 run50=3 run100=1 wait5=4 dead=1"
    assert kept == {"all": text, "job Send": text, "causes": "worker_lost=1"}


SPOILED = [
    *("", "x", "completed", "completed=", "completed=x run50=-3", "completed=1e99 dead= é", "=" * 300),
    "completed=99999999999999999999",
]


@pytest.mark.parametrize("text", SPOILED)
async def test_a_text_that_was_changed_is_skipped_and_added_to(timed: RedisStore, text: str) -> None:
    await timed.driver.change(counted(1, Send=DONE, causes={"worker lost": 1}))
    for key in (MINUTE, TEN):
        for field in ("all", "job Send", "causes", "queue", "odd", "job "):
            timed.admin.hset(timed.prefix + key, field, text)

    await timed.driver.change(counted(2, Send={"completed": 2, "dead": 4}))

    found = await last(timed)
    assert found.names["Send"]["dead"] == 4
    assert found.names["Send"]["completed"] == 2
    assert found.total == found.names["Send"]


async def test_a_key_of_another_type_is_refused_before_anything_is_written(timed: RedisStore) -> None:
    timed.admin.set(timed.prefix + TEN, "no hash", ex=60)
    before = timed.contents()

    with pytest.raises(WrongType, match="ten:"):
        await timed.driver.change(counted(1, Send=DONE))

    assert timed.contents() == before
    assert (await read(timed), await read(timed, 10)) == ([], [])
    timed.admin.delete(timed.prefix + TEN)


async def test_a_queue_that_cannot_be_sampled_is_recorded_all_the_same(timed: RedisStore) -> None:
    timed.admin.set(f"{timed.prefix}due", "no zset", ex=60)
    await timed.driver.change(counted(1, Send=DONE))
    found = await last(timed)
    assert (found.total, found.sample) == (DONE, {})
    timed.admin.delete(f"{timed.prefix}due")


async def test_waiting_jobs_of_lost_workers_count_as_ready(timed: RedisStore) -> None:
    timed.clock.set_to = None
    worker = timed.consumer("w1")
    await push(timed, "a", "b", "c")
    await claim(worker, 2)
    await worker.release(refund=True, watch=False)
    await worker.aclose()

    await timed.driver.change(counted(0))

    sample = (await last(timed)).sample
    assert (sample["ready"], sample["running"], sample["workers"]) == (3, 0, 0)


@pytest.mark.slow
async def test_a_step_reads_about_a_megabyte(timed: RedisStore) -> None:
    sums: Sums = {f"{kind}{bound}": 123_456_789 for kind in ("run", "wait") for bound in BOUNDS}
    for minute in range(20):
        for number in range(4):
            names = {f"{'x' * 190}{number * 50 + each}": sums for each in range(50)}
            await timed.driver.change(Record("r1", minute * 4 + number + 1, names, {}))
        timed.clock.advance(60)

    first = await timed.driver.read(FindIntervals(1, 60, is_whole=True))

    assert 1 <= len(first.intervals) < 10
    assert len(await read(timed)) == 20


@contextmanager
def full(store: RedisStore) -> Iterator[None]:
    store.admin.config_set("maxmemory", 1)
    try:
        yield
    finally:
        store.admin.config_set("maxmemory", 0)


async def test_a_full_server_refuses_statistics_and_still_shows_them() -> None:
    with server.start() as small:
        store = RedisStore(redis.Redis.from_url(small.url), small.url, f"full-{time.time_ns()}")
        await store.driver.change(counted(1, Send=DONE))
        with full(store):
            with pytest.raises(QueueFull):
                await store.driver.change(counted(2, Send=DONE))
            assert (await last(store)).total == DONE
        await store.driver.aclose()
        store.end()
