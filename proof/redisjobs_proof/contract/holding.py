"""Jobs that an operator holds may not start; and what a job says of that."""

import pytest

from redisjobs.model.changes import Cancel, Hold, Pause, Resume, Unhold, Unpark
from redisjobs.model.driver import Consumer, Driver
from redisjobs.model.job import State, WhyWaiting
from redisjobs.model.queries import Find, FindPauses, Scan
from redisjobs.model.transitions import After, DeadLetter, Reply
from redisjobs_proof.contract.acts import Open, job, row_of, rows_of
from redisjobs_proof.contract.pausing import claims, ids_of_claim, push, unpark
from redisjobs_proof.contract.store import DriverStore

_NEEDS = (FindPauses, Hold, Pause, Resume, Unhold, Unpark)


async def test_a_held_job_is_passed_over_until_it_is_let_go_and_keeps_its_place(
    driver: Driver, one: Consumer
) -> None:
    await push(driver, *map(job, "abc"))
    assert await driver.change(Hold("a")) is Reply.HELD
    assert await driver.change(Hold("c")) is Reply.HELD
    assert await driver.change(Hold("a")) is Reply.HELD
    assert await ids_of_claim(one) == ["b"]
    rows = await rows_of(driver, State.READY, 10)
    assert [(row.job_id, row.held) for row in rows] == [("a", True), ("c", True)]
    assert (await driver.read(FindPauses())).held == 2

    await push(driver, job("d"))
    assert await driver.change(Unhold("a")) is Reply.OK
    assert await driver.change(Unhold("a")) is Reply.NOT_FOUND
    assert await driver.change(Unhold("b")) is Reply.NOT_FOUND
    assert await ids_of_claim(one) == ["a", "d"]
    row = await driver.read(Find("a"))
    assert row is not None
    assert (row.held, row.deliveries) == (False, 1)


async def test_a_held_delayed_job_becomes_ready_when_it_is_due_and_does_not_start(
    store: DriverStore, driver: Driver, one: Consumer
) -> None:
    store.clock.advance(0)
    await push(driver, job("late", due=After(1000)), job("let go", due=After(1000)))
    for job_id in ("late", "let go"):
        assert await driver.change(Hold(job_id)) is Reply.HELD
    assert [row.held for row in await rows_of(driver, State.DELAYED, 10)] == [True, True]
    assert await driver.change(Unhold("let go")) is Reply.OK
    row = await driver.read(Find("late"))
    assert row is not None
    assert (row.state, row.held, row.due_ms) == (State.DELAYED, True, store.clock() + 1000)

    store.clock.advance(2)
    assert await ids_of_claim(one) == ["let go"]
    assert [(row.job_id, row.held) for row in (await driver.read(Scan(State.READY))).rows] == [("late", True)]


async def test_a_hold_says_what_is_true(driver: Driver, one: Consumer) -> None:
    await push(driver, job("dead"), job("runs"))
    dead, _ = (await one.exchange([], 2)).leases
    await one.exchange([(dead, DeadLetter("failed", "no"))], None)

    assert await driver.change(Hold("runs")) is Reply.RUNNING
    assert await driver.change(Hold("dead")) is Reply.DEAD
    assert await driver.change(Hold("unknown")) is Reply.NOT_FOUND
    assert (await driver.read(FindPauses())).held == 0


@pytest.mark.parametrize("when", ["at once", "parked", "delayed"])
async def test_a_held_job_can_be_cancelled_and_its_id_is_free_then(
    store: DriverStore, driver: Driver, one: Consumer, when: str
) -> None:
    store.clock.advance(0)
    await push(driver, job("a", due=After(1000) if when == "delayed" else None))
    await driver.change(Hold("a"))
    if when == "parked":
        assert await ids_of_claim(one) == []
    assert await driver.change(Cancel("a")) is Reply.CANCELLED

    store.clock.advance(120)  # the store has forgotten the push
    await push(driver, job("a"))
    assert await ids_of_claim(one) == ["a"]
    assert (await driver.read(FindPauses())).held == 0


async def test_a_held_job_whose_cancel_was_asked_for_ends_with_the_next_claim(
    driver: Driver, one: Consumer, worker: Open
) -> None:
    await push(driver, job("a"))
    lost = await worker("w2")
    assert await ids_of_claim(lost) == ["a"]
    assert await driver.change(Cancel("a")) is Reply.CANCELLING
    await lost.release(refund=False, watch=False)

    assert await driver.change(Hold("a")) is Reply.HELD
    assert list((await one.exchange([], 1)).ended) == [("a", Reply.CANCELLED)]
    assert await driver.read(Find("a")) is None
    assert (await driver.read(FindPauses())).held == 0


async def test_a_job_that_is_let_go_while_its_name_is_paused_waits_on(driver: Driver, one: Consumer) -> None:
    await push(driver, job("a"))
    await driver.change(Hold("a"))
    await driver.change(Pause("Work"))
    assert await ids_of_claim(one) == []
    assert await driver.change(Unhold("a")) is Reply.OK
    assert await ids_of_claim(one) == []
    await driver.change(Resume("Work"))
    await unpark(driver)
    assert await ids_of_claim(one) == ["a"]


async def test_a_name_that_is_resumed_lets_no_held_job_start(driver: Driver, one: Consumer) -> None:
    await push(driver, job("held"), job("a"))
    await driver.change(Hold("held"))
    await driver.change(Pause("Work"))
    assert await ids_of_claim(one) == []
    await driver.change(Resume("Work"))
    await unpark(driver)
    assert await ids_of_claim(one) == ["a"]
    await driver.change(Cancel("held"))


async def test_a_job_that_waits_says_what_keeps_it_from_starting(
    store: DriverStore, driver: Driver, worker: Open
) -> None:
    store.clock.advance(0)
    await push(driver, job("a"), job("later", due=After(60_000)))

    async def why() -> tuple[WhyWaiting | None, WhyWaiting | None]:
        return (await row_of(driver, "a")).why_waiting, (await row_of(driver, "later")).why_waiting

    assert await why() == ("no worker", "no worker")
    consumer = await worker()
    assert await why() == (None, None)
    await driver.change(Pause("Work"))
    assert await why() == ("name paused", "name paused")
    await claims(consumer)  # which parks it
    assert await why() == ("name paused", "name paused")
    await driver.change(Pause())
    assert await why() == ("paused", "paused")
    await driver.change(Hold("a"))
    assert await why() == ("held", "paused")
    await driver.change(Unhold("a"))
    await driver.change(Resume())
    await driver.change(Resume("Work"))
    store.age(20)
    assert await why() == ("no worker", "no worker")
