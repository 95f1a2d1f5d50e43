"""Schedules in Postgres beside other transactions, and when there are many: what the contract knows nothing of."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import anyio
import psycopg
import pytest
from postgres_store import Other, PostgresStore
from postgres_store import standing_clock as standing_clock
from postgres_store import store as store
from store import eventually

from redisjobs import JobName, JobQueue, Schedule, Scheduler
from redisjobs.drivers.postgres import pushes
from redisjobs.events import ScheduleFired
from redisjobs.model.changes import Change
from redisjobs.model.definition import Definition, slot_job
from redisjobs.model.queries import Find
from redisjobs.model.stored import (
    Declarer,
    Fire,
    Fired,
    Firing,
    ListSchedules,
    Put,
    PutSchedules,
    RemoveSchedule,
    SchedulePage,
    WithdrawSchedules,
)
from redisjobs.model.transitions import NewJob, Pushed, Reply

pytestmark = [pytest.mark.slow, pytest.mark.anyio, pytest.mark.usefixtures("standing_clock")]

Add = JobName("Add", dict[str, int])
SLOT, DAY, MANY = 10_000, 86_400, 3_000
BY = Declarer("s1", "release", 1)
REPORT = Definition("report", Schedule.every(10), NewJob("", ["name", "Report", "parameters", "{}"]))


def named(name: str) -> Definition:
    return replace(REPORT, name=name)


async def put(store: PostgresStore, *names: str, by: Declarer | None = None) -> Sequence[Reply]:
    puts = [Put.whole(named(name)) for name in names]
    return (await store.driver.change(PutSchedules(puts, by))).replies


async def listed(store: PostgresStore, after: int | None = None) -> SchedulePage:
    return await store.driver.read(ListSchedules(after=after))


def names_of(page: SchedulePage) -> list[str]:
    return [row.name for row in page.rows]


def fire(store: PostgresStore, scheduler: str, name: str = "report") -> Fire:
    """The firing of the first slot after the schedule was put, which has come by now."""
    last_ms = 1_795_665_600_000
    job = slot_job(named(name), last_ms + SLOT)
    return Fire(scheduler, [Firing(name, named(name).fingerprint, last_ms, last_ms + SLOT, 0, [job])])


# Beside other transactions


async def test_a_slot_that_another_scheduler_is_just_firing_is_not_fired_again(
    store: PostgresStore, other: Other
) -> None:
    await put(store, "report")
    store.clock.advance(15)
    other.begin(fire(store, "s1"))

    fired = other.change(fire(store, "s2"))
    await eventually(other.is_waited_for)
    other.transaction.commit()

    assert list(fired.result(5).fired) == [Fired(Reply.FIRED, last_ms=1_795_665_610_000)]
    assert len(store.rows("select id from redisjobs.jobs where queue = %s")) == 1


async def test_a_slot_whose_scheduler_fails_amid_it_is_fired_by_the_next(
    store: PostgresStore, other: Other
) -> None:
    await put(store, "report")
    store.clock.advance(15)
    other.begin(fire(store, "s1"))

    fired = other.change(fire(store, "s2"))
    await eventually(other.is_waited_for)
    other.transaction.rollback()

    assert list(fired.result(5).fired) == [Fired(Reply.OK, (Pushed(Reply.OK),))]
    assert await store.driver.read(Find("report@2026-11-26T04:00:10Z"))


async def test_a_schedule_whose_unique_key_is_in_an_open_transaction_waits_and_the_others_fire(
    store: PostgresStore, other: Other
) -> None:
    await put(store, "report", "stuck", "last")
    store.clock.advance(15)
    others = [fire(store, "s1", name).firings[0] for name in ("report", "stuck", "last")]
    keyed = [replace(each, jobs=[replace(job, unique=each.name) for job in each.jobs]) for each in others]
    pushed = NewJob("x", REPORT.job.fields, unique="stuck")
    other.run(pushes.push([pushed], repeated=False, sent_ms=store.clock()))

    with anyio.fail_after(3):
        answer = await store.driver.change(Fire("s1", keyed))

    assert [each.reply for each in answer.fired] == [Reply.OK, Reply.BUSY, Reply.OK]
    other.transaction.rollback()
    answer = await store.driver.change(Fire("s1", keyed))
    assert [each.reply for each in answer.fired] == [Reply.REPEATED, Reply.OK, Reply.REPEATED]
    assert len(store.rows("select id from redisjobs.jobs where queue = %s")) == 3


async def test_a_call_meets_a_few_schedules_that_wait_and_leaves_the_rest_to_the_next_one(
    store: PostgresStore, other: Other
) -> None:
    names = [f"stuck-{number}" for number in range(12)]
    await put(store, *names)
    store.clock.advance(15)
    firings = [fire(store, "s1", name).firings[0] for name in names]
    keyed = [replace(each, jobs=[replace(job, unique="stuck") for job in each.jobs]) for each in firings]
    pushed = NewJob("x", REPORT.job.fields, unique="stuck")
    other.run(pushes.push([pushed], repeated=False, sent_ms=store.clock()))

    answer = await store.driver.change(Fire("s1", keyed))

    assert [each.reply for each in answer.fired] == [Reply.BUSY] * 8


async def test_a_scheduler_puts_off_what_it_can_not_fire_yet_and_says_so(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    queue, fired = JobQueue(database, "reports"), list[str]()
    async with queue, await psycopg.AsyncConnection.connect(database) as connection:
        queue.events.subscribe(ScheduleFired, lambda event: fired.append(event.schedule))
        await queue.schedules.put("stuck", {}, Schedule.every(1), job=Add, unique="k")
        await queue.schedules.put("fine", {}, Schedule.every(1), job=Add)
        await queue.push({}, Add, unique="k", within=connection)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Scheduler(queue).run)
            await eventually(lambda: fired.count("fine") == 2)
            tasks.cancel_scope.cancel()
    assert {*fired} == {"fine"}
    assert caplog.text.count("schedule 'stuck'") == 1
    assert "it could not be fired, and is tried again: a transaction that stays open" in caplog.text


async def test_a_scheduler_reports_that_it_is_there_though_another_ones_firing_lasts(
    store: PostgresStore, other: Other
) -> None:
    await put(store, "report", by=BY)
    store.clock.advance(15)
    other.begin(fire(store, "s2"))

    for present in (0, 2):
        answer = await store.driver.change(PutSchedules([], Declarer("s3", "release", 2)))
        assert answer.present == present


async def test_who_reads_what_has_changed_since_the_last_time_misses_no_change_that_was_under_way(
    store: PostgresStore, other: Other
) -> None:
    other.begin(PutSchedules([Put.whole(named("first"))]))
    second = other.change(PutSchedules([Put.whole(named("second"))]))
    await eventually(other.is_waited_for)
    before = await listed(store)
    other.transaction.commit()
    second.result(5)

    assert names_of(before) == []
    after = await listed(store, before.change)
    assert names_of(after) == ["first", "second"]
    assert names_of(await listed(store, after.change)) == []


async def test_a_schedule_that_two_declare_at_once_is_of_the_later_one(store: PostgresStore, other: Other) -> None:
    late, early = Declarer("s1", "new", 2), Declarer("s2", "old", 1)
    changed = replace(REPORT, job=replace(REPORT.job, unique="k"))
    other.begin(PutSchedules([Put.whole(REPORT)], late))

    second = other.change(PutSchedules([Put.whole(changed)], early))
    await eventually(other.is_waited_for)
    other.transaction.commit()

    assert second.result(5).replies == [Reply.NEWER]
    (row,) = (await listed(store)).rows
    assert row.fingerprint == REPORT.fingerprint


# What goes


async def test_the_name_of_a_removed_schedule_is_told_for_a_day(store: PostgresStore) -> None:
    await put(store, "a", "b", "c")
    for name in "ab":
        assert await store.driver.change(RemoveSchedule(name)) is Reply.OK
    assert list((await listed(store)).gone) == ["a", "b"]

    store.clock.advance(DAY + 1)
    await put(store, "b")
    await store.driver.change(RemoveSchedule("c"))

    page = await listed(store)
    assert (names_of(page), list(page.gone)) == (["b"], ["c"])


async def test_a_schedule_that_is_put_again_after_it_was_removed_begins_anew(store: PostgresStore) -> None:
    await put(store, "report")
    store.clock.advance(15)
    await store.driver.change(fire(store, "s1"))
    await store.driver.change(RemoveSchedule("report"))
    await put(store, "report")

    (row,) = (await listed(store)).rows
    assert (row.last_ms, row.ms(b"fired_slot")) == (store.clock(), 0)


async def test_a_schedule_goes_that_no_release_has_declared_for_31_days(store: PostgresStore) -> None:
    await put(store, "put")
    await put(store, "old", "kept", by=BY)
    store.clock.advance(30 * DAY)
    await put(store, "kept", by=BY)
    store.clock.advance(2 * DAY)
    await put(store, "new", by=BY)

    assert names_of(await listed(store)) == ["put", "kept", "new"]


async def test_schedulers_that_are_long_gone_leave_nothing(store: PostgresStore) -> None:
    await put(store, "report", by=Declarer("s0", "old", 1))
    store.clock.advance(DAY + 1)
    await store.driver.change(PutSchedules([], BY))
    await store.driver.change(WithdrawSchedules(BY))

    assert store.rows("select * from redisjobs.schedulers where queue = %s") == []


# Many


def rows_read(other: Other, asked: Change[Any]) -> int:
    """How many rows of schedules a change reads, by a plan that was made while there were none."""
    other.ask("select pg_stat_clear_snapshot() where %s <> ''")
    before = _read(other)
    other.begin(asked)
    other.ask("select pg_stat_clear_snapshot() where %s <> ''")
    return _read(other) - before


def _read(other: Other) -> int:
    ((read,),) = other.ask(
        "select coalesce(seq_tup_read + idx_tup_fetch, 0) from pg_stat_xact_user_tables where %s <> ''"
        " and schemaname = 'redisjobs' and relname = 'schedules'"
    )
    return int(read)


async def test_a_change_of_one_schedule_reads_no_others(store: PostgresStore, other: Other) -> None:
    changes: list[Change[Any]] = [
        fire(store, "s1", "n7"),
        PutSchedules([Put("n7", named("n7").fingerprint)], BY),
        RemoveSchedule("n8"),
    ]
    for asked in changes:
        other.begin(asked)
    other.transaction.commit()
    for start in range(0, MANY, 250):
        await put(store, *(f"n{number}" for number in range(start, start + 250)))
    store.clock.advance(15)

    assert max(rows_read(other, asked) for asked in changes) < 20
