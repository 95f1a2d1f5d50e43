"""Calls the handler of one job, in the event loop, a thread or a process, and finds its outcome."""

from collections.abc import Awaitable, Coroutine
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import anyio

from redisjobs.base.eventloop import is_awaitable, was_asked
from redisjobs.base.visible import visible
from redisjobs.errors import (
    DecodeError,
    EncodeError,
    JobSuspended,
    RegistrationError,
    UnwritableResult,
    leaves_of,
)
from redisjobs.model import payload
from redisjobs.model.context import JobContext, set_current_job
from redisjobs.model.job import JobDefinition
from redisjobs.model.outcome import Done, Interrupted, Outcome, Raised, Undecodable, Unplaced
from redisjobs.model.transitions import Result
from redisjobs.worker.running.cancels import TaskCancels
from redisjobs.worker.running.contexts import Contexts, begin_in, go_on_in, run_in
from redisjobs.worker.running.deadline import Deadlines
from redisjobs.worker.running.handler_ref import NotPacked
from redisjobs.worker.running.threads import NoThread, Threads, ThreadTimes, call_in

if TYPE_CHECKING:
    from redisjobs.worker.running.execution import Execution
    from redisjobs.worker.running.handler_pool import HandlerPool  # imported only if needed

DONE = Done()
TIMED_OUT = Interrupted()
_WHY_CHARACTERS = 1_000  # the most that are kept of the reason why a result is refused

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


class HandlerRun:
    """Calls a job's handler. A handler that waits for nothing runs without an `await`, which is cheapest.

    Args:
        run: The job. It must not refer to this object: that would be a reference cycle for each job.
        definition: The handler, with the middleware around it.
        cancels: The cancels of the current task.
    """

    __slots__ = ("_cancels", "_definition", "_returned", "_run", "_surroundings")

    def __init__(self, run: "Execution", definition: JobDefinition[Any], cancels: TaskCancels) -> None:
        self._run = run
        self._definition = definition
        self._cancels = cancels

    def begin(self, context: JobContext, parameters: bytes) -> Run:
        """Read the parameters, which are JSON, and begin to run the handler.

        Raises:
            BaseException: Only a cancellation from outside.
        """
        definition = self._definition
        # Before the context is copied: entering the copy once more would cost ten times as much.
        set_current_job(context)
        # A fresh context for each job: what a handler sets in it must not reach the next job.
        surroundings = self._surroundings = self._run.runtime.contexts.fresh()
        try:
            decoded = surroundings.run(payload.decode_parameters, definition.name, parameters)
        except DecodeError as error:
            return Undecodable(str(error))
        except BaseException as error:  # code of the parameters' type
            return Raised(error)
        take = self._take_returned if self._run.takes_result else None
        call = definition.call if definition.is_async else partial(call_elsewhere, self._run, definition)
        begun = begin_in(surroundings, take, call, decoded, context)
        if isinstance(begun, tuple):
            return self._wait_for(go_on_in(surroundings, begun, take, self._cancels))
        self._cancels.by_job = True  # nothing else ran meanwhile
        try:
            return self._ended(begun)
        finally:
            del begun  # a reference cycle otherwise: its traceback leads to the frames that called the handler

    def _take_returned(self, returned: Any) -> None:
        self._returned = returned

    async def _wait_for(self, called: Awaitable[BaseException | None]) -> Outcome:
        raised = await called
        if type(raised) is _Stopped:
            raised = raised.__cause__
        try:
            return await awaited(self._ended(raised))
        finally:
            del raised  # as above

    def _ended(self, raised: BaseException | None) -> Run:
        """Return the outcome of a handler that raised; if `raised` is None, it returned."""
        run = self._run
        run.has_returned = True
        if raised is None:
            if run.messages is None:
                return DONE if not run.takes_result else self._returned_more()
            if (suspended := run.messages.end_steps()) is not None:
                run.messages.warn_of_swallowed(suspended)
            run.messages.warn_of_left_out()
            return suspended or self._returned_more()
        try:
            return self._came_to(raised)
        finally:
            del raised  # as above

    async def _returned_more(self) -> Outcome:
        """Return the outcome of a handler that has returned and may have a result to keep, or have pushed jobs."""
        run, outcome = self._run, cast(Outcome, DONE)
        if run.takes_result:
            longest = run.settings.queue.max_parameters
            outcome = self._surroundings.run(_kept, self._definition, self._returned, run.keep_ms, longest)
        if run.messages is None or run.messages.pushes is None or not isinstance(outcome, Done):
            return outcome
        if jobs := await run.messages.pushes.close():
            return Done(outcome.result, jobs)
        run.messages.pushes = None
        return outcome

    def _came_to(self, raised: BaseException) -> Outcome:
        """Return the outcome of a handler that raised. If other code has sent a cancellation, raise it again."""
        run = self._run
        if type(raised) is NoThread:
            return run.runtime.unplaced()
        suspended = None if run.messages is None else run.messages.end_steps()
        if run.messages is not None and suspended is not None and run.why is None and is_suspension(raised):
            run.messages.warn_of_left_out()
            return suspended
        if run.why is TIMED_OUT:
            return run.late(raised)
        by_others = was_asked() or (self._cancels.count() and not self._cancels.by_job)
        if by_others and isinstance(raised, anyio.get_cancelled_exc_class()):
            try:
                raise raised
            finally:
                del raised  # as above
        return Raised(raised) if run.why is None else run.why


async def call_elsewhere(
    run: "Execution", definition: JobDefinition[Any], parameters: Any, context: JobContext
) -> Any:
    """Call a plain function in a thread or a process.

    Raises:
        NoThread: There is no thread or process to run it in.
        BaseException: What the function raised.
    """
    if definition.in_process:
        processes = run.runtime.processes
        assert processes is not None  # or the job was refused before
        await processes.prepare()  # while middleware waited, another job may have taken the process
        return _result_of(*await processes.run(definition, parameters, context, run))
    run.times = ThreadTimes()
    surroundings = copy_context()  # an abandoned thread stays in its context
    errand = partial(call_in, surroundings, definition.call, parameters, context)
    ended = await run.runtime.threads.run(errand, run.times, partial(run.owner.thread_ended, run))
    if is_awaitable(ended[0]):  # by a decorator that is a plain function, around one that is async
        ended = await _awaited(surroundings, ended[0])
    try:
        return _result_of(*ended)
    finally:
        del ended  # as above


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
