"""Slots: each is a task that runs one job after another, for as long as the worker works."""

from collections.abc import Callable

import anyio
from anyio.abc import TaskGroup

from redisjobs.eventloop import Gate, gates
from redisjobs.outcome import Outcome, Raised
from redisjobs.worker.execution import Execution
from redisjobs.worker.guard import Guard, OpenScopes, be_task_of, cancel_counter, forget_cancels


class Slots:
    """As many slots as jobs may run at once. A task a job would cost more than all the rest of it.

    Args:
        count: How many.

    Attributes:
        busy: How many run a job.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._idle: list[_Slot] = []
        self._waiting: list[Execution] = []  # for a slot that is about to be idle
        self.busy = 0

    def start(self, tasks: TaskGroup, guard: Guard) -> None:
        """Start all of them."""
        self._guard = guard
        self._new_gate = gates()
        for _ in range(self._count):
            tasks.start_soon(self._serve)

    def count_busy(self) -> int:
        """How many run a job; for any thread."""
        return self.busy

    def give(self, run: Execution) -> None:
        """Let an idle slot run a job."""
        self.busy += 1
        if self._idle:
            slot = self._idle.pop()
            slot.run = run
            slot.gate.open()
        else:
            self._waiting.append(run)

    async def _serve(self) -> None:
        slot = _Slot(self._new_gate)
        be_task_of(slot)
        while True:
            try:
                with anyio.CancelScope() as scope:
                    await self._run_jobs(slot, scope)
            except anyio.get_cancelled_exc_class():
                # Else this task was cancelled by the job it runs, or by code that is no job's.
                if self._guard.was_meant():
                    raise
                forget_cancels()
                if slot in self._idle:
                    self._idle.remove(slot)
            except BaseException as error:
                # What a handler raised or returned has code of its own, which runs as we look at it.
                if slot.run is None or isinstance(error, GeneratorExit):
                    raise
                self._end(slot, Raised(error))
            # A scope cancels only once, so after a job that was given up it goes on with a new one.
            if slot.run is not None:
                self._end(slot, slot.run.given_up)

    async def _run_jobs(self, slot: "_Slot", scope: anyio.CancelScope) -> None:
        while not scope.cancel_called:
            run = slot.run = self._waiting.pop(0) if self._waiting else await self._next(slot)
            outcome = await run.run(scope, slot.scopes)
            if not scope.cancel_called and slot.cancels():
                forget_cancels()
            self._end(slot, outcome)
            del outcome  # what a handler raised is not to wait here for the next job

    async def _next(self, slot: "_Slot") -> Execution:
        slot.gate = self._new_gate()
        self._idle.append(slot)
        await slot.gate.wait()
        assert slot.run is not None
        return slot.run

    def _end(self, slot: "_Slot", outcome: Outcome) -> None:
        run, slot.run = slot.run, None
        assert run is not None
        run.ended = True
        self.busy -= 1
        run.owner.ran(run, outcome)


class _Slot:
    __slots__ = ("cancels", "gate", "run", "scopes")

    def __init__(self, new_gate: Callable[[], Gate]) -> None:
        self.gate = new_gate()
        self.run: Execution | None = None
        self.scopes = OpenScopes()
        self.cancels = cancel_counter()
