"""Queues with handlers that save steps, wait and run children, for the tests of these."""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from results import drain, result
from step_handlers import AT_ONCE, Bench
from store import Store

from redisjobs import JobInfo, JobName, JobQueue, no_retry
from redisjobs.model.steps import GetSteps, Steps
from redisjobs.model.transitions import PreparedJob

Parent = JobName("Parent", dict[str, Any])
HOUR = 3600.0


@dataclass
class Page:
    number: int
    at: datetime


@dataclass
class Family:
    """A queue with handlers of children. A test adds the parent's."""

    queue: JobQueue
    ran: Counter[Any] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.render = self.queue.job(name="render", retry=no_retry())(self._render)

    async def _render(self, number: int) -> Page:
        self.ran[number] += 1
        if number < 0:
            raise LookupError(f"no page {number}")
        return Page(number, datetime(2026, 1, 1, tzinfo=UTC))

    def pages(self, *numbers: int) -> list[PreparedJob[Page]]:
        return [self.render.prepare(number) for number in numbers]

    async def parent(self, handler: Any, **options: Any) -> str:
        """Push a parent with this handler, and run a worker; its id."""
        self.queue.register(Parent, **{"keep_result": 600, "retry": AT_ONCE, **options})(handler)
        handle = await self.queue.push({}, Parent)
        await drain(self.queue)
        return handle.id

    async def of(self, handler: Any, **options: Any) -> Any:
        """Run a parent with this handler; what it returned."""
        return await result(self.queue.result(await self.parent(handler, **options)))

    async def found(self, job: str) -> JobInfo:
        info = await self.queue.get(job)
        assert info is not None
        return info


async def saved(queue: JobQueue, job_id: str) -> Steps:
    """What a job has saved."""
    (steps,) = await queue.driver.read(GetSteps([job_id]))
    assert steps is not None
    return steps


@pytest.fixture
async def family(loop_store: Store) -> AsyncIterator[Family]:
    async with JobQueue(loop_store.driver, loop_store.queue_name) as queue:
        yield Family(queue)


@pytest.fixture(params=["async", "thread", pytest.param("process", marks=pytest.mark.slow)])
def kind(request: pytest.FixtureRequest) -> str:
    setting = request.getfixturevalue("setting") if "setting" in request.fixturenames else ""
    if request.param == "process" and setting.startswith("memory"):
        pytest.skip("starting processes takes long: on one driver it is enough")
    return str(request.param)


@pytest.fixture
async def bench(loop_store: Store, kind: str, tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(loop_store, kind, tmp_path)
    async with bench.queue:
        yield bench
