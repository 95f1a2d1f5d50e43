"""An operator's calls: cancel, requeue, delete, find, list and count jobs."""

from contextlib import closing
from typing import Any

import pytest

from redisjobs.model.changes import Cancel, Delete, Requeue
from redisjobs.model.driver import Consumer
from redisjobs.model.job import Priority, State
from redisjobs.model.queries import Count, Find
from redisjobs.model.transitions import Ack, After, NewJob, Pushed, Release, Reply, Turn
from redisjobs_proof.contract.acts import (
    AGAIN,
    FAILED,
    Heart,
    Open,
    another,
    beat,
    claim,
    claim_one,
    delay,
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
    texts,
    wait_in_line,
)
from redisjobs_proof.contract.store import DriverStore


async def test_a_released_job_passes_ahead_of_new_ones_even_behind_a_cancelled_one(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, "a", "b", "c")
    a, b = await claim(one, 2)
    await store.driver.change(Cancel("a"))
    await one.exchange([(a, Release()), (b, Release())], None)

    assert ids(await claim(one, 1)) == ["b"]
    assert await store.driver.read(Find("a")) is None


async def test_a_retry_that_is_sent_again_is_answered_as_the_cancel_that_it_was(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, "a")
    batch = [(await claim_one(one), AGAIN)]
    await store.driver.change(Cancel("a"))
    for _ in range(2):
        assert (await one.exchange(batch, None, turn=Turn(1, 1))).replies == [Reply.CANCELLED]
    assert (await store.driver.read(Count())).totals["cancelled"] == 1


@pytest.mark.parametrize("bring", [delay, wait_in_line, retry, release])
async def test_a_job_that_waits_is_cancelled_at_once(store: DriverStore, one: Consumer, bring: Any) -> None:
    await bring(store, one)

    assert await store.driver.change(Cancel("a")) is Reply.CANCELLED

    assert await store.driver.read(Find("a")) is None
    store.clock.advance(60)
    assert await claim(one) == []
    assert await store.driver.change(Cancel("a")) is Reply.NOT_FOUND
    assert (await store.driver.read(Count())).totals["cancelled"] == 1


async def test_a_dead_letter_and_a_job_that_ended_are_not_cancelled(store: DriverStore, one: Consumer) -> None:
    await fail(store, one)
    before = store.contents()

    assert await store.driver.change(Cancel("a")) is Reply.DEAD
    assert await store.driver.change(Cancel("unknown")) is Reply.NOT_FOUND
    assert await store.driver.change(Cancel("1732438800000-0")) is Reply.NOT_FOUND
    assert store.contents() == before


async def test_a_running_job_is_marked_and_its_worker_told(store: DriverStore, one: Consumer) -> None:
    await push(store, "a", "b")
    leases = await claim(one)

    assert await store.driver.change(Cancel("a")) is Reply.CANCELLING
    assert await store.driver.change(Cancel("a")) is Reply.CANCELLING

    assert beat(one, *leases) == ["a"]
    rows = [(await found(store, "a")), *await rows_of(store.driver, State.RUNNING, 10)]
    assert [(row.state, row.cancelling) for row in rows] == [
        (State.RUNNING, is_it) for is_it in (True, True, False)
    ]
    assert await settle(one, leases[0], Ack(cancelled=True)) is Reply.OK
    totals = (await store.driver.read(Count())).totals
    assert (totals["cancelled"], totals["completed"]) == (1, 0)


async def test_a_cancel_reaches_the_holder_of_the_job_by_the_next_beat_even_if_it_was_still_on_its_way(
    store: DriverStore, one: Consumer, two: Consumer
) -> None:
    await push(store, "a", "b", "c")
    theirs = await claim(two, 1)
    leases = await claim(one)
    with closing(Heart(one)) as heart:
        assert list(heart.beat(lambda: leases, {})) == []
        assert await store.driver.change(Cancel("b")) is Reply.CANCELLING

        assert list(heart.beat(list, {})) == []  # it was delivered, and the worker has not seen it yet
        assert ids(list(heart.beat(lambda: leases, {}))) == ["b"]

        assert await store.driver.change(Cancel("c")) is Reply.CANCELLING
        assert "c" in ids(list(heart.beat(lambda: leases, {})))
    assert beat(two, *theirs) == []
    assert beat(one, *leases) == ["b", "c"]  # a heartbeat that starts only now learns it too


async def test_a_cancelled_job_that_is_handed_back_ends(store: DriverStore, one: Consumer) -> None:
    await push(store, "a", "b")
    for lease, refund in zip(await claim(one), (True, False), strict=True):
        await store.driver.change(Cancel(lease.job_id))
        assert await settle(one, lease, Release(refund)) is Reply.CANCELLED

    assert await claim(one) == []
    assert [await store.driver.read(Find(job_id)) for job_id in "ab"] == [None, None]
    counts = await store.driver.read(Count())
    assert (counts.ready[Priority.NORMAL], counts.running) == (0, 0)
    assert happened(counts) == {"pushed": 2, "cancelled": 2}


async def test_a_cancelled_job_may_still_succeed_or_fail(store: DriverStore, one: Consumer) -> None:
    await push(store, "a", "b")
    done, failed = await claim(one)
    await store.driver.change(Cancel("a"))
    await store.driver.change(Cancel("b"))

    assert (await one.exchange([(done, Ack()), (failed, FAILED)], None)).replies == [Reply.OK] * 2

    row = await found(store, "b")
    assert (row.state, row.cancelling) == (State.DEAD, False)
    assert await store.driver.change(Requeue("b")) is Reply.OK
    assert ids(await claim(one)) == ["b"]


async def test_a_requeued_dead_letter_starts_again_under_its_id(store: DriverStore, one: Consumer) -> None:
    fields = ["name", "Work", "parameters", "{}", "headers", '{"k":"v"}', "attempt", "4", "unknown_since", "1"]
    fields += ["started_at", "1"]
    await push(store, NewJob("a", fields, Priority.HIGH, expires_in_ms=1, unique="key"))
    lease = await claim_one(one)
    await settle(one, lease, FAILED)

    assert await store.driver.change(Requeue("a")) is Reply.OK

    again = await claim_one(one)
    assert (again.job_id, (await found(store, "a")).priority, again.deliveries) == ("a", Priority.HIGH, 1)
    queued_at = str(lease.queued_ms)
    kept = {"id": "a", "name": "Work", "parameters": "{}", "headers": '{"k":"v"}', "queued_at": queued_at}
    stored = texts(again.fields)
    assert [line.split()[1] for line in stored.pop("history").splitlines()] == ["died", "requeued"]
    assert stored == kept | {"unique": "key"}
    assert await rows_of(store.driver, State.DEAD, 10) == []


async def test_a_dead_letter_is_requeued_with_other_parameters_and_another_key(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, NewJob("a", ["name", "Work", "parameters", '{"to":"ann"}', "limit_key", "ann"]))
    await settle(one, await claim_one(one), FAILED)

    assert await store.driver.change(Requeue("a", parameters=b'{"to":"joe"}')) is Reply.OK
    lease = await claim_one(one)
    assert (lease.fields[b"parameters"], lease.fields[b"limit_key"]) == (b'{"to":"joe"}', b"ann")
    await settle(one, lease, FAILED)
    change = Requeue("a", After(60_000), parameters='{"to":"é"}'.encode(), limit_key="é")
    assert await store.driver.change(change) is Reply.OK
    fields = (await found(store, "a")).fields
    assert (fields[b"parameters"], fields[b"limit_key"]) == ('{"to":"é"}'.encode(), "é".encode())


@pytest.mark.parametrize("bring", [delay, wait_in_line, run, finish])
async def test_only_a_dead_letter_is_requeued_or_deleted(store: DriverStore, worker: Open, bring: Any) -> None:
    await bring(store, await worker())
    before = store.contents()
    assert await store.driver.change(Requeue("a")) is Reply.NOT_FOUND
    assert await store.driver.change(Delete("a")) is Reply.NOT_FOUND
    assert store.contents() == before


async def test_a_deleted_dead_letter_is_gone_and_its_id_free(store: DriverStore, one: Consumer) -> None:
    await fail(store, one)

    assert await store.driver.change(Delete("a")) is Reply.OK

    assert await store.driver.read(Find("a")) is None
    assert await store.driver.change(Delete("a")) is Reply.NOT_FOUND
    assert await push(store, another("a")) == [Pushed(Reply.OK)]


async def test_every_state_is_found_listed_and_counted(store: DriverStore, one: Consumer) -> None:
    store.clock.advance(0)
    await push(store, "dead", "handed back", "running")
    dead, handed_back, _ = await claim(one)
    await one.exchange([(dead, FAILED), (handed_back, Release())], None)
    await push(store, "ready", job("delayed", due=After(5000), priority=Priority.HIGH))

    listed = {state: await rows_of(store.driver, state, 10) for state in State if state is not State.SUSPENDED}
    assert listed.pop(State.COMPLETED) == listed.pop(State.CANCELLED) == []  # the queue keeps none

    names = {state: [row.fields[b"id"].decode() for row in rows] for state, rows in listed.items()}
    waiting = {State.READY: ["handed back", "ready"], State.DELAYED: ["delayed"]}
    assert names == waiting | {State.RUNNING: ["running"], State.DEAD: ["dead"]}
    every = [row for rows in listed.values() for row in rows]
    for row in every:
        assert await store.driver.read(Find(row.fields[b"id"].decode())) == row
    details = {row.fields[b"id"]: (row.worker, row.deliveries, row.due_ms) for row in every}
    unclaimed = dict.fromkeys((b"handed back", b"ready", b"dead"), ("", 0, None))
    assert details == unclaimed | {b"delayed": ("", 0, store.clock() + 5000), b"running": ("w1", 1, None)}
    counts = await store.driver.read(Count())
    assert (counts.ready, counts.running, counts.delayed, counts.dead) == (
        {Priority.HIGH: 0, Priority.NORMAL: 2, Priority.LOW: 0}, 1, 1, 1
    )  # fmt: skip
    assert happened(counts) == {"pushed": 5, "dead": 1, "released": 1}


async def test_a_list_is_in_the_order_of_its_state_and_no_longer_than_asked(
    store: DriverStore, one: Consumer
) -> None:
    await push(
        store, job("low", priority=Priority.LOW), "a", "b", job("c", due=After(9000)), job("d", due=After(5000))
    )
    assert [row.fields[b"id"] for row in await rows_of(store.driver, State.READY, 9)] == [b"a", b"b", b"low"]
    assert [row.fields[b"id"] for row in await rows_of(store.driver, State.READY, 2)] == [b"a", b"b"]
    assert [row.fields[b"id"] for row in await rows_of(store.driver, State.DELAYED, 9)] == [b"d", b"c"]
    await one.exchange([(lease, FAILED) for lease in await claim(one)], None)
    assert [row.fields[b"id"] for row in await rows_of(store.driver, State.DEAD, 2)] == [b"low", b"b"]


async def test_a_queue_that_no_worker_has_joined_yet_can_be_looked_at(store: DriverStore, worker: Open) -> None:
    assert happened(await store.driver.read(Count())) == {}
    await push(store, "a")
    assert (await found(store, "a")).state is State.READY
    assert len(await rows_of(store.driver, State.READY, 10)) == 1
    assert await rows_of(store.driver, State.RUNNING, 10) == []
    assert (await store.driver.read(Count())).ready[Priority.NORMAL] == 1
    assert await store.driver.change(Cancel("a")) is Reply.CANCELLED


@pytest.mark.parametrize(
    "name", ["1-0@", "1-0@nowhere", "1-0@dead", "1-0@high", "99999999999999999999-0", "1-0@HIGH"]
)
async def test_a_name_that_no_job_has_finds_none(store: DriverStore, worker: Open, name: str) -> None:
    await worker()
    assert await store.driver.read(Find(name)) is None
    assert await store.driver.change(Cancel(name)) is Reply.NOT_FOUND
    assert await store.driver.change(Requeue(name)) is Reply.NOT_FOUND
    assert await store.driver.change(Delete(name)) is Reply.NOT_FOUND
