"""Jobs that may not start, because the queue or their name is paused."""

import anyio
import pytest

from redisjobs.model.changes import Cancel, GetStatus, Pause, Resume, Tidy, Unpark
from redisjobs.model.driver import Consumer, Driver, Until
from redisjobs.model.job import Priority, State
from redisjobs.model.queries import Count, Find, FindPauses, GetBacklog, Pauses
from redisjobs.model.transitions import (
    Ack,
    After,
    DeadLetter,
    Exchange,
    Lease,
    NewJob,
    Release,
    Reply,
    RetryLater,
    Settlement,
)
from redisjobs_proof.contract.acts import Open, eventually, job, rows_of
from redisjobs_proof.contract.awaiting import told, until_told
from redisjobs_proof.contract.needs import needs
from redisjobs_proof.contract.store import DriverStore

_NEEDS = (FindPauses, Pause, Resume, Unpark)


async def push(driver: Driver, *jobs: NewJob) -> None:
    await driver.push(jobs, repeated=False)


async def ids_of_claim(worker: Consumer, count: int = 50) -> list[str]:
    """Return the ids of all jobs that can be claimed."""
    return [lease.job_id for answer in await claims(worker, count) for lease in answer.leases]


async def claims(worker: Consumer, count: int = 50) -> list[Exchange]:
    """Claim until there is no more; return all answers."""
    answers = [await worker.exchange([], count)]
    while answers[-1].more:
        answers.append(await worker.exchange([], count))
    return answers


async def unpark(driver: Driver) -> None:
    after = await driver.change(Unpark())
    while after:
        after = await driver.change(Unpark(after))


async def ids(driver: Driver, state: State = State.READY) -> list[str]:
    return [row.job_id for row in await rows_of(driver, state, 500)]


# A queue


async def test_of_a_paused_queue_nothing_is_claimed_and_an_answer_says_so(driver: Driver, one: Consumer) -> None:
    await push(driver, job("a"))
    assert not (await one.exchange([], 0)).paused
    assert await driver.change(Pause()) is Reply.OK
    await push(driver, job("b"))

    answer = await one.exchange([], 10)
    assert (answer.leases, answer.more, answer.paused) == ([], False, True)
    assert (await one.exchange([], 0)).paused
    assert await ids(driver) == ["a", "b"]

    assert await driver.change(Resume()) is Reply.OK
    assert await ids_of_claim(one) == ["a", "b"]
    assert not (await one.exchange([], 0)).paused


async def test_a_read_that_waits_brings_nothing_that_was_pushed_after_the_pause(
    driver: Driver, one: Consumer
) -> None:
    found, until = list[str](), Until()

    async def wait() -> None:
        while not until.is_set:
            found.extend(lease.job_id for lease in await one.wait(10, 5, until))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await push(driver, job("before"))
        await eventually(lambda: found)
        await driver.change(Pause())
        await push(driver, job("high", priority=Priority.HIGH), *map(job, "abc"))
        await driver.change(Resume())
        await push(driver, job("after"))
        await eventually(lambda: "after" in found)
        until.set()

    assert found[0] == "before"
    assert await ids(driver, State.RUNNING) == sorted(found, key=["high", "before", *"abc", "after"].index)
    assert [*found, *(await ids_of_claim(one))] != []
    assert (await driver.read(Count())).running == 6


async def test_what_runs_is_settled_while_the_queue_is_paused(driver: Driver, one: Consumer) -> None:
    await push(driver, *map(job, "abcd"))
    a, b, c, d = (await one.exchange([], 4)).leases
    await driver.change(Pause())

    settlements: list[tuple[Lease, Settlement]] = [
        (a, Ack()),
        (b, RetryLater(After(0))),
        (c, Release()),
        (d, DeadLetter("failed", "no")),
    ]
    answer = await one.exchange(settlements, 10)
    assert (answer.replies, answer.leases, answer.paused) == ([Reply.OK] * 4, [], True)
    assert await ids(driver) == ["c", "b"]

    await driver.change(Resume())
    assert await ids_of_claim(one) == ["c", "b"]


async def test_a_delayed_job_becomes_ready_while_the_queue_is_paused(
    store: DriverStore, driver: Driver, one: Consumer
) -> None:
    store.clock.advance(0)
    await push(driver, job("late", due=After(1000)))
    await driver.change(Pause())
    assert (await one.exchange([], 0)).due_in == pytest.approx(1, abs=0.1)
    store.clock.advance(2)

    assert (await one.exchange([], 10)).leases == []
    assert await ids(driver) == ["late"]


async def test_a_pause_is_told_with_its_beginning(store: DriverStore, driver: Driver) -> None:
    store.clock.advance(0)
    assert await driver.read(FindPauses()) == Pauses(None, {}, 0)
    began = store.clock()
    await driver.change(Pause())
    await driver.change(Pause("Work"))
    store.clock.advance(5)
    await driver.change(Pause())
    await driver.change(Pause("Work"))
    await driver.change(Pause("Other"))

    assert await driver.read(FindPauses()) == Pauses(began, {"Work": began, "Other": began + 5000}, 0)
    await driver.change(Resume())
    await driver.change(Resume("Work"))
    assert await driver.read(FindPauses()) == Pauses(None, {"Other": began + 5000}, 0)


# Names


async def test_jobs_of_a_paused_name_are_passed_over_and_keep_their_place(driver: Driver, one: Consumer) -> None:
    await push(driver, job("a"), job("b", "Other"), job("c"), job("d", "Other", priority=Priority.LOW))
    await driver.change(Pause("Work"))
    await push(driver, job("e"), job("f", "Other"), job("high", priority=Priority.HIGH))

    answers = await claims(one)
    assert [lease.job_id for answer in answers for lease in answer.leases] == ["b", "f", "d"]
    assert not any(answer.paused for answer in answers)
    assert await ids(driver) == ["high", "a", "c", "e"]
    counts = await driver.read(Count())
    assert ([*counts.ready.values()], counts.running) == ([1, 3, 0], 3)

    await push(driver, job("g"))
    await driver.change(Resume("Work"))
    await unpark(driver)
    assert await ids_of_claim(one) == ["high", "a", "c", "e", "g"]
    assert {(await driver.read(Find(job_id))).deliveries for job_id in ("high", "a", "g")} == {1}  # type: ignore[union-attr]


async def test_a_claim_reaches_past_any_number_of_jobs_of_a_paused_name(driver: Driver, one: Consumer) -> None:
    for start in range(0, 1200, 400):
        await push(driver, *(job(f"paused-{number:04}") for number in range(start, start + 400)))
    await push(driver, job("runs", "Other"))
    await driver.change(Pause("Work"))

    assert await ids_of_claim(one, 3) == ["runs"]
    assert (await driver.read(Count())).running == 1
    await driver.change(Resume("Work"))
    await unpark(driver)
    assert await ids_of_claim(one) == [f"paused-{number:04}" for number in range(1200)]


async def test_a_read_that_waits_passes_over_a_paused_name(driver: Driver, one: Consumer) -> None:
    await driver.change(Pause("Work"))
    found: list[str] = []

    async def wait() -> None:
        while "b" not in found:
            found.extend(lease.job_id for lease in await one.wait(10, 5))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await push(driver, job("a"))
        await push(driver, job("b", "Other"))

    assert found == ["b"]
    assert await ids(driver) == ["a"]


async def test_a_job_that_was_handed_back_or_is_to_run_again_is_passed_over_with_its_attempts_kept(
    store: DriverStore, driver: Driver, one: Consumer, worker: Open
) -> None:
    store.clock.advance(0)
    await push(driver, job("back"), job("again"), job("lost"))
    gone = await worker("w2")
    (back, again, _) = (await gone.exchange([], 3)).leases
    await gone.exchange([(back, Release(refund=False)), (again, RetryLater(After(0), {"attempt": "2"}))], None)
    await driver.change(Pause("Work"))
    await gone.release(refund=False, watch=False)
    await one.reclaim()

    assert await ids_of_claim(one) == []
    await driver.change(Resume("Work"))
    await unpark(driver)
    leases = [lease for answer in await claims(one) for lease in answer.leases]
    assert {lease.job_id: lease.deliveries for lease in leases} == {"back": 2, "lost": 2, "again": 1}
    assert [lease.fields.get(b"attempt") for lease in leases if lease.job_id == "again"] == [b"2"]


async def test_a_cancel_that_was_asked_for_ends_a_job_that_would_be_passed_over(
    store: DriverStore, driver: Driver, one: Consumer, worker: Open
) -> None:
    store.clock.advance(0)
    await push(driver, job("a"))
    lost = await worker("w2")
    await lost.exchange([], 1)
    assert await driver.change(Cancel("a")) is Reply.CANCELLING
    await lost.release(refund=False, watch=False)
    await driver.change(Pause("Work"))

    answers = await claims(one)
    assert [each for answer in answers for each in answer.ended] == [("a", Reply.CANCELLED)]
    assert await driver.read(Find("a")) is None


@needs(GetStatus)
async def test_a_process_that_waits_for_a_job_hears_of_no_pause_and_of_no_other_job(
    store: DriverStore, driver: Driver, one: Consumer
) -> None:
    await push(driver, job("a"), job("b"))
    await driver.change(GetStatus(["a"], "me"))
    async with told(store) as heard:
        await driver.change(Pause())
        await driver.change(Resume())
        a, b = (await one.exchange([], 10)).leases
        await one.exchange([(b, Ack()), (a, Ack())], None)
        await until_told(heard)

    assert heard == ["changed a"]


@pytest.mark.parametrize("paused", ["", "Work"])
async def test_a_job_that_a_worker_hands_back_after_a_cancel_ends_although_nothing_can_be_claimed(
    store: DriverStore, driver: Driver, one: Consumer, paused: str
) -> None:
    store.clock.advance(0)
    await push(driver, job("a"))
    (lease,) = (await one.exchange([], 1)).leases
    await driver.change(Pause(paused))
    assert await driver.change(Cancel("a")) is Reply.CANCELLING

    assert (await one.exchange([(lease, Release())], None)).replies == [Reply.CANCELLED]

    assert await driver.read(Find("a")) is None
    counts = await driver.read(Count())
    assert (counts.totals["cancelled"], counts.totals.get("released", 0)) == (1, 0)
    await driver.change(Resume(paused))
    assert await ids_of_claim(one) == []


@pytest.mark.parametrize("paused", ["", "Work"])
async def test_a_cancelled_job_that_is_found_again_after_a_lost_reply_ends_if_it_may_not_start(
    store: DriverStore, driver: Driver, one: Consumer, paused: str
) -> None:
    store.clock.advance(0)
    await push(driver, job("a"))
    await claims(one)  # and the consumer never hears of it
    assert await driver.change(Cancel("a")) is Reply.CANCELLING
    await driver.change(Pause(paused))

    assert await one.recover([]) == []

    assert await driver.read(Find("a")) is None
    assert (await one.exchange([], 1)).ended == [("a", Reply.CANCELLED)]
    assert (await one.exchange([], 1)).ended == []


async def test_what_was_resumed_is_given_back_by_tidying_where_no_one_else_comes_to_it(
    driver: Driver, one: Consumer
) -> None:
    await push(driver, job("a"))
    await driver.change(Pause("Work"))
    assert await ids_of_claim(one) == []
    await driver.change(Resume("Work"))  # and the process that resumed it dies

    tidied = await driver.change(Tidy())
    while tidied.after:
        tidied = await driver.change(Tidy(tidied.after))
    assert await ids_of_claim(one) == ["a"]


async def test_what_waits_because_it_may_not_start_is_no_ones_backlog(
    store: DriverStore, driver: Driver, one: Consumer
) -> None:
    store.clock.advance(0)
    await push(driver, job("a"))
    await driver.change(Pause("Work"))
    assert await ids_of_claim(one) == []
    store.clock.advance(60)
    assert (await driver.read(GetBacklog())).oldest == {}


async def test_deliveries_into_a_lost_reply_are_found_again_but_for_what_may_not_start(
    driver: Driver, one: Consumer
) -> None:
    await push(driver, *map(job, "abc"))
    assert await ids_of_claim(one) == ["a", "b", "c"]  # and the consumer never hears of it
    await driver.change(Cancel("c"))
    await driver.change(Pause("Work"))

    found = await one.recover([])
    if found:  # the memory driver loses no reply
        assert [lease.job_id for lease in found] == ["a", "b", "c"]
    else:
        await driver.change(Resume("Work"))
        await unpark(driver)
        assert await ids_of_claim(one) == ["a", "b"]
