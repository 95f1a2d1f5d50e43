"""How jobs have ended, for who asks for results or waits for them: the twin of `lua/include/conclude.lua`."""

from redisjobs.drivers.memory.state import SWEPT, Ends, Fields, Memory, Outcome, text_of
from redisjobs.model.transitions import Result

_WATCHED = 60_000  # ms that the last progress outlives its job by
_LONGER = 86_400_000  # ms that an outcome outlives its result by, at most


def conclude(
    memory: Memory, job_id: str, word: str, fields: Fields, result: Result | None = None, text: str = ""
) -> None:
    """Write down how a job has ended, where its result is kept, and tell the processes that wait for it."""
    keep_ms = (result.keep_ms if result else 0) or kept_ms(fields) or 0
    value = result.value if result else None
    refused = result.refused if result else ""
    if keep_ms > 0 and (refused or value is not None or word != "completed"):
        now_ms = memory.now_ms()
        known = Outcome("refused" if refused else word, refused or text, now_ms + keep_ms + min(keep_ms, _LONGER))
        if value is not None:
            known.value, known.value_until_ms = value, now_ms + keep_ms
        memory.ends.outcomes[job_id] = known
        end_progress(memory, job_id)
        _sweep(memory.ends, now_ms)
    for process in memory.ends.waiters.pop(job_id, ()):
        memory.tell_process(process, job_id)


def kept_ms(fields: Fields) -> int | None:
    """For how long an entry says that its result is to be kept, in ms; None: it does not say."""
    text = text_of(fields, b"keep_result")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 14 else None


def forget_end(memory: Memory, job_id: str) -> None:
    """Forget how a job of this id has ended, and what it has reported: there is a new one."""
    memory.ends.outcomes.pop(job_id, None)
    memory.progress.pop(job_id, None)
    memory.ends.progress.pop(job_id, None)


def end_progress(memory: Memory, job_id: str) -> None:
    """Keep what a job that ends has reported last for another minute, for those who watch it."""
    ended, now_ms = memory.ends.progress, memory.now_ms()
    while ended and (first := next(iter(ended))) and ended[first][1] <= now_ms:
        del ended[first]
    if (said := memory.progress.pop(job_id, None)) is not None:
        ended[job_id] = said, now_ms + _WATCHED


def last_progress(memory: Memory, job_id: str) -> bytes:
    """What a job that has ended has reported last; b'' for nothing, or if that was a minute ago."""
    said, until_ms = memory.ends.progress.get(job_id, (b"", 0))
    return said if until_ms > memory.now_ms() else memory.progress.get(job_id, b"")


def _sweep(ends: Ends, now_ms: int) -> None:
    """Drop what is over, each time that there is twice as much as was left the last time."""
    if len(ends.outcomes) >= ends.sweep_at:
        ends.outcomes = {job_id: known for job_id, known in ends.outcomes.items() if known.until_ms > now_ms}
        ends.sweep_at = max(SWEPT, 2 * len(ends.outcomes))
