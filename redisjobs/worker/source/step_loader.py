"""Reads what jobs have saved, for runs that go on where others ended, and runs the calls of running jobs."""

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import anyio

from redisjobs.base.eventloop import Wakeup
from redisjobs.client.backoff import retrying
from redisjobs.errors import DriverError
from redisjobs.model.driver import Driver
from redisjobs.model.steps import GetSteps
from redisjobs.model.transitions import MOST_JOBS
from redisjobs.worker.running.steps import Loaded


class StepLoader:
    """Reads for the runs of a source, in tasks of its own.

    Runs that ask for their steps while a read is under way share the next one.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._wanted: list[tuple[str, Loaded]] = []  # job ids, and who waits
        self._calls: list[Callable[[], Coroutine[Any, Any, None]]] = []  # to start
        self._wakeup = Wakeup()

    def load(self, job_id: str, loaded: Loaded) -> None:
        """Read what a job has saved, and call `loaded` with it, or with the error."""
        self._wanted.append((job_id, loaded))
        self._wakeup.wake()

    def start(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a call in a task of its own, which has nothing of the caller's context."""
        self._calls.append(call)
        self._wakeup.wake()

    async def run(self) -> None:
        """Read, again and again, until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                self._wakeup.begin()
                while self._calls:
                    tasks.start_soon(self._calls.pop(0))
                while self._wanted:
                    some, self._wanted = self._wanted[:MOST_JOBS], self._wanted[MOST_JOBS:]
                    await self._read(some)
                await self._wakeup.wait()

    async def _read(self, some: Sequence[tuple[str, Loaded]]) -> None:
        try:
            found = await retrying(partial(self._driver.read, GetSteps([job_id for job_id, _ in some])))
        except DriverError as error:
            for _, loaded in some:
                loaded(error)
            return
        for each, steps in zip(some, found, strict=True):
            if steps is None:
                self._wanted.append(each)
            else:
                each[1](steps)
