"""What may not start: the twins of `lua/{pause,resume,unpark,hold,unhold,pauses}.lua`."""

import time

from redisjobs.drivers.memory.include import holder, is_waiting, locate, may_not_start
from redisjobs.drivers.memory.limits import give_turns
from redisjobs.drivers.memory.state import PARKED, RELEASED, Memory, Pending, Stream
from redisjobs.model.changes import Hold, Pause, Resume, Unhold, Unpark
from redisjobs.model.job import Priority
from redisjobs.model.queries import FindPauses, Pauses
from redisjobs.model.transitions import Reply


def hold(memory: Memory, change: Hold) -> Reply:
    """Let one waiting job not start."""
    with memory.lock:
        job_id, place, entry = locate(memory, change.job_id)
        if not place:
            return Reply.NOT_FOUND
        if place == "dead":
            return Reply.DEAD
        if place != "delayed" and not is_waiting(holder(memory.stream(Priority(place)), entry)):
            return Reply.RUNNING
        memory.held.setdefault(job_id, memory.now_ms())
        return Reply.HELD


def unhold(memory: Memory, change: Unhold) -> Reply:
    """Let go of a job that is held."""
    with memory.lock:
        job_id, place, entry = locate(memory, change.job_id)
        was_held = memory.held.pop(job_id, None) is not None
        if place in list(Priority) and _unpark(memory, memory.stream(Priority(place)), entry):
            memory.tell("released", "1")
            return Reply.OK
        return Reply.OK if was_held else Reply.NOT_FOUND


def pause(memory: Memory, change: Pause) -> Reply:
    """Let nothing start, or no job of one name."""
    with memory.lock:
        if change.name:
            memory.paused_names.setdefault(change.name, memory.now_ms())
        elif memory.paused is None:
            memory.paused = memory.now_ms()
            memory.tell("paused", "")
        return Reply.OK


def resume(memory: Memory, change: Resume) -> Reply:
    """Let jobs start again."""
    with memory.lock:
        if change.name:
            if memory.paused_names.pop(change.name, None) is not None:
                give_turns(memory, change.name)
        elif memory.paused is not None:
            memory.paused = None
            memory.tell("resumed", "")
        return Reply.OK


def unpark(memory: Memory, change: Unpark) -> str:
    """Give back what may start now."""
    with memory.lock:
        parked = [(stream, entry) for stream in memory.streams for entry in stream.held(PARKED)]
        given_back = sum(_unpark(memory, stream, entry) for stream, entry in parked)
        if given_back:
            memory.tell("released", str(given_back))
        return ""


def _unpark(memory: Memory, stream: Stream, entry: str) -> bool:
    """Give an entry back if it is parked and may start; whether it was."""
    pending = stream.pending.get(entry)
    if pending is None or pending.worker != PARKED or may_not_start(memory, stream, entry):
        return False
    stream.pending[entry] = Pending(RELEASED, pending.deliveries, time.monotonic())
    return True


def pauses(memory: Memory, query: FindPauses) -> Pauses:
    """Tell what may not start."""
    with memory.lock:
        return Pauses(memory.paused, dict(memory.paused_names), len(memory.held))
