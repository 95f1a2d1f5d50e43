"""Steps: what a job saves stays until it ends; a dead letter goes on from there."""

import pytest

from redisjobs.model.changes import Cancel, Delete, Requeue
from redisjobs.model.driver import Consumer
from redisjobs.model.job import State
from redisjobs.model.steps import GetSteps, How, Saved, Steps
from redisjobs.model.transitions import MOST_JOBS, Ack, After, Lease, Release, Reply, RetryLater, SaveStep, Turn
from redisjobs_proof.contract.acts import (
    AGAIN,
    FAILED,
    another,
    claim,
    claim_one,
    found,
    inherit,
    job,
    push,
    saved,
    settle,
)
from redisjobs_proof.contract.store import DriverStore

_NEEDS = (GetSteps,)


async def save(consumer: Consumer, lease: Lease, *keys: str, first: int = 1) -> list[Reply]:
    """Save a step for each key, with the key as its value."""
    values = [SaveStep(key, number, f'"{key}"'.encode(), 2) for number, key in enumerate(keys, first)]
    return list((await consumer.exchange([(lease, step) for step in values], None)).replies)


async def test_a_step_is_saved_with_its_number_its_time_and_the_version_of_the_first(
    store: DriverStore, one: Consumer
) -> None:
    store.clock.advance(1)
    await push(store, "a")
    lease = await claim_one(one)

    assert await settle(one, lease, SaveStep("charge", 1, b'{"id": "\xc3\xa9"}', 2)) is Reply.OK
    assert await settle(one, lease, SaveStep("page#2", 7, b"12345678901234567890.5", 3)) is Reply.OK

    now_ms = store.clock()
    assert await saved(store) == Steps(
        {
            "charge": Saved(1, now_ms, How.DONE, b'{"id": "\xc3\xa9"}'),
            "page#2": Saved(7, now_ms, How.DONE, b"12345678901234567890.5"),
        },
        version=2,
    )
    assert (await found(store, "a")).state is State.RUNNING


async def test_the_first_result_of_a_step_stays(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    await save(one, lease, "charge")

    assert await settle(one, lease, SaveStep("charge", 5, b'"other"')) is Reply.EXISTS

    step = (await saved(store)).saved["charge"]
    assert (step.number, step.value) == (1, b'"charge"')


async def test_a_checkpoint_replaces_the_one_before(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    assert (await saved(store)).checkpoint is None

    for value in (b"1", b"[2]", b"null"):
        assert await settle(one, lease, SaveStep("", 0, value)) is Reply.OK

    assert await saved(store) == Steps(checkpoint=b"null", version=1)


async def test_many_steps_of_one_job_are_saved_in_one_exchange_with_settlements_of_others(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, "a", "b", "c")
    a, b, c = await claim(one)
    steps = [(a, SaveStep(str(number), number, b"1")) for number in range(1, 30)]

    answer = await one.exchange([(b, Ack()), *steps, (c, FAILED)], None)

    assert answer.replies == [Reply.OK] * 31
    assert (await saved(store)).saved.keys() == {str(number) for number in range(1, 30)}


async def test_an_exchange_that_saves_and_is_sent_again_is_answered_as_before(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, "a")
    batch = [(await claim_one(one), SaveStep("charge", 1, b"1"))]

    first = await one.exchange(batch, None, turn=Turn(1, 1))
    before = store.contents()

    assert (await one.exchange(batch, None, turn=Turn(1, 1))).replies == first.replies == [Reply.OK]
    assert store.contents() == before


async def test_a_worker_that_lost_the_job_saves_nothing(store: DriverStore, one: Consumer, two: Consumer) -> None:
    await push(store, "a")
    lost = await claim_one(one)
    await settle(one, lost, Release())
    await claim_one(two)
    before = store.contents()

    assert await save(one, lost, "charge") == [Reply.LEASE_LOST]
    assert await settle(one, lost, SaveStep("", 0, b"1")) is Reply.LEASE_LOST

    assert store.contents() == before


@pytest.mark.parametrize(
    "settlement", [AGAIN, Release(), Release(refund=False), RetryLater(After(0), {"steps": "1"})]
)
async def test_the_next_run_of_a_job_learns_that_it_has_saved_steps(
    store: DriverStore, one: Consumer, settlement: Release | RetryLater
) -> None:
    await push(store, "a", "plain")
    first, plain = await claim(one)
    assert b"steps" not in first.fields
    await save(one, first, "charge")
    if settlement == AGAIN:  # a worker notes it in the entry; a lost one can't
        settlement = RetryLater(AGAIN.due, {**AGAIN.changes, "steps": "1"})
    await settle(one, first, settlement)
    await settle(one, plain, Release())

    fields = {lease.job_id: lease.fields for lease in await claim(one)}

    assert fields["a"][b"steps"] == b"1"
    assert b"steps" not in fields["plain"]
    assert "charge" in (await saved(store)).saved


async def test_so_does_the_run_after_a_worker_was_lost(store: DriverStore, one: Consumer, two: Consumer) -> None:
    await push(store, "a")
    await save(one, await claim_one(one), "charge")

    (lease,) = await inherit(store, two)

    assert (lease.fields[b"steps"], lease.deliveries) == (b"1", 2)
    assert await save(two, lease, "mail", first=2) == [Reply.OK]
    assert (await saved(store)).saved.keys() == {"charge", "mail"}


async def test_a_job_whose_delivery_was_lost_learns_it_too(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    await save(one, await claim_one(one), "charge")

    (again,) = await one.recover([])

    assert again.fields[b"steps"] == b"1"


@pytest.mark.parametrize("settlement", [Ack(stepped=True), Ack(cancelled=True, stepped=True)])
async def test_steps_go_when_the_job_ends(store: DriverStore, one: Consumer, settlement: Ack) -> None:
    await push(store, "a", "other")
    a, other = await claim(one)
    await save(one, a, "charge")
    await save(one, other, "charge")

    assert await settle(one, a, settlement) is Reply.OK

    assert await saved(store) == Steps()
    assert (await saved(store, "other")).saved


async def test_a_new_job_of_the_id_has_none_of_the_steps_of_the_one_before(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, another("a"))
    lease = await claim_one(one)
    await save(one, lease, "charge")
    await settle(one, lease, Release())
    assert await store.driver.change(Cancel("a")) is Reply.CANCELLED

    await push(store, another("a"))

    assert b"steps" not in (await claim_one(one)).fields
    assert await saved(store) == Steps()


async def test_a_dead_letter_keeps_its_steps_and_goes_on_from_there(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    await save(one, lease, "charge", "mail")
    assert await settle(one, lease, FAILED) is Reply.OK
    before = await saved(store)

    assert await store.driver.change(Requeue("a")) is Reply.OK

    assert (await claim_one(one)).fields[b"steps"] == b"1"
    assert await saved(store) == before != Steps()


async def test_a_dead_letter_that_is_deleted_leaves_no_steps(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    await save(one, lease, "charge")
    await settle(one, lease, FAILED)

    assert await store.driver.change(Delete("a")) is Reply.OK

    assert await saved(store) == Steps()


@pytest.mark.parametrize(
    ("from_step", "left"),
    [(None, ["one", "two", "three"]), ("three", ["one", "two"]), ("one", []), ("two", ["one"]), ("", [])],
)
async def test_a_dead_letter_can_be_requeued_from_a_step(
    store: DriverStore, one: Consumer, from_step: str | None, left: list[str]
) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    await save(one, lease, "one", "two", "three")
    await settle(one, lease, SaveStep("", 0, b"9", 2))
    await settle(one, lease, FAILED)

    assert await store.driver.change(Requeue("a", from_step=from_step)) is Reply.OK

    steps = await saved(store)
    assert sorted(steps.saved) == sorted(left)
    assert steps.version == (2 if left else None)
    assert steps.checkpoint == (b"9" if from_step is None else None)
    assert (b"steps" in (await claim_one(one)).fields) is bool(left)


async def test_a_job_is_not_requeued_from_a_step_that_it_has_not_saved(store: DriverStore, one: Consumer) -> None:
    await push(store, "a", "b")
    for lease in await claim(one):
        if lease.job_id == "a":
            await save(one, lease, "charge")
        await settle(one, lease, FAILED)
    before = store.contents()

    assert await store.driver.change(Requeue("a", from_step="mail")) is Reply.NO_STEP
    assert await store.driver.change(Requeue("b", from_step="charge")) is Reply.NO_STEP
    assert store.contents() == before
    assert await store.driver.change(Requeue("b", from_step="")) is Reply.OK


async def test_the_steps_of_many_jobs_are_read_at_once_and_large_ones_in_several_answers(
    store: DriverStore, one: Consumer
) -> None:
    names = [f"job {number}" for number in range(6)]
    await push(store, *names)
    for lease in await claim(one):
        assert await settle(one, lease, SaveStep("big", 1, b'"%b"' % (b"x" * 400_000))) is Reply.OK

    wanted = [*names, "unknown"]
    found = dict[str, Steps]()
    while wanted:
        answers = await store.driver.read(GetSteps(wanted))
        assert answers[0] is not None
        found |= {name: steps for name, steps in zip(wanted, answers, strict=True) if steps is not None}
        wanted = [name for name in wanted if name not in found]

    assert all(len(found[name].saved["big"].value) == 400_002 for name in names)
    assert found["unknown"] == Steps()
    await push(store, *[job(str(number)) for number in range(MOST_JOBS)])
    assert len(await store.driver.read(GetSteps([str(number) for number in range(MOST_JOBS)]))) == MOST_JOBS
