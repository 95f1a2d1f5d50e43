"""How an operator sees jobs that save steps and wait, signals them, and requeues them from a step."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from each_setting import store as store
from operating import done
from store import Store

from redisjobs import JobContext, JobQueue, PushedJob, State, Worker, no_retry
from redisjobs.control import Cause
from redisjobs.control.reasons import JobFacts, explain
from redisjobs.model.info import WorkerInfo
from redisjobs.model.steps import How
from redisjobs.model.transitions import Reply
from redisjobs.model.why import Standing

pytestmark = pytest.mark.anyio


class Shop:
    """A queue with a handler that charges, waits for a person and mails; and the calls of its functions."""

    def __init__(self, queue: JobQueue) -> None:
        self.queue = queue
        self.charged: list[int] = []
        self.fails = True
        self.order = queue.job(retry=no_retry())(self._order)

    def charge(self, number: int) -> dict[str, int]:
        self.charged.append(number)
        return {"charge": number}

    async def _order(self, number: int, wait: float | None, context: JobContext) -> None:
        for each in range(2):
            await context.step("charge", self.charge, number + each)
        if wait is None:
            await context.wait_for("approved", timeout=3600, default=None)
        else:
            await context.sleep(wait)
        if self.fails:
            raise ValueError("no mail")

    async def run(self) -> None:
        await Worker(self.queue, schedules=False).run(until_idle=True)

    async def suspended(self, wait: float | None = None) -> PushedJob:
        """An order that waits: for a signal, or for some seconds."""
        job = await self.order.push(7, wait)
        await self.run()
        return job

    async def dead(self) -> PushedJob:
        """An order that was approved and failed."""
        job = await self.suspended()
        await self.queue.signal(job, "approved", "ann")
        await self.run()
        return job


@pytest.fixture
async def shop(store: Store) -> AsyncIterator[Shop]:
    async with JobQueue(store.driver, store.queue_name) as queue:
        yield Shop(queue)


async def test_a_suspended_job_says_what_it_waits_for_since_when_and_until(shop: Shop, face: Any) -> None:
    job = await shop.suspended()

    found = await done(face.get(job))

    assert (found.state, str(found.waits_for), found.due_at) == (State.SUSPENDED, "signal approved", None)
    assert found.wakes_at - found.suspended_at == timedelta(hours=1)
    assert [each.job_id for each in await done(face.control.jobs("suspended"))] == [job.id]
    assert [each.job_id for each in await done(face.control.jobs())] == [job.id]


async def test_a_job_that_sleeps_waits_for_the_time(shop: Shop) -> None:
    found = await shop.queue.get(await shop.suspended(wait=60))

    assert found is not None
    assert (str(found.waits_for), found.error) == ("the time", "")


async def test_the_steps_of_a_job_are_listed_in_order_also_of_a_dead_letter(shop: Shop, face: Any) -> None:
    job = await shop.suspended()
    waiting = await done(face.control.steps(job))
    assert [(step.key, step.how, step.value) for step in waiting] == [
        ("charge", How.DONE, '{"charge":7}'),
        ("charge#2", How.DONE, '{"charge":8}'),
    ]
    await shop.queue.signal(job, "approved", "ann")
    await shop.run()
    found = await done(face.get(job))
    assert found.state is State.DEAD

    steps = await done(face.control.steps(job))

    assert steps[:2] == waiting
    assert [(step.key, step.how, step.value, step.says) for step in steps[2:]] == [
        ("approved", How.SIGNAL, '"ann"', "signal came")
    ]
    assert [step.number for step in steps] == sorted(step.number for step in steps)
    assert found.queued_at <= steps[0].at <= steps[1].at <= steps[2].at <= found.failed_at


async def test_a_job_without_steps_and_one_that_has_ended_have_none(shop: Shop) -> None:
    shop.fails = False
    job = await shop.dead()

    assert await shop.queue.control.steps(job) == await shop.queue.control.steps("never there") == []


async def test_a_dead_letter_goes_on_where_it_stopped(shop: Shop, face: Any) -> None:
    job = await shop.dead()
    shop.fails = False

    assert await done(face.control.requeue(job))
    await shop.run()

    assert await shop.queue.get(job) is None
    assert shop.charged == [7, 8]


async def test_a_dead_letter_goes_on_from_a_step(shop: Shop, face: Any) -> None:
    job = await shop.dead()

    assert await done(face.control.requeue(job, from_step="charge#2"))
    await shop.run()

    assert shop.charged == [7, 8, 8]
    found = await shop.queue.get(job)
    assert found is not None
    assert str(found.waits_for) == "signal approved"


async def test_a_dead_letter_goes_on_from_the_start(shop: Shop, face: Any) -> None:
    job = await shop.dead()

    assert await done(face.control.requeue(job, from_step=None))
    assert await done(face.control.steps(job)) == []
    await shop.run()

    assert shop.charged == [7, 8, 7, 8]


async def test_a_step_that_was_not_saved_is_an_error_that_says_which_there_are(shop: Shop, face: Any) -> None:
    job = await shop.dead()

    with pytest.raises(ValueError, match="no step 'mail'; it has 'charge', 'charge#2', 'approved'"):
        await done(face.control.requeue(job, from_step="mail"))

    assert len(await done(face.control.steps(job))) == 3
    found = await done(face.get(job))
    assert found.state is State.DEAD


@pytest.mark.parametrize("wrong", ["", "a b", 7, b"charge"])
async def test_what_can_be_no_step_is_refused(shop: Shop, face: Any, wrong: Any) -> None:
    with pytest.raises(ValueError, match="from_step="):
        await done(face.control.requeue("any", from_step=wrong))


async def test_a_dead_letter_without_steps_says_so(shop: Shop) -> None:
    @shop.queue.job(retry=no_retry())
    async def fail() -> None:
        raise ValueError

    job = await fail.push()
    await shop.run()

    with pytest.raises(ValueError, match="it has saved none, so leave from_step out"):
        await shop.queue.control.requeue(job, from_step="charge")
    assert await shop.queue.control.requeue(job, from_step=None)


async def test_an_error_about_a_step_names_only_some_of_very_many(shop: Shop) -> None:
    @shop.queue.job(retry=no_retry())
    async def many(context: JobContext) -> None:
        for number in range(30):
            await context.step(f"page-{number}", int)
        raise ValueError

    job = await many.push()
    await shop.run()

    with pytest.raises(ValueError, match="its last ones are 'page-10', 'page-11'") as error:
        await shop.queue.control.requeue(job, from_step="page")
    assert "page-9'" not in str(error.value)


async def test_suspended_jobs_are_held_let_go_and_cancelled_all_at_once(shop: Shop, face: Any) -> None:
    for _ in range(3):
        await shop.suspended()

    assert await done(face.control.hold_all("suspended", name="_order")) == 3
    assert await done(face.control.unhold_all(State.SUSPENDED)) == 3
    assert await done(face.control.cancel_all("suspended")) == 3
    assert (await done(face.control.counts())).suspended == 0


# Why


async def test_why_says_what_a_job_waits_for_and_how_to_send_it(shop: Shop, face: Any) -> None:
    job = await shop.suspended()

    why = await done(face.control.why(job))

    assert why.cause is Cause.SUSPENDED
    assert re.search(r"waits for signal approved, for \S+ (min|h) more, until 20\d\d-", why.sentence), why.sentence
    assert why.sentence.startswith("It has been suspended since 20")
    assert f"`redisjobs signal {job.id} approved VALUE" in why.advice
    assert why.facts["waits_for"] == "signal approved"
    assert why.facts["wakes_at"] - why.facts["since"] == timedelta(hours=1)


async def test_why_says_until_when_a_job_sleeps(shop: Shop) -> None:
    why = await shop.queue.control.why(await shop.suspended(wait=7200))

    assert why.cause is Cause.SUSPENDED
    assert "and sleeps for 2" in why.sentence
    assert "signal" not in why.advice


async def test_why_says_that_a_wait_has_no_limit(shop: Shop) -> None:
    @shop.queue.job
    async def patient(context: JobContext) -> None:
        await context.wait_for("paid")

    job = await patient.push()
    await shop.run()

    assert "waits for signal paid, without a time limit" in (await shop.queue.control.why(job)).sentence


async def test_why_of_a_held_job_says_that_it_is_held_whatever_it_waits_for(shop: Shop) -> None:
    job = await shop.suspended()
    await shop.queue.control.hold(job)

    why = await shop.queue.control.why(job)

    assert why.cause is Cause.HELD
    assert "it waits for signal approved" in why.sentence
    assert "`redisjobs unhold" in why.advice


async def test_why_of_a_suspended_job_names_a_pause_too(shop: Shop) -> None:
    job = await shop.suspended()
    await shop.queue.control.pause("_order")

    why = await shop.queue.control.why(job)

    assert why.cause is Cause.SUSPENDED
    assert "Jobs of its name are paused" in why.sentence


async def test_a_job_whose_wait_is_over_while_no_worker_looks_is_overdue(store: Store, shop: Shop) -> None:
    job = await shop.suspended(wait=60)
    info = await shop.queue.get(job)
    assert info is not None
    assert info.wakes_at is not None
    now_ms = round(info.wakes_at.timestamp() * 1000) + 120_000
    able = WorkerInfo("w1", None, 1, 0, ("_order",), False, "", "", "", 9.0)

    known = JobFacts(store.queue_name, job.id, Standing(now_ms, job.id), replace(info, why_waiting=None), [able])

    why = explain(known)
    assert why.cause is Cause.OVERDUE
    assert why.sentence.startswith("Its wait was over 2")


# Signals


async def test_a_signal_says_whether_it_was_taken_kept_there_already_or_too_late(shop: Shop, face: Any) -> None:
    job = await shop.suspended(wait=0.2)

    replies = [await done(face.signal(job, "approved")) for _ in range(2)]
    shop.fails = False
    waiting = await shop.suspended()
    replies.append(await done(face.signal(waiting, "approved", {"by": "ann"})))
    await shop.run()
    replies.append(await done(face.signal(waiting, "approved")))

    assert replies == [Reply.KEPT, Reply.EXISTS, Reply.OK, Reply.NOT_FOUND]
