"""What a queue is made of: the keys of `lua/README.md` as dicts, and what Redis itself does to them.

Streams are dicts in the order of their entry ids, with the pending list as a dict beside them. Nothing survives
the process.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from redisjobs.model.definition import Definition
from redisjobs.model.driver import Fenced, Notification
from redisjobs.model.job import Priority
from redisjobs.model.retention import ASIDE, Retention
from redisjobs.model.transitions import Exchange, Pushed

Fields = dict[bytes, bytes]
Place = tuple[str, str]  # a priority, that of a ready stream, `delayed` or `dead`; and the entry there
Push = tuple[str, bytes]  # job id, nonce

RELEASED = "released"  # who holds what was handed back
ALONE = "alone"  # who holds what was too, and has to run alone
PARKED = "parked"  # who holds what may not start
SWEPT = 1_000  # outcomes below which nobody looks for those that are over
LINE = "line:"  # who holds what waits for a limit; after it is what that is counted under


@dataclass(slots=True)
class Pending:
    """An entry that was delivered: who holds it, by which delivery, since when (this process' monotonic clock)."""

    worker: str
    deliveries: int
    since: float


@dataclass(slots=True)
class Stream:
    """One ready stream: its entries, which of them the group has not read, and its pending list."""

    number: int
    priority: Priority
    entries: dict[str, Fields] = field(default_factory=dict)
    unread: dict[str, None] = field(default_factory=dict)
    pending: dict[str, Pending] = field(default_factory=dict)

    def held(self, *workers: str) -> list[str]:
        """XPENDING: the entries that these workers hold, `RELEASED`, `ALONE` or `PARKED`."""
        return [entry for entry, pending in self.pending.items() if pending.worker in workers]


@dataclass(slots=True)
class Delayed:
    """A delayed job; `line` is greater for each, its place among those due at the same time."""

    priority: Priority
    fields: Fields
    due_ms: int
    line: int


@dataclass(slots=True)
class Record:
    """A worker's record.

    Attributes:
        run: Tells it from another one of the same id.
        lease: In seconds.
        until: When its lease ends, by this process' monotonic clock.
        cancels: How often somebody has asked to cancel a job of it.
        facts: What it said at its last heartbeat.
        answers: The last turn of each lane, and what it was answered.
    """

    run: object
    lease: float
    until: float
    cancels: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)
    answers: dict[int, tuple[int, Exchange]] = field(default_factory=dict)


@dataclass(slots=True)
class StoredSchedule:
    """A schedule, and what became of it; see `schedule:<name>` in lua/README.md. Times in ms.

    Attributes:
        last_ms: The slot that was seen to last.
        fired_ms: The slot that it fired last; None for none yet.
        fired_by: Who did.
        missed: How many slots had no job of their own.
        change: The number of its last change.
        declared_by: When the scheduler began whose declaration counts; None: it was put at run time.
        release: Of that scheduler.
    """

    definition: Definition
    fingerprint: str
    last_ms: int
    fired_ms: int | None = None
    fired_by: str = ""
    missed: int = 0
    is_paused: bool = False
    change: int = 0
    declared_by: int | None = None
    release: str = ""


@dataclass(slots=True)
class Outcome:
    """How a job has ended, where its result is kept. Times in ms.

    Attributes:
        word: `completed`, `cancelled`, `refused` or `dead`.
        text: Why, of the last two.
        until_ms: When it is forgotten.
        value: What the handler returned, as JSON.
        value_until_ms: When that is forgotten.
    """

    word: str
    text: str
    until_ms: int
    value: bytes = b""
    value_until_ms: int = 0


@dataclass(slots=True)
class Ends:
    """What is known of jobs that have ended, and who waits for others."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    waiters: dict[str, list[str]] = field(default_factory=dict)
    progress: dict[str, tuple[bytes, int]] = field(default_factory=dict)  # the last, and until when, in ms
    sweep_at: int = SWEPT


class Memory:
    """The state of one queue. Every transition takes the lock, as Redis runs one script at a time.

    Args:
        now_ms: What time it is; None for this machine's clock.

    Attributes:
        streams: `ready:high`, `ready:normal`, `ready:low`.
        located: `jobs`, the locator: where each job is, by its id.
        marks: What the locator has beside a place: `cancelling`, or `alone`.
        delayed: `due` and `delayed`, by job id; of those due at the same time, the first is first in line.
        aside: `dead`, `completed` and `cancelled`, each by entry.
        retention: `retention`; None: nobody has said.
        declared: What workers have declared lately; see `Declare`.
        tidied_ms: When what is kept no longer was trimmed last; None: never.
        paused: Since when the queue is paused, in ms; None: it is not.
        paused_names: `paused:names`: job names that are paused, and since when, in ms.
        held: Ids of jobs that are held, and since when, in ms.
        limits: Job names, and the limit of each in words.
        shares: Where each limited job is that runs, and what it is counted under: its name, or that and a key.
        arrivals: `rate:<name> <key>`: the theoretical arrival time of its next job, in µs.
        turns: What is counted together and has a waiting line, and when one of it may start, in ms.
        waiting: `lines`: what has a waiting line.
        uniques: `unique:<key>`: the id of the job that holds a key, and until when, in ms; None: until it ends.
        finished: `finished:<n>`: pushes whose job ended, and when, in ms.
        refused: `finished:<n>`: pushes that were refused when they were repeated, and when, in ms.
        conflicts: `conflict:<push>`: what pushes were answered that met a held key, and when, in ms.
        totals: `stats`.
        schedules: `schedules` and `schedule:<name>`, by schedule name.
        removed: Names of schedules that are gone, and the number of that change.
        change: The number of the last change of a schedule.
        releases: By release, when one of its schedulers last said that it is there, ms.
        schedulers: By release and id, when a scheduler last said so, ms.
        workers: `workers` and `worker:<id>`, by worker id.
        lines: How many jobs were delayed so far.
        fenced: Until when late reads of a fenced worker are looked for, by this process' monotonic clock.
        ears: Who is subscribed to `control`, or blocks on a read: that one hears `ready`.
    """

    def __init__(self, now_ms: Callable[[], int] | None = None) -> None:
        self.now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        self.lock = threading.RLock()
        self.streams = [Stream(number, priority) for number, priority in enumerate(Priority, 1)]
        self.located: dict[str, Place] = {}
        self.marks: dict[Place, str] = {}
        self.delayed: dict[str, Delayed] = {}
        self.lines = 0
        self.aside: dict[str, dict[str, Fields]] = {state: {} for state in ASIDE}
        self.retention: Retention | None = None
        self.declared: list[str] = []
        self.tidied_ms: int | None = None
        self.paused: int | None = None
        self.paused_names: dict[str, int] = {}
        self.held: dict[str, int] = {}
        self.limits: dict[str, str] = {}
        self.shares: dict[Place, str] = {}
        self.arrivals: dict[str, int] = {}
        self.turns: dict[str, int] = {}
        self.waiting: set[str] = set()
        self.uniques: dict[str, tuple[str, int | None]] = {}
        self.finished: dict[Push, int] = {}
        self.refused: dict[Push, int] = {}
        self.conflicts: dict[Push, tuple[Pushed, int]] = {}
        self.totals: dict[str, int] = {}
        self.schedules: dict[str, StoredSchedule] = {}
        self.removed: dict[str, int] = {}
        self.change = 0
        self.releases: dict[str, int] = {}
        self.schedulers: dict[str, dict[str, int]] = {}
        self.workers: dict[str, Record] = {}
        self.fenced: dict[str, float] = {}
        self.promoter = ("", 0)
        self.ends = Ends()
        self.progress: dict[str, bytes] = {}
        self.ears: list[Callable[[Notification], None]] = []
        self.processes: dict[str, list[Callable[[Notification], None]]] = {}
        self._last_id = (0, 0)

    def stream(self, priority: Priority) -> Stream:
        return self.streams[list(Priority).index(priority)]

    @property
    def dead(self) -> dict[str, Fields]:
        """The dead letters."""
        return self.aside["dead"]

    def entries(self, place: str) -> Mapping[str, Fields]:
        """The entries of a ready stream, or of jobs that were set aside; of any other place none."""
        if place in self.aside:
            return self.aside[place]
        return self.stream(Priority(place)).entries if place in list(Priority) else {}

    def record(self, worker: str) -> Record:
        """What is known of a worker; see lua/include/alive.

        Raises:
            Fenced: Nothing is.
        """
        if worker not in self.workers:
            raise Fenced(worker)
        return self.workers[worker]

    def new_id(self) -> str:
        """The next entry id, of whichever stream."""
        now_ms = self.now_ms()
        last_ms, sequence = self._last_id
        self._last_id = (now_ms, 0) if now_ms > last_ms else (last_ms, sequence + 1)
        return f"{self._last_id[0]}-{self._last_id[1]}"

    def append(self, stream: Stream, fields: Fields, entry: str = "*") -> str:
        """XADD: its entry id."""
        entry = self.new_id() if entry == "*" else entry
        stream.entries[entry] = fields
        stream.unread[entry] = None
        self.tell("ready", entry)
        return entry

    def drop(self, stream: Stream, entry: str) -> None:
        """XACK and XDEL; what was noted beside the place goes, too."""
        del stream.entries[entry]
        stream.unread.pop(entry, None)
        stream.pending.pop(entry, None)
        self.marks.pop((stream.priority, entry), None)

    def count(self, counter: str, number: int = 1) -> None:
        """Add to one of the counters."""
        if number:
            self.totals[counter] = self.totals.get(counter, 0) + number

    def tell_process(self, process: str, job_id: str) -> None:
        """PUBLISH: tell a process that waits for a job."""
        for ear in list(self.processes.get(process, ())):
            ear(Notification("changed", job_id))

    def tell(self, kind: str, value: str) -> None:
        """PUBLISH: tell whoever listens."""
        for ear in list(self.ears):
            ear(Notification(kind, value))


def encoded(value: str | bytes) -> bytes:
    """A name or a value as a field has it."""
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


def text_of(fields: Mapping[bytes, bytes], name: bytes) -> str:
    """The value of one field; '' if it is absent."""
    return fields.get(name, b"").decode("utf-8", "surrogateescape")
