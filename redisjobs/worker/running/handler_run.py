"""Runs the handler of one job, in the event loop, a thread or a process, and finds its outcome."""

import time
from collections.abc import Awaitable, Coroutine
from contextvars import Context, copy_context
from functools import partial
from typing import Any, cast

import anyio

from redisjobs.base.eventloop import gates, is_awaitable, was_asked
from redisjobs.base.visible import visible
from redisjobs.errors import (
    DecodeError,
    EncodeError,
    JobSuspended,
    RegistrationError,
    UnwritableResult,
    leaves_of,
)
from redisjobs.model import codec, payload, sync_verbs
from redisjobs.model.context import JobContext, keep_only_slot, message_sink_of, set_current_job
from redisjobs.model.job import JobDefinition
from redisjobs.model.outcome import Done, Expired, Interrupted, Outcome, Raised, Undecodable, UnknownName
from redisjobs.model.steps import Steps
from redisjobs.model.transitions import Lease, Result
from redisjobs.worker.running.cancels import TaskCancels
from redisjobs.worker.running.contexts import begin_in, go_on_in, run_in
from redisjobs.worker.running.deadline import Deadline
from redisjobs.worker.running.execution import TIMED_OUT, Execution
from redisjobs.worker.running.handler_ref import NotPacked
from redisjobs.worker.running.messages import Messages, end_steps, warn_of_left_out, warn_of_swallowed
from redisjobs.worker.running.threads import NoThread, ThreadTimes, call_in

PATIENCE = 0.1
"""Seconds that a job may wait for a slot. Then it is handed back: running jobs take longer than they did."""

DONE = Done()
_WHY_CHARACTERS = 1_000  # the most that are kept of the reason why a result is refused

Run = Outcome | Coroutine[Any, Any, Outcome]
"""The outcome of a run, or a coroutine that returns it."""


async def awaited(run: Run) -> Outcome:
    """Return the outcome of a run, and wait for it if need be."""
    return await run if isinstance(run, Coroutine) else run


class HandlerRun:
    """One run of a leased job: reads the job, and calls its handler.

    A handler that waits for nothing runs without an `await`, which is cheapest.

    Args:
        run: The leased job. It must not refer to this object: that would be a reference cycle for each job.
        cancels: The cancels of the current task.
    """

    __slots__ = ("_cancels", "_returned", "_surroundings", "run")

    def __init__(self, run: Execution, cancels: TaskCancels) -> None:
        self.run = run
        self._cancels = cancels

    def begin(self, scope: anyio.CancelScope) -> Run:
        """Read the job and begin to run its handler. Whatever that raises becomes the outcome.

        `scope` is around the whole run, and `Execution.give_up` cancels it. If it cuts the run off, the outcome is
        that of `Execution.cut_off`.

        Raises:
            BaseException: Only a cancellation from outside.
        """
        run = self.run
        if run.why is not None:  # given up before it began
            return run.why
        now, owner = time.monotonic(), run.owner
        if now - run.given_at > PATIENCE and not owner.may_begin:
            return Interrupted()  # it waited for a slot, and by now no job may begin
        run.started = now
        run.run_ms = now_ms = owner.server_ms(now)
        try:
            job = run.job = codec.decode_job(run.lease)
            definition = run.definition = owner.find(job.name)
            if definition is None:
                return UnknownName(job.name, job.unknown_ms, run.settings.unknown_ms)
            if job.expires_ms is not None and job.expires_ms < now_ms and not _has_started(run.lease, job):
                late = (now_ms - job.expires_ms) / 1000
                return Expired(f"not started in time: expired {late:.1f} s before a worker was free")
        except DecodeError as error:
            return Undecodable(str(error))
        run.scope = scope
        if job.has_steps:
            return self._begin_with_steps(definition, job)
        if definition.in_process:
            return self._begin_in_process(definition, job)
        return self._begin(definition, job)

    async def _begin_with_steps(self, definition: JobDefinition[Any], job: codec.DecodedJob) -> Outcome:
        """Load what earlier runs have saved. The handler's run time begins only then."""
        found, gate = list[Steps | BaseException](), gates()()

        def loaded(steps: Steps | BaseException) -> None:
            found.append(steps)
            gate.open()

        run = self.run
        run.owner.load_steps(run, loaded)
        await gate.wait()
        if run.why is not None:
            return run.why
        (steps,) = found
        if isinstance(steps, BaseException):
            return Raised(steps)
        Messages(run).go_on_from(steps)
        if definition.in_process:
            return await self._begin_in_process(definition, job)
        return await awaited(self._begin(definition, job))

    async def _begin_in_process(self, definition: JobDefinition[Any], job: codec.DecodedJob) -> Outcome:
        """Wait for a free process. The handler's run time begins only then."""
        run = self.run
        if run.runtime.processes is None:
            return Raised(RegistrationError("its handler was registered after the worker was started"))
        try:
            await run.runtime.processes.prepare()
        except NoThread:
            return run.runtime.unplaced()
        return run.why if run.why is not None else await awaited(self._begin(definition, job))

    def _begin(self, definition: JobDefinition[Any], job: codec.DecodedJob) -> Run:
        run = self.run
        run.keep_ms = definition.keep_ms if job.keep_ms is None else job.keep_ms
        run.takes_result = run.keep_ms > 0 or job.is_child
        run.context = context = _context_of(run, definition, job)
        if definition.timeout is not None or definition.stalled_after is not None:
            run.deadline = Deadline(definition.timeout, definition.stalled_after)
            run.runtime.deadlines.add(run.deadline)
        return self._call(definition, context, job.parameters)

    def _call(self, definition: JobDefinition[Any], context: JobContext, parameters: bytes) -> Run:
        """Read the parameters, which are JSON, and begin to run the handler."""
        run = self.run
        # Before the context is copied: entering the copy once more would cost ten times as much.
        set_current_job(context)
        # A fresh context for each job: what a handler sets in it must not reach the next job.
        surroundings = self._surroundings = run.runtime.contexts.fresh()
        try:
            decoded = surroundings.run(payload.decode_parameters, definition.name, parameters)
        except DecodeError as error:
            return Undecodable(str(error))
        except BaseException as error:  # code of the parameters' type
            return Raised(error)
        take = self._take_returned if run.takes_result else None
        call = definition.call if definition.is_async else partial(call_elsewhere, definition)
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
        if type(raised) is _CarriedStop:
            raised = raised.__cause__
        try:
            return await awaited(self._ended(raised))
        finally:
            del raised  # as above

    def _ended(self, raised: BaseException | None) -> Run:
        """Return the outcome of a handler that raised; if `raised` is None, it returned."""
        run = self.run
        run.has_returned = True
        if raised is None:
            if run.steps is None:
                return DONE if not run.takes_result and run.pushes is None else self._returned_more()
            if (suspended := end_steps(run, run.steps)) is not None:
                warn_of_swallowed(run, suspended)
            warn_of_left_out(run, run.steps)
            return suspended or self._returned_more()
        try:
            return self._came_to(raised)
        finally:
            del raised  # as above

    async def _returned_more(self) -> Outcome:
        """Return the outcome of a handler that has returned and has a result to keep, or has pushed jobs."""
        run, outcome = self.run, cast(Outcome, DONE)
        if run.takes_result:
            assert run.definition is not None
            longest = run.settings.queue.max_parameters
            outcome = self._surroundings.run(_kept, run.definition, self._returned, run.keep_ms, longest)
        if run.pushes is None or not isinstance(outcome, Done):
            return outcome
        if jobs := await run.pushes.close():
            return Done(outcome.result, jobs)
        run.pushes = None
        return outcome

    def _came_to(self, raised: BaseException) -> Outcome:
        """Return the outcome of a handler that raised. If other code has sent a cancellation, raise it again."""
        run = self.run
        if type(raised) is NoThread:
            return run.runtime.unplaced()
        if run.steps is not None:
            suspended = end_steps(run, run.steps)
            if suspended is not None and run.why is None and is_suspension(raised):
                warn_of_left_out(run, run.steps)
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


def _has_started(lease: Lease, job: codec.DecodedJob) -> bool:
    """Return whether a run of a job has begun before: it had an outcome, or its worker died."""
    return job.started_ms is not None or lease.deliveries > 1


def _context_of(run: Execution, definition: JobDefinition[Any], job: codec.DecodedJob) -> JobContext:
    kind = JobContext if definition.awaits else sync_verbs.JobContext
    context = kind(
        job_id=run.lease.job_id,
        job_name=job.name,
        queue_name=run.settings.queue.name,
        attempt=job.attempt,
        deliveries=run.lease.deliveries,
        # An entry id written outside redisjobs may be later. (`min` takes twice as long.)
        queued_ms=job.queued_ms if job.queued_ms < run.run_ms else run.run_ms,
        scheduled_ms=job.scheduled_ms,
        next_scheduled_ms=job.next_scheduled_ms,
        read_headers=job.read_headers,
        worker_id=run.settings.worker_id,
        state=run.settings.queue.state,
        sink=Messages(run),
        keeps_result=run.takes_result,
    )
    if run.steps is not None:
        context.version = definition.version if run.steps.saved_by is None else run.steps.saved_by
        context._checkpoint = run.steps.checkpoint
    elif definition.version != 1:
        context.version = definition.version
    if job.started_ms is not None and (trace := run.lease.fields.get(b"trace")):
        context._trace = codec.trace_of(trace)
    if run.settings.concurrency == 1:
        keep_only_slot(context, run.settings.queues or (run.settings.queue.name,))
    return context


async def call_elsewhere(definition: JobDefinition[Any], parameters: Any, context: JobContext) -> Any:
    """Call a plain function in a thread or a process.

    Raises:
        NoThread: There is no thread or process to run it in.
        BaseException: What the function raised.
    """
    messages = cast(Messages, message_sink_of(context))  # `_context_of` has set it
    run = messages.run
    if definition.in_process:
        processes = run.runtime.processes
        assert processes is not None  # or the job was refused before
        await processes.prepare()  # while middleware waited, another job may have taken the process
        return _result_of(*await processes.run(definition, parameters, context, messages))
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


class _CarriedStop(RuntimeError):
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
            raise _CarriedStop("the handler raised StopIteration") from raised
        if raised is not None:
            raise raised
        return returned
    finally:
        del raised  # a reference cycle otherwise, through its traceback
