"""A queue moves to another store: jobs go into transit, and come to a queue in the state that they had."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import pytest

from redisjobs.model.changes import Cancel, Ending, GetStatus, Hold, JobStatus, Pause, Requeue, Retain, SetLimit
from redisjobs.model.driver import Consumer, Driver
from redisjobs.model.job import State
from redisjobs.model.moving import FindRetention, FindTaken, ForgetTaken, Import, InTransit, Take, Taken, Took
from redisjobs.model.queries import Count, Find, FindPauses, GroupDead, Row
from redisjobs.model.retention import ASIDE, Keep, Retention
from redisjobs.model.transitions import Ack, After, At, NewJob, Pushed, Release, Reply, Result
from redisjobs.testing.driver_contract.acts import (
    FAILED,
    LATER,
    PRIORITIES,
    another,
    claim,
    claim_one,
    found,
    happened,
    ids,
    job,
    listening,
    push,
    row_of,
    rows_of,
    settle,
    until_start,
)
from redisjobs.testing.store import DriverStore

_NEEDS = (Take, FindTaken, Import, ForgetTaken, FindRetention)
_NOW = 1_732_438_800_000
ADDED, KNOWN = Pushed(Reply.OK), Pushed(Reply.REPEATED)


async def take(store: DriverStore, *job_ids: str) -> Sequence[Reply]:
    """Put these jobs in transit."""
    return (await store.driver.change(Take([await found(store, each) for each in job_ids]))).replies


async def in_transit(store: DriverStore, after: str = "") -> InTransit:
    return await store.driver.read(FindTaken(after))


async def bring(store: DriverStore, *jobs: Taken, source: str = "elsewhere") -> Sequence[Pushed]:
    """Import jobs, or all that are in transit in this store: a round trip."""
    return await store.driver.change(Import(source, jobs or (await in_transit(store)).jobs))


async def round_trip(store: DriverStore, job_id: str) -> tuple[Row, Row]:
    """Return the row of a job before it was moved out of the queue, and after it came back."""
    before = await row_of(store.driver, job_id)
    assert await take(store, job_id) == [Reply.OK]
    assert await store.driver.read(Find(job_id)) is None
    assert await bring(store) == [ADDED]
    return before, await row_of(store.driver, job_id)


def lasting(row: Row) -> Row:
    """Return a row without what is counted again, and without the time of its push, which may be in no field."""
    fields = {name: value for name, value in row.fields.items() if name != b"queued_at"}
    return replace(row, key="", queued_ms=0, deliveries=0, fields=fields)


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
    store.clock.set_to = _NOW
    await push(store, job("a", parameters='{"to": 12345678901234567890}'), "b")

    assert await take(store, "a") == [Reply.OK]

    there = await in_transit(store)
    (taken,) = there.jobs
    assert there.total == 1
    assert there.store == (await store.driver.change(Take())).store
    assert (taken.job_id, taken.state, taken.taken_ms) == ("a", State.READY, _NOW)
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


async def _ready(store: DriverStore, one: Consumer) -> None:
    fields = [*job("a").fields, "headers", '{"trace": "1"}', b"\xff foreign", b"\xff text / \x7f \\ \n"]
    await push(store, NewJob("a", fields, PRIORITIES[0]))


async def _delayed(store: DriverStore, one: Consumer) -> None:
    await push(store, job("a", due=At(_NOW + 60_000), priority=PRIORITIES[2], expires_in_ms=90_000))


async def _retried(store: DriverStore, one: Consumer) -> None:
    await push(store, another("a"))
    assert await settle(one, await claim_one(one), LATER) is Reply.OK


async def _released(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    assert await settle(one, await claim_one(one), Release()) is Reply.OK


async def _held(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    assert await store.driver.change(Hold("a")) is Reply.HELD


async def _held_and_delayed(store: DriverStore, one: Consumer) -> None:
    await push(store, job("a", due=At(_NOW + 60_000)))
    assert await store.driver.change(Hold("a")) is Reply.HELD


async def _parked(store: DriverStore, one: Consumer) -> None:
    await store.driver.change(Pause("Work"))
    await push(store, "a")
    assert await claim(one) == []


async def _of_a_limit(store: DriverStore, one: Consumer) -> None:
    await store.driver.change(SetLimit("Work", "max_concurrency=1"))
    await push(store, "running")
    await claim_one(one)
    await push(store, NewJob("a", [*job("a").fields, "limit_key", "joe"]))


async def _with_a_key(store: DriverStore, one: Consumer) -> None:
    await push(store, until_start("a"))


async def _dead(store: DriverStore, one: Consumer) -> None:
    await push(store, job("a", unique="key"))
    assert await settle(one, await claim_one(one), FAILED) is Reply.OK


async def _completed(store: DriverStore, one: Consumer) -> None:
    await store.driver.change(Retain(Retention(completed=Keep(), cancelled=Keep())))
    await push(store, "a")
    assert await settle(one, await claim_one(one), Ack()) is Reply.OK


async def _cancelled(store: DriverStore, one: Consumer) -> None:
    await store.driver.change(Retain(Retention(completed=Keep(), cancelled=Keep())))
    await push(store, "a")
    assert await store.driver.change(Cancel("a")) is Reply.CANCELLED


_STATES = [
    *(_ready, _delayed, _retried, _released, _held, _held_and_delayed, _parked, _of_a_limit, _with_a_key),
    *(_dead, _completed, _cancelled),
]


@pytest.mark.parametrize("bring_about", _STATES)
async def test_a_job_comes_in_the_state_and_with_the_fields_that_it_had(
    bring_about: Callable[[DriverStore, Consumer], Awaitable[None]], store: DriverStore, one: Consumer
) -> None:
    store.clock.set_to = _NOW
    await bring_about(store, one)

    before, after = await round_trip(store, "a")

    assert lasting(after) == lasting(before)
    assert after.fields[b"queued_at"] == before.fields.get(b"queued_at", b"%d" % _NOW)


async def test_a_job_from_elsewhere_runs_as_one_that_was_pushed(store: DriverStore, one: Consumer) -> None:
    await push(store, job("a", priority=PRIORITIES[2]), job("b", priority=PRIORITIES[0]), "c")
    await take(store, *"abc")
    await push(store, "d")

    assert await bring(store) == [ADDED] * 3

    leases = await claim(one)
    assert ids(leases) == ["b", "d", "c", "a"]
    assert [lease.deliveries for lease in leases] == [1] * 4
    for lease in leases:
        assert await settle(one, lease, Ack()) is Reply.OK


async def test_workers_learn_when_a_delayed_job_from_elsewhere_is_due(store: DriverStore, one: Consumer) -> None:
    store.clock.set_to = _NOW
    await push(store, job("a", due=At(_NOW + 60_000)))
    await take(store, "a")

    async with listening(store.driver.listen) as heard:
        await bring(store)
        while not [each for each in heard if each.kind == "due"]:
            await store.driver.read(FindTaken())
    assert {each.value for each in heard if each.kind == "due"} == {str(_NOW + 60_000)}
    store.clock.set_to = _NOW + 60_000
    assert ids(await claim(one)) == ["a"]


async def test_a_held_job_from_elsewhere_does_not_start(store: DriverStore, one: Consumer) -> None:
    await _held(store, one)
    await round_trip(store, "a")

    assert await claim(one) == []
    assert (await store.driver.read(FindPauses())).held == 1


async def test_a_job_comes_once_however_often_and_late_it_is_sent(store: DriverStore, one: Consumer) -> None:
    store.clock.set_to = _NOW
    await push(store, *"abc")
    await take(store, *"abc")
    jobs = (await in_transit(store)).jobs
    assert await bring(store, *jobs[:2]) == [ADDED, ADDED]
    for lease in await claim(one):
        assert await settle(one, lease, Ack()) is Reply.OK
    store.clock.set_to += 24 * 3_600_000

    assert await bring(store, *jobs[:2]) == [KNOWN, KNOWN]
    assert await bring(store, *jobs) == [KNOWN, KNOWN, ADDED]
    assert await bring(store, *jobs[:1]) == [KNOWN]
    assert ids(await claim(one)) == ["c"]


async def test_each_source_has_a_line_of_its_own(store: DriverStore, one: Consumer) -> None:
    await push(store, "a")
    await take(store, "a")
    (taken,) = (await in_transit(store)).jobs

    assert await bring(store, replace(taken, place="2"), source="one") == [ADDED]
    assert await bring(store, replace(taken, place="1", job_id="b"), source="two") == [ADDED]
    assert await bring(store, replace(taken, place="1", job_id="c"), source="one") == [KNOWN]


async def test_a_job_whose_id_is_taken_is_refused_until_the_other_has_ended(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, another("a"), "b")
    await take(store, "a", "b")
    jobs = (await in_transit(store)).jobs
    await push(store, another("a", parameters='{"other": 1}'))

    assert await bring(store, *jobs) == [Pushed(Reply.EXISTS), ADDED]
    assert await bring(store, *jobs) == [Pushed(Reply.EXISTS), KNOWN]
    assert (await found(store, "a")).fields[b"parameters"] == b'{"other": 1}'
    await store.driver.change(Cancel("a"))
    assert await bring(store, *jobs) == [ADDED, KNOWN]
    assert await bring(store, *jobs) == [KNOWN, KNOWN]
    assert (await found(store, "a")).fields[b"parameters"] == b"{}"


async def test_a_job_whose_unique_key_is_held_is_refused_until_it_is_free(
    store: DriverStore, one: Consumer
) -> None:
    await push(store, job("a", unique="key"))
    await take(store, "a")
    await push(store, job("holder", unique="key"))

    assert await bring(store) == [Pushed(Reply.DUPLICATE, "holder")]
    await store.driver.change(Cancel("holder"))
    assert await bring(store) == [ADDED]
    assert await push(store, job("next", unique="key")) == [Pushed(Reply.DUPLICATE, "a")]


async def test_a_unique_key_for_a_time_is_held_for_the_rest_of_it(store: DriverStore, one: Consumer) -> None:
    store.clock.set_to = None
    await push(store, job("a", unique="key", unique_for_ms=60_000))
    await take(store, "a")
    (taken,) = (await in_transit(store)).jobs
    assert taken.window_ms is not None
    now_ms = taken.taken_ms
    assert now_ms < taken.window_ms <= now_ms + 60_000

    over = replace(taken, place=taken.place[:-1] + "~", job_id="over", window_ms=now_ms - 1)
    other = replace(taken, job_id="b", fields={**taken.fields, b"id": b"b", b"window": b"other"})
    assert await bring(store, other) == [ADDED]
    assert await push(store, job("c", unique="other")) == [Pushed(Reply.DUPLICATE, "b")]
    gone = {**taken.fields, b"id": b"over", b"window": b"third"}
    assert await bring(store, replace(over, fields=gone)) == [ADDED]
    assert await push(store, job("d", unique="third")) == [ADDED]


async def test_a_dead_letter_from_elsewhere_holds_no_key_has_its_kind_and_can_be_requeued(
    store: DriverStore, one: Consumer
) -> None:
    store.clock.set_to = _NOW
    await _dead(store, one)
    await take(store, "a")
    await push(store, job("holder", unique="key"))
    store.clock.set_to = _NOW + 60_000
    assert await bring(store) == [ADDED]

    (group,) = (await store.driver.read(GroupDead())).groups
    assert (group.fingerprint, group.count, group.last_ms) == (FAILED.fingerprint, 1, _NOW)
    assert await store.driver.change(Requeue("a")) is Reply.DUPLICATE
    assert await store.driver.change(Cancel("holder")) is Reply.CANCELLED
    assert await store.driver.change(Requeue("a")) is Reply.OK
    assert ids(await claim(one)) == ["a"]


async def test_a_kept_job_from_elsewhere_brings_its_result(store: DriverStore, one: Consumer) -> None:
    await store.driver.change(Retain(Retention(completed=Keep())))
    await push(store, "a")
    assert await settle(one, await claim_one(one), Ack(result=Result(60_000, b'{"n": 1}'))) is Reply.OK
    await take(store, "a")
    (taken,) = (await in_transit(store)).jobs
    assert taken.outcome is not None
    other = replace(taken, job_id="b", fields={**taken.fields, b"id": b"b"})

    assert await bring(store, other) == [ADDED]

    (status,) = await store.driver.change(GetStatus(["b"]))
    assert (status.ending, status.value) == (Ending.COMPLETED, b'{"n": 1}')


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


async def test_an_old_job_from_elsewhere_does_not_replace_the_result_of_a_later_run(
    store: DriverStore, one: Consumer
) -> None:
    await store.driver.change(Retain(Retention(completed=Keep())))
    await push(store, "a")
    assert await settle(one, await claim_one(one), Ack(result=Result(60_000, b"1"))) is Reply.OK
    await take(store, "a")
    (old,) = (await in_transit(store)).jobs
    assert old.outcome is not None
    await push(store, another("a"))
    assert await settle(one, await claim_one(one), Ack(result=Result(90_000, b"2"))) is Reply.OK

    assert await bring(store, old) == [ADDED]
    assert [status.value for status in await store.driver.change(GetStatus(["a"]))] == [b"2"]

    later = replace(old.outcome, until_ms=old.outcome.until_ms + 99_000, status=JobStatus(Ending.CANCELLED))
    assert await bring(store, replace(old, place="~" + old.place[1:], outcome=later)) == [ADDED]
    assert [status.ending for status in await store.driver.change(GetStatus(["a"]))] == [Ending.CANCELLED]


async def test_a_kept_job_leaves_its_id_to_a_job_that_has_not_ended(store: DriverStore, one: Consumer) -> None:
    await _completed(store, one)
    await take(store, "a")
    await push(store, another("a"))

    assert await bring(store) == [ADDED]

    assert (await found(store, "a")).state is State.READY
    assert [row.job_id for row in await rows_of(store.driver, State.COMPLETED)] == ["a"]
    assert ids(await claim(one)) == ["a"]


async def test_the_retention_is_found_if_it_was_set(store: DriverStore, driver: Driver) -> None:
    assert await driver.read(FindRetention()) is None

    for retention in (Retention(Keep(60, 7), None, Keep()), Retention(cancelled=Keep(count=1))):
        await driver.change(Retain(retention))
        there = await driver.read(FindRetention())
        assert there
        for state in ASIDE:
            kept, wanted = there.of(state), retention.of(state)
            assert (kept and kept.text) == (wanted and wanted.text)
