"""Jobs that kill their workers: the last delivery is to an idle worker; after it the job becomes a dead letter."""

import time

import pytest

from redisjobs.model.changes import Cancel
from redisjobs.model.driver import Consumer
from redisjobs.model.job import Priority, State
from redisjobs.model.queries import Count
from redisjobs.model.transitions import Ack, Pushed, Release, Reply
from redisjobs_proof.contract.acts import (
    Open,
    beat,
    claim,
    claim_one,
    claim_with_ended,
    found,
    happened,
    ids,
    inherit,
    job,
    outlive,
    push,
    settle,
    take_over,
    texts,
)
from redisjobs_proof.contract.store import DriverStore


async def test_a_unique_key_is_free_once_its_job_killed_its_workers(store: DriverStore, worker: Open) -> None:
    await push(store, job("a", unique="key"))
    await claim_one(await worker("w1", max_deliveries=1))
    assert await inherit(store, await worker("w2", max_deliveries=1)) == []
    assert await push(store, job("b", unique="key")) == [Pushed(Reply.OK)]


async def test_a_job_that_kills_its_workers_becomes_a_dead_letter(store: DriverStore, worker: Open) -> None:
    one, two = await worker("w1", max_deliveries=2), await worker("w2", max_deliveries=2)
    three = await worker("w3", max_deliveries=2)
    await push(store, "a", job("b", priority=Priority.LOW))
    await claim(one)
    await outlive(store, two, three)
    assert await claim(two) == []
    assert ids(await claim(two, idle=True)) == ["a"]
    assert ids(await claim(three, idle=True)) == ["b"]
    four = await worker("w4", max_deliveries=2)
    store.clock.advance(0)

    assert await inherit(store, four) == []

    error = "delivered 2 times without an outcome, the last time with nothing beside it: it may kill its workers"
    for job_id, priority in (("a", "normal"), ("b", "low")):
        fields = texts((await found(store, job_id)).fields)
        assert (fields["reason"], fields["deliveries"], fields["priority"]) == ("worker lost", "2", priority)
        assert (fields["error"], fields["worker"], fields["failed_at"]) == (error, "w4", str(store.clock()))
    counts = await store.driver.read(Count())
    assert (sum(counts.ready.values()), counts.running) == (0, 0)
    assert happened(counts) == {"pushed": 2, "dead": 2, "reclaimed": 4}


async def test_a_job_delivered_for_the_last_time_has_its_worker_for_itself(
    store: DriverStore, worker: Open
) -> None:
    """The job may kill its worker, and jobs that ran beside it would lose a delivery without any fault."""
    one, two = await worker("w1", max_deliveries=2), await worker("w2", max_deliveries=2)
    await push(store, "a", "b", "c", job("new", priority=Priority.LOW))
    await claim(one, 3)
    three = await worker("w3", max_deliveries=2)
    await outlive(store, two, three)

    new = await claim_one(two)  # it does not say that it is idle
    assert new.job_id == "new"
    assert await claim(two, idle=True) == []  # it says so, but it runs a job
    assert await settle(two, new, Ack()) is Reply.OK
    alone = await claim(two, idle=True)
    assert ids(alone) == ["a"]
    assert (await found(store, "a")).worker == "w2"
    assert ids(await claim(three, idle=True)) == ["b"]
    assert await settle(two, alone[0], Ack()) is Reply.OK
    assert ids(await claim(two, idle=True)) == ["c"]


async def test_a_job_that_has_to_run_alone_is_claimed_with_no_other_whatever_their_priority(
    store: DriverStore, worker: Open
) -> None:
    one, two = await worker("w1", max_deliveries=2), await worker("w2", max_deliveries=2)
    await push(store, "a")
    await claim(one)
    three = await worker("w3")
    await outlive(store, two, three)
    assert (await three.reclaim(others=True)).others == 0  # the job waits, and no worker holds it
    await push(store, job("urgent", priority=Priority.HIGH), "b", job("c", priority=Priority.LOW))

    (urgent,) = await claim(two, 1, idle=True)
    await settle(two, urgent, Release())
    await two.exchange([], 0)
    exchange = await two.exchange([], 9, idle=True)
    assert ids(list(exchange.leases)) == ["urgent", "b", "c"]
    assert exchange.waits is not None
    assert (await two.exchange([(lease, Ack()) for lease in exchange.leases], None)).replies == [Reply.OK] * 3

    await push(store, "d", job("e", priority=Priority.LOW))
    assert ids(await claim(two, 9, idle=True)) == ["a"]
    assert (await three.reclaim(others=True)).others == 1


async def test_a_job_that_has_to_run_alone_keeps_its_place_though_busy_workers_pass_it_by(
    store: DriverStore, worker: Open
) -> None:
    one, two = await worker("w1", max_deliveries=2), await worker("w2", max_deliveries=2)
    await push(store, "a", "b", "c", "d")
    await claim(one)
    await outlive(store, two)
    await push(store, "new")
    new = await claim_one(two)  # a busy worker passes them over, and takes the job behind them
    assert new.job_id == "new"
    assert (await found(store, "a")).state is State.READY
    assert sum((await store.driver.read(Count())).ready.values()) == 4
    assert await store.driver.change(Cancel("b")) is Reply.CANCELLED
    await settle(two, new, Release())

    for job_id in "acd":  # the job that was handed back since comes after them
        (lease,) = await claim(two, idle=True)
        assert (lease.job_id, lease.deliveries) == (job_id, 2)
        assert await settle(two, lease, Ack()) is Reply.OK
    assert ids(await claim(two, idle=True)) == ["new"]


async def test_a_job_that_was_handed_back_goes_before_one_that_has_to_run_alone_and_is_younger(
    store: DriverStore, worker: Open
) -> None:
    one, two = await worker("w1", max_deliveries=2), await worker("w2", max_deliveries=2)
    await push(store, "old", "young")
    old, _ = await claim(one)
    await settle(one, old, Release())
    await outlive(store, two)
    (old,) = await claim(two)
    await settle(two, old, Release())

    assert ids(await claim(two, idle=True)) == ["old"]


async def waits_for(consumer: Consumer, *, idle: bool = False) -> float | None:
    """Return what a claim says: the seconds that a job which has to run alone has waited."""
    await consumer.exchange([], 0)
    return (await consumer.exchange([], 5, idle=idle)).waits


async def test_a_claim_tells_for_how_long_a_job_has_been_waiting_that_has_to_run_alone(
    store: DriverStore, worker: Open
) -> None:
    one, two = await worker("w1", max_deliveries=2), await worker("w2", max_deliveries=2)
    await push(store, "a")
    await claim(one)
    assert await waits_for(two) is None
    began = time.monotonic()
    await outlive(store, two)
    waits = await waits_for(two)
    assert waits is not None
    assert 0 <= waits <= time.monotonic() - began + 0.01
    store.age(60)

    waits = await waits_for(two)
    assert waits is not None
    assert 59 < waits < 70
    assert await waits_for(two, idle=True) is None


async def test_a_look_for_lost_workers_leaves_a_job_that_has_to_run_alone_the_time_it_has_waited(
    store: DriverStore, worker: Open
) -> None:
    one, two = await worker("w1", max_deliveries=2), await worker("w2", max_deliveries=2)
    await push(store, "a")
    await claim(one)
    assert (await outlive(store, two)).jobs == 1
    store.age(60)
    beat(two)

    look = await take_over(two)

    assert (look.jobs, look.released) == (0, True)
    waits = await waits_for(two)
    assert waits is not None
    assert 59 < waits < 70
    assert ids(await claim(two, idle=True)) == ["a"]
    assert not (await take_over(two)).released


async def test_no_job_is_convicted_of_killing_workers_that_did_not_run_alone(
    store: DriverStore, worker: Open
) -> None:
    """A worker that allows more deliveries ran it beside others, so its deaths there prove nothing."""
    generous = await worker("w1", max_deliveries=9)
    await push(store, "a")
    await claim(generous)
    for deliveries in (2, 3, 4):
        generous = await worker(f"generous {deliveries}", max_deliveries=9)
        assert [lease.deliveries for lease in await inherit(store, generous)] == [deliveries]

    strict = await worker("w2", max_deliveries=2)
    assert await inherit(store, strict) == []

    assert (await found(store, "a")).state is State.READY
    assert [lease.deliveries for lease in await claim(strict, idle=True)] == [5]
    assert await inherit(store, await worker("w3", max_deliveries=2)) == []
    assert (await found(store, "a")).state is State.DEAD


async def test_a_proof_of_long_ago_does_not_convict_a_job_that_ran_beside_others_since(
    store: DriverStore, worker: Open
) -> None:
    await push(store, "a")
    await claim(await worker("w1", max_deliveries=2))
    strict = await worker("w2", max_deliveries=2)
    await outlive(store, strict)
    assert ids(await claim(strict, idle=True)) == ["a"]
    assert ids(await inherit(store, await worker("w3", max_deliveries=9))) == ["a"]

    assert await inherit(store, await worker("w4", max_deliveries=2)) == []
    assert (await found(store, "a")).state is State.READY


async def test_a_job_that_may_be_delivered_but_once_need_not_run_alone(store: DriverStore, worker: Open) -> None:
    consumer = await worker(max_deliveries=1)
    await push(store, "a", "b", "c")
    leases = await claim(consumer)
    for lease in leases:
        await settle(consumer, lease, Release())

    assert ids(await claim(consumer)) == ["a", "b", "c"]


@pytest.mark.parametrize("way", ["reclaimed", "released"])
async def test_what_is_ended_instead_of_handed_out_again_is_told(
    store: DriverStore, worker: Open, way: str
) -> None:
    lost, heir = await worker("lost"), await worker("heir", max_deliveries=1)
    await push(store, "poison", "unwanted")
    await claim(lost)
    await store.driver.change(Cancel("unwanted"))
    if way == "reclaimed":
        await outlive(store, heir)
        expected = [("poison", Reply.DEAD), ("unwanted", Reply.CANCELLED)]
    else:
        await lost.release(refund=True, watch=False)
        expected = [("unwanted", Reply.CANCELLED)]

    leases, ended = await claim_with_ended(heir, 2)

    assert ended == expected
    assert ids(leases) == ([] if way == "reclaimed" else ["poison"])
    if way == "reclaimed":
        error = (await found(store, "poison")).fields[b"error"].decode()
        assert error == "delivered 1 times without an outcome: it may kill its workers"


async def test_a_job_released_without_a_refund_counts_its_delivery_and_is_capped(
    store: DriverStore, one: Consumer, two: Consumer
) -> None:
    await push(store, "ran", "waited")
    leases = await claim(one, 2)
    await one.exchange([(leases[0], Release(refund=False)), (leases[1], Release())], None)

    ran, waited = await claim(two, 2)
    assert [(ran.job_id, ran.deliveries), (waited.job_id, waited.deliveries)] == [("ran", 2), ("waited", 1)]
    await two.exchange([(ran, Release(refund=False)), (waited, Release())], None)

    (ran,) = await claim(two, 2, idle=True)
    assert (ran.job_id, ran.deliveries) == ("ran", 3)
    await two.exchange([(ran, Release(refund=False))], None)

    assert ids(await claim(two, 2)) == ["waited"]
    assert (await found(store, "ran")).state is State.DEAD
