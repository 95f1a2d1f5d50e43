"""What several transitions need: the twins of `lua/include/`, by the same names.

Where a job is, how it comes to a place, how it ends, how a worker is fenced; whoever calls has the lock. Of the
others `count` and `tell` are methods of `Memory`, `alive` is its `record`, and `leases` is `Stream.held`.
"""

import math
import time
from collections.abc import Mapping

from redisjobs.drivers.memory.ends import conclude
from redisjobs.drivers.memory.shares import give_up
from redisjobs.drivers.memory.state import (
    ALONE,
    LINE,
    PARKED,
    RELEASED,
    Delayed,
    Fields,
    Memory,
    Pending,
    Push,
    Stream,
    encoded,
    text_of,
)
from redisjobs.model.job import Priority
from redisjobs.model.retention import DEFAULT
from redisjobs.model.times import REMEMBERED_MS
from redisjobs.model.transitions import After, At, Due, Result

WATCHED = 5.0  # seconds, beyond its lease, that a late read of a fenced worker is looked for
_MOST_PROMOTED = 100  # by one call
MOST_FIELDS = 500  # of an entry that a script can move; more can only have been put in by hand


def locate(memory: Memory, job_id: str) -> tuple[str, str, str]:
    """Which job that is, its place, and the entry there; both '' if it is nowhere."""
    if job_id in memory.located:
        return job_id, *memory.located[job_id]
    entry, _, name = job_id.partition("@")
    for place in [name] if name else list(Priority):
        if entry in memory.entries(place):
            known = identify(memory, place, entry)
            if name or known == job_id:
                return known, place, entry
    return job_id, "", ""


def identify(memory: Memory, place: str, entry: str) -> str:
    """The id that the job of an entry goes by: the one that it says, its entry id, or that and its place."""
    said, here = text_of(memory.entries(place)[entry], b"id"), (place, entry)
    first = said or entry
    if memory.located.get(first) == here:
        return first
    others = [entry + f"@{place}" * more for more in range(1, 5)]
    for job_id in others:
        if memory.located.get(job_id) == here:
            return job_id
    is_taken = first in memory.located or (not said and _is_taken_above(memory, place, entry))
    if not is_taken:
        return first
    return next((job_id for job_id in others if job_id not in memory.located), others[-1])


def _is_taken_above(memory: Memory, place: str, entry: str) -> bool:
    """Whether a stream of a higher priority has an entry of this id that says no other."""
    for stream in memory.streams:
        if stream.priority == place:
            return False
        if entry in stream.entries and not text_of(stream.entries[entry], b"id"):
            return True
    return False


def address(memory: Memory, place: str, entry: str) -> str:
    """How to name the job of an entry to an operator, so that it is found; the last of what `identify` returns."""
    job_id = identify(memory, place, entry)
    is_located = memory.located.get(job_id) == (place, entry)
    return f"{entry}@{place}" if not is_located and text_of(memory.entries(place)[entry], b"id") else job_id


def stored(memory: Memory, job_id: str) -> Fields:
    """The fields of a job that is located."""
    place, entry = memory.located[job_id]
    return memory.delayed[job_id].fields if place == "delayed" else memory.entries(place)[entry]


def holder(stream: Stream, entry: str) -> str:
    """Which consumer has an entry, `RELEASED`, `ALONE` or `PARKED` too; '' for nobody."""
    pending = stream.pending.get(entry)
    return pending.worker if pending else ""


def is_waiting(consumer: str) -> bool:
    """Whether an entry that this consumer has is ready."""
    return consumer in ("", RELEASED, ALONE, PARKED) or consumer.startswith(LINE)


def any_back(memory: Memory) -> bool:
    """Whether any job was handed back and is nobody's yet, be it one that has to run alone."""
    return any(stream.held(RELEASED, ALONE) for stream in memory.streams)


def is_restricted(memory: Memory) -> bool:
    """Whether some jobs may not start; see lua/include/restrictions."""
    return memory.paused is not None or bool(memory.paused_names or memory.held or memory.limits)


def may_not_start(memory: Memory, stream: Stream, entry: str) -> bool:
    """Whether the name of an entry's job is paused, or that is held; see lua/include/restrictions."""
    if not (memory.paused_names or memory.held):
        return False
    name = text_of(stream.entries[entry], b"name")
    return name in memory.paused_names or identify(memory, stream.priority, entry) in memory.held


def enqueue(memory: Memory, job_id: str, stream: Stream, fields: Fields) -> None:
    """Add a job to a ready stream."""
    memory.located[job_id] = (stream.priority, memory.append(stream, fields))


def delay(memory: Memory, job_id: str, priority: Priority, fields: Fields, due_ms: int) -> None:
    """Let a job wait; who sleeps until the next due time hears of one that is earlier."""
    first = next_due(memory)
    memory.delayed.pop(job_id, None)  # its place in line is the last
    memory.lines += 1
    memory.delayed[job_id] = Delayed(priority, fields, due_ms, memory.lines)
    memory.located[job_id] = ("delayed", "")
    if first is None or due_ms < first:
        memory.tell("due", str(due_ms))


def next_due(memory: Memory) -> int | None:
    """When the next delayed job is due, in ms; None if there is none."""
    return min((job.due_ms for job in memory.delayed.values()), default=None)


def by_due(memory: Memory, until_ms: float = math.inf) -> list[tuple[str, Delayed]]:
    """The delayed jobs that are due until then, in the order in which they are."""
    due = [item for item in memory.delayed.items() if item[1].due_ms <= until_ms]
    return sorted(due, key=lambda item: item[1].due_ms)


def promote(memory: Memory, now_ms: int) -> None:
    """Make delayed jobs ready that are due."""
    for job_id, job in by_due(memory, now_ms)[:_MOST_PROMOTED]:
        del memory.delayed[job_id]
        enqueue(memory, job_id, memory.stream(job.priority), job.fields)


def finish(
    memory: Memory,
    stream: Stream,
    entry: str,
    job_id: str,
    counter: str,
    notes: Mapping[str, str],
    result: Result | None = None,
    *,
    is_remembered: bool = True,
    is_located: bool = True,
) -> None:
    """The end of a job that runs or is ready: it is forgotten, but for its push, or kept with these notes."""
    fields = stream.entries[entry]
    if is_located:
        conclude(memory, job_id, counter, fields, result)
    memory.drop(stream, entry)
    forget_job(memory, job_id, fields, is_remembered=is_remembered, is_located=is_located)
    memory.count(counter)
    keep(memory, counter, stream.priority, entry, job_id, fields, notes, is_located=is_located)


def keep(
    memory: Memory,
    state: str,
    priority: Priority,
    entry: str,
    job_id: str,
    fields: Fields,
    notes: Mapping[str, str],
    *,
    is_located: bool = True,
) -> None:
    """Let a job that has just ended stay in sight, where the queue keeps such."""
    if (memory.retention or DEFAULT).of(state) is not None and b"name" in fields:
        noted = {"finished_at": str(memory.now_ms()), **notes}
        set_aside(memory, state, priority, entry, job_id, fields, noted, is_located=is_located)


def set_aside(
    memory: Memory,
    state: str,
    priority: Priority,
    entry: str,
    job_id: str,
    fields: Fields,
    notes: Mapping[str, str],
    *,
    is_located: bool = True,
) -> None:
    """Keep the job of an entry where nobody waits for it; its locator follows, unless that is another job's."""
    noted = {"id": job_id, "priority": str(priority), **notes}
    there = memory.new_id()
    memory.aside[state][there] = {
        b"queued_at": fields[b"queued_at"] if b"queued_at" in fields else pushed_at(entry, memory.now_ms()),
        **fields,
        **{encoded(key): encoded(value) for key, value in noted.items()},
    }
    if is_located:
        memory.located[job_id] = (state, there)


def forget_job(
    memory: Memory, job_id: str, fields: Fields, *, is_remembered: bool = True, is_located: bool = True
) -> None:
    """The end of a job that is in no place any more: its locator and its unique key go, its push is remembered.

    Where it is not located the locator of its id is another job's, and stays.
    """
    if is_located:
        memory.located.pop(job_id, None)
    free(memory, job_id, fields)
    if is_remembered:
        remember(memory, memory.finished, (job_id, fields.get(b"nonce", b"")))


def free(memory: Memory, job_id: str, fields: Fields) -> None:
    """Give up a unique key, if this job is the one that holds it."""
    key = text_of(fields, b"unique")
    if memory.uniques.get(key, ("", None))[0] == job_id:
        del memory.uniques[key]


def remember(memory: Memory, pushes: dict[Push, int], push: Push) -> None:
    """Keep a push, so that one repeated after a lost reply adds nothing; and those of the last two minutes."""
    now_ms = memory.now_ms()
    pushes.pop(push, None)
    pushes[push] = now_ms
    while pushes and next(iter(pushes.values())) < now_ms - 2 * REMEMBERED_MS:
        del pushes[next(iter(pushes))]


def dead_letter(
    memory: Memory, stream: Stream, entry: str, job_id: str, deliveries: int, notes: Mapping[str, str]
) -> None:
    """Move an entry to the dead letters, with what is known of the failure."""
    fields, now_ms = stream.entries[entry], memory.now_ms()
    known = {"deliveries": str(deliveries), "failed_at": str(now_ms)}
    set_aside(memory, "dead", stream.priority, entry, job_id, fields, known | dict(notes))
    memory.drop(stream, entry)
    free(memory, job_id, fields)
    memory.count("dead")
    why = f"{notes.get('error_type', '')} {notes.get('error', '')}"
    conclude(memory, job_id, "dead", fields, text=why)


def fence(memory: Memory, worker: str) -> None:
    """Take a worker's record away, and look for late reads of it from now on."""
    record = memory.workers.pop(worker, None)
    memory.fenced[worker] = time.monotonic() + (record.lease if record else 0.0) + WATCHED


def hand_back(memory: Memory, worker: str, most: int | None = None, *, refund: int = 0) -> int:
    """Pass entries of a worker to `released`; how many."""
    total = 0
    for stream in memory.streams:
        for entry in stream.held(worker)[: None if most is None else most - total]:
            deliveries = max(0, stream.pending[entry].deliveries - refund)
            stream.pending[entry] = Pending(RELEASED, deliveries, time.monotonic())
            give_up(memory, (stream.priority, entry), refund=bool(refund))
            total += 1
    return total


def tell_released(memory: Memory, number: int) -> None:
    """Count jobs that were handed back, and tell of them."""
    if number:
        memory.count("released", number)
        memory.tell("released", str(number))


def due_time(due: Due | None, now_ms: int) -> int:
    """When a job may run, in ms; 0 is at once."""
    match due:
        case None:
            return 0
        case After(ms):
            return math.ceil(now_ms + ms)
        case At(ms):
            return ms


def pushed_at(entry: str, now_ms: int) -> bytes:
    """When an entry was pushed, in ms, as its id tells; never later than now."""
    return b"%d" % min(int(entry.partition("-")[0]), now_ms)
