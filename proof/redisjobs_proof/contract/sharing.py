"""Several drivers of one queue, as in several processes: all state has to be in the store."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import anyio
import pytest

from redisjobs.model.changes import Cancel
from redisjobs.model.driver import Driver, Fenced, Notification
from redisjobs.model.queries import Count
from redisjobs.model.transitions import Ack, After, Pushed, Reply
from redisjobs_proof.contract.acts import (
    Open,
    another,
    beat,
    claim,
    claim_one,
    eventually,
    found,
    ids,
    inherit,
    listening,
    push,
    settle,
)
from redisjobs_proof.contract.store import DriverStore


@pytest.fixture
async def second(store: DriverStore) -> AsyncIterator[Driver]:
    """A second driver of the queue."""
    async with aclosing(store.another()) as driver:
        yield driver


async def test_drivers_of_one_queue_say_that_they_have_one_place(
    store: DriverStore, worker: Open, second: Driver
) -> None:
    assert second is not store.driver
    assert second.place == store.driver.place
    assert hash(second.place) == hash(store.driver.place)


async def test_what_one_driver_pushes_and_changes_another_finds(
    store: DriverStore, worker: Open, second: Driver
) -> None:
    pushed = another("a", unique="key")
    assert await second.push([pushed], repeated=False) == [Pushed(Reply.OK)]
    assert await push(store, pushed, repeated=True) == [Pushed(Reply.REPEATED)]
    assert await push(store, another("b", unique="key")) == [Pushed(Reply.DUPLICATE, "a")]

    lease = await claim_one(await worker())
    assert await second.change(Cancel("a")) is Reply.CANCELLING
    assert (await found(store, "a")).cancelling
    assert beat(await worker(), lease) == ["a"]
    assert await second.read(Count()) == await store.driver.read(Count())


async def test_no_job_is_claimed_by_workers_of_two_drivers(
    store: DriverStore, worker: Open, second: Driver
) -> None:
    one, two = await worker("w1"), second.consumer("w2", lease=15, max_deliveries=3)
    await two.open()
    await push(store, *(str(number) for number in range(40)))
    claimed: list[str] = []

    async def claim_some(consumer_number: int) -> None:
        consumer = (one, two)[consumer_number % 2]
        claimed.extend(ids(await claim(consumer, 5)))

    async with anyio.create_task_group() as tasks:
        for number in range(2):
            tasks.start_soon(claim_some, number)
    claimed += ids(await claim(one, 40)) + ids(await claim(two, 40))

    assert sorted(claimed, key=int) == [str(number) for number in range(40)]
    await two.aclose()


async def test_a_worker_that_ended_with_its_driver_is_fenced_by_one_of_another(
    store: DriverStore, worker: Open, second: Driver
) -> None:
    dead = second.consumer("dead", lease=15, max_deliveries=3)
    await dead.open()
    await push(store, "a")
    lease = await claim_one(dead)
    await dead.aclose()

    (again,) = await inherit(store, await worker("heir"))

    assert (again.job_id, again.deliveries) == ("a", 2)
    with pytest.raises(Fenced):
        await settle(dead, lease, Ack())
    assert await settle(await worker("heir"), again, Ack()) is Reply.OK
    await dead.aclose()


async def test_what_is_told_by_one_driver_is_heard_by_another(
    store: DriverStore, worker: Open, second: Driver
) -> None:
    store.clock.advance(0)
    async with listening(second.listen) as heard:
        await store.driver.push([another("a", due=After(5000))], repeated=False)
        await eventually(lambda: len(heard) > 1)

    assert heard == [Notification("subscribed", ""), Notification("due", str(store.clock() + 5000))]


async def test_a_driver_that_was_closed_answers_again_and_leaves_others_alone(
    store: DriverStore, worker: Open, second: Driver
) -> None:
    await push(store, "a")
    await second.read(Count())
    await second.aclose()

    assert (await found(store, "a")).job_id == "a"
    assert await second.read(Count()) == await store.driver.read(Count())
