"""The kit and jobs that run children: parent and children go on in one drain, and all of them are counted."""

from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from redisjobs import JobContext, JobQueue, no_retry
from redisjobs.errors import JobFailed
from redisjobs.testing import AsyncJobs, Jobs

NOWHERE = "redis://127.0.0.1:1/0"


class App:
    """An application whose books print pages as children. A page whose number is negative fails."""

    def __init__(self) -> None:
        self.queue = JobQueue(NOWHERE, name="press")
        self.printed: list[int] = []
        self.bound: list[Any] = []
        self.delay = 0.0
        self.page = self.queue.job(name="page", retry=no_retry())(self._page)
        self.book = self.queue.job(name="book", retry=no_retry())(self._book)

    async def _page(self, number: int) -> str:
        if number < 0:
            raise ValueError(f"no page {number}")
        self.printed.append(number)
        return f"page {number}"

    async def _book(self, numbers: list[int], context: JobContext) -> None:
        pages = [self.page.options(delay=self.delay).prepare(number) for number in numbers]
        self.bound = await context.run_all(pages)


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def jobs(app: App) -> Iterator[Jobs]:
    with Jobs(app.queue) as jobs:
        yield jobs


def push(app: App, *numbers: int) -> Any:
    return anyio.run(app.book.push, [*numbers])


def test_a_parent_and_its_children_run_in_one_drain(app: App, jobs: Jobs) -> None:
    push(app, 1, 2)

    drained = jobs.drain()

    assert repr(drained) == "Drained(completed=3, suspended=1)"
    assert [(outcome.name, outcome.kind) for outcome in drained.outcomes] == [
        ("book", "suspended"),
        ("page", "completed"),
        ("page", "completed"),
        ("book", "completed"),
    ]
    assert drained.outcomes[0].message == "children of page"
    assert app.bound == ["page 1", "page 2"]


def test_children_are_pushed_jobs(app: App, jobs: Jobs) -> None:
    push(app, 1, 2)
    jobs.refute_pushed("page")

    jobs.drain()

    jobs.assert_pushed("page", number=2, times=1)
    assert len(jobs.pushed("page")) == 2


def test_a_parent_whose_children_are_delayed_waits_for_travel(app: App, jobs: Jobs) -> None:
    app.delay = 60
    push(app, 1)

    assert jobs.drain().suspended == 1
    assert jobs.drain().outcomes == []
    jobs.travel(minutes=1)

    assert jobs.drain().completed == 2
    assert app.bound == ["page 1"]


def test_a_drain_with_delayed_jobs_goes_on_until_the_parent_has_ended(app: App, jobs: Jobs) -> None:
    app.delay = 60
    push(app, 1, 2)

    assert jobs.drain(delayed=True).completed == 3


def test_a_child_that_fails_fails_its_parent_and_the_drain_raises_what_the_child_did(app: App, jobs: Jobs) -> None:
    push(app, 1, -1)

    with pytest.raises(ValueError, match="no page -1") as raised:
        jobs.drain()

    assert any("JobFailed" in note for note in raised.value.__notes__)
    assert app.bound == []


def test_a_child_whose_worker_dies_runs_again_and_its_parent_goes_on(app: App, jobs: Jobs) -> None:
    push(app, 1, 2)
    jobs.crash("page")

    first = jobs.drain()
    jobs.travel(seconds=15)
    second = jobs.drain()

    assert (first.crashed, first.completed, second.completed) == (1, 1, 2)
    assert app.bound == ["page 1", "page 2"]


def test_a_parent_that_runs_by_itself_is_suspended_and_its_children_stay(app: App, jobs: Jobs) -> None:
    outcome = jobs.run({"numbers": [1, 2]}, app.book.name)

    assert (outcome.kind, outcome.message) == ("suspended", "children of page")
    assert len(jobs.pushed("page")) == 2
    assert jobs.drain().completed == 2
    assert app.bound == []


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_in_async_tests_too(app: App, backend: str) -> None:
    async def test() -> None:
        with AsyncJobs(app.queue) as jobs:
            await app.book.push([1, -2])
            drained = await jobs.drain(raise_errors=False)
            assert [outcome.kind for outcome in drained.outcomes] == ["suspended", "completed", "dead", "dead"]
            assert isinstance(drained.outcomes[-1].error, JobFailed)

    anyio.run(test, backend=backend)
