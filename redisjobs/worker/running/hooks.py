"""Calls the middleware hooks `on_claim` and `on_settled` after the fact, in a task that no exchange waits for."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from redisjobs.base.eventloop import is_awaitable, was_asked
from redisjobs.base.logger import Log
from redisjobs.events import Events, JobsClaimed, JobsSettled, WorkerEvent
from redisjobs.middleware import ClaimedJob, Hook, Middleware, hooks, log_raised
from redisjobs.worker.running.contexts import Contexts, run_in

_MOST = 10_000  # jobs that may wait for their hooks
_LAST = 2.0  # seconds for the hooks that still wait when the worker ends
_IN_A_ROW = 20  # jobs whose hooks are called before other tasks have a turn


class Hooks:
    """The hooks `on_claim` and `on_settled` of one run of a worker, called one after another.

    The number of jobs that wait is limited: hooks that are slower than the jobs for long are not called for some,
    and the log says for how many. A hook runs in a context of its own.

    Args:
        middleware: All of it, the outermost first.
        worker_id: Returns the worker's id: the queue has events of other workers as well.
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
        self._turn = anyio.Lock()  # held by the one that calls hooks: the task, or `finish`
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
                self._log.warning("hooks of middleware are slower than the jobs: they are not called for some")
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
        """Call the hooks that still wait, for a moment, and stop listening."""
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
            self._log.warning("for %d jobs hooks of middleware were not called: they are too slow", self._left_out)
            self._left_out = 0


async def _awaited(hook: Hook, arguments: Sequence[Any]) -> None:
    returned = hook(*arguments)
    if is_awaitable(returned):
        await returned
