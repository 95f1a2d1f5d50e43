"""What the store knows, in people's words: jobs, dead letters, workers, pauses and limits, for an operator."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from redisjobs.errors import DecodeError
from redisjobs.model.codec import decode_fields, decode_progress, digits, when
from redisjobs.model.job import Priority, State, WhyWaiting
from redisjobs.model.limits import Limit
from redisjobs.model.progress import Progress
from redisjobs.model.queries import Group, LimitsFound, Pauses, Row, WorkersFound
from redisjobs.model.retention import ASIDE

# One job


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A job as an operator sees it.

    Attributes:
        job_id: The id by which it is looked up; bytes that are not UTF-8 are lone surrogates.
        name: Its name; '' if the entry has none.
        state: Its state.
        priority: Its priority.
        parameters: The JSON text as stored; U+FFFD stands for bytes that are not UTF-8.
        attempt: The number of its attempt, from 1.
        deliveries: How often it was delivered since its last outcome.
        worker: The worker that runs it, or that settled it as dead, done or cancelled; '' for none.
        queued_at: When it was pushed, by the server's clock; None if the entry does not say.
        due_at: When a delayed job may run.
        failed_at: When it became a dead letter.
        finished_at: When a kept job was done or cancelled.
        started_at: When its worker got it, by the server's clock; of a kept job or a failed dead letter for its
            last run. None: it waits, or never ran.
        duration: The seconds that this run has taken.
        progress: The last progress report of its handler, until the job has ended.
        why_waiting: What keeps it from starting beside its place in line and its due time; None: nothing.
        cancelling: Whether a cancel was asked for while it runs.
        unique: The unique key it holds; '' for none.
        headers: The headers of its push.
        reason: Why it is dead, in a word or two; '' if it isn't.
        error: The last failure, in one line; '' for none.
        traceback: The traceback of the failure that made it a dead letter.
        error_type: The class of that exception: module and qualified name; of a builtin the name alone.
        fingerprint: 12 hex characters, equal for failures of one kind: by the class, and the functions of yours
            that it came through; '' if no exception was raised.
        held: Whether it waits, and does not start until `unhold`.
        parent: The id of the job that pushed it; '' for none.
    """

    job_id: str
    name: str
    state: State
    priority: Priority
    parameters: str
    attempt: int = 1
    deliveries: int = 0
    worker: str = ""
    queued_at: datetime | None = None
    due_at: datetime | None = None
    failed_at: datetime | None = None
    finished_at: datetime | None = None
    cancelling: bool = False
    unique: str = ""
    headers: Mapping[str, str] | None = None
    reason: str = ""
    error: str = ""
    traceback: str = ""
    error_type: str = ""
    fingerprint: str = ""
    held: bool = False
    parent: str = ""
    started_at: datetime | None = None
    duration: float | None = None
    progress: Progress | None = None
    why_waiting: WhyWaiting | None = None


_TEXTS = ("name", "parameters", "unique", "reason", "error", "traceback", "error_type", "fingerprint", "parent")
"""The attributes that are fields of the entry, as text."""


def job_info(row: Row) -> JobInfo:
    """Return a row of the store as an operator sees it. It never fails, whatever the entry holds."""
    fields = row.fields
    texts = {name: fields.get(name.encode(), b"").decode("utf-8", "replace") for name in _TEXTS}
    try:
        job = decode_fields(fields, row.queued_ms)
    except DecodeError:
        job = None
    is_aside = row.state in ASIDE
    ran_ms, started_ms = row.ran_ms, row.started_ms
    if is_aside and b"ran_ms" in fields:
        ran_ms = _number(fields, b"ran_ms")
        started_ms = (_number(fields, b"finished_at") or _number(fields, b"failed_at")) - ran_ms
    return JobInfo(
        job_id=row.job_id,
        state=row.state,
        priority=row.priority,
        attempt=job.attempt if job else 1,
        deliveries=_number(fields, b"deliveries") if is_aside else row.deliveries,
        worker=fields.get(b"worker", b"").decode("utf-8", "replace") if is_aside else row.worker,
        queued_at=when(job.queued_ms) if job and job.queued_ms else _time(fields, b"queued_at"),
        due_at=None if row.due_ms is None else when(row.due_ms),
        failed_at=_time(fields, b"failed_at"),
        finished_at=_time(fields, b"finished_at"),
        cancelling=row.cancelling,
        headers=(job.read_headers() or None) if job else None,
        held=row.held,
        started_at=None if started_ms is None else when(started_ms),
        duration=None if ran_ms is None else ran_ms / 1000,
        progress=decode_progress(row.progress),
        why_waiting=row.why_waiting,
        **texts,
    )


def _number(fields: Mapping[bytes, bytes], key: bytes) -> int:
    return digits(fields.get(key, b"")) or 0


def _time(fields: Mapping[bytes, bytes], key: bytes) -> datetime | None:
    ms = _number(fields, key)
    return when(ms) if ms else None


# Dead letters by kind

MOST_GROUPS = 1_000
MOST_NAMES = 50


@dataclass(frozen=True, slots=True)
class DeadGroup:
    """Dead letters of one kind: of one fingerprint, or of one reason where they have none.

    Attributes:
        fingerprint: The fingerprint of their failures; '' for none.
        reason: Why the newest is dead, in a word or two.
        error_type: The class of its exception.
        count: How many there are.
        names: The names of their jobs; up to 50.
        job_id: The id of the newest.
        error: Its error, in one line.
        first_at: When the first of them died.
        last_at: When the last of them died.
    """

    fingerprint: str
    reason: str
    error_type: str
    count: int
    names: tuple[str, ...]
    job_id: str
    error: str
    first_at: datetime
    last_at: datetime


class Groups:
    """Adds up the groups of many steps. There are few groups, however many letters there are."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], Group] = {}

    def add(self, groups: Iterable[Group]) -> None:
        """Add the groups of a step, whose letters are older than all before. Only the newest 1,000 kinds count."""
        for group in groups:
            kind = (group.fingerprint, "" if group.fingerprint else group.reason)
            if newer := self._groups.get(kind):
                self._groups[kind] = _sum(newer, group)
            elif len(self._groups) < MOST_GROUPS:
                self._groups[kind] = group

    def result(self) -> list[DeadGroup]:
        """Return all of them, the largest first."""
        return [_dead_group(group) for group in sorted(self._groups.values(), key=lambda group: -group.count)]


def _sum(newer: Group, older: Group) -> Group:
    return replace(
        newer,
        count=newer.count + older.count,
        first_ms=min(newer.first_ms, older.first_ms),
        last_ms=max(newer.last_ms, older.last_ms),
        names=[*dict.fromkeys((*newer.names, *older.names))][:MOST_NAMES],
    )


def _dead_group(group: Group) -> DeadGroup:
    return DeadGroup(
        fingerprint=group.fingerprint,
        reason=group.reason,
        error_type=group.error_type,
        count=group.count,
        names=tuple(group.names),
        job_id=group.job_id,
        error=group.error,
        first_at=when(group.first_ms),
        last_at=when(group.last_ms),
    )


# Pauses


@dataclass(frozen=True, slots=True)
class PauseInfo:
    """What may not start.

    Attributes:
        since: When the queue was paused; None: it is not.
        names: The job names that are paused, and since when.
        held: How many jobs are held.
    """

    since: datetime | None
    names: Mapping[str, datetime]
    held: int

    def is_paused(self, name: str) -> bool:
        """Return whether a job name is paused; for '', whether the queue is."""
        return name in self.names if name else self.since is not None


def pause_info(pauses: Pauses) -> PauseInfo:
    """Return the pauses as an operator sees them."""
    names = {name: when(ms) for name, ms in sorted(pauses.names.items())}
    return PauseInfo(None if pauses.queue is None else when(pauses.queue), names, pauses.held)


# Limits


@dataclass(slots=True)
class LimitedKey:
    """Jobs that are counted together: those of a name, or of a name and a key.

    Attributes:
        key: What `limit_key` returned; '' where there is none.
        jobs: The ids of the jobs that run, and the worker of each.
        waiting: How many jobs wait in line.
        next_at: When the first of them may start, if that is known; None: when one that runs has ended.
    """

    key: str
    jobs: dict[str, str] = field(default_factory=dict)
    waiting: int = 0
    next_at: datetime | None = None

    @property
    def running(self) -> int:
        """How many jobs run."""
        return len(self.jobs)


@dataclass(frozen=True, slots=True)
class LimitInfo:
    """The limit of a job name, and the jobs under it.

    Attributes:
        name: The job name.
        max_concurrency: The most jobs that run at once, in all workers together; None: any number.
        rate: The most jobs that start in a time, as `50/s`; None: any number.
        burst: The most of these that may start together after a rest; None: there is no rate.
        keys: What runs or waits, by key; '' for jobs without one. Some may be left of a limit that was removed.
    """

    name: str
    max_concurrency: int | None
    rate: str | None
    burst: int | None
    keys: Mapping[str, LimitedKey]

    @property
    def running(self) -> int:
        """How many jobs run, of all keys."""
        return sum(key.running for key in self.keys.values())

    @property
    def waiting(self) -> int:
        """How many jobs wait in line, of all keys."""
        return sum(key.waiting for key in self.keys.values())


def limit_infos(steps: Iterable[LimitsFound]) -> list[LimitInfo]:
    """Return the limits as an operator sees them, by name."""
    limits: dict[str, Limit] = {}
    found: dict[str, dict[str, LimitedKey]] = {}

    def key_of(bucket: str) -> LimitedKey:
        name, _, key = bucket.partition(" ")
        return found.setdefault(name, {}).setdefault(key, LimitedKey(key))

    for step in steps:
        limits |= {name: Limit.read(text) for name, text in step.limits.items()}
        for bucket, waiting, next_ms in step.lines:
            one = key_of(bucket)
            one.waiting, one.next_at = waiting, None if next_ms is None else when(next_ms)
        for bucket, worker, job_id in step.running:
            key_of(bucket).jobs[job_id] = worker
    return [_limit_info(name, limits.get(name, Limit()), found.get(name, {})) for name in sorted(limits | found)]


def _limit_info(name: str, limit: Limit, keys: Mapping[str, LimitedKey]) -> LimitInfo:
    return LimitInfo(name, limit.max_concurrency, limit.rate, limit.bursting, dict(sorted(keys.items())))


# Workers

FACTS = ("host", "pid", "started", "concurrency", "running", "version", "names")
"""What a worker says of itself with each heartbeat."""

_MOST_CHARACTERS = 2_000  # of names: a heartbeat carries them, and a step of `FindWorkers` those of 100 workers


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker of a queue, as it was at its last heartbeat.

    Attributes:
        worker_id: Its id.
        started_at: When it began to run jobs of this queue; None: it has not said so yet.
        slots: How many jobs it can run at once, of all its queues.
        running: How many jobs of this queue it runs.
        names: The job names that it has handlers for, in alphabetical order; not all, if there are many.
        has_more_names: Whether some are left out.
        host: The host it runs on.
        pid: Its process there.
        version: Its release of redisjobs.
        lease: The seconds that its lease still lasts. Below 0 other workers take its jobs over.
    """

    worker_id: str
    started_at: datetime | None
    slots: int
    running: int
    names: Sequence[str]
    has_more_names: bool
    host: str
    pid: str
    version: str
    lease: float


def names_fact(names: Iterable[str]) -> str:
    """Return job names for a heartbeat, with spaces between; too long a list is cut and ends with `…`."""
    told = " ".join(sorted(names))
    return told if len(told) <= _MOST_CHARACTERS else told[:_MOST_CHARACTERS].rpartition(" ")[0] + " …"


def worker_infos(steps: Iterable[WorkersFound]) -> list[WorkerInfo]:
    """Return the workers that several steps found, each once, by id."""
    found = {worker[0]: _worker_info(*worker) for step in steps for worker in step.workers}
    return [found[worker_id] for worker_id in sorted(found)]


def _worker_info(worker_id: str, lease: float, facts: Mapping[str, str]) -> WorkerInfo:
    names = facts.get("names", "").split()
    return WorkerInfo(
        worker_id=worker_id,
        started_at=_started(facts.get("started", "")),
        slots=_count(facts.get("concurrency", "")),
        running=_count(facts.get("running", "")),
        names=tuple(name for name in names if name != "…"),
        has_more_names=names[-1:] == ["…"],
        host=facts.get("host", ""),
        pid=facts.get("pid", ""),
        version=facts.get("version", ""),
        lease=lease,
    )


def _count(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _started(text: str) -> datetime | None:
    with suppress(ValueError):  # a worker before its first heartbeat, or redis-cli, left another text there
        at = datetime.fromisoformat(text)
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    return None
