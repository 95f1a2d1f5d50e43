"""Limits of job names: how many run at once, how many start in a time, and what waits in line."""

import random
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from redisjobs.model.changes import Cancel, Delete, Hold, Pause, Requeue, Resume, SetLimit, Tidy, Unhold, Unpark
from redisjobs.model.driver import Consumer, Driver, Notification, Until
from redisjobs.model.job import Priority, State, WhyWaiting
from redisjobs.model.queries import Count, Find, FindLimits, LimitsFound, Scan
from redisjobs.model.transitions import (
    Ack,
    After,
    Lease,
    Lingers,
    NewJob,
    Release,
    Reply,
    RetryLater,
    Settlement,
    Turn,
)
from redisjobs.testing.driver_contract.acts import FAILED, LATER, Open, beat, outlive, row_of, rows_of, settle
from redisjobs.testing.driver_contract.needs import needs
from redisjobs.testing.store import DriverStore

pytestmark = pytest.mark.anyio

LIMITS = (FindLimits, SetLimit)
PAUSES = (*LIMITS, Hold, Pause, Resume, Unhold, Unpark)


def limited(job_id: str, key: str = "", name: str = "Limited", **options: Any) -> NewJob:
    fields = ["name", name, "parameters", "{}", *(["limit_key", key] if key else [])]
    return NewJob(job_id, fields, **options)


async def push(driver: Driver, *jobs: NewJob | str) -> None:
    made = [job if isinstance(job, NewJob) else limited(job) for job in jobs]
    for start in range(0, len(made), 500):
        await driver.push(made[start : start + 500], repeated=False)


async def limit(driver: Driver, text: str, name: str = "Limited") -> None:
    """Set a limit, to the end."""
    after = await driver.change(SetLimit(name, text))
    while after:
        after = await driver.change(SetLimit(name, text, after))


async def claim(consumer: Consumer, *settlements: tuple[Lease, Settlement], idle: bool = False) -> list[Lease]:
    """Settle some, and claim all that there is."""
    answer = await consumer.exchange(list(settlements), 50, idle=idle)
    assert {*answer.replies} <= {Reply.OK, Reply.CANCELLED}
    leases = list(answer.leases)
    while answer.more or answer.due_in == 0:
        answer = await consumer.exchange([], 50, idle=idle)
        leases += answer.leases
    return leases


def job_ids(leases: list[Lease]) -> list[str]:
    return [lease.job_id for lease in leases]


async def all_limits(driver: Driver) -> LimitsFound:
    """All that there is to tell, of all steps."""
    step = await driver.read(FindLimits())
    limits, lines, running = dict(step.limits), [*step.lines], [*step.running]
    while step.after:
        step = await driver.read(FindLimits(step.after))
        lines += step.lines
        running += step.running
    return LimitsFound(limits, lines, sorted(running))


# How many run at once


@needs(*LIMITS)
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


@needs(*LIMITS)
async def test_each_key_has_the_limit_of_the_name_for_itself(driver: Driver, one: Consumer) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, limited("a1", "a"), limited("a2", "a"), limited("b1", "b b"), limited("b2", "b b"), "none")

    first = await claim(one)
    assert job_ids(first) == ["a1", "b1", "none"]
    second = await claim(one, (first[1], Ack()))
    assert job_ids(second) == ["b2"]


@needs(*LIMITS)
async def test_a_job_of_a_line_keeps_its_place_before_what_came_after_it(driver: Driver, one: Consumer) -> None:
    await limit(driver, "max_concurrency=1")
    low, high = {"priority": Priority.LOW}, {"priority": Priority.HIGH}
    await push(driver, "a", limited("low", **low), limited("b"), limited("high", **high), limited("c"))

    order, held = [], await claim(one)
    while held:
        (lease,) = held
        order.append(lease.job_id)
        if lease.job_id == "b":
            await push(driver, limited("late"))
        held = await claim(one, (lease, Ack()))

    assert order == ["high", "a", "b", "c", "late", "low"]


@needs(*LIMITS)
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


@needs(*LIMITS)
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


@needs(*LIMITS)
async def test_a_settlement_without_a_claim_says_nothing_of_turns_where_nobody_waits(
    driver: Driver, one: Consumer
) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, "a")
    (lease,) = await claim(one)

    assert not (await one.exchange([(lease, Ack())], None)).turns


@needs(*LIMITS)
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


@needs(*LIMITS)
async def test_a_worker_that_ends_gives_its_shares_back(driver: Driver, one: Consumer, two: Consumer) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, *"ab")
    assert job_ids(await claim(one)) == ["a"]

    assert await one.release(refund=True, watch=False) == 1

    (lease,) = await claim(two)
    assert (lease.job_id, lease.deliveries) == ("a", 1)
    assert job_ids(await claim(two, (lease, Ack()))) == ["b"]


@needs(*LIMITS)
async def test_a_worker_that_is_lost_gives_its_shares_back_with_its_lease(
    store: DriverStore, driver: Driver, one: Consumer, two: Consumer, worker: Open
) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, *"ab")
    assert job_ids(await claim(one)) == ["a"]
    assert job_ids(await claim(two)) == []

    await outlive(store, two)

    (lease,) = await claim(two)
    assert (lease.job_id, lease.deliveries) == ("a", 2)
    assert job_ids(await claim(two, (lease, Ack()))) == ["b"]
    assert [worker for _, worker, _ in (await all_limits(driver)).running] == ["w2"]


@needs(*LIMITS)
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


@needs(*LIMITS)
async def test_a_job_that_leaves_its_line_to_wait_until_it_can_run_alone_lets_the_next_one_start(
    store: DriverStore, driver: Driver, worker: Open
) -> None:
    lost, heir = await worker(max_deliveries=2), await worker("w2", max_deliveries=2)
    await push(driver, "a")
    await claim(lost)
    await outlive(store, heir)
    await push(driver, limited("first", priority=Priority.HIGH))
    (first,) = await claim(heir)
    await limit(driver, "max_concurrency=1")
    busy = await worker("w3", max_deliveries=2)
    assert await claim(busy, idle=True) == []
    await push(driver, "b", limited("other", name="Other"))
    assert job_ids(await claim(busy)) == ["other"]
    assert [count for _, count, _ in (await all_limits(driver)).lines] == [2]

    assert (await heir.exchange([(first, Ack())], None)).replies == [Reply.OK]

    assert job_ids([*await claim(busy), *await claim(busy)]) == ["b"]


@needs(*LIMITS)
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


@needs(*LIMITS)
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


@needs(*LIMITS)
async def test_what_waits_in_line_is_ready_and_is_found_listed_and_counted_so(
    driver: Driver, one: Consumer, worker: Open
) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, *"abc", limited("x", name="Other"))
    await claim(one)

    row = await driver.read(Find("b"))
    assert row is not None
    assert (row.state, row.worker, row.deliveries) == (State.READY, "", 0)
    assert [row.job_id for row in await rows_of(driver, State.READY, 9)] == ["b", "c"]
    assert [row.job_id for row in await rows_of(driver, State.RUNNING, 9)] == ["a", "x"]
    counts = await driver.read(Count())
    assert (counts.running, counts.ready[Priority.NORMAL]) == (2, 2)
    assert (await (await worker("w2")).reclaim(others=True)).others == 2


@needs(*LIMITS, Scan)
async def test_what_waits_in_line_is_gone_through_with_what_is_ready(driver: Driver, one: Consumer) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, *"abc")
    await claim(one)

    assert [row.job_id for row in (await driver.read(Scan(State.READY))).rows] == ["b", "c"]


@needs(*LIMITS)
async def test_a_job_that_is_cancelled_in_line_is_gone_and_the_next_one_starts(
    driver: Driver, one: Consumer
) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, *"abc")
    (lease,) = await claim(one)
    assert await driver.change(Cancel("b")) is Reply.CANCELLED

    (last,) = await claim(one, (lease, Ack()))
    assert last.job_id == "c"
    await push(driver, "d")
    assert job_ids(await claim(one)) == []
    assert await driver.change(Cancel("d")) is Reply.CANCELLED
    assert job_ids(await claim(one, (last, Ack()))) == []
    await push(driver, "e")
    assert job_ids(await claim(one)) == ["e"]


@needs(*LIMITS)
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


# How many start in a time


@needs(*LIMITS)
async def test_no_more_jobs_start_in_a_time_than_the_rate_says_after_a_burst(
    store: DriverStore, driver: Driver, one: Consumer
) -> None:
    store.clock.advance(0)
    await limit(driver, "rate=6/m burst=2")
    await push(driver, *"abcdef")

    first = await claim(one)
    assert job_ids(first) == ["a", "b"]
    assert job_ids(await claim(one, (first[0], Ack()))) == []
    started = []
    for _ in range(4):
        store.clock.advance(9.999)
        assert job_ids(await claim(one)) == []
        store.clock.advance(0.001)
        started += job_ids(await claim(one))
    assert started == ["c", "d", "e", "f"]


@needs(*LIMITS, Tidy)
@pytest.mark.parametrize("seed", range(5))
async def test_whatever_happens_no_more_jobs_start_in_any_time_than_the_rate_says(
    store: DriverStore, driver: Driver, worker: Open, seed: int
) -> None:
    rng, workers = random.Random(seed), [await worker(), await worker("w2")]
    every_ms, burst, pushed = 200, 3, 0
    started, held = list[int](), {consumer: list[Lease]() for consumer in workers}
    store.clock.advance(0)
    await limit(driver, "rate=5/s burst=3")
    for _ in range(150):
        consumer = rng.choice(workers)
        match rng.choice(("push", "claim", "claim", "end", "advance", "advance", "tidy", "recover")):
            case "push":
                number = rng.randint(1, 4)
                await push(driver, *(f"{pushed + more}" for more in range(number)))
                pushed += number
            case "claim" | "end" as act:
                ended = [held[consumer].pop() for _ in held[consumer][:3]] if act == "end" else []
                outcomes = [(lease, Ack() if rng.random() < 0.7 else RetryLater(After(0))) for lease in ended]
                found = list((await consumer.exchange(outcomes, rng.randint(1, 9))).leases)
                started += [store.clock()] * len(found)
                held[consumer] += found
            case "advance":
                store.clock.advance(rng.randint(1, 500) / 1000)
            case "tidy":
                store.clock.advance(60)
                await tidy(driver)
            case _:
                assert await consumer.recover(held[consumer]) == []

    assert len(started) > 30
    for first, at_ms in enumerate(started):
        for more, later_ms in enumerate(started[first:]):
            assert later_ms - at_ms >= (more - burst + 1) * every_ms


@needs(*LIMITS)
async def test_an_answer_tells_when_the_next_in_line_may_start_by_its_rate(
    store: DriverStore, driver: Driver, one: Consumer
) -> None:
    store.clock.advance(0)
    await limit(driver, "rate=6/m burst=1")
    await push(driver, *"ab")

    await one.exchange([], 0)
    answer = await one.exchange([], 9)

    assert job_ids(list(answer.leases)) == ["a"]
    assert answer.due_in == 10
    assert (await all_limits(driver)).lines == [("Limited", 1, store.clock() + 10_000)]


@needs(*LIMITS)
@pytest.mark.parametrize(
    ("rate", "at_once", "of_second"), [("1/s", 1, 2), ("6/s", 1, 7), ("10/s", 2, 11), ("100/s", 11, 109)]
)
async def test_a_rate_without_a_burst_is_smooth(
    store: DriverStore, driver: Driver, one: Consumer, rate: str, at_once: int, of_second: int
) -> None:
    store.clock.advance(0)
    await limit(driver, f"rate={rate}")
    await push(driver, *(f"{number}" for number in range(150)))

    started = await claim(one)
    assert len(started) == at_once
    for _ in range(49):
        store.clock.advance(0.02)
        started += await claim(one)
    assert len(started) == of_second


@needs(*LIMITS)
async def test_a_start_that_is_up_to_a_tenth_of_a_second_late_costs_no_rate(
    store: DriverStore, driver: Driver, one: Consumer
) -> None:
    store.clock.advance(0)
    await limit(driver, "rate=5/s")
    await push(driver, *(f"{number}" for number in range(50)))

    started = await claim(one)
    for _ in range(100):
        store.clock.advance(0.07)  # so each is late, as if its worker had been woken late
        started += await claim(one)
    assert len(started) == 1 + int((100 * 0.07 + 0.1) / 0.2)


@needs(*LIMITS)
async def test_a_burst_is_whole_again_after_a_rest_and_no_larger(
    store: DriverStore, driver: Driver, one: Consumer
) -> None:
    store.clock.advance(0)
    await limit(driver, "rate=6/m burst=3")
    await push(driver, *"abc")
    assert len(await claim(one)) == 3
    store.clock.advance(3600)
    await push(driver, *"defgh")

    assert job_ids(await claim(one)) == ["d", "e", "f"]


@needs(*LIMITS)
@pytest.mark.parametrize(("refund", "starts"), [(True, ["a"]), (False, [])])
async def test_a_start_that_was_given_back_does_not_count(
    store: DriverStore, driver: Driver, one: Consumer, refund: bool, starts: list[str]
) -> None:
    store.clock.advance(0)
    await limit(driver, "rate=6/m burst=1")
    await push(driver, "a")
    (lease,) = await claim(one)

    assert job_ids(await claim(one, (lease, Release(refund=refund)))) == starts


@needs(*LIMITS)
async def test_a_run_that_is_tried_again_counts_as_a_start(
    store: DriverStore, driver: Driver, one: Consumer
) -> None:
    store.clock.advance(0)
    await limit(driver, "rate=6/m burst=1")
    await push(driver, "a")
    (lease,) = await claim(one)

    assert job_ids(await claim(one, (lease, RetryLater(After(0))))) == []
    store.clock.advance(10)
    assert job_ids(await claim(one)) == ["a"]


@needs(*LIMITS, Tidy)
async def test_a_clock_that_was_set_back_stops_no_line_for_longer_than_a_burst_takes(
    store: DriverStore, driver: Driver, one: Consumer
) -> None:
    store.clock.advance(0)
    await limit(driver, "rate=6/m burst=2")
    await push(driver, *"abcd")
    assert len(await claim(one)) == 2
    store.clock.advance(-86_400)
    after: str | None = None
    while after != "":
        after = (await driver.change(Tidy(after or ""))).after
    assert job_ids(await claim(one)) == []
    store.clock.advance(10)

    assert job_ids(await claim(one)) == ["c"]


@needs(*LIMITS)
async def test_a_rate_and_a_number_at_once_hold_both(store: DriverStore, driver: Driver, one: Consumer) -> None:
    store.clock.advance(0)
    await limit(driver, "max_concurrency=2 rate=6/m burst=1")
    await push(driver, *"abcd")
    (a,) = await claim(one)
    store.clock.advance(10)
    (b,) = await claim(one)
    store.clock.advance(10)
    assert job_ids(await claim(one)) == []

    (c,) = await claim(one, (a, Ack()))
    assert job_ids(await claim(one, (b, Ack()))) == []
    store.clock.advance(10)
    assert (c.job_id, job_ids(await claim(one))) == ("c", ["d"])


# When somebody looks


async def tidy(driver: Driver) -> None:
    """Look for what was left behind, to the end."""
    after = (await driver.change(Tidy())).after
    while after:
        after = (await driver.change(Tidy(after))).after


async def turns(driver: Driver) -> list[int | None]:
    """When the next of each line may start, ms."""
    return [at_ms for _, _, at_ms in (await all_limits(driver)).lines]


@needs(*LIMITS, Tidy)
async def test_tidying_lets_nobody_look_before_the_next_of_a_line_may_start(
    store: DriverStore, driver: Driver, one: Consumer
) -> None:
    store.clock.advance(0)
    await limit(driver, "rate=1/h burst=1")
    await limit(driver, "max_concurrency=1", name="Alone")
    await push(driver, *"ab", limited("x", name="Alone"), limited("y", name="Alone"))
    await claim(one)
    at_ms = store.clock() + 3_600_000
    store.clock.advance(61)

    await tidy(driver)

    assert await turns(driver) == [None, at_ms]
    assert (await one.exchange([], 9)).due_in == 3539


@needs(*LIMITS, Tidy)
async def test_a_line_goes_on_however_many_others_wait_for_their_rate(
    store: DriverStore, driver: Driver, one: Consumer
) -> None:
    store.clock.advance(0)
    await limit(driver, "rate=1/h burst=1")
    await limit(driver, "max_concurrency=1", name="Alone")
    await push(driver, *(limited(f"{way}{number}", f"k{number:03}") for way in "ab" for number in range(120)))
    await claim(one, *((lease, Ack()) for lease in await claim(one)))
    await push(driver, *(limited(f"z{number}", name="Alone") for number in range(4)))
    held, ran = await claim(one), list[str]()

    while held:
        ran += job_ids(held)
        store.clock.advance(61)
        await tidy(driver)
        # In one exchange, as it was, or another worker would come before the line.
        held = list((await one.exchange([(lease, Ack()) for lease in held], 9)).leases)

    assert ran == ["z0", "z1", "z2", "z3"]


@needs(*LIMITS)
async def test_after_a_look_at_many_lines_of_which_none_can_go_on_the_next_look_is_at_once(
    driver: Driver, one: Consumer, two: Consumer
) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, *(limited(f"{way}{number}", f"k{number:03}") for way in "ab" for number in range(120)))
    assert len(await claim(one)) == 120
    await limit(driver, "max_concurrency=1 rate=1000/s")  # all have a turn, and none has room

    looks = [await two.exchange([], 9) for _ in range(3)]

    assert [look.due_in for look in looks] == [0, 0, None]
    assert await turns(driver) == [None] * 120


@needs(*LIMITS)
async def test_a_rate_that_is_raised_counts_from_its_first_start_on(
    store: DriverStore, driver: Driver, one: Consumer
) -> None:
    store.clock.advance(0)
    await limit(driver, "rate=1/h burst=1")
    await push(driver, *"abc")
    assert job_ids(await claim(one)) == ["a"]

    await limit(driver, "rate=100/s burst=100")

    assert (await one.exchange([], 9)).due_in == 0.01
    store.clock.advance(0.01)
    assert job_ids(await claim(one)) == ["b"]


async def told_by(
    store: DriverStore, driver: Driver, ear: Consumer, act: Callable[[], Awaitable[object]]
) -> list[Notification]:
    """What a worker hears of what is done."""
    heard, last = list[Notification](), Notification("due", str(store.clock() + 9_000_000))
    subscribed, over = anyio.Event(), anyio.Event()

    def hear(notification: Notification) -> None:
        heard.append(notification)
        subscribed.set()
        if notification == last:
            over.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ear.listen, hear)
        with anyio.fail_after(10):
            await subscribed.wait()
            await act()
            await driver.push([limited("last", due=After(9_000_000))], repeated=False)
            await over.wait()
        tasks.cancel_scope.cancel()
    return heard[1:-1]


@needs(*LIMITS, Tidy)
@pytest.mark.parametrize("how", ["fenced", "tidied"])
async def test_a_turn_is_told_to_all_where_the_worker_that_was_to_look_may_be_gone(
    store: DriverStore, driver: Driver, one: Consumer, two: Consumer, how: str
) -> None:
    store.clock.advance(0)
    await limit(driver, "max_concurrency=1")
    await push(driver, *"ab")
    (a,) = await claim(one)
    assert (await one.exchange([(a, Ack())], None)).replies == [Reply.OK]
    turn = Notification("due", str(store.clock()))

    async def act() -> None:
        if how == "fenced":
            assert list((await outlive(store, two)).fenced) == ["w1"]
        else:
            await tidy(driver)

    assert await told_by(store, driver, two, act) == [turn]
    assert job_ids(await claim(two)) == ["b"]


# To set and to remove


@needs(*LIMITS)
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


@needs(*LIMITS)
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


@needs(*LIMITS)
async def test_of_a_limit_that_is_removed_a_long_line_goes_on_to_its_end(driver: Driver, one: Consumer) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, *(f"{number:04}" for number in range(1200)))
    leases = await claim(one)
    assert len(leases) == 1
    await limit(driver, "")

    while len(leases) < 1200 and (more := await claim(one)):
        leases += more

    assert job_ids(leases) == [f"{number:04}" for number in range(1200)]


@needs(*LIMITS)
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


@needs(*LIMITS)
async def test_it_is_told_what_has_limits_who_holds_shares_and_what_waits(
    driver: Driver, one: Consumer, two: Consumer
) -> None:
    await limit(driver, "max_concurrency=1 rate=100/s burst=7")
    await limit(driver, "max_concurrency=5", name="Idle")
    await push(driver, "a", limited("k1", "key"))
    await claim(one)
    await push(driver, "b", "c", limited("k2", "key"))
    await claim(two)

    told = await all_limits(driver)

    assert told.limits == {"Limited": "max_concurrency=1 rate=100/s burst=7", "Idle": "max_concurrency=5"}
    assert told.lines == [("Limited", 2, None), ("Limited key", 1, None)]
    assert told.running == [("Limited", "w1", "a"), ("Limited key", "w1", "k1")]


# Beside what may not start


@needs(*PAUSES)
async def test_a_job_of_a_line_that_is_held_lets_the_next_one_pass_and_starts_when_it_is_let_go(
    driver: Driver, one: Consumer
) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, *"abc")
    (a,) = await claim(one)
    assert await driver.change(Hold("b")) is Reply.HELD

    (c,) = await claim(one, (a, Ack()))
    assert c.job_id == "c"
    assert await driver.change(Unhold("b")) is Reply.OK
    assert job_ids(await claim(one)) == []
    assert job_ids(await claim(one, (c, Ack()))) == ["b"]


@needs(*PAUSES)
async def test_a_line_of_a_paused_name_waits_and_goes_on_when_it_is_resumed(driver: Driver, one: Consumer) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, *"ab", limited("k1", "key"), limited("k2", "key"))
    first = await claim(one)
    await driver.change(Pause("Limited"))

    assert job_ids(await claim(one, *((lease, Ack()) for lease in first))) == []
    assert sorted(await rows_of(driver, State.READY, 9), key=lambda row: row.job_id)[0].job_id == "b"
    await driver.change(Resume("Limited"))
    assert sorted(job_ids(await claim(one))) == ["b", "k2"]


@needs(*PAUSES)
async def test_of_a_paused_queue_no_line_moves_until_it_is_resumed(driver: Driver, one: Consumer) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, *"ab")
    first = await claim(one)
    await driver.change(Pause())

    answer = await one.exchange([(first[0], Ack())], 9)
    assert (answer.leases, answer.paused) == ([], True)
    await driver.change(Resume())
    assert job_ids(await claim(one)) == ["b"]


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


@needs(*LIMITS, Tidy)
async def test_tidying_takes_no_share_from_a_job_that_runs(
    store: DriverStore, driver: Driver, one: Consumer
) -> None:
    store.clock.advance(0)
    await limit(driver, "max_concurrency=1")
    await push(driver, *"ab")
    (a,) = await claim(one)
    beat(one, a)
    after: str | None = None
    while after != "":
        after = (await driver.change(Tidy(after or ""))).after

    assert job_ids(await claim(one)) == []
    assert job_ids(await claim(one, (a, Ack()))) == ["b"]


@needs(*LIMITS)
async def test_a_job_that_waits_in_the_line_of_a_limit_says_so(driver: Driver, one: Consumer) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, "a", "b")
    assert job_ids(await claim(one)) == ["a"]

    assert (await row_of(driver, "a")).why_waiting is None
    assert (await row_of(driver, "b")).why_waiting is WhyWaiting.LIMIT
