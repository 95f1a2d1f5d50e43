"""Copies the settings of a queue to another store, once, before its first jobs go there."""

from collections.abc import Callable, Mapping
from hashlib import sha256

from redisjobs.base.visible import visible
from redisjobs.model.changes import Declare, Pause, Retain, SetLimit
from redisjobs.model.definition import Definition
from redisjobs.model.driver import Driver
from redisjobs.model.moving import FindRetention, Take
from redisjobs.model.queries import FindLimits, FindPauses
from redisjobs.model.stored import ListSchedules, PauseSchedule, Put, PutSchedules, SchedulePage, ScheduleRow
from redisjobs.model.transitions import Reply

Say = Callable[[str], object]


async def copy_settings(source: Driver, target: Driver, say: Say) -> None:
    """Give the target the settings that it has not: retention, limits, pauses, and schedules put at run time.

    Once that is done it is noted at the target. So a move that goes on later undoes nothing that was set there
    since. What differs is said.
    """
    name = (await source.change(Take())).store
    noted_as = sha256(f"settings of {name}".encode()).hexdigest()[:16]
    if await target.change(Declare(noted_as)):
        return
    await _copy_retention(source, target, say)
    await _copy_limits(source, target, say)
    await _copy_pauses(source, target, say)
    await _copy_schedules(source, target, say)
    await target.change(Declare(noted_as, done=True))


async def _copy_retention(source: Driver, target: Driver, say: Say) -> None:
    kept, there = await source.read(FindRetention()), await target.read(FindRetention())
    if kept is not None and there is None:
        await target.change(Retain(kept))
        say("retention: copied")
    elif kept is not None and kept != there:
        say("retention: the target has another one, which stays")


async def _limits(driver: Driver) -> Mapping[str, str]:
    limits, after = dict[str, str](), None
    while after != "":
        step = await driver.read(FindLimits(after or ""))
        limits |= step.limits
        after = step.after
    return limits


async def _copy_limits(source: Driver, target: Driver, say: Say) -> None:
    there = await _limits(target)
    for name, limit in (await _limits(source)).items():
        if name not in there:
            after = None
            while after != "":
                after = await target.change(SetLimit(name, limit, after or ""))
            say(f"limit of '{visible(name)}': copied")
        elif there[name] != limit:
            say(f"limit of '{visible(name)}': the target has another one, which stays")


async def _copy_pauses(source: Driver, target: Driver, say: Say) -> None:
    pauses, there = await source.read(FindPauses()), await target.read(FindPauses())
    if pauses.queue is not None and there.queue is None:
        await target.change(Pause())
        say("the queue is paused, so the target is, too: `redisjobs resume` lets its jobs start")
    for name in pauses.names.keys() - there.names.keys():
        await target.change(Pause(name))
        say(f"the name '{visible(name)}' is paused, so it is at the target, too")


# Schedules


async def _schedules(driver: Driver) -> dict[str, ScheduleRow]:
    """Return the schedules of a queue that were put at run time; code declares the others."""
    rows, after = dict[str, ScheduleRow](), None
    while True:
        page: SchedulePage = await driver.read(ListSchedules(after=after))
        rows |= {row.name: row for row in page.rows if not row.is_declared}
        if page.more is None:
            return rows
        after = page.more


async def _copy_schedules(source: Driver, target: Driver, say: Say) -> None:
    there = await _schedules(target)
    for name, row in (await _schedules(source)).items():
        if name in there:
            say(f"schedule '{visible(name)}': the target has one of this name, which stays")
        else:
            say(f"schedule '{visible(name)}': {await _copy_schedule(row, source, target)}")


async def _copy_schedule(row: ScheduleRow, source: Driver, target: Driver) -> str:
    """Pause a schedule at the source, so that no slot fires at both ends, and put it at the target; say so."""
    await source.change(PauseSchedule(row.name, pause=True))
    page = await source.read(ListSchedules(row.name))
    try:
        last_ms = page.rows[0].last_ms if page.rows else row.last_ms
        definition = Definition.read(row.name, row.fields)
    except ValueError as error:
        return f"not copied: {error}"
    answer = await target.change(PutSchedules([Put.whole(definition, since_ms=last_ms)]))
    if answer.replies[0] is not Reply.OK:
        return f"not copied: {answer.replies[0]}"
    if row.is_paused:
        await target.change(PauseSchedule(row.name, pause=True))
        return "copied; it is paused"
    return "copied, and paused at the source"
