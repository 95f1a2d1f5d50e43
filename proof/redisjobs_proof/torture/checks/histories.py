"""Collects the recorded lines of each job: its push, its runs, its settlements. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from redisjobs.events.recording import Line

Key = tuple[int, str]
"""The database of a job, and its mark there; or its id, if it has no mark."""

_OF_FLOWS = ("ran step", "saved", "waits", "passed", "signal", "signalled", "left suspended")


@dataclass(slots=True)
class Run:
    """One run of a job's handler.

    Attributes:
        start: The line of its start, with its lease.
        end: The line of its end; None if its process died before.
        settled: The reply to its outcome; None if no worker received one.
        wait: The wait that it has begun, and that is not over.
    """

    start: Line
    end: Line | None = None
    settled: Line | None = None
    wait: Line | None = None

    @property
    def at(self) -> float:
        """When it started."""
        return float(self.start["at"])

    @property
    def pid(self) -> int:
        """The process it ran in."""
        return int(self.start["pid"])

    @property
    def lease(self) -> tuple[str, int, int]:
        """Its worker, attempt and delivery."""
        return self.start["worker"], self.start["attempt"], self.start["deliveries"]

    @property
    def attempt(self) -> int:
        """The number of its attempt."""
        return int(self.start["attempt"])

    @property
    def done(self) -> bool:
        """Whether the handler returned."""
        return self.end is not None and bool(self.end["result"] == "done")

    @property
    def suspended(self) -> bool:
        """Whether a wait ended the handler."""
        return self.end is not None and bool(self.end["result"] == "suspended")

    @property
    def was_suspended(self) -> bool:
        """Whether the store has said that it suspended the job."""
        return self.suspended and self.settled is not None and was(self.settled, "Suspend")

    @property
    def accepted(self) -> bool:
        """Whether Redis took its outcome as the end of the job."""
        return self.settled is not None and is_outcome(self.settled)

    def __str__(self) -> str:
        end = self.end["result"] if self.end is not None else "no end"
        settled = self.settled
        reply = f"{settled['settlement']} {settled['reply']}" if settled is not None else "not settled"
        return f"{self.lease[0]} (delivery {self.lease[2]}, {end}, {reply})"

    @property
    def refused(self) -> bool:
        """Whether Redis replied that the worker lost the lease."""
        return self.settled is not None and self.settled["reply"] == "LEASE_LOST"


@dataclass(slots=True)
class History:
    """Everything that is recorded of one job.

    Attributes:
        mark: Tells it from other jobs with its id; '' if there are none.
        name: Its job name; `external` for an entry written outside redisjobs.
        attempted: A producer tried to push it.
        acknowledged: The push was answered.
        counted: Redis counts it as pushed.
        fired: The answers to schedulers that fired its slot.
        expected: What its producer knew of the id: `new`, no job had it; `there`, a job had it.
        added: Whether the answer to the push says that the job is new; None without an answer.
        holder: The job that held its unique key, so that it was not added.
        renewed: When a later push replaced it, or a little later: then its deliveries count from zero again.
        kept: Its push asked to keep its result.
        rank: The rank of its priority: 0 is the most urgent.
        pushed_by: Runs of its parent that pushed it; it exists only if such a run ended its own job.
        answers: The answers to waits for its result.
        watches: The recorded watches of its progress.
        sent_at: When its push was first sent, or a little before; None if it was not pushed.
        ready_at: From when on it may run; None if no answer says that it is on the queue.
        due_at: It must not run before this; None if its push sets no such time.
        cancelled: The answer to a cancel says that it is gone.
        cancelled_at: By when Redis had removed it while no worker held it; None if no answer says so.
        dead_at: By when Redis had made it a dead letter while no worker held it; None if no answer says so.
        settled: The replies to its outcomes, also without a recorded run.
        flow: What its runs did in their steps and waits, and the signals that it was sent.
        parent: The id of the job whose child it is; '' if it is none.
        number: Its number among the children of that job.
        size: The bytes of its entry, if it was written outside redisjobs; 0 if unknown.
    """

    db: int = 0
    job: str = ""
    mark: str = ""
    name: str = ""
    attempted: bool = False
    acknowledged: bool = False
    external: bool = False
    counted: bool = True
    fired: list[Line] = field(default_factory=list)
    expected: str = "new"
    added: bool | None = None
    holder: str = ""
    renewed: list[float] = field(default_factory=list)
    kept: bool = False
    rank: int = 1
    pushed_by: list[Line] = field(default_factory=list)
    answers: list[Line] = field(default_factory=list)
    watches: list[Line] = field(default_factory=list)
    sent_at: float | None = None
    ready_at: float | None = None
    due_at: float | None = None
    cancel_asked: bool = False
    cancelled: bool = False
    cancelled_at: float | None = None
    dead_at: float | None = None
    runs: list[Run] = field(default_factory=list)
    settled: list[Line] = field(default_factory=list)
    flow: list[Line] = field(default_factory=list)
    parent: str = ""
    number: int = 0
    size: int = 0

    @property
    def label(self) -> str:
        """The name of the job in reports."""
        where = f"database {self.db}: " if self.db else ""
        return where + (f"{self.job!r} ({self.mark})" if self.mark else self.job)

    @property
    def done(self) -> list[Run]:
        """Runs whose handler returned."""
        return [run for run in self.runs if run.done]

    @property
    def outcomes(self) -> list[Line]:
        """The accepted settlements that ended the job."""
        return [line for line in self.settled if is_outcome(line)]

    @property
    def completed(self) -> list[Line]:
        """The accepted settlements that ended the job as done."""
        return [line for line in self.settled if was(line, "Ack") and not line["cancelled"]]

    @property
    def recounted(self) -> list[float]:
        """When its deliveries may have begun to count from zero again, unless a reply tells."""
        unheard = [run.end["at"] for run in self.runs if run.end and run.suspended and _is_unheard(run)]
        return [*self.renewed, *unheard]

    def noted(self, what: str) -> list[Line]:
        """Return what its runs noted of this kind."""
        return [line for line in self.flow if line["what"] == what]

    @property
    def was_there(self) -> bool:
        """Whether it was surely on the queue, without regard to dead letters."""
        return bool(self.acknowledged or self.runs or self.settled or self.cancelled)

    def was_retried(self, run: Run) -> bool:
        """Whether Redis accepted the failure of a run, even if the first reply was lost.

        Deliveries are not compared: a worker that stalled may take its own job over, and settle by the new lease.
        """
        mine = [line for line in self.settled if (line["worker"], line["attempt"]) == run.lease[:2]]
        return any(
            line["settlement"] == "RetryLater"
            and (line["reply"] == "OK" or (line["reply"] == "LEASE_LOST" and line["resent"]))
            for line in mine
        )


def _is_unheard(run: Run) -> bool:
    """Whether no reply tells whether a run has suspended its job."""
    return run.settled is None or bool(run.settled["resent"] and not run.was_suspended)


def is_outcome(settled: Line) -> bool:
    """Whether a settlement was accepted and ended its job."""
    return settled["reply"] == "CANCELLED" or was(settled, "Ack", "DeadLetter")


def was(settled: Line, *settlements: str) -> bool:
    """Whether a settlement is of one of these kinds, and was accepted."""
    return settled["reply"] == "OK" and settled["settlement"] in settlements


def histories_of(lines: Sequence[Line]) -> dict[Key, History]:
    """Return the history of each job, from lines in order of time."""
    reader = _Reader(lines)
    for line in lines:
        if "job" in line:
            reader.read(line)
    return reader.histories


class _Reader:
    """Finds the job that each line is about.

    A line with a mark names its job. The event of a settlement has only the id and the job name. If several jobs
    have both, the event is about a run with its lease; see `_settled`.
    """

    def __init__(self, lines: Iterable[Line]) -> None:
        self.histories: defaultdict[Key, History] = defaultdict(History)
        self._marks: defaultdict[Key, set[str]] = defaultdict(set)
        for line in lines:
            if "job" in line and line.get("mark"):
                self._marks[line["db"], line["job"]].add(line["mark"])
        self._open: defaultdict[tuple[Any, ...], list[tuple[History, Run]]] = defaultdict(list)

    def read(self, line: Line) -> None:
        match line["what"]:
            case "settled":
                self._settle(line)
            case "end":
                self._end(line)
            case "ended":
                if not self._is_shared(line):
                    _note_end(self._story(line), line)
            case what:
                _note(self._story(line), what, line)
                if what in ("waits", "passed") and (begun := self._open[_lease(line)]):
                    begun[-1][1].wait = line if what == "waits" else None
                if what == "pushed" and line.get("replaced"):
                    self.histories[line["db"], line["holder"]].renewed.append(line["at"])
                if what == "start":
                    history = self._story(line)
                    self._open[_lease(line)].append((history, history.runs[-1]))

    def _is_shared(self, line: Line) -> bool:
        return bool(self._marks[line["db"], line["job"]])

    def _story(self, line: Line) -> History:
        mark = line.get("mark", "")
        marks = self._marks[line["db"], line["job"]]
        if not mark and len(marks) == 1:  # no headers could be read, and only one job has the id
            (mark,) = marks
        history = self.histories[line["db"], mark or line["job"]]
        history.db, history.job, history.mark = line["db"], history.job or line["job"], mark
        return history

    def _end(self, line: Line) -> None:
        for history, run in self._open[_lease(line)]:
            if run.end is None and line.get("mark", "") in ("", history.mark):
                run.end = line
                return

    def _settle(self, line: Line) -> None:
        begun = self._open[_lease(line)]
        if begun:
            history, run = begun.pop(_settled(begun, line))
            run.settled = line
        elif self._is_shared(line):
            return  # the job never started: any job with this id may be meant
        else:
            history = self._story(line)
        history.settled.append(line)


def _settled(begun: Sequence[tuple[History, Run]], line: Line) -> int:
    """Return the place of the run that was settled.

    It is the last one that had ended when that was sent: an earlier one may have lost its lease unheard, and the
    worker may have got the same lease again. If none had ended, it is the first one.
    """
    name, sent_at = line.get("name", "?"), line.get("sent_at") or float("inf")
    named = [n for n, (_, run) in enumerate(begun) if name in ("?", run.start["name"])] or [*range(len(begun))]
    ended = [n for n in named if (end := begun[n][1].end) is not None and end["at"] <= sent_at]
    return ended[-1] if ended else named[0]


def _lease(line: Line) -> tuple[Any, ...]:
    return line["db"], line["job"], line["worker"], line["attempt"], line["deliveries"]


def _note(history: History, what: str, line: Line) -> None:
    match what:
        case "push":
            history.attempted, history.name = True, line["name"]
            history.expected, history.kept = line.get("expected", "new"), line.get("kept", False)
            history.sent_at = line["at"] if history.sent_at is None else history.sent_at
            history.rank = line.get("rank", 1)
        case "pushed":
            history.acknowledged, history.holder, history.added = True, line["holder"], line.get("added")
            delay = line.get("delay", 0.0)
            history.ready_at = line["at"] + delay
            if delay and history.sent_at is not None:
                history.due_at = history.sent_at + delay
        case "follow-up":
            history.name, history.kept = line["name"], line["kept"]
            history.pushed_by.append(line)
        case "answered":
            history.answers.append(line)
        case "watched":
            history.watches.append(line)
        case "external":
            history.external, history.name, history.counted = True, "external", line["pushed"]
            history.ready_at, history.size = line["at"], line.get("size", 0)
        case "fired":
            history.name = line["name"]
            history.ready_at = line["at"] if not history.fired else history.ready_at
            history.fired.append(line)
        case "cancel":
            history.cancel_asked = True
        case "cancelled" if line["reply"] == "CANCELLED":
            _note_end(history, {**line, "cancelled": True})
        case "start":
            history.runs.append(Run(line))
            history.parent, history.number = line.get("parent", ""), line.get("number", 0)
            if history.parent:  # no producer has recorded its name
                history.name = line["name"]
        case what if what in _OF_FLOWS:
            history.flow.append(line)


def _note_end(history: History, line: Line) -> None:
    """Note that Redis ended a job while no worker held it."""
    if line["cancelled"]:
        history.cancelled = True
        history.cancelled_at = line["at"] if history.cancelled_at is None else history.cancelled_at
    else:
        history.dead_at = line["at"] if history.dead_at is None else history.dead_at
