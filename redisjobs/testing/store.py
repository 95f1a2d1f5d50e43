"""What the contract needs of a driver's author: one queue, and a hand on its store."""

from collections.abc import Collection
from typing import Any, Protocol

from redisjobs.model.changes import Change
from redisjobs.model.driver import Driver
from redisjobs.model.queries import Query
from redisjobs.testing.clock import Clock


class DriverStore(Protocol):
    """One new queue, by the driver that is tested; what the fixture `driver_store` gives.

    Each test has one of its own. What has to hold in the store at the end of a test is for the fixture to look at.

    Attributes:
        driver: The driver of the queue; it goes by the clock below.
        clock: What time it is for that driver: due times, expiry, leases and what is remembered for a minute.
        lacks: Which queries and changes the driver does not know, by class. The tests that need one of them are
            skipped; `Find`, `Scan`, `Count`, `Cancel`, `Requeue` and `Delete` are needed by all.
    """

    driver: Driver
    clock: Clock
    lacks: Collection[type[Query[Any] | Change[Any]]]

    def another(self) -> Driver:
        """One more driver of the same queue, as another process has; the test closes it."""

    def age(self, seconds: float) -> None:
        """Let each beat of a worker, and each delivery of a job, be so much longer ago.

        After it, the leases of all workers may be over, and none was fenced yet.
        """

    def contents(self) -> object:
        """All that is stored for the queue. It is equal at two times if nothing was written between them."""
