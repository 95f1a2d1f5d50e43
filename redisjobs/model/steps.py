"""The steps of a job: what its runs have saved, and what it waits for while it is suspended.

A step has a key: its name, and from its second occurrence in a run on also `#` and the number, as in `page#2`. The
first result that is saved under a key stays. A wait is a step too; how it ended is saved by the store.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from redisjobs.base.arguments import is_text
from redisjobs.model.changes import Change
from redisjobs.model.queries import Query
from redisjobs.model.transitions import Reply, Wait, WaitsFor

MOST_STEPS = 1_000
"""The most steps of a job, waits included."""

MOST_STEP_BYTES = 1024 * 1024
"""The most bytes of all keys and results of a job's steps, and of its checkpoint."""

MOST_SIGNALS = 100
"""The most signals that a job keeps until it waits for them."""

_NAME = r"[^\s#\x00-\x1f]{1,200}"


class How(StrEnum):
    """How a step ended."""

    DONE = "done"
    """Its function returned."""
    SLEPT = "slept"
    """The time that it waited for has come."""
    SIGNAL = "signal"
    """Its signal came."""
    TIMEOUT = "timeout"
    """Its signal did not come in time."""
    CHILDREN = "children"
    """Its children have ended."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A step that has ended."""

    number: int  # greater than that of each step that was saved before it; a wait has it from its begin
    at_ms: int  # when it ended
    how: How
    value: bytes = b""  # JSON: of a function's result, or of the signal; the token of a group; else empty

    def __str__(self) -> str:
        return f"{self.number} {self.at_ms} {self.how}"


@dataclass(frozen=True, slots=True)
class Steps:
    """What a job has saved."""

    saved: Mapping[str, Saved] = field(default_factory=dict)  # by key
    checkpoint: bytes | None = None  # JSON; None: it has saved none
    version: int | None = None  # of the handler that saved its first step; None: nothing is saved
    groups: Mapping[str, str] = field(default_factory=dict)  # the tokens of its groups of children, by key of step


@dataclass(frozen=True, slots=True)
class GetSteps(Query[Sequence[Steps | None]]):
    """Read what jobs have saved. None: not read, because the answer would be too large; ask again."""

    job_ids: Sequence[str]  # up to 500; the first one is always read


@dataclass(frozen=True, slots=True)
class Signal(Change[Reply]):
    """Send a signal to a job.

    OK: the job waited for it, and is ready; or an earlier try of this signal was taken. KEPT: it is kept until the
    job waits for it. EXISTS: one of this name is kept already, and stays as it is. DEAD. NOT_FOUND: the job has
    ended, or was never there. OVERSIZED: the job keeps as many signals, or bytes of them, as it may. After the
    last four nothing was written.
    """

    job_id: str
    name: str
    value: bytes  # JSON
    nonce: str  # tells it from other signals, so that a repetition within a minute is not taken twice


@dataclass(frozen=True, slots=True)
class StepInfo:
    """A step that a job has saved, as an operator sees it. A wait is a step too, once it is over.

    Attributes:
        key: Its name; from the second step of this name on also `#` and the number, as in `page#2`.
        number: Greater than that of each step that began before it.
        how: How it ended: `done`, its function returned; `slept`, its time came; `signal`, its signal came;
            `timeout`, its signal did not come in time; `children`, all its children have ended.
        value: What its function returned, or the value of its signal, as JSON text; '' for the others.
        at: When it ended.
    """

    key: str
    number: int
    how: How
    value: str
    at: datetime

    @property
    def says(self) -> str:
        """How it ended, for people."""
        return _SAYS[self.how]


_SAYS = {
    How.DONE: "saved",
    How.SLEPT: "slept",
    How.SIGNAL: "signal came",
    How.TIMEOUT: "signal did not come in time",
    How.CHILDREN: "children have ended",
}


def checked_step(name: object, what: str = "step") -> str:
    """Return the name of a step or a signal; raise a ValueError if it can't be one."""
    if not is_text(name, _NAME):
        raise ValueError(f"{name!r:.60} can't name a {what}: give 1 to 200 characters, no spaces and no '#'")
    return name


def checked_key(key: object, what: str) -> str:
    """Return the key of a step that argument `what` names; raise a ValueError if it can't be one."""
    if not is_text(key, r"\S{1,220}"):
        raise ValueError(
            f"{what}={key!r:.60}: give the key of a step, as `queue.control.steps(job)` lists them, or None"
        )
    return key


def key_of(name: str, occurrence: int) -> str:
    """Return the key of a step; occurrences count from 1."""
    return name if occurrence == 1 else f"{name}#{occurrence}"


def name_of(key: str) -> str:
    """Return the name of a step."""
    return key.partition("#")[0]


_SAVED = re.compile(rb"(\d{1,15}) (\d{1,15}) (\w+)(?: (.*))?", re.DOTALL)


def read_saved(text: bytes) -> Saved | None:
    """Return a step from its stored form, `number at_ms how value`; None if it can't be read."""
    found = _SAVED.fullmatch(text)
    if found is None:
        return None
    number, at_ms, how, value = found.groups()
    try:
        return Saved(int(number), int(at_ms), How(how.decode()), value or b"")
    except ValueError:
        return None


_WAIT = re.compile(rb"(\d{1,15}) (\w+) (\S+)(?: \d+)?")


def read_wait(text: bytes) -> Wait | None:
    """Return the step that a suspended job waits in, from its entry's field `waits`; None if it can't be read."""
    found = _WAIT.fullmatch(text)
    if found is None:
        return None
    number, what, key = (part.decode("utf-8", "surrogateescape") for part in found.groups())
    return Wait(int(number), WaitsFor(what), key) if what in [*WaitsFor] else None


def waits_for(what: str, key: str) -> str:
    """Return what a step waits for, for people: `the time`, `signal` and its name, `children of` and its key."""
    if what == WaitsFor.CHILDREN:
        return f"children of {key}"
    return "the time" if what == WaitsFor.TIME else f"{what} {name_of(key)}"
