"""What an operator says to a driver: queries and changes, on memory and on every server at hand."""

import copy
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import pytest
from store import MemoryStore, RedisStore, Store

from redisjobs.driver import Driver, SyncDriver, Unsupported
from redisjobs.drivers.memory.driver import MemoryDriver
from redisjobs.drivers.redis.driver import SyncRedisDriver
from redisjobs.errors import DriverError, Unavailable
from redisjobs.filters import SCANNED
from redisjobs.job import Priority, State
from redisjobs.queries import (
    Cancel,
    Change,
    Count,
    Delete,
    Filter,
    Find,
    GroupDead,
    List,
    Measure,
    Query,
    Requeue,
    Scan,
)
from redisjobs.transitions import Ack, After, DeadLetter, Lease, NewJob, Pushed, Release, Reply, Settlement

pytestmark = pytest.mark.anyio


@dataclass(frozen=True, slots=True)
class Oldest(Query[str]):
    """A query that no driver knows."""


@dataclass(frozen=True, slots=True)
class Reorder(Change[Reply]):
    """A change that no driver knows."""

    job_id: str


def job(job_id: str, **options: Any) -> NewJob:
    return NewJob(job_id, ["name", "Work", "parameters", "{}"], **options)


@pytest.fixture
async def driver(store: Store) -> AsyncIterator[Driver]:
    async with aclosing(store.driver) as open_driver:
        yield open_driver


@contextmanager
def sync_driver(store: Store) -> Iterator[SyncDriver]:
    """The same store's driver for sync code."""
    if isinstance(store, RedisStore):
        driver: SyncDriver = SyncRedisDriver(store.url, store.queue_name, store.clock)
    else:
        assert isinstance(store.driver, MemoryDriver)
        driver = store.driver.sync
    yield driver
    driver.close()


def contents(store: Store) -> object:
    """All that is stored for the queue."""
    if isinstance(store, RedisStore):
        keys = {key: store.admin.dump(store.prefix + key) for key in list(store.keys())}
        return keys, [store.pending(priority) for priority in Priority]
    assert isinstance(store, MemoryStore)
    unstored = ("lock", "ears", "now_ms", "workers")
    return copy.deepcopy({key: value for key, value in vars(store.memory).items() if key not in unstored})


async def put_in_each_state(store: Store) -> None:
    """A job in each state, one that is being cancelled, one that was handed back, and one that ended."""
    store.clock.advance(0)
    worker = store.consumer("w1")
    await worker.open()
    await store.driver.push(
        [job(name) for name in ("dead", "back", "done", "unwanted", "running")], repeated=False
    )
    leases: dict[str, Lease] = {}
    while len(leases) < 5:
        leases |= {lease.job_id: lease for lease in (await worker.exchange([], 5 - len(leases))).leases}
    settlements: dict[str, Settlement] = {
        "dead": DeadLetter("failed", "ValueError: no"),
        "back": Release(),
        "done": Ack(),
    }
    await worker.exchange([(leases[name], settlement) for name, settlement in settlements.items()], None)
    assert await store.driver.change(Cancel("unwanted")) is Reply.CANCELLING
    await store.driver.push([job("ready"), job("delayed", due=After(5000))], repeated=False)
    await worker.aclose()


NAMES = ("dead", "back", "done", "unwanted", "running", "ready", "delayed", "unknown", "1732438800000-0")
QUERIES: list[Query[Any]] = [
    *(Find(name) for name in NAMES),
    *(List(state, limit) for state in State for limit in (1, 500)),
    *(Scan(state, Filter(text="no"), limit=limit) for state in SCANNED for limit in (1, 500)),
    *(Scan(state, Filter(older_ms=0)) for state in SCANNED),
    GroupDead(),
    Count(),
    Measure(),
]


@pytest.mark.parametrize("fill", [False, True], ids=["an empty queue", "a job in each state"])
async def test_a_query_writes_nothing(store: Store, driver: Driver, fill: bool) -> None:
    if fill:
        await put_in_each_state(store)
    before = contents(store)

    with sync_driver(store) as sync:
        for query in QUERIES:
            answer = await driver.read(query)
            assert sync.read(query) == answer, query
            assert contents(store) == before, query


async def test_a_query_or_a_change_that_a_driver_does_not_know_is_refused(store: Store, driver: Driver) -> None:
    await put_in_each_state(store)
    before = contents(store)
    name = "memory" if isinstance(store, MemoryStore) else "Redis"

    with sync_driver(store) as sync:
        for unknown, ask in ((Oldest(), sync.read), (Reorder("dead"), sync.change)):
            with pytest.raises(Unsupported, match=rf"^the {name} driver has no {type(unknown).__name__}; use .*"):
                cast(Any, ask)(unknown)
        with pytest.raises(Unsupported, match=f"the {name} driver has no Oldest; .* nothing was sent") as caught:
            await driver.read(Oldest())
        with pytest.raises(Unsupported, match=f"the {name} driver has no Reorder; .* nothing was sent"):
            await driver.change(Reorder("dead"))

    assert isinstance(caught.value, DriverError)
    assert not isinstance(caught.value, Unavailable)  # trying again would not help
    assert contents(store) == before


async def test_what_changes_something_is_no_query_and_a_query_no_change(store: Store, driver: Driver) -> None:
    await put_in_each_state(store)
    before = contents(store)

    with sync_driver(store) as sync:
        for change in (Cancel("ready"), Requeue("dead"), Delete("dead")):
            with pytest.raises(Unsupported):
                await driver.read(cast(Any, change))
            with pytest.raises(Unsupported):
                sync.read(cast(Any, change))
        for query in (Find("ready"), List(State.READY, 1), Count()):
            with pytest.raises(Unsupported):
                await driver.change(cast(Any, query))
            with pytest.raises(Unsupported):
                sync.change(cast(Any, query))

    assert contents(store) == before


VERBS: dict[str, Callable[..., Any]] = {
    "push": lambda driver, **until: driver.push([job("new")], repeated=False, **until),
    "read: Find": lambda driver, **until: driver.read(Find("ready"), **until),
    "read: List": lambda driver, **until: driver.read(List(State.READY, 5), **until),
    "read: Count": lambda driver, **until: driver.read(Count(), **until),
    "change: Cancel": lambda driver, **until: driver.change(Cancel("ready"), **until),
    "change: Requeue": lambda driver, **until: driver.change(Requeue("dead"), **until),
    "change: Requeue later": lambda driver, **until: driver.change(Requeue("dead", After(5000)), **until),
    "change: Delete": lambda driver, **until: driver.change(Delete("dead"), **until),
}


@pytest.mark.parametrize("reached", [False, True], ids=["first call", "later call"])
@pytest.mark.parametrize("verb", VERBS)
async def test_a_sync_call_that_comes_after_its_time_is_refused_and_writes_nothing(
    store: Store, driver: Driver, verb: str, reached: bool
) -> None:
    await put_in_each_state(store)
    before = contents(store)

    with sync_driver(store) as sync:
        if reached:
            sync.read(Count())
        with pytest.raises(Unavailable, match="the deadline is over"):
            VERBS[verb](sync, until=time.monotonic() - 1)

    assert contents(store) == before


@pytest.mark.parametrize("until", [{}, {"until": math.inf}, {"until": 60}], ids=["default", "no end", "a minute"])
@pytest.mark.parametrize("verb", VERBS)
async def test_a_sync_call_is_answered_within_its_time(
    store: Store, driver: Driver, verb: str, until: dict[str, float]
) -> None:
    await put_in_each_state(store)
    ends = {name: time.monotonic() + seconds for name, seconds in until.items()}

    with sync_driver(store) as sync:
        answer = VERBS[verb](sync, **ends)

    if verb == "push":
        assert answer == [Pushed(Reply.OK)]
    elif verb.startswith("change"):
        assert answer is (Reply.CANCELLED if "Cancel" in verb else Reply.OK)
    else:
        assert answer == await VERBS[verb](driver)


async def test_the_type_of_an_answer_follows_from_what_was_asked(store: Store, driver: Driver) -> None:
    """The names below have no type of their own: a type checker that gets it wrong refuses their use."""
    await put_in_each_state(store)
    row = await driver.read(Find("ready"))
    rows = await driver.read(List(State.READY, 5))
    counts = await driver.read(Count())
    reply = await driver.change(Delete("dead"))

    assert row is not None
    assert row.state is State.READY
    assert {each.state for each in rows} == {State.READY}
    assert (counts.running, counts.delayed, counts.dead) == (2, 1, 1)
    assert reply.value == "OK"


async def test_the_oldest_ready_job_of_each_priority_tells_how_far_the_queue_is_behind(
    store: Store, driver: Driver
) -> None:
    store.clock.advance(0)
    await driver.push([job("first"), job("high", priority=Priority.HIGH)], repeated=False)
    store.clock.advance(20)
    await driver.push([job("second")], repeated=False)

    backlog = await driver.read(Measure())

    assert backlog.oldest.keys() == {Priority.HIGH, Priority.NORMAL}
    # An entry's id is by the server's own clock, and later than when this one was stopped.
    assert all(0 < seconds <= 20 for seconds in backlog.oldest.values())


async def test_a_job_that_was_handed_back_waits_since_it_was_pushed_and_one_that_runs_does_not(
    store: Store, driver: Driver
) -> None:
    store.clock.advance(0)
    worker = store.consumer("w")
    await driver.push([job("back"), job("runs")], repeated=False)
    leases = (await worker.exchange([], 2)).leases
    assert (await driver.read(Measure())).oldest == {}

    store.clock.advance(20)
    await worker.exchange([(lease, Release()) for lease in leases if lease.job_id == "back"], None)

    assert 0 < (await driver.read(Measure())).oldest[Priority.NORMAL] <= 20
    await worker.aclose()


async def test_a_delayed_job_that_is_due_waits_though_no_worker_has_made_it_ready(
    store: Store, driver: Driver
) -> None:
    store.clock.advance(0)
    await driver.push([job("late", due=After(5000), priority=Priority.LOW)], repeated=False)
    assert (await driver.read(Measure())).oldest == {}

    store.clock.advance(35)

    assert (await driver.read(Measure())).oldest == {Priority.LOW: pytest.approx(30, abs=0.01)}


async def test_workers_are_counted_for_as_long_as_their_leases_run(store: Store, driver: Driver) -> None:
    for worker_id in ("one", "two"):
        store.consumer(worker_id, lease=30)
    assert (await driver.read(Measure())).workers == 2

    store.age(60)

    assert (await driver.read(Measure())).workers == 0


async def test_an_entry_id_that_can_be_no_time_says_nothing_of_the_backlog(store: Store, driver: Driver) -> None:
    store.put({"name": "Work", "parameters": "{}"}, entry="5-0")

    assert (await driver.read(Measure())).oldest == {}
