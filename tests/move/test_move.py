"""A queue moves from one store to another: what goes there, what is waited for, and what stays."""

import secrets
from typing import Any, cast

import anyio
import psycopg
import pytest
import redis
from databases import Postgres
from movings import Ends, finish, move
from movings import ends as ends
from movings import said as said
from postgres_store import PostgresStore
from store import MemoryStore, RedisStore, Store, documented_user, eventually

from redisjobs import JobName, JobQueue, Keep, Retention, Schedule
from redisjobs.control.move.mover import Moved, Mover, SameQueue
from redisjobs.drivers import connect
from redisjobs.drivers.redis.driver import RedisDriver
from redisjobs.local import server
from redisjobs.model.changes import Cancel, Hold, Pause, Retain, SetLimit
from redisjobs.model.driver import Driver
from redisjobs.model.job import Priority, State
from redisjobs.model.moving import FindTaken, Import, Take
from redisjobs.model.queries import Count, Find
from redisjobs.model.transitions import (
    Ack,
    After,
    NewJob,
    Pushed,
    Release,
    Reply,
    Settlement,
    Suspend,
    Wait,
    WaitsFor,
)
from redisjobs_proof.contract.acts import FAILED, LATER, claim, claim_one, job, push, rows_of, settle

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

HOURLY = Schedule.every(3600)


async def bring_about(store: Store) -> None:
    """Bring jobs into each state, with what a job may have."""
    driver = store.driver
    await driver.change(Retain(Retention(completed=Keep(), cancelled=Keep(count=50))))
    consumer = driver.consumer("maker", lease=15, max_deliveries=3)
    await consumer.open()
    await push(store, "done", "failed", "again", "back", "asleep")
    settlements: dict[str, Settlement] = {"done": Ack(), "failed": FAILED, "again": LATER, "back": Release()}
    settlements["asleep"] = Suspend(Wait(1, WaitsFor.TIME, "sleep"), After(3_600_000))
    for lease in await claim(consumer):
        assert await settle(consumer, lease, settlements[lease.job_id]) is Reply.OK
    await consumer.release(refund=True, watch=False)
    await consumer.aclose()
    fields = [*job("").fields, "headers", '{"trace":"ü"}', "limit_key", "joe", b"\xff", b"\xfe"]
    await push(
        store,
        NewJob("high", fields, Priority.HIGH, unique="key", nonce="n1"),
        job("low", priority=Priority.LOW),
        job("later", due=After(3_600_000), expires_in_ms=7_200_000),
        *("held", "gone"),
    )
    await driver.change(Hold("held"))
    await driver.change(Cancel("gone"))


async def everything(store: Store) -> dict[str, Any]:
    """All jobs that do not run, by id, with what is to be the same at both ends."""
    rows = [row for state in State for row in await rows_of(store.driver, state)]
    return {
        row.job_id: (row.state, row.priority, row.due_ms, row.held, dict(row.fields), row.history) for row in rows
    }


def without_times(jobs: dict[str, Any]) -> dict[str, Any]:
    """The same without the time of the push, which no field may have at the source."""
    return {
        job_id: (*facts, {name: value for name, value in fields.items() if name != b"queued_at"}, history)
        for job_id, (*facts, fields, history) in jobs.items()
    }


async def test_each_job_is_moved_in_its_state_with_its_fields(ends: Ends) -> None:
    source, target = ends
    await bring_about(source)
    before = await everything(source)
    assert {state for state, *_ in before.values()} == {*State} - {State.RUNNING}

    moved = await move(source, target)

    assert moved.is_done
    assert moved.jobs == len(before)
    assert await everything(source) == {}
    after = await everything(target)
    assert without_times(after) == without_times(before)
    assert all(fields[b"queued_at"].isdigit() for *_, fields, _ in after.values())
    assert await finish(target) == ["high", "back", "low"]


async def test_what_was_moved_may_move_back(ends: Ends) -> None:
    source, target = ends
    await bring_about(source)
    before = await everything(source)

    for _ in range(2):
        assert (await move(source, target)).is_done
        assert (await move(target, source)).is_done

    assert without_times(await everything(source)) == without_times(before)


async def test_the_order_within_a_state_stays(ends: Ends, said: list[str]) -> None:
    source, target = ends
    await source.driver.change(Retain(Retention(cancelled=Keep())))
    for number in range(1200):
        await push(source, f"gone{number}")
        await source.driver.change(Cancel(f"gone{number}"))
        if number > 20 and number < 1190:  # a few large ones make a step short
            continue
        await push(source, job(f"job{number}", parameters='"' + "x" * 100_000 + '"'))
    ready, ended = [await rows_of(source.driver, state, 2000) for state in (State.READY, State.CANCELLED)]

    moved = await move(source, target, said)

    assert moved.jobs == len(ready) + len(ended) == 1231
    for state, rows in ((State.READY, ready), (State.CANCELLED, ended)):
        there = await rows_of(target.driver, state, 2000)
        assert [row.job_id for row in there] == [row.job_id for row in rows]


async def test_a_move_waits_for_running_jobs_and_takes_what_they_leave(ends: Ends, said: list[str]) -> None:
    source, target = ends
    await push(source, "done", "again", "ready")
    consumer = source.driver.consumer("w1", lease=15, max_deliveries=3)
    await consumer.open()
    first, second = await claim(consumer, 2)
    done = list[Moved]()

    async def run() -> None:
        done.append(await move(source, target, said))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await eventually(lambda: "waiting for 2 running jobs" in said)
        assert await settle(consumer, first, Ack()) is Reply.OK
        assert await settle(consumer, second, LATER) is Reply.OK
    await consumer.aclose()

    assert done[0].is_done
    assert {job_id: facts[0] for job_id, facts in (await everything(target)).items()} == {
        "again": State.DELAYED,
        "ready": State.READY,
    }


async def test_a_move_that_waits_says_if_no_worker_is_alive(ends: Ends, said: list[str]) -> None:
    source, target = ends
    await push(source, "a")
    consumer = source.driver.consumer("w1", lease=15, max_deliveries=3)
    await consumer.open()
    await claim_one(consumer)
    source.age(60)

    def note(line: str) -> None:
        said.append(line)
        mover.stop()

    mover = Mover(source.driver, target.driver, note)
    await mover.run()

    assert [line for line in said if "waiting for 1 running job; no worker of the source is alive" in line]
    await consumer.aclose()


async def test_a_cancelled_job_that_waits_for_its_end_is_ended(redis_store: RedisStore) -> None:
    target = MemoryStore(redis_store.queue_name)
    await push(redis_store, "a")
    consumer = redis_store.driver.consumer("w1", lease=15, max_deliveries=3)
    await consumer.open()
    await claim_one(consumer)
    assert await redis_store.driver.change(Cancel("a")) is Reply.CANCELLING
    await consumer.release(refund=False, watch=False)
    await consumer.aclose()

    assert (await move(redis_store, target)).is_done

    assert await everything(target) == {}
    assert (await redis_store.driver.read(Count())).totals["cancelled"] == 1
    await redis_store.driver.aclose()


async def test_a_job_that_the_target_can_not_take_stays_in_transit_and_goes_there_later(
    ends: Ends,
) -> None:
    source, target = ends
    await push(source, job("a"), job("b", unique="key"), job("c"))
    await push(target, job("a", nonce="other"), job("holder", unique="key"))

    moved = await move(source, target)

    assert not moved.is_done
    assert (moved.jobs, moved.in_transit, moved.left) == (1, 2, {})
    assert [(taken.job_id, answer) for taken, answer in moved.refused] == [
        ("a", Pushed(Reply.EXISTS)),
        ("b", Pushed(Reply.DUPLICATE, "holder")),
    ]
    await finish(target)
    assert (await move(source, target)).is_done
    assert {row.job_id for row in await rows_of(target.driver, State.READY)} == {"a", "b"}


async def test_two_movers_at_once_bring_each_job_once(ends: Ends, said: list[str]) -> None:
    source, target = ends
    ids = [f"job{number}" for number in range(1500)]
    for first in range(0, 1500, 500):
        await push(source, *ids[first : first + 500])
    moved = list[Moved]()

    async def run() -> None:
        moved.append(await Mover(source.another(), target.another(), said.append).run())

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(run)

    assert all(each.is_done for each in moved)
    assert sum(each.jobs for each in moved) == 1500
    assert sorted(row.job_id for row in await rows_of(target.driver, State.READY, 2000)) == sorted(ids)


async def test_jobs_that_an_earlier_mover_left_in_transit_go_first(ends: Ends) -> None:
    source, target = ends
    await push(source, "first", "second")
    rows = await rows_of(source.driver, State.READY)
    await source.driver.change(Take(rows[:1]))
    await push(target, "there")

    moved = await move(source, target)

    assert moved.jobs == 2
    assert await finish(target) == ["there", "first", "second"]


class _Late:
    """A source from which another mover takes all jobs just before this one counts them."""

    def __init__(self, source: Store) -> None:
        self._source, self.where = source, source.driver.where
        self.change, self.aclose = source.driver.change, source.driver.aclose

    async def read(self, query: Any) -> Any:
        if isinstance(query, Count):
            await self.change(Take(await rows_of(self._source.driver, State.READY)))
        return await self._source.driver.read(query)


async def test_jobs_that_another_mover_took_meanwhile_are_moved_before_the_end(ends: Ends) -> None:
    source, target = ends
    await push(source, "a", "b")

    moved = await Mover(cast("Driver", _Late(source)), target.driver, print).run()

    assert (moved.is_done, moved.jobs, moved.in_transit) == (True, 2, 0)
    assert await finish(target) == ["a", "b"]


async def test_a_mover_that_comes_late_adds_nothing(ends: Ends) -> None:
    """It has read what is in transit, and froze; another one has moved the rest, and all jobs have run."""
    source, target = ends
    await push(source, "a", "b")
    await source.driver.change(Take(await rows_of(source.driver, State.READY)))
    read = await source.driver.read(FindTaken())
    assert (await move(source, target)).is_done
    assert await finish(target) == ["a", "b"]

    answers = await target.driver.change(Import(read.store, read.jobs))

    assert answers == [Pushed(Reply.REPEATED)] * 2
    assert await everything(target) == {}


async def test_a_mover_that_was_stopped_says_so_and_the_next_one_goes_on(ends: Ends) -> None:
    source, target = ends
    await push(source, *(f"job{number}" for number in range(3)))
    consumer = source.driver.consumer("w1", lease=15, max_deliveries=3)
    await consumer.open()
    lease = (await claim(consumer, 1))[0]
    mover = Mover(source.driver, target.driver, lambda line: mover.stop() if "waiting" in line else None)

    stopped = await mover.run()

    assert (stopped.stopped, stopped.is_done, stopped.jobs) == (True, False, 2)
    await settle(consumer, lease, Release())
    await consumer.aclose()
    assert (await move(source, target)).is_done
    assert len(await everything(target)) == 3


# Refusals and faults


async def test_a_queue_is_not_moved_to_itself_by_another_url(redis_store: RedisStore) -> None:
    await push(redis_store, "a")
    again = RedisDriver(redis_store.url.replace("127.0.0.1", "localhost"), redis_store.queue_name)

    with pytest.raises(SameQueue, match="both ends are one queue"):
        await Mover(redis_store.driver, again, print).run()

    assert await redis_store.driver.read(Find("a"))
    await redis_store.driver.aclose()


async def test_a_full_target_is_waited_for(queue_name: str, said: list[str]) -> None:
    with server.start() as full:
        source, target = MemoryStore(queue_name), RedisDriver(full.url, queue_name)
        await push(source, "a")
        with redis.Redis.from_url(full.url) as admin:
            admin.config_set("maxmemory", "1mb")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(Mover(source.driver, target, said.append).run)
                await eventually(lambda: [line for line in said if "out of memory" in line], 20)
                admin.config_set("maxmemory", "0")
        async with JobQueue(RedisDriver(full.url, queue_name), queue_name) as queue:
            assert await queue.get("a")


async def test_the_rights_of_operators_at_both_ends_are_enough(
    redis_store: RedisStore, postgres: Postgres
) -> None:
    await bring_about(redis_store)
    await redis_store.driver.change(SetLimit("Work", "max_concurrency=5"))
    await redis_store.driver.change(Pause("Other"))
    async with JobQueue(redis_store.driver, redis_store.queue_name) as queue:
        await queue.schedules.put("hourly", {}, HOURLY, job=JobName("Work", dict[str, int]))
    role = f"operator-{redis_store.queue_name}"
    with postgres.database() as database, documented_user(redis_store, "operator") as url:
        postgres.run(f'CREATE ROLE "{role}" LOGIN')
        try:
            with psycopg.connect(database, autocommit=True) as admin:
                admin.execute("SELECT redisjobs.allow(%s, 'operator')", (role,))
            there = postgres.url_of(database.rpartition("/")[2], role)
            for one, other in ((url, there), (there, url)):
                ends = connect(one, redis_store.queue_name), connect(other, redis_store.queue_name)
                assert (await Mover(*ends, print).run()).is_done
        finally:
            with psycopg.connect(database, autocommit=True) as admin:
                admin.execute("SELECT redisjobs.forbid(%s)", (role,))
            postgres.run(f'DROP ROLE "{role}"')
    assert {*await everything(redis_store)} >= {"high", "low", "later", "failed", "done", "gone"}
    await redis_store.driver.aclose()


async def test_a_job_that_does_not_fit_into_the_target_stays_in_transit(
    redis_store: RedisStore, postgres_store: PostgresStore
) -> None:
    """Someone has added it with redis-cli; other jobs are moved."""
    redis_store.put({"id": secrets.token_urlsafe(3000), "name": "Work", "parameters": "{}"})
    await push(redis_store, "a")

    moved = await move(redis_store, postgres_store)

    assert (moved.jobs, moved.in_transit) == (1, 1)
    assert [answer.reply for _, answer in moved.refused] == [Reply.OVERSIZED]
    for store in (redis_store, postgres_store):
        await store.driver.aclose()
