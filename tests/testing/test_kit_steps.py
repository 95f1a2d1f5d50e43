"""The kit and jobs that wait: a drain counts them, `travel` wakes sleepers, `signal` sends signals."""

from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from redisjobs import JobContext, JobQueue, sync
from redisjobs.errors import EncodeError, Unavailable
from redisjobs.model.transitions import Reply
from redisjobs.testing import AsyncJobs, Jobs

NOWHERE = "redis://127.0.0.1:1/0"


class App:
    """An application that charges, rests for a day, waits an hour for a person, and mails."""

    def __init__(self) -> None:
        self.queue = JobQueue(NOWHERE, name="shop")
        self.web = sync.JobQueue(NOWHERE, name="shop")
        self.charged = 0
        self.mailed: list[Any] = []
        self.queue.job(self.order)

    def charge(self) -> int:
        self.charged += 1
        return self.charged

    async def order(self, number: int, context: JobContext) -> None:
        await context.step("charge", self.charge)
        await context.sleep(hours=24)
        self.mailed.append(await context.wait_for("approved", timeout=3600, default="no one"))

    def push(self) -> Any:
        return self.web.push({"number": 1}, self.queue.definitions["order"].name)


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def jobs(app: App) -> Iterator[Jobs]:
    with Jobs(app.queue, app.web) as jobs:
        yield jobs


def test_a_drain_counts_suspended_jobs_and_says_what_they_wait_for(app: App, jobs: Jobs) -> None:
    app.push()

    drained = jobs.drain()

    assert (drained.suspended, drained.completed) == (1, 0)
    assert repr(drained) == "Drained(suspended=1)"
    (outcome,) = drained.outcomes
    assert (outcome.kind, outcome.message, outcome.delay) == ("suspended", "the time", 86_400)
    assert outcome.failure is None


def test_travel_wakes_sleepers_and_a_signal_lets_a_job_go_on(app: App, jobs: Jobs) -> None:
    job = app.push()
    jobs.drain()

    jobs.travel(hours=23)
    assert jobs.drain().outcomes == []
    jobs.travel(hours=1)
    (outcome,) = jobs.drain().outcomes
    assert (outcome.message, outcome.delay) == ("signal approved", 3600)
    assert jobs.signal(job, "approved", "ann") is Reply.OK
    assert jobs.drain().completed == 1

    assert (app.charged, app.mailed) == (1, ["ann"])


def test_a_wait_that_has_a_limit_ends_with_travel(app: App, jobs: Jobs) -> None:
    app.push()

    jobs.drain()
    jobs.travel(days=1)
    jobs.drain()
    jobs.travel(hours=1)
    jobs.drain()

    assert app.mailed == ["no one"]


def test_a_drain_with_delayed_jobs_goes_on_until_no_job_waits_for_a_time(app: App, jobs: Jobs) -> None:
    app.push()

    assert jobs.drain(delayed=True).completed == 1

    assert (app.charged, app.mailed) == (1, ["no one"])


def test_a_signal_that_comes_early_is_kept_and_one_that_comes_too_late_finds_no_job(app: App, jobs: Jobs) -> None:
    job = app.push()

    assert jobs.signal(job.id, "approved", "ann") is Reply.KEPT
    assert jobs.signal(job.id, "approved", "joe") is Reply.EXISTS
    jobs.drain(delayed=True)

    assert app.mailed == ["ann"]
    assert jobs.signal(job.id, "approved") is Reply.NOT_FOUND


def test_a_signal_that_can_be_none_is_refused_and_a_store_that_is_away_does_not_take_it(
    app: App, jobs: Jobs
) -> None:
    job = app.push()

    with pytest.raises(EncodeError):
        jobs.signal(job, "approved", object())
    with pytest.raises(ValueError, match="can't name a signal"):
        jobs.signal(job, "a b")
    with jobs.unavailable(), pytest.raises(Unavailable):
        jobs.signal(job, "approved")


def test_a_crash_before_a_job_is_suspended_keeps_its_saved_steps(app: App, jobs: Jobs) -> None:
    app.push()
    jobs.crash("order")

    first = jobs.drain()
    jobs.travel(seconds=15)
    jobs.drain()

    assert first.crashed == 1
    assert app.charged == 1


def test_a_job_that_runs_by_itself_leaves_no_steps(app: App, jobs: Jobs) -> None:
    name = app.queue.definitions["order"].name

    outcomes = [jobs.run({"number": 1}, name, job_id="one") for _ in range(2)]

    assert [outcome.kind for outcome in outcomes] == ["suspended", "suspended"]
    assert app.charged == 2


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_in_async_tests_a_signal_is_sent_without_await(app: App, backend: str) -> None:
    async def test() -> None:
        with AsyncJobs(app.queue, app.web) as jobs:
            job = app.push()
            assert (await jobs.drain()).suspended == 1
            await jobs.travel(days=1)
            await jobs.drain()
            assert jobs.signal(job, "approved", "ann") is Reply.OK
            assert (await jobs.drain()).completed == 1

    anyio.run(test, backend=backend)

    assert app.mailed == ["ann"]
