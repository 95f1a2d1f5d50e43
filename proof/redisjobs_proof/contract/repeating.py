"""Repeated pushes, ids that are given twice, and unique keys, which one job at a time can hold."""

from functools import partial
from typing import Any

import anyio
import pytest

from redisjobs.model.changes import Cancel, Delete, Requeue
from redisjobs.model.driver import Consumer
from redisjobs.model.job import State
from redisjobs.model.queries import Count, Find, Scan
from redisjobs.model.transitions import Ack, After, Due, Pushed, Reply, Settlement
from redisjobs_proof.contract import acts
from redisjobs_proof.contract.acts import (
    AGAIN,
    FAILED,
    LATER,
    ODD,
    Open,
    another,
    beat,
    cancel,
    cancel_running,
    claim,
    claim_one,
    delay,
    discard,
    fail,
    finish,
    found,
    happened,
    ids,
    job,
    push,
    release,
    retry,
    rows_of,
    run,
    settle,
    wait_in_line,
)
from redisjobs_proof.contract.store import DriverStore


async def seen(store: DriverStore) -> object:
    """Return everything that an operator sees of the queue."""
    rows = [await rows_of(store.driver, state, 500) for state in State]
    return rows, await store.driver.read(Count())


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("bring", [delay, wait_in_line, run, retry, release, fail, cancel_running])
async def test_an_id_that_is_on_the_queue_is_not_pushed_again(
    store: DriverStore, worker: Open, bring: Any, repeated: bool
) -> None:
    await bring(store, await worker())
    before, listed = store.contents(), await seen(store)

    again = [another("a"), another("a", due=After(1), unique="key")]
    assert await push(store, *again, repeated=repeated) == [Pushed(Reply.EXISTS)] * 2
    assert await push(store, "a", repeated=repeated) == [Pushed(Reply.REPEATED)]
    if not repeated:  # the store remembers that it refused a repetition
        assert store.contents() == before
    assert await seen(store) == listed


@pytest.mark.parametrize("bring", [delay, wait_in_line, run, retry, release, fail, cancel_running])
async def test_a_repeated_push_of_a_given_id_knows_its_own_job_from_that_of_another_push(
    store: DriverStore, worker: Open, bring: Any
) -> None:
    mine, theirs = another("a", due=After(60000) if bring is delay else None), another("a")
    assert await push(store, mine) == [Pushed(Reply.OK)]
    if bring is not delay:
        await bring(store, await worker())

    assert await push(store, mine, repeated=True) == [Pushed(Reply.REPEATED)]
    assert await push(store, theirs, repeated=True) == [Pushed(Reply.EXISTS)]


@pytest.mark.parametrize("nonce", ["", "0123456789abcdef"])
async def test_a_push_that_is_made_twice_in_one_call_finds_itself_once(
    store: DriverStore, worker: Open, nonce: str
) -> None:
    once, other = job("a", nonce=nonce), another("a")
    assert await push(store, once, once, other) == [Pushed(Reply.OK), *[Pushed(Reply.EXISTS)] * 2]
    assert await push(store, once, once, repeated=True) == [Pushed(Reply.REPEATED), Pushed(Reply.EXISTS)]
    consumer = await worker()
    await settle(consumer, await claim_one(consumer), Ack())
    assert await push(store, once, once, repeated=True) == [Pushed(Reply.REPEATED), Pushed(Reply.EXISTS)]
    assert await push(store, once, another("a"), repeated=True) == [Pushed(Reply.REPEATED), Pushed(Reply.OK)]


@pytest.mark.parametrize("nonce", ["", "0123456789abcdef"])
@pytest.mark.parametrize("back", [70, 3600, 10**8])
async def test_a_push_repeated_after_the_clock_was_set_back_finds_what_has_ended_before_and_after_that(
    store: DriverStore, one: Consumer, back: int, nonce: str
) -> None:
    before, after = job("a", nonce=nonce), job("b", nonce=nonce)
    assert await push(store, before, after) == [Pushed(Reply.OK)] * 2
    first, second = await claim(one, 2)
    assert await settle(one, first, Ack()) is Reply.OK

    store.clock.step(-back)
    assert await settle(one, second, Ack()) is Reply.OK

    assert await push(store, before, after, repeated=True) == [Pushed(Reply.REPEATED)] * 2


@pytest.mark.parametrize("nonce", ["", "0123456789abcdef"])
async def test_a_push_repeated_after_the_clock_was_set_ahead_adds_nothing_and_says_where_it_is_not_known(
    store: DriverStore, worker: Open, nonce: str
) -> None:
    """The store may have forgotten jobs that ended, but knows those on the queue."""
    consumer = await worker(lease=10**6)
    ended, there = job("a", nonce=nonce), job("b", nonce=nonce)
    lost, refused = job("c", nonce=nonce), job("d", unique="key")
    await push(store, ended, there, job("e", unique="key"))
    assert await settle(consumer, (await claim(consumer, 1))[0], Ack()) is Reply.OK
    lost.sent_ms = refused.sent_ms = ended.sent_ms

    store.clock.step(3600)
    before = store.contents()

    told, *others = await push(store, ended, there, lost, refused, repeated=True)
    assert told.reply in (Reply.UNKNOWN, Reply.REPEATED)
    assert others == [Pushed(Reply.REPEATED), *[Pushed(Reply.UNKNOWN)] * 2]
    assert store.contents() == before
    assert await push(store, job("f"), another("a"), repeated=True) == [Pushed(Reply.OK)] * 2


async def test_a_job_that_is_pushed_says_when_it_was_sent_first_by_the_stores_clock(
    store: DriverStore, worker: Open
) -> None:
    await worker()  # this fixture closes the driver at the end
    store.clock.advance(0)
    since, one, other = store.clock(), job("a"), job("b")
    await push(store, one)
    store.clock.advance(5)
    await push(store, one, other, repeated=True)

    assert one.sent_ms is not None
    assert other.sent_ms is not None
    assert since <= one.sent_ms < since + 5000 <= other.sent_ms


async def test_a_push_that_was_refused_when_it_was_repeated_stays_refused(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, job("a", unique="key"))
    refused = [another("a"), job("b", unique="key")]
    for _ in range(2):
        replies = [each.reply for each in await push(store, *refused, repeated=True)]
        assert replies == [Reply.EXISTS, Reply.DUPLICATE]
    await settle(one, await claim_one(one), Ack())

    assert await push(store, *refused, refused[0], repeated=True) == [
        *[Pushed(Reply.REFUSED)] * 2,
        Pushed(Reply.EXISTS),
    ]
    assert await push(store, another("a"), another("b", unique="key")) == [Pushed(Reply.OK)] * 2
    assert await push(store, refused[0], job("c", unique="key"), refused[1], repeated=True) == [
        Pushed(Reply.EXISTS),
        Pushed(Reply.DUPLICATE, "b"),
        Pushed(Reply.REPEATED),  # known by its id: it has no nonce, so no other push should have it
    ]


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_pushes_of_one_call_that_were_refused_stay_so_however_many_they_are(
    store: DriverStore, one: Consumer, number: int
) -> None:
    await push(store, "a")
    refused = [another("a") for _ in range(number)]
    assert await push(store, *refused, repeated=True) == [Pushed(Reply.EXISTS)] * number
    await settle(one, await claim_one(one), Ack())
    assert await push(store, *refused, repeated=True) == [Pushed(Reply.REFUSED)] * number


async def test_the_push_of_a_job_that_ends_almost_a_minute_later_is_remembered(
    store: DriverStore, worker: Open
) -> None:
    consumer, late = await worker(), another("a")
    store.clock.advance(0)
    await push(store, late)
    lease = await claim_one(consumer)
    store.clock.advance(59)
    assert await settle(consumer, lease, Ack()) is Reply.OK

    assert await push(store, late, repeated=True) == [Pushed(Reply.REPEATED)]


@pytest.mark.parametrize("nonce", ["", "0123456789abcdef"])
@pytest.mark.parametrize("bring", [finish, cancel, discard])
async def test_a_repeated_push_of_a_job_that_ended_adds_nothing(
    store: DriverStore, worker: Open, bring: Any, nonce: str
) -> None:
    store.clock.set_to = store.clock() // 5000 * 5000 + 7000  # amid 5 s that the store remembers together
    await push(store, job("a", nonce=nonce))
    await bring(store, await worker())

    assert await push(store, job("a", nonce=nonce), repeated=True) == [Pushed(Reply.REPEATED)]
    store.clock.advance(59)
    assert await push(store, job("a", nonce=nonce), repeated=True) == [Pushed(Reply.REPEATED)]
    assert await claim(await worker()) == []
    store.clock.advance(62)
    assert await push(store, job("a", nonce=nonce), repeated=True) == [Pushed(Reply.OK)]


@pytest.mark.parametrize("nonce", ["", "0123456789abcdef"])
@pytest.mark.parametrize("bring", [finish, cancel, discard])
async def test_a_new_push_of_an_id_that_ended_is_a_new_job_at_once(
    store: DriverStore, worker: Open, bring: Any, nonce: str
) -> None:
    await push(store, job("a", nonce=nonce))
    await bring(store, await worker())

    assert await push(store, another("a"), repeated=True) == [Pushed(Reply.OK)]
    assert ids(await claim(await worker())) == ["a"]


async def test_a_requeued_job_is_still_of_its_own_push(store: DriverStore, worker: Open) -> None:
    consumer, pushed = await worker(), another("a")
    await push(store, pushed)
    await fail(store, consumer)
    await store.driver.change(Requeue("a"))
    await settle(consumer, await claim_one(consumer), Ack())

    assert await push(store, pushed, repeated=True) == [Pushed(Reply.REPEATED)]


@pytest.mark.parametrize("bring", [delay, wait_in_line, run, retry, release, cancel_running])
async def test_a_unique_key_is_held_as_long_as_its_job_lives(
    store: DriverStore, worker: Open, bring: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acts, "job", partial(job, unique="key"))
    await bring(store, await worker())

    assert await push(store, job("b", unique="key")) == [Pushed(Reply.DUPLICATE, "a")]
    assert await store.driver.read(Find("b")) is None
    assert await push(store, job("b", unique="other"), job("c")) == [Pushed(Reply.OK)] * 2


@pytest.mark.parametrize("settlement", [Ack(), Ack(cancelled=True), FAILED])
async def test_a_unique_key_is_free_once_its_job_is_settled(
    store: DriverStore, one: Consumer, settlement: Settlement
) -> None:
    await push(store, job("a", unique="key"))
    assert await settle(one, await claim_one(one), settlement) is Reply.OK
    assert await push(store, job("b", unique="key")) == [Pushed(Reply.OK)]


@pytest.mark.parametrize("due", [None, After(1000)], ids=str)
async def test_a_unique_key_is_free_once_its_job_is_cancelled(
    store: DriverStore, worker: Open, due: Due | None
) -> None:
    await push(store, job("a", unique="key", due=due))
    assert await store.driver.change(Cancel("a")) is Reply.CANCELLED
    assert await push(store, job("b", unique="key")) == [Pushed(Reply.OK)]


async def test_a_cancel_that_is_repeated_has_the_same_answer_and_cancels_no_later_job(
    store: DriverStore, one: Consumer
) -> None:
    waiting, running = Cancel("a"), Cancel("b")
    await push(store, "b")
    lease = await claim_one(one)
    await push(store, "a")
    assert await store.driver.change(waiting) is Reply.CANCELLED
    assert await store.driver.change(running) is Reply.CANCELLING
    await settle(one, lease, Ack(cancelled=True))
    assert await push(store, another("a"), another("b")) == [Pushed(Reply.OK)] * 2

    assert await store.driver.change(waiting) is Reply.CANCELLED
    assert await store.driver.change(running) is Reply.CANCELLING

    assert await store.driver.change(Cancel("a")) is Reply.CANCELLED
    store.clock.advance(90)
    assert await store.driver.change(waiting) is Reply.NOT_FOUND
    assert await store.driver.change(Cancel("b")) is Reply.CANCELLED


async def test_a_requeue_that_is_repeated_has_the_same_answer_and_makes_nothing_ready_again(
    store: DriverStore, one: Consumer
) -> None:
    requeue = Requeue("a")
    await push(store, "a")
    for _ in range(2):
        await settle(one, await claim_one(one), FAILED)
        assert await store.driver.change(requeue) is Reply.OK
    assert (await found(store, "a")).state is State.DEAD
    assert await store.driver.change(Requeue("a")) is Reply.OK


async def test_a_deletion_that_is_repeated_has_the_same_answer_and_deletes_no_later_job(
    store: DriverStore, one: Consumer
) -> None:
    delete = Delete("a")
    for number in range(2):
        assert await push(store, another("a")) == [Pushed(Reply.OK)]
        await settle(one, await claim_one(one), FAILED)
        assert await store.driver.change(delete) is Reply.OK, number
    assert (await found(store, "a")).state is State.DEAD

    store.clock.advance(90)
    assert await store.driver.change(delete) is Reply.OK
    assert await store.driver.change(Delete("a")) is Reply.NOT_FOUND


async def test_a_unique_key_with_a_time_is_held_for_that_time_even_if_the_job_ends(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, job("a", unique="key", unique_for_ms=300))
    await settle(one, await claim_one(one), Ack())
    assert await push(store, job("b", unique="key")) == [Pushed(Reply.DUPLICATE, "a")]

    with anyio.fail_after(5):  # the key expires by the server's own clock, which no test sets
        while await push(store, job("b", unique="key")) != [Pushed(Reply.OK)]:  # noqa: ASYNC110
            await anyio.sleep(0.02)


@pytest.mark.parametrize("odd", ODD)
async def test_an_id_may_have_any_characters(store: DriverStore, one: Consumer, odd: str) -> None:
    store.clock.advance(0)
    await push(store, job(odd, due=After(1000)))
    assert (await found(store, odd)).state is State.DELAYED
    store.clock.advance(1)

    for settlement in (AGAIN, LATER, FAILED):
        lease = await claim_one(one)
        assert (lease.job_id, beat(one, lease)) == (odd, [])
        assert await settle(one, lease, settlement) is Reply.OK
        store.clock.advance(5)

    assert (await found(store, odd)).fields[b"id"] == odd.encode()
    assert [row.job_id for row in (await store.driver.read(Scan(State.DEAD))).rows] == [odd]
    assert await store.driver.change(Requeue(odd)) is Reply.OK
    lease = await claim_one(one)
    assert await store.driver.change(Cancel(odd)) is Reply.CANCELLING
    assert beat(one, lease) == [odd]
    assert await settle(one, lease, Ack(cancelled=True)) is Reply.OK
    assert await push(store, odd, repeated=True) == [Pushed(Reply.REPEATED)]


@pytest.mark.parametrize("odd", ODD)
async def test_a_unique_key_and_its_holder_may_have_any_characters(
    store: DriverStore, one: Consumer, odd: str
) -> None:
    await push(store, job(odd, unique=odd))
    assert await push(store, job("b", unique=odd)) == [Pushed(Reply.DUPLICATE, odd)]
    lease = await claim_one(one)
    assert lease.unique == odd.encode()
    assert await settle(one, lease, Ack()) is Reply.OK
    assert await push(store, job("b", unique=odd)) == [Pushed(Reply.OK)]


@pytest.mark.parametrize("nonce", ["", "0123456789abcdef"])
@pytest.mark.parametrize("settlement", [AGAIN, LATER])
async def test_a_retry_of_a_cancelled_job_ends_it(
    store: DriverStore, one: Consumer, settlement: Settlement, nonce: str
) -> None:
    await push(store, job("a", unique="key", nonce=nonce))
    lease = await claim_one(one)
    await store.driver.change(Cancel("a"))

    assert await settle(one, lease, settlement) is Reply.CANCELLED

    assert await store.driver.read(Find("a")) is None
    assert await push(store, job("a", nonce=nonce), repeated=True) == [Pushed(Reply.REPEATED)]
    assert await push(store, job("b", unique="key")) == [Pushed(Reply.OK)]
    assert happened(await store.driver.read(Count())) == {"pushed": 2, "cancelled": 1}
