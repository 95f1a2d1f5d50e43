"""Schedules as the store keeps them, and as both faces of a queue make and show them."""

import inspect
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import anyio.to_thread
import pytest
from operating import FACES
from postgres_store import PostgresStore
from store import MemoryStore, RedisStore, Store

from redisjobs import DriverError, EncodeError, JobName, JobQueue, Schedule
from redisjobs.control import Accuracy
from redisjobs.errors import RegistrationError, UnknownSchedule
from redisjobs.model.definition import Definition, slot_id, slot_job
from redisjobs.model.driver import Driver
from redisjobs.model.job import OnConflict, Priority, State
from redisjobs.model.queries import Count
from redisjobs.model.stored import (
    Declarer,
    Fire,
    Fired,
    Firing,
    ListSchedules,
    PauseSchedule,
    Put,
    PutSchedules,
    RemoveSchedule,
    ScheduleInfo,
    ScheduleRow,
    schedule_infos,
)
from redisjobs.model.transitions import After, NewJob, Pushed, Reply
from redisjobs_proof.contract.acts import rows_of

pytestmark = pytest.mark.anyio

JOB = NewJob("", ["name", "Report", "parameters", '{"days":1}'])
NIGHTLY = Definition("nightly", Schedule.every(60), JOB)
MINUTE = 60_000


@dataclass
class Report:
    job_name: ClassVar[str] = "Report"
    days: int = 1


@pytest.fixture
async def driver(store: Store) -> AsyncIterator[Driver]:
    store.clock.advance(0)
    async with aclosing(store.driver) as open_driver:
        yield open_driver


async def put(driver: Driver, definition: Definition, began: int | None = None) -> Reply:
    """Put it; or declare it, by a scheduler of a release of its own that has seen to what is there."""
    there = (await driver.read(ListSchedules(definition.name))).rows
    each = Put.whole(definition, there[0].last_ms if there else None)
    return (await driver.change(PutSchedules([each], None if began is None else by(definition, began)))).replies[0]


def by(definition: Definition, began: int) -> Declarer:
    return Declarer("s1", definition.fingerprint, began)


async def row(driver: Driver, name: str = "nightly") -> ScheduleRow:
    (found,) = (await driver.read(ListSchedules(name))).rows
    return found


async def info_of(driver: Driver) -> ScheduleInfo:
    (info,) = schedule_infos([await driver.read(ListSchedules("nightly"))])
    return info


async def fire(
    driver: Driver, last_ms: int, slot_ms: int, *jobs: NewJob, by: str = "s1", of: Definition = NIGHTLY
) -> Fired:
    firing = Firing(of.name, of.fingerprint, last_ms, slot_ms, 0, jobs or [slot_job(of, slot_ms)])
    (answer,) = (await driver.change(Fire(by, [firing]))).fired
    return answer


# What is stored


async def test_a_schedule_is_stored_as_it_was_written_down(store: Store, driver: Driver) -> None:
    job = replace(
        JOB,
        fields=[*JOB.fields, "headers", '{"a":"b"}'],
        priority=Priority.LOW,
        due=After(1500),
        unique="joe",
        unique_for_ms=1000,
        expires_in_ms=2000,
        on_conflict=OnConflict.REPLACE,
    )
    rule = Schedule.cron("*/5 9-17 * * mon-fri", tz="Europe/Berlin")
    definition = Definition("nightly", rule, job, Accuracy.ALL, 7, 300)

    assert await put(driver, definition) is Reply.OK

    there = await row(driver)
    read = Definition.read("nightly", there.fields)
    assert (read.fields, read.fingerprint) == (definition.fields, there.fingerprint)
    assert (read.rule, read.accuracy, read.at_most, read.jitter_ms) == (rule, Accuracy.ALL, 7, 300)
    assert there.last_ms == store.clock()  # its slots count from now


def test_what_is_read_of_schedules_of_one_rule_shares_it() -> None:
    first, second = (Definition(name, Schedule.cron("* * * * *"), JOB) for name in "ab")
    read = [
        Definition.read(each.name, dict(zip(each.fields[::2], each.fields[1::2], strict=True)))
        for each in (first, second)
    ]
    assert read[0].rule == first.rule
    assert read[0].rule is read[1].rule


async def listed(driver: Driver) -> list[str]:
    found, query = list[str](), ListSchedules()
    while True:
        page = await driver.read(query)
        found += [each.name for each in page.rows]
        if page.more is None:
            break
        query = ListSchedules(after=page.more)
    return found


async def test_schedules_are_listed_after_any_number_of_names_whose_record_has_expired(
    redis_store: RedisStore,
) -> None:
    async with aclosing(redis_store.driver) as driver:
        await put(driver, replace(NIGHTLY, name="z"))
        gone = {f"s{number:04}": number for number in range(1_100)}
        redis_store.admin.zadd(f"{redis_store.prefix}schedules", gone)
        assert await listed(driver) == ["z"]


async def test_schedules_are_read_in_pages_in_the_order_of_their_changes(store: Store, driver: Driver) -> None:
    names = [f"s{number:04}" for number in range(1_100)]
    named = [replace(NIGHTLY, name=name) for name in names]
    for start in range(0, len(named), 500):
        part = named[start : start + 500]
        await driver.change(PutSchedules([Put.whole(each) for each in part]))
    await driver.change(PauseSchedule("s0700", pause=True))

    assert await listed(driver) == [*names[:700], *names[701:], "s0700"]
    async with JobQueue(driver, store.queue_name) as queue:
        assert [info.name for info in await queue.schedules.list()] == names


async def test_large_schedules_come_in_more_pages(redis_store: RedisStore) -> None:
    large = replace(JOB, fields=["name", "Report", "parameters", f'"{"x" * 400_000}"'])
    async with aclosing(redis_store.driver) as driver:
        for number in range(8):
            await put(driver, replace(NIGHTLY, name=f"s{number}", job=large))
        page = await driver.read(ListSchedules())
        rest = await driver.read(ListSchedules(after=page.more))
    assert 0 < len(page.rows) < 8
    assert [each.name for each in (*page.rows, *rest.rows)][: len(page.rows) + 1] == [
        f"s{number}" for number in range(len(page.rows) + 1)
    ]


async def test_to_put_the_same_again_changes_nothing_that_counts(store: Store, driver: Driver) -> None:
    await put(driver, NIGHTLY)
    before = await row(driver)
    store.clock.advance(30)
    assert await put(driver, NIGHTLY) is Reply.OK
    assert await row(driver) == before


async def test_other_parameters_keep_the_slots_and_another_rule_starts_from_now(
    store: Store, driver: Driver
) -> None:
    await put(driver, NIGHTLY)
    began = store.clock()
    store.clock.advance(90)
    other = replace(NIGHTLY, job=replace(JOB, fields=["name", "Report", "parameters", '{"days":2}']))

    await put(driver, other)
    assert (await row(driver)).last_ms == began
    await put(driver, replace(other, rule=Schedule.every(61)))
    assert (await row(driver)).last_ms == store.clock()


async def test_a_change_is_told_and_counted_and_no_change_is_not(driver: Driver) -> None:
    async def changes() -> int:
        return (await driver.read(ListSchedules())).change

    await put(driver, NIGHTLY, 0)
    first = await changes()
    await put(driver, NIGHTLY, 0)
    await driver.change(PauseSchedule("nightly", pause=False))
    await driver.change(PauseSchedule("unknown", pause=True))
    await driver.change(RemoveSchedule("unknown"))
    assert await changes() == first
    await driver.change(PauseSchedule("nightly", pause=True))
    assert await changes() == first + 1


# Two releases


async def test_of_two_releases_that_of_the_scheduler_that_began_later_counts(store: Store, driver: Driver) -> None:
    old, new = NIGHTLY, replace(NIGHTLY, rule=Schedule.every(61))
    began = store.clock()
    assert await put(driver, old, began) is Reply.OK
    store.clock.advance(1)
    assert await put(driver, new, began + 1000) is Reply.OK

    assert await put(driver, old, began) is Reply.NEWER
    assert (await row(driver)).fingerprint == new.fingerprint
    assert await put(driver, new, began + 1000) is Reply.OK


async def test_an_older_release_takes_over_where_the_newer_one_is_gone(store: Store, driver: Driver) -> None:
    old, new = NIGHTLY, replace(NIGHTLY, rule=Schedule.every(61))
    began = store.clock()
    await put(driver, old, began)
    await put(driver, new, began + 1)
    store.clock.advance(29)
    assert await put(driver, old, began) is Reply.NEWER
    store.clock.advance(2)

    assert await put(driver, old, began) is Reply.OK
    there = await row(driver)
    assert (there.fingerprint, there.last_ms) == (old.fingerprint, store.clock())


async def test_of_two_schedulers_that_began_at_once_the_first_is_heeded(store: Store, driver: Driver) -> None:
    other = replace(NIGHTLY, rule=Schedule.every(61))
    began = store.clock()
    assert [await put(driver, each, began) for each in (NIGHTLY, other, NIGHTLY)] == [
        Reply.OK,
        Reply.NEWER,
        Reply.OK,
    ]


async def test_a_schedule_that_is_only_said_to_be_there_still_has_to_be_known(driver: Driver) -> None:
    bare = PutSchedules([Put("nightly", NIGHTLY.fingerprint)], by(NIGHTLY, 0))
    assert (await driver.change(bare)).replies == [Reply.NOT_FOUND]
    await put(driver, NIGHTLY, 0)
    assert (await driver.change(bare)).replies == [Reply.OK]
    other = PutSchedules([Put("nightly", "0123456789abcdef")], by(NIGHTLY, 10**13))
    assert (await driver.change(other)).replies == [Reply.NOT_FOUND]


async def test_what_code_declares_can_be_put_or_removed_once_its_schedulers_are_gone(
    store: Store, driver: Driver
) -> None:
    await put(driver, NIGHTLY, 0)
    assert await put(driver, NIGHTLY) is Reply.DECLARED
    assert await driver.change(RemoveSchedule("nightly")) is Reply.DECLARED
    store.clock.advance(61)
    assert (await info_of(driver)).stopped
    assert await driver.change(RemoveSchedule("nightly")) is Reply.OK
    assert (await driver.read(ListSchedules())).rows == []


async def test_what_was_put_at_run_time_counts_whatever_code_declares(driver: Driver) -> None:
    await put(driver, NIGHTLY)
    assert await put(driver, replace(NIGHTLY, at_most=5), 0) is Reply.KEPT
    assert (await row(driver)).fingerprint == NIGHTLY.fingerprint


async def test_of_a_schedule_that_no_release_declares_the_last_slot_is_kept_for_30_days(
    redis_store: RedisStore,
) -> None:
    day = 86_400_000
    async with aclosing(redis_store.driver) as driver:
        await put(driver, NIGHTLY, 0)
        await put(driver, replace(NIGHTLY, name="kept"))
        keys = redis_store.keys()
        assert 30 * day < keys["schedule:nightly"] <= 31 * day  # it is declared once a day
        assert keys["schedule:kept"] == -1

        redis_store.admin.delete(f"{redis_store.prefix}schedule:nightly")  # as if they were over
        assert [each.name for each in (await driver.read(ListSchedules())).rows] == ["kept"]
        await driver.change(PutSchedules([], by(NIGHTLY, 0)))
        assert redis_store.admin.zrange(f"{redis_store.prefix}schedules", 0, -1) == [b"kept"]


# Firing


async def test_a_slot_is_fired_once_however_often_it_is_asked_for(store: Store, driver: Driver) -> None:
    await put(driver, NIGHTLY)
    began = store.clock()
    store.clock.advance(60)
    slot = began + MINUTE

    first = await fire(driver, began, slot)
    assert (first.reply, first.pushed) == (Reply.OK, (Pushed(Reply.OK),))
    assert (await fire(driver, began, slot)).reply is Reply.REPEATED  # the reply to the first was lost
    late = await fire(driver, began, slot, by="s2")
    assert (late.reply, late.last_ms) == (Reply.FIRED, slot)
    assert (await fire(driver, slot, slot, by="s2")).reply is Reply.FIRED
    assert (await fire(driver, slot, slot - 1, by="s2")).reply is Reply.FIRED
    there = await row(driver)
    assert (there.last_ms, there.ms(b"fired_slot")) == (slot, slot)
    async with JobQueue(driver, store.queue_name) as queue:
        assert [job.job_id for job in await queue.control.jobs("ready")] == [slot_id("nightly", slot)]
        assert (await queue.control.counts()).totals["pushed"] == 1


async def test_a_slot_that_is_yet_to_come_is_not_fired(store: Store, driver: Driver) -> None:
    await put(driver, NIGHTLY)
    began = store.clock()
    assert (await fire(driver, began, began + 1)).reply is Reply.EARLY
    assert (await row(driver)).last_ms == began


async def test_a_paused_schedule_fires_nothing_and_makes_nothing_up(store: Store, driver: Driver) -> None:
    await put(driver, NIGHTLY)
    began = store.clock()
    assert await driver.change(PauseSchedule("nightly", pause=True)) is Reply.OK
    store.clock.advance(600)
    assert (await fire(driver, began, began + MINUTE)).reply is Reply.PAUSED
    assert (await row(driver)).is_paused

    assert await driver.change(PauseSchedule("nightly", pause=False)) is Reply.OK
    assert (await row(driver)).last_ms == store.clock()
    assert (await fire(driver, began, began + MINUTE)).reply is Reply.FIRED


async def test_after_the_clock_was_set_back_no_slot_that_was_fired_comes_again(
    store: Store, driver: Driver
) -> None:
    await put(driver, NIGHTLY)
    began = store.clock()
    store.clock.advance(600)
    slot = began + 10 * MINUTE
    await fire(driver, began, slot)
    store.clock.advance(-300)

    for pause in (True, False):
        await driver.change(PauseSchedule("nightly", pause))
    assert (await row(driver)).last_ms == slot
    for rule in (Schedule.every(61), NIGHTLY.rule):
        await put(driver, replace(NIGHTLY, rule=rule))
        assert (await row(driver)).last_ms == slot


async def test_a_release_that_is_gone_does_not_count_because_the_clock_was_set_back(
    store: Store, driver: Driver
) -> None:
    await put(driver, NIGHTLY, 0)
    store.clock.advance(-3600)
    assert (await info_of(driver)).stopped
    assert await put(driver, replace(NIGHTLY, at_most=5), store.clock()) is Reply.OK
    store.clock.advance(-3600)
    assert await driver.change(RemoveSchedule("nightly")) is Reply.OK


async def test_a_release_that_is_gone_does_not_count_again_once_a_clock_that_was_set_back_catches_up(
    store: Store, driver: Driver
) -> None:
    await put(driver, NIGHTLY, 0)
    store.clock.advance(-3600)
    await driver.change(PutSchedules([], by(replace(NIGHTLY, at_most=5), 0)))  # of another release, which stays
    store.clock.advance(3600)
    assert not (await row(driver)).is_there
    assert await driver.change(RemoveSchedule("nightly")) is Reply.OK


async def test_a_pause_outlasts_another_release(driver: Driver) -> None:
    await put(driver, NIGHTLY, 0)
    await driver.change(PauseSchedule("nightly", pause=True))
    await put(driver, replace(NIGHTLY, rule=Schedule.every(61)), 10**13)
    assert (await row(driver)).is_paused


async def test_a_definition_that_is_another_by_now_is_not_fired(store: Store, driver: Driver) -> None:
    await put(driver, NIGHTLY)
    began = store.clock()
    store.clock.advance(60)
    await put(driver, replace(NIGHTLY, at_most=5))
    assert (await fire(driver, began, began + MINUTE)).reply is Reply.CHANGED
    await driver.change(RemoveSchedule("nightly"))
    assert (await fire(driver, began, began + MINUTE)).reply is Reply.CHANGED


async def test_a_slot_counts_as_fired_where_its_job_can_not_be_added(store: Store, driver: Driver) -> None:
    await put(driver, NIGHTLY)
    began = store.clock()
    await driver.push([replace(JOB, job_id="holder", unique="k"), replace(JOB, job_id="there")], repeated=False)
    store.clock.advance(60)
    jobs = [
        replace(JOB, job_id="a", unique="k"),
        replace(JOB, job_id="there"),
        replace(JOB, job_id="b", unique="l"),
    ]
    jobs.append(replace(JOB, job_id="c", unique="l"))

    answer = await fire(driver, began, began + MINUTE, *jobs)

    assert list(answer.pushed) == [
        Pushed(Reply.DUPLICATE, "holder"),
        Pushed(Reply.EXISTS),
        Pushed(Reply.OK),
        Pushed(Reply.DUPLICATE, "b"),
    ]
    assert (await row(driver)).last_ms == began + MINUTE


async def test_a_slot_replaces_the_job_that_waits_under_its_key_where_it_says_so(
    store: Store, driver: Driver
) -> None:
    replacing = replace(JOB, unique="k", on_conflict=OnConflict.REPLACE)
    of = replace(NIGHTLY, job=replacing)
    await put(driver, of)
    began = store.clock()
    await driver.push([replace(JOB, job_id="waits", unique="k", due=After(1000))], repeated=False)
    store.clock.advance(60)
    jobs = [slot_job(of, began + each) for each in (1, 2)]

    answer = await fire(driver, began, began + MINUTE, *jobs, of=of)

    assert list(answer.pushed) == [Pushed(Reply.REPLACED, "waits")] * 2
    (ready,) = await rows_of(driver, State.READY, 10)
    assert (ready.job_id, ready.fields[b"scheduled_for"]) == ("waits", b"%d" % (began + 2))
    assert await rows_of(driver, State.DELAYED, 10) == []
    assert (await fire(driver, began, began + MINUTE, *jobs, of=of)).reply is Reply.REPEATED
    assert (await driver.read(Count())).totals["replaced"] == 2


def test_a_schedule_has_no_one_to_raise_to() -> None:
    with pytest.raises(ValueError, match="schedule 'nightly': no code waits for its pushes"):
        replace(NIGHTLY, job=replace(JOB, unique="k", on_conflict=OnConflict.RAISE))


def test_how_long_a_key_is_held_goes_with_a_schedule() -> None:
    definition = replace(NIGHTLY, job=replace(JOB, unique="k", fields=[*JOB.fields, "unique_until", "start"]))
    fields = dict(zip(definition.fields[::2], definition.fields[1::2], strict=True))

    assert Definition.read("nightly", fields).fields == definition.fields
    with pytest.raises(ValueError, match="'unique_until' is 'noon', which does not match `start`"):
        Definition.read("nightly", fields | {b"unique_until": b"noon"})
    with pytest.raises(ValueError, match="'often' is not a valid OnConflict"):
        Definition.read("nightly", fields | {b"on_conflict": b"often"})


async def test_each_schedule_of_a_call_has_its_own_answer(store: Store, driver: Driver) -> None:
    began = store.clock()
    for name in "abc":
        await put(driver, replace(NIGHTLY, name=name))
    await driver.change(PauseSchedule("b", pause=True))
    store.clock.advance(60)
    slot = began + MINUTE
    fires = [Firing(name, replace(NIGHTLY, name=name).fingerprint, began, slot, 3, []) for name in "abcd"]

    answer = await driver.change(Fire("s1", fires))

    assert [each.reply for each in answer.fired] == [Reply.OK, Reply.PAUSED, Reply.OK, Reply.CHANGED]
    assert [(await row(driver, name)).ms(b"missed") for name in "abc"] == [3, 0, 3]


@pytest.mark.parametrize(
    "options",
    [
        {"priority": Priority.HIGH},
        {"due": After(5000), "priority": Priority.LOW},
        {"unique": "k", "unique_for_ms": 5000},
        {"unique": "k", "expires_in_ms": 7000},
        {"unique": "k", "fields": [*JOB.fields, "unique_until", "start"], "on_conflict": OnConflict.REPLACE},
    ],
    ids=str,
)
async def test_a_fired_job_is_as_if_it_had_been_pushed(
    store: Store, driver: Driver, options: dict[str, Any]
) -> None:
    await put(driver, NIGHTLY)
    began = store.clock()
    store.clock.advance(60)
    await fire(driver, began, began + MINUTE, replace(JOB, job_id="fired", **options))
    if "unique" in options:
        options = {**options, "unique": "l"}
    await driver.push([replace(JOB, job_id="pushed", **options)], repeated=False)

    async with JobQueue(driver, store.queue_name) as queue:
        fired, pushed = await queue.get("fired"), await queue.get("pushed")
    assert fired
    assert pushed
    aside: dict[str, Any] = {"job_id": "", "unique": "", "queued_at": None}
    assert replace(fired, **aside) == replace(pushed, **aside)
    if isinstance(store, RedisStore) and "unique" in options:
        keys = store.keys()
        assert (keys["unique:k"] > 0) == (keys["unique:l"] > 0) == ("unique_for_ms" in options)


# With redis-cli


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("rule", "75 * * * *", "75"),
        ("rule", "", "cron text '' has 0 fields"),
        ("parameters", None, "no field 'parameters'"),
        ("at_most", "many", "'at_most' is 'many'"),
        ("accuracy", "now and then", "now and then"),
        ("priority", "urgent", "urgent"),
        ("jitter_ms", "-1", "'jitter_ms' is '-1'"),
        ("last slot", "yesterday", "not a time in ms"),
    ],
)
async def test_what_was_spoiled_is_shown_with_what_is_wrong(
    redis_store: RedisStore, key: str, value: str | None, says: str
) -> None:
    store = redis_store
    async with aclosing(store.driver) as driver:
        await put(driver, NIGHTLY)
        if key == "last slot":
            store.admin.hset(f"{store.prefix}schedule:nightly", "last_slot", str(value))
        elif value is None:
            store.admin.hdel(f"{store.prefix}schedule:nightly", key)
        else:
            store.admin.hset(f"{store.prefix}schedule:nightly", key, value)
        info = await info_of(driver)

    assert says in info.error
    assert info.next_slot is None
    assert list(info.upcoming(5)) == []


async def test_what_is_no_schedule_at_all_is_left_alone_until_it_is_removed(redis_store: RedisStore) -> None:
    store = redis_store
    store.admin.set(f"{store.prefix}schedule:nightly", "x")
    store.admin.zadd(f"{store.prefix}schedules", {"nightly": 1})
    async with JobQueue(store.driver, store.queue_name) as queue:
        (info,) = await queue.schedules.list()
        assert (info.rule, info.error) == (None, "it has no field 'job'")
        with pytest.raises(DriverError, match="remove it first; nothing was changed"):
            await queue.schedules.put("nightly", Report(), Schedule.daily())
        declared = PutSchedules([Put.whole(NIGHTLY)], by(NIGHTLY, 0))
        assert (await store.driver.change(declared)).replies == [Reply.SPOILED]
        assert not await queue.schedules.pause("nightly")
        assert await queue.schedules.remove("nightly")
        await queue.schedules.put("nightly", Report(), Schedule.daily())


# Both faces


@pytest.fixture(params=FACES)
async def queue(request: pytest.FixtureRequest, store: Store) -> AsyncIterator[Any]:
    face = FACES[request.param]
    if isinstance(store, MemoryStore):
        opened = face("memory://", store.queue_name)
    else:
        assert isinstance(store, RedisStore | PostgresStore)
        opened = face(store.url, store.queue_name)
    yield opened
    await call(opened.aclose if isinstance(opened, JobQueue) else opened.close)


async def call(method: Any, *args: Any, **kwargs: Any) -> Any:
    if inspect.iscoroutinefunction(method):
        return await method(*args, **kwargs)
    return await anyio.to_thread.run_sync(lambda: method(*args, **kwargs))


async def test_a_schedule_is_made_looked_at_paused_and_removed_at_run_time(queue: Any) -> None:
    await call(queue.schedules.put, "nightly", Report(3), Schedule.daily(hour=4), priority="low")
    (info,) = await call(queue.schedules.list)
    assert info == await call(queue.schedules.get, "nightly")
    assert (info.name, info.rule, info.job_name) == ("nightly", Schedule.daily(hour=4), "Report")
    assert (info.parameters, info.accuracy, info.last_slot, info.missed) == ('{"days":3}', "latest", None, 0)
    assert [info.paused, info.declared, info.stopped, info.error] == [False, False, True, ""]  # no scheduler runs
    upcoming = list(info.upcoming(3))
    assert upcoming[0] == info.next_slot > datetime.now(UTC)
    assert {(slot.hour, slot.minute) for slot in upcoming} == {(4, 0)}
    assert upcoming[2] - upcoming[0] == timedelta(days=2)

    assert await call(queue.schedules.pause, "nightly")
    paused = await call(queue.schedules.get, "nightly")
    assert (paused.paused, paused.next_slot) == (True, None)
    assert await call(queue.schedules.resume, "nightly")
    assert not (await call(queue.schedules.get, "nightly")).paused
    assert await call(queue.schedules.remove, "nightly")
    assert await call(queue.schedules.get, "nightly") is None
    assert await call(queue.schedules.list) == []


async def test_of_a_schedule_that_is_not_there_nothing_can_be_done(queue: Any) -> None:
    for verb in (queue.schedules.pause, queue.schedules.resume, queue.schedules.remove):
        assert await call(verb, "unknown") is False
    with pytest.raises(UnknownSchedule, match="there is no schedule 'unknown'; nothing was pushed"):
        await call(queue.schedules.run_now, "unknown")


async def test_a_schedule_is_run_now_whatever_its_slots_and_also_while_it_is_paused(queue: Any) -> None:
    await call(
        queue.schedules.put, "nightly", Report(3), Schedule.daily(), jitter=60, delay=60, headers={"a": "b"}
    )
    await call(queue.schedules.pause, "nightly")

    handle = await call(queue.schedules.run_now, "nightly")

    info = await call(handle.info)
    assert (info.state, info.name, info.parameters, info.headers) == ("ready", "Report", '{"days":3}', {"a": "b"})
    assert (await call(queue.schedules.get, "nightly")).last_slot is None


async def test_what_can_not_be_a_schedule_is_an_error_and_nothing_is_stored(queue: Any) -> None:
    async def refused(kind: type[Exception], says: str, *args: Any, **options: Any) -> None:
        with pytest.raises(kind, match=says):
            await call(queue.schedules.put, *args, **options)

    rule: Any = Schedule.daily()
    await refused(TypeError, "'0 4 \\* \\* \\*' is not a schedule: give one", "a", Report(), "0 4 * * *")
    await refused(ValueError, "'a b' can't name a schedule", "a b", Report(), rule)
    await refused(ValueError, "accuracy='some': give one of", "a", Report(), rule, accuracy="some")
    await refused(ValueError, "at_most=0", "a", Report(), rule, at_most=0)
    await refused(ValueError, "at_most=501: give at most 500", "a", Report(), rule, at_most=501)
    await refused(ValueError, "jitter=-1", "a", Report(), rule, jitter=-1)
    await refused(ValueError, "leave out job_id= and at=", "a", Report(), rule, job_id="mine")
    await refused(ValueError, "leave out job_id= and at=", "a", Report(), rule, at=datetime.now(UTC))
    await refused(ValueError, "leave out replicas=", "a", Report(), rule, replicas=1)
    await refused(TypeError, "there is no push option prioritty", "a", Report(), rule, prioritty="low")
    await refused(EncodeError, "days", "a", Report("one"), rule)  # type: ignore[arg-type]
    prepared = queue.prepare(Report())
    await refused(TypeError, "give these to prepare", "a", prepared, rule, priority="low")
    assert await call(queue.schedules.list) == []


# Declared in code


def test_a_schedule_is_declared_with_its_job() -> None:
    queue = JobQueue("memory://")

    @queue.job(schedule=Schedule.hourly())
    async def clean(days: int = 3) -> None: ...

    @queue.register(Report, schedule=Schedule.daily())
    async def report(parameters: Report) -> None: ...

    queue.schedule(
        clean.prepare(days=9), Schedule.monthly(date=1), name="thorough", accuracy="all", at_most=3, jitter=2
    )
    queue.schedule({"days": 7}, Schedule.weekly(day="mon"), job="Report", name="weekly", priority="low")
    queue.schedule(Report(5), Schedule.yearly(month=1, date=1), job=JobName("Other", Report))

    declared = {
        name: (str(each.rule), each.job.fields[1], each.job.fields[3]) for name, each in queue.declared.items()
    }
    assert declared == {
        "clean": (str(Schedule.hourly()), "clean", b"{}"),
        "Report": (str(Schedule.daily()), "Report", b'{"days":1}'),
        "thorough": (str(Schedule.monthly(date=1)), "clean", b'{"days":9}'),
        "weekly": (str(Schedule.weekly(day="mon")), "Report", b'{"days":7}'),
        "Other": (str(Schedule.yearly(month=1, date=1)), "Other", b'{"days":5}'),
    }
    thorough = queue.declared["thorough"]
    assert (thorough.accuracy, thorough.at_most, thorough.jitter_ms) == (Accuracy.ALL, 3, 2000)
    assert queue.declared["weekly"].job.priority is Priority.LOW


def test_two_schedules_of_one_name_are_an_error_where_the_second_is_written() -> None:
    queue = JobQueue("memory://", "reports")
    queue.schedule(Report(), Schedule.daily())
    with pytest.raises(ValueError, match="queue 'reports' has a schedule 'Report' already: give this one another"):
        queue.schedule(Report(2), Schedule.hourly())


def test_a_job_that_needs_arguments_is_not_scheduled_without() -> None:
    queue = JobQueue("memory://")

    @dataclass
    class Send:
        job_name: ClassVar[str] = "Send"
        to: str

    with pytest.raises(
        RegistrationError, match=r"Send: schedule= pushes the job without arguments.*queue\.schedule"
    ):
        queue.register(Send, schedule=Schedule.daily())(lambda parameters: None)
    with pytest.raises(RegistrationError, match="resize: schedule= pushes the job without arguments"):

        @queue.job(schedule=Schedule.daily())
        async def resize(path: str) -> None: ...

    assert queue.declared == {}


# The job of a slot


def test_the_job_of_a_slot_is_the_same_from_each_scheduler() -> None:
    slot = 1_795_665_600_000
    jittered = replace(NIGHTLY, jitter_ms=1000, job=replace(JOB, due=After(500)))

    job = slot_job(jittered, slot)

    assert job == slot_job(jittered, slot)
    assert job.job_id == "nightly@2026-11-26T04:00:00Z"
    assert dict(zip(job.fields[::2], job.fields[1::2], strict=True)) == {
        "name": "Report",
        "parameters": '{"days":1}',
        "scheduled_for": str(slot),
        "next_scheduled_at": str(slot + MINUTE),
    }
    assert isinstance(job.due, After)
    assert 500 <= job.due.ms <= 1500
    assert slot_job(jittered, slot + MINUTE).due != job.due
    assert slot_id("a", slot + 250) == "a@2026-11-26T04:00:00.250Z"
