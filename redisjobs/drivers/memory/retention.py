"""What is kept, and for how long: the twins of `lua/{retain,declare,trim}.lua`, the last one in one step."""

from redisjobs.drivers.memory.include import remember
from redisjobs.drivers.memory.pauses import unpark
from redisjobs.drivers.memory.shares import give_lost_turns
from redisjobs.drivers.memory.state import Fields, Memory, text_of
from redisjobs.model.changes import Declare, Retain, Tidied, Tidy, Unpark
from redisjobs.model.retention import ASIDE, DEFAULT, Keep
from redisjobs.model.times import REMEMBERED_MS
from redisjobs.model.transitions import Reply

_DECLARED = 20  # declarations that are noted
_TIDY_MS = 55_000  # nothing is done where it was done so lately


def retain(memory: Memory, change: Retain) -> Reply:
    """Say what the queue keeps."""
    with memory.lock:
        memory.retention = change.retention
        return Reply.OK


def declare(memory: Memory, change: Declare) -> bool:
    """Note what a worker's code declares, or ask whether it is noted."""
    with memory.lock:
        is_known = change.declaration in memory.declared
        if change.done:
            others = (each for each in memory.declared if each != change.declaration)
            memory.declared = [change.declaration, *others][:_DECLARED]
        return is_known


def tidy(memory: Memory, change: Tidy) -> Tidied:
    """Give back what may start, give lines their turns, and trim; here no hand takes jobs from who holds them."""
    with memory.lock:
        now_ms = memory.now_ms()
        if memory.tidied_ms is not None and memory.tidied_ms <= now_ms < memory.tidied_ms + _TIDY_MS:
            return Tidied()
        memory.tidied_ms = now_ms
        unpark(memory, Unpark())
        give_lost_turns(memory)
        return Tidied(trimmed=trim(memory))


def trim(memory: Memory) -> int:
    """Throw away what is kept no longer; how much."""
    total, kept = 0, memory.retention or DEFAULT
    for state in ASIDE:
        for entry in _over(memory, state, kept.of(state)):
            _throw_away(memory, state, entry, memory.aside[state].pop(entry))
            total += 1
    memory.count("trimmed", total)
    return total


def _over(memory: Memory, state: str, keep: Keep | None) -> list[str]:
    """The entries of a state that go, the oldest first."""
    entries = list(memory.aside[state])
    if keep is None:
        return entries
    excess = 0 if keep.count is None else len(entries) - keep.count
    oldest_ms = None if keep.age_ms is None else memory.now_ms() - keep.age_ms
    return [
        entry
        for number, entry in enumerate(entries)
        if number < excess or (oldest_ms is not None and _ms_of(entry) <= oldest_ms)
    ]


def _throw_away(memory: Memory, state: str, entry: str, fields: Fields) -> None:
    """Forget an entry that was taken out; its id may be another job's by now."""
    job_id = text_of(fields, b"id")
    if memory.located.get(job_id) == (state, entry):
        del memory.located[job_id]
    if job_id and _ms_of(entry) > memory.now_ms() - REMEMBERED_MS:
        remember(memory, memory.finished, (job_id, fields.get(b"nonce", b"")))


def _ms_of(entry: str) -> int:
    return int(entry.partition("-")[0])
