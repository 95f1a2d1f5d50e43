"""A job's end is taken only from the worker that has it pending, whatever is done to the group with redis-cli."""

import pytest
from store import RedisStore

from redisjobs.model.job import Priority
from redisjobs.model.transitions import Ack, NewJob, Reply, Turn

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
