"""Limits of job names, set and looked at: the twins of `lua/{limit,limits}.lua`, each in one step."""

from redisjobs.drivers.memory.include import holder, identify, is_waiting
from redisjobs.drivers.memory.shares import bucket_of, turn
from redisjobs.drivers.memory.state import LINE, Memory, text_of
from redisjobs.model.changes import SetLimit
from redisjobs.model.job import Priority
from redisjobs.model.queries import FindLimits, LimitsFound


def limit(memory: Memory, change: SetLimit) -> str:
    """Set the limit of a job name, or remove it."""
    with memory.lock:
        before = memory.limits.get(change.name, "")
        if before == change.limit:
            return ""
        if change.limit:
            memory.limits[change.name] = change.limit
        else:
            del memory.limits[change.name]
        if change.limit and not before:
            _count_running(memory, change.name)
        give_turns(memory, change.name)
        return ""


def _count_running(memory: Memory, name: str) -> None:
    """Count jobs that were started without a limit."""
    for stream in memory.streams:
        for entry, pending in stream.pending.items():
            fields, place = stream.entries[entry], (stream.priority, entry)
            if text_of(fields, b"name") == name and not is_waiting(pending.worker) and place not in memory.shares:
                memory.shares[place] = bucket_of(fields)


def give_turns(memory: Memory, name: str) -> None:
    """Let the next in line of a job name have a turn, in all of the name's lines."""
    lines = [bucket for bucket in memory.waiting if bucket.partition(" ")[0] == name]
    for bucket in lines:
        turn(memory, bucket, memory.now_ms())
    if lines:
        memory.tell("due", str(memory.now_ms()))


def limits(memory: Memory, query: FindLimits) -> LimitsFound:
    """Tell which job names have limits, and who holds what."""
    with memory.lock:
        waiting = {bucket: _in_line(memory, bucket) for bucket in sorted(memory.waiting)}
        lines = [(bucket, count, memory.turns.get(bucket)) for bucket, count in waiting.items() if count]
        running = []
        for (priority, entry), bucket in memory.shares.items():
            worker = holder(memory.stream(Priority(priority)), entry)
            running.append((bucket, worker, identify(memory, priority, entry)))
        return LimitsFound(dict(memory.limits), lines, running)


def _in_line(memory: Memory, bucket: str) -> int:
    return sum(len(stream.held(LINE + bucket)) for stream in memory.streams)
