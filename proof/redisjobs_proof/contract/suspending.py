"""Suspended jobs: each waits without a worker for a time or a signal, and is ready once that has come."""

from typing import Any

import pytest

from redisjobs.model.changes import Cancel, Hold, Pause, Requeue, Resume, Unhold
from redisjobs.model.driver import Consumer, Driver
from redisjobs.model.job import Priority, State
from redisjobs.model.queries import Count, Find
from redisjobs.model.steps import MOST_SIGNALS, GetSteps, How, Saved, Signal, Steps
from redisjobs.model.transitions import (
    Ack,
    After,
    At,
    Due,
    Lease,
    Release,
    Reply,
    Result,
    SaveStep,
    Suspend,
    Turn,
    Wait,
    WaitsFor,
)
from redisjobs_proof.contract.acts import (
    FAILED,
    another,
    claim,
    claim_one,
    found,
    happened,
    ids,
    job,
    listening,
    push,
    row_of,
    rows_of,
    saved,
    settle,
    texts,
    until_start,
)
from redisjobs_proof.contract.store import DriverStore

_NEEDS = (GetSteps, Signal)


def asleep(due: Due | None, key: str = "sleep", number: int = 1, **options: Any) -> Suspend:
    return Suspend(Wait(number, WaitsFor.TIME, key), due, **options)


def waiting(key: str = "approved", due: Due | None = None, number: int = 1, **options: Any) -> Suspend:
    return Suspend(Wait(number, WaitsFor.SIGNAL, key), due, **options)


async def suspended(store: DriverStore, consumer: Consumer, settlement: Suspend, job_id: str = "a") -> Lease:
    """Push a job, claim it and suspend it; return the lease that it had."""
    store.clock.advance(0)
    await push(store, job_id)
    lease = await claim_one(consumer)
    assert await settle(consumer, lease, settlement) is Reply.OK
    return lease


async def signal(
    driver: Driver, name: str = "approved", value: str = "1", nonce: str = "", of: str = "a"
) -> Reply:
    signal.number += 1  # type: ignore[attr-defined]
    nonce = nonce or f"{signal.number:016x}"  # type: ignore[attr-defined]
    return await driver.change(Signal(of, name, value.encode(), nonce))


signal.number = 0  # type: ignore[attr-defined]


async def test_a_suspended_job_has_no_worker_and_is_found_with_what_it_waits_for(
    store: DriverStore, one: Consumer
) -> None:
    store.clock.advance(1)  # not before the server's own clock, which makes entry ids
    lease = await suspended(store, one, asleep(After(5000), changes={"started_at": "12", "error": ""}, version=3))

    row = await row_of(store.driver, "a")
    due_ms = store.clock() + 5000
    assert (row.state, row.due_ms, row.worker, row.deliveries) == (State.SUSPENDED, due_ms, "", 0)
    fields = texts(row.fields)
    assert {name: fields[name] for name in ("id", "name", "steps", "started_at", "queued_at")} == {
        "id": "a",
        "name": "Work",
        "steps": "1",
        "started_at": "12",
        "queued_at": str(lease.queued_ms),
    }
    assert fields["suspended_at"] == str(store.clock())
    assert fields["waits"] == f"1 time sleep {due_ms}"
    counts = await store.driver.read(Count())
    assert (counts.suspended, counts.delayed, counts.running, sum(counts.ready.values())) == (1, 0, 0, 0)
    assert happened(counts) == {"pushed": 1, "suspended": 1}
    assert await saved(store) == Steps(version=3)


async def test_a_time_wakes_a_suspended_job_and_not_sooner(store: DriverStore, one: Consumer) -> None:
    await suspended(store, one, asleep(After(5000)))
    store.clock.advance(4)
    answer = await one.exchange([], 5)
    assert (answer.leases, answer.due_in) == ([], 1.0)
    store.clock.advance(1)

    (lease,) = await claim(one)

    fields = texts(lease.fields)
    assert (lease.job_id, lease.deliveries, fields["steps"]) == ("a", 1, "1")
    assert "waits" not in fields
    assert "suspended_at" in fields
    assert (await saved(store)).saved == {"sleep": Saved(1, store.clock(), How.SLEPT)}
    assert happened(await store.driver.read(Count())) == {"pushed": 1, "suspended": 1, "woken": 1}


@pytest.mark.parametrize("due", [At(1), After(0)])
async def test_a_wait_that_is_over_already_makes_the_job_ready_at_once(
    store: DriverStore, one: Consumer, due: Due
) -> None:
    await suspended(store, one, asleep(due))

    assert (await found(store, "a")).state is State.READY
    assert (await saved(store)).saved["sleep"].how is How.SLEPT
    assert ids(await claim(one)) == ["a"]


async def test_a_job_that_waits_for_a_signal_without_a_time_waits_for_ever(
    store: DriverStore, one: Consumer
) -> None:
    await suspended(store, one, waiting())
    store.clock.advance(10**9)

    answer = await one.exchange([], 5)

    assert (answer.leases, answer.due_in) == ([], None)
    assert (await row_of(store.driver, "a")).due_ms is None
    assert texts((await found(store, "a")).fields)["waits"] == "1 signal approved"


async def test_a_signal_wakes_the_job_that_waits_for_it_and_is_its_result(
    store: DriverStore, one: Consumer
) -> None:
    await suspended(store, one, waiting("approved#2", After(9000), number=4))

    assert await signal(store.driver, "other") is Reply.KEPT
    assert await signal(store.driver, value='{"by": "änn", "n": 12345678901234567890}') is Reply.OK

    (lease,) = await claim(one)
    assert lease.job_id == "a"
    value = '{"by": "änn", "n": 12345678901234567890}'.encode()
    assert (await saved(store)).saved == {"approved#2": Saved(4, store.clock(), How.SIGNAL, value)}
    store.clock.advance(20)
    assert await claim(one) == []


async def test_a_signal_that_does_not_come_in_time_is_a_timeout(store: DriverStore, one: Consumer) -> None:
    await suspended(store, one, waiting(due=After(1000)))
    store.clock.advance(1)

    (lease,) = await claim(one)

    assert (await saved(store)).saved == {"approved": Saved(1, store.clock(), How.TIMEOUT)}
    assert await signal(store.driver) is Reply.KEPT  # for a later wait
    assert await settle(one, lease, waiting("approved#2", number=2)) is Reply.OK
    assert (await saved(store)).saved["approved#2"].how is How.SIGNAL


@pytest.mark.parametrize("state", [State.READY, State.RUNNING, State.DELAYED, State.SUSPENDED])
async def test_an_early_signal_is_kept_until_the_job_waits_for_it_and_the_first_one_wins(
    store: DriverStore, one: Consumer, state: State
) -> None:
    store.clock.advance(0)
    await push(store, job("a", due=After(1000) if state is State.DELAYED else None))
    lease = None if state in (State.READY, State.DELAYED) else await claim_one(one)
    if state is State.SUSPENDED:
        assert lease is not None
        await settle(one, lease, asleep(After(1000)))

    assert await signal(store.driver, value="1") is Reply.KEPT
    assert await signal(store.driver, value="2") is Reply.EXISTS
    assert await signal(store.driver, "refused", value="3") is Reply.KEPT

    store.clock.advance(1)
    lease = lease if state is State.RUNNING and lease else await claim_one(one)
    assert await settle(one, lease, waiting(number=2)) is Reply.OK
    assert (await found(store, "a")).state is State.READY
    assert (await saved(store)).saved["approved"] == Saved(2, store.clock(), How.SIGNAL, b"1")
    lease = await claim_one(one)
    assert await settle(one, lease, waiting("refused", number=3)) is Reply.OK
    assert (await saved(store)).saved["refused"].value == b"3"


async def test_a_signal_is_taken_by_one_wait(store: DriverStore, one: Consumer) -> None:
    await suspended(store, one, waiting())
    await signal(store.driver)

    assert await settle(one, await claim_one(one), waiting("approved#2", number=2)) is Reply.OK

    assert (await found(store, "a")).state is State.SUSPENDED


async def test_a_signal_that_is_sent_again_is_not_taken_twice(store: DriverStore, one: Consumer) -> None:
    await suspended(store, one, waiting())
    assert await signal(store.driver, nonce="n1") is Reply.OK
    lease = await claim_one(one)
    before = store.contents()

    assert await signal(store.driver, nonce="n1") is Reply.OK

    assert store.contents() == before
    assert await signal(store.driver, nonce="n2") is Reply.KEPT
    before = store.contents()
    assert await signal(store.driver, nonce="n2") is Reply.OK
    assert store.contents() == before
    assert await settle(one, lease, waiting("approved#2", number=2)) is Reply.OK
    assert await settle(one, await claim_one(one), waiting("approved#3", number=3)) is Reply.OK
    assert (await found(store, "a")).state is State.SUSPENDED


async def test_a_signal_to_a_job_that_has_ended_writes_nothing(store: DriverStore, one: Consumer) -> None:
    await push(store, "done", "dead")
    done, dead = await claim(one)
    await settle(one, done, Ack())
    await settle(one, dead, FAILED)
    before = store.contents()

    assert await signal(store.driver, of="done") is Reply.NOT_FOUND
    assert await signal(store.driver, of="never") is Reply.NOT_FOUND
    assert await signal(store.driver, of="dead") is Reply.DEAD

    assert store.contents() == before


async def test_a_job_keeps_a_limited_number_of_signals(store: DriverStore, one: Consumer) -> None:
    await push(store, "a", "b")
    for number in range(MOST_SIGNALS):
        assert await signal(store.driver, f"s{number}") is Reply.KEPT
    assert await signal(store.driver, "large", value="x" * 700_000, of="b") is Reply.KEPT
    before = store.contents()

    assert await signal(store.driver, "more") is Reply.OVERSIZED
    assert await signal(store.driver, "more", value="x" * 700_000, of="b") is Reply.OVERSIZED

    assert store.contents() == before


@pytest.mark.parametrize("settlement", [Ack(), Ack(result=Result(1000, b"1")), Ack(cancelled=True)])
async def test_signals_that_a_job_has_not_waited_for_go_with_it(
    store: DriverStore, one: Consumer, settlement: Ack
) -> None:
    await push(store, another("a"), "b")
    a, b = await claim(one)
    await signal(store.driver)
    await signal(store.driver, of="b")

    assert (await one.exchange([(a, settlement), (b, settlement)], None)).replies == [Reply.OK] * 2

    await push(store, another("a"))
    assert await settle(one, await claim_one(one), waiting()) is Reply.OK
    assert (await found(store, "a")).state is State.SUSPENDED


async def test_a_dead_letter_keeps_the_signals_that_it_has_not_waited_for(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, "a")
    await signal(store.driver)
    await settle(one, await claim_one(one), FAILED)
    assert await store.driver.change(Requeue("a")) is Reply.OK

    assert await settle(one, await claim_one(one), waiting()) is Reply.OK

    assert (await saved(store)).saved["approved"].how is How.SIGNAL


async def test_a_suspended_job_that_is_cancelled_is_gone_with_its_steps(store: DriverStore, one: Consumer) -> None:
    await suspended(store, one, asleep(After(1000)))
    await signal(store.driver)

    assert await store.driver.change(Cancel("a")) is Reply.CANCELLED

    assert await store.driver.read(Find("a")) is None
    assert await saved(store) == Steps()
    assert await signal(store.driver) is Reply.NOT_FOUND
    store.clock.advance(5)
    answer = await one.exchange([], 5)
    assert (answer.leases, answer.due_in) == ([], None)


async def test_a_job_that_was_cancelled_while_it_ran_ends_where_it_would_wait(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    await settle(one, lease, SaveStep("charge", 1, b"1"))
    assert await store.driver.change(Cancel("a")) is Reply.CANCELLING

    assert await settle(one, lease, asleep(After(1000), number=2)) is Reply.CANCELLED

    assert await store.driver.read(Find("a")) is None
    assert await saved(store) == Steps()
    assert happened(await store.driver.read(Count())) == {"pushed": 1, "cancelled": 1}


async def test_a_suspended_job_that_is_held_does_not_start_once_its_wait_is_over(
    store: DriverStore, one: Consumer
) -> None:
    await suspended(store, one, waiting())
    assert await store.driver.change(Hold("a")) is Reply.HELD
    assert (await row_of(store.driver, "a")).held

    assert await signal(store.driver) is Reply.OK
    assert await claim(one) == []
    assert (await found(store, "a")).state is State.READY
    assert await store.driver.change(Unhold("a")) is Reply.OK

    assert ids(await claim(one)) == ["a"]


@pytest.mark.parametrize("name", ["", "Work"])
async def test_a_pause_keeps_a_job_that_was_woken_from_starting(
    store: DriverStore, one: Consumer, name: str
) -> None:
    await suspended(store, one, asleep(After(1000)))
    await store.driver.change(Pause(name))
    store.clock.advance(2)

    assert await claim(one) == []
    await store.driver.change(Resume(name))
    if not name:
        assert ids(await claim(one)) == ["a"]


async def test_suspended_jobs_are_listed_by_the_time_that_they_wait_for_those_without_one_last(
    store: DriverStore, one: Consumer
) -> None:
    for job_id, settlement in {
        "never": waiting(),
        "late": asleep(After(9000)),
        "soon": waiting(due=After(1000)),
        "later": asleep(After(5000)),
        "never again": waiting(),
    }.items():
        await suspended(store, one, settlement, job_id)
        store.clock.advance(0.001)

    rows = await rows_of(store.driver, State.SUSPENDED)
    assert [row.job_id for row in rows] == ["soon", "later", "late", "never", "never again"]
    assert await rows_of(store.driver, State.DELAYED) == []


async def test_a_suspended_job_keeps_its_id_its_priority_and_its_unique_key(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, job("a", unique="key", priority=Priority.LOW))
    assert await settle(one, await claim_one(one), asleep(After(1000))) is Reply.OK

    assert [each.reply for each in await push(store, another("a"))] == [Reply.EXISTS]
    assert [each.reply for each in await push(store, job("b", unique="key"))] == [Reply.DUPLICATE]

    store.clock.advance(2)
    assert [(lease.job_id, lease.rank) for lease in await claim(one)] == [("a", 2)]


async def test_a_key_that_is_held_until_the_start_stays_free_while_its_job_is_suspended(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, until_start("a"))
    assert await settle(one, await claim_one(one), asleep(After(1000))) is Reply.OK

    assert [each.reply for each in await push(store, until_start("b"))] == [Reply.OK]


async def test_a_suspension_that_is_sent_again_is_answered_as_before_and_not_applied_twice(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, "a")
    batch = [(await claim_one(one), waiting())]
    first = await one.exchange(batch, None, turn=Turn(1, 1))
    await signal(store.driver)
    before = store.contents()

    assert (await one.exchange(batch, None, turn=Turn(1, 1))).replies == first.replies == [Reply.OK]

    assert store.contents() == before


async def test_a_worker_that_lost_the_job_suspends_nothing(
    store: DriverStore, one: Consumer, two: Consumer
) -> None:
    await push(store, "a")
    lost = await claim_one(one)
    await settle(one, lost, Release())
    await claim_one(two)
    before = store.contents()

    assert await settle(one, lost, asleep(After(1000))) is Reply.LEASE_LOST

    assert store.contents() == before


async def test_workers_hear_of_a_suspended_job_that_is_due_before_all_others(
    store: DriverStore, one: Consumer, two: Consumer
) -> None:
    async with listening(two.listen) as heard:
        await suspended(store, one, asleep(After(5000)))
        due_ms = store.clock() + 5000
        while ("due", str(due_ms)) not in [(each.kind, each.value) for each in heard]:
            await two.exchange([], 0)
