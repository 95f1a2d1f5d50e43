"""The queue of tests about producers, not about event loops: `from memory_and_redis import store as store`."""

import pytest
from store import MemoryStore, Store


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, queue_name: str) -> Store:
    """One queue's store, in memory and on the server that a user would get."""
    if request.param == "memory":
        return MemoryStore(queue_name)
    found: Store = request.getfixturevalue("redis_store")
    return found
