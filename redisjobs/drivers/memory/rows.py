"""How an operator is told of one job, by where it is. Whoever calls has the lock."""

from redisjobs.drivers.memory.include import address, holder, identify, is_waiting
from redisjobs.drivers.memory.state import Delayed, Memory, Stream
from redisjobs.job import Priority, State
from redisjobs.queries import Row


def ready_row(memory: Memory, stream: Stream, entry: str) -> Row:
    """Of a job in a ready stream, whether it is ready or runs."""
    pending, worker = stream.pending.get(entry), holder(stream, entry)
    is_running = not is_waiting(worker)
    job_id = identify(memory, stream.priority, entry)
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
        fields=stream.entries[entry],
        held=not is_running and job_id in memory.held,
    )


def delayed_row(memory: Memory, job_id: str, job: Delayed) -> Row:
    """Of a delayed job."""
    held = job_id in memory.held
    return Row(job_id, State.DELAYED, job.priority, "", 0, job.due_ms, "", 0, False, job.fields, held)


def aside_row(memory: Memory, state: State, entry: str) -> Row:
    """Of a dead letter, or of a job that has ended and was kept."""
    fields = memory.aside[state][entry]
    priority = Priority(fields[b"priority"].decode())
    since_ms, job_id = int(entry.partition("-")[0]), address(memory, state, entry)
    return Row(job_id, state, priority, entry, since_ms, None, "", 0, False, fields)
