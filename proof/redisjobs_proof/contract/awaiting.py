"""A process asks how jobs have ended, and waits until they do."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from redisjobs.model.changes import Cancel, Delete, Ending, GetStatus, JobStatus, Requeue
from redisjobs.model.driver import Consumer, Notification
from redisjobs.model.job import Priority
from redisjobs.model.transitions import Ack, After, NewJob, Release, Reply, Result, RetryLater, Turn
from redisjobs_proof.contract.acts import (
    AGAIN,
    FAILED,
    ODD,
    Open,
    another,
    claim,
    claim_one,
    eventually,
    job,
    listening,
    outlive,
    push,
    settle,
)
from redisjobs_proof.contract.store import DriverStore

_NEEDS = (GetStatus,)

HOUR = 3_600_000
RESULT = Ack(result=Result(HOUR, b'{"total":5}'))


def kept(job_id: str, keep_ms: int = HOUR, **options: Any) -> NewJob:
    """A job whose result is kept."""
    fields = ["name", "Work", "parameters", "{}", "keep_result", str(keep_ms)]
    return NewJob(job_id, fields, **options)


async def standing(store: DriverStore, job_id: str = "a", process: str = "") -> JobStatus:
    (answer,) = await store.driver.change(GetStatus([job_id], process))
    return answer


async def ends_by_itself(store: DriverStore, ending: Ending) -> None:
    """Wait until the job `a` has this ending, by the store's own clock."""
    with anyio.fail_after(5):
        while (await standing(store)).ending is not ending:  # noqa: ASYNC110
            await anyio.sleep(0.005)


@asynccontextmanager
async def told(store: DriverStore, process: str = "me") -> AsyncIterator[list[str]]:
    """Collect the notifications of a process while the block runs."""
    heard: list[str] = []
    subscribed = anyio.Event()

    def hear(notification: Notification) -> None:
        if notification.kind == "subscribed":
            subscribed.set()
        else:
            heard.append(f"{notification.kind} {notification.value}")

    async def listen() -> None:
        await store.driver.listen(hear, process)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        await subscribed.wait()
        yield heard
        tasks.cancel_scope.cancel()


async def until_told(heard: list[str], many: int = 1) -> None:
    with anyio.fail_after(5):
        while len(heard) < many:  # noqa: ASYNC110
            await anyio.sleep(0.005)


async def test_a_job_that_has_not_ended_is_pending_and_says_where_it_is(store: DriverStore, worker: Open) -> None:
    await push(store, kept("a"), job("b"), kept("c", 0, due=After(9000)))
    await push(store, job("low", priority=Priority.LOW), job("high", priority=Priority.HIGH))

    assert await store.driver.change(GetStatus(["a", "b", "c", "low", "high"])) == [
        JobStatus(Ending.PENDING, "normal", keep=HOUR),
        JobStatus(Ending.PENDING, "normal"),
        JobStatus(Ending.PENDING, "delayed", keep=0),
        JobStatus(Ending.PENDING, "low"),
        JobStatus(Ending.PENDING, "high"),
    ]
    await claim(await worker())
    assert await standing(store) == JobStatus(Ending.PENDING, "normal", keep=HOUR)


async def test_what_a_job_returned_is_there_once_it_is_done(store: DriverStore, one: Consumer) -> None:
    await push(store, kept("a"))

    assert await settle(one, await claim_one(one), RESULT) == Reply.OK
    assert await standing(store) == JobStatus(Ending.COMPLETED, value=b'{"total":5}')


async def test_a_result_is_kept_though_only_the_worker_knew_that_it_is_to_be(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, "a")

    assert await settle(one, await claim_one(one), RESULT) == Reply.OK
    assert (await standing(store)).value == b'{"total":5}'


async def test_results_of_a_batch_go_with_their_jobs(store: DriverStore, one: Consumer) -> None:
    await push(store, *(kept(name) for name in "abcd"), job("e"))
    leases = {lease.job_id: lease for lease in await claim(one)}
    await settle(one, leases["a"], Release())
    leases["a"] = await claim_one(one)  # its second delivery
    results = {name: Ack(result=Result(HOUR, b'"%s"' % name.encode())) for name in "abc"}
    results["d"] = Ack(result=Result(HOUR, refused="too large"))
    results["e"] = Ack()

    answer = await one.exchange([(leases[name], results[name]) for name in "eabcd"], None)

    assert [*answer.replies] == [Reply.OK] * 5
    standings = await store.driver.change(GetStatus([*"abcde"]))
    assert [each.value for each in standings] == [b'"a"', b'"b"', b'"c"', b"", b""]
    assert standings[3] == JobStatus(Ending.REFUSED, error="too large")
    assert standings[4] == JobStatus(Ending.NOT_FOUND)


async def test_a_worker_that_lost_its_lease_leaves_no_result(
    store: DriverStore, one: Consumer, two: Consumer
) -> None:
    await push(store, kept("a"), kept("b"), kept("c"))
    a, b, c = await claim(one)
    await settle(one, a, Release(refund=False))
    await settle(one, c, Release(refund=False))
    mine, other = await claim(two)

    answer = await one.exchange([(b, RESULT), (a, RESULT), (c, RESULT)], None)
    assert [*answer.replies] == [Reply.OK, Reply.LEASE_LOST, Reply.LEASE_LOST]
    assert (await standing(store)).ending is Ending.PENDING
    assert await settle(two, mine, Ack(result=Result(HOUR, b"6"))) == Reply.OK
    assert await settle(two, other, Ack()) == Reply.OK
    assert (await standing(store)).value == b"6"
    assert (await standing(store, "b")).value == b'{"total":5}'
    assert (await standing(store, "c")).ending is Ending.NOT_FOUND


async def test_a_settlement_that_is_sent_again_changes_no_result(store: DriverStore, one: Consumer) -> None:
    await push(store, kept("a"))
    lease = await claim_one(one)
    await one.exchange([(lease, RESULT)], None, turn=Turn(1, 1))
    await push(store, another("a"))

    await one.exchange([(lease, RESULT)], None, turn=Turn(1, 1))

    assert (await standing(store)).ending is Ending.PENDING


async def test_a_job_that_is_cancelled_says_so_wherever_it_was(
    store: DriverStore, one: Consumer, two: Consumer
) -> None:
    await push(store, kept("delayed", due=After(9000)), kept("ready"))
    for name in ("delayed", "ready"):
        assert await store.driver.change(Cancel(name)) == Reply.CANCELLED
    await push(store, kept("runs"), kept("again"), kept("lost"))
    runs, again, lost = await claim(one)
    for lease in (runs, again, lost):
        assert await store.driver.change(Cancel(lease.job_id)) == Reply.CANCELLING
    await settle(one, runs, Ack(cancelled=True))
    assert await settle(one, again, AGAIN) == Reply.CANCELLED
    await outlive(store, two)
    await claim(two)

    standings = await store.driver.change(GetStatus(["delayed", "ready", "runs", "again", "lost"]))
    assert standings == [JobStatus(Ending.CANCELLED)] * 5


async def test_a_retry_that_ends_a_cancelled_job_says_so_though_only_the_worker_knew_that_this_is_kept(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    await store.driver.change(Cancel("a"))

    assert await settle(one, lease, RetryLater(After(0), {"keep_result": str(HOUR)})) == Reply.CANCELLED
    assert (await standing(store)).ending is Ending.CANCELLED


async def test_a_dead_letter_says_why(store: DriverStore, one: Consumer) -> None:
    await push(store, kept("a"), job("b"))
    for lease in await claim(one):
        await settle(one, lease, FAILED)

    why = JobStatus(
        Ending.DEAD,
        error="ValueError: no",
        error_type="ValueError",
        traceback="the traceback",
        reason="failed",
    )
    assert await store.driver.change(GetStatus(["a", "b"])) == [why, why]
    await store.driver.change(Delete("a"))
    await store.driver.change(Delete("b"))
    left = JobStatus(Ending.DEAD, error="ValueError: no", error_type="ValueError")
    assert await store.driver.change(GetStatus(["a", "b"])) == [left, JobStatus(Ending.NOT_FOUND)]


async def test_a_job_that_is_unknown_is_not_found(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    await settle(one, await claim_one(one), Ack())

    assert await store.driver.change(GetStatus(["a", "never"], "me")) == [JobStatus(Ending.NOT_FOUND)] * 2


async def test_a_result_is_over_after_its_time_and_its_outcome_after_twice_that(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, kept("a"))
    await settle(one, await claim_one(one), Ack(result=Result(300, b"5")))
    assert (await standing(store)).ending is Ending.COMPLETED

    await ends_by_itself(store, Ending.EXPIRED)  # maybe by the store's own clock, which no test sets
    await ends_by_itself(store, Ending.NOT_FOUND)


@pytest.mark.parametrize("begin", ["push", "requeue"])
async def test_a_new_life_of_an_id_forgets_how_the_last_one_ended(
    store: DriverStore, one: Consumer, begin: str
) -> None:
    await push(store, kept("a"))
    await settle(one, await claim_one(one), FAILED if begin == "requeue" else RESULT)

    if begin == "push":
        await push(store, another("a"))
    else:
        await store.driver.change(Requeue("a"))

    assert (await standing(store)).ending is Ending.PENDING
    await settle(one, await claim_one(one), Ack())
    assert (await standing(store)).ending is Ending.NOT_FOUND


ENDS: dict[str, Callable[[DriverStore, Any, Any], Awaitable[Any]]] = {
    "done": lambda _, one, lease: settle(one, lease, Ack()),
    "done, with a result": lambda _, one, lease: settle(one, lease, RESULT),
    "cancelled": lambda _, one, lease: settle(one, lease, Ack(cancelled=True)),
    "failed": lambda _, one, lease: settle(one, lease, FAILED),
}


@pytest.mark.parametrize("end", ENDS)
async def test_a_process_that_waits_is_told_once_when_the_job_ends(
    store: DriverStore, one: Consumer, end: str
) -> None:
    await push(store, "a", "b")
    a, b = await claim(one)
    async with told(store) as heard, told(store, "other") as others:
        await store.driver.change(GetStatus(["a", "b", "never"], "me"))
        await store.driver.change(GetStatus(["b"], "other"))

        await ENDS[end](store, one, a)
        await until_told(heard)
        assert (heard, others) == (["changed a"], [])
        await ENDS[end](store, one, b)
        await until_told(heard, 2)
        await until_told(others)
        await push(store, "d")
        await settle(one, await claim_one(one), RESULT)  # no process waits for this one
        await store.driver.change(GetStatus(["b"], "me"))
        await push(store, "c")
        await store.driver.change(GetStatus(["c"], "me"))
        await store.driver.change(Cancel("c"))
        await until_told(heard, 3)

    assert heard == ["changed a", "changed b", "changed c"]
    assert others == ["changed b"]


async def test_each_process_that_waits_for_a_job_is_told_once_however_often_it_asked(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    async with told(store, "p1") as first, told(store, "p2") as second, told(store, "p3") as third:
        for process in ("p1", "p2", "p3", "p2", "p1"):
            await store.driver.change(GetStatus(["a"], process))
        await settle(one, lease, Ack())
        for heard in (first, second, third):
            await until_told(heard)
        await store.driver.change(GetStatus(["a"], "p1"))

    assert first == second == third == ["changed a"]


async def test_a_batch_tells_those_who_wait_for_some_of_it(store: DriverStore, one: Consumer) -> None:
    await push(store, *"abcd")
    leases = await claim(one)
    async with told(store) as heard:
        await store.driver.change(GetStatus(["b", "d"], "me"))
        await one.exchange([(lease, Ack()) for lease in leases], None)
        await until_told(heard, 2)

    assert sorted(heard) == ["changed b", "changed d"]


async def test_a_job_that_runs_again_or_is_handed_back_has_not_ended(store: DriverStore, one: Consumer) -> None:
    await push(store, kept("a"))
    async with told(store) as heard:
        await store.driver.change(GetStatus(["a"], "me"))
        await settle(one, await claim_one(one), Release())
        await settle(one, await claim_one(one), AGAIN)
        assert (await standing(store)).ending is Ending.PENDING
        await settle(one, await claim_one(one), RESULT)
        await until_told(heard)

    assert heard == ["changed a"]


async def test_who_has_asked_is_forgotten_once_the_job_has_ended(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    await store.driver.change(GetStatus(["a"]))  # it asks, but names no process that waits
    before = store.contents()
    await store.driver.change(GetStatus(["a"], "me"))
    assert store.contents() != before
    await settle(one, lease, Ack())
    after = store.contents()
    await store.driver.change(GetStatus(["a"], "me"))

    assert store.contents() == after


async def test_a_job_that_pushes_others_has_a_result_as_any(store: DriverStore, one: Consumer) -> None:
    await push(store, "parent")
    settlement = Ack(result=Result(60_000, b"5"), pushes=[job("next")])

    assert await settle(one, await claim_one(one), settlement) == Reply.OK

    parent, following = await store.driver.change(GetStatus(["parent", "next"]))
    assert (parent.ending, parent.value) == (Ending.COMPLETED, b"5")
    assert following.ending is Ending.PENDING


@pytest.mark.parametrize("odd", ODD)
async def test_a_notification_names_a_job_whose_id_has_any_characters(
    store: DriverStore, one: Consumer, odd: str
) -> None:
    await push(store, kept(odd))
    lease = await claim_one(one)
    await standing(store, odd, "me")

    async with told(store) as heard, listening(one.listen) as heard_by_worker:
        assert await store.driver.change(Cancel(odd)) is Reply.CANCELLING
        assert await settle(one, lease, RESULT) is Reply.OK
        await until_told(heard)
        await eventually(lambda: len(heard_by_worker) > 1)
    assert heard == [f"changed {odd}"]
    assert heard_by_worker[1] == Notification("cancel", odd)
