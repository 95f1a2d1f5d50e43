from collections.abc import Iterable

import pytest

from app.jobs import queue
from redisjobs import JobQueue


@pytest.fixture
def redisjobs_queues() -> Iterable[JobQueue]:
    """The queues that the fixture `ajobs` moves into memory."""
    return [queue]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
