"""Calls in Postgres lock what they change in one order, so that no two of them wait for each other."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import anyio
import pytest
from postgres_store import Other, PostgresStore, worker
from postgres_store import store as store
from store import eventually

from redisjobs.model.changes import Cancel, ChangeMany, Delete, DeleteAll, RequeueAll
from redisjobs.model.driver import Consumer
from redisjobs.model.transitions import Ack, Lease, Settlement
from redisjobs_proof.contract.acts import FAILED, LATER, beat, claim, push, settle

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

Act = Callable[[PostgresStore, Consumer, Consumer, Sequence[Lease]], Coroutine[Any, Any, None]]


def settling(*settlements: Settlement) -> Act:
    """Settle both jobs, the second one first."""

    async def act(store: PostgresStore, one: Consumer, two: Consumer, leases: Sequence[Lease]) -> None:
        await one.exchange(list(zip(reversed(leases), settlements, strict=True)), None)

    return act


async def cancel(store: PostgresStore, one: Consumer, two: Consumer, leases: Sequence[Lease]) -> None:
    await store.driver.change(ChangeMany([Cancel(lease.job_id) for lease in reversed(leases)]))


async def release(store: PostgresStore, one: Consumer, two: Consumer, leases: Sequence[Lease]) -> None:
    await one.release(refund=True, watch=False)


RUNNING: dict[str, Act] = {
    "jobs that are done": settling(Ack(), Ack()),
    "a failed one and one that is done": settling(FAILED, Ack()),
    "a job that is retried, and one that has failed": settling(LATER, FAILED),
    "a cancel of several": cancel,
    "a worker that leaves": release,
}


async def delete(store: PostgresStore, one: Consumer, two: Consumer, leases: Sequence[Lease]) -> None:
    await store.driver.change(ChangeMany([Delete(lease.job_id) for lease in reversed(leases)]))


async def delete_all(store: PostgresStore, one: Consumer, two: Consumer, leases: Sequence[Lease]) -> None:
    begins = await store.driver.change(DeleteAll())
    await store.driver.change(DeleteAll(after=begins.after))


async def requeue_all(store: PostgresStore, one: Consumer, two: Consumer, leases: Sequence[Lease]) -> None:
    begins = await store.driver.change(RequeueAll())
    await store.driver.change(RequeueAll(after=begins.after))


DEAD: dict[str, Act] = {
    "a deletion of several": delete,
    "a deletion of all": delete_all,
    "a requeue of all": requeue_all,
}


@pytest.mark.parametrize("call", RUNNING | DEAD)
async def test_a_call_that_waits_for_a_job_has_locked_no_later_one_and_no_beat(
    store: PostgresStore, other: Other, call: str
) -> None:
    act = (RUNNING | DEAD)[call]
    one, two = await worker(store, "w1"), await worker(store, "w2")
    await push(store, "z", "y")
    leases = await claim(one)
    assert [lease.job_id for lease in leases] == ["z", "y"]
    if call in DEAD:
        for lease in leases:
            await settle(one, lease, FAILED)
    other.lock("z")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(act, store, one, two, leases)
        await eventually(other.is_waited_for)
        assert len(other.ask("select id from redisjobs.jobs where queue = %s for update nowait")) == 2
        assert len(other.ask("select id from redisjobs.beats where queue = %s for update nowait")) == 2
        other.transaction.rollback()
    await one.aclose()
    await two.aclose()


async def test_a_cancel_of_several_locks_the_beats_in_order(store: PostgresStore, other: Other) -> None:
    first, second = await worker(store, "w1"), await worker(store, "w2")
    await push(store, "z", "y")
    await claim(second, 1)
    await claim(first, 1)
    other.ask("select id from redisjobs.beats where queue = %s and id = 'w1' for update")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.driver.change, ChangeMany([Cancel("z"), Cancel("y")]))
        await eventually(other.is_waited_for)
        other.ask("select id from redisjobs.beats where queue = %s and id = 'w2' for update nowait")
        other.transaction.rollback()
    assert (beat(first), beat(second)) == ([], [])  # by counters; the jobs' own rows say which
    await first.aclose()
    await second.aclose()
