"""A queue moves while its jobs wait in the middle of their handlers, for a time, a signal, or their children."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from movings import Ends, move
from movings import ends as ends
from movings import said as said
from store import Store, eventually

from redisjobs import JobContext, JobQueue, State, Worker
from redisjobs.control.move.mover import Moved
from redisjobs.drivers.postgres.calls import QUERIES
from redisjobs.model.changes import Cancel, Delete
from redisjobs.model.children import FindChildren
from redisjobs.model.queries import Count, Find
from redisjobs.model.transitions import Ack, Release, Reply, Result, SaveStep
from redisjobs_proof.contract.acts import FAILED, claim, push, rows_of, saved, settle
from redisjobs_proof.contract.awaiting_children import TOKEN, adding, child, outcomes, with_children

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


class Flow:
    """A queue with a handler that saves a step, and waits; and one that runs children in between."""

    def __init__(self, store: Store) -> None:
        self.queue = JobQueue(store.another(), store.queue_name)
        self.did, self.results = list[str](), list[object]()
        self.let_go = anyio.Event()
        self.queue.job(self.order)
        self.queue.job(self.family)
        self._render = self.queue.job(self.render)

    async def order(self, number: int, context: JobContext) -> None:
        charged = await context.step("charge", self.do, "charge")
        context_saved = context.saved
        await context.checkpoint("half")
        by = await context.wait_for("approved")
        also = await context.wait_for("early")
        self.results.append((charged, context_saved, by, also))

    async def family(self, total: int, context: JobContext) -> None:
        pages = await context.run_all([self._render.prepare(number) for number in range(total)])
        await context.wait_for("approved")
        self.results.append(pages)

    async def render(self, number: int) -> int:
        await self.let_go.wait()
        self.did.append(f"page {number}")
        return 10 * number

    async def do(self, what: str) -> str:
        self.did.append(what)
        return f"{what}d"

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        worker = Worker(self.queue)
        async with self.queue, anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            yield
            worker.stop()


async def until_suspended(flow: Flow) -> None:
    with anyio.fail_after(5):
        while not (await flow.queue.control.counts()).suspended:
            pass


async def test_a_job_that_waits_goes_on_at_the_target_with_its_steps_and_signals(ends: Ends) -> None:
    before, after = map(Flow, ends)
    async with before.working():
        handle = await before.queue.push({"number": 1}, "order")
        await until_suspended(before)
        await before.queue.signal(handle.id, "early", 2)

    assert (await move(*ends)).is_done

    async with after.working():
        await after.queue.signal(handle.id, "approved", "ann")
        await eventually(lambda: after.results)
    assert (before.did, after.did) == (["charge"], [])
    assert after.results == [("charged", "half", "ann", 2)]


async def test_children_end_at_the_source_and_their_parent_goes_on_at_the_target(
    ends: Ends, said: list[str]
) -> None:
    source, target = ends
    before, after = map(Flow, ends)
    moved = list[Moved]()

    async def run() -> None:
        moved.append(await move(source, target, said))

    async with before.working():
        handle = await before.queue.push({"total": 3}, "family")
        await until_suspended(before)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await eventually(lambda: [line for line in said if "children" in line])
            assert await target.driver.read(Find(handle.id)) is None
            before.let_go.set()
    assert moved[0].is_done

    async with after.working():
        await after.queue.signal(handle.id, "approved")
        await eventually(lambda: after.results)
    assert after.results == [[0, 10, 20]]
    assert (len(before.did), after.did) == (3, [])


async def test_a_dead_parent_whose_children_never_came_does_not_hold_the_move_up(ends: Ends) -> None:
    source, target = ends
    consumer = source.driver.consumer("w1", lease=15, max_deliveries=3)
    await consumer.open()
    await push(source, "a", "other")
    lease, other = await claim(consumer)
    assert await settle(consumer, lease, adding(2, child(0))) is Reply.OK
    assert await source.driver.change(Cancel(f"{TOKEN}-0")) is Reply.CANCELLED
    assert await settle(consumer, lease, FAILED) is Reply.OK
    assert await settle(consumer, other, FAILED) is Reply.OK
    await consumer.release(refund=True, watch=False)
    await consumer.aclose()

    moved = await move(source, target)

    assert not moved.is_done
    assert (moved.jobs, moved.left, moved.stays) == (1, {State.DEAD: 1}, {State.DEAD: 1})
    assert await source.driver.change(Delete("a")) is Reply.OK
    assert (await move(source, target)).is_done


@pytest.mark.parametrize("ends", [("redis", "postgres")], indirect=True, ids=" to ".join)
async def test_a_parent_ends_at_the_source_if_the_target_can_have_no_children(
    ends: Ends, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = ends
    monkeypatch.delitem(QUERIES, FindChildren)  # as in a driver of another author
    consumer = source.driver.consumer("w1", lease=15, max_deliveries=3)
    await consumer.open()
    await push(source, "a", "plain")
    lease, plain = await claim(consumer)
    assert await settle(consumer, lease, with_children(1)) is Reply.OK
    (only,) = await claim(consumer)
    assert await settle(consumer, only, Ack(result=Result(0, b"1"))) is Reply.OK
    moved = list[Moved]()

    async def run() -> None:
        moved.append(await move(source, target, said))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await eventually(lambda: [line for line in said if "children" in line])
        assert (await outcomes(source)).left == 0
        assert await settle(consumer, plain, Ack()) is Reply.OK
        (again,) = await claim(consumer)
        assert again.job_id == "a"
        assert await settle(consumer, again, Ack(stepped=True)) is Reply.OK
    await consumer.aclose()

    assert moved[0].is_done
    assert (await target.driver.read(Count())).totals.get("pushed", 0) == 0


async def test_jobs_that_have_saved_much_move_in_their_order(ends: Ends) -> None:
    source, target = ends
    consumer = source.driver.consumer("w1", lease=15, max_deliveries=3)
    await consumer.open()
    ids = [f"job{number}" for number in range(12)]
    await push(source, *ids)
    large = b'"' + 300_000 * b"x" + b'"'
    for lease in await claim(consumer, 12):
        assert await settle(consumer, lease, SaveStep("large", 1, large)) is Reply.OK
        assert await settle(consumer, lease, Release()) is Reply.OK
    await consumer.release(refund=True, watch=False)
    await consumer.aclose()

    assert (await move(source, target)).is_done

    assert [row.job_id for row in await rows_of(target.driver, State.READY)] == ids
    for job_id in ids:
        assert (await saved(target, job_id)).saved["large"].value == large
