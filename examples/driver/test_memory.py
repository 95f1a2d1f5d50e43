# test_memory.py: run the driver contract on the memory driver
import copy
from collections.abc import Collection
from typing import Any

import pytest

from redisjobs.drivers.memory.driver import MemoryDriver
from redisjobs.drivers.memory.state import Memory
from redisjobs.model.driver import Driver
from redisjobs.testing.clock import Clock
from redisjobs_proof.contract import *  # noqa: F403
from redisjobs_proof.contract.store import DriverStore


class MemoryStore:
    def __init__(self) -> None:
        self.clock = Clock()  # the driver's clock, which tests set
        self.memory = Memory(self.clock)
        self.driver: Driver = MemoryDriver(self.memory)
        self.lacks: Collection[type[Any]] = ()  # queries and changes that this driver does not know

    def another(self) -> Driver:  # like a driver in another process
        return MemoryDriver(self.memory)

    def age(self, seconds: float) -> None:  # make all beats and deliveries this much older
        for worker in self.memory.workers.values():
            worker.until -= seconds
        for job in self.memory.jobs.values():
            job.since -= seconds

    def contents(self) -> object:  # a copy of all that is stored; it stays equal if nothing is written
        unstored = ("lock", "channels", "now_ms")
        return copy.deepcopy({key: value for key, value in vars(self.memory).items() if key not in unstored})


@pytest.fixture
def driver_store() -> DriverStore:
    return MemoryStore()
