"""The messages of a running handler: what it reports, pushes and emits, and what it asks about its steps."""

import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

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
from redisjobs.worker.running.execution import FIRST, Execution, Reported
from redisjobs.worker.running.outbox import ChunkOutbox
from redisjobs.worker.running.pushes import HandlerPushes
from redisjobs.worker.running.steps import RunSteps

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

_warned = set[tuple[str, str, int]]()  # warnings, and the name and version of the handler


class Messages:
    """Takes the messages of a job's handler, from any thread."""

    __slots__ = ("run",)

    def __init__(self, run: Execution) -> None:
        self.run = run

    @property
    def lease(self) -> Lease:
        """The lease of the job."""
        return self.run.lease

    def handle(self, message: HandlerMessage) -> PushedJob | None:
        """Handle a message of the handler. Ignore it once the run is over, or was given up."""
        run = self.run
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
        reported = self.run.reported
        if reported is None:
            reported = self.run.reported = Reported(progress)
        else:
            reported.progress = progress
        if not reported.is_noted:
            reported.is_noted = True
            self.run.owner.reported(self.run)

    def _push(self, pushing: PushRequest) -> PushedJob | None:
        run, queue = self.run, self.run.settings.queue
        with FIRST:
            pushes = run.pushes = run.pushes or HandlerPushes(queue, run.lease)
        # Check only now: either this sees that the handler has ended, or the code that ends the run sees what to
        # close.
        if run.has_returned or run.why is not None:
            return None
        job = pushes.add(pushing)
        return None if job is None else queue._handle(job.job_id, name_in(job), added=None)

    def _emit(self, chunk: NewChunk) -> None:
        run = self.run
        if run.steps is not None and run.steps.drops_chunks:
            return
        if run.outbox is None:
            with FIRST:
                run.outbox = run.outbox or ChunkOutbox(0 if run.steps is None else run.steps.last_wait)
            if run.is_given_up:  # as for a push
                run.outbox.close()
        if run.outbox.add(chunk, may_wait=not run.runtime.threads.is_loop_here):
            run.owner.emitted(run)

    # Steps

    def go_on_from(self, steps: Steps) -> RunSteps:
        """Let the handler find what earlier runs have saved."""
        definition, queue = self.run.definition, self.run.settings.queue
        assert definition is not None
        self.run.steps = RunSteps(self, ChildCalls(queue, self), definition.version, steps)
        return self.run.steps

    def ask(self, request: Request, answered: Answered) -> None:
        """Answer a request of the handler about its steps; see `Asked`."""
        if self.run.has_returned or self.run.is_given_up:
            answered(self._too_late(request))
            return
        steps = self.run.steps or self.go_on_from(Steps())
        steps.ask(request, answered)

    def ask_and_wait(self, request: Request) -> Any:
        """Return the answer to a request of the handler's thread, or raise it.

        Raises:
            RuntimeError: The run is over or was given up, its event loop has closed, or this is the loop's thread.
        """
        threads = self.run.runtime.threads
        if threads.is_loop_here:
            raise RuntimeError(_IN_LOOP.format(visible(self.lease.job_id)))
        answers = threads.wait_for(partial(self.ask, request), lambda: self.run.is_given_up)
        return unwrapped(answers[0] if answers else self._too_late(request))

    def _too_late(self, request: Request) -> RuntimeError | None:
        """Return the answer to a request of a run that is over. One that leaves a step asks for nothing."""
        return None if isinstance(request, LeaveStep) else self.run.run_over

    def write(self, settlement: SaveStep | AddChildren, answered: OnReply) -> None:
        """Write a change that the job goes on after; see `Writer`."""
        self.run.owner.write(self.run, settlement, answered)

    def start(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a call in a task of the worker."""
        self.run.owner.start(call)


def end_steps(run: Execution, steps: RunSteps) -> Suspended | None:
    """Answer no more requests of a handler; return the outcome if a wait has ended the run."""
    steps.end(run.run_over)
    return None if steps.suspend is None else Suspended(steps.suspend)


def warn_of_swallowed(run: Execution, suspended: Suspended) -> None:
    """Warn that a handler has returned although it waits."""
    _warn(run, _SWALLOWED, suspended.suspend.wait.key)


def warn_of_left_out(run: Execution, steps: RunSteps) -> None:
    """Warn if a handler has not come to a step that an earlier run has saved."""
    if left_out := steps.left_out:
        assert run.definition is not None
        saved_by = steps.saved_by  # None: the record was changed with redis-cli
        by = "an unknown version" if saved_by is None else f"version {saved_by}"
        _warn(run, _LEFT_OUT, run.definition.version, left_out, by)


def _warn(run: Execution, text: str, *about: object) -> None:
    """Warn once for each name and version of a handler; the text's first argument is the name."""
    assert run.definition is not None
    name = run.definition.name.name
    if (once := (text, name, run.definition.version)) not in _warned:
        _warned.add(once)
        run.settings.log.warning(text, visible(name), *about)
