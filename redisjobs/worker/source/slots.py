"""The slots of a worker. Each is a task that runs one job after another, as long as the worker runs."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint_if_cancelled

from redisjobs.base.eventloop import Gate, gates
from redisjobs.model.outcome import Outcome, Raised
from redisjobs.worker.running.cancels import TaskCancels
from redisjobs.worker.running.deadline import Deadline, Over
from redisjobs.worker.running.execution import Execution
from redisjobs.worker.running.handler_run import DONE, HandlerRun, awaited


class Slots:
    """As many slots as jobs may run at once. A task for each job would cost more than all the rest of a run."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._unstarted = 0
        self._slots: list[_Slot] = []
        self._idle: list[_Slot] = []
        self._woken = 0  # woken slots that have not looked for jobs yet
        self._waiting: deque[Execution] = deque()
        self.held = 0  # jobs that run, and those that wait for a slot

    def start(self, tasks: TaskGroup) -> None:
        """Run jobs from now on. Each slot is started when it is first needed."""
        self._tasks = tasks
        self._new_gate = gates()
        self._unstarted = self._count

    def count_busy(self) -> int:
        """Return how many slots run a job. Any thread may call it."""
        return min(self.held, self._count)

    def deadlines(self) -> Iterator[tuple[Deadline, Over]]:
        """Return the deadlines of the jobs that run now, and what ends these."""
        for slot in self._slots:
            if slot.run is not None and slot.run.deadline is not None:
                yield slot.run.deadline, slot.run.check_deadline

    @property
    def oldest(self) -> float:
        """When the job that has waited longest was given, by the monotonic clock; infinity if none waits."""
        return self._waiting[0].given_at if self._waiting else float("inf")

    def take_back(self, given_before: float) -> list[Execution]:
        """Take back waiting jobs that were given before a time of the monotonic clock; none if slots are free."""
        late: list[Execution] = []
        while self.oldest <= given_before and not (self._woken or self._idle):
            late.append(self._waiting.popleft())
        self.held -= len(late)
        return late

    def give(self, runs: Sequence[Execution]) -> None:
        """Let slots run these jobs, in this order. Idle slots take them, or slots that are idle soon."""
        self.held += len(runs)
        self._waiting += runs
        if runs and not self._woken:
            self._wake(1)

    def give_isolated(self, run: Execution) -> None:
        """Run a job while no other runs. All slots get new tasks first, so nothing of earlier jobs is left."""
        for slot in self._slots:
            slot.scope.cancel()
        self.give([run])

    def _wake(self, count: int, stands_by: "_Slot | None" = None) -> None:
        """Wake up to `count` idle slots; if there are too few, start some.

        One slot is woken for the first waiting job, and takes one job after another. As long as these await
        nothing, it runs them all: waking a slot for each would cost as much as all the rest. A second slot stands
        by. It runs once a job awaits something, and then wakes a slot for each job that is left.
        """
        for _ in range(min(count, len(self._idle) + self._unstarted)):
            self._woken += 1
            slot = self._idle.pop() if self._idle else self._start_one()
            slot.is_woken, slot.stands_by = True, stands_by
            slot.gate.open()

    def _start_one(self) -> "_Slot":
        self._unstarted -= 1
        slot = _Slot(self._new_gate)
        self._slots.append(slot)
        self._tasks.start_soon(self._serve, slot)
        return slot

    async def _serve(self, slot: "_Slot") -> None:
        """Run jobs in a task, and in a new task after that was cancelled.

        A handler may cancel its task, or leave a cancel scope or a timeout open there, which could hit later jobs.
        """
        while True:
            try:
                async with anyio.create_task_group() as tasks:
                    slot.scope = tasks.cancel_scope
                    tasks.start_soon(self._run_jobs, slot)
            except* RuntimeError:  # a scope is open there: anyio and trio raise this as the task ends
                pass
            await checkpoint_if_cancelled()  # if the worker ends; on trio nothing else raises here
            if slot.failure is not None:
                raise slot.failure
            if slot.run is not None:
                self._end(slot, slot.run.cut_off())

    async def _run_jobs(self, slot: "_Slot") -> None:
        cancels, scope = TaskCancels(), slot.scope
        try:
            self._is_up(slot)
            run = await self._next(slot)
            while True:
                slot.run = run
                if self._waiting and not self._woken:  # in case this job awaits something
                    self._wake(1, stands_by=slot)
                try:
                    came_to = HandlerRun(run, cancels).begin(scope)
                    outcome = came_to if came_to is DONE else await awaited(came_to)
                except (anyio.get_cancelled_exc_class(), GeneratorExit):
                    raise
                except BaseException as error:
                    # What a handler raised or returned may run the user's code when we inspect it.
                    outcome = Raised(error)
                self._end(slot, outcome)
                came_to = outcome = DONE  # don't keep what a handler raised while this slot waits for its next job
                if scope.cancel_called or cancels.count():
                    return
                run = self._waiting.popleft() if self._waiting else await self._next(slot)
        except anyio.get_cancelled_exc_class():
            pass  # an open scope may have sent it; if the worker ends, the task above is cancelled too
        except Exception as error:  # our own error
            slot.failure = error

    async def _next(self, slot: "_Slot") -> Execution:
        # Look again if a faster slot took the job, or wait for a cancel that is still to come.
        while not self._waiting or slot.scope.cancel_called:
            slot.gate = self._new_gate()
            self._idle.append(slot)
            try:
                await slot.gate.wait()
            finally:
                if slot in self._idle:  # cancelled
                    self._idle.remove(slot)
                self._is_up(slot)
        run = self._waiting.popleft()
        if slot.stands_by is not None and slot.stands_by.run is not None:  # else these came after it had run all
            self._wake(len(self._waiting) - self._woken)
        return run

    def _is_up(self, slot: "_Slot") -> None:
        self._woken -= slot.is_woken
        slot.is_woken = False

    def _end(self, slot: "_Slot", outcome: Outcome) -> None:
        run, slot.run = slot.run, None
        assert run is not None
        run.ended = True
        self.held -= 1
        run.owner.ran(run, outcome)


class _Slot:
    __slots__ = ("failure", "gate", "is_woken", "run", "scope", "stands_by")

    def __init__(self, new_gate: Callable[[], Gate]) -> None:
        self.gate = new_gate()
        self.is_woken = False
        self.stands_by: _Slot | None = None  # the slot that it stands by for
        self.run: Execution | None = None
        self.scope = anyio.CancelScope()  # of the task that runs its jobs
        self.failure: Exception | None = None  # our own error in that task
