"""Where a job stands: how many start before it, and what it waits for besides."""

import pytest

from redisjobs.model.changes import Hold, Unhold
from redisjobs.model.driver import Consumer, Driver
from redisjobs.model.job import Priority
from redisjobs.model.transitions import Ack, After, Release, Reply
from redisjobs.model.why import Ahead
from redisjobs_proof.contract.acts import FAILED, claim, job, push, settle
from redisjobs_proof.contract.limit_acts import LIMITS, limit, limited
from redisjobs_proof.contract.limit_acts import claim as claim_some
from redisjobs_proof.contract.limit_acts import push as push_limited
from redisjobs_proof.contract.needs import needs
from redisjobs_proof.contract.store import DriverStore

_NEEDS = (Ahead,)


async def test_jobs_of_higher_priority_older_ones_and_those_handed_back_start_before_a_job(
    store: DriverStore, driver: Driver, one: Consumer
) -> None:
    await push(
        store, job("high", priority=Priority.HIGH), "back", "first", "second", job("low", priority=Priority.LOW)
    )
    for lease in await claim(one, 2):
        assert await settle(one, lease, Ack() if lease.job_id == "high" else Release())
    await push(store, job("urgent", priority=Priority.HIGH))

    found = {each: (await driver.read(Ahead(each))) for each in ("urgent", "back", "first", "second", "low")}

    assert [each.ahead for each in found.values()] == [0, 1, 2, 3, 4]
    assert [each.has_more for each in found.values()] == [False] * 5


async def test_no_more_than_a_thousand_jobs_are_counted(store: DriverStore, driver: Driver) -> None:
    for start in range(0, 1200, 400):
        await push(store, *(str(number) for number in range(start, start + 400)))
    ends = [await driver.read(Ahead(each)) for each in ("1000", "1001")]
    assert [(end.ahead, end.has_more) for end in ends] == [(1000, False), (1000, True)]


@pytest.mark.parametrize("job_id", ["\0", "\udcff", "a\0b"])
async def test_no_jobs_start_before_one_that_no_store_may_be_able_to_hold(
    store: DriverStore, driver: Driver, job_id: str
) -> None:
    await push(store, "a")
    assert (await driver.read(Ahead(job_id))).ahead == 0


@needs(*LIMITS)
async def test_in_a_line_those_of_the_line_start_before_a_job(driver: Driver, one: Consumer) -> None:
    await limit(driver, "max_concurrency=1")
    await push_limited(driver, "runs", "first", "second", limited("other", "key"))
    await claim_some(one)

    standing = await driver.read(Ahead("second"))

    assert (standing.ahead, standing.bucket, standing.limit) == (1, "Limited", "max_concurrency=1")
    assert (standing.running, [*standing.holders], standing.turn_ms) == (1, [(one.worker_id, "runs")], None)


@needs(Hold, Unhold)
async def test_a_held_job_says_since_when(store: DriverStore, driver: Driver) -> None:
    store.clock.advance(0)
    await push(store, "a", "b")
    await driver.change(Hold("b"))
    held_ms = store.clock()
    store.clock.advance(5)

    assert [(await driver.read(Ahead(each))).held_ms for each in ("a", "b")] == [None, held_ms]
    await driver.change(Unhold("b"))
    assert (await driver.read(Ahead("b"))).held_ms is None


@needs(*LIMITS, Hold, Unhold)
async def test_a_held_job_keeps_its_place_in_a_line_until_it_has_its_turn(driver: Driver, one: Consumer) -> None:
    await limit(driver, "max_concurrency=1")
    await push_limited(driver, "runs", "held", "second", "third")
    (runs,) = await claim_some(one)
    assert await driver.change(Hold("held")) is Reply.HELD

    standings = [await driver.read(Ahead(each)) for each in ("held", "second")]
    assert [(each.ahead, each.bucket) for each in standings] == [(0, "Limited"), (1, "Limited")]
    (second,) = await claim_some(one, (runs, Ack()))
    assert second.job_id == "second"
    standing = await driver.read(Ahead("held"))
    assert (standing.bucket, standing.held_ms is None) == ("", False)

    assert await driver.change(Unhold("held")) is Reply.OK
    (held,) = await claim_some(one, (second, Ack()))
    assert held.job_id == "held"


async def test_a_unique_key_leads_to_its_holder(store: DriverStore, driver: Driver, one: Consumer) -> None:
    store.clock.advance(0)
    await push(store, job("a", unique="k"), job("b", unique="for a time", unique_for_ms=60_000, due=After(9_000)))

    standings = [await driver.read(Ahead(key=key)) for key in ("k", "for a time", "free")]

    assert [each.job_id for each in standings] == ["a", "b", ""]
    assert standings[0].key_ms is standings[2].key_ms is None
    assert 0 < (standings[1].key_ms or 0) <= 60_000


async def test_dead_letters_of_a_kind_are_counted_and_ended_jobs_are_remembered(
    store: DriverStore, driver: Driver, one: Consumer
) -> None:
    await push(store, "a", "b", "done")
    for lease in await claim(one):
        await settle(one, lease, Ack() if lease.job_id == "done" else FAILED)
    standings = [await driver.read(Ahead(each)) for each in ("a", "done", "never")]
    assert [(each.alike, each.has_ended) for each in standings] == [(2, False), (0, True), (0, False)]


async def test_a_push_that_was_refused_is_not_a_job_that_ended(store: DriverStore, driver: Driver) -> None:
    await push(store, job("holder", unique="k"))
    await push(store, job("refused", unique="k"), repeated=True)
    assert not (await driver.read(Ahead("refused"))).has_ended
