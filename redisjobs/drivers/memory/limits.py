"""Limits: which jobs hold a share of one, which wait in line, and which line has the next turn."""

import math

from redisjobs.drivers.memory.state import Line, Memory, StoredJob, answers, by_rank
from redisjobs.model.changes import SetLimit
from redisjobs.model.limits import Limit
from redisjobs.model.queries import FindLimits, LimitsFound
from redisjobs.model.transitions import MOST_JOBS

_LOST_MS = 5_000  # the next turn of a line comes after this time, in case jobs that had their turn did not start
_MOST_LINES = 50  # lines that one claim hands back jobs from


class Limiter:
    """Decides which jobs start under their limits, during one claim."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._full: set[str] = set()

    def start(self, job: StoredJob, *, waited: bool = False) -> Line | None:
        """Give a job a share, if its name has a limit; or return the line in which it has to wait."""
        memory = self._memory
        limit = memory.limits.get(job.name) if memory.limits else None
        if limit is None:
            return None
        line = _line_of(memory, job)
        if job.id in line.running:  # checked first: a recovered job has its share already
            return None
        goes_on = limit.every_us is not None and _goes_on(job)
        if line.counts_as in self._full and not goes_on:
            return line
        free, from_ms = _room(memory, line, limit, by_rate=not goes_on)
        if not free or (line.is_open and not waited and not goes_on):
            self._full.add(line.counts_as)
            if free or from_ms is not None:
                _turn(memory, line, from_ms)
            return line
        line.running.add(job.id)
        if limit.every_us is not None and not goes_on:
            line.next_us = _next_us(line, limit, memory.now_ms() * 1000) + limit.every_us
        free, from_ms = _room(memory, line, limit)
        if line.is_open and not free:
            memory.turns.pop(line.counts_as, None)  # `give_up` sets the next turn
            if from_ms is not None:
                _turn(memory, line, from_ms)
        elif line.is_open and goes_on:
            _turn(memory, line)  # it has not spent the turn that it may have had
        return None

    def pass_on(self, job: StoredJob) -> None:
        """Give the next in line a turn, because this job had its turn and does not start."""
        line = self._memory.lines.get(job.counts_as)
        if line is not None and line.is_open and job.name in self._memory.limits:
            _turn(self._memory, line)


def line_up(memory: Memory, job: StoredJob, deliveries: int, line: Line) -> None:
    """Put a job in a waiting line."""
    memory.move(job, line.waiting)
    job.deliveries, line.is_open = deliveries, True


def give_up(memory: Memory, job: StoredJob, *, refund: bool = False) -> None:
    """Free the share of a job that no longer runs; with `refund` its start does not count for a rate."""
    line = memory.lines.get(job.counts_as) if memory.lines else None
    if line is None or job.id not in line.running:
        return
    line.running.remove(job.id)
    limit = memory.limits.get(line.name)
    if refund and limit is not None and limit.every_us is not None and not _goes_on(job):
        line.next_us -= limit.every_us
    if line.is_open:
        _turn(memory, line)


def take_turns(memory: Memory) -> int:
    """Hand back jobs from the lines that have a turn now; return how many jobs."""
    now_ms, total = memory.now_ms(), 0
    due = sorted((at_ms, counts_as) for counts_as, at_ms in memory.turns.items() if at_ms <= now_ms)
    for _, counts_as in due[:_MOST_LINES]:
        if total == MOST_JOBS:
            break
        del memory.turns[counts_as]
        total += _hand_on(memory, memory.lines[counts_as], MOST_JOBS - total)
    return total


def _hand_on(memory: Memory, line: Line, most: int) -> int:
    """Hand back as many jobs of a line as may start, up to `most`; return how many."""
    limit = memory.limits.get(line.name)
    free, from_ms = _room(memory, line, limit)
    if not free:
        if from_ms is not None:
            _turn(memory, line, from_ms)
        return 0
    wanted = int(min(free, most))
    jobs = by_rank(line.waiting.values())[:wanted]
    for job in jobs:
        memory.hand_back(job, job.deliveries)
    if len(jobs) == wanted:
        _turn(memory, line, memory.now_ms() + (_LOST_MS if limit else 0))
    else:
        line.is_open = False
    return len(jobs)


def give_turns(memory: Memory, name: str) -> None:
    """Give each line of a job name a turn now."""
    lines = [line for line in memory.lines.values() if line.is_open and line.name == name]
    for line in lines:
        _turn(memory, line)
    if lines:
        memory.tell("due", str(memory.now_ms()))


def tidy_lines(memory: Memory) -> None:
    """Give a turn to each line that could go on, in case the clock was set; drop lines without jobs."""
    now_ms, given = memory.now_ms(), False
    for line in list(memory.lines.values()):
        free, from_ms = _room(memory, line, memory.limits.get(line.name))
        if line.is_open and (free or from_ms is not None):
            given = _turn(memory, line, from_ms) or given
        elif not (line.is_open or line.running) and line.next_us <= now_ms * 1000:
            del memory.lines[line.counts_as]
    if given or has_turn(memory):
        tell_turn(memory)


def has_turn(memory: Memory, since_ms: int = 0) -> bool:
    """Whether a job in line may start now, and could have started `since_ms` ago."""
    return bool(memory.turns) and min(memory.turns.values()) <= memory.now_ms() - since_ms


def next_turn(memory: Memory, due_in: float | None) -> float | None:
    """Return the seconds until the next claim is needed, for a delayed job or for one in line."""
    if not memory.turns:
        return due_in
    turn_in = max(0, min(memory.turns.values()) - memory.now_ms()) / 1000
    return turn_in if due_in is None else min(due_in, turn_in)


def tell_turn(memory: Memory) -> None:
    """Notify all workers of the time of the next turn: the worker that was to look then may be gone."""
    if memory.turns:
        memory.tell("due", str(min(memory.turns.values())))


@answers(SetLimit)
def _set_limit(memory: Memory, change: SetLimit) -> str:
    before = memory.limits.pop(change.name, None)
    limit = Limit.read(change.limit) if change.limit else None
    if limit is not None:
        memory.limits[change.name] = limit
    if limit == before:
        return ""
    if before is None:  # jobs that started before the limit was set count too
        for job in memory.running():
            if job.name == change.name:
                _line_of(memory, job).running.add(job.id)
    give_turns(memory, change.name)
    return ""


@answers(FindLimits)
def _find_limits(memory: Memory, query: FindLimits) -> LimitsFound:
    lines = [line for _, line in sorted(memory.lines.items())]
    shares = [(line.counts_as, job_id) for line in lines for job_id in sorted(line.running)]
    running = [(counts_as, memory.jobs[job_id].place.worker, job_id) for counts_as, job_id in shares]
    waiting = [
        (line.counts_as, len(line.waiting), memory.turns.get(line.counts_as)) for line in lines if line.waiting
    ]
    return LimitsFound({name: limit.text for name, limit in memory.limits.items()}, waiting, running)


def _line_of(memory: Memory, job: StoredJob) -> Line:
    counts_as = job.counts_as
    if counts_as not in memory.lines:
        memory.lines[counts_as] = Line(counts_as)
    return memory.lines[counts_as]


def _goes_on(job: StoredJob) -> bool:
    """Whether a job that may start goes on after a wait: it spends nothing of a rate, and waits for none."""
    return b"suspended_at" in job.fields


def _room(memory: Memory, line: Line, limit: Limit | None, *, by_rate: bool = True) -> tuple[float, int | None]:
    """Return how many jobs of a line may start now; and if the rate allows none, when one may, in ms."""
    if line.name in memory.paused_names:
        return 0, None
    free = math.inf
    if limit is not None and limit.max_concurrency is not None:
        free = max(0, limit.max_concurrency - len(line.running))
    if not (free and by_rate) or limit is None or limit.every_us is None or limit.ahead_us is None:
        return free, None
    now_us = memory.now_ms() * 1000  # read once: else the clock may move on between two comparisons
    from_us = _next_us(line, limit, now_us) - limit.ahead_us
    if from_us > now_us:
        return 0, math.ceil(from_us / 1000)
    return min(free, (now_us - from_us) // limit.every_us + 1), None


def _next_us(line: Line, limit: Limit, now_us: int) -> int:
    """Return when the next job starts at a steady rate; correct a time that is impossibly late."""
    line.next_us = min(line.next_us, now_us + (limit.ahead_us or 0) + (limit.every_us or 0))
    return max(now_us, line.next_us)


def _turn(memory: Memory, line: Line, at_ms: int | None = None) -> bool:
    """Give a line a turn at this time, None for now; return False if it already has an earlier one."""
    turn_ms, known_ms = memory.now_ms() if at_ms is None else at_ms, memory.turns.get(line.counts_as)
    is_sooner = known_ms is None or turn_ms < known_ms
    if is_sooner:
        memory.turns[line.counts_as] = turn_ms
    return is_sooner
