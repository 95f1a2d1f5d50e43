"""Jobs are taken out of a queue in Postgres, while other transactions change them."""

from contextlib import aclosing, closing

import anyio
import pytest
from postgres_store import Other, PostgresStore
from postgres_store import store as store
from store import eventually

from redisjobs.model.changes import Cancel, ChangeMany
from redisjobs.model.job import State
from redisjobs.model.moving import FindTaken, Import, Take
from redisjobs.model.transitions import Release, Reply
from redisjobs_proof.contract.acts import another, claim_one, found, push, settle

pytestmark = [pytest.mark.slow, pytest.mark.anyio]


async def test_refused_jobs_are_noted_one_by_one(store: PostgresStore) -> None:
    """Not all in one value: each import would write that again."""
    ids = [f"job{number}" for number in range(100)]
    await push(store, *ids)
    await store.driver.change(Take([await found(store, each) for each in ids]))
    there = await store.driver.read(FindTaken())
    await push(store, *map(another, ids))
    refused = "select place from redisjobs.refused where queue = %s and source = 'elsewhere' order by place"

    answers = await store.driver.change(Import("elsewhere", there.jobs))

    assert {answer.reply for answer in answers} == {Reply.EXISTS}
    assert store.rows(refused) == [(job.place,) for job in there.jobs]
    noted = "select value from redisjobs.settings where queue = %s and name = 'imported elsewhere'"
    assert store.rows(noted) == [(there.jobs[-1].place,)]
    await store.driver.change(ChangeMany([Cancel(each) for each in ids]))
    answers = await store.driver.change(Import("elsewhere", there.jobs))
    assert {answer.reply for answer in answers} == {Reply.OK}
    assert store.rows(refused) == []


async def test_a_job_that_is_handed_back_and_claimed_while_it_is_taken_stays(store: PostgresStore) -> None:
    await push(store, "a")
    rows = [await found(store, "a")]
    async with aclosing(store.consumer("w1")) as one:
        await one.open()
        lease = await claim_one(one)
        await push(store, "b")
        rows.append(await found(store, "b"))
        with closing(Other(store)) as slow, closing(Other(store)) as claiming:
            slow.lock("b")
            taking = slow.change(Take(rows))
            await eventually(slow.is_waited_for)  # it has passed the running job by
            assert await settle(one, lease, Release()) is Reply.OK
            assert (await found(store, "a")).state is State.READY
            claimed = "update redisjobs.jobs set place = 'running' where queue = %s and id = 'a' returning id"
            assert claiming.ask(claimed)

            slow.transaction.commit()
            await eventually(lambda: taking.done() or claiming.is_waited_for())
            claiming.transaction.commit()
            took = await anyio.to_thread.run_sync(taking.result)

    assert took.replies == [Reply.NOT_FOUND, Reply.OK]
    assert store.rows("select id from redisjobs.jobs where queue = %s") == [("a",)]
    store.rows("delete from redisjobs.jobs where queue = %s returning id")


async def test_a_mover_takes_no_other_job_that_has_the_place_in_line_of_one_it_found(store: PostgresStore) -> None:
    """A server that has lost the last places in line gives them again, to other jobs."""
    await push(store, "a")
    row = await found(store, "a")
    ((seq,),) = store.rows("delete from redisjobs.jobs where queue = %s returning seq")
    store.admin.execute("select setval('redisjobs.line', %s, false)", (seq,))
    await push(store, "b")
    assert store.rows("select seq from redisjobs.jobs where queue = %s") == [(seq,)]

    assert (await store.driver.change(Take([row]))).replies == [Reply.NOT_FOUND]
    assert (await found(store, "b")).state is State.READY
