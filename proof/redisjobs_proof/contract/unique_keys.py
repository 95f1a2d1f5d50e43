"""Pushes whose unique key another job holds, and how long a job holds its key."""

from dataclasses import replace
from typing import Any

import pytest

from redisjobs.model.changes import Cancel, Hold, Pause, Resume, Unhold, Unpark
from redisjobs.model.driver import Consumer
from redisjobs.model.history import past_events
from redisjobs.model.job import OnConflict, Priority, State
from redisjobs.model.queries import Count, Find
from redisjobs.model.transitions import Ack, After, DeadLetter, Pushed, Release, Reply
from redisjobs_proof.contract.acts import (
    AGAIN,
    LATER,
    Open,
    another,
    claim,
    claim_one,
    found,
    happened,
    ids,
    inherit,
    job,
    newer,
    push,
    rows_of,
    settle,
    until_start,
)
from redisjobs_proof.contract.needs import needs
from redisjobs_proof.contract.store import DriverStore

EARLY, LATE = After(5000), After(9000)


async def parameters(store: DriverStore, job_id: str) -> bytes:
    return (await found(store, job_id)).fields[b"parameters"]


# A job that waits is replaced


@pytest.mark.parametrize("before", [None, EARLY], ids=str)
@pytest.mark.parametrize("after", [None, LATE], ids=str)
async def test_a_job_that_waits_becomes_what_a_newer_push_says_and_keeps_its_id(
    store: DriverStore, worker: Open, before: After | None, after: After | None
) -> None:
    store.clock.advance(0)
    await push(store, job("a", unique="key", due=before, expires_in_ms=1000), "other")
    headers = ["headers", '{"trace":"2"}']
    pushed = newer("b", due=after, priority=Priority.HIGH)
    pushed = replace(pushed, fields=[*pushed.fields, *headers])
    first_ms = store.clock()
    store.clock.advance(60)

    assert await push(store, pushed) == [Pushed(Reply.REPLACED, "a")]

    row = await found(store, "a")
    assert (row.state, row.priority) == (State.DELAYED if after else State.READY, Priority.HIGH)
    assert row.due_ms == (store.clock() + 9000 if after else None)
    assert row.fields[b"parameters"] == b'{"new":true}'
    assert row.fields[b"headers"] == b'{"trace":"2"}'
    assert b"expires_at" not in row.fields
    assert first_ms <= int(row.fields[b"queued_at"]) < first_ms + 30_000  # the time of the first push
    assert await store.driver.read(Find("b")) is None
    counts = await store.driver.read(Count())
    assert happened(counts) == {"pushed": 2, "replaced": 1}
    assert sum(counts.ready.values()) + counts.delayed == 2


async def test_a_replaced_job_runs_once_as_the_last_push_said(store: DriverStore, one: Consumer) -> None:
    await push(store, job("a", unique="key"))
    for number in range(3):
        assert await push(store, newer(f"b{number}", f"{number}")) == [Pushed(Reply.REPLACED, "a")]

    lease = await claim_one(one)
    assert (lease.job_id, lease.fields[b"parameters"], lease.deliveries) == ("a", b"2", 1)
    assert await settle(one, lease, Ack()) is Reply.OK
    assert await claim(one) == []
    assert await push(store, newer("c")) == [Pushed(Reply.OK)]


async def test_a_job_that_becomes_due_after_it_was_replaced_runs_at_the_time_that_the_last_push_said(
    store: DriverStore, one: Consumer
) -> None:
    store.clock.advance(0)
    await push(store, job("a", unique="key", due=EARLY))
    store.clock.advance(4)
    assert await push(store, newer("b", due=EARLY)) == [Pushed(Reply.REPLACED, "a")]

    store.clock.advance(4)
    assert await claim(one) == []
    store.clock.advance(2)
    assert ids(await claim(one)) == ["a"]


async def test_a_job_that_was_handed_back_is_replaced_and_its_deliveries_begin_again(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, job("a", unique="key"))
    await settle(one, await claim_one(one), Release(refund=False))
    assert await push(store, newer("b")) == [Pushed(Reply.REPLACED, "a")]

    lease = await claim_one(one)
    assert (lease.job_id, lease.deliveries, lease.fields[b"parameters"]) == ("a", 1, b'{"new":true}')


async def test_a_job_of_a_dead_worker_is_replaced_once_it_was_handed_back(
    store: DriverStore, worker: Open
) -> None:
    await push(store, job("a", unique="key"))
    await claim_one(await worker("lost"))
    assert await push(store, newer("b")) == [Pushed(Reply.DUPLICATE, "a")]
    heir = await worker("heir")
    await inherit(store, heir, 0)
    assert await push(store, newer("c")) == [Pushed(Reply.REPLACED, "a")]
    assert [lease.fields[b"parameters"] for lease in await claim(heir)] == [b'{"new":true}']


async def test_a_job_that_waits_for_a_retry_is_replaced_and_keeps_its_attempt(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, another("a", unique="key"))
    lease = await claim_one(one)
    await settle(one, lease, replace(LATER, changes={"attempt": "2", "error": "no", "started_at": "5"}))

    assert await push(store, newer("b")) == [Pushed(Reply.REPLACED, "a")]

    again = await claim_one(one)
    assert again.fields[b"parameters"] == b'{"new":true}'
    kept = {name: again.fields[name] for name in (b"attempt", b"error", b"started_at", b"nonce")}
    assert kept == {b"attempt": b"2", b"error": b"no", b"started_at": b"5", b"nonce": lease.nonce}


async def test_a_job_that_is_replaced_keeps_its_history(store: DriverStore, one: Consumer) -> None:
    await push(store, job("a", unique="key"))
    await settle(one, await claim_one(one), replace(AGAIN, changes={"attempt": "2", "error": "no"}))
    assert await push(store, newer("b")) == [Pushed(Reply.REPLACED, "a")]

    assert [event.what for event in past_events((await found(store, "a")).history)] == ["failed"]


@pytest.mark.parametrize("due", [None, EARLY], ids=str)
@needs(Hold, Unhold)
async def test_a_held_job_that_is_replaced_stays_held(
    store: DriverStore, one: Consumer, due: After | None
) -> None:
    await push(store, job("a", unique="key", due=due))
    await store.driver.change(Hold("a"))
    assert await claim(one) == []  # it is parked

    assert await push(store, newer("b")) == [Pushed(Reply.REPLACED, "a")]
    assert (await found(store, "a")).held
    assert await claim(one) == []
    await store.driver.change(Unhold("a"))
    assert [lease.fields[b"parameters"] for lease in await claim(one)] == [b'{"new":true}']


@needs(Pause, Resume, Unpark)
async def test_a_job_of_a_paused_name_is_replaced_and_starts_when_that_is_resumed(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, job("a", unique="key"))
    await store.driver.change(Pause("Work"))
    assert await claim(one) == []
    assert await push(store, newer("b")) == [Pushed(Reply.REPLACED, "a")]
    assert await claim(one) == []
    await store.driver.change(Resume("Work"))
    await store.driver.change(Unpark())
    assert [lease.fields[b"parameters"] for lease in await claim(one)] == [b'{"new":true}']


async def test_of_two_pushes_with_one_key_in_one_call_the_second_replaces_the_first(
    store: DriverStore, one: Consumer
) -> None:
    pushes = [newer("a", "1", due=EARLY), newer("b", "2"), newer("c", "3", due=EARLY), newer("d", "4")]
    assert await push(store, *pushes) == [Pushed(Reply.OK), *[Pushed(Reply.REPLACED, "a")] * 3]
    assert await push(store, job("e", unique="key"), newer("f", "5")) == [
        Pushed(Reply.DUPLICATE, "a"),
        Pushed(Reply.REPLACED, "a"),
    ]
    lease = await claim_one(one)
    assert (lease.job_id, lease.fields[b"parameters"]) == ("a", b"5")


async def test_a_replaced_job_is_cancelled_by_its_id_and_frees_its_key(store: DriverStore, worker: Open) -> None:
    await push(store, job("a", unique="key"), newer("b", due=EARLY))
    assert await store.driver.change(Cancel("a")) is Reply.CANCELLED
    assert await push(store, newer("c")) == [Pushed(Reply.OK)]


# Jobs that are not replaced


async def test_a_job_that_runs_is_not_replaced(store: DriverStore, one: Consumer) -> None:
    await push(store, job("a", unique="key"))
    lease = await claim_one(one)
    before = store.contents()

    assert await push(store, newer("b")) == [Pushed(Reply.DUPLICATE, "a")]

    assert store.contents() == before
    assert await settle(one, lease, Ack()) is Reply.OK


async def test_a_job_that_is_handed_back_to_be_cancelled_is_not_replaced(
    store: DriverStore, one: Consumer, worker: Open
) -> None:
    await push(store, job("a", unique="key"))
    lost = await worker("lost")
    await claim_one(lost)
    await store.driver.change(Cancel("a"))
    await lost.release(refund=False, watch=False)

    assert await push(store, newer("b")) == [Pushed(Reply.DUPLICATE, "a")]
    assert await claim(one) == []


async def test_a_key_that_outlives_its_job_is_that_of_no_job_that_waits(store: DriverStore, one: Consumer) -> None:
    await push(store, another("a", unique="key", unique_for_ms=3_600_000))
    await settle(one, await claim_one(one), Ack())
    assert await push(store, newer("b")) == [Pushed(Reply.DUPLICATE, "a")]

    await push(store, another("a"))  # another job, which has never had the key
    assert await push(store, newer("c")) == [Pushed(Reply.DUPLICATE, "a")]
    assert await parameters(store, "a") == b"{}"


async def test_a_push_of_an_id_that_is_there_replaces_nothing(store: DriverStore, worker: Open) -> None:
    await push(store, another("a", unique="key"))
    pushed = [newer("a", nonce="another"), newer("a", unique="free", nonce="a-third")]
    assert await push(store, *pushed) == [Pushed(Reply.EXISTS)] * 2
    assert await parameters(store, "a") == b"{}"


# How long a key is held


async def test_a_window_starts_again_when_the_job_is_replaced(store: DriverStore, one: Consumer) -> None:
    await push(store, job("a", unique="key"))
    assert await push(store, newer("b", unique_for_ms=3_600_000)) == [Pushed(Reply.REPLACED, "a")]
    assert await push(store, newer("c", unique_for_ms=3_600_000)) == [Pushed(Reply.REPLACED, "a")]
    await settle(one, await claim_one(one), Ack())
    assert await push(store, newer("d")) == [Pushed(Reply.DUPLICATE, "a")]


async def test_a_key_that_was_held_for_a_time_is_held_to_the_end_if_the_newer_push_says_so(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, job("a", unique="key", unique_for_ms=3_600_000))
    assert await push(store, newer("b")) == [Pushed(Reply.REPLACED, "a")]
    await settle(one, await claim_one(one), Ack())
    assert await push(store, newer("c")) == [Pushed(Reply.OK)]


@pytest.mark.parametrize("on_conflict", OnConflict)
async def test_a_key_that_is_held_until_the_start_is_free_once_a_worker_has_the_job(
    store: DriverStore, one: Consumer, on_conflict: OnConflict
) -> None:
    await push(store, until_start("a"))
    assert await push(store, job("b", unique="key")) == [Pushed(Reply.DUPLICATE, "a")]
    lease = await claim_one(one)

    assert await push(store, until_start("c", on_conflict=on_conflict)) == [Pushed(Reply.OK)]
    assert await push(store, until_start("d")) == [Pushed(Reply.DUPLICATE, "c")]
    assert await settle(one, lease, Ack()) is Reply.OK
    assert await push(store, until_start("e")) == [Pushed(Reply.DUPLICATE, "c")]  # `c` still waits
    assert ids(await claim(one)) == ["c"]


@pytest.mark.parametrize("settlement", [AGAIN, LATER, Release()], ids=str)
async def test_a_job_that_is_to_start_again_has_its_key_unless_another_job_took_it(
    store: DriverStore, one: Consumer, settlement: Any
) -> None:
    await push(store, until_start("a"))
    await settle(one, await claim_one(one), settlement)
    assert await push(store, until_start("b")) == [Pushed(Reply.DUPLICATE, "a")]

    store.clock.advance(10)
    lease = await claim_one(one)
    assert await push(store, until_start("c")) == [Pushed(Reply.OK)]
    await settle(one, lease, settlement)
    assert await push(store, until_start("d")) == [Pushed(Reply.DUPLICATE, "c")]


@pytest.mark.parametrize("settlement", [Ack(), DeadLetter("failed", "no")], ids=str)
async def test_a_key_that_is_held_until_the_start_is_free_after_the_end_if_no_one_took_it(
    store: DriverStore, one: Consumer, settlement: Any
) -> None:
    await push(store, until_start("a"))
    await settle(one, await claim_one(one), settlement)
    assert await push(store, until_start("b")) == [Pushed(Reply.OK)]


# A push that is repeated


@pytest.mark.parametrize("nonce", ["", "0123456789abcdef"])
async def test_a_push_that_replaced_and_is_repeated_undoes_no_later_one(
    store: DriverStore, one: Consumer, nonce: str
) -> None:
    first, second = newer("b", "1", nonce=nonce), newer("c", "2", nonce=nonce)
    await push(store, job("a", unique="key"), first, second)
    for repeated in (False, True):  # the first try arrives late, or the client repeats it
        before = store.contents()
        assert await push(store, first, second, repeated=repeated) == [Pushed(Reply.REPLACED, "a")] * 2
        assert store.contents() == before
    lease = await claim_one(one)
    assert lease.fields[b"parameters"] == b"2"
    await settle(one, lease, Ack())

    assert await push(store, first, repeated=True) == [Pushed(Reply.REPLACED, "a")]
    assert await claim(one) == []
    assert await push(store, newer("d")) == [Pushed(Reply.OK)]


async def test_a_push_that_was_replaced_and_is_repeated_is_taken_for_what_it_was(
    store: DriverStore, worker: Open
) -> None:
    consumer, first = await worker(), another("a", unique="key", on_conflict=OnConflict.REPLACE)
    await push(store, first, newer("b"))
    assert await push(store, first, repeated=True) == [Pushed(Reply.REPEATED)]
    await settle(consumer, await claim_one(consumer), Ack())
    assert await push(store, first, repeated=True) == [Pushed(Reply.REPEATED)]
    assert await claim(consumer) == []


@pytest.mark.parametrize("on_conflict", [OnConflict.REPLACE, OnConflict.RAISE])
async def test_a_push_that_was_refused_when_it_was_repeated_is_told_so_again_by_the_same_holder(
    store: DriverStore, one: Consumer, on_conflict: OnConflict
) -> None:
    await push(store, job("a", unique="key"))
    lease = await claim_one(one)
    refused = job("b", unique="key", on_conflict=on_conflict)
    assert await push(store, refused, repeated=True) == [Pushed(Reply.DUPLICATE, "a")]
    await settle(one, lease, Ack())

    answers = [Pushed(Reply.DUPLICATE, "a"), Pushed(Reply.EXISTS)]
    assert await push(store, refused, refused, repeated=True) == answers
    assert await push(store, refused, refused) == answers
    assert await push(store, newer("c")) == [Pushed(Reply.OK)]


async def test_a_push_that_was_refused_for_its_id_replaces_nothing_when_it_is_repeated(
    store: DriverStore, worker: Open
) -> None:
    consumer, refused = await worker(), newer("a", nonce="another")
    await push(store, another("a"), job("b", unique="key"))
    assert await push(store, refused, repeated=True) == [Pushed(Reply.EXISTS)]
    lease, *_ = await claim(consumer, 1)
    await settle(consumer, lease, Ack())
    assert await push(store, refused, repeated=True) == [Pushed(Reply.REFUSED)]
    assert await parameters(store, "b") == b"{}"


async def test_replacing_is_told_to_those_who_wait_for_the_next_due_time(store: DriverStore, worker: Open) -> None:
    await push(store, job("a", unique="key", due=LATE), job("b", due=After(20_000)))
    assert await push(store, newer("c", due=EARLY)) == [Pushed(Reply.REPLACED, "a")]
    rows = await rows_of(store.driver, State.DELAYED, 10)
    assert [row.job_id for row in rows] == ["a", "b"]
