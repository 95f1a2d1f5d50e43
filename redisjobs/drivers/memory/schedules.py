"""What is known of schedules, and how they fire.

The twins of `lua/{put_schedule,withdraw_schedules,pause_schedule,remove_schedule,schedules,fire}.lua`.
"""

from dataclasses import replace
from operator import itemgetter

from redisjobs.drivers.memory.producer import add_or_replace, key_holder
from redisjobs.drivers.memory.state import Memory, StoredSchedule
from redisjobs.model.stored import (
    THERE_MS,
    Declarer,
    Fire,
    FireAnswer,
    Fired,
    Firing,
    ListSchedules,
    PauseSchedule,
    Put,
    PutAnswer,
    PutSchedules,
    RemoveSchedule,
    SchedulePage,
    ScheduleRow,
    WithdrawSchedules,
)
from redisjobs.model.transitions import Pushed, Reply


def put_schedule(memory: Memory, change: PutSchedules) -> PutAnswer:
    """Put schedules on a queue, or declare them, or say that a scheduler is still there."""
    with memory.lock:
        now_ms, by, present = memory.now_ms(), change.by, 0
        if by is not None:
            by = replace(by, began_ms=by.began_ms or now_ms)
            mates = memory.schedulers.setdefault(by.release, {})
            was_there = by.scheduler in mates and _is_now(mates[by.scheduler], now_ms)
            for said, who in ((mates, by.scheduler), (memory.releases, by.release)):
                # Else one that is gone would count again once a clock that was set back catches up.
                for silent in [each for each, said_ms in said.items() if not _is_now(said_ms, now_ms)]:
                    del said[silent]
                said[who] = now_ms
            present = len(mates) if was_there else 0
            memory.removed.clear()
        before = memory.change
        replies = [_put(memory, each, by, now_ms) for each in change.schedules]
        if memory.change != before:
            memory.tell("schedules", str(memory.change))
        return PutAnswer(replies, memory.change, present, now_ms)


def _put(memory: Memory, put: Put, by: Declarer | None, now_ms: int) -> Reply:
    there, definition = memory.schedules.get(put.name), put.definition
    is_same = there is not None and there.fingerprint == put.fingerprint
    against = _against(memory, there, put, by, now_ms)
    if against is not None:
        return against
    if by is not None and there is not None and is_same and _is_newer(memory, there, by, now_ms):
        return Reply.OK  # it stays that scheduler's, which declares the same
    is_moved = by is None or there is None or not is_same or there.release != by.release
    if definition is not None and (by is None or not is_same):
        is_new_rule = there is None or there.definition.rule != definition.rule
        there = there or StoredSchedule(definition, put.fingerprint, 0)
        memory.schedules[put.name] = there = replace(there, definition=definition, fingerprint=put.fingerprint)
        memory.removed.pop(put.name, None)
        if is_new_rule:  # not before a slot that was fired: the clock may have been set back
            since_ms = now_ms if put.since_ms is None else min(put.since_ms, now_ms)
            there.last_ms = max(since_ms, there.last_ms)
    assert there is not None
    there.declared_by, there.release = (by.began_ms, by.release) if by else (None, "")
    if is_moved:
        _number(memory, there, now_ms)
    return Reply.OK


def _against(
    memory: Memory, there: StoredSchedule | None, put: Put, by: Declarer | None, now_ms: int
) -> Reply | None:
    """What is there against it; None for nothing."""
    is_declared = there is not None and _is_declared(memory, there, now_ms)
    if by is None:
        return Reply.DECLARED if is_declared else None
    if there is None:
        return None if put.definition else Reply.NOT_FOUND
    if there.declared_by is None:
        return Reply.KEPT
    if there.fingerprint == put.fingerprint:
        return None
    if is_declared and there.declared_by >= by.began_ms:
        return Reply.NEWER
    if put.definition is None:
        return Reply.NOT_FOUND
    is_another_rule = there.definition.rule != put.definition.rule
    return Reply.CHANGED if is_another_rule and there.last_ms != put.last_ms else None


def withdraw_schedules(memory: Memory, change: WithdrawSchedules) -> Reply:
    """Declare schedules no longer, as a scheduler ends."""
    with memory.lock:
        mates = memory.schedulers.get(change.by.release, {})
        if mates.pop(change.by.scheduler, None) is None:
            return Reply.NOT_FOUND
        now_ms = memory.now_ms()
        if not any(_is_now(said_ms, now_ms) for said_ms in mates.values()):
            memory.schedulers.pop(change.by.release)
            memory.releases.pop(change.by.release, None)
            memory.tell("withdrawn", "")
        return Reply.OK


def _is_now(seen_ms: int, now_ms: int) -> bool:
    return abs(now_ms - seen_ms) < THERE_MS


def _is_served(memory: Memory, release: str, now_ms: int) -> bool:
    """Whether a scheduler of that release is there."""
    return release in memory.releases and _is_now(memory.releases[release], now_ms)


def _is_declared(memory: Memory, there: StoredSchedule, now_ms: int) -> bool:
    """Whether a scheduler that is there declares it."""
    return there.declared_by is not None and _is_served(memory, there.release, now_ms)


def _is_newer(memory: Memory, there: StoredSchedule, by: Declarer, now_ms: int) -> bool:
    """Whether it is declared by a scheduler that began later, and is there."""
    return (there.declared_by or 0) > by.began_ms and _is_declared(memory, there, now_ms)


def _number(memory: Memory, there: StoredSchedule, now_ms: int) -> None:
    """Give a change its number; see lua/include/changed_schedules."""
    memory.change = there.change = max(memory.change + 1, now_ms)


def pause_schedule(memory: Memory, change: PauseSchedule) -> Reply:
    """Let a schedule fire nothing, or let it fire again."""
    with memory.lock:
        there, now_ms = memory.schedules.get(change.name), memory.now_ms()
        if there is None:
            return Reply.NOT_FOUND
        if there.is_paused and not change.pause:
            there.last_ms = max(now_ms, there.last_ms)
        if there.is_paused != change.pause:
            there.is_paused = change.pause
            _number(memory, there, now_ms)
            memory.tell("schedules", str(memory.change))
        return Reply.OK


def remove_schedule(memory: Memory, change: RemoveSchedule) -> Reply:
    """Forget a schedule, unless a release that is there declares it."""
    with memory.lock:
        there, now_ms = memory.schedules.get(change.name), memory.now_ms()
        if there is None:
            return Reply.NOT_FOUND
        if _is_declared(memory, there, now_ms):
            return Reply.DECLARED
        del memory.schedules[change.name]
        _number(memory, there, now_ms)
        memory.removed[change.name] = memory.change
        memory.tell("schedules", str(memory.change))
        return Reply.OK


def schedules(memory: Memory, query: ListSchedules) -> SchedulePage:
    """The schedules of a queue, in the order of their last changes."""
    with memory.lock:
        now_ms, after = memory.now_ms(), -1 if query.after is None else query.after
        found = [
            (there.change, name, there)
            for name, there in memory.schedules.items()
            if there.change > after and query.name in ("", name)
        ]
        rows = [_row(memory, name, there, now_ms) for _, name, there in sorted(found, key=itemgetter(0))]
        gone = [name for name, change in memory.removed.items() if change > after and not query.name]
        is_served = any(_is_served(memory, release, now_ms) for release in memory.releases)
        return SchedulePage(rows, gone, memory.change, None, is_served, now_ms)


def _row(memory: Memory, name: str, there: StoredSchedule, now_ms: int) -> ScheduleRow:
    flat = there.definition.fields
    known: dict[str, object] = {
        "fingerprint": there.fingerprint,
        "last_slot": there.last_ms,
        "paused": "1" if there.is_paused else None,
        "missed": there.missed or None,
        "fired_slot": there.fired_ms,
        "declared_by": there.declared_by,
        "release": there.release if there.declared_by is not None else None,
    }
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    fields |= {key.encode(): str(value).encode() for key, value in known.items() if value is not None}
    return ScheduleRow(name, fields, _is_declared(memory, there, now_ms))


def fire(memory: Memory, change: Fire) -> FireAnswer:
    """Push the jobs that schedules ask for, each slot once."""
    with memory.lock:
        now_ms = memory.now_ms()
        return FireAnswer([_fire(memory, change.scheduler, each, now_ms) for each in change.firings], now_ms)


def _fire(memory: Memory, scheduler: str, firing: Firing, now_ms: int) -> Fired:
    there = memory.schedules.get(firing.name)
    if there is None or there.fingerprint != firing.fingerprint:
        return Fired(Reply.CHANGED)
    if there.is_paused:
        return Fired(Reply.PAUSED)
    if there.last_ms == firing.slot_ms and there.fired_by == scheduler:
        return Fired(Reply.REPEATED)
    if there.last_ms != firing.last_ms or firing.slot_ms <= there.last_ms:
        return Fired(Reply.FIRED, last_ms=there.last_ms)
    if firing.slot_ms > now_ms:
        return Fired(Reply.EARLY)
    pushed = []
    for job in firing.jobs:
        if job.job_id in memory.located:
            pushed.append(Pushed(Reply.EXISTS))
        else:
            pushed.append(add_or_replace(memory, job, key_holder(memory, job, now_ms), now_ms))
    there.last_ms = there.fired_ms = firing.slot_ms
    there.fired_by = scheduler
    there.missed += firing.missed
    return Fired(Reply.OK, tuple(pushed))
