"""Rates and waits: a job that goes on after a wait has not started again."""

import pytest

from redisjobs.model.changes import Cancel
from redisjobs.model.driver import Consumer, Driver
from redisjobs.model.steps import GetSteps
from redisjobs.model.transitions import Ack, After, Lease, Release, Reply, RetryLater, Suspend, Wait, WaitsFor
from redisjobs_proof.contract.acts import Open
from redisjobs_proof.contract.limit_acts import LIMITS, claim, job_ids, limit, push
from redisjobs_proof.contract.needs import needs
from redisjobs_proof.contract.store import DriverStore

_NEEDS = (*LIMITS, GetSteps)


def nap(number: int = 1) -> Suspend:
    return Suspend(Wait(number, WaitsFor.TIME, f"nap#{number}"), After(0))


async def gone_on(driver: Driver, consumer: Consumer, words: str = "rate=1/m burst=1") -> Lease:
    """Limit jobs and start one, which waits, and goes on at once; return the lease that it has now."""
    await limit(driver, words)
    await push(driver, "a")
    (lease,) = await claim(consumer)
    (lease,) = await claim(consumer, (lease, nap()))
    assert lease.job_id == "a"
    return lease


async def test_a_job_that_goes_on_after_a_wait_spends_no_start_of_its_rate_and_waits_for_none(
    store: DriverStore, driver: Driver, one: Consumer
) -> None:
    store.clock.advance(0)
    lease = await gone_on(driver, one)
    await push(driver, *"bc")
    for number in (2, 3):
        assert await claim(one) == []  # a line waits for the rate
        (lease,) = await claim(one, (lease, nap(number)))
        assert lease.job_id == "a"

    started = []
    for _ in range(2):
        store.clock.advance(59.999)
        assert await claim(one) == []
        store.clock.advance(0.001)
        started += job_ids(await claim(one))
    assert started == ["b", "c"]


async def test_the_retry_of_a_job_that_has_waited_spends_a_start_of_its_rate(
    store: DriverStore, driver: Driver, one: Consumer
) -> None:
    store.clock.advance(0)
    lease = await gone_on(driver, one)

    again = RetryLater(After(0), {"attempt": "2", "started_at": "1", "suspended_at": ""})
    assert await claim(one, (lease, again)) == []
    store.clock.advance(60)
    assert job_ids(await claim(one)) == ["a"]
    await push(driver, "b")
    assert await claim(one) == []


@needs(Cancel)
@pytest.mark.parametrize("act", ["released", "cancelled and released", "its worker ended", "its worker was lost"])
async def test_a_job_that_went_on_after_a_wait_gives_back_no_start_that_it_had_not_spent(
    store: DriverStore, driver: Driver, one: Consumer, worker: Open, act: str
) -> None:
    store.clock.advance(0)
    lease = await gone_on(driver, one)
    await push(driver, "b")
    two = await worker("w2")
    match act:
        case "released":
            assert (await one.exchange([(lease, Release())], None)).replies == [Reply.OK]
        case "cancelled and released":
            assert await driver.change(Cancel("a")) is Reply.CANCELLING
            assert (await one.exchange([(lease, Release())], None)).replies == [Reply.CANCELLED]
        case _:
            assert await one.release(refund=act == "its worker ended", watch=False) == 1

    # The same attempt goes on: that is no new start.
    assert job_ids(await claim(two)) == ([] if act.startswith("cancelled") else ["a"])
    store.clock.advance(60)
    assert job_ids(await claim(two)) == ["b"]


async def test_a_job_that_goes_on_after_a_wait_needs_a_share_and_leaves_the_turn_to_the_next(
    store: DriverStore, driver: Driver, one: Consumer
) -> None:
    store.clock.advance(0)
    await limit(driver, "max_concurrency=1 rate=60/m burst=4")
    await push(driver, *"ab")
    (a,) = await claim(one)
    (b,) = await claim(one, (a, nap()))
    assert (a.job_id, b.job_id) == ("a", "b")
    await push(driver, "c")

    (a,) = await claim(one, (b, Ack()))
    assert a.job_id == "a"
    assert job_ids(await claim(one, (a, Ack(stepped=True)))) == ["c"]
