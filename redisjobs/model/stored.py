"""What the store knows of schedules: the values that cross the seam for them, and the words for an operator.

When a rule fires is in `schedule.py`; who fires it in `scheduler.py`.
"""

import hashlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache

from redisjobs.base.arguments import is_text, whole
from redisjobs.model.job import OnConflict, Priority
from redisjobs.model.options import ENTRY_OPTIONS
from redisjobs.model.queries import Change, Query
from redisjobs.model.transitions import MOST_JOBS, After, At, NewJob, Pushed, Reply
from redisjobs.schedules.schedule import Schedule

THERE_MS = 30_000
"""A scheduler that has said nothing for so long is gone, with what it declares; see `lua/put_schedule.lua`."""

_LAST_MS = 253_370_764_800_000
"""The begin of the year 9999: datetimes end there, and a slot has another one after it."""


class Accuracy(StrEnum):
    """What becomes of the slots that nobody fired in time, after an outage say."""

    LATEST = "latest"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Definition:
    """A schedule as somebody wrote it down.

    Attributes:
        name: One of the queue's has it.
        rule: When it fires.
        job: What it pushes: a job without an id, whose due time is how long after the slot it may run.
        accuracy: What becomes of slots that nobody fired in time.
        at_most: How many of them are made up for, where it is all.
        jitter_ms: Up to so long after its slot a job may run.
    """

    name: str
    rule: Schedule
    job: NewJob
    accuracy: Accuracy = Accuracy.LATEST
    at_most: int = 100
    jitter_ms: int = 0

    def __post_init__(self) -> None:
        if not is_text(self.name, r"[^\s\x00-\x1f]{1,200}"):
            raise ValueError(f"{self.name!r} can't name a schedule: give 1 to 200 characters, no spaces")
        if self.job.nonce or isinstance(self.job.due, At):
            raise ValueError(
                f"schedule '{self.name}': each slot has an id and a time of its own, so leave out job_id= and at="
            )
        if self.job.on_conflict is OnConflict.RAISE:
            raise ValueError(
                f"schedule '{self.name}': there is nobody to raise to where it fires, so leave out "
                'on_conflict="raise"; a slot whose unique key is held counts as fired'
            )
        if whole(self.at_most, "at_most") > MOST_JOBS:
            raise ValueError(f"at_most={self.at_most!r}: give at most {MOST_JOBS}")

    @property
    def fields(self) -> list[bytes]:
        """The schedule as it is stored: names and values, flat; times in ms. What is left out is not there."""
        job = self.job
        name, parameters, *options = job.fields[1::2]
        flat: dict[str | bytes, str | bytes | int | None] = {
            "rule": self.rule.text,
            "accuracy": self.accuracy.value,
            "at_most": self.at_most,
            "jitter_ms": self.jitter_ms or None,
            "job": name,
            "parameters": parameters,
            "priority": job.priority.value,
            "delay_ms": round(job.due.ms) if isinstance(job.due, After) else None,
            "unique": job.unique or None,
            "unique_for_ms": job.unique_for_ms,
            "on_conflict": None if job.on_conflict is OnConflict.SKIP else job.on_conflict.value,
            "expires_in_ms": job.expires_in_ms,
            **dict(zip(job.fields[4::2], options, strict=True)),  # those of ENTRY_OPTIONS
        }
        there = {key: value for key, value in flat.items() if value is not None}
        return [_raw(part) for pair in there.items() for part in pair]

    @property
    def fingerprint(self) -> str:
        """A text that differs from that of any other definition of this name."""
        digest = hashlib.sha256()
        for part in self.fields:
            digest.update(b"%d:%b" % (len(part), part))
        return digest.hexdigest()[:16]

    @classmethod
    def read(cls, name: str, fields: Mapping[bytes, bytes]) -> "Definition":
        """Return the definition that is stored.

        Raises:
            ValueError: It is not one, as it was changed outside redisjobs; the message says what is wrong.
        """
        stored = _Stored(fields)
        kept: list[str | bytes] = ["name", stored.text(b"job"), "parameters", stored.text(b"parameters").encode()]
        for option, (_, pattern) in ENTRY_OPTIONS.items():
            if (key := option.encode()) in fields:
                kept += [option, stored.text(key, pattern=pattern)]
        unique_for_ms = stored.number(b"unique_for_ms")
        if unique_for_ms == 0:
            raise ValueError("its field 'unique_for_ms' is 0: a key is held for 1 ms at least")
        delay_ms = stored.number(b"delay_ms")
        job = NewJob(
            "",
            kept,
            Priority(stored.text(b"priority", "normal")),
            After(delay_ms) if delay_ms else None,
            stored.text(b"unique", ""),
            unique_for_ms,
            stored.number(b"expires_in_ms"),
            on_conflict=OnConflict(stored.text(b"on_conflict", "skip")),
        )
        return cls(
            name,
            _rule(stored.text(b"rule")),
            job,
            Accuracy(stored.text(b"accuracy", "latest")),
            stored.number(b"at_most") or 100,
            stored.number(b"jitter_ms") or 0,
        )


class _Stored:
    """The fields of a stored schedule, which may have been changed outside redisjobs."""

    def __init__(self, fields: Mapping[bytes, bytes]) -> None:
        self._fields = fields

    def text(self, key: bytes, default: str | None = None, pattern: str = r"(?s:.*)") -> str:
        """Return a field as text.

        Raises:
            ValueError: It is not there, is no text, or does not match the pattern.
        """
        value = self._fields.get(key)
        if value is None and default is None:
            raise ValueError(f"it has no field '{key.decode()}'")
        try:
            text = value.decode() if value is not None else str(default)
        except UnicodeDecodeError:
            raise ValueError(f"its field '{key.decode()}' is no text in UTF-8") from None
        if not re.fullmatch(pattern, text):
            raise ValueError(f"its field '{key.decode()}' is {text!r:.60}, which does not match `{pattern}`")
        return text

    def number(self, key: bytes) -> int | None:
        """Return a field as a whole number; None if it is not there or empty.

        Raises:
            ValueError: It is something else.
        """
        value = self.text(key, "")
        if not value:
            return None
        if not (value.isascii() and value.isdigit()) or len(value) > 15:
            raise ValueError(f"its field '{key.decode()}' is {value!r:.60}, no whole number from 0 up")
        return int(value)


@lru_cache(maxsize=256)
def _rule(text: str) -> Schedule:
    """The rule of a text. Thousands of schedules often have a few rules, and one costs time and memory to make."""
    return Schedule.parse(text)


def check_schedule(rule: Schedule) -> Schedule:
    """A rule, if it is one.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(rule, Schedule):
        raise TypeError(f"{rule!r} is no schedule: give one, as Schedule.cron('0 4 * * *')")
    return rule


def _raw(part: str | bytes | int) -> bytes:
    return part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """One schedule as the store knows it, whatever somebody has put there by hand.

    Attributes:
        name: Its name.
        fields: As `Definition.fields`, and what became of it.
        is_there: Whether a living scheduler declares it.
    """

    name: str
    fields: Mapping[bytes, bytes]
    is_there: bool = False

    @property
    def fingerprint(self) -> str:
        """Of its definition.

        Raises:
            ValueError: It has none, by somebody's hand.
        """
        found = self.fields.get(b"fingerprint", b"")
        if not found.isalnum():
            raise ValueError(f"its field 'fingerprint' is {found!r:.60}, no fingerprint: put it again")
        return found.decode()

    @property
    def last_ms(self) -> int:
        """The slot that was seen to last, in ms: what comes after it is still to be fired.

        Raises:
            ValueError: It is no time, by somebody's hand.
        """
        return self._time(b"last_slot")

    @property
    def declared_ms(self) -> int:
        """When the scheduler began whose declaration counts, in ms.

        Raises:
            ValueError: What is there is no time.
        """
        return self._time(b"declared_by")

    def _time(self, key: bytes) -> int:
        found = self.fields.get(key, b"")
        if not found.isdigit() or len(found) > 15 or int(found) > _LAST_MS:
            raise ValueError(f"its field '{key.decode()}' is {found!r:.60}, no time in ms")
        return int(found)

    @property
    def is_declared(self) -> bool:
        """Whether a release declares it; else it was put at run time."""
        return b"declared_by" in self.fields

    @property
    def is_paused(self) -> bool:
        """Whether it is to fire nothing."""
        return self.fields.get(b"paused") == b"1"

    def ms(self, key: bytes) -> int:
        """A time or a number in one of its fields; 0 where there is none."""
        value = self.fields.get(key, b"")
        return int(value) if value.isdigit() and len(value) <= 15 else 0


@dataclass(frozen=True, slots=True)
class SchedulePage:
    """Some of the schedules of a queue.

    Attributes:
        rows: In the order of their last changes.
        gone: The names of those that were removed, or have expired, since the change after which was asked.
        change: The number of the last change of any schedule of this queue; each one is above all before it.
        more: The number of the change after which there are more; None for none.
        is_served: Whether a scheduler of this queue is alive.
        server_ms: The server's clock.
    """

    rows: Sequence[ScheduleRow]
    gone: Sequence[str]
    change: int
    more: int | None
    is_served: bool
    server_ms: float


@dataclass(frozen=True, slots=True)
class ListSchedules(Query[SchedulePage]):
    """The schedules of a queue, in bounded steps.

    Attributes:
        name: This one only; '' for all.
        after: Only those that were changed after the change of this number; None for all.
    """

    name: str = ""
    after: int | None = None


@dataclass(frozen=True, slots=True)
class Put:
    """A schedule to be put or declared.

    Attributes:
        name: Its name.
        fingerprint: Of its definition.
        definition: The definition; None to say no more than that it is declared.
        last_ms: The slot that was seen to last of the one that this replaces, as far as is known.
        since_ms: Since when its slots count, if it has another rule than before; None: from now.
    """

    name: str
    fingerprint: str
    definition: Definition | None = None
    last_ms: int | None = None
    since_ms: int | None = None

    @classmethod
    def whole(cls, definition: Definition, last_ms: int | None = None, since_ms: int | None = None) -> "Put":
        """Of a definition."""
        return cls(definition.name, definition.fingerprint, definition, last_ms, since_ms)


@dataclass(frozen=True, slots=True)
class Declarer:
    """A scheduler that declares schedules.

    Attributes:
        scheduler: Its id.
        release: What all schedulers have in common that declare the same.
        began_ms: When it began, by the server's clock; 0: now.
    """

    scheduler: str
    release: str
    began_ms: int = 0


@dataclass(frozen=True, slots=True)
class PutSchedules(Change["PutAnswer"]):
    """Put schedules on a queue, or declare them; with none, say that a scheduler is still there.

    Attributes:
        schedules: The schedules.
        by: The scheduler that declares them; None: they are put at run time.
    """

    schedules: Sequence[Put]
    by: Declarer | None = None


@dataclass(frozen=True, slots=True)
class PutAnswer:
    """What came of it.

    Attributes:
        replies: For each OK, NEWER, KEPT, DECLARED, NOT_FOUND, CHANGED or SPOILED.
        change: The number of the last change of any schedule of this queue.
        present: How many schedulers of its release are there, with this one; 0 if this one was not, until now.
        server_ms: The server's clock.
    """

    replies: Sequence[Reply]
    change: int
    present: int
    server_ms: float


@dataclass(frozen=True, slots=True)
class WithdrawSchedules(Change[Reply]):
    """Declare schedules no longer, as a scheduler ends: OK or NOT_FOUND."""

    by: Declarer


@dataclass(frozen=True, slots=True)
class PauseSchedule(Change[Reply]):
    """Let a schedule fire nothing, or let it fire again, from now on: OK or NOT_FOUND."""

    name: str
    pause: bool


@dataclass(frozen=True, slots=True)
class RemoveSchedule(Change[Reply]):
    """Forget a schedule: OK, DECLARED or NOT_FOUND."""

    name: str


@dataclass(frozen=True, slots=True)
class Firing:
    """The slots of one schedule that are to be fired now.

    Attributes:
        name: Of the schedule.
        fingerprint: Of its definition, by which the jobs were made.
        last_ms: The slot that was seen to last, as far as is known.
        slot_ms: The last of the slots.
        missed: How many of them have no job of their own.
        jobs: What to push.
    """

    name: str
    fingerprint: str
    last_ms: int
    slot_ms: int
    missed: int
    jobs: Sequence[NewJob]


@dataclass(frozen=True, slots=True)
class Fired:
    """What became of a firing.

    Attributes:
        reply: OK, REPEATED, FIRED, EARLY, PAUSED, CHANGED or NO_IDS.
        pushed: If OK, what became of each job.
        last_ms: If FIRED, the slot that was seen to last.
    """

    reply: Reply
    pushed: Sequence[Pushed] = ()
    last_ms: int = 0


@dataclass(frozen=True, slots=True)
class FireAnswer:
    """What became of some firings.

    Attributes:
        fired: Of each, from the first. If these are fewer than were asked for, ask for the others again.
        server_ms: The server's clock.
    """

    fired: Sequence[Fired]
    server_ms: float


@dataclass(frozen=True, slots=True)
class Fire(Change[FireAnswer]):
    """Push the jobs that schedules ask for, each slot once; up to 500 jobs.

    Attributes:
        scheduler: Who fires.
        firings: At most one of each schedule.
    """

    scheduler: str
    firings: Sequence[Firing]


@dataclass(frozen=True, slots=True)
class ScheduleInfo:
    """A schedule as an operator sees it.

    Attributes:
        name: Its name.
        rule: When it fires; None if what is stored can't be read.
        job_name: What it pushes; '' if that can't be read.
        parameters: The JSON text that it pushes.
        accuracy: What becomes of slots that nobody fired in time.
        last_slot: The slot that it fired last; None for none yet.
        next_slot: The slot that it fires next; None while it is paused or can't be read, or where code declared it
            and it has stopped. One that was put at run time fires it once a scheduler runs.
        missed: How many slots had no job of their own.
        paused: Whether it is to fire nothing.
        declared: Whether code declares it; else it was put at run time.
        stopped: Whether it fires nothing, as no scheduler is alive that declares it; of one that was put at run
            time, as no scheduler of the queue is alive at all.
        error: Why what is stored can't be read, or fired; '' if all is well.
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
        """The next so many slots, if nothing is changed."""
        slot = self.next_slot
        for _ in range(number):
            if slot is None or self.rule is None:
                return
            yield slot
            slot = self.rule.next_after(slot)


def schedule_pages(read: Callable[[ListSchedules], SchedulePage]) -> Iterator[SchedulePage]:
    """All schedules of a queue, in bounded steps."""
    page = read(ListSchedules())
    yield page
    while page.more is not None:
        page = read(ListSchedules(after=page.more))
        yield page


def schedule_infos(pages: Iterable[SchedulePage]) -> list[ScheduleInfo]:
    """The schedules on these pages, by name; of one that is on two, as it was changed, the later counts."""
    found = {row.name: schedule_info(row, is_served=page.is_served) for page in pages for row in page.rows}
    return [found[name] for name in sorted(found)]


def schedule_info(row: ScheduleRow, *, is_served: bool) -> ScheduleInfo:
    """A row of the store in an operator's words; never fails, whatever is there.

    Args:
        row: The row.
        is_served: Whether a scheduler of the queue is alive.
    """
    definition, next_slot, error = None, None, ""
    try:
        definition = Definition.read(row.name, row.fields)
        next_slot = definition.rule.next_after(moment(row.last_ms))
        _ = row.fingerprint
    except ValueError as wrong:
        error = str(wrong)
    stopped = not (row.is_there if row.is_declared else is_served)
    fires = not (error or row.is_paused or (row.is_declared and stopped))
    fired_ms = min(row.ms(b"fired_slot"), _LAST_MS)
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


def slot_id(name: str, slot_ms: int) -> str:
    """The id of the job that a schedule pushes for a slot: `nightly@2026-11-26T04:00:00Z`."""
    spec = "milliseconds" if slot_ms % 1000 else "seconds"
    return f"{name}@{moment(slot_ms).replace(tzinfo=None).isoformat(timespec=spec)}Z"


def slot_job(definition: Definition, slot_ms: int) -> NewJob:
    """The job that a schedule pushes for a slot; the same whoever makes it."""
    job_id, due = slot_id(definition.name, slot_ms), definition.job.due
    wait_ms = due.ms if isinstance(due, After) else 0.0
    # The same share of the jitter for each scheduler that tries, so that one more try changes nothing.
    wait_ms += definition.jitter_ms * zlib.crc32(job_id.encode()) / 2**32
    return replace(job_now(definition, job_id, slot_ms), due=After(round(wait_ms, 3)) if wait_ms else None)


def job_now(definition: Definition, job_id: str, now_ms: int) -> NewJob:
    """The job that a schedule pushes if it is asked to now, under that id."""
    next_ms = ms_of(definition.rule.next_after(moment(now_ms)))
    added = ["scheduled_for", str(now_ms), "next_scheduled_at", str(next_ms)]
    return replace(definition.job, job_id=job_id, fields=[*definition.job.fields, *added], due=None)


def ms_of(time: datetime) -> int:
    """A datetime as a time of the wire."""
    return round(time.timestamp() * 1000)


def moment(ms: float) -> datetime:
    """A time of the wire as a datetime, in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC)
