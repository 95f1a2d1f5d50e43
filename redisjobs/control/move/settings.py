"""Copies the settings of a queue to another store, once, before its first jobs go there."""

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Protocol, TypeVar

from redisjobs.base.visible import visible
from redisjobs.model.changes import Change, Declare, Pause, Retain, SetLimit
from redisjobs.model.definition import Definition
from redisjobs.model.moving import FindRetention, Take
from redisjobs.model.queries import FindLimits, FindPauses, Query
from redisjobs.model.stored import ListSchedules, PauseSchedule, Put, PutSchedules, SchedulePage, ScheduleRow
from redisjobs.model.transitions import Reply

T = TypeVar("T")
Say = Callable[[str], object]


class AskedEnd(Protocol):
    """One end of a move, which is asked until it answers."""

    async def read(self, query: Query[T], /) -> T:
        """Ask a question."""
        ...

    async def change(self, change: Change[T], /) -> T:
        """Make a change."""
        ...


async def copy_settings(source: AskedEnd, target: AskedEnd, say: Say) -> None:
    """Give the target the settings that it has not: retention, limits, pauses, and schedules put at run time.

    Once that is done it is noted at the target. So a move that goes on later undoes nothing that was set there
    since. Only a schedule that came from there to the source goes back each time. What differs is said.
    """
    names = (await source.change(Take())).store, (await target.change(Take())).store
    noted_as = sha256(f"settings of {names[0]}".encode()).hexdigest()[:16]
    is_first = not await target.change(Declare(noted_as))
    if is_first:
        await _copy_retention(source, target, say)
        await _copy_limits(source, target, say)
        await _copy_pauses(source, target, say)
    await _copy_schedules(source, target, names, is_first, say)
    if is_first:
        await target.change(Declare(noted_as, done=True))


async def _copy_retention(source: AskedEnd, target: AskedEnd, say: Say) -> None:
    kept, there = await source.read(FindRetention()), await target.read(FindRetention())
    if kept is not None and there is None:
        await target.change(Retain(kept))
        say("retention: copied")
    elif kept is not None and kept != there:
        say("retention: the target has another one, which stays")


async def _limits(driver: AskedEnd) -> Mapping[str, str]:
    limits, after = dict[str, str](), None
    while after != "":
        step = await driver.read(FindLimits(after or ""))
        limits |= step.limits
        after = step.after
    return limits


async def _copy_limits(source: AskedEnd, target: AskedEnd, say: Say) -> None:
    there = await _limits(target)
    for name, limit in (await _limits(source)).items():
        if name not in there:
            after = None
            while after != "":
                after = await target.change(SetLimit(name, limit, after or ""))
            say(f"limit of '{visible(name)}': copied")
        elif there[name] != limit:
            say(f"limit of '{visible(name)}': the target has another one, which stays")


async def _copy_pauses(source: AskedEnd, target: AskedEnd, say: Say) -> None:
    pauses, there = await source.read(FindPauses()), await target.read(FindPauses())
    if pauses.queue is not None and there.queue is None:
        await target.change(Pause())
        say("the queue is paused, so the target is, too: `redisjobs resume` lets its jobs start")
    for name in pauses.names.keys() - there.names.keys():
        await target.change(Pause(name))
        say(f"the name '{visible(name)}' is paused, so it is at the target, too")


# Schedules


async def _schedules(driver: AskedEnd) -> dict[str, ScheduleRow]:
    """Return the schedules of a queue that were put at run time; code declares the others."""
    rows, after = dict[str, ScheduleRow](), None
    while True:
        page: SchedulePage = await driver.read(ListSchedules(after=after))
        rows |= {row.name: row for row in page.rows if not row.is_declared}
        if page.more is None:
            return rows
        after = page.more


async def _copy_schedules(
    source: AskedEnd, target: AskedEnd, names: tuple[str, str], is_first: bool, say: Say
) -> None:
    there = await _schedules(target)
    for name, row in (await _schedules(source)).items():
        other = there.get(name)
        if _goes(row, other, names, is_first):
            say(f"schedule '{visible(name)}': {await _copy_schedule(row, source, target, names[1])}")
        elif is_first and other and not (other.moved_to or row.moved_to):
            say(f"schedule '{visible(name)}': the target has one of this name, which stays; so does the source's")


def _goes(row: ScheduleRow, other: ScheduleRow | None, names: tuple[str, str], is_first: bool) -> bool:
    """Whether a schedule goes to the target, given that of its name there.

    A mover that takes one notes where to, in the step that pauses it. What came from the target goes back.
    """
    source, target = names
    if row.moved_to not in ("", target):
        return False  # it was moved to a third store
    if other is None:
        return is_first
    return other.moved_to != "" and (not row.moved_to or other.moved_to == source)


async def _copy_schedule(row: ScheduleRow, source: AskedEnd, target: AskedEnd, name: str) -> str:
    """Pause a schedule at the source, so that no slot fires at both ends, and put it at the target; say so.

    A mover may die between the two: what is noted with the pause says that no operator has paused it.
    """
    try:
        definition, _ = Definition.read(row.name, row.fields), row.last_ms
    except ValueError as error:
        return f"not copied, and not changed at the source: {error}"
    await source.change(PauseSchedule(row.name, pause=True, moved_to=name))
    page = await source.read(ListSchedules(row.name))
    if not page.rows:
        return "not copied: it was removed at the source"
    row = page.rows[0]
    is_paused = not row.moved_to
    put = Put(row.name, definition.fingerprint, definition, since_ms=row.last_ms, paused=is_paused)
    answer = await target.change(PutSchedules([put]))
    if answer.replies[0] is Reply.KEPT:
        return "the target has it by now"
    if answer.replies[0] is not Reply.OK:
        if not is_paused:
            await source.change(PauseSchedule(row.name, pause=False))
        return f"not copied: {answer.replies[0]}; it stays at the source{'' if is_paused else ', and fires there'}"
    return "copied; it is paused" if is_paused else "copied, and paused at the source"
