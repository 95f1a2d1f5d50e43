"""Stores schedules and the schedulers that declare them, and fires slots."""

from dataclasses import replace

from redisjobs.drivers.memory.pushes import add
from redisjobs.drivers.memory.state import Memory, StoredSchedule, answers
from redisjobs.model import stored
from redisjobs.model.stored import THERE_MS
from redisjobs.model.transitions import Pushed, Reply


@answers(stored.PutSchedules)
def _put_schedules(memory: Memory, change: stored.PutSchedules) -> stored.PutAnswer:
    now_ms, by, present = memory.now_ms(), change.by, 0
    if by is not None:
        by = replace(by, began_ms=by.began_ms or now_ms)
        mates = memory.schedulers.setdefault(by.release, {})
        was_there = by.scheduler in mates and _is_now(memory, mates[by.scheduler])
        for said, who in ((mates, by.scheduler), (memory.releases, by.release)):
            # Else a scheduler that is gone would count again when a clock that was set back catches up.
            for silent in [each for each, seen_ms in said.items() if not _is_now(memory, seen_ms)]:
                del said[silent]
            said[who] = now_ms
        present = len(mates) if was_there else 0
        memory.removed.clear()
    before = memory.change
    replies = [_put(memory, each, by, now_ms) for each in change.schedules]
    if memory.change != before:
        memory.tell("schedules", str(memory.change))
    return stored.PutAnswer(replies, memory.change, present, now_ms)


def _put(memory: Memory, put: stored.Put, by: stored.Declarer | None, now_ms: int) -> Reply:
    there, definition = memory.schedules.get(put.name), put.definition
    is_same = there is not None and there.fingerprint == put.fingerprint
    against = _against(memory, there, put, by)
    if against is not None:
        return against
    if by and there and is_same and (there.declared_by or 0) > by.began_ms and _is_declared(memory, there):
        return Reply.OK  # it stays with the scheduler that began later and declares the same
    is_moved = by is None or there is None or not is_same or there.release != by.release
    if definition is not None and (by is None or not is_same):
        is_new_rule = there is None or there.definition.rule != definition.rule
        there = there or StoredSchedule(definition, put.fingerprint, 0)
        memory.schedules[put.name] = there = replace(there, definition=definition, fingerprint=put.fingerprint)
        memory.removed.pop(put.name, None)
        if is_new_rule and put.paused is None:  # never before the last slot: the clock may have been set back
            since_ms = now_ms if put.since_ms is None else min(put.since_ms, now_ms)
            there.last_ms = max(since_ms, there.last_ms)
        there.moved_to = ""
        if put.paused is not None:
            there.is_paused, there.last_ms = put.paused, max(put.since_ms or 0, there.last_ms)
    assert there is not None
    there.declared_by, there.release = (by.began_ms, by.release) if by else (None, "")
    if is_moved:
        _number(memory, there)
    return Reply.OK


def _against(
    memory: Memory, there: StoredSchedule | None, put: stored.Put, by: stored.Declarer | None
) -> Reply | None:
    """Return why a schedule may not be put; None: it may."""
    is_declared = there is not None and _is_declared(memory, there)
    if by is None and is_declared:
        return Reply.DECLARED
    if put.paused is not None and there and there.declared_by is None and not there.moved_to:
        return Reply.KEPT
    if by is None:
        return None
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


@answers(stored.WithdrawSchedules)
def _withdraw_schedules(memory: Memory, change: stored.WithdrawSchedules) -> Reply:
    mates = memory.schedulers.get(change.by.release, {})
    if mates.pop(change.by.scheduler, None) is None:
        return Reply.NOT_FOUND
    if not any(_is_now(memory, seen_ms) for seen_ms in mates.values()):
        memory.releases.pop(change.by.release, None)
        memory.tell("withdrawn", "")
    return Reply.OK


def _is_now(memory: Memory, seen_ms: int) -> bool:
    return abs(memory.now_ms() - seen_ms) < THERE_MS


def _is_served(memory: Memory, release: str) -> bool:
    """Whether a scheduler of this release has reported lately."""
    return release in memory.releases and _is_now(memory, memory.releases[release])


def _is_declared(memory: Memory, there: StoredSchedule) -> bool:
    """Whether code declares the schedule, and a scheduler of that release has reported lately."""
    return there.declared_by is not None and _is_served(memory, there.release)


def _number(memory: Memory, there: StoredSchedule) -> None:
    """Give a schedule the number of a new change."""
    memory.change = there.change = max(memory.change + 1, memory.now_ms())


@answers(stored.PauseSchedule)
def _pause_schedule(memory: Memory, change: stored.PauseSchedule) -> Reply:
    there = memory.schedules.get(change.name)
    if there is None:
        return Reply.NOT_FOUND
    if there.is_paused and not change.pause:
        there.last_ms = max(memory.now_ms(), there.last_ms)
    if there.is_paused != change.pause:
        there.is_paused, there.moved_to = change.pause, change.moved_to if change.pause else ""
        _number(memory, there)
        memory.tell("schedules", str(memory.change))
    return Reply.OK


@answers(stored.RemoveSchedule)
def _remove_schedule(memory: Memory, change: stored.RemoveSchedule) -> Reply:
    there = memory.schedules.get(change.name)
    if there is None:
        return Reply.NOT_FOUND
    if _is_declared(memory, there):
        return Reply.DECLARED
    del memory.schedules[change.name]
    _number(memory, there)
    memory.removed[change.name] = memory.change
    memory.tell("schedules", str(memory.change))
    return Reply.OK


@answers(stored.ListSchedules)
def _list_schedules(memory: Memory, query: stored.ListSchedules) -> stored.SchedulePage:
    now_ms, after = memory.now_ms(), -1 if query.after is None else query.after
    there = sorted(memory.schedules.items(), key=lambda each: each[1].change)
    wanted = [each for each in there if each[1].change > after and query.name in ("", each[0])]
    rows = [_row(memory, *each) for each in wanted]
    gone = [name for name, change in memory.removed.items() if change > after and not query.name]
    is_served = any(_is_served(memory, release) for release in memory.releases)
    return stored.SchedulePage(rows, gone, memory.change, None, is_served, now_ms)


def _row(memory: Memory, name: str, there: StoredSchedule) -> stored.ScheduleRow:
    flat = there.definition.fields
    known: dict[str, object] = {
        "fingerprint": there.fingerprint,
        "last_slot": there.last_ms,
        "paused": "1" if there.is_paused else None,
        "moved_to": there.moved_to or None,
        "missed": there.missed or None,
        "fired_slot": there.fired_ms,
        "declared_by": there.declared_by,
        "release": there.release if there.declared_by is not None else None,
    }
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    fields |= {key.encode(): str(value).encode() for key, value in known.items() if value is not None}
    return stored.ScheduleRow(name, fields, _is_declared(memory, there))


@answers(stored.Fire)
def _fire(memory: Memory, change: stored.Fire) -> stored.FireAnswer:
    now_ms = memory.now_ms()
    return stored.FireAnswer(
        [_fire_one(memory, change.scheduler, each, now_ms) for each in change.firings], now_ms
    )


def _fire_one(memory: Memory, scheduler: str, firing: stored.Firing, now_ms: int) -> stored.Fired:
    there = memory.schedules.get(firing.name)
    if there is None or there.fingerprint != firing.fingerprint:
        return stored.Fired(Reply.CHANGED)
    if there.is_paused:
        return stored.Fired(Reply.PAUSED)
    if there.last_ms == firing.slot_ms and there.fired_by == scheduler:
        return stored.Fired(Reply.REPEATED)
    if there.last_ms != firing.last_ms or firing.slot_ms <= there.last_ms:
        return stored.Fired(Reply.FIRED, last_ms=there.last_ms)
    if firing.slot_ms > now_ms:
        return stored.Fired(Reply.EARLY)
    pushed = [Pushed(Reply.EXISTS) if job.job_id in memory.jobs else add(memory, job) for job in firing.jobs]
    there.last_ms = there.fired_ms = firing.slot_ms
    there.fired_by = scheduler
    there.missed += firing.missed
    return stored.Fired(Reply.OK, tuple(pushed))
