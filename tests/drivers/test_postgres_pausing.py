"""Holds and pauses in Postgres beside other transactions; settings. The contract knows nothing of these."""

import pytest
from postgres_store import Other, PostgresStore
from postgres_store import one as one
from postgres_store import store as store
from store import eventually

from redisjobs.errors import DriverError
from redisjobs.model.changes import Declare, Hold, Pause, Resume, Unhold, Unpark
from redisjobs.model.driver import Consumer
from redisjobs.model.info import worker_infos
from redisjobs.model.job import Priority
from redisjobs.model.queries import FindPauses, FindWorkers
from redisjobs.model.transitions import Reply
from redisjobs_proof.contract.acts import job, push
from redisjobs_proof.contract.pausing import ids_of_claim

pytestmark = [pytest.mark.slow, pytest.mark.anyio]


async def test_a_job_that_is_just_being_claimed_runs_and_is_not_held(store: PostgresStore, other: Other) -> None:
    await push(store, "a")
    claimed = "update redisjobs.jobs set place = 'running', worker = 'w1' where queue = %s returning id"
    assert other.ask(claimed) == [("a",)]

    held = other.change(Hold("a"))
    await eventually(other.is_waited_for)
    other.transaction.commit()

    assert held.result(5) is Reply.RUNNING
    assert (await store.driver.read(FindPauses())).held == 0
    store.rows("delete from redisjobs.jobs where queue = %s returning id")


async def test_a_job_that_is_let_go_just_as_its_name_is_paused_does_not_start(
    store: PostgresStore, other: Other, one: Consumer
) -> None:
    await push(store, "a")
    await store.driver.change(Hold("a"))
    other.begin(Pause("Work"))

    let_go = other.change(Unhold("a"))
    await eventually(other.is_waited_for)
    other.transaction.commit()

    assert let_go.result(5) is Reply.OK
    assert store.places() == [("a", "parked")]
    assert await ids_of_claim(one) == []


async def test_parked_jobs_are_handed_back_in_steps_of_500_and_held_ones_stay(
    store: PostgresStore, one: Consumer
) -> None:
    names = [f"{number:04}" for number in range(1_100)]
    for start in range(0, 1_100, 100):
        some = names[start : start + 100]
        await push(store, *(job(name, priority=Priority.LOW if name < "0300" else Priority.HIGH) for name in some))
    await store.driver.change(Hold("0500"))
    await store.driver.change(Pause("Work"))
    assert await ids_of_claim(one) == []
    await store.driver.change(Resume("Work"))

    freed, after = list[int](), ""
    while after or not freed:
        after = await store.driver.change(Unpark(after))
        freed.append(len(store.rows("select 1 from redisjobs.jobs where queue = %s and place = 'returned'")))
    assert freed == [499, 999, 1_099]
    with pytest.raises(DriverError, match="no step ends there"):
        await store.driver.change(Unpark("nowhere"))

    wanted = [*names[300:500], *names[501:], *names[:300]]
    assert await ids_of_claim(one) == wanted


# Settings


async def test_many_workers_come_in_steps_each_once(store: PostgresStore) -> None:
    for table, columns, values in (
        ("workers", "queue, id, run, lease_ms, began_ms", "'run', 15000, 0"),
        ("beats", "queue, id, until_ms, facts", """0, '{"host": "here"}'"""),
    ):
        store.rows(
            f"insert into redisjobs.{table} ({columns}) select q, 'w' || n, {values}"
            " from (values (%s)) queue (q), generate_series(1, 250) n returning id"
        )

    steps = [await store.driver.read(FindWorkers())]
    while after := steps[-1].after:
        steps.append(await store.driver.read(FindWorkers(after)))

    assert [len(step.workers) for step in steps] == [100, 100, 50]
    infos = worker_infos(steps)
    assert (len(infos), {info.host for info in infos}) == (250, {"here"})


async def test_the_last_twenty_declarations_are_known(store: PostgresStore) -> None:
    store.clock.advance(0)
    for number in range(25):
        store.clock.advance(1)
        assert not await store.driver.change(Declare(f"{number:02x}", done=True))

    known = [await store.driver.change(Declare(f"{number:02x}")) for number in range(25)]
    assert known == [False] * 5 + [True] * 20
