"""What users of other durable executions complain about, each as a test that shows that it can't happen here."""

import random
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
from databases import ON_POSTGRES_TOO
from each_setting import store as store
from flows import HOUR, Family, Page
from results import drain, result
from store import Store

from redisjobs import JobContext, JobFailed, State, Worker

pytestmark = [pytest.mark.anyio, ON_POSTGRES_TOO]


async def test_no_parent_is_parked_for_ever_however_its_children_end(family: Family, store: Store) -> None:
    """BullMQ #3362, #3122, #2644: a parent stays in waiting-children after a child has failed or is removed."""

    async def parent(given: dict[str, Any], context: JobContext) -> list[str]:
        later = family.render.options(delay=HOUR)
        children = [
            *family.pages(1, -1),
            *(later.options(job_id=f"cancelled {n}", delay=HOUR).prepare(n) for n in (2, 3)),
            later.options(job_id="expired", delay=HOUR, expires_in=60).prepare(4),
            later.options(job_id="held", delay=HOUR).prepare(5),
            later.options(job_id="late").prepare(6),
        ]
        ended = await context.run_all(children, on_failure="return")
        return [type(each).__name__ for each in ended]

    job = await family.parent(parent)
    await family.queue.cancel("cancelled 2")
    await family.queue.cancel("cancelled 3")
    await family.queue.control.hold("held")
    await family.queue.cancel("held")
    (dead,) = [letter async for letter in family.queue.control.scan(State.DEAD)]
    await family.queue.control.delete(dead.job_id)
    assert (await family.found(job)).state is State.SUSPENDED
    store.clock.ahead += 2 * HOUR
    await drain(family.queue)

    assert await result(family.queue.result(job)) == [
        *("Page", "JobFailed", "JobCancelled", "JobCancelled", "JobFailed", "JobCancelled", "Page")
    ]


async def test_what_follows_a_group_runs_although_members_have_failed(family: Family) -> None:
    """Celery #5229, #1662: the body of a chord never runs after an error, or with members that store no result."""

    @family.queue.job
    async def log(number: int) -> None: ...

    async def parent(given: dict[str, Any], context: JobContext) -> str:
        logged: list[Any] = await context.run_all([log.prepare(number) for number in range(3)])
        pages = await context.run_all(family.pages(1, -1, 2), on_failure="return")
        good = [page.number for page in pages if isinstance(page, Page)]
        bad = [str(page) for page in pages if isinstance(page, JobFailed)]
        return f"{logged} {good} {len(bad)} failed"

    assert await family.of(parent) == "[None, None, None] [1, 2] 1 failed"


async def test_a_group_without_members_is_over_at_once(family: Family) -> None:
    """Sidekiq #5903: a batch without jobs never calls back."""

    async def parent(given: dict[str, Any], context: JobContext) -> str:
        assert await context.run_all([]) == []
        first = await context.run_all(family.pages(1))
        assert await context.run_all([]) == []
        return f"{len(first)} pages"

    assert await family.of(parent) == "1 pages"


async def test_any_worker_goes_on_with_what_one_began_that_never_comes_back(family: Family) -> None:
    """DBOS #804, #805, #716: only the executor with the same id recovers a workflow."""
    saved = list[str]()

    async def parent(given: dict[str, Any], context: JobContext) -> list[str]:
        await context.step("charge", lambda: saved.append(context.worker_id))
        await context.wait_for("approved")
        saved.append(context.worker_id)
        return saved

    job = await family.parent(parent)
    await family.queue.signal(job, "approved")
    with anyio.fail_after(30):
        await Worker(family.queue, worker_id="another-1").run(until_idle=True)
    first, second = await result(family.queue.result(job))
    assert not first.startswith("another")
    assert second.startswith("another-1:")


async def test_a_handler_may_be_as_random_as_it_likes(family: Family, store: Store) -> None:
    """Temporal: a workflow must be deterministic, and may not read the clock, or do anything of its own."""
    runs = list[float]()

    async def parent(given: dict[str, Any], context: JobContext) -> list[Any]:
        runs.append(random.random())
        assert datetime.now(UTC).year > 2000
        if len(runs) % 2:
            await context.step(f"only-in-run-{len(runs)}", lambda: None)
        drawn = await context.step("draw", random.random)
        await context.sleep(HOUR)
        return [drawn, await context.step("draw", random.random)]

    job = await family.parent(parent)
    first = [step.value for step in await family.queue.control.steps(job) if step.key == "draw"]
    store.clock.ahead += HOUR + 1
    await drain(family.queue)
    drawn, again = await result(family.queue.result(job))
    assert ([str(drawn)], len(set(runs)), drawn != again) == (first, 2, True)


async def test_a_loop_has_no_limit_of_events(family: Family) -> None:
    """Temporal: a workflow ends with an error after 51,200 events. A checkpoint replaces the one before."""
    runs, done = list[int](), list[int]()

    async def parent(given: dict[str, Any], context: JobContext) -> int:
        begin: int = context.saved or 0
        runs.append(begin)
        for number in range(begin, 60_000):
            done.append(number)
            if number % 1000 == 999:
                await context.checkpoint(number + 1)
            if number == 30_500 and len(runs) == 1:
                raise ConnectionError("its run ends here")
        return len(done)

    assert await family.of(parent) == 60_000 + 501  # what came after the last checkpoint runs again
    assert runs == [0, 30_000]
    assert set(done) == set(range(60_000))
