"""Progress that jobs report while they run, and how long it is kept."""

from dataclasses import replace

import pytest

from redisjobs.model.changes import Cancel, Delete, Ending, GetStatus, JobStatus, Requeue
from redisjobs.model.driver import Consumer
from redisjobs.model.queries import Find
from redisjobs.model.transitions import Ack, Release, Reply, ReportProgress, Result, Settlement, Turn
from redisjobs_proof.contract.acts import AGAIN, FAILED, another, claim, claim_one, job, push, settle
from redisjobs_proof.contract.awaiting import HOUR, RESULT, kept, standing, told, until_told
from redisjobs_proof.contract.store import DriverStore

_NEEDS = (GetStatus,)

SOME = ReportProgress(b'{"fraction":0.5}')
REPORTED: dict[str, Settlement] = {
    "done": Ack(reported=True),
    "done, with a result": Ack(result=Result(HOUR, b"5"), reported=True),
    "cancelled": Ack(cancelled=True, reported=True),
    "failed": replace(FAILED, reported=True),
    "done, and pushes": Ack(pushes=[job("next")], reported=True),
}


async def test_what_a_job_reports_is_kept_while_it_runs_and_those_who_wait_are_told(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, "a", "b")
    a, b = await claim(one)
    async with told(store) as heard:
        await store.driver.change(GetStatus(["a"], "me"))
        assert await settle(one, a, SOME) == Reply.OK
        assert await settle(one, b, SOME) == Reply.OK
        await until_told(heard)
        assert (await standing(store)).progress == b'{"fraction":0.5}'
        assert await settle(one, a, ReportProgress(b'{"fraction":0.6}')) == Reply.OK
        await until_told(heard, 2)
        assert (await standing(store)).progress == b'{"fraction":0.6}'
        await settle(one, a, Ack(reported=True))
        await until_told(heard, 3)

    assert heard == ["changed a"] * 3


async def test_reports_go_with_settlements_of_other_jobs(store: DriverStore, one: Consumer) -> None:
    await push(store, "a", "b", kept("c"))
    a, b, c = await claim(one)

    answer = await one.exchange([(b, Ack()), (c, RESULT), (a, SOME)], None, turn=Turn(1, 1))

    assert [*answer.replies] == [Reply.OK] * 3
    assert (await standing(store)).progress == SOME.progress
    assert (await standing(store, "c")).value == b'{"total":5}'
    assert await settle(one, a, Ack(reported=True)) == Reply.OK


async def test_a_cancelled_job_that_has_reported_was_cancelled(store: DriverStore, one: Consumer) -> None:
    await push(store, kept("a"))

    assert await settle(one, await claim_one(one), Ack(cancelled=True, reported=True)) is Reply.OK

    assert (await standing(store)).ending is Ending.CANCELLED


async def test_a_worker_that_lost_its_lease_reports_nothing(
    store: DriverStore, one: Consumer, two: Consumer
) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    await settle(one, lease, Release(refund=False))
    mine = await claim_one(two)

    assert await settle(one, lease, SOME) == Reply.LEASE_LOST
    assert (await standing(store)).progress == b""
    await settle(two, mine, Ack())


@pytest.mark.parametrize("delivery", [1, 2])
@pytest.mark.parametrize("end", REPORTED)
async def test_what_a_job_has_reported_last_is_there_when_it_ends_and_not_for_a_new_job_of_its_id(
    store: DriverStore, one: Consumer, end: str, delivery: int
) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    if delivery == 2:
        await settle(one, lease, Release(refund=False))
        lease = await claim_one(one)
    before = await store.driver.read(Find("a"))
    assert before is not None
    await settle(one, lease, SOME)
    assert await store.driver.read(Find("a")) == replace(before, progress=SOME.progress)

    assert await settle(one, lease, REPORTED[end]) == Reply.OK
    ended = await standing(store)
    assert ended.ending is not Ending.PENDING
    assert ended.progress == SOME.progress

    if end == "failed":
        await store.driver.change(Delete("a"))
    await push(store, another("a"))
    assert (await standing(store)).progress == b""


async def test_what_a_job_has_reported_is_there_for_its_next_run(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    await settle(one, lease, SOME)
    await settle(one, lease, AGAIN)

    assert (await standing(store)).progress == SOME.progress
    await settle(one, await claim_one(one), Ack(reported=True))


@pytest.mark.parametrize("end", ["cancelled while it waits", "done", "failed"])
async def test_what_a_run_has_reported_is_not_shown_of_a_new_job_of_its_id(
    store: DriverStore, one: Consumer, end: str
) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    await settle(one, lease, SOME)
    await settle(one, lease, Release() if end.startswith("cancelled") else AGAIN)
    if end.startswith("cancelled"):
        assert await store.driver.change(Cancel("a")) == Reply.CANCELLED
    else:  # a run that has reported nothing
        await settle(one, await claim_one(one), Ack() if end == "done" else FAILED)

    if end == "failed":
        await store.driver.change(Requeue("a"))
    else:
        await push(store, another("a"))

    assert await standing(store) == JobStatus(Ending.PENDING, "normal")


async def test_a_job_that_is_pushed_under_the_id_of_an_earlier_one_has_nothing_of_it(
    store: DriverStore, one: Consumer
) -> None:
    pushing = Ack(pushes=[job("next")])
    await push(store, "first", "second")
    first, second = await claim(one)
    await settle(one, first, pushing)
    lease = await claim_one(one)
    await settle(one, lease, ReportProgress(b'{"fraction":0.5}'))
    await settle(one, lease, Ack(result=Result(60_000, b'"by the first"')))

    await settle(one, second, pushing)

    (standing,) = await store.driver.change(GetStatus(["next"]))
    assert (standing.ending, standing.progress) == (Ending.PENDING, b"")
    await settle(one, await claim_one(one), Ack())
    (standing,) = await store.driver.change(GetStatus(["next"]))
    assert standing.ending is Ending.NOT_FOUND
