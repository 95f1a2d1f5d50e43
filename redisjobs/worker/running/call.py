"""One call of a job's handler: in the event loop, in a thread or in a process, and what came of it."""

from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from redisjobs.base.eventloop import is_awaitable, was_asked
from redisjobs.base.visible import visible
from redisjobs.errors import DecodeError, EncodeError, RegistrationError, UnwritableResult
from redisjobs.model import payload
from redisjobs.model.context import JobContext, set_current_job
from redisjobs.model.job import JobDefinition
from redisjobs.model.outcome import Done, Interrupted, Outcome, Raised, Undecodable, Unplaced
from redisjobs.model.transitions import Result
from redisjobs.worker.running.cancels import TaskCancels
from redisjobs.worker.running.contexts import Contexts, begin_in, go_on_in, run_in
from redisjobs.worker.running.deadline import Deadlines
from redisjobs.worker.running.handler_ref import NotPacked
from redisjobs.worker.running.pushes import Pushes
from redisjobs.worker.running.threads import Job, NoThread, Threads, call_in

if TYPE_CHECKING:
    from redisjobs.worker.running.handler_pool import HandlerPool  # only where it is needed, for what it loads

DONE = Done()
OUTRAN = Interrupted()
_WHY_CHARACTERS = 1_000  # of why a result is refused

Run = Outcome | Coroutine[Any, Any, Outcome]
"""What a job came to, or what is to be awaited for it."""


async def awaited(run: Run) -> Outcome:
    """What a job came to."""
    return await run if isinstance(run, Coroutine) else run


@dataclass(frozen=True, slots=True)
class HandlerRuntime:
    """What one run of a worker runs handlers with."""

    contexts: Contexts
    deadlines: Deadlines
    threads: Threads
    processes: "HandlerPool | None"

    def unplaced(self) -> Outcome:
        """The outcome of a job that found no thread to run in."""
        self.threads.turned_away = True
        return Unplaced()


class Caller(Job, Protocol):
    """The job whose handler is called.

    Attributes:
        pushes: What its handler has pushed; None: nothing.
        has_returned: Whether the handler has returned, or raised.
        why: The outcome of a job that was given up; None: it was not. OUTRAN: its time was over.
    """

    pushes: Pushes | None
    has_returned: bool
    why: Outcome | None

    def late(self, cause: BaseException | None) -> Outcome:
        """The outcome of a job whose time was over; the cause shows where it was."""


class Call:
    """One call of a job's handler. Where that waits for nothing, nothing is awaited, which costs the least.

    Args:
        caller: The job.
        means: What handlers are run with.
        definition: Whose handler it is.
        context: What the handler is given beside its parameters.
        cancels: The current task's.
        keep_ms: For how long what it returns is kept, in ms; 0: it is not.
        max_bytes: How many bytes of JSON that may be.
    """

    __slots__ = (
        *("_caller", "_cancels", "_context", "_definition", "_keep_ms", "_max_bytes", "_means"),
        *("_returned", "_surroundings"),
    )

    def __init__(
        self,
        caller: Caller,
        means: HandlerRuntime,
        definition: JobDefinition[Any],
        context: JobContext,
        cancels: TaskCancels,
        keep_ms: int,
        max_bytes: int,
    ) -> None:
        self._caller = caller
        self._means = means
        self._definition = definition
        self._context = context
        self._cancels = cancels
        self._keep_ms = keep_ms
        self._max_bytes = max_bytes
        # Here, for the fresh one to have it: to enter that once more would cost a job ten times as much.
        set_current_job(context)
        # A fresh one each: what a handler sets in it is no business of the next job's.
        self._surroundings: Context = means.contexts.fresh()

    def begin(self, parameters: bytes) -> Run:
        """Read the parameters, and let the handler begin.

        Returns:
            The outcome, or what is to be awaited for it, in the same task.

        Raises:
            BaseException: Only a cancellation that came from outside.
        """
        definition, surroundings = self._definition, self._surroundings
        try:
            decoded = surroundings.run(payload.decode_parameters, definition.name, parameters)
        except DecodeError as error:
            return Undecodable(str(error))
        except BaseException as error:  # the parameters' own code
            return Raised(error)
        if not definition.is_async:
            self._cancels.by_job = False
            return self._wait_for(self._call_elsewhere(decoded))
        begun = begin_in(surroundings, self._taker, definition.call, decoded, self._context)
        if isinstance(begun, tuple):
            return self._wait_for(go_on_in(surroundings, begun, self._taker, self._cancels))
        self._cancels.by_job = True  # as it has waited for nothing
        try:
            return self._ended(begun)
        finally:
            del begun  # or it would hold itself: its traceback leads to the frames that called the handler

    async def _wait_for(self, called: Awaitable[BaseException | None]) -> Outcome:
        try:
            raised = await called
        except NoThread:
            return self._means.unplaced()
        except anyio.get_cancelled_exc_class() as error:
            raised = error
        try:
            return await awaited(self._ended(raised))
        finally:
            del raised  # as above

    def _ended(self, raised: BaseException | None) -> Run:
        """What the handler came to: by what it raised, and else by what it returned and pushed."""
        self._caller.has_returned = True
        if raised is None:
            if not self._keep_ms and self._caller.pushes is None:
                return DONE
            return self._came_to_more()
        try:
            return self._came_to(raised)
        finally:
            del raised  # as above

    async def _came_to_more(self) -> Outcome:
        """The outcome where the handler has returned, and its result is kept, or it has pushed jobs."""
        outcome = self._surroundings.run(self._keep) if self._keep_ms else DONE
        pushes = self._caller.pushes
        if pushes is None or not isinstance(outcome, Done):
            return outcome
        if jobs := await pushes.close():
            return Done(outcome.result, jobs)
        self._caller.pushes = None
        return outcome

    def _keep(self) -> Outcome:
        """The outcome where the result is kept: that, or why it can't be."""
        definition, returned = self._definition, self._returned
        try:
            if type(returned) is NotPacked:
                raise EncodeError(f"{definition.name.name}: the result can't leave its process: {returned.why}")
            value = payload.encode_parameters(definition.returns, returned, self._max_bytes)
        except (EncodeError, RegistrationError) as error:
            if definition.strict_result:
                return Raised(UnwritableResult(f"the handler has returned, and is not run again: {error}"))
            return Done(Result(self._keep_ms, refused=visible(str(error), _WHY_CHARACTERS)))
        except BaseException as error:  # the code of its type
            return Raised(error)
        return Done(Result(self._keep_ms, value))

    def _came_to(self, raised: BaseException) -> Outcome:
        """What it means that the handler raised; a cancellation that was meant for the worker goes on."""
        if type(raised) is NoThread:  # found only inside of the middleware
            return self._means.unplaced()
        why = self._caller.why
        if why is OUTRAN:
            return self._caller.late(raised)
        by_others = was_asked() or (self._cancels.count() and not self._cancels.by_job)
        if by_others and isinstance(raised, anyio.get_cancelled_exc_class()):
            try:
                raise raised
            finally:
                del raised  # as above
        return Raised(raised) if why is None else why

    # Where it is called

    def _call_elsewhere(self, parameters: Any) -> Awaitable[BaseException | None]:
        """Run a handler in a process or a thread; what it raised."""
        if self._definition.in_process and self._means.processes is not None:
            return self._call_in_process(self._means.processes, parameters)
        return self._call_in_thread(parameters)

    async def _call_in_process(self, processes: "HandlerPool", parameters: Any) -> BaseException | None:
        self._returned, raised = await processes.run(self._definition, parameters, self._context)
        return raised

    async def _call_in_thread(self, parameters: Any) -> BaseException | None:
        if self._means.threads.full:
            raise NoThread
        errand = partial(call_in, self._surroundings, self._definition.call, parameters, self._context)
        returned, raised = await self._means.threads.run(errand, self._caller)
        if is_awaitable(returned):  # a plain function that returns a coroutine, as decorators make them
            return await run_in(self._surroundings, self._taker, _itself, returned)
        self._returned = returned if self._keep_ms else None
        return raised

    @property
    def _taker(self) -> Callable[[Any], None] | None:
        """What is given what the handler returned; None where that is not kept."""
        return self._take_returned if self._keep_ms else None

    def _take_returned(self, returned: Any) -> None:
        self._returned = returned


def _itself(called: Awaitable[Any]) -> Awaitable[Any]:
    return called
