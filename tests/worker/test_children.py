"""Handlers that run children: each is added once, and its result, or why it has none, comes back in order."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
from databases import ON_POSTGRES_TOO
from each_setting import store as store
from flows import HOUR, Family, Page
from results import drain, result
from store import Store

from redisjobs import JobCancelled, JobContext, JobFailed, JobName, JobQueue, State, no_retry
from redisjobs.errors import NotAdded

pytestmark = [pytest.mark.anyio, ON_POSTGRES_TOO]


async def test_the_results_come_back_typed_and_in_the_order_of_the_jobs(family: Family) -> None:
    numbers = list(range(60, 0, -1))

    async def parent(given: dict[str, Any], context: JobContext) -> list[int]:
        pages = await context.run_all(family.pages(*numbers))
        assert all(page == Page(page.number, datetime(2026, 1, 1, tzinfo=UTC)) for page in pages)
        return [page.number for page in pages]

    assert await family.of(parent) == numbers
    assert family.ran == Counter(numbers)


async def test_run_returns_the_result_of_one_child(family: Family) -> None:
    async def parent(given: dict[str, Any], context: JobContext) -> list[int]:
        first, second = await context.run(family.render.prepare(1)), await context.run(family.render.prepare(2))
        return [first.number, second.number]

    assert await family.of(parent) == [1, 2]
    assert family.ran == {1: 1, 2: 1}


async def test_a_parent_without_children_goes_on_at_once(family: Family) -> None:
    runs = list[int]()

    async def parent(given: dict[str, Any], context: JobContext) -> list[Any]:
        runs.append(context.deliveries)
        return [await context.run_all([]), await context.run_all(family.pages(), on_failure="return", name="none")]

    assert await family.of(parent) == [[], []]
    assert runs == [1]


async def test_more_children_than_one_call_adds_are_each_added_once(family: Family) -> None:
    async def parent(given: dict[str, Any], context: JobContext) -> int:
        return len(await context.run_all(family.pages(*range(1_203))))

    assert await family.of(parent) == 1_203
    assert family.ran == Counter(range(1_203))


async def test_the_error_of_a_child_is_raised_once_all_have_ended_and_a_parent_may_catch_it(
    family: Family,
) -> None:
    async def parent(given: dict[str, Any], context: JobContext) -> str:
        try:
            await context.run_all(family.pages(1, -1, 2, -2))
        except JobFailed as error:
            assert family.ran == {1: 1, -1: 1, 2: 1, -2: 1}
            return f"{error.reason}: {error}"
        return "no error"

    said = await family.of(parent)
    assert said.startswith("failed: job ")
    assert "LookupError: no page -1" in said  # the first in the order of the jobs


async def test_errors_are_returned_in_place_of_results_if_the_parent_says_so(family: Family) -> None:
    async def parent(given: dict[str, Any], context: JobContext) -> list[str]:
        some = await context.run_all(family.pages(1, -1, 2), on_failure="return")
        return [type(each).__name__ for each in some]

    assert await family.of(parent) == ["Page", "JobFailed", "Page"]


@pytest.mark.parametrize("in_a_group", [False, True])
async def test_an_uncaught_error_of_a_child_makes_the_parent_a_dead_letter_at_once(
    family: Family, in_a_group: bool
) -> None:
    async def parent(given: dict[str, Any], context: JobContext) -> None:
        if not in_a_group:
            await context.run_all(family.pages(-1))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(context.run_all, family.pages(-1))

    job = await family.parent(parent)
    dead = await family.found(job)
    assert (dead.state, dead.attempt) == (State.DEAD, 1)  # another run would only read the same error
    assert "no page -1" in str(dead.error)


async def test_a_requeue_from_a_step_runs_its_children_again_as_other_jobs(family: Family) -> None:
    works = list[bool]()

    async def parent(given: dict[str, Any], context: JobContext) -> list[int]:
        charged = await context.step("charge", lambda: 7)
        pages = await context.run_all(family.pages(*([1, 2] if works else [1, -2])))
        return [charged, *(page.number for page in pages)]

    job = await family.parent(parent)
    assert (await family.found(job)).state is State.DEAD
    works.append(True)
    await family.queue.control.requeue(job, from_step="render")
    await drain(family.queue)

    assert await result(family.queue.result(job)) == [7, 1, 2]
    assert family.ran == {1: 2, -2: 1, 2: 1}


@pytest.mark.parametrize("how", ["cancelled", "expired"])
async def test_a_child_that_is_cancelled_or_expires_has_ended(family: Family, store: Store, how: str) -> None:
    async def parent(given: dict[str, Any], context: JobContext) -> list[str]:
        late = family.render.options(job_id="late", delay=HOUR, expires_in=2 * HOUR).prepare(3)
        some = await context.run_all([family.render.prepare(1), late], on_failure="return")
        return [type(each).__name__ for each in some]

    job = await family.parent(parent)
    assert (await family.found(job)).state is State.SUSPENDED
    if how == "cancelled":
        await family.queue.cancel("late")
    else:
        store.clock.ahead += 3 * HOUR
    await drain(family.queue)

    kind = JobCancelled if how == "cancelled" else JobFailed
    assert await result(family.queue.result(job)) == ["Page", kind.__name__]


async def test_a_child_whose_id_or_unique_key_another_job_has_is_not_added_and_that_is_its_outcome(
    family: Family,
) -> None:
    async def parent(given: dict[str, Any], context: JobContext) -> list[str]:
        taken = family.render.options(job_id="taken").prepare(1)
        held = family.render.options(unique="key").prepare(2)
        some = await context.run_all([taken, held, *family.pages(3)], on_failure="return")
        assert [type(each) for each in some] == [NotAdded, NotAdded, Page]
        return [str(each) for each in some[:2]]

    await family.render.options(job_id="taken", delay=HOUR).push(8)
    holder = await family.render.options(unique="key", delay=HOUR).push(9)
    first, second = await family.of(parent)
    assert "child taken (render) was not added: another job has its id" in first
    assert f"was not added: job {holder.id} holds its unique key" in second
    assert family.ran == {3: 1}


async def test_children_that_are_others_in_the_next_run_are_an_error(family: Family) -> None:
    runs = list[int]()

    async def parent(given: dict[str, Any], context: JobContext) -> None:
        runs.append(1)
        await context.run_all(family.pages(*range(2 + len(runs))))

    job = await family.parent(parent, retry=no_retry())
    dead = await family.found(job)
    assert dead.state is State.DEAD
    assert "this step has run 3 children, and is given 4 now" in str(dead.error)


async def refusal(family: Family, children: Sequence[Any]) -> str:
    """What a parent is answered that runs these children."""

    async def parent(given: dict[str, Any], context: JobContext) -> str:
        try:
            await context.run_all(children)
        except (TypeError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        return "none"

    said: str = await family.of(parent)
    return said


async def test_what_can_be_no_child_is_refused_and_says_why(family: Family) -> None:
    assert "can't be a child: give what prepare returns" in await refusal(family, [5])
    assert family.ran == {}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"on_conflict": "raise", "unique": "k"}, 'on_conflict="raise" is not for children'),
        ({"on_conflict": "replace", "unique": "k"}, 'on_conflict="replace" is not for children'),
        ({"replicas": 1}, "replicas= can't wait here"),
    ],
)
async def test_options_that_children_cant_have_are_refused(
    family: Family, options: dict[str, Any], why: str
) -> None:
    assert why in await refusal(family, [family.render.options(**options).prepare(1)])
    assert family.ran == {}


async def test_a_child_of_another_queue_is_refused(family: Family, store: Store) -> None:
    async with JobQueue(store.driver, "another") as other:
        child = other.prepare({"number": 1}, JobName("render", dict[str, Any]))
    assert "another" in await refusal(family, [child])


async def test_too_many_children_are_refused_and_none_is_added(family: Family) -> None:
    assert "10,001 children" in await refusal(family, family.pages(*[1] * 10_001))
    assert family.ran == {}


async def test_a_parent_cant_be_its_own_child(family: Family) -> None:
    async def parent(given: dict[str, Any], context: JobContext) -> str:
        try:
            await context.run(family.render.options(job_id=context.job_id).prepare(1))
        except ValueError as error:
            return str(error)
        return "none"

    assert "is the id of the parent" in await family.of(parent)


async def test_the_hundredth_generation_has_no_children(family: Family) -> None:
    @family.queue.job(retry=no_retry())
    async def nested(depth: int, context: JobContext) -> str:
        try:
            below: str = await context.run(family.queue.prepare({"depth": depth + 1}, "nested"))
        except ValueError as error:
            return f"{depth} {error}"
        return below

    handle = await nested.options(keep_result=600).push(0)
    await drain(family.queue)
    said = await result(handle.result())
    assert said.startswith("100 ")
    assert "is a child in the 100th generation, and can't have children: push follow-ups instead" in said


async def test_a_cancel_of_the_parent_goes_down_to_its_children(family: Family) -> None:
    async def parent(given: dict[str, Any], context: JobContext) -> None:
        await context.run_all([family.render.options(delay=HOUR).prepare(n) for n in range(3)], name="later")

    job = await family.parent(parent)
    assert len([child async for child in family.queue.control.scan(State.DELAYED)]) == 3
    await family.queue.cancel(job)
    assert [left async for left in family.queue.control.scan(State.DELAYED)] == []
    assert await family.queue.get(job) is None


@pytest.mark.parametrize(("children", "left"), [("leave", 500), ("cancel", 0)])
async def test_a_parent_that_dies_leaves_its_children_or_cancels_them(
    family: Family, children: str, left: int
) -> None:
    later = family.render.options(delay=HOUR)

    async def parent(given: dict[str, Any], context: JobContext) -> None:
        try:
            await context.run_all([later.prepare(number) for number in range(501)])
        except BaseException as suspended:
            raise LookupError("it does not let it pass") from suspended

    job = await family.parent(parent, retry=no_retry(), children=children)
    assert (await family.found(job)).state is State.DEAD
    assert len([child async for child in family.queue.control.scan(State.DELAYED)]) == left


async def test_a_dead_child_that_is_requeued_after_its_parent_went_on_runs_by_itself(family: Family) -> None:
    async def parent(given: dict[str, Any], context: JobContext) -> list[str]:
        some = await context.run_all(family.pages(-5), on_failure="return")
        return [type(each).__name__ for each in some]

    assert await family.of(parent) == ["JobFailed"]
    (dead,) = [job async for job in family.queue.control.scan(State.DEAD)]
    await family.queue.control.requeue(dead.job_id, parameters={"number": 5})
    await drain(family.queue)
    assert family.ran == {-5: 1, 5: 1}
    assert [left async for left in family.queue.control.scan(State.DEAD)] == []
