"""A job's end is taken only from the worker that has it pending, whatever is done to the group with redis-cli."""

import pytest
from store import RedisStore

from redisjobs.model.job import Priority
from redisjobs.model.transitions import Ack, NewJob, Reply, SaveStep, Turn

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("how", ["XCLAIM", "XGROUP"])
async def test_an_outcome_is_refused_once_the_job_was_given_to_another_with_redis_cli(
    redis_store: RedisStore, how: str
) -> None:
    store, stream = redis_store, redis_store.stream(Priority.NORMAL)
    await store.driver.push([NewJob("a", ["name", "x", "parameters", "{}"])], repeated=False)
    first, second = store.consumer("w1"), store.consumer("w2")
    (lease,) = (await first.exchange([], 1)).leases

    if how == "XCLAIM":
        store.admin.xclaim(stream, "workers", "w2", 0, [lease.token[1]], justid=True)
    else:
        store.admin.xgroup_destroy(stream, "workers")
        store.admin.xgroup_create(stream, "workers", "0")
        assert (await second.exchange([], 1)).leases

    assert (await first.exchange([(lease, Ack())], None, turn=Turn(1, 1))).replies == [Reply.LEASE_LOST]
    assert "a" in store.located()
    for closed in (first, second, store.driver):
        await closed.aclose()


async def test_a_job_knows_its_steps_though_its_group_was_destroyed(redis_store: RedisStore) -> None:
    store = redis_store
    jobs = [NewJob(name, ["name", "x", "parameters", "{}"]) for name in "abc"]
    await store.driver.push(jobs, repeated=False)
    worker = store.consumer("w1")
    _, second = (await worker.exchange([], 2)).leases
    await worker.exchange([(second, SaveStep("charge", 1, b"1"))], None, turn=Turn(1, 1))
    store.admin.xgroup_destroy(store.stream(Priority.NORMAL), "workers")

    leases = (await worker.exchange([], 3)).leases
    while len(leases) < 3:
        leases = [*leases, *(await worker.exchange([], 3)).leases]

    told = sorted((lease.job_id, lease.deliveries, b"steps" in lease.fields) for lease in leases)
    assert told == [("a", 1, False), ("b", 1, True), ("c", 1, False)]
    for closed in (worker, store.driver):
        await closed.aclose()
