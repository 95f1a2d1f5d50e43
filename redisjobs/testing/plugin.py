"""The pytest plugin: fixtures for the tests of an application that uses redisjobs.

No fixture runs by itself, and nothing but this module is imported before a test asks for one.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from redisjobs.client.registry import Registry
    from redisjobs.local.server import Server
    from redisjobs.testing.jobs import AsyncJobs, Jobs
    from redisjobs.testing.moves import JobsServer


# A fixture to override, and not a list of all queues made so far: that would miss a queue which is imported later,
# and the test would then write to the real server.
@pytest.fixture
def redisjobs_queues() -> "Iterable[Registry]":
    """The queues of your application: override this fixture in conftest.py to return them."""
    return ()


@pytest.fixture
def jobs(redisjobs_queues: "Iterable[Registry]") -> "Iterator[Jobs]":
    """Your queues in memory, on a clock that stands still, for sync tests."""
    from redisjobs.testing.jobs import Jobs

    with Jobs(*redisjobs_queues) as jobs:
        yield jobs


@pytest.fixture
def ajobs(redisjobs_queues: "Iterable[Registry]") -> "Iterator[AsyncJobs]":
    """Your queues in memory, on a clock that stands still, for async tests."""
    from redisjobs.testing.jobs import AsyncJobs

    with AsyncJobs(*redisjobs_queues) as jobs:
        yield jobs


@pytest.fixture(scope="session")
def redisjobs_server() -> "Iterator[Server]":
    """A Redis or Valkey server on a free port, for the whole run."""
    from redisjobs.local import server

    with server.start() as running:
        yield running


@pytest.fixture
def jobs_server(redisjobs_server: "Server", redisjobs_queues: "Iterable[Registry]") -> "Iterator[JobsServer]":
    """Your queues on a real server, each under a name of its own."""
    from redisjobs.testing.moves import JobsServer

    jobs_server = JobsServer(redisjobs_server.url)
    jobs_server.use(*redisjobs_queues)
    yield jobs_server
    jobs_server.close()
