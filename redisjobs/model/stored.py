"""What crosses the seam for schedules: the questions and changes, their answers, and a schedule in people's words.

`definition.py` has what a schedule is, `scheduler/` fires it.
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
"""A scheduler that was silent for this time is gone, with what it declares; see `lua/include/times.lua`."""


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """One schedule as the store knows it; it may have been changed in Redis."""

    name: str
    fields: Mapping[bytes, bytes]  # those of `Definition.fields`, and what became of it
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
        """The last slot that was seen to; what comes after it is still to be fired. A ValueError as above."""
        return self._time(b"last_slot")

    @property
    def declared_ms(self) -> int:
        """When the scheduler began whose declaration counts. A ValueError as above."""
        return self._time(b"declared_by")

    def _time(self, key: bytes) -> int:
        found = digits(text := self.fields.get(key, b""))
        if found is None or found > LAST_MS:
            raise ValueError(f"its field '{key.decode()}' is {text!r:.60}, not a time in ms")
        return found

    @property
    def is_declared(self) -> bool:
        """Whether code declares it; else it was put at run time."""
        return b"declared_by" in self.fields

    @property
    def is_paused(self) -> bool:
        """Whether it is paused."""
        return self.fields.get(b"paused") == b"1"

    def ms(self, key: bytes) -> int:
        """Return a time or a number in one of its fields; 0 if there is none."""
        return digits(self.fields.get(key, b"")) or 0


@dataclass(frozen=True, slots=True)
class SchedulePage:
    """Some of the schedules of a queue."""

    rows: Sequence[ScheduleRow]  # in the order of their last changes
    gone: Sequence[str]  # names that were removed, or have expired, since the change that the query names
    change: int  # the number of the last change of any schedule of this queue; numbers only grow
    more: int | None  # the number of the change after which there are more
    is_served: bool  # a scheduler of this queue is alive
    server_ms: float


@dataclass(frozen=True, slots=True)
class ListSchedules(Query[SchedulePage]):
    """Find the schedules of a queue, in bounded steps."""

    name: str = ""  # only this one; '' for all
    after: int | None = None  # only those changed after the change of this number


@dataclass(frozen=True, slots=True)
class Put:
    """A schedule to be put or declared."""

    name: str
    fingerprint: str
    definition: Definition | None = None  # None to say only that it is declared
    last_ms: int | None = None  # the last slot seen to of the one that this replaces
    since_ms: int | None = None  # since when its slots count, if it has another rule than before; None: from now

    @classmethod
    def whole(cls, definition: Definition, last_ms: int | None = None, since_ms: int | None = None) -> "Put":
        """Return what puts a whole definition."""
        return cls(definition.name, definition.fingerprint, definition, last_ms, since_ms)


@dataclass(frozen=True, slots=True)
class Declarer:
    """A scheduler that declares schedules."""

    scheduler: str  # its id
    release: str  # what all schedulers that declare the same have in common
    began_ms: int = 0  # when it began, by the server's clock; 0: now


@dataclass(frozen=True, slots=True)
class PutSchedules(Change["PutAnswer"]):
    """Put schedules on a queue, or declare them; with none, say that a scheduler is still there."""

    schedules: Sequence[Put]
    by: Declarer | None = None  # None: they are put at run time


@dataclass(frozen=True, slots=True)
class PutAnswer:
    """The answer to `PutSchedules`."""

    replies: Sequence[Reply]  # for each OK, NEWER, KEPT, DECLARED, NOT_FOUND, CHANGED or SPOILED
    change: int  # the number of the last change of any schedule of this queue
    present: int  # how many schedulers its release has; 0 if the store did not know this one
    server_ms: float


@dataclass(frozen=True, slots=True)
class WithdrawSchedules(Change[Reply]):
    """Withdraw the schedules of a scheduler that ends: OK or NOT_FOUND."""

    by: Declarer


@dataclass(frozen=True, slots=True)
class PauseSchedule(Change[Reply]):
    """Pause a schedule, or let it fire again from now on: OK or NOT_FOUND."""

    name: str
    pause: bool


@dataclass(frozen=True, slots=True)
class RemoveSchedule(Change[Reply]):
    """Remove a schedule: OK, DECLARED or NOT_FOUND."""

    name: str


@dataclass(frozen=True, slots=True)
class Firing:
    """The slots of one schedule that are to be fired now."""

    name: str
    fingerprint: str  # of the definition that the jobs were made from
    last_ms: int  # the last slot that was seen to, as far as is known
    slot_ms: int  # the last of the slots to fire
    missed: int  # how many of these have no job of their own
    jobs: Sequence[NewJob]


@dataclass(frozen=True, slots=True)
class Fired:
    """The answer to one firing."""

    reply: Reply  # OK, REPEATED, FIRED, EARLY, PAUSED or CHANGED
    pushed: Sequence[Pushed] = ()  # if OK, the answer to the push of each job
    last_ms: int = 0  # if FIRED, the last slot that was seen to


@dataclass(frozen=True, slots=True)
class FireAnswer:
    """The answer to some firings."""

    fired: Sequence[Fired]  # one for each, from the first; if there are fewer, ask for the others again
    server_ms: float


@dataclass(frozen=True, slots=True)
class Fire(Change[FireAnswer]):
    """Push the jobs that schedules ask for, each slot once; up to 500 jobs."""

    scheduler: str  # its id
    firings: Sequence[Firing]  # at most one for each schedule


@dataclass(frozen=True, slots=True)
class ScheduleInfo:
    """A schedule as an operator sees it.

    Attributes:
        name: Its name.
        rule: When it fires; None if what is stored can't be read.
        job_name: The name of the job that it pushes; '' if that can't be read.
        parameters: The parameters of that job, as JSON.
        accuracy: What to do about missed slots.
        last_slot: The last slot that it fired; None for none yet.
        next_slot: The next slot that it fires; None while it is paused or can't be read, or if code declared it
            and it has stopped. One that was put at run time fires it once a scheduler runs.
        missed: How many slots had no job of their own.
        paused: Whether it is paused.
        declared: Whether code declares it; else it was put at run time.
        stopped: Whether it fires nothing, as no live scheduler declares it; if it was put at run time, as no
            scheduler of the queue is alive.
        error: Why what is stored can't be read or fired; '' if all is well.
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

    def upcoming(self, number: int) -> Iterator[datetime]:
        """Yield the next slots, this number of them, if nothing is changed."""
        slot = self.next_slot
        for _ in range(number):
            if slot is None or self.rule is None:
                return
            yield slot
            slot = self.rule.next_after(slot)


def schedule_infos(pages: Iterable[SchedulePage]) -> list[ScheduleInfo]:
    """Return the schedules on these pages, by name; if one was changed and is on two, the later counts."""
    found = {row.name: schedule_info(row, is_served=page.is_served) for page in pages for row in page.rows}
    return [found[name] for name in sorted(found)]


def schedule_info(row: ScheduleRow, *, is_served: bool) -> ScheduleInfo:
    """Return a row of the store as an operator sees it, whatever is stored; `is_served` as in `SchedulePage`."""
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
