"""What is read of a memory queue: jobs, kinds of failure, counts, workers, pauses."""

from collections.abc import Iterable, Sequence

from redisjobs.drivers.memory.history import history
from redisjobs.drivers.memory.state import Memory, StoredJob, answers, encoded
from redisjobs.errors import DriverError
from redisjobs.model import queries
from redisjobs.model.job import Priority, State, WhyWaiting
from redisjobs.model.transitions import MOST_JOBS

_SINCE = {State.DEAD: b"failed_at", State.COMPLETED: b"finished_at", State.CANCELLED: b"finished_at"}
_NEVER = 2**53  # ms: when a job is due that waits for no time


@answers(queries.Find)
def _find(memory: Memory, query: queries.Find) -> queries.Row | None:
    job = memory.jobs.get(query.job_id)
    return None if job is None else _row(memory, job)


def _row(memory: Memory, job: StoredJob) -> queries.Row:
    is_running, is_later = job.state is State.RUNNING, job.state in (State.DELAYED, State.SUSPENDED)
    is_waiting, now_ms = is_later or job.state is State.READY, memory.now_ms()
    ran_ms = int((memory.monotonic() - job.since) * 1000) if is_running else None
    return queries.Row(
        job_id=job.id,
        state=job.state,
        priority=job.priority,
        key="" if is_later else str(job.number),
        queued_ms=0 if is_later else job.since_ms,
        due_ms=(job.due_ms or None) if is_later else None,
        worker=job.place.worker,
        deliveries=job.deliveries,
        cancelling=job.is_cancelling,
        fields=job.fields,
        held=job.id in memory.held if is_waiting else False,
        started_ms=None if ran_ms is None else now_ms - ran_ms,
        ran_ms=ran_ms,
        why_waiting=_obstacle(memory, job) if is_waiting else None,
        progress=((is_waiting or is_running) and memory.progress.current(job.id, now_ms)) or b"",
        history=encoded(history(job)).decode("utf-8", "replace"),
    )


def _obstacle(memory: Memory, job: StoredJob) -> WhyWaiting | None:
    """Return what keeps a waiting job from starting; None: nothing but its place in line, or its due time."""
    line = memory.lines.get(job.counts_as)
    obstacles = {
        WhyWaiting.HELD: job.id in memory.held,
        WhyWaiting.PAUSED: memory.paused is not None,
        WhyWaiting.NAME_PAUSED: job.name in memory.paused_names,
        WhyWaiting.LIMIT: line is not None and job.number in line.waiting,
        WhyWaiting.NO_WORKER: all(worker.until <= memory.monotonic() for worker in memory.workers.values()),
        WhyWaiting.NO_HANDLER: b"unknown_since" in job.fields,
        WhyWaiting.LAST_DELIVERY: job.place is memory.isolated,
    }
    return next((why for why, is_so in obstacles.items() if is_so), None)


@answers(queries.Scan)
def scan(memory: Memory, query: queries.Scan) -> queries.Scanned:
    """Return the jobs in a state that pass a filter, one page of them."""
    rows: list[queries.Row] = []
    jobs = _after(memory, query.state, query.after, query.filter.fingerprint)
    for looked, (after, job) in enumerate(jobs, 1):
        if _passes(job, query.filter, memory.now_ms()):
            rows.append(_row(memory, job))
        if looked == MOST_JOBS or len(rows) == query.limit:
            return queries.Scanned(rows, after)
    return queries.Scanned(rows)


def _after(memory: Memory, state: State, after: str, fingerprint: str) -> list[tuple[str, StoredJob]]:
    """Return the jobs of a state that come after a place, in order, each with its own place."""

    def place(job: StoredJob) -> tuple[int, int]:
        if state in memory.aside:
            return 0, -job.number  # the newest first
        if state is State.SUSPENDED:
            return job.due_ms or _NEVER, job.number
        return job.due_ms if state is State.DELAYED else job.rank, job.number

    places = {**memory.aside, State.DELAYED: memory.delayed, State.SUSPENDED: memory.suspended}
    jobs: Iterable[StoredJob] = places.get(state, memory.delayed).values()
    if state is State.DEAD and fingerprint:
        jobs = [job for job in jobs if kind_of(job) == fingerprint]
    if state in (State.READY, State.RUNNING):
        jobs = memory.waiting() if state is State.READY else memory.running()
    try:
        begin = tuple(map(int, after.split())) if after else (-1, 0)
    except ValueError:
        raise DriverError(f"after={after!r:.60}: no scan ends there") from None
    found = sorted(((place(job), job) for job in jobs), key=lambda each: each[0])
    return [(f"{at[0]} {at[1]}", job) for at, job in found if at > begin]


def _passes(job: StoredJob, wanted: queries.Filter, now_ms: int) -> bool:
    exact = {b"name": wanted.name, b"reason": wanted.reason}
    if any(text and job.text(name) != text for name, text in exact.items()):
        return False
    worker = job.place.worker or job.text(b"worker")
    if wanted.fingerprint not in ("", kind_of(job)) or wanted.worker not in ("", worker):
        return False
    since_ms = time_of(job, _SINCE.get(job.state, b"queued_at"))
    if wanted.older_ms is not None and since_ms > now_ms - wanted.older_ms:
        return False
    return any(wanted.text in job.text(name) for name in (b"parameters", b"error"))


def time_of(job: StoredJob, name: bytes) -> int:
    """Return the time in a field, in ms; without one, when the job came to its place."""
    text = job.fields.get(name, b"")
    return int(text) if text.isdigit() and len(text) < 16 else job.since_ms


def kind_of(job: StoredJob) -> str:
    """Return the kind of failure that a dead letter counts under."""
    return job.text(b"fingerprint") or job.text(b"reason")


@answers(queries.GroupDead)
def _group_dead(memory: Memory, query: queries.GroupDead) -> queries.Grouped:
    kinds: dict[str, list[StoredJob]] = {}
    for job in reversed(memory.aside[State.DEAD].values()):
        kinds.setdefault(kind_of(job), []).append(job)
    groups = [_group(kind, jobs, memory.now_ms()) for kind, jobs in kinds.items()]
    groups.sort(key=lambda group: (group.last_ms, group.fingerprint), reverse=True)
    return queries.Grouped(groups)


def _group(kind: str, jobs: Sequence[StoredJob], now_ms: int) -> queries.DeadKind:
    newest, times = jobs[0], [time_of(job, b"failed_at") for job in jobs]
    ages = [(now_ms - ms) // 300_000 for ms in times]
    return queries.DeadKind(
        fingerprint=kind,
        reason=newest.text(b"reason"),
        error_type=newest.text(b"error_type"),
        count=len(jobs),
        first_ms=min(times),
        last_ms=max(times),
        job_id=newest.id,
        error=newest.text(b"error"),
        names=list(dict.fromkeys(job.name for job in jobs[:10])),
        recent=[ages.count(age) for age in range(11, -1, -1)],
    )


@answers(queries.Count)
def count(memory: Memory, query: queries.Count) -> queries.Counts:
    """Count the jobs in each state."""
    ready = dict.fromkeys(Priority, 0)
    for job in memory.waiting():
        ready[job.priority] += 1
    aside = {str(state): len(place) for state, place in memory.aside.items()}
    running, suspended = sum(1 for _ in memory.running()), len(memory.suspended)
    return queries.Counts(
        ready, running, len(memory.delayed), totals=dict(memory.totals), **aside, suspended=suspended
    )


@answers(queries.GetBacklog)
def backlog(memory: Memory, query: queries.GetBacklog) -> queries.Backlog:
    """Find the oldest ready jobs."""
    new = [next(iter(place.values())) for place in memory.new.values() if place]
    now_ms, now = memory.now_ms(), memory.monotonic()
    since = [
        (job.priority, float(job.since_ms)) for job in (*memory.returned.values(), *memory.isolated.values(), *new)
    ]
    since += [(job.priority, float(job.due_ms)) for job in memory.due(now_ms) if job.wait is None][:1]
    return queries.backlog_since(since, now_ms, sum(worker.until > now for worker in memory.workers.values()))


@answers(queries.FindWorkers)
def _find_workers(memory: Memory, query: queries.FindWorkers) -> queries.WorkersFound:
    now = memory.monotonic()
    found = [
        (each.id, each.until - now, {**each.facts, "wish": each.wish or ""}) for each in memory.workers.values()
    ]
    return queries.WorkersFound(found)


@answers(queries.FindPauses)
def _find_pauses(memory: Memory, query: queries.FindPauses) -> queries.Pauses:
    return queries.Pauses(memory.paused, dict(memory.paused_names), len(memory.held))
