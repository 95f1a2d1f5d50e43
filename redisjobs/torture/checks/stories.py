"""What is written of each job, put together: whose push it was, where it ran, how it was settled. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from redisjobs.events.recording import Line

Key = tuple[int, str]
"""Which database, and what tells a job from all others there: its mark, or else its id."""


@dataclass(slots=True)
class Run:
    """One run of a job's handler.

    Attributes:
        start: When it began, and by which lease.
        end: How it ended; None if nobody got to write that down.
        settled: What the store said of its outcome; None if nobody learnt it.
    """

    start: Line
    end: Line | None = None
    settled: Line | None = None

    @property
    def at(self) -> float:
        """When it began."""
        return float(self.start["at"])

    @property
    def pid(self) -> int:
        """In which process."""
        return int(self.start["pid"])

    @property
    def lease(self) -> tuple[str, int, int]:
        """By which lease: worker, attempt, delivery."""
        return self.start["worker"], self.start["attempt"], self.start["deliveries"]

    @property
    def attempt(self) -> int:
        """Of which attempt."""
        return int(self.start["attempt"])

    @property
    def done(self) -> bool:
        """Whether it went to its end."""
        return self.end is not None and bool(self.end["result"] == "done")

    @property
    def accepted(self) -> bool:
        """Whether the store took its outcome as the end of the job."""
        return self.settled is not None and is_outcome(self.settled)

    @property
    def refused(self) -> bool:
        """Whether the store said that it was no longer this worker's."""
        return self.settled is not None and self.settled["reply"] == "LEASE_LOST"


@dataclass(slots=True)
class Story:
    """All that is written of one job.

    Attributes:
        db: In which database.
        job: Its id.
        mark: What tells it from others of its id; '' if it has the id to itself.
        name: Its job name; `by hand` for an entry that nobody pushed.
        attempted: Somebody tried to push it.
        acknowledged: He was told it is there.
        by_hand: It was put in as an entry.
        counted: The store counts it as pushed.
        fired: What schedulers were told when they fired its slot: each that it did.
        expected: What its producer knew of the id when he pushed: `new`, it was free; `there`, a job had it.
        added: What he was told of that: whether it is a new job; None if he was told nothing.
        holder: The job that had its unique key, so that it was not added.
        renewed: When it was replaced by a later push, or a little later: its deliveries are counted anew.
        kept: Its push asked for its result to be kept.
        pushed_by: Runs of its parent that pushed it; it is there only if that run ended its own job.
        answers: What those were told who waited for its result.
        watches: What those saw who watched it.
        sent_at: When its push was first sent, or a little before; None if nobody pushed it.
        ready_at: From when on it might be run; None if nobody was told that it is there.
        due_at: Before when it must not be run, as its push said; None if that said nothing of it.
        cancel_asked: Somebody asked for its end.
        cancelled: He was told that it is gone.
        cancelled_at: By when the store itself had made it go away; None if it did not say that.
        buried_at: By when the store itself had made it a dead letter; None likewise.
        runs: Its handler's.
        settled: What the store said of its outcomes, those that no handler came to included.
    """

    db: int = 0
    job: str = ""
    mark: str = ""
    name: str = ""
    attempted: bool = False
    acknowledged: bool = False
    by_hand: bool = False
    counted: bool = True
    fired: list[Line] = field(default_factory=list)
    expected: str = "new"
    added: bool | None = None
    holder: str = ""
    renewed: list[float] = field(default_factory=list)
    kept: bool = False
    pushed_by: list[Line] = field(default_factory=list)
    answers: list[Line] = field(default_factory=list)
    watches: list[Line] = field(default_factory=list)
    sent_at: float | None = None
    ready_at: float | None = None
    due_at: float | None = None
    cancel_asked: bool = False
    cancelled: bool = False
    cancelled_at: float | None = None
    buried_at: float | None = None
    runs: list[Run] = field(default_factory=list)
    settled: list[Line] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Which job this is, for people."""
        where = f"database {self.db}: " if self.db else ""
        return where + (f"{self.job!r} ({self.mark})" if self.mark else self.job)

    @property
    def done(self) -> list[Run]:
        """Runs that went to their end."""
        return [run for run in self.runs if run.done]

    @property
    def outcomes(self) -> list[Line]:
        """Settlements that were accepted and ended the job."""
        return [line for line in self.settled if is_outcome(line)]

    @property
    def completed(self) -> list[Line]:
        """Settlements that were accepted, and by which the job is done."""
        return [line for line in self.settled if was(line, "Ack") and not line["cancelled"]]

    @property
    def was_there(self) -> bool:
        """Whether it is known to have been on the queue, but for a dead letter."""
        return bool(self.acknowledged or self.runs or self.settled or self.cancelled)

    def was_retried(self, run: Run) -> bool:
        """Whether the store took the failure of a run; also where its reply was lost, and it refused another try.

        By worker and attempt: one that was stalled may have taken its own job over, and settle by that lease.
        """
        mine = [line for line in self.settled if (line["worker"], line["attempt"]) == run.lease[:2]]
        return any(
            line["settlement"] == "RetryLater"
            and (line["reply"] == "OK" or (line["reply"] == "LEASE_LOST" and line["resent"]))
            for line in mine
        )


def is_outcome(settled: Line) -> bool:
    """Whether a settlement was accepted and ended its job."""
    return settled["reply"] == "CANCELLED" or was(settled, "Ack", "DeadLetter")


def was(settled: Line, *settlements: str) -> bool:
    """Whether a settlement was accepted, and one of these."""
    return settled["reply"] == "OK" and settled["settlement"] in settlements


def tell(lines: Sequence[Line]) -> dict[Key, Story]:
    """Put the lines of each job together.

    Args:
        lines: What was written down, by time.
    """
    reader = _Reader(lines)
    for line in lines:
        if "job" in line:
            reader.read(line)
    return reader.stories


class _Reader:
    """Finds for each line the story it belongs to.

    A line with a mark says it. What the workers log of a settlement says only the id and the job name: where
    several jobs have these, it is about the run by such a lease that ended first and was not settled yet.
    """

    def __init__(self, lines: Iterable[Line]) -> None:
        self.stories: defaultdict[Key, Story] = defaultdict(Story)
        self._marks: defaultdict[Key, set[str]] = defaultdict(set)
        for line in lines:
            if "job" in line and line.get("mark"):
                self._marks[line["db"], line["job"]].add(line["mark"])
        self._open: defaultdict[tuple[Any, ...], list[tuple[Story, Run]]] = defaultdict(list)

    def read(self, line: Line) -> None:
        """Take one line in."""
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
                if what == "pushed" and line.get("replaced"):
                    self.stories[line["db"], line["holder"]].renewed.append(line["at"])
                if what == "start":
                    story = self._story(line)
                    self._open[_lease(line)].append((story, story.runs[-1]))

    def _is_shared(self, line: Line) -> bool:
        return bool(self._marks[line["db"], line["job"]])

    def _story(self, line: Line) -> Story:
        mark = line.get("mark", "")
        marks = self._marks[line["db"], line["job"]]
        if not mark and len(marks) == 1:  # an entry whose headers can't be read: its id is its own
            (mark,) = marks
        story = self.stories[line["db"], mark or line["job"]]
        story.db, story.job, story.mark = line["db"], story.job or line["job"], mark
        return story

    def _end(self, line: Line) -> None:
        for story, run in self._open[_lease(line)]:
            if run.end is None and line.get("mark", "") in ("", story.mark):
                run.end = line
                return

    def _settle(self, line: Line) -> None:
        begun = self._open[_lease(line)]
        if begun:
            name = line.get("name", "?")
            fit = [(name not in ("?", run.start["name"]), run.end is None) for _, run in begun]
            story, run = begun.pop(fit.index(min(fit)))
            run.settled = line
        elif self._is_shared(line):
            return  # it never began, and nobody knows which of those with its id it was
        else:
            story = self._story(line)
        story.settled.append(line)


def _lease(line: Line) -> tuple[Any, ...]:
    return line["db"], line["job"], line["worker"], line["attempt"], line["deliveries"]


def _note(story: Story, what: str, line: Line) -> None:
    match what:
        case "push":
            story.attempted, story.name = True, line["name"]
            story.expected, story.kept = line.get("expected", "new"), line.get("kept", False)
            story.sent_at = line["at"] if story.sent_at is None else story.sent_at
        case "pushed":
            story.acknowledged, story.holder, story.added = True, line["holder"], line.get("added")
            delay = line.get("delay", 0.0)
            story.ready_at = line["at"] + delay
            if delay and story.sent_at is not None:
                story.due_at = story.sent_at + delay
        case "follow-up":
            story.name, story.kept = line["name"], line["kept"]
            story.pushed_by.append(line)
        case "answered":
            story.answers.append(line)
        case "watched":
            story.watches.append(line)
        case "by hand":
            story.by_hand, story.name, story.counted = True, "by hand", line["pushed"]
            story.ready_at = line["at"]
        case "fired":
            story.name = line["name"]
            story.ready_at = line["at"] if not story.fired else story.ready_at
            story.fired.append(line)
        case "cancel":
            story.cancel_asked = True
        case "cancelled" if line["reply"] == "CANCELLED":
            _note_end(story, {**line, "cancelled": True})
        case "start":
            story.runs.append(Run(line))


def _note_end(story: Story, line: Line) -> None:
    """Note that the store ended a job by itself, nobody having it."""
    if line["cancelled"]:
        story.cancelled = True
        story.cancelled_at = line["at"] if story.cancelled_at is None else story.cancelled_at
    else:
        story.buried_at = line["at"] if story.buried_at is None else story.buried_at
