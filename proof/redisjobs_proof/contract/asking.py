"""Queries and changes in general, also over the sync side; the rows of jobs; and a queue's backlog."""

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, cast

import pytest

from redisjobs.drivers import sync_side
from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.changes import Cancel, Change, ChangeMany, Delete, Requeue, Retain, Tidy
from redisjobs.model.driver import Consumer, Driver, Unsupported
from redisjobs.model.info import job_info
from redisjobs.model.job import Priority, State, WhyWaiting
from redisjobs.model.queries import Count, Filter, Find, FindWorkers, GetBacklog, GroupDead, Query, Scan
from redisjobs.model.retention import Keep, Retention
from redisjobs.model.transitions import (
    Ack,
    After,
    DeadLetter,
    Pushed,
    Release,
    Reply,
    ReportProgress,
    RetryLater,
    Settlement,
)
from redisjobs_proof.contract.acts import (
    FAILED,
    Heart,
    Open,
    claim,
    claim_one,
    job,
    push,
    row_of,
    rows_of,
    settle,
)
from redisjobs_proof.contract.needs import needs
from redisjobs_proof.contract.store import DriverStore


@dataclass(frozen=True, slots=True)
class Oldest(Query[str]):
    """A query that no driver knows."""


@dataclass(frozen=True, slots=True)
class Reorder(Change[Reply]):
    """A change that no driver knows."""

    job_id: str


async def put_in_each_state(store: DriverStore) -> None:
    """Put a job in each state; also one that is being cancelled, one that was handed back, and one that ended."""
    store.clock.advance(0)
    worker = store.driver.consumer("w1", lease=15, max_deliveries=3)
    await worker.open()
    await push(store, "dead", "back", "done", "unwanted", "running")
    leases = {lease.job_id: lease for lease in await claim(worker, 5)}
    settlements: dict[str, Settlement] = {
        "dead": DeadLetter("failed", "ValueError: no"),
        "back": Release(),
        "done": Ack(),
    }
    await worker.exchange([(leases[name], settlement) for name, settlement in settlements.items()], None)
    assert await store.driver.change(Cancel("unwanted")) is Reply.CANCELLING
    await push(store, "ready", job("delayed", due=After(5000)))
    await worker.aclose()


NAMES = ("dead", "back", "done", "unwanted", "running", "ready", "delayed", "unknown", "1732438800000-0")
QUERIES: list[Query[Any]] = [
    *(Find(name) for name in NAMES),
    *(Scan(state, limit=limit) for state in State for limit in (1, 500)),
    *(Scan(state, Filter(text="no"), limit=limit) for state in State for limit in (1, 500)),
    *(Scan(state, Filter(older_ms=0)) for state in State),
    GroupDead(),
    Count(),
    GetBacklog(),
]


@pytest.mark.parametrize("fill", [False, True], ids=["an empty queue", "a job in each state"])
async def test_a_query_writes_nothing(store: DriverStore, driver: Driver, fill: bool) -> None:
    if fill:
        await put_in_each_state(store)
    before = store.contents()

    with closing(sync_side(store.driver)) as sync:
        for query in QUERIES:
            if type(query) in store.lacks:
                continue
            answer = await driver.read(query)
            assert sync.read(query) == answer, query
            assert store.contents() == before, query


async def test_a_query_or_a_change_that_a_driver_does_not_know_is_refused(
    store: DriverStore, driver: Driver
) -> None:
    await put_in_each_state(store)
    before = store.contents()

    with closing(sync_side(store.driver)) as sync:
        for unknown, ask in ((Oldest(), sync.read), (Reorder("dead"), sync.change)):
            with pytest.raises(Unsupported, match=rf"^the .+ driver has no {type(unknown).__name__}; use .*"):
                cast(Any, ask)(unknown)
        with pytest.raises(Unsupported, match=r"has no Oldest; .* nothing was sent") as caught:
            await driver.read(Oldest())
        with pytest.raises(Unsupported, match=r"has no Reorder; .* nothing was sent"):
            await driver.change(Reorder("dead"))

    assert isinstance(caught.value, DriverError)
    assert not isinstance(caught.value, Unavailable)  # trying again would not help
    assert store.contents() == before


async def test_what_changes_something_is_no_query_and_a_query_no_change(
    store: DriverStore, driver: Driver
) -> None:
    await put_in_each_state(store)
    before = store.contents()

    with closing(sync_side(store.driver)) as sync:
        for change in (Cancel("ready"), Requeue("dead"), Delete("dead")):
            with pytest.raises(Unsupported):
                await driver.read(cast(Any, change))
            with pytest.raises(Unsupported):
                sync.read(cast(Any, change))
        for query in (Find("ready"), Scan(State.READY), Count()):
            with pytest.raises(Unsupported):
                await driver.change(cast(Any, query))
            with pytest.raises(Unsupported):
                sync.change(cast(Any, query))

    assert store.contents() == before


VERBS: dict[str, Callable[..., Any]] = {
    "push": lambda driver, **until: driver.push([job("new")], repeated=False, **until),
    "read: Find": lambda driver, **until: driver.read(Find("ready"), **until),
    "read: Scan": lambda driver, **until: driver.read(Scan(State.READY), **until),
    "read: Count": lambda driver, **until: driver.read(Count(), **until),
    "change: Cancel": lambda driver, **until: driver.change(Cancel("ready"), **until),
    "change: Requeue": lambda driver, **until: driver.change(Requeue("dead"), **until),
    "change: Requeue later": lambda driver, **until: driver.change(Requeue("dead", After(5000)), **until),
    "change: Delete": lambda driver, **until: driver.change(Delete("dead"), **until),
}


@pytest.mark.parametrize("reached", [False, True], ids=["first call", "later call"])
@pytest.mark.parametrize("verb", VERBS)
async def test_a_sync_call_that_comes_after_its_time_is_refused_and_writes_nothing(
    store: DriverStore, driver: Driver, verb: str, reached: bool
) -> None:
    await put_in_each_state(store)
    before = store.contents()

    with closing(sync_side(store.driver)) as sync:
        if reached:
            sync.read(Count())
        with pytest.raises(Unavailable, match="the deadline is over"):
            VERBS[verb](sync, until=time.monotonic() - 1)

    assert store.contents() == before


@pytest.mark.parametrize("until", [{}, {"until": math.inf}, {"until": 60}], ids=["default", "no end", "a minute"])
@pytest.mark.parametrize("verb", VERBS)
async def test_a_sync_call_is_answered_within_its_time(
    store: DriverStore, driver: Driver, verb: str, until: dict[str, float]
) -> None:
    await put_in_each_state(store)
    ends = {name: time.monotonic() + seconds for name, seconds in until.items()}

    with closing(sync_side(store.driver)) as sync:
        answer = VERBS[verb](sync, **ends)

    if verb == "push":
        assert answer == [Pushed(Reply.OK)]
    elif verb.startswith("change"):
        assert answer is (Reply.CANCELLED if "Cancel" in verb else Reply.OK)
    else:
        assert answer == await VERBS[verb](driver)


async def test_the_type_of_an_answer_follows_from_what_was_asked(store: DriverStore, driver: Driver) -> None:
    """The names below have no annotations: a type checker that infers a wrong type refuses their use."""
    await put_in_each_state(store)
    row = await driver.read(Find("ready"))
    rows = await rows_of(driver, State.READY, 5)
    counts = await driver.read(Count())
    reply = await driver.change(Delete("dead"))

    assert row is not None
    assert row.state is State.READY
    assert {each.state for each in rows} == {State.READY}
    assert (counts.running, counts.delayed, counts.dead) == (2, 1, 1)
    assert reply.value == "OK"


@needs(FindWorkers)
async def test_workers_are_found_with_what_they_said_at_their_last_heartbeat(
    store: DriverStore, driver: Driver, worker: Open
) -> None:
    for name in ("w1", "w2"):
        Heart(await worker(name)).beat(list, {"host": "here", "names": f"é {name}", "running": "2"})

    before = store.contents()

    step = await driver.read(FindWorkers())

    assert (step.after, store.contents()) == ("", before)
    found = {worker_id: (lease, facts) for worker_id, lease, facts in step.workers}
    assert {name: facts["names"] for name, (_, facts) in found.items()} == {"w1": "é w1", "w2": "é w2"}
    assert all(facts["host"] == "here" and facts["running"] == "2" for _, facts in found.values())
    assert all(lease > 0 for lease, _ in found.values())


@needs(GetBacklog)
async def test_the_oldest_ready_job_of_each_priority_tells_how_far_the_queue_is_behind(
    store: DriverStore, driver: Driver
) -> None:
    store.clock.advance(0)
    await driver.push([job("first"), job("high", priority=Priority.HIGH)], repeated=False)
    store.clock.advance(20)
    await driver.push([job("second")], repeated=False)

    backlog = await driver.read(GetBacklog())

    assert backlog.oldest.keys() == {Priority.HIGH, Priority.NORMAL}
    # An entry id is by the server's own clock, and later than the time at which the test's clock stopped.
    assert all(0 < seconds <= 20 for seconds in backlog.oldest.values())


@needs(GetBacklog)
async def test_a_job_that_was_handed_back_waits_since_it_was_pushed_and_one_that_runs_does_not(
    store: DriverStore, driver: Driver, worker: Open
) -> None:
    store.clock.advance(0)
    consumer = await worker("w")
    await driver.push([job("back"), job("runs")], repeated=False)
    leases = (await consumer.exchange([], 2)).leases
    assert (await driver.read(GetBacklog())).oldest == {}

    store.clock.advance(20)
    await consumer.exchange([(lease, Release()) for lease in leases if lease.job_id == "back"], None)

    assert 0 < (await driver.read(GetBacklog())).oldest[Priority.NORMAL] <= 20


@needs(GetBacklog)
async def test_a_delayed_job_that_is_due_waits_though_no_worker_has_made_it_ready(
    store: DriverStore, driver: Driver
) -> None:
    store.clock.advance(0)
    await driver.push([job("late", due=After(5000), priority=Priority.LOW)], repeated=False)
    assert (await driver.read(GetBacklog())).oldest == {}

    store.clock.advance(35)

    assert (await driver.read(GetBacklog())).oldest == {Priority.LOW: pytest.approx(30, abs=0.01)}


@needs(GetBacklog)
async def test_workers_are_counted_for_as_long_as_their_leases_run(
    store: DriverStore, driver: Driver, worker: Open
) -> None:
    for worker_id in ("one", "two"):
        await worker(worker_id, lease=30)
    assert (await driver.read(GetBacklog())).workers == 2

    store.age(60)

    assert (await driver.read(GetBacklog())).workers == 0


@needs(ChangeMany)
async def test_several_changes_are_made_and_each_is_answered(store: DriverStore, driver: Driver) -> None:
    await put_in_each_state(store)
    changes: list[Cancel | Requeue | Delete] = [
        Cancel("ready"),
        Delete("unknown"),
        Requeue("dead"),
        Cancel("running"),
    ]

    replies = await driver.change(ChangeMany(changes))

    assert replies == [Reply.CANCELLED, Reply.NOT_FOUND, Reply.OK, Reply.CANCELLING]
    assert await driver.change(Cancel("dead")) is Reply.CANCELLED
    with closing(sync_side(store.driver)) as sync:
        assert sync.change(ChangeMany([Cancel("delayed"), Cancel("unknown")])) == [
            Reply.CANCELLED,
            Reply.NOT_FOUND,
        ]


@needs(Tidy)
async def test_there_is_nothing_to_tidy_in_a_queue_that_is_in_order(store: DriverStore, driver: Driver) -> None:
    await put_in_each_state(store)
    before = [await rows_of(driver, state, 500) for state in State]

    tidied = [await driver.change(Tidy())]
    while tidied[-1].after:
        tidied.append(await driver.change(Tidy(tidied[-1].after)))

    assert [step.restored for step in tidied] == [0] * len(tidied)
    assert [await rows_of(driver, state, 500) for state in State] == before


# Facts in a job's row, besides its fields


async def test_of_a_job_that_runs_it_is_known_since_when_and_how_far_it_is(
    store: DriverStore, driver: Driver, one: Consumer
) -> None:
    store.clock.advance(0)
    await push(store, "a", "b")
    leases = await claim(one, 1)
    waiting = await row_of(driver, "b")
    assert (waiting.started_ms, waiting.ran_ms, waiting.progress) == (None, None, b"")
    assert job_info(waiting).duration is None

    assert await settle(one, leases[0], ReportProgress(b'{"fraction":0.25}')) is Reply.OK
    store.age(3)

    row = await row_of(driver, "a")
    assert row.ran_ms is not None
    assert 3000 <= row.ran_ms < 60_000
    assert row.started_ms == store.clock() - row.ran_ms
    info = job_info(row)
    assert info.started_at is not None
    assert info.progress is not None
    assert (info.duration, info.progress.fraction) == (row.ran_ms / 1000, 0.25)
    assert info.started_at.timestamp() * 1000 == pytest.approx(row.started_ms)


@needs(Retain)
async def test_of_a_job_that_has_ended_it_is_known_how_long_its_last_run_took(
    store: DriverStore, driver: Driver, one: Consumer
) -> None:
    store.clock.advance(0)
    await driver.change(Retain(Retention(completed=Keep(), cancelled=Keep())))
    await push(store, "done", "alone", "dead", "gone", "expired", "unwanted")
    assert await driver.change(Cancel("unwanted")) is Reply.CANCELLED
    leases = {lease.job_id: lease for lease in await claim(one)}
    store.age(2)

    ends: dict[str, Settlement] = {
        "done": Ack(),
        "dead": FAILED,
        "gone": Ack(cancelled=True),
        "expired": DeadLetter("expired", "late"),
    }
    await one.exchange([(leases[name], settlement) for name, settlement in ends.items()], None)
    assert await settle(one, leases["alone"], Ack()) is Reply.OK

    for name in ("done", "alone", "dead", "gone"):
        info = job_info(await row_of(driver, name))
        ended_at = info.failed_at or info.finished_at
        assert info.duration is not None, name
        assert 2 <= info.duration < 60, name
        assert info.started_at is not None
        assert ended_at is not None
        assert (ended_at - info.started_at).total_seconds() == pytest.approx(info.duration)
    for name in ("expired", "unwanted"):  # they never ran
        info = job_info(await row_of(driver, name))
        assert (info.started_at, info.duration) == (None, None)

    assert await driver.change(Requeue("dead")) is Reply.OK
    again = await row_of(driver, "dead")
    assert b"ran_ms" not in again.fields


async def test_a_job_without_a_handler_and_one_that_is_to_run_alone_say_so(
    store: DriverStore, driver: Driver, worker: Open
) -> None:
    store.clock.advance(0)
    consumer = await worker(max_deliveries=2)
    await push(store, "unknown")
    parked = RetryLater(After(5000), {"unknown_since": "1"})
    assert await settle(consumer, await claim_one(consumer), parked) is Reply.OK
    assert (await row_of(driver, "unknown")).why_waiting is WhyWaiting.NO_HANDLER

    await push(store, "killer")
    assert await settle(consumer, await claim_one(consumer), Release(refund=False)) is Reply.OK
    await push(store, "other")
    leases = await claim(consumer)  # this worker runs a job, so it passes the other one on
    assert [lease.job_id for lease in leases] == ["other"]
    assert (await row_of(driver, "killer")).why_waiting is WhyWaiting.LAST_DELIVERY
