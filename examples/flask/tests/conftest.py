from collections.abc import Iterable

import pytest

from app.jobs import queue
from redisjobs.sync import JobQueue


@pytest.fixture
def redisjobs_queues() -> Iterable[JobQueue]:
    """The queues that the fixture `jobs` moves into memory."""
    return [queue]
