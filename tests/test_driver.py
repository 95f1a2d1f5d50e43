"""The contract of a driver: each test runs on memory and on every server at hand."""

import pytest
from store import Store

from redisjobs.driver import Ack, NewJob, Word

pytestmark = pytest.mark.anyio


def job(job_id: str, **options: object) -> NewJob:
    return NewJob(job_id, ["name", "Work", "parameters", "{}"], **options)  # type: ignore[arg-type]


async def test_a_pushed_job_is_claimed_and_settled_once(store: Store) -> None:
    consumer = store.consumer("w1")
    await consumer.open()
    (pushed,) = await store.driver.push([job("a")], again=False)

    exchange = await consumer.exchange([], 10)
    (lease,) = exchange.leases
    settled = await consumer.exchange([(lease, Ack())], 10)

    assert pushed.word is Word.OK
    assert (lease.job_id, lease.deliveries) == ("a", 1)
    assert settled.words == [Word.OK]
    assert settled.leases == []
    assert await store.driver.find("a") is None
    await consumer.aclose()
    await store.driver.aclose()
