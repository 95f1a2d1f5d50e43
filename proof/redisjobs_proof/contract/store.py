"""The interface that a driver's author implements for the contract: one queue, and access to its store."""

from collections.abc import Collection
from typing import Any, Protocol

from redisjobs.model.changes import Change
from redisjobs.model.driver import Driver
from redisjobs.model.queries import Query
from redisjobs.testing.clock import Clock


class DriverStore(Protocol):
    """A new queue of the tested driver; the fixture `driver_store` returns one for each test.

    The fixture may check the store at the end of a test.

    Attributes:
        driver: The driver of the queue. It reads the time from `clock`.
        clock: The clock for due times, expiry, leases, and the memory of recent pushes.
        lacks: The classes of queries and changes that the driver does not know. Tests that need one are skipped.
            `Find`, `Scan`, `Count`, `Cancel`, `Requeue` and `Delete` are required.
    """

    driver: Driver
    clock: Clock
    lacks: Collection[type[Query[Any] | Change[Any]]]

    def another(self) -> Driver:
        """Return a second driver of the same queue, like that of another process. The test closes it."""

    def age(self, seconds: float) -> None:
        """Make each heartbeat and each delivery this much older, and fence no worker.

        Afterwards the leases of all workers may be over.
        """

    def contents(self) -> object:
        """Return everything stored for the queue. Two results are equal if nothing was written between them."""
