"""The statistics of a queue: what workers have counted, by minute and by ten minutes."""

from collections.abc import Mapping

import pytest

from redisjobs.model.driver import Consumer
from redisjobs.model.recording import (
    MOST_CAUSES,
    MOST_NAMES,
    OTHER,
    FindIntervals,
    IntervalFound,
    Record,
    Recorded,
    Sums,
)
from redisjobs.model.transitions import After
from redisjobs_proof.contract.acts import claim, job, push
from redisjobs_proof.contract.store import DriverStore

_NEEDS = (FindIntervals, Record)

DONE: Sums = {"completed": 3, "run50": 2, "run100": 1, "wait5": 3}
DIED: Sums = {"dead": 1, "run50": 1, "wait5": 1}
BEGIN = 1_732_438_800_000  # a full hour


def counted(number: int, recorder: str = "r1", causes: Sums | None = None, **names: Sums) -> Record:
    return Record(recorder, number, names, causes or {})


async def read(store: DriverStore, minutes: int = 1, count: int = 60, name: str = "") -> list[IntervalFound]:
    """Return all intervals, with all names and causes if no name is given."""
    found, after = list[IntervalFound](), None
    while after != "":
        query = FindIntervals(minutes, count, name, is_whole=not name, after=after or "")
        step = await store.driver.read(query)
        found += step.intervals
        after = step.after
    return found


async def last(store: DriverStore) -> IntervalFound:
    return (await read(store))[-1]


@pytest.fixture
def timed(store: DriverStore) -> DriverStore:
    """The store, with a clock that stands still at a full hour."""
    store.clock.set_to = BEGIN
    return store


async def test_what_several_workers_have_counted_adds_up(timed: DriverStore, one: Consumer, two: Consumer) -> None:
    one.sync.change(counted(1, Send=DONE, Pay=DIED, causes={"0123456789ab": 1}))
    two.sync.change(counted(1, "r2", Send=DONE, causes={"worker lost": 2}))
    one.sync.change(counted(2, Send=DIED, causes={"0123456789ab": 1}))
    for consumer in (one, two):
        consumer.sync.close()

    found = await last(timed)

    assert found.names == {
        "Send": {"completed": 6, "dead": 1, "run50": 5, "run100": 2, "wait5": 7},
        "Pay": DIED,
    }
    assert found.total == {"completed": 6, "dead": 2, "run50": 6, "run100": 2, "wait5": 8}
    assert found.causes == {"0123456789ab": 2, "worker lost": 2}


async def test_a_record_that_is_sent_again_counts_once(timed: DriverStore, one: Consumer) -> None:
    for _ in range(2):
        await timed.driver.change(counted(7, Send=DONE))
    timed.clock.advance(60)
    await timed.driver.change(counted(7, Send=DONE))
    for late in (6, 7):  # a call that was given up may arrive after the ones that followed it
        await timed.driver.change(counted(late, Send=DONE))
    await timed.driver.change(counted(7, "another", Send=DONE))

    assert [each.total for each in await read(timed) if each.total] == [DONE, DONE]


async def test_a_minute_and_ten_minutes_begin_by_the_stores_clock(timed: DriverStore, one: Consumer) -> None:
    timed.clock.advance(59.5)
    assert (await timed.driver.change(counted(1, Send=DONE))).minute_in_ms == 500
    timed.clock.advance(0.5)
    assert (await timed.driver.change(counted(2, Send=DIED))) == Recorded(60_000, 1)
    timed.clock.advance(600)
    await timed.driver.change(counted(3, Send=DONE))

    minutes, tens = await read(timed), await read(timed, 10, 6)

    hour = BEGIN // 3_600_000
    assert [each.number - 60 * hour for each in minutes] == [0, 1, 11]
    assert [each.total for each in minutes] == [DONE, DIED, DONE]
    assert [each.number - 6 * hour for each in tens] == [0, 1]
    assert [each.total["run50"] for each in tens] == [3, 2]
    assert [each.number for each in await read(timed, count=2)] == [60 * hour + 11]


async def test_a_clock_that_is_set_back_loses_nothing(timed: DriverStore, one: Consumer) -> None:
    for number, seconds in ((1, 0), (2, 120), (3, -120)):
        timed.clock.advance(seconds)
        await timed.driver.change(counted(number, Send=DONE))
    timed.clock.advance(180)

    assert [each.total["completed"] for each in await read(timed)] == [6, 3]


async def test_the_first_record_of_a_minute_notes_the_state_of_the_queue(
    timed: DriverStore, one: Consumer
) -> None:
    await push(timed, "a", "b", job("c", due=After(60_000)))
    await claim(one, 1)

    await timed.driver.change(counted(0))
    await push(timed, "d")
    await timed.driver.change(counted(1, Send=DONE))

    sample = dict((await last(timed)).sample)
    assert sample.pop("oldest_ms") >= 0
    counts = {"ready": 1, "running": 1, "delayed": 1, "suspended": 0, "dead": 0}
    assert sample == counts | {"pushed": 3, "workers": 1}
    assert dict((await read(timed, 10, 1))[0].sample)["pushed"] == 3
    timed.clock.advance(60)
    await timed.driver.change(counted(0))
    assert (await last(timed)).sample["pushed"] == 4


async def test_a_query_gets_what_it_asks_for(timed: DriverStore, one: Consumer) -> None:
    await timed.driver.change(counted(1, Send=DONE, Pay=DIED, causes={"worker lost": 1}))

    (of_one,) = await read(timed, name="Send")
    (totals,) = (await timed.driver.read(FindIntervals(1, 60))).intervals

    assert (of_one.total, of_one.names, of_one.causes) == ({}, {"Send": DONE}, {})
    assert (totals.total["dead"], totals.names, totals.causes) == (1, {}, {})
    assert of_one.sample == totals.sample != {}
    assert [each.names for each in await read(timed, name="Other")] == [{}]
    assert (await timed.driver.read(FindIntervals(1, 60, after=str(totals.number + 1)))).intervals == []


async def test_names_and_causes_beyond_the_most_count_as_others(timed: DriverStore, one: Consumer) -> None:
    def many(start: int, end: int) -> Mapping[str, Sums]:
        return {f"Name{number}": DIED for number in range(start, end)}

    for number in range(5):
        causes = {f"{number:06d}{each:06d}": 1 for each in range(20)}
        await timed.driver.change(Record("r1", number + 1, many(50 * number, 50 * number + 50), causes))
    await timed.driver.change(Record("r1", 6, many(0, 1), {"000000000000": 1}))

    found = await last(timed)

    assert len(found.names) == MOST_NAMES + 1
    assert found.names["Name0"]["dead"] == 2
    assert found.names[OTHER]["dead"] == 50
    assert found.total["dead"] == 251
    assert len(found.causes) == MOST_CAUSES + 1
    assert (found.causes["000000000000"], found.causes[OTHER]) == (2, 50)


async def test_many_intervals_come_in_steps_each_once(timed: DriverStore, one: Consumer) -> None:
    for number in range(250):
        timed.clock.advance(60)
        await timed.driver.change(counted(number + 1, Send=DONE))

    first = await timed.driver.read(FindIntervals(1, 245))
    numbers = [each.number for each in await read(timed, count=245)]

    assert first.after != ""
    assert len(first.intervals) <= 120
    assert numbers == [*range(BEGIN // 60_000 + 6, BEGIN // 60_000 + 251)]
