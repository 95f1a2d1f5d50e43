"""Jobs over a limit wait in lines, one for each name and key."""

import pytest

from redisjobs.model.changes import Cancel, Hold, Pause, Resume, Tidy, Unhold
from redisjobs.model.driver import Consumer, Driver, Notification
from redisjobs.model.job import Priority, State, WhyWaiting
from redisjobs.model.queries import Count, Scan
from redisjobs.model.transitions import Ack, After, Reply
from redisjobs_proof.contract.acts import Open, eventually, listening, outlive, row_of, rows_of
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
    turns,
)
from redisjobs_proof.contract.needs import needs
from redisjobs_proof.contract.store import DriverStore

_NEEDS = LIMITS


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


async def test_what_waits_in_line_is_ready_and_is_found_listed_and_counted_so(
    driver: Driver, one: Consumer, two: Consumer
) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, *"abc", limited("x", name="Other"))
    await claim(one)

    row = await row_of(driver, "b")
    assert (row.state, row.worker, row.deliveries) == (State.READY, "", 0)
    assert (row.why_waiting, (await row_of(driver, "a")).why_waiting) == (WhyWaiting.LIMIT, None)
    assert [row.job_id for row in (await driver.read(Scan(State.READY))).rows] == ["b", "c"]
    assert [row.job_id for row in await rows_of(driver, State.RUNNING, 9)] == ["a", "x"]
    counts = await driver.read(Count())
    assert (counts.running, counts.ready[Priority.NORMAL]) == (2, 2)
    assert (await two.reclaim(others=True)).others == 2


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


async def test_lines_and_running_jobs_are_listed_in_steps(driver: Driver, one: Consumer) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, *(limited(f"{way}{number}", f"k {number}") for way in "ab" for number in range(700)))
    while len((await all_limits(driver)).lines) < 700:
        await claim(one)

    told = await all_limits(driver)

    assert sorted(told.lines) == sorted((f"Limited k {number}", 1, None) for number in range(700))
    assert told.running == sorted((f"Limited k {number}", "w1", f"a{number}") for number in range(700))


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


# When a worker looks


async def test_a_settlement_without_a_claim_says_nothing_of_turns_where_no_one_waits(
    driver: Driver, one: Consumer
) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, "a")
    (lease,) = await claim(one)

    assert not (await one.exchange([(lease, Ack())], None)).turns


@needs(Tidy)
async def test_tidying_lets_no_one_look_before_the_next_of_a_line_may_start(
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


@needs(Tidy)
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
        # In one exchange, as it was: else another worker's job would overtake the line.
        held = list((await one.exchange([(lease, Ack()) for lease in held], 9)).leases)

    assert ran == ["z0", "z1", "z2", "z3"]


async def test_after_a_look_at_many_lines_of_which_none_can_go_on_the_next_look_is_at_once(
    driver: Driver, one: Consumer, two: Consumer
) -> None:
    await limit(driver, "max_concurrency=1")
    await push(driver, *(limited(f"{way}{number}", f"k{number:03}") for way in "ab" for number in range(120)))
    assert len(await claim(one)) == 120
    await limit(driver, "max_concurrency=1 rate=1000/s")  # all lines have a turn, and none may start a job

    looks = [await two.exchange([], 9) for _ in range(3)]

    assert [look.due_in for look in looks] == [0, 0, None]
    assert await turns(driver) == [None] * 120


@needs(Tidy)
@pytest.mark.parametrize("how", ["fenced", "tidied"])
async def test_a_turn_is_told_to_all_where_the_worker_that_was_to_look_may_be_gone(
    store: DriverStore, driver: Driver, one: Consumer, two: Consumer, how: str
) -> None:
    store.clock.advance(0)
    await limit(driver, "max_concurrency=1")
    await push(driver, *"ab")
    (a,) = await claim(one)
    assert (await one.exchange([(a, Ack())], None)).replies == [Reply.OK]
    last_ms = store.clock() + 9_000_000

    async with listening(two.listen) as heard:
        if how == "fenced":
            assert list((await outlive(store, two)).fenced) == ["w1"]
        else:
            await tidy(driver)
        await push(driver, limited("last", due=After(9_000_000)))
        await eventually(lambda: heard[-1].value == str(last_ms))

    assert heard[1:-1] == [Notification("due", str(last_ms - 9_000_000))]
    assert job_ids(await claim(two)) == ["b"]
