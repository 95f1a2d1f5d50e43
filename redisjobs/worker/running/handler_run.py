"""One run of a handler, in the event loop, a thread or a process: its messages and its outcome."""

import math
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from redisjobs.base.eventloop import is_awaitable, was_asked
from redisjobs.base.visible import visible
from redisjobs.client.push import name_in
from redisjobs.errors import (
    DecodeError,
    EncodeError,
    JobSuspended,
    RedisJobsError,
    RegistrationError,
    UnwritableResult,
    leaves_of,
)
from redisjobs.model import payload
from redisjobs.model.context import JobContext, set_current_job
from redisjobs.model.emissions import NewChunk
from redisjobs.model.job import JobDefinition, PushedJob
from redisjobs.model.outcome import Done, Interrupted, Outcome, Raised, Suspended, Undecodable, Unplaced
from redisjobs.model.progress import Extension, HandlerMessage, Progress, PushRequest
from redisjobs.model.requests import Answered, LeaveStep, Request, unwrapped
from redisjobs.model.steps import Steps
from redisjobs.model.transitions import AddChildren, Lease, Result, SaveStep
from redisjobs.worker.running.cancels import TaskCancels
from redisjobs.worker.running.children import ChildCalls
from redisjobs.worker.running.contexts import Contexts, begin_in, go_on_in, run_in
from redisjobs.worker.running.deadline import Deadline, Deadlines
from redisjobs.worker.running.handler_ref import NotPacked
from redisjobs.worker.running.outbox import Outbox
from redisjobs.worker.running.pushes import Pushes
from redisjobs.worker.running.steps import RunSteps, Written
from redisjobs.worker.running.threads import NoThread, Threads, ThreadTimes, call_in
from redisjobs.worker.settings.settings import Settings

if TYPE_CHECKING:
    from redisjobs.worker.running.handler_pool import HandlerPool  # imported only if needed

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

DONE = Done()
TIMED_OUT = Interrupted()
_WHY_CHARACTERS = 1_000  # the most that are kept of the reason why a result is refused
_first = threading.Lock()  # of a run's first push, or first chunk
_warned = set[tuple[str, str, int]]()  # warnings, and the name and version of the handler

Run = Outcome | Coroutine[Any, Any, Outcome]
"""The outcome of a run, or a coroutine that returns it."""


async def awaited(run: Run) -> Outcome:
    """Return the outcome of a run, and wait for it if need be."""
    return await run if isinstance(run, Coroutine) else run


@dataclass(frozen=True, slots=True)
class HandlerRuntime:
    """The parts of a worker that run handlers."""

    contexts: Contexts
    deadlines: Deadlines
    threads: Threads
    processes: "HandlerPool | None"

    def unplaced(self) -> Outcome:
        """Return the outcome of a job that found no thread to run in."""
        self.threads.turned_away = True
        return Unplaced()


@dataclass(slots=True)
class Reported:
    """The latest progress that a run has reported."""

    progress: Progress
    is_noted: bool = False  # it waits to be published
    published_at: float = -math.inf  # when it was last taken to be published, by the monotonic clock


class HandlerRun:
    """One run of a job's handler. A handler that waits for nothing runs without an `await`, which is cheapest."""

    __slots__ = (
        *(
            "__weakref__",
            "_context",
            "_definition",
            "_keep_ms",
            "_returned",
            "_runtime",
            "_scope",
            "_settings",
            "_takes_result",
        ),
        *(
            "_surroundings",
            "deadline",
            "has_returned",
            "lease",
            "outbox",
            "over",
            "pushes",
            "reported",
            "steps",
            "times",
            "why",
        ),
    )

    def __init__(self, lease: Lease, settings: Settings, runtime: HandlerRuntime) -> None:
        self.lease = lease  # a renewed token may replace it
        self._settings = settings
        self._runtime = runtime
        self.over = False  # it has an outcome, or was let go
        self.has_returned = False  # or raised: it can push no more jobs
        self._keep_ms = 0
        self._takes_result = False  # its result is kept, or its parent gets it
        self.why: Outcome | None = None  # the outcome if the run was given up; TIMED_OUT if its time was over
        self.deadline: Deadline | None = None  # None: no limit, or it has not begun
        self.times: ThreadTimes | None = None  # None: it runs in no thread
        self.reported: Reported | None = None
        self.pushes: Pushes | None = None
        self.outbox: Outbox | None = None  # None: it has emitted nothing
        self.steps: RunSteps | None = None  # None: the handler has asked for nothing
        self._definition: JobDefinition[Any] | None = None
        self._context: JobContext | None = None
        self._scope: anyio.CancelScope | None = None

    # For a subclass to override

    def has_news(self) -> None:
        """Note, in any thread, that there is progress to publish. Not called again until that was taken."""

    def has_chunks(self) -> None:
        """Note, in any thread, that there are chunks to send, or that there are many now."""

    def thread_ended(self) -> None:
        """Note that the thread of an abandoned handler has ended."""

    def write(self, settlement: SaveStep | AddChildren, answered: Written) -> None:
        """Write what ends no lease; see `StepRun`."""

    def start(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a call in a task of the worker."""

    # Calling the handler

    def call(
        self, definition: JobDefinition[Any], context: JobContext, parameters: bytes, cancels: TaskCancels
    ) -> Run:
        """Read the parameters, which are JSON, and begin to run the handler.

        `cancels` are the cancels of the current task.

        Raises:
            BaseException: Only a cancellation from outside.
        """
        # Before the context is copied: entering the copy once more would cost ten times as much.
        set_current_job(context)
        # A fresh context for each job: what a handler sets in it must not reach the next job.
        surroundings: Context = self._runtime.contexts.fresh()
        self._surroundings: Context | None = surroundings
        try:
            decoded = surroundings.run(payload.decode_parameters, definition.name, parameters)
        except DecodeError as error:
            return Undecodable(str(error))
        except BaseException as error:  # code of the parameters' type
            return Raised(error)
        take = self._take_returned if self._takes_result else None
        call = definition.call if definition.is_async else partial(self.call_elsewhere, definition)
        begun = begin_in(surroundings, take, call, decoded, context)
        if isinstance(begun, tuple):
            return self._wait_for(go_on_in(surroundings, begun, take, cancels), cancels)
        cancels.by_job = True  # nothing else ran meanwhile
        try:
            return self._ended(begun, cancels)
        finally:
            del begun  # a reference cycle otherwise: its traceback leads to the frames that called the handler

    def _take_returned(self, returned: Any) -> None:
        self._returned = returned

    async def _wait_for(self, called: Awaitable[BaseException | None], cancels: TaskCancels) -> Outcome:
        raised = await called
        if type(raised) is _Stopped:
            raised = raised.__cause__
        try:
            return await awaited(self._ended(raised, cancels))
        finally:
            del raised  # as above

    def _ended(self, raised: BaseException | None, cancels: TaskCancels) -> Run:
        """Return the outcome of a handler that raised; if `raised` is None, it returned."""
        self.has_returned = True
        if raised is None:
            if self.steps is None:
                return DONE if not self._takes_result and self.pushes is None else self._returned_more()
            suspended = self._end_steps()
            self._check_all_seen()
            return self._swallowed(suspended) if suspended is not None else self._returned_more()
        try:
            return self._came_to(raised, cancels)
        finally:
            del raised  # as above

    async def _returned_more(self) -> Outcome:
        """Return the outcome of a handler that has returned and has a result to keep, or has pushed jobs."""
        outcome: Outcome = DONE
        if self._takes_result:
            assert self._surroundings is not None
            assert self._definition is not None
            longest = self._settings.queue.max_parameters
            outcome = self._surroundings.run(_kept, self._definition, self._returned, self._keep_ms, longest)
        if self.pushes is None or not isinstance(outcome, Done):
            return outcome
        if jobs := await self.pushes.close():
            return Done(outcome.result, jobs)
        self.pushes = None
        return outcome

    def _came_to(self, raised: BaseException, cancels: TaskCancels) -> Outcome:
        """Return the outcome of a handler that raised. If other code has sent a cancellation, raise it again."""
        if type(raised) is NoThread:
            return self._runtime.unplaced()
        suspended = self._end_steps() if self.steps is not None else None
        if suspended is not None and self.why is None and is_suspension(raised):
            self._check_all_seen()
            return suspended
        if self.why is TIMED_OUT:
            return self._late(raised)
        by_others = was_asked() or (cancels.count() and not cancels.by_job)
        if by_others and isinstance(raised, anyio.get_cancelled_exc_class()):
            try:
                raise raised
            finally:
                del raised  # as above
        return Raised(raised) if self.why is None else self.why

    async def call_elsewhere(self, definition: JobDefinition[Any], parameters: Any, context: JobContext) -> Any:
        """Call a plain function in a thread or a process.

        Raises:
            NoThread: There is no thread or process to run it in.
            BaseException: What the function raised.
        """
        if definition.in_process:
            processes = self._runtime.processes
            assert processes is not None  # or the job was refused before
            await processes.prepare()  # while middleware waited, another job may have taken the process
            return _result_of(*await processes.run(definition, parameters, context, self))
        self.times = ThreadTimes()
        surroundings = copy_context()  # an abandoned thread stays in its context
        errand = partial(call_in, surroundings, definition.call, parameters, context)
        ended = await self._runtime.threads.run(errand, self.times, self.thread_ended)
        if is_awaitable(ended[0]):  # by a decorator that is a plain function, around one that is async
            ended = await _awaited(surroundings, ended[0])
        try:
            return _result_of(*ended)
        finally:
            del ended  # as above

    @property
    def has_thread(self) -> bool:
        """Whether its thread was abandoned, and still runs."""
        return self.times is not None and self.times.is_abandoned

    # Giving it up

    def give_up(self, why: Outcome) -> None:
        """Cancel the handler. `why` becomes the outcome, unless the run is over already."""
        if self.over or self.why is not None:
            return
        self.why = why
        if self._context is not None:
            self._context.cancelled = True
        self._cancel()
        self._end_requests()

    def _end_requests(self) -> None:
        """Let no request of the handler wait any more, nor a chunk."""
        if self.steps is not None:
            self.steps.end(_run_over(self.lease.job_id))
            self._take_children(adds=False)
        if self.outbox is not None:
            self.outbox.close()

    def _cancel(self) -> None:
        if self._scope is None:
            return
        try:
            self._scope.cancel()
        except BaseException:  # code of an object that the handler waits for
            job_id = visible(self.lease.job_id)
            self._settings.log.exception("job %s: what it waits for can't be cancelled", job_id)

    def check_deadline(self, now: float) -> float:
        """Cancel the handler if its time is over, less what a blocked loop cost; return when to look again."""
        own = self._less_lost(now)
        if self.deadline is not None and own < self.deadline.at:
            return now + self.deadline.at - own
        if not self.over and self.why is None:
            self.why = TIMED_OUT
            self._cancel()
            self._end_requests()
        return math.inf

    def _less_lost(self, now: float) -> float:
        """Return a monotonic time, less the time that a handler in a thread has lost to a blocked event loop."""
        return now if self.times is None else now - self.times.lost(now)

    def _late(self, cause: BaseException | None = None) -> Outcome:
        """Return the outcome of a run whose time was over. The cause shows where it was."""
        assert self.deadline is not None
        if self._context is not None:
            self._context.cancelled = True  # not sooner: middleware uses it to tell other cancels from a timeout
        error = self.deadline.error
        error.__cause__ = cause
        return Raised(error)  # the error is not kept here, because its traceback leads here

    def cut_off(self) -> Outcome:
        """Return the outcome of a run whose task was cancelled: we gave it up, or other code sent the cancel."""
        if self.steps is not None:  # the handler's thread, or a task of the handler, may still wait for an answer
            self.steps.end(_run_over(self.lease.job_id))
        if self.why is not None:
            return self._late() if self.why is TIMED_OUT else self.why
        if self.lease.deliveries >= self._settings.max_deliveries > 1:  # it ran alone, so its own code did it
            return Raised(RedisJobsError("the task of the handler was cancelled, and not by its worker"))
        return Interrupted(counts=True)

    # Messages of the handler

    def handle(self, message: HandlerMessage) -> PushedJob | None:
        """Handle a message of the handler, in any thread. Ignore it once the run is over, or was given up."""
        if self.over or self.why is not None:
            return None
        if isinstance(message, PushRequest):
            return self._push(message)
        now = time.monotonic()
        if isinstance(message, Extension):
            if self.deadline is not None:
                self.deadline.extend(message.seconds, self._less_lost(now))
            return None
        if self.deadline is not None:
            self.deadline.progressed(self._less_lost(now))
        if isinstance(message, NewChunk):
            self._emit(message)
            return None
        reported = self.reported
        if reported is None:
            reported = self.reported = Reported(message)
        else:
            reported.progress = message
        if not reported.is_noted:
            reported.is_noted = True
            self.has_news()
        return None

    # Its steps

    def go_on_from(self, steps: Steps) -> None:
        """Let the handler find what earlier runs have saved."""
        assert self._definition is not None
        self.steps = RunSteps(self, ChildCalls(self._settings.queue, self), self._definition.version, steps)

    def ask(self, request: Request, answered: Answered) -> None:
        """Answer a request of the handler about its steps; see `Asked`."""
        if self.has_returned or self._is_given_up:
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
        answers = threads.wait_for(partial(self.ask, request), lambda: self._is_given_up)
        return unwrapped(answers[0] if answers else self._too_late(request))

    @property
    def _is_given_up(self) -> bool:
        return self.over or self.why is not None

    def _too_late(self, request: Request) -> RuntimeError | None:
        """Return the answer to a request of a run that is over. One that leaves a step asks for nothing."""
        return None if isinstance(request, LeaveStep) else _run_over(self.lease.job_id)

    def _end_steps(self) -> Suspended | None:
        """Answer no more requests; return the outcome if a wait has ended the run."""
        assert self.steps is not None
        self.steps.end(_run_over(self.lease.job_id))
        return None if self.steps.suspend is None else Suspended(self.steps.suspend)

    def _swallowed(self, suspended: Suspended) -> Suspended:
        """Warn that a handler has gone on although it waits."""
        self._warn(_SWALLOWED, suspended.suspend.wait.key)
        return suspended

    def _check_all_seen(self) -> None:
        """Warn if the handler has not come to a step that an earlier run has saved."""
        assert self._definition is not None
        assert self.steps is not None
        if left_out := self.steps.left_out:
            saved_by = self.steps.saved_by  # None: the record was changed with redis-cli
            by = "an unknown version" if saved_by is None else f"version {saved_by}"
            self._warn(_LEFT_OUT, self._definition.version, left_out, by)

    def _warn(self, text: str, *about: object) -> None:
        """Warn once for each name and version of a handler; the text's first argument is the name."""
        assert self._definition is not None
        name = self._definition.name.name
        if (once := (text, name, self._definition.version)) not in _warned:
            _warned.add(once)
            self._settings.log.warning(text, visible(name), *about)

    def _push(self, pushing: PushRequest) -> PushedJob | None:
        with _first:
            pushes = self.pushes = self.pushes or Pushes(self._settings.queue, self.lease)
        # Check only now: either this sees that the handler has ended, or the code that ends the run sees what to
        # close.
        if self.has_returned or self.why is not None:
            return None
        job = pushes.add(pushing)
        return None if job is None else self._settings.queue._handle(job.job_id, name_in(job), added=None)

    def _take_children(self, *, adds: bool) -> None:
        """Let the settlement push the last children of a step, and not what the handler has pushed; or neither."""
        children = None if self.steps is None else self.steps.pushes
        if adds:
            with _first:
                children, self.pushes = self.pushes, children
        if children is not None:
            children.lost()  # the next run pushes them again

    def _emit(self, chunk: NewChunk) -> None:
        if self.steps is not None and self.steps.drops_chunks:
            return
        if self.outbox is None:
            with _first:
                self.outbox = self.outbox or Outbox(0 if self.steps is None else self.steps.last_wait)
            if self.over or self.why is not None:  # as for a push
                self.outbox.close()
        if self.outbox.add(chunk, may_wait=not self._runtime.threads.is_loop_here):
            self.has_chunks()

    @property
    def progress(self) -> Progress | None:
        """The latest progress; None if there was none."""
        return None if self.reported is None else self.reported.progress


def _run_over(job_id: str) -> RuntimeError:
    return RuntimeError(f"job {visible(job_id)}: this run is over, so it can save no steps and wait no more")


def is_suspension(raised: BaseException) -> bool:
    """Return whether an error, or all errors of a group, are that the job is suspended."""
    return all(isinstance(each, JobSuspended) for each in leaves_of(raised))


def _kept(definition: JobDefinition[Any], returned: Any, keep_ms: int, longest: int) -> Outcome:
    """Return the outcome with the result, or with the reason why that can't be kept."""
    try:
        if type(returned) is NotPacked:
            raise EncodeError(f"{definition.name.name}: the result can't leave its process: {returned.why}")
        value = payload.encode_parameters(definition.returns, returned, longest)
    except (EncodeError, RegistrationError) as error:
        if definition.strict_result:
            return Raised(UnwritableResult(f"the handler has returned, and is not run again: {error}"))
        return Done(Result(keep_ms, refused=visible(str(error), _WHY_CHARACTERS)))
    except BaseException as error:  # code of the result's type
        return Raised(error)
    return Done(Result(keep_ms, value))


class _Stopped(RuntimeError):
    """Carries a plain function's StopIteration out of a coroutine, which can't raise that itself."""


async def _awaited(surroundings: Context, called: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    """Await what a plain function returned; return the result, and what was raised."""
    results: list[Any] = []
    raised = await run_in(surroundings, results.append, lambda: called)
    return results[0] if results else None, raised


def _result_of(returned: Any, raised: BaseException | None) -> Any:
    """Return what a plain function returned, or raise what it raised."""
    try:
        if isinstance(raised, StopIteration):
            raise _Stopped("the handler raised StopIteration") from raised
        if raised is not None:
            raise raised
        return returned
    finally:
        del raised  # a reference cycle otherwise, through its traceback
