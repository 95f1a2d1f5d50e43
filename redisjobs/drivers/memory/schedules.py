"""What is known of schedules, and how they fire.

The twins of `lua/{put_schedule,pause_schedule,remove_schedule,schedules,fire}.lua`.
"""

from dataclasses import replace

from redisjobs.drivers.memory.producer import add_or_replace, key_holder
from redisjobs.drivers.memory.state import Memory, StoredSchedule
from redisjobs.schedules.stored import (
    Definition,
    Fire,
    FireAnswer,
    Fired,
    Firing,
    ListSchedules,
    PauseSchedule,
    PutAnswer,
    PutSchedules,
    RemoveSchedule,
    SchedulePage,
    ScheduleRow,
)
from redisjobs.transitions import Pushed, Reply


def put_schedule(memory: Memory, change: PutSchedules) -> PutAnswer:
    """Put schedules on a queue, or say that they are still declared."""
    with memory.lock:
        now_ms, before = memory.now_ms(), memory.changes
        declared_by = now_ms if change.declared_by == 0 else change.declared_by
        replies = [_put(memory, *each, declared_by, now_ms) for each in change.schedules]
        if memory.changes != before:
            memory.tell("schedules", str(memory.changes))
        return PutAnswer(replies, memory.changes, now_ms)


def _put(
    memory: Memory,
    name: str,
    fingerprint: str,
    definition: Definition | None,
    declared_by: int | None,
    now_ms: int,
) -> Reply:
    there = memory.schedules.get(name)
    is_same = there is not None and there.fingerprint == fingerprint
    against = _against(there, declared_by, now_ms, is_same=is_same, is_whole=definition is not None)
    if against is not None:
        return against
    if definition is not None and (not is_same or declared_by is None):
        is_new_rule = there is None or there.definition.rule != definition.rule
        there = there or StoredSchedule(definition, fingerprint, now_ms)
        memory.schedules[name] = there = replace(there, definition=definition, fingerprint=fingerprint)
        if is_new_rule:
            there.last_ms = max(now_ms, there.last_ms)  # the clock may have been set back
        there.declared_by = None
        memory.changes += 1
    if there is not None and declared_by is not None:
        there.declared_by = max(there.declared_by or 0, declared_by)
        there.seen_ms = now_ms
    return Reply.OK


def _against(
    there: StoredSchedule | None, declared_by: int | None, now_ms: int, *, is_same: bool, is_whole: bool
) -> Reply | None:
    """What is there against it; None for nothing."""
    is_declared = there is not None and there.is_declared(now_ms)
    if declared_by is None:
        return Reply.DECLARED if is_declared else None
    if there is not None and there.declared_by is None:
        return Reply.KEPT
    if is_same:
        return None
    if there is not None and is_declared and (there.declared_by or 0) >= declared_by:
        return Reply.NEWER
    return None if is_whole else Reply.NOT_FOUND


def pause_schedule(memory: Memory, change: PauseSchedule) -> Reply:
    """Let a schedule fire nothing, or let it fire again."""
    with memory.lock:
        there = memory.schedules.get(change.name)
        if there is None:
            return Reply.NOT_FOUND
        if there.is_paused and not change.pause:
            there.last_ms = max(memory.now_ms(), there.last_ms)
        if there.is_paused != change.pause:
            there.is_paused = change.pause
            _changed(memory)
        return Reply.OK


def remove_schedule(memory: Memory, change: RemoveSchedule) -> Reply:
    """Forget a schedule, unless a release that is there declares it."""
    with memory.lock:
        there = memory.schedules.get(change.name)
        if there is None:
            return Reply.NOT_FOUND
        if there.is_declared(memory.now_ms()):
            return Reply.DECLARED
        del memory.schedules[change.name]
        _changed(memory)
        return Reply.OK


def _changed(memory: Memory) -> None:
    memory.changes += 1
    memory.tell("schedules", str(memory.changes))


def schedules(memory: Memory, query: ListSchedules) -> SchedulePage:
    """The schedules of a queue, in the order of their names."""
    with memory.lock:
        names = [name for name in sorted(memory.schedules) if query.name in ("", name) and name > query.after]
        rows = [_row(name, memory.schedules[name]) for name in names]
        return SchedulePage(rows, memory.changes, "", memory.now_ms())


def _row(name: str, there: StoredSchedule) -> ScheduleRow:
    flat = there.definition.fields
    known: dict[str, object] = {
        "fingerprint": there.fingerprint,
        "paused": "1" if there.is_paused else None,
        "missed": there.missed or None,
        "fired_slot": there.fired_ms,
        "declared_by": there.declared_by,
        "seen_at": there.seen_ms if there.declared_by is not None else None,
    }
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    fields |= {key.encode(): str(value).encode() for key, value in known.items() if value is not None}
    return ScheduleRow(name, b"%d" % there.last_ms, fields)


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
