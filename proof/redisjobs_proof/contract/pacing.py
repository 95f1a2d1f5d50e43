"""Limits of job names: how many jobs start in a time."""

import random

import pytest

from redisjobs.model.changes import Tidy
from redisjobs.model.driver import Consumer, Driver
from redisjobs.model.transitions import Ack, After, Lease, Release, RetryLater, Settlement
from redisjobs_proof.contract.acts import Open
from redisjobs_proof.contract.limit_acts import LIMITS, all_limits, claim, job_ids, limit, push, tidy
from redisjobs_proof.contract.needs import needs
from redisjobs_proof.contract.store import DriverStore

_NEEDS = LIMITS


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


@needs(Tidy)
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


@pytest.mark.parametrize(
    ("settlement", "starts"),
    [(Release(), ["a"]), (Release(refund=False), []), (RetryLater(After(0)), [])],
    ids=str,
)
async def test_a_start_that_was_given_back_does_not_count_and_that_of_a_run_that_is_tried_again_does(
    store: DriverStore, driver: Driver, one: Consumer, settlement: Settlement, starts: list[str]
) -> None:
    store.clock.advance(0)
    await limit(driver, "rate=6/m burst=1")
    await push(driver, "a")
    (lease,) = await claim(one)

    assert job_ids(await claim(one, (lease, settlement))) == starts
    if not starts:
        store.clock.advance(10)
        assert job_ids(await claim(one)) == ["a"]


@needs(Tidy)
async def test_a_clock_that_was_set_back_stops_no_line_for_longer_than_a_burst_takes(
    store: DriverStore, driver: Driver, one: Consumer
) -> None:
    store.clock.advance(0)
    await limit(driver, "rate=6/m burst=2")
    await push(driver, *"abcd")
    assert len(await claim(one)) == 2
    store.clock.advance(-86_400)
    await tidy(driver)
    assert job_ids(await claim(one)) == []
    store.clock.advance(10)

    assert job_ids(await claim(one)) == ["c"]


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
