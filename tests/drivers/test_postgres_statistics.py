"""Statistics in Postgres beside other transactions, and large ones: what the contract knows nothing of."""

import orjson
import pytest
from postgres_store import Other, PostgresStore
from postgres_store import standing_clock as standing_clock
from postgres_store import store as store
from store import eventually

from redisjobs.model.recording import BUCKETS, FindIntervals, IntervalFound, Record

pytestmark = [pytest.mark.slow, pytest.mark.anyio, pytest.mark.usefixtures("standing_clock")]

LARGE = {f"Name{number}": {f"run{bucket}": 1 for bucket in BUCKETS} for number in range(200)}


async def last(store: PostgresStore) -> IntervalFound:
    return (await store.driver.read(FindIntervals(1, 1, is_whole=True))).intervals[-1]


async def test_what_two_workers_record_at_once_adds_up(store: PostgresStore, other: Other) -> None:
    other.begin(Record("r1", 1, {"A": {"completed": 1}, "B": {"dead": 1}}, {"expired": 1}))

    second = other.change(Record("r2", 1, {"A": {"completed": 2}}, {"expired": 2}))
    await eventually(other.is_waited_for)
    other.transaction.commit()
    second.result(5)

    found = await last(store)
    assert found.names == {"A": {"completed": 3}, "B": {"dead": 1}}
    assert (found.total, found.causes) == ({"completed": 3, "dead": 1}, {"expired": 3})


async def test_a_record_that_is_repeated_while_the_first_try_lasts_counts_once(
    store: PostgresStore, other: Other
) -> None:
    record = Record("r1", 1, {"A": {"completed": 1}}, {})
    other.begin(record)

    again = other.change(record)
    await eventually(other.is_waited_for)
    other.transaction.commit()
    again.result(5)

    assert (await last(store)).total == {"completed": 1}


async def test_no_record_waits_for_the_one_that_counts_the_jobs_of_the_queue(
    store: PostgresStore, other: Other
) -> None:
    other.ask("select pg_advisory_xact_lock(hashtextextended('redisjobs sample ' || %s, 0))::text")
    await store.driver.change(Record("r1", 1, {"A": {"completed": 1}}, {}))
    assert (await last(store)).sample == {}

    other.transaction.rollback()
    await store.driver.change(Record("r1", 2, {}, {}))
    assert (await last(store)).sample["ready"] == 0


async def test_a_record_of_nothing_waits_for_no_other_one(store: PostgresStore, other: Other) -> None:
    await store.driver.change(Record("r1", 1, {}, {}))  # the first one of a minute counts the jobs
    other.begin(Record("r2", 1, {"A": {"completed": 1}}, {}))
    await store.driver.change(Record("r1", 2, {}, {}))
    assert (await last(store)).total == {}
    other.transaction.commit()
    assert (await last(store)).total == {"completed": 1}


async def test_a_step_of_large_intervals_ends_after_about_a_megabyte_and_each_comes_once(
    store: PostgresStore,
) -> None:
    for number in range(20):
        await store.driver.change(Record("r1", number + 1, LARGE, {}))
        store.clock.advance(60)

    steps = [await store.driver.read(FindIntervals(1, 60, is_whole=True))]
    while after := steps[-1].after:
        steps.append(await store.driver.read(FindIntervals(1, 60, is_whole=True, after=after)))

    sizes = [sum(len(orjson.dumps(each.names)) for each in step.intervals) for step in steps]
    assert len(sizes) > 1
    assert max(sizes) < 1.5 * 1024**2
    found = [each.number for step in steps for each in step.intervals]
    assert found == list(range(found[0], found[0] + 20))
