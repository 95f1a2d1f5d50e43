"""What the contract needs of a driver's author: one queue, and access to its store."""

from collections.abc import Collection
from typing import Any, Protocol

from redisjobs.model.changes import Change
from redisjobs.model.driver import Driver
from redisjobs.model.queries import Query
from redisjobs.testing.clock import Clock


class DriverStore(Protocol):
    """A new queue, by the driver that is tested; the fixture `driver_store` returns it.

    Each test has its own. The fixture may check the store at the end of a test.

    Attributes:
        driver: The driver of the queue; it goes by the clock below.
        clock: The time for that driver: due times, expiry, leases and what is remembered for a minute.
        lacks: The classes of queries and changes that the driver does not know. Tests that need one are skipped.
            `Find`, `Scan`, `Count`, `Cancel`, `Requeue` and `Delete` are required.
    """

    driver: Driver
    clock: Clock
    lacks: Collection[type[Query[Any] | Change[Any]]]

    def another(self) -> Driver:
        """Return another driver of the same queue, as another process has; the test closes it."""

    def age(self, seconds: float) -> None:
        """Make each heartbeat and each delivery this much older.

        After it, the leases of all workers may be over, and no worker was fenced yet.
        """

    def contents(self) -> object:
        """Return all that is stored for the queue: equal at two times if nothing was written between them."""
