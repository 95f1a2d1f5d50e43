"""Scans of the jobs of a state, with filters and in steps; dead letters counted by kind of failure."""

import secrets
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from redisjobs.model.changes import BulkResult, Cancel, Delete, DeleteAll, Requeue, RequeueAll
from redisjobs.model.driver import Driver
from redisjobs.model.job import Priority, State
from redisjobs.model.queries import DeadKind, Filter, Find, GroupDead, Row, Scan
from redisjobs.model.transitions import After, DeadLetter, Lease, NewJob, Release, Reply, Settlement
from redisjobs_proof.contract.acts import claim, job
from redisjobs_proof.contract.needs import needs
from redisjobs_proof.contract.store import DriverStore

FAILED = DeadLetter("failed", "ValueError: no", "a trace", "ValueError", "0123456789ab")
OTHER = DeadLetter("failed", "KeyError: 'é'", "a trace", "KeyError", "ba9876543210")
EXPIRED = DeadLetter("expired", "it was not started in time")


async def push(driver: Driver, *jobs: NewJob) -> None:
    await driver.push(jobs, repeated=False)


async def work(store: DriverStore, settlements: Mapping[str, Settlement]) -> None:
    """Claim all ready jobs, and settle those in `settlements`."""
    async with aclosing(store.driver.consumer(secrets.token_hex(8), lease=15, max_deliveries=3)) as worker:
        await worker.open()
        leases: dict[str, Lease] = {}
        answer = await worker.exchange([], 500)
        while answer.leases or answer.more:
            leases |= {lease.job_id: lease for lease in answer.leases}
            answer = await worker.exchange([], 500)
        await worker.exchange([(leases[job_id], each) for job_id, each in settlements.items()], None)


async def end(store: DriverStore, settlements: Sequence[tuple[NewJob, DeadLetter]]) -> None:
    """Make these jobs dead letters, in this order, while the clock stands still."""
    store.clock.advance(0)
    await push(store.driver, *(each for each, _ in settlements))
    await work(store, {each.job_id: settlement for each, settlement in settlements})


async def scan(driver: Driver, state: State, limit: int = 500, **wanted: Any) -> list[Row]:
    """Return all jobs that match, from as many steps as it takes."""
    rows: list[Row] = []
    after = None
    while after != "":
        step = await driver.read(Scan(state, Filter(**wanted), after or "", limit))
        assert len(step.rows) <= limit
        rows += step.rows
        after = step.after
    return rows


async def found(driver: Driver, state: State, **wanted: Any) -> list[str]:
    return [row.job_id for row in await scan(driver, state, **wanted)]


FILTERS: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({}, "abcd"),
    "a name": ({"name": "Work"}, "abc"),
    "a part of a name": ({"name": "Wor"}, ""),
    "text in the parameters": ({"text": "joe"}, "ab"),
    "text that would be a pattern": ({"text": "."}, "d"),
    "text that is not ASCII": ({"text": "größe"}, "c"),
    "a name and text": ({"name": "Other", "text": "joe"}, ""),
    "text that is nowhere": ({"text": "Work"}, ""),
}


@pytest.mark.parametrize("state", [State.READY, State.DELAYED, State.DEAD])
@pytest.mark.parametrize("case", FILTERS)
async def test_a_scan_finds_the_jobs_that_its_filter_lets_through(
    store: DriverStore, driver: Driver, state: State, case: str
) -> None:
    due = After(5000) if state is State.DELAYED else None
    jobs = [
        job("a", parameters='{"to": "joe"}', due=due),
        job("b", parameters='{"to": "joe"}', due=due),
        job("c", parameters='{"to": "größe"}', due=due),
        job("d", "Other", '{"to": 1.5}', due=due),
    ]
    if state is State.DEAD:
        await end(store, [(each, EXPIRED) for each in jobs])
    else:
        await push(driver, *jobs)
    wanted, ids = FILTERS[case]

    assert await found(driver, state, **wanted) == [*(reversed(ids) if state is State.DEAD else ids)]


@pytest.mark.parametrize("text", ["100%", "a_b", "back\\slash", "größe", 'quo"te', "'"])
async def test_a_text_is_searched_for_as_it_is(driver: Driver, text: str) -> None:
    await push(driver, job("has it", parameters=text), job("has it not", parameters="100x axb"))

    assert await found(driver, State.READY, text=text) == ["has it"]


@pytest.mark.parametrize("text", ["\0", "\udcff", "a\0b"])
async def test_characters_that_no_job_has_are_found_nowhere(driver: Driver, text: str) -> None:
    """A store that can not hold them raises no error."""
    await push(driver, job("a"))

    assert await found(driver, State.READY, name=text, text=text, worker=text) == []
    assert await driver.read(Find(text)) is None


async def test_dead_letters_are_found_by_what_is_known_of_their_end(store: DriverStore, driver: Driver) -> None:
    await end(store, [(job("a"), FAILED), (job("b"), OTHER), (job("c"), EXPIRED), (job("d"), FAILED)])

    assert await found(driver, State.DEAD, fingerprint=FAILED.fingerprint) == ["d", "a"]
    assert await found(driver, State.DEAD, text="Error: ") == ["d", "b", "a"]
    assert await found(driver, State.DEAD, text="'é'") == ["b"]
    assert await found(driver, State.DEAD, text="a trace") == []
    assert await found(driver, State.DEAD, reason="expired") == ["c"]
    assert await found(driver, State.DEAD, reason="failed", text="KeyError") == ["b"]
    assert await found(driver, State.READY, fingerprint=FAILED.fingerprint) == []


@pytest.mark.parametrize("state", [State.READY, State.DELAYED, State.DEAD])
async def test_the_age_of_a_job_counts_since_it_was_pushed_and_of_a_dead_letter_since_it_died(
    store: DriverStore, driver: Driver, state: State
) -> None:
    store.clock.advance(0)
    due = After(90_000) if state is State.DELAYED else None
    await push(driver, job("old", due=due))
    if state is State.DEAD:
        store.clock.advance(60)
        await work(store, {"old": FAILED})
    store.clock.advance(20)

    assert await found(driver, state, older_ms=10_000) == ["old"]
    assert await found(driver, state, older_ms=30_000) == []


async def test_ready_jobs_are_those_that_wait_also_those_handed_back_and_not_those_that_run(
    store: DriverStore, driver: Driver
) -> None:
    await push(driver, job("back"), job("runs"))
    await work(store, {"back": Release()})
    await push(driver, job("low", priority=Priority.LOW), job("high", priority=Priority.HIGH), job("new"))

    rows = await scan(driver, State.READY)

    assert [(row.job_id, row.priority, row.worker) for row in rows] == [
        ("high", "high", ""),
        ("back", "normal", ""),
        ("new", "normal", ""),
        ("low", "low", ""),
    ]
    assert {row.state for row in rows} == {State.READY}


@pytest.mark.parametrize("limit", [1, 2, 500])
@pytest.mark.parametrize("state", [State.READY, State.DELAYED, State.DEAD])
async def test_a_scan_in_steps_finds_each_job_once_and_as_a_list_does(
    store: DriverStore, driver: Driver, state: State, limit: int
) -> None:
    ids = [f"j{number}" for number in range(7)]
    priorities = [Priority.NORMAL, Priority.LOW, Priority.HIGH]
    due = After(5000) if state is State.DELAYED else None
    jobs = [job(each, priority=priorities[number % 3], due=due) for number, each in enumerate(ids)]
    if state is State.DEAD:
        await end(store, [(each, FAILED) for each in jobs])
        ids.reverse()
    else:
        await push(driver, *jobs)
    if state is State.READY:
        ids = [ids[n] for n in (2, 5, 0, 3, 6, 1, 4)]

    rows = await scan(driver, state, limit)

    assert [row.job_id for row in rows] == ids


@pytest.mark.parametrize("state", [State.READY, State.DELAYED, State.DEAD])
async def test_a_scan_goes_on_where_it_left_off_though_what_it_saw_last_is_gone(
    store: DriverStore, driver: Driver, state: State
) -> None:
    due = After(5000) if state is State.DELAYED else None
    jobs = [job(name, due=due) for name in "abcd"]
    if state is State.DEAD:
        await end(store, [(each, FAILED) for each in reversed(jobs)])
    else:
        await push(driver, *jobs)

    first = await driver.read(Scan(state, limit=2))
    for name in "ab":
        await driver.change(Delete(name) if state is State.DEAD else Cancel(name))
    second = await driver.read(Scan(state, after=first.after))

    assert [row.job_id for row in first.rows] == ["a", "b"]
    assert [row.job_id for row in second.rows] == ["c", "d"]
    assert second.after == ""


async def test_a_dead_letter_that_dies_again_meanwhile_is_not_found_again(
    store: DriverStore, driver: Driver
) -> None:
    await end(store, [(job(name), FAILED) for name in "cba"])
    first = await driver.read(Scan(State.DEAD, limit=1))
    assert [row.job_id for row in first.rows] == ["a"]

    await driver.change(Requeue("a"))
    await work(store, {"a": FAILED})
    second = await driver.read(Scan(State.DEAD, after=first.after))

    assert [row.job_id for row in second.rows] == ["b", "c"]


async def groups(driver: Driver) -> list[DeadKind]:
    """Return the groups of all steps."""
    found: list[DeadKind] = []
    after = None
    while after != "":
        step = await driver.read(GroupDead(after or ""))
        found += step.groups
        after = step.after
    return found


@needs(GroupDead)
async def test_dead_letters_are_counted_by_kind_those_with_the_newest_first(
    store: DriverStore, driver: Driver
) -> None:
    assert await groups(driver) == []
    await end(store, [(job("a"), FAILED), (job("b", "Other"), FAILED), (job("c"), EXPIRED)])
    first_ms = store.clock()
    store.clock.advance(700)
    await end(store, [(job("d"), FAILED), (job("e"), OTHER)])

    failed, expired = ("0123456789ab", "failed", "ValueError"), ("expired", "expired", "")
    other, last_ms = ("ba9876543210", "failed", "KeyError"), store.clock()
    none = [0] * 9
    assert await groups(driver) == [
        DeadKind(*other, 1, last_ms, last_ms, "e", "KeyError: 'é'", ["Work"], [*none, 0, 0, 1]),
        DeadKind(*failed, 3, first_ms, last_ms, "d", "ValueError: no", ["Work", "Other"], [*none, 2, 0, 1]),
        DeadKind(*expired, 1, first_ms, first_ms, "c", "it was not started in time", ["Work"], [*none, 1, 0, 0]),
    ]


@needs(GroupDead)
async def test_a_group_names_a_letter_whose_id_has_any_characters(store: DriverStore, driver: Driver) -> None:
    await end(store, [(job("a\0\udcff é"), FAILED)])
    assert [group.job_id for group in await groups(driver)] == ["a\0\udcff é"]


@needs(GroupDead, RequeueAll, DeleteAll)
async def test_a_group_counts_only_letters_that_are_still_there(store: DriverStore, driver: Driver) -> None:
    await end(store, [(job(name), FAILED) for name in "abcdef"])
    await end(store, [(job("x"), EXPIRED)])

    async def counted() -> dict[str, int]:
        return {group.fingerprint: group.count for group in await groups(driver)}

    kind = Filter(fingerprint=FAILED.fingerprint)
    assert await driver.change(Requeue("a")) is Reply.OK
    assert await driver.change(Delete("b")) is Reply.OK
    assert await counted() == {FAILED.fingerprint: 4, "expired": 1}
    begin = await driver.change(DeleteAll(replace(kind, text="none has it")))
    assert list((await driver.change(DeleteAll(replace(kind, text="none has it"), begin.after))).job_ids) == []
    begin = await driver.change(RequeueAll(kind))
    assert list((await driver.change(RequeueAll(kind, begin.after))).job_ids) == ["f", "e", "d", "c"]

    assert await counted() == {"expired": 1}
    begin = await driver.change(DeleteAll(Filter(fingerprint="expired")))
    assert list((await driver.change(DeleteAll(Filter(fingerprint="expired"), begin.after))).job_ids) == ["x"]
    assert await groups(driver) == []


async def test_a_kind_of_failure_is_found_among_many_others_in_one_step(
    store: DriverStore, driver: Driver
) -> None:
    await end(store, [(job("first"), OTHER)])
    for start in (0, 400):
        await end(store, [(job(f"j{start + number}"), FAILED) for number in range(400)])
    await end(store, [(job("last"), OTHER), (job("late"), EXPIRED)])

    wanted = Filter(fingerprint=OTHER.fingerprint)
    step = await driver.read(Scan(State.DEAD, wanted))
    assert ([row.job_id for row in step.rows], step.after) == (["last", "first"], "")
    one = await driver.read(Scan(State.DEAD, wanted, limit=1))
    await driver.change(Delete("last"))  # the cursor stands on a letter that is gone
    two = await driver.read(Scan(State.DEAD, wanted, one.after))
    assert [row.job_id for row in (*one.rows, *two.rows)] == ["last", "first"]
    assert await found(driver, State.DEAD, fingerprint="expired") == ["late"]
    assert len(await found(driver, State.DEAD, fingerprint=FAILED.fingerprint)) == 800


@needs(GroupDead)
async def test_many_groups_come_in_steps(store: DriverStore, driver: Driver) -> None:
    kinds = [replace(FAILED, fingerprint=f"{number:012x}") for number in range(250)]
    await end(store, [(job(f"j{number}"), kind) for number, kind in enumerate(kinds)])

    assert sorted(group.fingerprint for group in await groups(driver)) == [kind.fingerprint for kind in kinds]


@needs(GroupDead)
async def test_no_group_is_left_out_because_the_one_where_a_step_stopped_is_gone(
    store: DriverStore, driver: Driver
) -> None:
    kinds = [replace(FAILED, fingerprint=f"{number:012x}") for number in range(250)]
    await end(store, [(job(f"j{number}"), kind) for number, kind in enumerate(kinds)])

    found, step = list[str](), await driver.read(GroupDead())
    while True:
        found += [group.fingerprint for group in step.groups]
        await driver.change(Delete(step.groups[-1].job_id))
        if not step.after:
            break
        step = await driver.read(GroupDead(step.after))

    assert sorted(found) == [kind.fingerprint for kind in kinds]


async def test_a_scan_goes_through_more_jobs_than_a_step_looks_at_though_none_is_meant(
    store: DriverStore, driver: Driver
) -> None:
    for start in (0, 400):
        await push(driver, *(job(f"j{start + number}") for number in range(400)))
    await push(driver, job("wanted", "Other"))

    first = await driver.read(Scan(State.READY, Filter(name="Other")))

    assert (list(first.rows), first.after != "") == ([], True)
    assert await found(driver, State.READY, name="Other") == ["wanted"]


@needs(RequeueAll, DeleteAll)
@pytest.mark.parametrize("step", [RequeueAll, DeleteAll])
async def test_a_step_that_is_sent_again_takes_no_job_that_died_again_since(
    store: DriverStore, driver: Driver, step: type[RequeueAll] | type[DeleteAll]
) -> None:
    await end(store, [(job("a"), FAILED), (job("b"), FAILED)])
    begin = await driver.change(step())
    assert (list(begin.job_ids), await found(driver, State.DEAD)) == ([], ["b", "a"])
    change = step(after=begin.after)
    taken = await driver.change(change)
    assert (list(taken.job_ids), taken.after) == (["b", "a"], "")
    if step is RequeueAll:
        await work(store, {"a": FAILED})
    else:
        await end(store, [(job("c"), FAILED)])

    again = await driver.change(change)  # its answer was lost

    assert (list(again.job_ids), again.after) == ([], "")
    assert await found(driver, State.DEAD) == ["a" if step is RequeueAll else "c"]


@needs(RequeueAll, DeleteAll)
async def test_where_there_is_no_dead_letter_nothing_is_taken(driver: Driver) -> None:
    assert await driver.change(RequeueAll()) == BulkResult([])
    assert await driver.change(DeleteAll()) == BulkResult([])


@needs(RequeueAll, DeleteAll)
async def test_a_step_takes_200_letters_and_the_next_goes_on_there(store: DriverStore, driver: Driver) -> None:
    await end(store, [(job(f"j{number}"), FAILED) for number in range(210)])
    begin = await driver.change(RequeueAll())

    first = await driver.change(RequeueAll(after=begin.after))
    assert await found(driver, State.DEAD) == [f"j{number}" for number in reversed(range(10))]
    second = await driver.change(DeleteAll(after=first.after))

    assert (len(first.job_ids), len(second.job_ids)) == (200, 10)
    assert (first.job_ids[0], second.job_ids[-1]) == ("j209", "j0")
    assert await found(driver, State.DEAD) == []


async def test_jobs_that_run_are_found_by_priority_and_age_by_a_filter_and_in_steps(
    store: DriverStore, driver: Driver
) -> None:
    store.clock.advance(0)
    low = [job(f"l{number}", "Other", priority=Priority.LOW) for number in range(6)]
    await push(driver, *(job(f"n{number}") for number in range(6)), *low)
    workers = [driver.consumer(name, lease=15, max_deliveries=3) for name in ("w1", "w2")]
    for worker in workers:
        await worker.open()
    for _ in range(3):  # by turns
        for worker in workers:
            assert len(await claim(worker, 2)) == 2
    await push(driver, job("waits"))

    every = [f"n{number}" for number in range(6)] + [f"l{number}" for number in range(6)]
    assert await found(driver, State.RUNNING) == every
    assert [row.job_id for row in await scan(driver, State.RUNNING, 1)] == every
    assert await found(driver, State.RUNNING, name="Other") == every[6:]
    assert await found(driver, State.READY) == ["waits"]
    first = await driver.read(Scan(State.RUNNING, limit=5))
    assert {row.worker for row in first.rows} == {"w1", "w2"}
    both = [await found(driver, State.RUNNING, worker=name) for name in ("w1", "w2")]
    assert (sorted(both[0] + both[1]), len(both[0])) == (sorted(every), 6)
    assert await found(driver, State.RUNNING, worker="w3") == []
    assert [row.job_id for row in await scan(driver, State.RUNNING, 1, worker="w2")] == both[1]
    for worker in workers:
        await worker.release(refund=True, watch=False)
        await worker.aclose()
    assert await found(driver, State.RUNNING) == []
