"""Queues of either face, async and sync; without handlers, they are what operators look at jobs with."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis
from store import Store

from redisjobs import sync
from redisjobs.queue import JobQueue

FACES: dict[str, Any] = {"async": JobQueue, "sync": sync.JobQueue}


@pytest.fixture
def there(redis_url: str, queue_name: str) -> Iterator[sync.JobQueue]:
    """The module's queue, seen from outside; its keys go at the end."""
    with sync.JobQueue(redis_url, name=queue_name) as queue:
        yield queue
    with redis.Redis.from_url(redis_url) as admin:
        for key in admin.scan_iter(match=f"redisjobs:{{{queue_name}*"):
            admin.delete(key)


@pytest.fixture(params=FACES)
async def face(request: pytest.FixtureRequest, store: Store) -> AsyncIterator[Any]:
    where: Any = getattr(store, "url", store.driver)
    queue = FACES[request.param](where, store.queue_name)
    yield queue
    if where is not store.driver:
        await (queue.aclose() if isinstance(queue, JobQueue) else queue._disconnect())


async def done(answer: Any) -> Any:
    """What a call of either face answers."""
    return await answer if hasattr(answer, "__await__") else answer


async def close(queue: Any) -> None:
    """Close a queue of either face."""
    await done(queue.aclose() if isinstance(queue, JobQueue) else queue.close())


@pytest.fixture(params=FACES)
def face_type(request: pytest.FixtureRequest) -> Any:
    """The queue's class of each face, for tests that open queues themselves."""
    return FACES[request.param]
