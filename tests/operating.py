"""Queues without handlers, on either face: what operators look at jobs with."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import redis
from store import Store

from redisjobs import sync
from redisjobs.queue import JobQueue


@pytest.fixture
def there(redis_url: str, queue_name: str) -> Iterator[sync.JobQueue]:
    """The module's queue, seen from outside; its keys go at the end."""
    with sync.JobQueue(redis_url, name=queue_name) as queue:
        yield queue
    with redis.Redis.from_url(redis_url) as admin:
        for key in admin.scan_iter(match=f"redisjobs:{{{queue_name}*"):
            admin.delete(key)


@pytest.fixture(params=["async", "sync"])
async def face(request: pytest.FixtureRequest, store: Store) -> AsyncIterator[Any]:
    where: Any = getattr(store, "url", store.driver)
    make: Callable[..., Any] = JobQueue if request.param == "async" else sync.JobQueue
    queue = make(where, store.queue_name)
    yield queue
    if where is not store.driver:
        await (queue.aclose() if isinstance(queue, JobQueue) else queue._disconnect())


async def done(answer: Any) -> Any:
    """What a call of either face answers."""
    return await answer if hasattr(answer, "__await__") else answer
