"""What a running handler reports, emits, pushes and saves, in any thread."""

import math
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from redisjobs.base.visible import visible
from redisjobs.client.push import name_in
from redisjobs.model.emissions import NewChunk
from redisjobs.model.job import PushedJob
from redisjobs.model.outcome import Suspended
from redisjobs.model.progress import Extension, HandlerMessage, Progress, PushRequest
from redisjobs.model.requests import Answered, LeaveStep, Request, unwrapped
from redisjobs.model.steps import Steps
from redisjobs.model.transitions import AddChildren, Lease, SaveStep
from redisjobs.worker.running.children import ChildCalls, OnReply
from redisjobs.worker.running.outbox import Outbox
from redisjobs.worker.running.pushes import Pushes
from redisjobs.worker.running.steps import RunSteps

if TYPE_CHECKING:
    from redisjobs.worker.running.execution import Execution

_SWALLOWED = (
    "a handler of '%s' has caught the JobSuspended of its step '%s' and returned. The job is suspended all the "
    "same, and what came after that step runs again: let a JobSuspended pass"
)
_LEFT_OUT = (
    "a run of '%s', version %d, has not come to step '%s', which %s has saved, so its result is not "
    "used. If the handler was changed while jobs wait, let it go by context.version"
)
_IN_LOOP = (
    "job {}: its handler is sync, so calls that save steps or wait block their thread, and this is the thread of "
    "the worker's event loop: make the handler and its decorators `async def`, or call it in the handler's thread"
)

_first = threading.Lock()  # of a run's first message, first push, or first chunk
_warned = set[tuple[str, str, int]]()  # warnings, and the name and version of the handler


@dataclass(slots=True)
class Reported:
    """The latest progress that a run has reported."""

    progress: Progress
    is_noted: bool = False  # it waits to be published
    published_at: float = -math.inf  # when it was last taken to be published, by the monotonic clock


def messages_of(run: "Execution") -> "Messages":
    """Return the messages of a run. Most handlers send none, so they are made for the first one."""
    with _first:
        run.messages = run.messages or Messages(run)
    return run.messages


class Messages:
    """The messages of one run of a handler, and what became of them.

    Attributes:
        reported: The latest progress; None if there was none.
        pushes: The jobs that the run pushes; None for none.
        outbox: The chunks that it emits; None for none.
        steps: Its steps; None if the handler has asked for nothing.
    """

    def __init__(self, run: "Execution") -> None:
        self.reported: Reported | None = None
        self.pushes: Pushes | None = None
        self.outbox: Outbox | None = None
        self.steps: RunSteps | None = None
        self._run = run
        self._runtime = run.runtime
        self._queue = run.settings.queue

    @property
    def lease(self) -> Lease:
        """The lease of the run's job."""
        return self._run.lease

    def handle(self, message: HandlerMessage) -> PushedJob | None:
        """Handle a message of the handler, in any thread. Ignore it once the run is over, or was given up."""
        run = self._run
        if run.is_given_up:
            return None
        if isinstance(message, PushRequest):
            return self._push(message)
        now = time.monotonic()
        if isinstance(message, Extension):
            if run.deadline is not None:
                run.deadline.extend(message.seconds, run.less_lost(now))
            return None
        if run.deadline is not None:
            run.deadline.progressed(run.less_lost(now))
        if isinstance(message, NewChunk):
            self._emit(message)
        else:
            self._report(message)
        return None

    def _report(self, progress: Progress) -> None:
        reported = self.reported
        if reported is None:
            reported = self.reported = Reported(progress)
        else:
            reported.progress = progress
        if not reported.is_noted:
            reported.is_noted = True
            self._run.owner.reported(self._run)

    def _push(self, pushing: PushRequest) -> PushedJob | None:
        with _first:
            pushes = self.pushes = self.pushes or Pushes(self._queue, self.lease)
        # Check only now: either this sees that the handler has ended, or the code that ends the run sees what to
        # close.
        if self._run.has_returned or self._run.why is not None:
            return None
        job = pushes.add(pushing)
        return None if job is None else self._queue._handle(job.job_id, name_in(job), added=None)

    def _emit(self, chunk: NewChunk) -> None:
        if self.steps is not None and self.steps.drops_chunks:
            return
        if self.outbox is None:
            with _first:
                self.outbox = self.outbox or Outbox(0 if self.steps is None else self.steps.last_wait)
            if self._run.is_given_up:  # as for a push
                self.outbox.close()
        if self.outbox.add(chunk, may_wait=not self._runtime.threads.is_loop_here):
            self._run.owner.emitted(self._run)

    # Steps

    def go_on_from(self, steps: Steps) -> None:
        """Let the handler find what earlier runs have saved."""
        definition = self._run.definition
        assert definition is not None
        self.steps = RunSteps(self, ChildCalls(self._queue, self), definition.version, steps)

    def ask(self, request: Request, answered: Answered) -> None:
        """Answer a request of the handler about its steps; see `Asked`."""
        if self._run.has_returned or self._run.is_given_up:
            answered(self._too_late(request))
            return
        if self.steps is None:
            self.go_on_from(Steps())
        assert self.steps is not None
        self.steps.ask(request, answered)

    def ask_and_wait(self, request: Request) -> Any:
        """Return the answer to a request of the handler's thread, or raise it.

        Raises:
            RuntimeError: The run is over or was given up, its event loop has closed, or this is the loop's thread.
        """
        threads = self._runtime.threads
        if threads.is_loop_here:
            raise RuntimeError(_IN_LOOP.format(visible(self.lease.job_id)))
        answers = threads.wait_for(partial(self.ask, request), lambda: self._run.is_given_up)
        return unwrapped(answers[0] if answers else self._too_late(request))

    def _too_late(self, request: Request) -> RuntimeError | None:
        """Return the answer to a request of a run that is over. One that leaves a step asks for nothing."""
        return None if isinstance(request, LeaveStep) else self._run_over()

    def _run_over(self) -> RuntimeError:
        job_id = visible(self.lease.job_id)
        return RuntimeError(f"job {job_id}: this run is over, so it can save no steps and wait no more")

    def write(self, settlement: SaveStep | AddChildren, answered: OnReply) -> None:
        """Write a change that the job goes on after; see `Writer`."""
        self._run.owner.write(self._run, settlement, answered)

    def start(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a call in a task of the worker."""
        self._run.owner.start(call)

    # The end of the run

    def end_steps(self) -> Suspended | None:
        """Answer no more requests; return the outcome if a wait has ended the run."""
        if self.steps is None:
            return None
        self.steps.end(self._run_over())
        return None if self.steps.suspend is None else Suspended(self.steps.suspend)

    def end(self) -> None:
        """Let no request of the handler wait any more, nor a chunk."""
        self.end_steps()
        if self.steps is not None:
            self.take_children(adds=False)
        if self.outbox is not None:
            self.outbox.close()

    def take_children(self, *, adds: bool) -> None:
        """Let the settlement push the last children of a step, and not what the handler has pushed; or neither."""
        children = None if self.steps is None else self.steps.pushes
        if adds:
            with _first:
                children, self.pushes = self.pushes, children
        if children is not None:
            children.lost()  # the next run pushes them again

    def warn_of_swallowed(self, suspended: Suspended) -> None:
        """Warn that a handler has gone on although it waits."""
        self._warn(_SWALLOWED, suspended.suspend.wait.key)

    def warn_of_left_out(self) -> None:
        """Warn if the handler has not come to a step that an earlier run has saved."""
        if self.steps is not None and (left_out := self.steps.left_out):
            assert self._run.definition is not None
            saved_by = self.steps.saved_by  # None: the record was changed with redis-cli
            by = "an unknown version" if saved_by is None else f"version {saved_by}"
            self._warn(_LEFT_OUT, self._run.definition.version, left_out, by)

    def _warn(self, text: str, *about: object) -> None:
        """Warn once for each name and version of a handler; the text's first argument is the name."""
        definition = self._run.definition
        assert definition is not None
        name = definition.name.name
        if (once := (text, name, definition.version)) not in _warned:
            _warned.add(once)
            self._run.settings.log.warning(text, visible(name), *about)
