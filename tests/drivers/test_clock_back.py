"""The server's clock is set back: late reads of fenced workers are not forgotten, nor which pushes have ended."""

import pytest
from store import RedisStore, Store

from redisjobs.model.transitions import Ack, NewJob, Reply

pytestmark = pytest.mark.anyio


async def test_a_late_read_of_a_fenced_worker_does_not_wait_until_the_clock_is_where_it_was(
    redis_store: RedisStore,
) -> None:
    store = redis_store
    fenced, heir = store.consumer("w1"), store.consumer("heir", lease=3600)
    await store.driver.push([NewJob("a", ["name", "x", "parameters", "{}"])], repeated=False)
    await fenced.release(refund=False, watch=True)
    assert [lease.job_id for lease in await fenced.wait(1, 1)] == ["a"]

    store.clock.advance(-3000)

    assert (await heir.reclaim()).jobs == 1
    assert [lease.job_id for lease in (await heir.exchange([], 1)).leases] == ["a"]
    for closed in (fenced, heir, store.driver):
        await closed.aclose()


async def test_a_fenced_worker_is_not_watched_until_the_clock_is_where_it_was(redis_store: RedisStore) -> None:
    store = redis_store
    fenced, heir = store.consumer("w1", lease=2), store.consumer("heir", lease=3600)
    await fenced.release(refund=False, watch=True)

    store.clock.advance(-3000)
    for _ in range(9):  # its lease, and the longest that a read may block
        await heir.reclaim()
        store.clock.advance(1)
    await heir.reclaim()

    assert store.admin.zrange(f"{store.prefix}fenced", 0, -1) == []
    for closed in (fenced, heir, store.driver):
        await closed.aclose()


@pytest.mark.parametrize("back", [5, 20, 55])
async def test_a_push_that_is_repeated_after_the_clock_was_set_back_adds_no_second_job(
    store: Store, back: int
) -> None:
    worker = store.consumer("w")
    job = NewJob("a", ["name", "n"])
    assert [pushed.reply for pushed in await store.driver.push([job], repeated=False)] == [Reply.OK]
    (lease,) = (await worker.exchange([], 1)).leases
    assert list((await worker.exchange([(lease, Ack())], None)).replies) == [Reply.OK]

    store.clock.step(-back)

    assert [pushed.reply for pushed in await store.driver.push([job], repeated=True)] == [Reply.REPEATED]
    await worker.aclose()
    await store.driver.aclose()
