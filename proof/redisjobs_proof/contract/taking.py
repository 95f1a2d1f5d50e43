"""A queue moves to another store: jobs that do not run go into transit, with all that they have."""

import pytest

from redisjobs.model.changes import Cancel, Hold, Requeue, Retain
from redisjobs.model.children import ChildOutcome, ChildrenFound, ChildState, FindChildren
from redisjobs.model.driver import Consumer, Driver
from redisjobs.model.job import ASIDE, State
from redisjobs.model.moving import FindRetention, FindTaken, ForgetTaken, InTransit, Take, Taken, Took
from redisjobs.model.queries import Count, FindPauses
from redisjobs.model.retention import Keep, Retention
from redisjobs.model.steps import GetSteps, How, Saved, Signal, Steps
from redisjobs.model.transitions import Ack, After, At, Release, Reply, Result, SaveStep, Settlement
from redisjobs_proof.contract.acts import (
    FAILED,
    another,
    claim,
    claim_one,
    found,
    happened,
    ids,
    job,
    push,
    rows_of,
    saved,
    settle,
)
from redisjobs_proof.contract.awaiting_children import (
    GAVE_1,
    TOKEN,
    adding,
    child,
    outcomes,
    parent,
    with_children,
)
from redisjobs_proof.contract.move_acts import ADDED, KNOWN, NOW, in_transit, take
from redisjobs_proof.contract.needs import needs
from redisjobs_proof.contract.store import DriverStore
from redisjobs_proof.contract.suspending import asleep, signal, suspended, waiting

_NEEDS = (Take, FindTaken, ForgetTaken, FindRetention)


async def test_the_name_of_a_store_stays_and_asking_for_it_takes_nothing(
    store: DriverStore, driver: Driver
) -> None:
    await push(store, "a")

    first = await driver.change(Take())
    assert first == Took(first.store, [])
    assert first.store
    assert (await driver.change(Take())).store == first.store
    assert await in_transit(store) in (InTransit("", [], 0), InTransit(first.store, [], 0))
    assert (await found(store, "a")).state is State.READY


async def test_a_job_in_transit_is_not_in_the_queue(store: DriverStore, one: Consumer) -> None:
    store.clock.set_to = NOW
    await push(store, job("a", parameters='{"to": 12345678901234567890}'), "b")

    assert await take(store, "a") == [Reply.OK]

    there = await in_transit(store)
    (taken,) = there.jobs
    assert there.total == 1
    assert there.store == (await store.driver.change(Take())).store
    assert (taken.job_id, taken.state, taken.taken_ms) == ("a", State.READY, NOW)
    assert taken.fields[b"parameters"] == b'{"to": 12345678901234567890}'
    assert ids(await claim(one)) == ["b"]
    assert happened(await store.driver.read(Count())) == {"pushed": 2}


async def test_jobs_in_transit_come_in_the_order_in_which_they_were_taken(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, *"abc")
    await take(store, "c", "a")
    await take(store, "b")

    jobs = (await in_transit(store)).jobs
    assert [each.job_id for each in jobs] == ["c", "a", "b"]
    assert [each.place for each in jobs] == sorted({each.place for each in jobs})
    assert len({len(each.place) for each in jobs}) == 1
    assert [each.job_id for each in (await in_transit(store, jobs[0].place)).jobs] == ["a", "b"]
    assert (await in_transit(store, jobs[0].place)).total == 3
    two = await store.driver.read(FindTaken(limit=2))
    assert ([each.job_id for each in two.jobs], two.total) == (["c", "a"], 3)


async def test_a_place_is_never_given_again(store: DriverStore, driver: Driver) -> None:
    await push(store, *"ab")
    await take(store, "a")
    first = (await in_transit(store)).jobs[0].place
    assert await driver.change(ForgetTaken([first, first])) is Reply.OK
    assert (await in_transit(store)).jobs == []
    store.clock.set_to = 1  # the clock was set back

    await take(store, "b")

    assert (await in_transit(store)).jobs[0].place > first


async def test_running_jobs_are_not_taken(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    ready = await found(store, "a")
    lease = await claim_one(one)

    for row in (ready, await found(store, "a")):
        assert (await store.driver.change(Take([row]))).replies == [Reply.NOT_FOUND]
    assert (await in_transit(store)).jobs == []
    assert await settle(one, lease, Ack()) is Reply.OK


async def test_a_job_that_has_changed_since_the_scan_is_not_taken(store: DriverStore, one: Consumer) -> None:
    await push(store, "ready", job("later", due=After(60_000)))
    rows = [await found(store, "ready"), await found(store, "later")]
    for row in rows:
        await store.driver.change(Cancel(row.job_id))
    await push(store, job("later"), another("ready", due=After(60_000)))

    assert (await store.driver.change(Take([*rows, rows[0]]))).replies == [Reply.NOT_FOUND] * 3


async def test_a_taken_job_frees_its_key_and_its_hold_but_its_push_is_remembered(
    store: DriverStore, one: Consumer
) -> None:
    made = job("a", unique="key")
    await push(store, made)
    await store.driver.change(Hold("a"))
    await take(store, "a")

    assert await push(store, made, repeated=True) == [KNOWN]
    assert await push(store, job("b", unique="key")) == [ADDED]
    assert (await store.driver.read(FindPauses())).held == 0
    (taken,) = (await in_transit(store)).jobs
    assert taken.held


async def test_a_step_of_jobs_in_transit_has_about_1_mb_with_their_results(
    store: DriverStore, one: Consumer
) -> None:
    await store.driver.change(Retain(Retention(completed=Keep())))
    await push(store, *"abc")
    large = b'"' + 600_000 * b"x" + b'"'
    for lease in await claim(one):
        assert await settle(one, lease, Ack(result=Result(60_000, large))) is Reply.OK
    await take(store, *"abc")

    place, jobs = "", list[Taken]()
    for _ in "abc":
        (taken,) = (await in_transit(store, place)).jobs
        place = taken.place
        jobs.append(taken)
    assert [each.job_id for each in jobs] == ["a", "b", "c"]
    assert [each.outcome and each.outcome.status.value for each in jobs] == [large] * 3


async def test_the_retention_is_found_if_it_was_set(store: DriverStore, driver: Driver) -> None:
    assert await driver.read(FindRetention()) is None

    for retention in (Retention(Keep(60, 7), None, Keep()), Retention(cancelled=Keep(count=1))):
        await driver.change(Retain(retention))
        there = await driver.read(FindRetention())
        assert there
        for state in ASIDE:
            kept, wanted = there.of(state), retention.of(state)
            assert (kept and kept.text) == (wanted and wanted.text)


@needs(GetSteps, Signal)
async def test_a_suspended_job_is_taken_with_what_it_has_saved_and_its_signals(
    store: DriverStore, one: Consumer
) -> None:
    store.clock.set_to = NOW
    await push(store, "a", "b")
    for lease in await claim(one):
        for step in (SaveStep("charge", 1, b'{"n": 12345678901234567890}', 2), SaveStep("", 0, b'"half"', 2)):
            assert await settle(one, lease, step) is Reply.OK
        settlement = asleep(At(NOW + 60_000), number=2) if lease.job_id == "a" else waiting(number=2)
        assert await settle(one, lease, settlement) is Reply.OK
    assert await signal(store.driver, "other", "2") is Reply.KEPT
    steps = await saved(store)
    assert await take(store, "a", "b") == [Reply.OK, Reply.OK]

    a, b = (await in_transit(store)).jobs

    assert (a.state, a.due_ms, a.fields[b"waits"]) == (
        State.SUSPENDED,
        NOW + 60_000,
        b"2 time sleep 1732438860000",
    )
    assert steps.saved == {"charge": Saved(1, NOW, How.DONE, b'{"n": 12345678901234567890}')}
    assert (a.steps, a.signals) == (steps, {"other": b"2"})
    assert (b.state, b.due_ms, b.fields[b"waits"]) == (State.SUSPENDED, None, b"2 signal approved")
    assert (b.steps, b.signals) == (steps, {})
    assert await saved(store) == Steps()
    assert [await signal(store.driver, of=each) for each in "ab"] == [Reply.NOT_FOUND] * 2
    store.clock.set_to = NOW + 90_000
    answer = await one.exchange([], 5)
    assert (answer.leases, answer.due_in) == ([], None)


@needs(GetSteps, Signal)
async def test_a_new_job_with_the_id_of_a_taken_one_has_none_of_its_steps_and_signals(
    store: DriverStore, one: Consumer
) -> None:
    await suspended(store, one, waiting())
    await signal(store.driver, "other")
    await take(store, "a")

    await push(store, another("a"))

    lease = await claim_one(one)
    assert b"steps" not in lease.fields
    assert await settle(one, lease, waiting("other")) is Reply.OK
    assert (await found(store, "a")).state is State.SUSPENDED


@needs(GetSteps, Signal)
async def test_a_kept_job_leaves_the_steps_and_signals_to_the_new_one_with_its_id(
    store: DriverStore, one: Consumer
) -> None:
    await store.driver.change(Retain(Retention(completed=Keep())))
    await push(store, "a")
    await settle(one, await claim_one(one), Ack())
    await push(store, another("a"))
    lease = await claim_one(one)
    await settle(one, lease, SaveStep("charge", 1, b"1"))
    await settle(one, lease, waiting(number=2))
    await signal(store.driver, "other")

    assert (await store.driver.change(Take(await rows_of(store.driver, State.COMPLETED)))).replies == [Reply.OK]

    (taken,) = (await in_transit(store)).jobs
    assert (taken.steps, taken.signals) == (Steps(), {})
    assert list((await saved(store)).saved) == ["charge"]
    assert await signal(store.driver, "other") is Reply.EXISTS


@needs(GetSteps)
async def test_a_call_takes_about_1_mb_of_what_jobs_have_saved(store: DriverStore, one: Consumer) -> None:
    await push(store, *"abc", "plain")
    large = b'"' + 600_000 * b"x" + b'"'
    for lease in await claim(one):
        if lease.job_id != "plain":
            assert await settle(one, lease, SaveStep("large", 1, large)) is Reply.OK
        assert await settle(one, lease, Release()) is Reply.OK

    assert await take(store, *"abc", "plain") == [Reply.OK, Reply.OK, Reply.PARTIAL, Reply.PARTIAL]
    assert await take(store, "c", "plain") == [Reply.OK, Reply.OK]

    place, jobs = "", list[Taken]()
    while page := (await in_transit(store, place)).jobs:
        place = page[-1].place
        jobs += page
    assert [each.job_id for each in jobs] == [*"abc", "plain"]
    assert [each.steps.saved["large"].value for each in jobs[:3]] == [large] * 3
    assert [each.fields.get(b"steps") for each in jobs] == [b"1", b"1", b"1", None]


@needs(FindChildren)
async def test_a_parent_and_its_children_stay_until_all_of_them_have_ended(
    store: DriverStore, one: Consumer
) -> None:
    children = [child(0), child(1), child(2, due=After(9000)), child(3, "named")]
    await parent(store, one, with_children(4, *children))
    dead, other = await claim(one, 2)
    await settle(one, dead, FAILED)
    await settle(one, other, Release())
    family = ["a", dead.job_id, other.job_id, f"{TOKEN}-2", "named"]
    before = await outcomes(store)

    assert await take(store, *family) == [Reply.STAYS] * 5

    assert await outcomes(store) == before
    assert [await store.driver.change(Cancel(each)) for each in family[3:]] == [Reply.CANCELLED] * 2
    assert await take(store, *family[:3]) == [Reply.STAYS] * 3
    await settle(one, await claim_one(one), Ack(result=Result(0, b'{"n": 12345678901234567890}')))
    assert (await store.driver.change(Take([await found(store, "a")], -1))).replies == [Reply.STAYS]
    assert await take(store, "a", dead.job_id) == [Reply.OK] * 2
    a, letter = (await in_transit(store)).jobs
    assert (a.state, dict(a.steps.groups)) == (State.READY, {"render": TOKEN})
    assert a.children == {
        TOKEN: [
            ChildOutcome(ChildState.DEAD, error="ValueError: no", error_type="ValueError", reason="failed"),
            ChildOutcome(ChildState.COMPLETED, b'{"n": 12345678901234567890}'),
            ChildOutcome(ChildState.CANCELLED),
            ChildOutcome(ChildState.CANCELLED),
        ]
    }
    assert (letter.state, letter.children) == (State.DEAD, {})
    assert await outcomes(store) == ChildrenFound("")


@needs(FindChildren)
async def test_a_parent_stays_that_has_not_added_all_its_children(store: DriverStore, one: Consumer) -> None:
    lease = await parent(store, one)
    await settle(one, lease, adding(2, child(0)))
    await settle(one, await claim_one(one), Ack(result=GAVE_1))
    await settle(one, lease, Release())

    assert await take(store, "a") == [Reply.STAYS]

    await settle(one, await claim_one(one), with_children(2, child(1)))
    await settle(one, await claim_one(one), Ack(result=GAVE_1))
    assert await take(store, "a") == [Reply.OK]


@needs(FindChildren)
@pytest.mark.parametrize("settlement", [Ack(stepped=True), FAILED])
async def test_children_stay_with_a_dead_letter_that_may_be_requeued_and_go_if_their_parent_has_ended(
    store: DriverStore, one: Consumer, settlement: Settlement
) -> None:
    lease = await parent(store, one)
    await settle(one, lease, adding(1, child(0)))
    await settle(one, lease, settlement)

    if settlement is FAILED:
        assert await take(store, f"{TOKEN}-0", "a") == [Reply.STAYS] * 2
        assert await store.driver.change(Requeue("a")) is Reply.OK
        assert await take(store, "a") == [Reply.STAYS]
    else:
        assert await take(store, f"{TOKEN}-0") == [Reply.OK]


@needs(FindChildren)
async def test_a_parent_stays_whose_children_have_returned_more_than_1_mb(
    store: DriverStore, one: Consumer
) -> None:
    await parent(store, one, with_children(2))
    large = Result(0, b'"' + 600_000 * b"x" + b'"')
    for lease in await claim(one):
        assert await settle(one, lease, Ack(result=large)) is Reply.OK

    assert await take(store, "a") == [Reply.STAYS]

    assert [len(each.value) for each in (await outcomes(store)).outcomes] == [600_002] * 2
    assert ids(await claim(one)) == ["a"]
