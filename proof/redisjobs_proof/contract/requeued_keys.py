"""Dead letters that are requeued: they get their unique keys again, unless other jobs hold these."""

import pytest

from redisjobs.model.changes import Requeue, RequeueAll
from redisjobs.model.driver import Consumer
from redisjobs.model.job import State
from redisjobs.model.transitions import Ack, After, Pushed, Reply
from redisjobs_proof.contract.acts import (
    FAILED,
    claim_one,
    found,
    job,
    newer,
    push,
    rows_of,
    settle,
    until_start,
)
from redisjobs_proof.contract.needs import needs
from redisjobs_proof.contract.store import DriverStore


async def test_a_requeued_dead_letter_holds_its_key_again(store: DriverStore, one: Consumer) -> None:
    await push(store, until_start("a"))
    await settle(one, await claim_one(one), FAILED)
    assert await store.driver.change(Requeue("a")) is Reply.OK

    assert await push(store, job("b", unique="key")) == [Pushed(Reply.DUPLICATE, "a")]
    lease = await claim_one(one)
    assert (lease.unique, lease.fields[b"unique_until"]) == (b"key", b"start")
    assert await push(store, job("c", unique="key")) == [Pushed(Reply.OK)]


@pytest.mark.parametrize("due", [None, After(5000)], ids=str)
async def test_a_dead_letter_whose_key_another_job_holds_stays(
    store: DriverStore, one: Consumer, due: After | None
) -> None:
    await push(store, job("a", unique="key"))
    await settle(one, await claim_one(one), FAILED)
    await push(store, job("b", unique="key", due=due))
    before = store.contents()

    assert await store.driver.change(Requeue("a")) is Reply.DUPLICATE
    assert await store.driver.change(Requeue("a", After(5000), b"{}")) is Reply.DUPLICATE
    assert store.contents() == before

    assert await store.driver.change(Requeue("a", unique="")) is Reply.OK  # without its key
    assert b"unique" not in (await found(store, "a")).fields
    assert await push(store, job("c", unique="key")) == [Pushed(Reply.DUPLICATE, "b")]


async def test_a_dead_letter_is_requeued_with_another_key(store: DriverStore, one: Consumer) -> None:
    await push(store, job("a", unique="key"))
    await settle(one, await claim_one(one), FAILED)
    await push(store, job("b", unique="key"), job("c", unique="taken"))

    assert await store.driver.change(Requeue("a", unique="taken")) is Reply.DUPLICATE
    assert await store.driver.change(Requeue("a", unique="é")) is Reply.OK

    assert await push(store, job("d", unique="é")) == [Pushed(Reply.DUPLICATE, "a")]


@needs(RequeueAll)
async def test_of_dead_letters_with_one_key_the_newest_is_requeued_and_the_others_are_counted(
    store: DriverStore, one: Consumer
) -> None:
    for name in ("a", "b", "c"):
        await push(store, job(name, unique="key"))
        await settle(one, await claim_one(one), FAILED)
    begin = await store.driver.change(RequeueAll())

    taken = await store.driver.change(RequeueAll(after=begin.after))

    assert (list(taken.job_ids), taken.duplicates) == (["c"], 2)
    assert [row.job_id for row in await rows_of(store.driver, State.DEAD, 9)] == ["b", "a"]
    await settle(one, await claim_one(one), Ack())
    begin = await store.driver.change(RequeueAll())
    assert list((await store.driver.change(RequeueAll(after=begin.after))).job_ids) == ["b"]


async def test_a_dead_letter_that_held_its_key_for_a_time_is_requeued_without_it(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, job("a", unique="key", unique_for_ms=3_600_000))
    await settle(one, await claim_one(one), FAILED)
    assert await store.driver.change(Requeue("a")) is Reply.OK

    assert {b"unique", b"window"}.isdisjoint((await found(store, "a")).fields)


async def test_a_dead_letter_that_held_its_key_for_a_time_is_not_replaced_nor_after_it_was_requeued(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, job("a", unique="key", unique_for_ms=3_600_000))
    await settle(one, await claim_one(one), FAILED)
    assert await push(store, newer("b")) == [Pushed(Reply.DUPLICATE, "a")]
    await store.driver.change(Requeue("a"))
    assert await push(store, newer("c")) == [Pushed(Reply.DUPLICATE, "a")]
