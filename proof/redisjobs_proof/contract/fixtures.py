"""The fixtures of the contract's tests. The author of the driver adds `driver_store`."""

import sys
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from redisjobs.model.driver import Consumer, Driver
from redisjobs_proof.contract.acts import Open
from redisjobs_proof.contract.store import DriverStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The event loop. To use another one, define a fixture of this name below the import."""
    return "asyncio"


@pytest.fixture
def store(driver_store: DriverStore, request: pytest.FixtureRequest) -> DriverStore:
    """The author's store. It skips the test if the driver lacks a query or change that the test needs."""
    needed = [
        *getattr(request.function, "needs", ()),
        *getattr(sys.modules[request.function.__module__], "_NEEDS", ()),
    ]
    missing = {value.__name__ for value in needed if value in driver_store.lacks}
    if missing:
        pytest.skip(f"this driver has no {', '.join(sorted(missing))}")
    return driver_store


@pytest.fixture
async def driver(store: DriverStore) -> AsyncIterator[Driver]:
    """The driver; it is closed at the end."""
    async with aclosing(store.driver) as open_driver:
        yield open_driver


@pytest.fixture
async def worker(store: DriverStore) -> AsyncIterator[Open]:
    """A function that opens the consumer of a worker id, always the same one; all are closed at the end."""
    consumers: dict[str, Consumer] = {}

    async def open_one(worker_id: str = "w1", *, lease: float = 15, max_deliveries: int = 3) -> Consumer:
        if worker_id not in consumers:
            made = store.driver.consumer(worker_id, lease=lease, max_deliveries=max_deliveries)
            consumers[worker_id] = made
        await consumers[worker_id].open()
        return consumers[worker_id]

    yield open_one
    for consumer in consumers.values():
        await consumer.aclose()
    await store.driver.aclose()


@pytest.fixture
async def one(worker: Open) -> Consumer:
    """A worker that has joined."""
    return await worker("w1")


@pytest.fixture
async def two(worker: Open) -> Consumer:
    """Another worker that has joined."""
    return await worker("w2")
