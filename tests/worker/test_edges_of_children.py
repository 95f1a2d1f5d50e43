"""Children beside other waits, pushes, hooks and listeners."""

from collections import Counter
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from databases import ON_POSTGRES_TOO
from each_setting import store as store
from flows import Family

from redisjobs import JobContext, Middleware, State
from redisjobs.events import JobsPushed
from redisjobs.events.middleware import OutgoingJob

pytestmark = [pytest.mark.anyio, ON_POSTGRES_TOO]


class Told(Middleware):
    """Notes what becomes of each push, and lets the children of one name wait."""

    def __init__(self) -> None:
        self.ends = dict[str, list[bool]]()
        self.may_add = anyio.Event()

    async def on_push(self, job: OutgoingJob) -> None:
        if job.headers.get("late"):
            await self.may_add.wait()
        job.when_pushed(lambda added, error: self.ends.setdefault(job.job_id, []).append(added and error is None))


async def test_a_step_whose_children_are_ready_after_another_wait_has_ended_the_run_adds_them_in_the_next(
    family: Family,
) -> None:
    told = Told()
    family.queue.add_middleware(told)
    late = family.render.options(headers={"late": "1"})

    async def parent(given: dict[str, Any], context: JobContext) -> int:
        children = [late.prepare(number) for number in range(3)]
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(context.run_all, children, name="second"))
                await anyio.lowlevel.checkpoint()
                pages = await context.run_all(family.pages(7, 8), name="first")
        except BaseException:
            told.may_add.set()
            raise
        return len(pages)

    assert await family.of(parent) == 2
    assert family.ran == dict.fromkeys([7, 8, 0, 1, 2], 1)
    # In the next run they have other ids. The parent was pushed, too.
    assert sorted(told.ends.values()) == [[False]] * 3 + [[True]] * 6


async def test_a_handler_may_push_in_a_finally_while_its_children_suspend_it(family: Family) -> None:
    attempts = list[int]()

    async def parent(given: dict[str, Any], context: JobContext) -> int:
        attempts.append(context.attempt)
        try:
            return len(await context.run_all(family.pages(1, 2)))
        finally:
            context.push(family.render.prepare(99))

    assert await family.of(parent) == 2
    assert attempts == [1, 1]
    assert family.ran == {1: 1, 2: 1, 99: 1}


async def test_listeners_learn_of_each_child_that_was_added(family: Family) -> None:
    told = list[tuple[str, bool]]()
    family.queue.events.subscribe(
        JobsPushed, lambda event: told.extend((name, added) for _, name, added in event.jobs)
    )

    async def parent(given: dict[str, Any], context: JobContext) -> int:
        return len(await context.run_all(family.pages(*range(1_203))))

    assert await family.of(parent) == 1_203
    assert Counter(told) == {("Parent", True): 1, ("render", True): 1_203}


@pytest.mark.parametrize("many", [400, 700])
async def test_another_number_of_children_is_an_error_also_if_the_run_before_has_not_added_all(
    family: Family, many: int
) -> None:
    """As a wait it would never end: with 400 the store waits for 100 children that are never added."""
    runs, added = list[int](), anyio.Event()
    family.queue.add_middleware(Told())
    late = family.render.options(headers={"late": "1"}).prepare(0)

    def pushed(event: JobsPushed) -> None:
        if len(event.jobs) == 500:
            added.set()

    family.queue.events.subscribe(JobsPushed, pushed)

    async def parent(given: dict[str, Any], context: JobContext) -> None:
        runs.append(1)
        if len(runs) > 1:
            await context.run_all(family.pages(*range(many)))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(context.run_all, [*family.pages(*range(500)), *[late] * 100])
            await added.wait()
            raise LookupError

    job = await family.parent(parent)
    dead = await family.found(job)
    assert dead.state is State.DEAD
    assert f"this step has run 600 children, and is given {many} now" in str(dead.error)
