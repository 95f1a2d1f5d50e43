"""How an operator is told of one job, by where it is. Whoever calls has the lock."""

import time
from dataclasses import replace

from redisjobs.drivers.memory.include import address, holder, identify, is_waiting
from redisjobs.drivers.memory.state import ALONE, LINE, Delayed, Fields, Memory, Stream, text_of
from redisjobs.model.job import Priority, State, WhyWaiting
from redisjobs.model.queries import Row


def ready_row(memory: Memory, stream: Stream, entry: str) -> Row:
    """Of a job in a ready stream, whether it is ready or runs."""
    pending, worker = stream.pending.get(entry), holder(stream, entry)
    is_running = not is_waiting(worker)
    job_id = identify(memory, stream.priority, entry)
    fields, is_held = stream.entries[entry], not is_running and job_id in memory.held
    ran_ms = int((time.monotonic() - pending.since) * 1000) if pending and is_running else None
    return Row(
        job_id=address(memory, stream.priority, entry),
        state=State.RUNNING if is_running else State.READY,
        priority=stream.priority,
        key=entry,
        queued_ms=int(entry.partition("-")[0]),
        due_ms=None,
        worker=worker if is_running else "",
        deliveries=pending.deliveries if pending else 0,
        cancelling=memory.marks.get((stream.priority, entry)) == "cancelling",
        fields=fields,
        held=is_held,
        started_ms=None if ran_ms is None else memory.now_ms() - ran_ms,
        ran_ms=ran_ms,
        why_waiting=None if is_running else _obstacle(memory, worker, fields, is_held=is_held),
        progress=memory.progress.get(job_id, b""),
    )


def delayed_row(memory: Memory, job_id: str, job: Delayed) -> Row:
    """Of a delayed job."""
    held = job_id in memory.held
    why, said = _obstacle(memory, "", job.fields, is_held=held), memory.progress.get(job_id, b"")
    row = Row(job_id, State.DELAYED, job.priority, "", 0, job.due_ms, "", 0, False, job.fields, held)
    return replace(row, why_waiting=why, progress=said)


def aside_row(memory: Memory, state: State, entry: str) -> Row:
    """Of a dead letter, or of a job that has ended and was kept."""
    fields = memory.aside[state][entry]
    priority = Priority(fields[b"priority"].decode())
    since_ms, job_id = int(entry.partition("-")[0]), address(memory, state, entry)
    return Row(job_id, state, priority, entry, since_ms, None, "", 0, False, fields)


def _obstacle(memory: Memory, consumer: str, fields: Fields, *, is_held: bool) -> WhyWaiting | None:
    """Why a job does not start; the twin of `lua/include/obstacle.lua`."""
    if is_held:
        return WhyWaiting.HELD
    if memory.paused is not None:
        return WhyWaiting.PAUSED
    if text_of(fields, b"name") in memory.paused_names:
        return WhyWaiting.NAME_PAUSED
    if consumer.startswith(LINE):
        return WhyWaiting.LIMIT
    if all(record.until <= time.monotonic() for record in memory.workers.values()):
        return WhyWaiting.NO_WORKER
    if fields.get(b"unknown_since"):
        return WhyWaiting.NO_HANDLER
    return WhyWaiting.LAST_DELIVERY if consumer == ALONE else None
