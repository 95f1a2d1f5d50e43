"""What of a queue's settings a move copies, once."""

from datetime import timedelta
from typing import Any, cast

import pytest
from movings import Ends, move
from movings import ends as ends
from movings import said as said
from store import Store

from redisjobs import JobName, JobQueue, Keep, Retention, Schedule
from redisjobs.control.move.mover import Mover
from redisjobs.model.changes import Pause, Retain, SetLimit
from redisjobs.model.driver import Driver
from redisjobs.model.moving import FindRetention
from redisjobs.model.queries import FindLimits, FindPauses
from redisjobs.model.stored import PutSchedules
from redisjobs.model.transitions import Reply

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

Add = JobName("Add", dict[str, Any])


async def test_settings_are_copied_unless_the_target_has_its_own(ends: Ends, said: list[str]) -> None:
    source, target = ends
    for driver, limit in ((source.driver, "max_concurrency=1"), (target.driver, "max_concurrency=2")):
        await driver.change(SetLimit("both", limit))
    await source.driver.change(SetLimit("Work", "max_concurrency=3 rate=5/s burst=2"))
    await source.driver.change(Retain(Retention(completed=Keep(timedelta(days=1), 7))))
    for name in ("", "Other"):
        await source.driver.change(Pause(name))

    await move(source, target, said)

    assert (await target.driver.read(FindLimits())).limits == {
        "both": "max_concurrency=2",
        "Work": "max_concurrency=3 rate=5/s burst=2",
    }
    retention = await target.driver.read(FindRetention())
    assert retention
    assert retention.completed
    assert retention.completed.text == "86400000 7"
    pauses = await target.driver.read(FindPauses())
    assert pauses.queue is not None
    assert {*pauses.names} == {"Other"}
    limits = sorted(line for line in said if line.startswith("limit of"))
    assert limits == ["limit of 'Work': copied", "limit of 'both': the target has another one, which stays"]


async def test_settings_are_copied_once(ends: Ends, said: list[str]) -> None:
    source, target = ends
    await source.driver.change(Pause())
    await move(source, target)
    async with JobQueue(target.driver, target.queue_name) as queue:
        await queue.control.resume()

    await move(source, target, said)

    assert (await target.driver.read(FindPauses())).queue is None
    assert said == []


async def test_a_schedule_goes_on_at_the_target_from_its_last_slot(ends: Ends) -> None:
    source, target = ends
    async with JobQueue(source.driver, source.queue_name) as queue:
        await queue.schedules.put("hourly", {"a": 1}, Schedule.every(timedelta(hours=1)), job=Add)
        await queue.schedules.put("paused", {"a": 1}, Schedule.every(timedelta(hours=2)), job=Add)
        await queue.schedules.pause("paused")
        before = {each.name: each for each in await queue.schedules.list()}
    await move(source, target)

    async with JobQueue(target.driver, target.queue_name) as queue:
        after = {each.name: each for each in await queue.schedules.list()}
    assert {name: each.paused for name, each in after.items()} == {"hourly": False, "paused": True}
    assert {name: each.rule for name, each in after.items()} == {name: each.rule for name, each in before.items()}
    assert after["hourly"].next_slot == before["hourly"].next_slot
    async with JobQueue(source.driver, source.queue_name) as queue:
        assert all(each.paused for each in await queue.schedules.list())


async def _put(store: Store) -> None:
    """Put one schedule, and one that an operator pauses."""
    async with JobQueue(store.driver, store.queue_name) as queue:
        for name in ("active", "paused"):
            await queue.schedules.put(name, {"a": 1}, Schedule.every(timedelta(hours=1)), job=Add)
        await queue.schedules.pause("paused")


async def _paused(store: Store) -> dict[str, bool]:
    async with JobQueue(store.driver, store.queue_name) as queue:
        return {each.name: each.paused for each in await queue.schedules.list()}


class _Deadly:
    """A target whose mover dies before or after it puts a certain schedule there."""

    def __init__(self, target: Store, name: str, *, after: bool) -> None:
        self._driver, self._name, self._after = target.driver, name, after
        self.unsent: PutSchedules | None = None
        self.where, self.read, self.aclose = target.driver.where, target.driver.read, target.driver.aclose

    async def change(self, change: Any) -> Any:
        is_it = isinstance(change, PutSchedules) and change.schedules[0].name == self._name
        if is_it and not self._after:
            self.unsent = change
            raise InterruptedError
        answer = await self._driver.change(change)
        if is_it:
            raise InterruptedError
        return answer


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", ["active", "paused"])
async def test_schedules_are_as_they_were_though_a_mover_dies(ends: Ends, name: str, after: bool) -> None:
    source, target = ends
    await _put(source)
    before = await _paused(source)

    with pytest.raises(InterruptedError):
        await Mover(source.driver, cast("Driver", _Deadly(target, name, after=after)), print).run()
    assert (await _paused(target)).items() <= before.items()
    await move(source, target)

    assert await _paused(target) == before == {"active": False, "paused": True}
    assert await _paused(source) == {"active": True, "paused": True}


async def test_a_schedule_that_is_moved_back_and_forth_fires_where_the_queue_is(ends: Ends) -> None:
    source, target = ends
    await _put(source)

    for one, other in ((source, target), (target, source), (source, target)):
        await move(one, other)

        assert await _paused(one) == {"active": True, "paused": True}
        assert await _paused(other) == {"active": False, "paused": True}


async def test_a_mover_that_comes_late_changes_no_schedule(ends: Ends) -> None:
    source, target = ends
    await _put(source)
    late = _Deadly(target, "active", after=False)
    with pytest.raises(InterruptedError):
        await Mover(source.driver, cast("Driver", late), print).run()
    await move(source, target)
    async with JobQueue(target.driver, target.queue_name) as queue:
        await queue.schedules.pause("active")

    assert late.unsent
    assert (await target.driver.change(late.unsent)).replies == [Reply.KEPT]

    assert await _paused(target) == {"active": True, "paused": True}


async def test_a_schedule_that_was_removed_at_the_target_does_not_come_again(ends: Ends) -> None:
    source, target = ends
    await _put(source)
    await move(source, target)
    async with JobQueue(target.driver, target.queue_name) as queue:
        await queue.schedules.remove("active")

    await move(source, target)

    assert await _paused(target) == {"paused": True}
