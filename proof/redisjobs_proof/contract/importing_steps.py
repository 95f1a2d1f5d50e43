"""A queue moves to another store: jobs come with what they have saved, and what they wait for."""

from collections.abc import Awaitable, Callable

import pytest

from redisjobs.model.changes import Cancel, Hold, Requeue
from redisjobs.model.children import ChildOutcome, ChildrenFound, ChildState, FindChildren
from redisjobs.model.driver import Consumer
from redisjobs.model.job import State
from redisjobs.model.moving import FindTaken, Import
from redisjobs.model.queries import Count
from redisjobs.model.steps import GetSteps, How, Saved, Signal, Steps
from redisjobs.model.transitions import (
    Ack,
    After,
    At,
    Pushed,
    Release,
    Reply,
    Result,
    SaveStep,
    Settlement,
)
from redisjobs_proof.contract.acts import (
    FAILED,
    another,
    claim,
    claim_one,
    ids,
    job,
    listening,
    push,
    saved,
    settle,
    until_start,
)
from redisjobs_proof.contract.awaiting_children import TOKEN, child, outcomes, parent, with_children
from redisjobs_proof.contract.move_acts import (
    ADDED,
    KNOWN,
    NOW,
    bring,
    in_transit,
    lasting,
    round_trip,
    take,
)
from redisjobs_proof.contract.needs import needs
from redisjobs_proof.contract.store import DriverStore
from redisjobs_proof.contract.suspending import asleep, signal, suspended, waiting

_NEEDS = (Import,)


async def _asleep(store: DriverStore, one: Consumer) -> None:
    await suspended(store, one, asleep(At(NOW + 60_000), changes={"started_at": "12"}, version=3))


async def _waiting(store: DriverStore, one: Consumer) -> None:
    await suspended(store, one, waiting())


async def _waiting_and_held(store: DriverStore, one: Consumer) -> None:
    await suspended(store, one, waiting(due=After(9000)))
    await store.driver.change(Hold("a"))


async def _stepped(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    for number in range(1, 400):
        await settle(one, lease, SaveStep(f"step#{number}", number, b"%d" % number, 5))
    await settle(one, lease, SaveStep("", 0, b"null", 5))
    await settle(one, lease, Release())


async def _stepped_and_dead(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    await settle(one, lease, SaveStep("charge", 1, b"", 2))
    await settle(one, lease, FAILED)


@needs(GetSteps, Signal)
@pytest.mark.parametrize("bring_about", [_asleep, _waiting, _waiting_and_held, _stepped, _stepped_and_dead])
async def test_a_job_comes_with_what_it_has_saved_and_what_it_waits_for(
    bring_about: Callable[[DriverStore, Consumer], Awaitable[None]], store: DriverStore, one: Consumer
) -> None:
    store.clock.set_to = NOW
    await bring_about(store, one)
    steps = await saved(store)
    assert steps != Steps()

    before, after = await round_trip(store, "a")

    assert lasting(after) == lasting(before)
    assert after.fields[b"steps"] == b"1"
    assert await saved(store) == steps
    counts = await store.driver.read(Count())
    assert counts.suspended == (after.state is State.SUSPENDED)


@needs(GetSteps, Signal)
async def test_a_time_wakes_a_suspended_job_from_elsewhere_and_workers_learn_it(
    store: DriverStore, one: Consumer
) -> None:
    store.clock.set_to = NOW
    await _asleep(store, one)
    await take(store, "a")

    async with listening(store.driver.listen) as heard:
        await bring(store)
        while not [each for each in heard if each.kind == "due"]:
            await store.driver.read(FindTaken())
    assert {each.value for each in heard if each.kind == "due"} == {str(NOW + 60_000)}
    store.clock.set_to = NOW + 59_000
    answer = await one.exchange([], 5)
    assert (answer.leases, answer.due_in) == ([], 1.0)
    store.clock.set_to = NOW + 60_000
    assert ids(await claim(one)) == ["a"]
    assert (await saved(store)).saved == {"sleep": Saved(1, NOW + 60_000, How.SLEPT)}


@needs(GetSteps, Signal)
async def test_a_job_whose_time_came_while_it_was_in_transit_is_woken(store: DriverStore, one: Consumer) -> None:
    store.clock.set_to = NOW
    await suspended(store, one, waiting(due=At(NOW + 5_000)))
    await take(store, "a")
    store.clock.set_to = NOW + 9_000

    assert await bring(store) == [ADDED]

    assert ids(await claim(one)) == ["a"]
    assert (await saved(store)).saved["approved"].how is How.TIMEOUT


@needs(GetSteps, Signal)
async def test_a_signal_wakes_a_job_from_elsewhere_and_a_kept_one_comes_with_it(
    store: DriverStore, one: Consumer
) -> None:
    await suspended(store, one, waiting("first"))
    assert await signal(store.driver, "later", '{"by": "änn"}') is Reply.KEPT
    await round_trip(store, "a")

    assert await signal(store.driver, "later") is Reply.EXISTS
    assert await signal(store.driver, "first", "7") is Reply.OK
    assert await settle(one, await claim_one(one), waiting("later", number=2)) is Reply.OK

    assert ids(await claim(one)) == ["a"]
    steps = (await saved(store)).saved
    assert {key: step.value for key, step in steps.items()} == {"first": b"7", "later": '{"by": "änn"}'.encode()}


@needs(GetSteps, Signal)
async def test_a_job_that_comes_again_changes_none_of_its_steps(store: DriverStore, one: Consumer) -> None:
    await suspended(store, one, waiting())
    await take(store, "a")
    jobs = (await in_transit(store)).jobs
    await bring(store, *jobs)
    await signal(store.driver)
    steps = await saved(store)

    assert await bring(store, *jobs) == [KNOWN]

    assert await saved(store) == steps
    assert ids(await claim(one)) == ["a"]


@needs(GetSteps, Signal)
async def test_a_job_that_was_refused_comes_later_with_its_steps(store: DriverStore, one: Consumer) -> None:
    await suspended(store, one, waiting(version=4))
    await signal(store.driver, "other")
    await take(store, "a")
    await push(store, another("a"))

    assert await bring(store) == [Pushed(Reply.EXISTS)]
    assert await saved(store) == Steps()
    assert await store.driver.change(Cancel("a")) is Reply.CANCELLED
    assert await bring(store) == [ADDED]

    assert await saved(store) == Steps(version=4)
    assert await signal(store.driver, "other") is Reply.EXISTS


@needs(GetSteps, Signal)
async def test_a_suspended_job_holds_its_key_at_the_target_but_one_until_its_start_does_not(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, job("a", unique="whole"), until_start("b"))
    for lease in await claim(one):
        assert await settle(one, lease, waiting()) is Reply.OK
    await take(store, "a", "b")
    await push(store, until_start("c"))

    assert await bring(store) == [ADDED, ADDED]

    assert await push(store, job("d", unique="whole")) == [Pushed(Reply.DUPLICATE, "a")]
    assert await push(store, until_start("e")) == [Pushed(Reply.DUPLICATE, "c")]


@needs(FindChildren)
async def test_a_parent_comes_with_how_its_children_have_ended(store: DriverStore, one: Consumer) -> None:
    await parent(store, one, with_children(4, child(0), child(1), child(2), child(3, "named")))
    settlements: list[Settlement] = [
        FAILED,
        Ack(result=Result(0, refused="too large")),
        Ack(),
        Ack(result=Result(0, b'{"n": 1}')),
    ]
    for lease, settlement in zip(await claim(one), settlements, strict=True):
        assert await settle(one, lease, settlement) is Reply.OK
    before, steps = await outcomes(store), await saved(store)
    assert [each.state for each in before.outcomes] == [
        *(ChildState.DEAD, ChildState.REFUSED, ChildState.COMPLETED, ChildState.COMPLETED)
    ]

    await round_trip(store, "a")

    assert await outcomes(store) == before
    assert [each.job_id for each in (await outcomes(store)).outcomes] == ["", "", "", "named"]
    assert await saved(store) == steps
    assert await settle(one, await claim_one(one), FAILED) is Reply.OK
    await round_trip(store, "a")
    assert await store.driver.change(Requeue("a", from_step="render")) is Reply.OK
    assert await outcomes(store) == ChildrenFound("")
    assert await saved(store) == Steps()


@needs(FindChildren)
async def test_a_parent_of_many_children_comes_with_all_outcomes_and_they_go_with_it(
    store: DriverStore, one: Consumer
) -> None:
    await parent(store, one, with_children(480))
    for lease in await claim(one, 500):
        await settle(one, lease, Ack(result=Result(0, b"%d" % len(lease.job_id))))
    before = await outcomes(store)

    await round_trip(store, "a")

    assert await outcomes(store) == before
    assert [each.state for each in before.outcomes] == [ChildState.COMPLETED] * 480
    assert await settle(one, await claim_one(one), Ack(stepped=True)) is Reply.OK
    assert await outcomes(store) == ChildrenFound("")


@needs(FindChildren)
async def test_a_dead_child_from_elsewhere_that_is_requeued_is_a_job_by_itself(
    store: DriverStore, one: Consumer
) -> None:
    await parent(store, one, with_children(1))
    await settle(one, await claim_one(one), FAILED)
    await take(store, "a", f"{TOKEN}-0")
    await bring(store)

    assert await store.driver.change(Requeue(f"{TOKEN}-0")) is Reply.INDEPENDENT

    parent_lease, again = await claim(one)
    assert (parent_lease.job_id, b"child_of" in again.fields) == ("a", False)
    assert await settle(one, again, Ack(result=Result(0, b"1"))) is Reply.OK
    dead = ChildOutcome(ChildState.DEAD, error="ValueError: no", error_type="ValueError", reason="failed")
    assert (await outcomes(store)).outcomes == [dead]
