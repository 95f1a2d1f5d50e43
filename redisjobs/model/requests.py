"""What a running handler asks of its worker about its steps, and the answers."""

from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Protocol

from redisjobs.model.transitions import Due, NewJob, WaitsFor


@dataclass(frozen=True, slots=True)
class BeginStep:
    """Begin a step; the answer is a `Begun`."""

    name: str


@dataclass(frozen=True, slots=True)
class EndStep:
    """Save the result of a step that was begun; the answer is None, or the result that was saved before."""

    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class LeaveStep:
    """Leave the last step of this name, because its call has raised or was cancelled; the answer is None.

    What is on its way to the store stays. A call of the step again has the same key, as in later runs.

    Attributes:
        call: What was to be called with the answer to its request; None: no request waits.
    """

    name: str
    call: "Answered | None" = None


@dataclass(frozen=True, slots=True)
class AwaitStep:
    """Wait; the answer is the `Saved` step if the wait is over. If not, it is a JobSuspended."""

    name: str
    what: WaitsFor
    due: Due | None  # when the wait is over at the latest


@dataclass(frozen=True, slots=True)
class SaveCheckpoint:
    """Save a checkpoint; the answer is None."""

    value: bytes


@dataclass(frozen=True, slots=True)
class RunChildren:
    """Run jobs as children; the answer is a list of each `ChildOutcome`, or a JobSuspended."""

    name: str  # of the step
    jobs: Sequence[NewJob]
    context: Context | None = None  # of the call: hooks find the span of a trace there; None: not known


Request = BeginStep | EndStep | LeaveStep | AwaitStep | SaveCheckpoint | RunChildren


@dataclass(frozen=True, slots=True)
class Begun:
    """A step that has begun."""

    key: str
    value: bytes | None  # its result, if that is saved already


Answered = Callable[[Any], object]
"""Called with the answer to a request, or with an exception to raise in the handler."""


def unwrapped(answer: Any) -> Any:
    """Return an answer, or raise it if it is an exception."""
    if isinstance(answer, BaseException):
        raise answer
    return answer


class Asked(Protocol):
    """Answers the requests of a handler."""

    def ask(self, request: Request, answered: Answered) -> None:
        """Take a request, in the worker's event loop, and call `answered` there, now or later."""

    def ask_and_wait(self, request: Request) -> Any:
        """Return the answer to a request of another thread, or raise it."""
