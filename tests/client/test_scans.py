"""Going through the jobs of a state, on memory and on every server at hand: by a filter, in steps, and by kind."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from store import RedisStore, Store

from redisjobs import sync
from redisjobs.base.arguments import pause_of
from redisjobs.model.driver import Driver
from redisjobs.model.job import Priority, State
from redisjobs.model.queries import Count, Filter, Scan
from redisjobs.model.transitions import After
from redisjobs.queue import JobQueue
from redisjobs_proof.contract.acts import job
from redisjobs_proof.contract.scanning import (
    EXPIRED,
    FAILED,
    OTHER,
    end,
    found,
    groups,
    push,
    scan,
    work,
)

pytestmark = pytest.mark.anyio

Act = Callable[..., Awaitable[Any]]


@pytest.fixture
async def driver(store: Store) -> AsyncIterator[Driver]:
    store.clock.advance(0)
    async with aclosing(store.driver) as open_driver:
        yield open_driver


async def test_a_step_looks_at_500_jobs_and_may_find_none(store: Store, driver: Driver) -> None:
    for start in (0, 400):
        await push(driver, *(job(f"j{start + number}") for number in range(400)))
    await push(driver, job("wanted", "Other"))
    wanted = Filter(name="Other")

    first = await driver.read(Scan(State.READY, wanted))
    second = await driver.read(Scan(State.READY, wanted, first.after))

    assert (list(first.rows), first.after != "") == ([], True)
    assert ([row.job_id for row in second.rows], second.after) == (["wanted"], "")


async def test_a_step_looks_at_about_a_megabyte(redis_store: RedisStore) -> None:
    large = '"' + "x" * 400_000 + '"'
    await push(redis_store.driver, *(job(f"j{number}", parameters=large) for number in range(9)))

    first = await redis_store.driver.read(Scan(State.READY))

    assert 1 <= len(first.rows) <= 4
    assert len(await found(redis_store.driver, State.READY)) == 9
    await redis_store.driver.aclose()


LARGEST = f"{2**64 - 1}-{2**64 - 1}"


async def test_dead_letters_that_were_added_outside_redisjobs_are_scanned(
    redis_store: RedisStore,
) -> None:
    dead = f"{redis_store.prefix}dead"
    redis_store.admin.xadd(
        dead, {"id": "1-0", "reason": "x" * 5000, "failed_at": "nan", "error": b"\xff"}, id="1-0"
    )
    redis_store.admin.xadd(dead, {"id": LARGEST, "any": "thing", "failed_at": "9" * 400}, id=LARGEST)
    driver = redis_store.driver

    rows = await scan(driver, State.DEAD, limit=1)
    ids = [row.job_id for row in rows]

    assert ids == [LARGEST, "1-0"]
    assert await groups(driver) == []  # until `redisjobs doctor --repair` lists them
    redis_store.admin.delete(dead)
    await driver.aclose()


async def test_delayed_jobs_of_a_hand_are_scanned(redis_store: RedisStore) -> None:
    members = {"plain": 5, b"\xff": 5, "": 5, "endless": float("inf"), "never": float("-inf")}
    redis_store.admin.zadd(f"{redis_store.prefix}due", members)
    redis_store.admin.hset(
        f"{redis_store.prefix}delayed", mapping=dict.fromkeys(members, '["low", "name", "Work"]')
    )

    ids = await found(redis_store.driver, State.DELAYED, limit=1)

    assert ids == ["never", "", "plain", "\udcff", "endless"]
    redis_store.admin.delete(f"{redis_store.prefix}due", f"{redis_store.prefix}delayed")
    await redis_store.driver.aclose()


# The faces


@pytest.fixture
def plain(store: Store, driver: Driver) -> Iterator[sync.JobQueue]:
    """The sync face of the same queue."""
    where = store.url if isinstance(store, RedisStore) else driver
    with sync.JobQueue(where, store.queue_name) as queue:
        yield queue


async def looked(driver: Driver, plain: sync.JobQueue, state: str, **options: Any) -> list[str]:
    """What a scan of either face finds, which is the same."""
    infos = [info async for info in JobQueue(driver).control.scan(state, **options)]
    assert list(plain.control.scan(state, **options)) == infos
    return [info.job_id for info in infos]


async def test_a_queue_goes_through_all_jobs_that_are_meant(
    store: Store, driver: Driver, plain: sync.JobQueue
) -> None:
    letters = [(job("a"), FAILED), (job("b", "Other", '"joe"'), EXPIRED), (job("c"), OTHER)]
    await end(store, letters)
    for start in (0, 400):
        await push(driver, *(job(f"j{start + number}") for number in range(400)))

    assert len(await looked(driver, plain, "ready")) == 800
    assert await looked(driver, plain, "ready", name="Other") == []
    assert await looked(driver, plain, "ready", older_than=60) == []
    assert await looked(driver, plain, "dead", text="joe") == ["b"]
    assert await looked(driver, plain, "dead", name="Work", fingerprint=OTHER.fingerprint, text=None) == ["c"]
    assert await looked(driver, plain, "dead", reason="failed") == ["c", "a"]


async def test_a_queue_adds_the_groups_of_all_steps_up_the_largest_first(
    store: Store, driver: Driver, plain: sync.JobQueue
) -> None:
    await end(store, [(job("first", "Other"), FAILED), (job("late"), EXPIRED)])
    for start in (0, 300):
        await end(store, [(job(f"j{start + number}"), FAILED) for number in range(300)])
    await end(store, [(job("last"), OTHER)])

    groups = await JobQueue(driver).control.dead_groups()

    assert plain.control.dead_groups() == groups
    assert [(group.count, group.error_type, group.reason, group.job_id, group.names) for group in groups] == [
        (601, "ValueError", "failed", "j599", ("Work",)),
        (1, "", "expired", "late", ("Work",)),
        (1, "KeyError", "failed", "last", ("Work",)),
    ]
    info = await JobQueue(driver).get("first")
    assert info is not None
    assert groups[0].first_at == info.failed_at
    assert groups[0].last_at >= groups[0].first_at


async def test_jobs_that_run_are_found_where_very_many_more_were_handed_back(redis_store: RedisStore) -> None:
    driver, ready = redis_store.driver, 2_500
    for start in range(0, ready, 500):
        await push(driver, *(job(f"j{start + number}") for number in range(500)))
    redis_store.admin.xgroup_create(redis_store.stream(), "workers", "0", mkstream=True)
    redis_store.admin.xreadgroup("workers", "released", {redis_store.stream(): ">"}, count=ready)
    workers = [redis_store.consumer(f"w{number}") for number in range(3)]
    taken = list[str]()
    for worker in workers:
        taken += [lease.job_id for lease in (await worker.exchange([], 20)).leases]
    entries = [entry for entry, _ in redis_store.admin.xrange(redis_store.stream(), count=ready)]
    redis_store.admin.xclaim(redis_store.stream(), "workers", "w1", 0, entries[-1:])  # the youngest of all

    assert len(taken) > 3
    assert await found(driver, State.RUNNING) == [*taken, f"j{ready - 1}"]
    assert [row.job_id for row in await scan(driver, State.RUNNING, 1)] == [*taken, f"j{ready - 1}"]
    assert len(await JobQueue(driver).control.jobs(State.RUNNING, 4)) == 4
    for worker in workers:
        await worker.aclose()
    await driver.aclose()


# Many at once


@pytest.fixture(params=["async", "sync"])
def act(request: pytest.FixtureRequest, driver: Driver, plain: sync.JobQueue) -> Act:
    """Calls a method of either face."""

    async def call(verb: str, *arguments: Any, **options: Any) -> Any:
        if request.param == "sync":
            return getattr(plain.control, verb)(*arguments, **options)
        return await getattr(JobQueue(driver).control, verb)(*arguments, **options)

    return call


async def test_dead_letters_that_are_meant_are_requeued_and_the_others_stay(
    store: Store, driver: Driver, act: Act
) -> None:
    await end(store, [(job("a"), FAILED), (job("b"), OTHER), (job("c", "Other"), FAILED), (job("d"), FAILED)])

    assert await act("requeue_all", fingerprint=FAILED.fingerprint, name="Work") == 2
    assert await act("requeue_all", fingerprint=FAILED.fingerprint, name="Work") == 0

    assert await found(driver, State.READY) == ["d", "a"]
    assert await found(driver, State.DEAD) == ["c", "b"]
    row = (await scan(driver, State.READY))[0]
    assert row.fields.keys() & {b"error_type", b"fingerprint", b"error", b"reason"} == set()


async def test_dead_letters_that_are_meant_are_deleted_and_the_others_stay(
    store: Store, driver: Driver, act: Act
) -> None:
    await end(store, [(job("a"), FAILED), (job("b"), EXPIRED), (job("c"), EXPIRED)])

    assert await act("delete_all", reason="expired") == 2

    assert await found(driver, State.DEAD) == ["a"]
    assert await act("delete_all") == 1
    assert (await driver.read(Count())).totals["deleted"] == 3


@pytest.mark.parametrize("state", [State.READY, State.DELAYED])
async def test_jobs_that_are_meant_are_cancelled_and_the_others_stay(
    driver: Driver, act: Act, state: State
) -> None:
    due = After(5000) if state is State.DELAYED else None
    for start in (0, 120):
        await push(driver, *(job(f"j{start + number}", due=due) for number in range(120)))
    await push(driver, job("kept", "Other", due=due), job("apart", due=None if due else After(9000)))

    assert await act("cancel_all", state, name="Work") == 240

    assert await found(driver, state) == ["kept"]
    counts = await driver.read(Count())
    assert (sum(counts.ready.values()) + counts.delayed, counts.totals["cancelled"]) == (2, 240)


async def test_letters_that_are_requeued_at_a_rate_are_due_one_after_another(
    store: Store, driver: Driver, act: Act
) -> None:
    await end(store, [(job(name, priority=Priority.LOW), FAILED) for name in "abc"])
    began_ms = store.clock()

    assert await act("requeue_all", rate="2/m") == 3

    assert await found(driver, State.READY) == ["c"]
    rows = await scan(driver, State.DELAYED)
    waits = [(row.due_ms or 0) - began_ms for row in rows]
    assert [(row.job_id, row.priority) for row in rows] == [("b", Priority.LOW), ("a", Priority.LOW)]
    assert waits == [pytest.approx(30_000, abs=10_000), pytest.approx(60_000, abs=10_000)]
    store.clock.advance(70)
    await work(store, {"a": FAILED, "b": FAILED, "c": FAILED})  # they are promoted, and claimed
    assert (await driver.read(Count())).dead == 3


async def test_what_was_done_before_the_connection_ended_stays_done(store: Store, driver: Driver) -> None:
    await end(store, [(job(f"j{number}"), FAILED) for number in range(250)])
    queue = JobQueue(driver)
    failed = ConnectionError("the network is gone")
    steps = 0

    async def one_step(change: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 3:  # the first only asks where to begin
            raise failed
        return await driver.change(change)

    queue._calls.ask = one_step  # type: ignore[method-assign, assignment]
    with pytest.raises(ConnectionError):
        await queue.control.requeue_all()

    assert (len(await found(driver, State.READY)), len(await found(driver, State.DEAD))) == (200, 50)
    assert await JobQueue(driver).control.requeue_all() == 50


async def test_a_letter_with_too_many_fields_stays_and_blocks_no_other(redis_store: RedisStore) -> None:
    driver = redis_store.driver
    many = {f"f{number}": "" for number in range(600)} | {"id": "large", "name": "Work", "parameters": "{}"}
    entry = redis_store.admin.xadd(f"{redis_store.prefix}dead", many)
    redis_store.admin.hset(f"{redis_store.prefix}jobs", "large", f"dead {entry.decode()}")
    await end(redis_store, [(job("a"), FAILED)])

    assert await JobQueue(redis_store.driver).control.requeue_all() == 1

    assert await found(driver, State.DEAD) == ["large"]
    redis_store.admin.delete(f"{redis_store.prefix}dead", f"{redis_store.prefix}jobs")
    await driver.aclose()


@pytest.mark.parametrize(
    ("rate", "pause_ms"),
    [("100/s", 10), ("20/m", 3_000), ("5/h", 720_000), ("0.5/s", 2_000), ("1/s", 1_000)],
)
def test_a_rate_says_how_long_is_between_two_jobs(rate: str, pause_ms: float) -> None:
    assert pause_of(rate) == pause_ms


async def test_where_nothing_comes_before_a_cursor_the_server_does_not_go_through_all_there_is(
    engine_store: RedisStore,
) -> None:
    """XREVRANGE up to what is smaller than the smallest id walks the whole stream from its end."""
    store, driver = engine_store, engine_store.driver
    await end(store, [(job("a"), FAILED), (job("b"), FAILED)])
    (first, _), *_ = store.admin.xrange(f"{store.prefix}dead", count=1)

    def asked() -> int:
        return int(store.admin.info("commandstats").get("cmdstat_xrevrange", {"calls": 0})["calls"])

    before = asked()
    for cursor in (first.decode(), "1-1"):
        assert (await driver.read(Scan(State.DEAD, after=cursor))).after == ""
    assert asked() == before
    assert (await driver.read(Scan(State.DEAD))).after == ""
    assert asked() == before + 2  # a page of one, and the next
    await driver.aclose()
