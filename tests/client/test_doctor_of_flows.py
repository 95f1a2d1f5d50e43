"""`queue.control.doctor` finds what was broken of jobs that wait, names it, and repairs it."""

from collections.abc import Callable, Sequence

import pytest
from store import RedisStore
from test_doctor import FACTS, faults_of, jobs_in, push, redis_queue, run_all, worker

from redisjobs import JobQueue
from redisjobs.model.driver import Beat, Consumer
from redisjobs.model.transitions import After, Group, NewJob, SaveStep, Settlement, Suspend, Wait, WaitsFor
from redisjobs_proof.contract.acts import claim, settle

pytestmark = pytest.mark.anyio
__all__ = ["redis_queue", "worker"]

CHILD = NewJob("child", ["name", "Work", "parameters", "{}", "child_of", "g 0"])
WAITS: dict[str, Settlement] = {
    "sleeps": Suspend(Wait(2, WaitsFor.TIME, "sleep"), After(60_000)),
    "waits": Suspend(Wait(2, WaitsFor.SIGNAL, "go"), After(60_000)),
    "parent": Suspend(Wait(2, WaitsFor.CHILDREN, "render"), group=Group("g", "render", 1), pushes=[CHILD]),
}

Break = Callable[[RedisStore], object]


async def fill(store: RedisStore, worker: Consumer) -> None:
    """A job that sleeps, one that waits for a signal, and one that waits for its child."""
    worker.sync.beat(Beat(worker, list, FACTS))
    await push(store, *WAITS)
    for lease in await claim(worker, len(WAITS)):
        await settle(worker, lease, SaveStep("charge", 1, b"1"))
        await settle(worker, lease, WAITS[lease.job_id])


def lose_the_times(store: RedisStore) -> None:
    store.admin.delete(f"{store.prefix}suspended")


def lose_a_locator(store: RedisStore) -> None:
    store.admin.hdel(f"{store.prefix}jobs", "waits")


def lose_the_fields(store: RedisStore) -> None:
    store.admin.hdel(f"{store.prefix}delayed", "sleeps")
    store.admin.delete(f"{store.prefix}steps:sleeps")


def lose_the_children(store: RedisStore) -> None:
    store.admin.delete(f"{store.prefix}children:g")


def lose_the_steps_of_a_parent(store: RedisStore) -> None:
    store.admin.delete(f"{store.prefix}steps:parent")


def lose_the_end_of_a_child(store: RedisStore) -> None:
    store.admin.hset(f"{store.prefix}children:g", mapping={"0": "cancelled", "left": "0"})


def leave_steps(store: RedisStore) -> None:
    store.admin.hset(f"{store.prefix}steps:gone", "charge", "1 1 done 1")


def leave_children(store: RedisStore) -> None:
    store.admin.hset(f"{store.prefix}children:old", mapping={"parent": "gone", "key": "render", "left": "1"})


def leave_signals(store: RedisStore) -> None:
    store.admin.hset(f"{store.prefix}signals", "gone", "{}")


REPAIRED: Sequence[tuple[Break, str, str]] = [
    (lose_the_times, "no due time", "parent"),
    (lose_a_locator, "unlocated", "waits"),
    (lose_the_fields, "due", "sleeps"),
    (lose_the_children, "waits", "parent"),
    (lose_the_steps_of_a_parent, "waits", "parent"),
    (lose_the_end_of_a_child, "waits", "parent"),
    (leave_steps, "steps", "gone"),
    (leave_children, "children", "old"),
    (leave_signals, "signals", "gone"),
]


@pytest.mark.parametrize(("break_it", "check", "what"), REPAIRED, ids=[each[0].__name__ for each in REPAIRED])
async def test_what_is_broken_of_jobs_that_wait_is_repaired_and_each_of_them_goes_on(
    redis_store: RedisStore, redis_queue: JobQueue, worker: Consumer, break_it: Break, check: str, what: str
) -> None:
    await fill(redis_store, worker)
    assert await faults_of(redis_queue) == []
    break_it(redis_store)
    keys = redis_store.contents()

    found = await faults_of(redis_queue)

    assert redis_store.contents() == keys  # it only looked
    (fault,) = [each for each in found if each.check == check]
    assert any(what in example for example in fault.examples)
    assert fault.advice.startswith(f"`redisjobs doctor --repair --queue {redis_store.queue_name}` ")

    there = jobs_in(redis_store)
    assert [each.check for each in await faults_of(redis_queue, repair=True) if not each.repaired] == []
    assert await faults_of(redis_queue) == []
    assert jobs_in(redis_store) == there
    await run_all(redis_store, worker)
