"""Acts on all jobs that match a filter: counted first, then carried out in steps by a thread of this process."""

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from redisjobs.client.operation import Operation, ask
from redisjobs.client.registry import Registry
from redisjobs.control import operations
from redisjobs.control.filters import FilterOptions, filter_of
from redisjobs.model.changes import CHANGED, BulkResult, ChangeMany
from redisjobs.model.job import CANCELLABLE, WAITING, State
from redisjobs.model.queries import Count, Scan
from redisjobs.web.board.access import Verb
from redisjobs.web.board.background import carry_out, in_thread, paced
from redisjobs.web.board.filters import Filters

_MOST_KEPT = 20
_MOST_ACTIVE = 4


class BulkPhase(StrEnum):
    """How far an act is."""

    COUNTING = "counting"
    COUNTED = "counted"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class BulkKind:
    """A kind of act on many jobs.

    Attributes:
        verb: What a viewer must be allowed.
        label: The button: `Retry`.
        past: What happened to the jobs: `retried`.
        states: The states whose jobs it changes.
        steps: Returns the operation that changes the jobs of a state.
    """

    verb: Verb
    label: str
    past: str
    states: tuple[State, ...]
    steps: Callable[[State, FilterOptions, str | None], Operation[int]]


KINDS = {
    "retry": BulkKind(
        Verb.RETRY,
        "Retry",
        "retried",
        (State.DEAD,),
        lambda _, options, rate: operations.requeue_all(options, rate),
    ),
    "delete": BulkKind(
        Verb.DELETE, "Delete", "deleted", (State.DEAD,), lambda _, options, rate: operations.delete_all(options)
    ),
    "cancel": BulkKind(
        Verb.CANCEL,
        "Cancel",
        "cancelled",
        CANCELLABLE,
        lambda state, options, rate: operations.cancel_all(state, options),
    ),
    "hold": BulkKind(
        Verb.HOLD,
        "Hold",
        "held",
        WAITING,
        lambda state, options, rate: operations.hold_all(state, options),
    ),
    "unhold": BulkKind(
        Verb.HOLD,
        "Unhold",
        "let start",
        WAITING,
        lambda state, options, rate: operations.unhold_all(state, options),
    ),
}
"""The kinds of acts, by the word in a form."""


@dataclass(slots=True)
class Bulk:
    """One act on many jobs.

    Attributes:
        id: Its id in links.
        word: The word of its kind.
        filters: Which jobs.
        phase: How far it is.
        counted: How many jobs match, as far as they are counted.
        counted_at: When the count ended.
        done: How many jobs were changed.
        stayed: How many were not, because other jobs hold their unique keys.
        error: Why it failed.
    """

    registry: Registry
    word: str
    filters: Filters
    id: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    phase: BulkPhase = BulkPhase.COUNTING
    counted: int = 0
    counted_at: datetime | None = None
    done: int = 0
    stayed: int = 0
    error: str = ""
    rate: str | None = None
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def kind(self) -> BulkKind:
        """The kind of the act."""
        return KINDS[self.word]

    @property
    def is_active(self) -> bool:
        """Whether its thread works."""
        return self.phase in (BulkPhase.COUNTING, BulkPhase.RUNNING)

    def count(self) -> None:
        """Begin to count the jobs that match."""
        self._begin(BulkPhase.COUNTING, BulkPhase.COUNTED, self._count())

    def start(self, rate: str | None) -> None:
        """Begin to change the jobs."""
        self.rate = rate
        steps = self.kind.steps(self.filters.state, self.filters.options, rate)
        self._begin(BulkPhase.RUNNING, BulkPhase.DONE, steps)

    def stop(self) -> None:
        """Stop after the present step. What is done stays done."""
        self._stop.set()

    # In the thread

    def _begin(self, phase: BulkPhase, end: BulkPhase, steps: Operation[Any]) -> None:
        self.phase, self.error = phase, ""
        self._stop.clear()
        in_thread(lambda: self._run(end, steps), self.word)

    def _run(self, end: BulkPhase, steps: Operation[Any]) -> None:
        what = f"{self.word} of jobs that are {self.filters.in_words}"
        self.error = carry_out(self.registry, paced(steps, self._stop, self._seen), what)
        self.counted_at = datetime.now(UTC) if end is BulkPhase.COUNTED else self.counted_at
        self.phase = BulkPhase.FAILED if self.error else BulkPhase.STOPPED if self._stop.is_set() else end

    def _seen(self, request: Any, answer: Any) -> None:
        match answer:
            case BulkResult():
                self.done, self.stayed = self.done + len(answer.job_ids), self.stayed + answer.duplicates
            case list() if isinstance(request, ChangeMany):
                self.done += sum(reply in CHANGED for reply in answer)

    def _count(self) -> Operation[None]:
        state, chosen = self.filters.state, self.filters.chosen
        if not chosen:
            counts = yield from ask(Count())
            self.counted = counts.of(state)
            return
        if chosen.keys() == {"fingerprint"}:
            groups = yield from operations.dead_groups()
            self.counted = sum(group.count for group in groups if group.fingerprint == chosen["fingerprint"])
        if self.counted == 0:  # letters of an older release are in no group
            after: str | None = None
            while after != "":
                step = yield from ask(Scan(state, filter_of(self.filters.options), after or ""))
                self.counted, after = self.counted + len(step.rows), step.after


class Bulks:
    """The acts on many jobs of one queue, in this process. Old ones are forgotten."""

    def __init__(self) -> None:
        self._bulks: dict[str, Bulk] = {}
        self._lock = threading.Lock()

    def add(self, bulk: Bulk) -> bool:
        """Add an act, and begin to count; return False if too many are active."""
        with self._lock:
            if sum(each.is_active for each in self._bulks.values()) >= _MOST_ACTIVE:
                return False
            self._bulks[bulk.id] = bulk
            ended = [each for each in self._bulks.values() if not each.is_active and each is not bulk]
            for old in ended[: max(0, len(self._bulks) - _MOST_KEPT)]:
                del self._bulks[old.id]
        bulk.count()
        return True

    def start(self, bulk: Bulk, rate: str | None) -> bool:
        """Start an act once; return False if it is not counted, or was started before."""
        with self._lock:
            if bulk.phase is not BulkPhase.COUNTED:
                return False
            bulk.phase = BulkPhase.RUNNING
        bulk.start(rate)
        return True

    def get(self, bulk_id: str) -> Bulk | None:
        """Return an act by its id."""
        return self._bulks.get(bulk_id)

    def active(self) -> list[Bulk]:
        """Return the acts that were started and go on."""
        return [bulk for bulk in list(self._bulks.values()) if bulk.phase is BulkPhase.RUNNING]
