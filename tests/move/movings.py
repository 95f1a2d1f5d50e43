"""Both ends of a move: two kinds of stores each time, with a queue of the same name."""

from collections.abc import AsyncIterator
from contextlib import ExitStack, contextmanager

import anyio
import pytest
from databases import POSTGRES_ENGINES
from store import MemoryStore, Store

from conftest import postgres_store_of, redis_store_of
from redisjobs.control.move.mover import Moved, Mover
from redisjobs.model.transitions import Ack, Reply
from redisjobs_proof.contract.acts import claim, settle

_ENDS = [("memory", "redis"), ("redis", "memory"), ("redis", "postgres"), ("postgres", "redis")]
Ends = tuple[Store, Store]


@pytest.fixture(params=_ENDS, ids=" to ".join)
async def ends(request: pytest.FixtureRequest, queue_name: str) -> AsyncIterator[Ends]:
    """The stores of a source and of a target. After the test, what is wrong in one of them fails it."""
    with ExitStack() as stack:
        source, target = (_store(kind, request, queue_name, stack) for kind in request.param)
        yield source, target
        await source.driver.aclose()
        await target.driver.aclose()


def _store(kind: str, request: pytest.FixtureRequest, queue_name: str, stack: ExitStack) -> Store:
    if kind == "memory":
        return MemoryStore(queue_name)
    if kind == "redis":
        return stack.enter_context(
            contextmanager(redis_store_of)(request.getfixturevalue("redis_url"), queue_name)
        )
    if not POSTGRES_ENGINES:
        pytest.skip("there is no PostgreSQL")
    url = request.getfixturevalue("postgreses").get(POSTGRES_ENGINES[0]).shared()
    return stack.enter_context(contextmanager(postgres_store_of)(url, queue_name))


@pytest.fixture
def said() -> list[str]:
    return []


async def move(source: Store, target: Store, said: list[str] | None = None) -> Moved:
    """Move a queue to the end."""
    with anyio.fail_after(30):
        return await Mover(source.driver, target.driver, (said if said is not None else []).append).run()


async def finish(store: Store, worker_id: str = "w") -> list[str]:
    """Run all jobs that may start; their ids, in the order of their starts."""
    consumer = store.driver.consumer(worker_id, lease=15, max_deliveries=3)
    await consumer.open()
    ran = []
    for lease in await claim(consumer, 500):
        ran.append(lease.job_id)
        assert await settle(consumer, lease, Ack()) is Reply.OK
    await consumer.release(refund=True, watch=False)
    await consumer.aclose()
    return ran
