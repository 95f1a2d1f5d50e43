"""Steps and signals in Postgres, beside other transactions; and what they cost a job that has none."""

from collections.abc import AsyncIterator

import anyio
import pytest
from postgres_store import Other, PostgresStore
from postgres_store import store as store
from store import eventually

from redisjobs.drivers.postgres import working
from redisjobs.model.changes import Cancel, Hold
from redisjobs.model.driver import Consumer
from redisjobs.model.job import State
from redisjobs.model.queries import Find
from redisjobs.model.steps import How, Signal, Steps
from redisjobs.model.transitions import (
    Ack,
    After,
    Lease,
    Reply,
    RetryLater,
    SaveStep,
    Settlement,
    Suspend,
    Turn,
    Wait,
    WaitsFor,
)
from redisjobs_proof.contract.acts import FAILED, claim_one, job, push, saved, settle

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

GO = Signal("a", "go", b"1", "n1")
WAITS = Suspend(Wait(1, WaitsFor.SIGNAL, "go"), After(1000))


@pytest.fixture
async def one(store: PostgresStore) -> AsyncIterator[Consumer]:
    """A worker that has joined, and a job `a` that is ready."""
    consumer = store.consumer("w1")
    await consumer.open()
    await push(store, "a")
    yield consumer
    await consumer.aclose()


async def state_of(store: PostgresStore) -> State | None:
    row = await store.driver.read(Find("a"))
    return row.state if row else None


async def test_a_job_that_is_suspended_just_as_its_signal_comes_takes_it(
    store: PostgresStore, one: Consumer, other: Other
) -> None:
    lease = await claim_one(one)
    other.begin(GO)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(settle, one, lease, WAITS)
        await eventually(other.is_waited_for)
        other.transaction.commit()

    assert await state_of(store) is State.READY
    assert (await saved(store)).saved["go"].how is How.SIGNAL


async def test_two_tries_of_a_signal_at_once_are_one(store: PostgresStore, one: Consumer, other: Other) -> None:
    await settle(one, await claim_one(one), WAITS)
    other.begin(GO)

    again = other.change(GO)
    await eventually(other.is_waited_for)
    other.transaction.commit()

    assert again.result(10) is Reply.OK
    assert await settle(one, await claim_one(one), Suspend(Wait(2, WaitsFor.SIGNAL, "go#2"))) is Reply.OK
    assert await state_of(store) is State.SUSPENDED


async def test_a_signal_that_comes_just_as_its_time_is_over_is_taken(
    store: PostgresStore, one: Consumer, other: Other
) -> None:
    store.clock.advance(0)
    await settle(one, await claim_one(one), WAITS)
    other.begin(GO)
    store.clock.advance(2)

    assert (await one.exchange([], 5)).leases == []
    other.transaction.commit()

    assert (await claim_one(one)).job_id == "a"
    assert (await saved(store)).saved["go"].how is How.SIGNAL


async def test_a_job_that_is_held_just_as_its_time_is_over_does_not_start(
    store: PostgresStore, one: Consumer, other: Other
) -> None:
    store.clock.advance(0)
    await settle(one, await claim_one(one), WAITS)
    other.begin(Hold("a"))
    store.clock.advance(2)

    assert (await one.exchange([], 5)).leases == []
    other.transaction.commit()

    assert (await one.exchange([], 5)).leases == []
    assert await state_of(store) is State.READY


async def test_a_signal_to_a_job_that_is_just_cancelled_is_not_kept(
    store: PostgresStore, one: Consumer, other: Other
) -> None:
    other.begin(Cancel("a"))

    sent = other.change(GO)
    await eventually(other.is_waited_for)
    other.transaction.commit()

    assert sent.result(10) is Reply.NOT_FOUND


async def test_a_job_that_saves_nothing_reads_and_writes_no_steps(
    store: PostgresStore, one: Consumer, other: Other
) -> None:
    floors = working.Floors()
    used = """select coalesce(sum(seq_scan + idx_scan + n_tup_ins), 0) from pg_stat_xact_all_tables
        where relid = 'redisjobs.steps'::regclass and %s <> ''"""

    def exchange(*settlements: Settlement) -> None:
        batch = list(zip(leases, settlements, strict=True))
        call = working.exchange(floors, "w1", None, batch, 2, 3, idle=False, now=0)
        leases[:] = other.run(call).leases

    leases = list[Lease]()
    other.push(job("b"), job("later", due=After(60_000)))
    exchange()
    exchange(RetryLater(After(0), {"attempt": "2"}), Ack())
    exchange(FAILED)

    assert other.ask(used) == [(0,)]
    other.push(job("c"))
    exchange()
    exchange(SaveStep("charge", 1, b"1"))
    assert other.ask(used)[0][0] > 0
    other.transaction.rollback()


async def test_steps_are_gone_with_a_transaction_that_was_rolled_back(
    store: PostgresStore, one: Consumer, other: Other
) -> None:
    lease = await claim_one(one)
    call = working.exchange(
        working.Floors(), "w1", Turn(1, 1), [(lease, SaveStep("charge", 1, b"1"))], None, 3, idle=False, now=0
    )
    assert other.run(call).replies == [Reply.OK]
    other.transaction.rollback()

    assert await saved(store) == Steps()
    assert (await one.exchange([(lease, SaveStep("charge", 1, b"2"))], None, turn=Turn(1, 1))).replies == [
        Reply.OK
    ]
    assert (await saved(store)).saved["charge"].value == b"2"
