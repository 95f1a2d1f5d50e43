"""Pushes that wait for one that is under way, and then go together; each caller gets its own answer."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from redisjobs.errors import DriverError, QueueFull, ServerTooOld, Unavailable
from redisjobs.model.driver import OtherVersion, PushedInPart
from redisjobs.model.times import LONGEST_TRY
from redisjobs.model.transitions import MOST_JOBS, NewJob, Pushed, found_again, weight_of

WORTH = 32
"""Callers waiting that are worth a second round trip at once."""

T = TypeVar("T")

_OF_ALL = (Unavailable, QueueFull, ServerTooOld, OtherVersion)  # errors that none of a batch is at fault for
_BYTES = 1 << 20  # of one round trip, at most; but for a single push
_PATIENCE = LONGEST_TRY / 2  # seconds after which a push is not sent any more: it would be answered too late


class Answer(Protocol):
    """What a caller waits for, such as a future."""

    def done(self) -> bool:
        """Whether it is there, or the caller has left."""

    def set_result(self, result: list[Pushed], /) -> None:
        """Give it."""

    def set_exception(self, error: Exception, /) -> None:
        """Give an error instead."""


class PendingPush:
    """One caller's.

    Args:
        jobs: What is pushed.
        repeated: Whether it may have been pushed before.
        answer: What the caller waits for.

    Attributes:
        by_itself: Whether it must not go with others again.
        is_first: Whether what it then finds of its own was added by its first try here.
        told: What became of each of its jobs, None where that is open, if a call failed that had answered some.
    """

    __slots__ = ("answer", "by_itself", "is_first", "jobs", "repeated", "since", "told")

    def __init__(self, jobs: Sequence[NewJob], repeated: bool, answer: Answer) -> None:
        self.jobs = jobs
        self.repeated = repeated
        self.answer = answer
        self.by_itself = self.is_first = False
        self.told: Sequence[Pushed | None] = ()
        self.since = time.monotonic()

    def goes_with(self, other: "PendingPush") -> bool:
        """Whether the two may share a round trip: of a repetition more is asked, and more remembered."""
        return self.repeated == other.repeated and not (self.by_itself or other.by_itself)

    @property
    def size(self) -> int:
        """Bytes, about; see `weight_of`."""
        return sum(map(weight_of, self.jobs))

    def succeed(self, answers: list[Pushed]) -> None:
        """Answer the caller, if it is still there."""
        if not self.answer.done():
            self.answer.set_result(found_again(answers) if self.is_first else answers)

    def take_in(self, answers: Sequence[Pushed | None]) -> bool:
        """Take in what a call has answered that failed then; whether that is all."""
        self.told = [new or old for new, old in zip(answers, self.told or answers, strict=True)]
        if None in self.told:
            return False
        self.succeed([each for each in self.told if each])
        return True

    def fail(self, error: Exception) -> None:
        """Fail with an error of its own: each caller's gets a traceback and a cause of its own."""
        if not self.answer.done():
            own = type(error)(*error.args) if isinstance(error, DriverError) else error
            if any(self.told) and isinstance(own, DriverError) and not isinstance(own, Unavailable):
                own = PushedInPart(own, self.told)
            self.answer.set_exception(own)


Batch = Sequence[PendingPush]
"""Some that go together, the one that has waited longest first."""


class PendingPushes:
    """The pushes that wait, the one that has waited longest first. Its length is how many callers that are."""

    def __init__(self) -> None:
        self._waiting: deque[PendingPush] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, push: PendingPush) -> None:
        """Let one wait."""
        self._waiting.append(push)

    def drop_left(self) -> None:
        """Forget those at the front whose callers have left."""
        while self._waiting and self._waiting[0].answer.done():
            self._waiting.popleft()

    def give_up(self, error: Exception) -> None:
        """Let all fail: before a store that is unavailable it would be one after the other."""
        while self._waiting:
            self._waiting.popleft().fail(error)

    def take(self) -> list[PendingPush]:
        """Take those out that go together next; none where nobody waits."""
        batch: list[PendingPush] = []
        jobs = size = 0
        # Half of a crowd: the other half is on its way while the answers to the first are taken in.
        most = max(WORTH, len(self._waiting) // 2)
        while (
            self._waiting
            and size < _BYTES
            and len(batch) < most
            and jobs + len(self._waiting[0].jobs) <= MOST_JOBS
        ):
            if batch and not batch[0].goes_with(self._waiting[0]):
                break
            push = self._waiting.popleft()
            if time.monotonic() - push.since > _PATIENCE:
                push.fail(Unavailable("it answers too slowly for all that is pushed"))
            elif not push.answer.done():
                batch.append(push)
                jobs, size = jobs + len(push.jobs), size + push.size
        return batch

    def failed(self, batch: Batch, error: Exception) -> None:
        """Take in that a batch failed: all of it, or one of it, and the others have nothing to do with that."""
        if isinstance(error, PushedInPart):
            parts = _parts(batch, list(error.answers))
            batch = [push for push, its in zip(batch, parts, strict=True) if not push.take_in(its)]
            error = error.cause
        if isinstance(error, _OF_ALL):
            for push in batch:
                push.fail(error)
            if isinstance(error, Unavailable):
                self.give_up(error)
        elif len(batch) == 1:
            batch[0].fail(error)
        else:
            for push in reversed(batch):  # which one shows when each goes by itself; part may be there already
                push.by_itself, push.is_first, push.repeated = True, not push.repeated, True
                self._waiting.appendleft(push)

    def broken_off(self, batch: Batch) -> None:
        """Take in that nobody will learn what became of a batch: whoever carried it was made to stop."""
        error = Unavailable("the push that this one went with was broken off")
        for push in batch:
            push.fail(error)
        self.give_up(error)


def jobs_of(batch: Batch) -> list[NewJob]:
    """What goes over the wire."""
    return [job for push in batch for job in push.jobs]


def answer(batch: Batch, answers: list[Pushed]) -> None:
    """Give each caller its own."""
    for push, its in zip(batch, _parts(batch, answers), strict=True):
        push.succeed(its)


def _parts(batch: Batch, answers: list[T]) -> Iterator[list[T]]:
    at = 0
    for push in batch:
        yield answers[at : at + len(push.jobs)]
        at += len(push.jobs)
