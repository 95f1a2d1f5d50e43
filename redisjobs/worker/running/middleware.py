"""Runs middleware in a worker: around handlers, and after claims and settlements."""

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from redisjobs.base.eventloop import is_awaitable, was_asked
from redisjobs.base.logger import Log
from redisjobs.events.kinds import Events, JobsClaimed, JobsSettled, WorkerEvent
from redisjobs.events.middleware import ClaimedJob, Hook, Middleware, RunningJob, hook_name, hooks, log_raised
from redisjobs.model.context import JobContext
from redisjobs.model.job import JobDefinition
from redisjobs.worker.running.contexts import Contexts, run_in
from redisjobs.worker.running.execution import Find
from redisjobs.worker.running.handler_run import call_elsewhere
from redisjobs.worker.running.threads import NoThread

Handler = Callable[[Any, JobContext], Awaitable[Any]]
Layer = Callable[[RunningJob, JobContext], Coroutine[Any, Any, Any]]
SyncLayer = Callable[[RunningJob, JobContext], Any]

_MOST = 10_000  # jobs that may wait for their hooks
_LAST = 2.0  # seconds for the hooks that still wait when the worker ends
_ONCE = "call_next runs a job's handler once, while around runs; for another run raise Retry"
_IN_A_ROW = 20  # jobs whose hooks are called before other tasks have a turn


# Around handlers


def finder(definitions: Mapping[str, JobDefinition[Any]], middleware: Iterable[Middleware]) -> Find:
    """Return a function that finds a job's definition, with the middleware that runs around its handler."""
    middleware = tuple(middleware)
    around, around_sync = hooks(middleware, "around"), hooks(middleware, "around_sync")
    if not around and not around_sync:
        return definitions.get
    chains = _Chains(definitions, around, around_sync)
    for name in list(definitions):
        chains.find(name)
    return chains.find


class _Chains:
    """Definitions with middleware around their calls.

    With an `around` hook, the call runs in the event loop, wherever the handler runs: the hook is async.
    """

    def __init__(
        self, definitions: Mapping[str, JobDefinition[Any]], around: Sequence[Hook], around_sync: Sequence[Hook]
    ) -> None:
        self._definitions = definitions
        self._around = around
        self._around_sync = around_sync
        self._composed: dict[str, JobDefinition[Any]] = {}
        self._turned_away: set[JobContext] = set()

    def find(self, name: str) -> JobDefinition[Any] | None:
        """Return the definition of a job name. If it was registered after the start, compose it on first use."""
        if (composed := self._composed.get(name)) is not None:
            return composed
        definition = self._definitions.get(name)
        if definition is not None:
            self._composed[name] = self._compose(definition)
        return self._composed.get(name)

    def _compose(self, definition: JobDefinition[Any]) -> JobDefinition[Any]:
        if self._around_sync and not definition.is_async and not definition.in_process:
            call = _chained_sync(definition.call, definition.name.name, self._around_sync)
            definition = replace(definition, call=call)
        return replace(definition, call=self._in_loop(definition), is_async=True) if self._around else definition

    def _in_loop(self, definition: JobDefinition[Any]) -> Handler:
        name = definition.name.name
        if definition.is_async:
            return _chained(definition.call, name, self._around, is_async=True)
        chain = _chained(self._elsewhere(definition), name, self._around, is_async=False)

        async def run(parameters: Any, context: JobContext) -> Any:
            try:
                return await chain(parameters, context)
            finally:
                if context in self._turned_away:  # whatever the middleware did with that error
                    self._turned_away.discard(context)
                    raise NoThread

        return run

    def _elsewhere(self, definition: JobDefinition[Any]) -> Handler:
        """Return a function that calls a plain function in a thread or a process."""

        async def call(parameters: Any, context: JobContext) -> Any:
            try:
                return await call_elsewhere(definition, parameters, context)
            except NoThread:
                self._turned_away.add(context)
                raise

        return call


def _chained(handler: Handler, name: str, around: Sequence[Hook], *, is_async: bool) -> Handler:
    """Return a handler with hooks around it, the first outermost."""

    async def innermost(job: RunningJob, context: JobContext) -> Any:
        return await handler(job.parameters, context)

    chain: Layer = innermost
    for hook in reversed(around):
        chain = _layer(hook, chain)

    async def outermost(parameters: Any, context: JobContext) -> Any:
        return await chain(RunningJob(context.job_id, name, parameters, is_async=is_async), context)

    return outermost


def _chained_sync(handler: Callable[[Any, JobContext], Any], name: str, around: Sequence[Hook]) -> Any:
    """Return a sync handler with hooks around it, the first outermost."""

    def innermost(job: RunningJob, context: JobContext) -> Any:
        return handler(job.parameters, context)

    chain: SyncLayer = innermost
    for hook in reversed(around):
        chain = partial(_call_around, hook, chain)

    def outermost(parameters: Any, context: JobContext) -> Any:
        return chain(RunningJob(context.job_id, name, parameters, is_async=False), context)

    return outermost


def _call_around(hook: Hook, inside: SyncLayer, job: RunningJob, context: JobContext) -> Any:
    is_over = False

    def call_next() -> Any:
        nonlocal is_over
        if is_over:
            raise RuntimeError(_ONCE)
        is_over = True
        return inside(job, context)

    try:
        return hook(job, context, call_next)
    finally:
        is_over = True


def _layer(hook: Hook, inside: Layer) -> Layer:
    async def layer(job: RunningJob, context: JobContext) -> Any:
        call_next = _Next(inside, job, context)
        try:
            returned = await hook(job, context, call_next)
        finally:
            awaited = call_next.end()
        if not awaited:
            raise RuntimeError(f"{hook_name(hook)} did not await call_next(): the handler did not run to its end")
        return returned

    return layer


class _Next:
    """Runs what is inside of a layer, once, and not after the layer has ended."""

    __slots__ = ("_begun", "_ended", "_inside", "_over", "_steps")

    def __init__(self, inside: Layer, job: RunningJob, context: JobContext) -> None:
        self._inside = partial(inside, job, context)
        self._steps: Coroutine[Any, Any, Any] | None = None  # called, but not begun
        self._begun = self._ended = self._over = False

    def __call__(self) -> Awaitable[Any]:
        if self._over or self._begun or self._steps is not None:
            raise RuntimeError(_ONCE)
        self._steps = self._run()
        return self._steps

    async def _run(self) -> Any:
        self._begun, self._steps = True, None
        try:
            return await self._inside()
        finally:
            self._ended = True

    def end(self) -> bool:
        """Let nothing start any more; return whether what was called has ended."""
        self._over = True
        forgotten, self._steps = self._steps, None
        if forgotten is not None:
            forgotten.close()
        return forgotten is None and self._ended == self._begun


# After claims and settlements


class Hooks:
    """The hooks `on_claim` and `on_settled` of one run of a worker, called one after another.

    The number of jobs that wait is limited. Hooks that are slower than the jobs for long are not called for some
    jobs, and the log shows for how many. Each hook runs in its own context.

    Args:
        middleware: All middleware, the outermost first.
        worker_id: Returns the worker's id, because the queue also has events of other workers.
        log: The log of the queue.
    """

    def __init__(self, middleware: Sequence[Middleware], worker_id: Callable[[], str], log: Log) -> None:
        self._on_claim = hooks(middleware, "on_claim")
        self._on_settled = hooks(middleware, "on_settled")
        self._contexts = Contexts()
        self._worker_id = worker_id
        self._log = log
        self._waiting: deque[tuple[Sequence[Hook], Sequence[Any]]] = deque()
        self._left_out = 0
        self._wakeup = anyio.Event()
        self._turn = anyio.Lock()  # held while hooks are called: by the task, or by `finish`
        self._unsubscribe: list[Callable[[], None]] = []

    def start(self, tasks: TaskGroup, events: Events) -> None:
        """Listen to claims and settlements from now on, if there is a hook for them."""
        if self._on_claim:
            self._unsubscribe.append(events.subscribe(JobsClaimed, self._claimed))
        if self._on_settled:
            self._unsubscribe.append(events.subscribe(JobsSettled, self._settled))
        if self._unsubscribe:
            tasks.start_soon(self._run)

    def _claimed(self, event: JobsClaimed) -> None:
        if self._is_ours(event):
            self._add(self._on_claim, ((ClaimedJob(lease),) for lease in event.leases))

    def _settled(self, event: JobsSettled) -> None:
        if self._is_ours(event):
            self._add(self._on_settled, ((job, job.outcome) for job in event.jobs))

    def _is_ours(self, event: WorkerEvent) -> bool:
        return event.worker == self._worker_id()

    def _add(self, called: Sequence[Hook], jobs: Iterable[Sequence[Any]]) -> None:
        for job in jobs:
            if len(self._waiting) < _MOST:
                self._waiting.append((called, job))
                continue
            if not self._left_out:
                self._log.warning("middleware hooks are slower than the jobs, and are not called for some of them")
            self._left_out += 1
        self._wakeup.set()

    async def _run(self) -> None:
        """Call hooks as jobs come, until cancelled."""
        while True:
            if not self._waiting:
                self._wakeup = anyio.Event()
                await self._wakeup.wait()
            async with self._turn:
                await self._call_all()

    async def finish(self) -> None:
        """Call the hooks that still wait, for 2 seconds at most, and stop listening."""
        if not self._unsubscribe:
            return
        with anyio.move_on_after(_LAST, shield=True):
            async with self._turn:
                await self._call_all()
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self._unsubscribe.clear()
        self._left_out += len(self._waiting)
        self._waiting.clear()
        self._say_left_out()

    async def _call_all(self) -> None:
        number = 0
        while self._waiting:
            called, arguments = self._waiting.popleft()
            for hook in called:
                await self._call(hook, arguments)
            number += 1
            if number % _IN_A_ROW == 0:
                await anyio.lowlevel.checkpoint()
        self._say_left_out()

    async def _call(self, hook: Hook, arguments: Sequence[Any]) -> None:
        raised = await run_in(self._contexts.fresh(), None, partial(_awaited, hook, arguments))
        if raised is None:
            return
        try:
            if isinstance(raised, anyio.get_cancelled_exc_class()) and was_asked():
                raise raised
            log_raised(hook, raised)
        finally:
            del raised  # a reference cycle otherwise: its traceback leads to the frames that called the hook

    def _say_left_out(self) -> None:
        if self._left_out:
            self._log.warning("middleware hooks were not called for %d jobs: they are too slow", self._left_out)
            self._left_out = 0


async def _awaited(hook: Hook, arguments: Sequence[Any]) -> None:
    returned = hook(*arguments)
    if is_awaitable(returned):
        await returned
