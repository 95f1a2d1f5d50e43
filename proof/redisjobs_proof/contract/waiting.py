"""A worker waits for jobs, and receives notifications."""

from collections.abc import Awaitable, Callable, Sequence

import anyio
import pytest

from redisjobs.model.changes import Cancel
from redisjobs.model.driver import Consumer, Notification
from redisjobs.model.job import Priority
from redisjobs.model.transitions import Ack, After, Lease, Release, Reply, RetryLater
from redisjobs_proof.contract.acts import (
    AGAIN,
    Open,
    beat,
    claim,
    claim_one,
    eventually,
    found,
    ids,
    inherit,
    job,
    listening,
    outlive,
    push,
    settle,
    take_over,
)
from redisjobs_proof.contract.store import DriverStore


async def test_what_is_ended_instead_of_claimed_is_no_news_for_those_who_wait(
    store: DriverStore, worker: Open
) -> None:
    one, two = await worker("w1", max_deliveries=1), await worker("w2", max_deliveries=1)
    await push(store, "killer", "unwanted")
    await claim(one)
    await store.driver.change(Cancel("unwanted"))
    async with listening(one.listen) as heard:
        assert await inherit(store, two) == []
        await push(store, job("last", due=After(60000)))
        await eventually(lambda: heard[-1].kind == "due")

    assert [notification.kind for notification in heard] == ["subscribed", "released", "due"]
    assert heard[1].value == "2"  # both count as handed back; a claim then ends one
    error = (await found(store, "killer")).fields[b"error"]
    assert error == b"delivered 1 times without an outcome: it may kill its workers"


async def test_that_a_job_has_to_run_alone_is_told_once(store: DriverStore, worker: Open) -> None:
    one, two = await worker("w1", max_deliveries=2), await worker("w2", max_deliveries=2)
    await push(store, "a", "b")
    await claim(one)
    async with listening(one.listen) as heard:
        for _ in range(3):
            assert (await outlive(store, two)).released
        await push(store, job("last", due=After(60000)))
        await eventually(lambda: heard[-1].kind == "due")

    assert [notification.kind for notification in heard] == ["subscribed", "released", "due"]
    assert heard[1].value == "2"


async def test_what_came_by_a_wait_that_no_one_heard_is_recovered(store: DriverStore, one: Consumer) -> None:
    await push(store, "a", job("b", priority=Priority.LOW))
    await one.wait(5, 1)
    leases = await one.recover([])
    assert [(lease.job_id, lease.deliveries) for lease in leases] == [("a", 1), ("b", 1)]
    assert (await one.exchange([(lease, AGAIN) for lease in leases], None)).replies == [Reply.OK] * 2


@pytest.mark.parametrize(("refund", "deliveries"), [(True, 1), (False, 2)])
@pytest.mark.parametrize("watch", [False, True])
async def test_all_that_a_worker_holds_is_released_in_its_place(
    store: DriverStore, one: Consumer, two: Consumer, refund: bool, deliveries: int, watch: bool
) -> None:
    await push(store, "a", "b", "c", job("d", priority=Priority.LOW), "e")
    await claim(one, 2)
    await one.wait(1, 5)
    others = await claim(two, 1)

    assert await one.release(refund=refund, watch=watch) == 4

    assert (await two.exchange([(others[0], Ack())], None)).replies == [Reply.OK]
    left = [(lease.job_id, lease.deliveries) for lease in await claim(two)]
    assert left == [("a", deliveries), ("b", deliveries), ("c", deliveries), ("d", deliveries)]
    assert await one.release(refund=refund, watch=watch) == 0


async def wait_for(consumer: Consumer, do: Callable[[], Awaitable[object]]) -> list[Lease]:
    """Begin to wait, then call `do`; return the jobs that the wait brings."""
    leases: list[Lease] = []

    async def wait() -> None:
        leases.extend(await consumer.wait(10, 5))

    with anyio.fail_after(3):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await do()
    return leases


async def test_a_wait_ends_with_a_push(store: DriverStore, one: Consumer) -> None:
    leases = await wait_for(one, lambda: push(store, "a"))
    assert [(lease.job_id, lease.deliveries) for lease in leases] == [("a", 1)]
    assert await settle(one, leases[0], Ack()) is Reply.OK


async def test_a_wait_ends_when_another_worker_promotes_a_job(
    store: DriverStore, one: Consumer, two: Consumer
) -> None:
    await push(store, job("a", due=After(1000), priority=Priority.LOW))
    store.clock.advance(2)
    leases = await wait_for(one, lambda: two.exchange([], 0))
    assert ids(leases) == ["a"]
    assert (await found(store, "a")).priority is Priority.LOW


async def test_a_wait_takes_what_is_there_by_priority_up_to_its_count_of_each(
    store: DriverStore, worker: Open
) -> None:
    await push(store, "a", "b", "c", job("d", priority=Priority.LOW), job("e", priority=Priority.HIGH))
    assert ids(await (await worker()).wait(2, 5)) == ["e", "a", "b", "d"]


async def test_a_wait_for_nothing_ends_after_its_time(store: DriverStore, worker: Open) -> None:
    with anyio.fail_after(3):
        assert await (await worker()).wait(10, 0.01) == []


async def test_a_cancelled_wait_loses_nothing(store: DriverStore, one: Consumer, two: Consumer) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.wait, 10, 5)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    await push(store, "a")
    await one.release(refund=True, watch=False)
    assert [(lease.job_id, lease.deliveries) for lease in await claim(two)] == [("a", 1)]


def without_workers(heard: Sequence[Notification]) -> list[Notification]:
    """Leave out notifications that a driver need not send: of workers that come and go."""
    return [each for each in heard if each.kind not in ("joined", "left")]


async def test_notifications_tell_of_an_earlier_due_time_a_cancel_and_a_release(
    store: DriverStore, one: Consumer, two: Consumer
) -> None:
    store.clock.advance(0)
    now_ms = store.clock()

    async with listening(two.listen) as heard:
        await push(store, job("a", due=After(5000)), job("b", due=After(9000)))  # the second is not the earliest
        await push(store, "c d", "e", "f")
        first, *others = await claim(one)
        await store.driver.change(Cancel("c d"))
        await settle(one, first, Ack(cancelled=True))
        await store.driver.change(Cancel("b"))
        await one.exchange([(lease, Release()) for lease in others], None)
        await claim(one)
        await one.exchange([(others[0], RetryLater(After(7000))), (others[1], RetryLater(After(3000)))], None)
        await one.release(refund=True, watch=False)  # it holds no jobs, so there is no notification
        await one.open("w3")
        await push(store, "g")
        await claim_one(one)
        await one.release(refund=True, watch=False)
        await eventually(lambda: len(without_workers(heard)) == 6)

    told = [("subscribed", ""), ("due", str(now_ms + 5000)), ("cancel", "c d"), ("released", "2")]
    told += [("due", str(now_ms + 3000)), ("released", "1")]
    assert [each for each in heard if each.kind not in ("joined", "left")] == [
        Notification(*each) for each in told
    ]


# Which worker looks when delayed jobs are due


@pytest.mark.parametrize("how", ["leaves", "is fenced", "asks no more", "asks no more, as the clock is set back"])
async def test_one_worker_is_to_look_when_delayed_jobs_are_due_and_is_followed_by_another(
    store: DriverStore, one: Consumer, two: Consumer, worker: Open, how: str
) -> None:
    store.clock.advance(0)
    three = await worker("w3")
    assert [(await each.reclaim()).promotes for each in (one, two, three, one)] == [True, False, False, True]

    match how:
        case "leaves":
            await one.release(refund=True, watch=False)
        case "is fenced":
            store.age(60)
            beat(two)
            beat(three)
        case _:  # for 20 s
            store.clock.advance(21 if how == "asks no more" else -60)

    assert (await take_over(two) if how == "is fenced" else await two.reclaim()).promotes
    assert [(await each.reclaim()).promotes for each in (three, two)] == [False, True]


async def test_a_job_is_late_250_ms_after_it_was_due(store: DriverStore, one: Consumer) -> None:
    store.clock.advance(0)
    await push(store, job("a", due=After(10_000)))
    assert not (await one.reclaim()).late

    store.clock.advance(10.2)
    assert not (await one.reclaim()).late
    store.clock.advance(0.05)
    assert (await one.reclaim()).late
    assert ids(await claim(one, 1)) == ["a"]
    assert not (await one.reclaim()).late
