"""An operator's view of jobs, dead letters, workers, pauses and limits, made from what a driver returns."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from redisjobs.errors import DecodeError
from redisjobs.model.changes import Wish
from redisjobs.model.children import ChildState
from redisjobs.model.codec import decode_fields, decode_progress, digits, when
from redisjobs.model.history import PastEvent, past_events
from redisjobs.model.job import ASIDE, Priority, State, WhyWaiting
from redisjobs.model.limits import Limit
from redisjobs.model.progress import Progress
from redisjobs.model.queries import DeadKind, Grouped, LimitsFound, Pauses, Row, WorkersFound
from redisjobs.model.steps import name_of, read_wait, waits_for
from redisjobs.model.transitions import WaitsFor

# One job


@dataclass(frozen=True, slots=True)
class ChildOf:
    """Whose child a job is.

    Attributes:
        parent: The id of the job that runs it in one of its steps.
        step: The key of that step; '' in lists, and if the parent has ended.
        index: Its index among the children of the step, from 0.
    """

    parent: str
    step: str
    index: int

    def __str__(self) -> str:
        return f"{self.step} of {self.parent}" if self.step else self.parent


@dataclass(frozen=True, slots=True)
class WaitInfo:
    """What a suspended job waits for; `str` says it for people, as `signal approved`.

    Attributes:
        what: `time`, `signal` or `children`.
        key: The key of the step that waits: the name of the signal, and from the second step of this name on also
            `#` and the number.
        total: How many children there are, and
        left: how many of them have not ended; None in lists, and for other waits.
    """

    what: WaitsFor
    key: str
    total: int | None = None
    left: int | None = None

    @property
    def name(self) -> str:
        """The name of the step, which a signal has, too."""
        return name_of(self.key)

    def __str__(self) -> str:
        text = waits_for(self.what, self.key)
        return text if self.total is None else f"{text}: {ended_of(self.total, self.left or 0)}"


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A job as an operator sees it.

    Attributes:
        job_id: The id to look it up by. Bytes that are not UTF-8 become lone surrogates.
        name: Its name; '' if the entry has none.
        state: Its state.
        priority: Its priority.
        parameters: The stored JSON text. Bytes that are not UTF-8 become U+FFFD.
        attempt: The number of its attempt, from 1.
        deliveries: How often it was delivered since its last outcome.
        worker: The worker that runs it, or that settled it as dead, done or cancelled; '' for none.
        queued_at: When it was pushed, by the server's clock; None if the entry lacks that.
        due_at: When a delayed job may run.
        waits_for: What a suspended job waits for; None for other jobs, and if the entry lacks that.
        wakes_at: When a suspended job goes on, at the latest; None: it waits without a limit.
        suspended_at: Since when a suspended job waits.
        failed_at: When it became a dead letter.
        finished_at: When a kept job was done or cancelled.
        started_at: When its worker got it, by the server's clock. For a kept job or a failed dead letter, when its
            last run began. None: it waits, or never ran.
        duration: How many seconds this run has taken.
        progress: The last progress report of its handler, until the job has ended.
        why_waiting: Why it can't start, besides its place in line and its due time; None: nothing prevents it.
        cancelling: Whether it still runs after a cancel.
        unique: The unique key that it holds; '' for none.
        headers: The headers of its push.
        reason: Why it is a dead letter, in a word or two; '' for other jobs.
        error: The last failure, in one line; '' for none.
        traceback: The traceback of the failure that made it a dead letter.
        error_type: The class of that exception: module and qualified name; for a builtin, only the name.
        fingerprint: Of a dead letter: equal for failures of one kind. It is 12 hex characters for those with the
            same exception class and the same functions of your code in the traceback. If no exception was raised,
            it is the reason.
        held: Whether it waits, and does not start until `unhold`.
        parent: The id of the job that pushed it, or that it is a child of; '' for none.
        child_of: Whose child it is; None for other jobs, and for a child that was requeued after its parent had
            gone on.
        history: What happened to it so far that is not usual; the first event and the newest, 20 at most. It is
            empty for a job that ran once and was done.
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
    history: tuple[PastEvent, ...] = ()
    waits_for: WaitInfo | None = None
    wakes_at: datetime | None = None
    suspended_at: datetime | None = None
    child_of: ChildOf | None = None


_TEXTS = ("name", "parameters", "unique", "reason", "error", "traceback", "error_type", "fingerprint", "parent")
"""The attributes that come from text fields of the entry."""


def job_info(row: Row) -> JobInfo:
    """Return the job in a row of the store. It never raises, even for an entry that is not a job."""
    fields = row.fields
    texts = {name: fields.get(name.encode(), b"").decode("utf-8", "replace") for name in _TEXTS}
    if row.state is State.DEAD:
        texts["fingerprint"] = texts["fingerprint"] or texts["reason"]
    try:
        job = decode_fields(fields, row.queued_ms)
    except DecodeError:
        job = None
    is_aside, is_suspended = row.state in ASIDE, row.state is State.SUSPENDED
    due_at = None if row.due_ms is None else when(row.due_ms)
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
        due_at=None if is_suspended else due_at,
        failed_at=_time(fields, b"failed_at"),
        finished_at=_time(fields, b"finished_at"),
        cancelling=row.cancelling,
        headers=(job.read_headers() or None) if job else None,
        held=row.held,
        started_at=None if started_ms is None else when(started_ms),
        duration=None if ran_ms is None else ran_ms / 1000,
        progress=decode_progress(row.progress),
        why_waiting=row.why_waiting,
        history=past_events(row.history),
        waits_for=_waits_for(fields) if is_suspended else None,
        wakes_at=due_at if is_suspended else None,
        suspended_at=_time(fields, b"suspended_at") if is_suspended else None,
        child_of=_child_of(fields, texts["parent"]),
        **texts,
    )


def _waits_for(fields: Mapping[bytes, bytes]) -> WaitInfo | None:
    wait = read_wait(fields.get(b"waits", b""))
    if wait is None:
        return None
    return WaitInfo(wait.what, wait.key.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def _child_of(fields: Mapping[bytes, bytes], parent: str) -> ChildOf | None:
    _, space, index = fields.get(b"child_of", b"").partition(b" ")
    return ChildOf(parent, "", digits(index) or 0) if space else None


def _number(fields: Mapping[bytes, bytes], key: bytes) -> int:
    return digits(fields.get(key, b"")) or 0


def _time(fields: Mapping[bytes, bytes], key: bytes) -> datetime | None:
    ms = _number(fields, key)
    return when(ms) if ms else None


# Children


@dataclass(frozen=True, slots=True)
class ChildInfo:
    """A child of a job.

    Attributes:
        index: Its index among the children of its step, from 0.
        job_id: Its id.
        state: `pending`, it has not ended; or how it has: `completed`, `dead`, `cancelled`; `refused`, it is done,
            but its result could not be kept; `exists` or `duplicate`, it was not added, because another job had
            its id or its unique key.
        result: What it returned, as JSON text; '' unless it is completed.
        error: Its error in one line, why its result was refused, or the id of the job that was in its way; '' for
            none.
        error_type: The class of its exception; '' for none.
        job: The job, if it has not ended, and was looked up; None if it is not on the queue.
    """

    index: int
    job_id: str
    state: ChildState
    result: str = ""
    error: str = ""
    error_type: str = ""
    job: JobInfo | None = None

    @property
    def says(self) -> str:
        """What has become of it, for people; of one that waits also why, as in `ready, paused`."""
        if self.job is None:
            return self.state
        return f"{self.job.state}, {self.job.why_waiting}" if self.job.why_waiting else self.job.state


@dataclass(frozen=True, slots=True)
class ChildGroup:
    """The children of one step of a job.

    Attributes:
        step: The key of the step.
        total: How many there are.
        left: How many have not ended.
        children: Those that were asked for, in the order of the step.
    """

    step: str
    total: int
    left: int
    children: Sequence[ChildInfo] = ()

    @property
    def ended(self) -> str:
        """How many have ended, for people: `3 of 10 have ended`."""
        return ended_of(self.total, self.left)


def ended_of(total: int, left: int) -> str:
    """Return how many children have ended, for people: `3 of 10 have ended`."""
    return f"{total - left:,} of {total:,} have ended"


# Dead letters by kind


@dataclass(frozen=True, slots=True)
class DeadGroup:
    """Dead letters of one kind: with the same fingerprint, or without one and with the same reason.

    Attributes:
        fingerprint: What they have in common: the fingerprint of their failures; or their reason, if no exception
            was raised. `fingerprint=` of `scan`, `requeue_all` and `delete_all` takes it.
        reason: Why the newest one is a dead letter, in a word or two.
        error_type: The class of the newest one's exception.
        count: The number of dead letters.
        names: The job names of the newest ten.
        job_id: The id of the newest one.
        error: The newest one's error, in one line.
        first_at: When the first one died.
        last_at: When the last one died.
        recent: How many died in each five minutes of the last hour, the oldest first.
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
    recent: tuple[int, ...]


def group_infos(steps: Iterable[Grouped]) -> list[DeadGroup]:
    """Return the groups that several steps found, each once: the largest first, and of these the newest."""
    found = {group.fingerprint: _dead_group(group) for step in steps for group in step.groups}
    return sorted(found.values(), key=lambda group: (group.count, group.last_at), reverse=True)


def _dead_group(group: DeadKind) -> DeadGroup:
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
        recent=tuple(group.recent),
    )


# Pauses


@dataclass(frozen=True, slots=True)
class PauseInfo:
    """The pauses of a queue.

    Attributes:
        since: When the queue was paused; None: it is not paused.
        names: The paused job names, and when each was paused.
        held: How many jobs are held.
    """

    since: datetime | None
    names: Mapping[str, datetime]
    held: int

    def is_paused(self, name: str) -> bool:
        """Return whether a job name is paused; for '', whether the queue is."""
        return name in self.names if name else self.since is not None


def pause_info(pauses: Pauses) -> PauseInfo:
    """Return the pauses that a driver found, with datetimes."""
    names = {name: when(ms) for name, ms in sorted(pauses.names.items())}
    return PauseInfo(None if pauses.queue is None else when(pauses.queue), names, pauses.held)


# Limits


@dataclass(slots=True)
class LimitedKey:
    """The jobs of one limit key, or of a name without keys; they count together.

    Attributes:
        key: The limit key; '' for jobs without one.
        jobs: The worker of each running job, by job id.
        waiting: How many jobs wait in line.
        next_at: When the first waiting job may start; None: when a running job has ended.
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
        rate: How many jobs may start, for example `50/s`; None: any number.
        burst: The most jobs that may start together after a rest; None: there is no rate.
        keys: The running and waiting jobs, by key; '' for jobs without a key. After a limit was removed, it may
            still have jobs.
    """

    name: str
    max_concurrency: int | None
    rate: str | None
    burst: int | None
    keys: Mapping[str, LimitedKey]

    @property
    def running(self) -> int:
        """How many jobs run, with any key."""
        return sum(key.running for key in self.keys.values())

    @property
    def waiting(self) -> int:
        """How many jobs wait in line, with any key."""
        return sum(key.waiting for key in self.keys.values())


def limit_infos(steps: Iterable[LimitsFound]) -> list[LimitInfo]:
    """Return the limits that several steps found, by name."""
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

FACTS = ("host", "pid", "started", "concurrency", "running", "version", "names", "state", "wish")
"""What `FindWorkers` reads about a worker: the facts of its last heartbeat, and what an operator asked of it."""

QUIET, STOPPING = "quiet", "stopping"
"""Values of the fact `state`; it is empty while the worker claims jobs."""

_MOST_CHARACTERS = 2_000  # of names: each heartbeat carries them, and a step of `FindWorkers` reads 100 workers


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker of a queue, as it was at its last heartbeat.

    Attributes:
        worker_id: Its id.
        started_at: When it began to run jobs of this queue; None before its first heartbeat.
        slots: How many jobs it can run at once, for all its queues.
        running: How many jobs of this queue it runs.
        names: The names of its handlers, in alphabetical order; not all, if there are many.
        has_more_names: Whether `names` lacks some.
        host: The host that it runs on.
        pid: Its process id on that host.
        version: Its release of redisjobs.
        lease: How many seconds its lease still lasts. Below 0, other workers reclaim its jobs.
        quiet: Whether it claims no jobs of this queue, because an operator asked for that.
        stopping: Whether it is to end once its running jobs have ended, or its grace is over.
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
    quiet: bool = False
    stopping: bool = False


def names_fact(names: Iterable[str]) -> str:
    """Return job names for a heartbeat, separated by spaces. A long list is cut and ends with `…`."""
    text = " ".join(sorted(names))
    return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS].rpartition(" ")[0] + " …"


def worker_infos(steps: Iterable[WorkersFound]) -> list[WorkerInfo]:
    """Return the workers that several steps found, each once, sorted by id."""
    found = {worker[0]: _worker_info(*worker) for step in steps for worker in step.workers}
    return [found[worker_id] for worker_id in sorted(found)]


def _worker_info(worker_id: str, lease: float, facts: Mapping[str, str]) -> WorkerInfo:
    names = facts.get("names", "").split()
    state, wish = facts.get("state", ""), facts.get("wish", "")
    is_stopping = state == STOPPING or wish == Wish.STOP
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
        # A wish shows at once; the fact lasts when the worker goes on under a new id, which no wish was for yet.
        quiet=not is_stopping and (wish or state) == QUIET,
        stopping=is_stopping,
    )


def _count(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _started(text: str) -> datetime | None:
    with suppress(ValueError):  # '' before the first heartbeat, or a text written with redis-cli
        at = datetime.fromisoformat(text)
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    return None
