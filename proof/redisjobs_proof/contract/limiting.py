"""Limits of job names: how many jobs run at once, and how a limit is set and removed."""

import anyio
import pytest

from redisjobs.model.changes import Delete, Hold, Requeue, Tidy, Unhold
from redisjobs.model.driver import Consumer, Driver, Until
from redisjobs.model.job import Priority
from redisjobs.model.queries import Count
from redisjobs.model.transitions import Ack, After, Lease, Lingers, Release, Reply, RetryLater, Settlement, Turn
from redisjobs_proof.contract.acts import FAILED, LATER, Open, beat, outlive, settle
from redisjobs_proof.contract.limit_acts import (
    LIMITS,
    PAUSES,
    all_limits,
    claim,
    job_ids,
    limit,
    limited,
    push,
    tidy,
)
from redisjobs_proof.contract.needs import needs
from redisjobs_proof.contract.store import DriverStore

_NEEDS = LIMITS


async def test_no_more_jobs_of_a_name_run_at_once_than_its_limit_says(
    driver: Driver, one: Consumer, two: Consumer
) -> None:
    await limit(driver, "max_concurrency=2")
    await push(driver, *"abcde", limited("x", name="Other"))

    first = await claim(one)
    assert job_ids(first) == ["a", "b", "x"]
    assert job_ids(await claim(two)) == []
    second = await claim(one, (first[1], Ack()))
    assert job_ids(second) == ["c"]
    assert job_ids(await claim(two)) == []
    third = await claim(one, (first[0], Ack()), (second[0], Ack()))
    assert job_ids(third) == ["d", "e"]
    assert [lease.deliveries for lease in third] == [1, 1]


async def test_each_key_has_the_limit_of_the_name_for_itself(driver: Driver, one: Consumer) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, limited("a1", "a"), limited("a2", "a"), limited("b1", "b b"), limited("b2", "b b"), "none")

    first = await claim(one)
    assert job_ids(first) == ["a1", "b1", "none"]
    second = await claim(one, (first[1], Ack()))
    assert job_ids(second) == ["b2"]


@pytest.mark.parametrize(
    "settlement",
    [Ack(), Ack(cancelled=True), LATER, RetryLater(After(0)), Release(), Release(refund=False), FAILED],
    ids=["done", "cancelled", "later", "again", "released", "released and counted", "dead"],
)
@pytest.mark.parametrize("claims", [True, False], ids=["with a claim", "without one"])
async def test_however_a_job_ends_its_share_is_free_for_the_next_in_line(
    store: DriverStore, driver: Driver, one: Consumer, settlement: Settlement, claims: bool
) -> None:
    store.clock.advance(0)
    await limit(driver, "max_concurrency=1")
    await push(driver, "a", "b")
    (lease,) = await claim(one)

    if claims:
        (next_one,) = await claim(one, (lease, settlement))
    else:
        answer = await one.exchange([(lease, settlement)], None)
        assert answer.turns
        (next_one,) = await claim(one)

    assert next_one.job_id == ("a" if isinstance(settlement, Release) else "b")
    assert len((await all_limits(driver)).running) == 1


async def test_a_job_that_counts_for_max_concurrency_is_not_to_be_settled_while_its_thread_runs(
    store: DriverStore, driver: Driver, one: Consumer, two: Consumer
) -> None:
    await limit(driver, "max_concurrency=1")
    await limit(driver, "rate=1000/s", "Rated")
    await push(driver, "a", "b", limited("rated", name="Rated"), limited("free", name="Other"))
    counted, rated, free = await claim(one)
    before = await all_limits(driver)

    asked = [(lease, Lingers(Ack())) for lease in (counted, rated, free)]
    turn = Turn(1, 1)
    for _ in range(2):
        answer = await one.exchange(asked, None, turn=turn)
        assert answer.replies == [Reply.RUNNING, Reply.OK, Reply.OK]
    assert await all_limits(driver) == before
    assert job_ids(await claim(two)) == []
    assert await settle(two, counted, Lingers(Ack())) is Reply.LEASE_LOST

    await limit(driver, "rate=1000/s")
    assert await settle(one, counted, Lingers(Ack())) is Reply.OK
    await limit(driver, "max_concurrency=1")
    assert job_ids(await claim(one, (counted, Ack()), (rated, Ack()), (free, Ack()))) == ["b"]
    assert await settle(one, counted, Lingers(Ack())) is Reply.LEASE_LOST


async def test_a_settlement_that_is_sent_again_gives_no_share_up_that_another_job_has_by_then(
    driver: Driver, one: Consumer
) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, *"abc")
    (lease,) = await claim(one)

    for _ in range(2):
        answer = await one.exchange([(lease, Ack())], None, turn=Turn(1, 1))
        assert answer.replies == [Reply.OK]
        assert job_ids(await claim(one)) in (["b"], [])
    assert [job_id for _, _, job_id in (await all_limits(driver)).running] == ["b"]


@pytest.mark.parametrize("is_lost", [False, True], ids=["ended", "lost"])
async def test_a_worker_that_ends_or_is_lost_gives_its_shares_back(
    store: DriverStore, driver: Driver, one: Consumer, two: Consumer, is_lost: bool
) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, *"ab")
    assert job_ids(await claim(one)) == ["a"]
    assert job_ids(await claim(two)) == []

    if is_lost:
        await outlive(store, two)
    else:
        assert await one.release(refund=True, watch=False) == 1

    (lease,) = await claim(two)
    assert (lease.job_id, lease.deliveries) == ("a", 2 if is_lost else 1)
    assert job_ids(await claim(two, (lease, Ack()))) == ["b"]
    assert [worker for _, worker, _ in (await all_limits(driver)).running] == ["w2"]


async def test_a_job_that_has_to_run_alone_waits_for_its_share_as_well(
    store: DriverStore, driver: Driver, worker: Open
) -> None:
    lost, heir = await worker(max_deliveries=2), await worker("w2", max_deliveries=2)
    await limit(driver, "max_concurrency=1")
    await push(driver, "a")
    assert job_ids(await claim(lost)) == ["a"]
    await outlive(store, heir)
    await push(driver, limited("first", priority=Priority.HIGH))
    (first,) = await claim(heir)
    assert first.job_id == "first"

    (last,) = await claim(heir, (first, Ack()), idle=True)
    assert (last.job_id, last.deliveries) == ("a", 2)
    await outlive(store, await worker("w3", max_deliveries=2))
    third = await worker("w3", max_deliveries=2)
    assert job_ids(await claim(third, idle=True)) == []
    assert (await driver.read(Count())).dead == 1
    assert (await all_limits(driver)).running == []


async def test_a_read_that_waits_brings_none_over_the_limit(driver: Driver, one: Consumer) -> None:
    await limit(driver, "max_concurrency=1")
    got, until = list[str](), Until()

    async def wait() -> None:
        while not until.is_set:
            got.extend(lease.job_id for lease in await one.wait(10, 5, until))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await push(driver, *"abc", limited("x", name="Other"))
        with anyio.fail_after(10):
            while "x" not in got:  # noqa: ASYNC110
                await anyio.sleep(0.005)
        until.set()

    assert sorted(got) == ["a", "x"]
    assert [count for _, count, _ in (await all_limits(driver)).lines] == [2]


async def test_a_job_that_was_delivered_into_a_lost_reply_is_found_again_with_its_share(
    driver: Driver, one: Consumer
) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, *"ab")
    await one.exchange([], 0)
    lost = (await one.exchange([], 9)).leases

    (again,) = await one.recover([])

    assert [lease.key for lease in lost] == [again.key]
    assert job_ids(await claim(one)) == []
    assert job_ids(await claim(one, (again, Ack()))) == ["b"]


async def test_a_dead_letter_that_is_requeued_is_under_the_limit_again(driver: Driver, one: Consumer) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, *"ab")
    (lease,) = await claim(one)
    (second,) = await claim(one, (lease, FAILED))
    assert await driver.change(Requeue("a")) is Reply.OK
    assert job_ids(await claim(one)) == []
    (again,) = await claim(one, (second, Ack()))
    assert again.job_id == "a"
    assert job_ids(await claim(one, (again, FAILED))) == []
    assert await driver.change(Delete("a")) is Reply.OK
    assert (await all_limits(driver)).running == []


@needs(*PAUSES)
async def test_a_job_that_is_parked_holds_no_share(driver: Driver, one: Consumer) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, *"ab")
    assert await driver.change(Hold("a")) is Reply.HELD

    (b,) = await claim(one)
    assert b.job_id == "b"
    assert await driver.change(Unhold("a")) is Reply.OK
    assert job_ids(await claim(one)) == []
    assert job_ids(await claim(one, (b, Ack()))) == ["a"]


@needs(Tidy)
async def test_tidying_takes_no_share_from_a_job_that_runs(
    store: DriverStore, driver: Driver, one: Consumer
) -> None:
    store.clock.advance(0)
    await limit(driver, "max_concurrency=1")
    await push(driver, *"ab")
    (a,) = await claim(one)
    beat(one, a)
    await tidy(driver)

    assert job_ids(await claim(one)) == []
    assert job_ids(await claim(one, (a, Ack()))) == ["b"]


# To set and to remove


async def test_a_limit_that_is_raised_lowered_or_removed_counts_at_once(driver: Driver, one: Consumer) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, *"abcdefgh")
    held = await claim(one)
    assert job_ids(held) == ["a"]

    await limit(driver, "max_concurrency=3")
    held += await claim(one)
    assert job_ids(held) == ["a", "b", "c"]
    await limit(driver, "max_concurrency=2")
    held += await claim(one, (held.pop(0), Ack()))
    assert job_ids(held) == ["b", "c"]
    held += await claim(one, (held.pop(0), Ack()))
    assert job_ids(held) == ["c", "d"]
    await limit(driver, "")
    held += await claim(one)
    assert job_ids(held) == [*"cdefgh"]
    assert (await all_limits(driver)).limits == {}
    assert await claim(one, *((lease, Ack()) for lease in held)) == []
    assert (await all_limits(driver)).running == []


async def test_jobs_that_run_when_their_limit_is_set_are_counted_and_none_is_stopped(
    driver: Driver, one: Consumer
) -> None:
    await push(driver, *"abc", limited("key", "key"))
    running = await claim(one)
    await push(driver, "d", "e")

    await limit(driver, "max_concurrency=2")

    assert job_ids(await claim(one, (running[0], Ack()))) == []
    assert job_ids(await claim(one, (running[1], Ack()))) == ["d"]
    assert [bucket for bucket, _, _ in (await all_limits(driver)).running] == ["Limited", "Limited", "Limited key"]


async def test_of_a_limit_that_is_removed_a_long_line_goes_on_to_its_end(driver: Driver, one: Consumer) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, *(f"{number:04}" for number in range(1200)))
    leases = await claim(one)
    assert len(leases) == 1
    await limit(driver, "")

    while len(leases) < 1200 and (more := await claim(one)):
        leases += more

    assert job_ids(leases) == [f"{number:04}" for number in range(1200)]


async def test_a_limit_of_many_keys_is_removed_in_steps(driver: Driver, one: Consumer) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, *(limited(f"{way}{number}", f"k{number}") for way in "ab" for number in range(600)))
    running = await claim(one)
    while more := await claim(one):
        running += more
    assert len(running) == 600

    await limit(driver, "")

    waiting = list[Lease]()
    while more := await claim(one):
        waiting += more
    assert sorted(job_ids(waiting)) == sorted(f"b{number}" for number in range(600))
