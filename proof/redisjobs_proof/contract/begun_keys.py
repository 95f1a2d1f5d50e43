"""The unique key of a job that has begun: what its runs have saved never goes to another push."""

import pytest

from redisjobs.model.children import FindChildren
from redisjobs.model.driver import Consumer
from redisjobs.model.job import State
from redisjobs.model.moving import Import
from redisjobs.model.transitions import Ack, After, Pushed, Release, Reply, RetryLater, SaveStep, Settlement
from redisjobs_proof.contract.acts import (
    AGAIN,
    claim,
    claim_one,
    found,
    ids,
    job,
    newer,
    push,
    settle,
    until_start,
)
from redisjobs_proof.contract.awaiting_children import GAVE_1, child, parent, with_children
from redisjobs_proof.contract.move_acts import ADDED, bring, take
from redisjobs_proof.contract.needs import needs
from redisjobs_proof.contract.store import DriverStore
from redisjobs_proof.contract.suspending import asleep

_NEEDS = (FindChildren,)

AGAIN_WITH_STEPS = RetryLater(AGAIN.due, {**AGAIN.changes, "steps": "1"})
LATER_WITH_STEPS = RetryLater(After(5000), {**AGAIN.changes, "steps": "1"})
WAITS = [AGAIN_WITH_STEPS, LATER_WITH_STEPS, Release(), asleep(After(0))]


@pytest.mark.parametrize("settlement", WAITS, ids=["again", "later", "released", "woken"])
async def test_a_job_that_has_saved_steps_is_not_replaced(
    store: DriverStore, one: Consumer, settlement: Settlement
) -> None:
    await push(store, job("a", unique="key"))
    lease = await claim_one(one)
    await settle(one, lease, SaveStep("charge", 1, b"1"))
    await settle(one, lease, settlement)

    assert await push(store, newer("b")) == [Pushed(Reply.DUPLICATE, "a")]

    store.clock.advance(10)
    again = await claim_one(one)
    assert (again.fields[b"parameters"], again.fields[b"steps"]) == (b"{}", b"1")
    assert await settle(one, again, Ack(stepped=True)) is Reply.OK
    assert await push(store, newer("b")) == [Pushed(Reply.OK)]


@pytest.mark.parametrize("settlement", WAITS, ids=["again", "later", "released", "woken"])
async def test_a_key_that_is_held_until_the_start_stays_free_once_the_job_has_saved_steps(
    store: DriverStore, one: Consumer, settlement: Settlement
) -> None:
    await push(store, until_start("a"))
    lease = await claim_one(one)
    await settle(one, lease, SaveStep("charge", 1, b"1"))
    await settle(one, lease, settlement)

    assert await push(store, until_start("b")) == [Pushed(Reply.OK)]
    assert await push(store, until_start("c")) == [Pushed(Reply.DUPLICATE, "b")]

    store.clock.advance(10)
    for each in await claim(one):
        await settle(one, each, Ack(stepped=True))
    assert await push(store, until_start("d")) == [Pushed(Reply.OK)]


async def test_a_child_is_not_replaced_because_its_parent_waits_for_its_result(
    store: DriverStore, one: Consumer
) -> None:
    await parent(store, one, with_children(1, child(0, "named", unique="key")))

    assert await push(store, newer("b")) == [Pushed(Reply.DUPLICATE, "named")]

    assert await settle(one, await claim_one(one), Ack(result=GAVE_1)) is Reply.OK
    assert (await found(store, "a")).state is State.READY
    assert await push(store, newer("b")) == [Pushed(Reply.OK)]
    assert ids(await claim(one)) == ["a", "b"]


@needs(Import)
async def test_nor_is_it_held_by_such_a_job_that_comes_from_elsewhere(store: DriverStore, one: Consumer) -> None:
    await push(store, until_start("a"))
    lease = await claim_one(one)
    await settle(one, lease, SaveStep("charge", 1, b"1"))
    await settle(one, lease, Release())
    assert await push(store, until_start("b")) == [Pushed(Reply.OK)]
    assert await take(store, "a") == [Reply.OK]

    assert await bring(store) == [ADDED]

    assert await push(store, until_start("c")) == [Pushed(Reply.DUPLICATE, "b")]
