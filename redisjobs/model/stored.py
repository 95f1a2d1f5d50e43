"""Schedules as a driver stores them: the questions and changes about them, and an operator's view.

`definition.py` defines a schedule, and `scheduler/` fires it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from redisjobs.model.changes import Change
from redisjobs.model.codec import digits
from redisjobs.model.definition import LAST_MS, Accuracy, Definition, moment
from redisjobs.model.queries import Query
from redisjobs.model.transitions import NewJob, Pushed, Reply
from redisjobs.schedules.schedule import Schedule

THERE_MS = 30_000
"""After this time without a call, a scheduler and its declarations count as gone; see `lua/include/times.lua`."""


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """One schedule in the store. It may have been changed in Redis."""

    name: str
    fields: Mapping[bytes, bytes]  # the fields of its `Definition`, and its state
    is_there: bool = False  # a live scheduler declares it

    @property
    def fingerprint(self) -> str:
        """The fingerprint of its definition; a ValueError if it was changed in Redis."""
        found = self.fields.get(b"fingerprint", b"")
        if not found.isalnum():
            raise ValueError(f"its field 'fingerprint' is {found!r:.60}, not a fingerprint: put it again")
        return found.decode()

    @property
    def last_ms(self) -> int:
        """The last slot that was fired or skipped; later slots are still to be fired. A ValueError as above."""
        return self._time(b"last_slot")

    @property
    def declared_ms(self) -> int:
        """When the scheduler began that declared the present definition. A ValueError as above."""
        return self._time(b"declared_by")

    def _time(self, key: bytes) -> int:
        found = digits(text := self.fields.get(key, b""))
        if found is None or found > LAST_MS:
            raise ValueError(f"its field '{key.decode()}' is {text!r:.60}, not a time in ms")
        return found

    @property
    def is_declared(self) -> bool:
        """Whether it was declared in code; else it was put at run time."""
        return b"declared_by" in self.fields

    @property
    def is_paused(self) -> bool:
        """Whether it is paused."""
        return self.fields.get(b"paused") == b"1"

    @property
    def moved_to(self) -> str:
        """The store to which a mover took it when it paused it here; '' if no mover paused it."""
        return self.fields.get(b"moved_to", b"").decode("utf-8", "replace") if self.is_paused else ""

    def ms(self, key: bytes) -> int:
        """Return the number in a field; 0 if there is none."""
        return digits(self.fields.get(key, b"")) or 0


@dataclass(frozen=True, slots=True)
class SchedulePage:
    """The answer to one step of `ListSchedules`."""

    rows: Sequence[ScheduleRow]  # in the order of their last changes
    gone: Sequence[str]  # names of schedules that were removed, or have expired, since the query's `after`
    change: int  # the number of the last change of any schedule of this queue; numbers only grow
    more: int | None  # if there are more schedules, the `after` of the next step
    is_served: bool  # a scheduler of this queue is alive
    server_ms: float


@dataclass(frozen=True, slots=True)
class ListSchedules(Query[SchedulePage]):
    """Find the schedules of a queue, in bounded steps."""

    name: str = ""  # only this schedule; '' for all
    after: int | None = None  # only schedules that changed after the change with this number


@dataclass(frozen=True, slots=True)
class Put:
    """A schedule to put or to declare."""

    name: str
    fingerprint: str
    definition: Definition | None = None  # None: the store has it, and this only declares it again
    last_ms: int | None = None  # the last slot that was fired or skipped of the schedule that this replaces
    since_ms: int | None = None  # from when on the slots of a new rule count; None: from now
    # A mover brings it in this state, after its slot `since_ms`; KEPT if one is there that no mover has taken.
    paused: bool | None = None

    @classmethod
    def whole(cls, definition: Definition, last_ms: int | None = None, since_ms: int | None = None) -> "Put":
        """Return the value that puts a whole definition."""
        return cls(definition.name, definition.fingerprint, definition, last_ms, since_ms)


@dataclass(frozen=True, slots=True)
class Declarer:
    """A scheduler that declares schedules."""

    scheduler: str  # its id
    release: str  # equal for all schedulers that declare the same schedules
    began_ms: int = 0  # when it began, by the server's clock; 0: now


@dataclass(frozen=True, slots=True)
class PutSchedules(Change["PutAnswer"]):
    """Put schedules on a queue, or declare them. Without schedules, it only keeps a scheduler alive."""

    schedules: Sequence[Put]
    by: Declarer | None = None  # None: the schedules are put at run time


@dataclass(frozen=True, slots=True)
class PutAnswer:
    """The answer to `PutSchedules`."""

    replies: Sequence[Reply]  # for each schedule: OK, NEWER, KEPT, DECLARED, NOT_FOUND, CHANGED or SPOILED
    change: int  # the number of the last change of any schedule of this queue
    present: int  # how many schedulers its release has; 0 if the store did not know this one
    server_ms: float


@dataclass(frozen=True, slots=True)
class WithdrawSchedules(Change[Reply]):
    """Withdraw the declarations of a scheduler that ends: OK or NOT_FOUND."""

    by: Declarer


@dataclass(frozen=True, slots=True)
class PauseSchedule(Change[Reply]):
    """Pause a schedule, or let it fire again from now on: OK or NOT_FOUND."""

    name: str
    pause: bool
    moved_to: str = (
        ""  # noted with a pause, unless it is paused: the `store` to which a mover takes it; see `moving.py`
    )


@dataclass(frozen=True, slots=True)
class RemoveSchedule(Change[Reply]):
    """Remove a schedule: OK, DECLARED or NOT_FOUND."""

    name: str


@dataclass(frozen=True, slots=True)
class Firing:
    """The slots of one schedule to fire now."""

    name: str
    fingerprint: str  # of the definition that the jobs were made from
    last_ms: int  # the last slot that was fired or skipped, as far as the scheduler knows
    slot_ms: int  # the last of the slots to fire
    missed: int  # how many of these slots get no job
    jobs: Sequence[NewJob]


@dataclass(frozen=True, slots=True)
class Fired:
    """The answer to one firing."""

    reply: Reply  # OK, REPEATED, FIRED, EARLY, PAUSED or CHANGED; BUSY: its jobs have to wait for other calls
    pushed: Sequence[Pushed] = ()  # if OK, the answer to the push of each job
    last_ms: int = 0  # if FIRED, the last slot that was fired or skipped


@dataclass(frozen=True, slots=True)
class FireAnswer:
    """The answer to `Fire`."""

    fired: Sequence[Fired]  # for each firing in order; if there are fewer, send the rest of the firings again
    server_ms: float


@dataclass(frozen=True, slots=True)
class Fire(Change[FireAnswer]):
    """Push the jobs of schedules, once for each slot; up to 500 jobs."""

    scheduler: str  # its id
    firings: Sequence[Firing]  # at most one for each schedule


@dataclass(frozen=True, slots=True)
class ScheduleInfo:
    """A schedule as an operator sees it.

    Attributes:
        name: Its name.
        rule: When it fires; None if the stored schedule can't be read.
        job_name: The name of the job that it pushes; '' if it has none.
        parameters: The parameters of that job, as JSON.
        accuracy: What to do about missed slots.
        last_slot: The last slot that it fired; None if it has fired none.
        next_slot: The next slot that it fires. None while it is paused or can't be read, or if it was declared in
            code and has stopped. A stopped schedule that was put at run time fires it once a scheduler runs.
        missed: How many slots got no job.
        paused: Whether it is paused.
        declared: Whether it was declared in code; else it was put at run time.
        stopped: Whether it does not fire, because no live scheduler declares it. If it was put at run time:
            because the queue has no live scheduler.
        error: Why the stored schedule can't be read or fired; '' if it can.
    """

    name: str
    rule: Schedule | None
    job_name: str = ""
    parameters: str = ""
    accuracy: Accuracy = Accuracy.LATEST
    last_slot: datetime | None = None
    next_slot: datetime | None = None
    missed: int = 0
    paused: bool = False
    declared: bool = False
    stopped: bool = False
    error: str = ""

    @property
    def status(self) -> str:
        """In a few words, whether it fires, and why not: `active`, `paused`, `stopped: …` or `unreadable: …`."""
        if self.error:
            return f"unreadable: {self.error}"
        if self.paused:
            return "paused"
        if not self.stopped:
            return "active"
        return f"stopped: no scheduler {'declares it' if self.declared else 'runs'}"

    def upcoming(self, number: int) -> Iterator[datetime]:
        """Yield this many of the next slots, as long as the schedule does not change."""
        slot = self.next_slot
        for _ in range(number):
            if slot is None or self.rule is None:
                return
            yield slot
            slot = self.rule.next_after(slot)


def schedule_infos(pages: Iterable[SchedulePage]) -> list[ScheduleInfo]:
    """Return the schedules on these pages, by name. If one changed and is on two pages, the later one counts."""
    found = {row.name: schedule_info(row, is_served=page.is_served) for page in pages for row in page.rows}
    return [found[name] for name in sorted(found)]


def schedule_info(row: ScheduleRow, *, is_served: bool) -> ScheduleInfo:
    """Return the schedule in a row of the store, even if it can't be read; see `SchedulePage` for `is_served`."""
    definition, next_slot, error = None, None, ""
    try:
        definition = Definition.read(row.name, row.fields)
        next_slot = definition.rule.next_after(moment(row.last_ms))
        _ = row.fingerprint
    except ValueError as wrong:
        error = str(wrong)
    stopped = not (row.is_there if row.is_declared else is_served)
    fires = not (error or row.is_paused or (row.is_declared and stopped))
    fired_ms = min(row.ms(b"fired_slot"), LAST_MS)
    return ScheduleInfo(
        name=row.name,
        rule=definition.rule if definition else None,
        job_name=row.fields.get(b"job", b"").decode("utf-8", "replace"),
        parameters=row.fields.get(b"parameters", b"").decode("utf-8", "replace"),
        accuracy=definition.accuracy if definition else Accuracy.LATEST,
        last_slot=moment(fired_ms) if fired_ms else None,
        next_slot=next_slot if fires else None,
        missed=row.ms(b"missed"),
        paused=row.is_paused,
        declared=row.is_declared,
        stopped=stopped,
        error=error,
    )
