"""Runs the jobs of a test: real workers, what they came to, and the time that passes between them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Unpack

from redisjobs.client.registry import Registry
from redisjobs.drivers.memory import limits, pushes, worker
from redisjobs.drivers.memory.ends import forget
from redisjobs.drivers.memory.state import Memory
from redisjobs.events.kinds import JobsSettled
from redisjobs.model.job import OnConflict
from redisjobs.model.transitions import NewJob, Reply
from redisjobs.testing.clock import Clock
from redisjobs.testing.driver import DRAIN, Faults, Killed, RecordingDriver, name_of
from redisjobs.testing.outcomes import Drained, JobOutcome, Returned, outcome_of
from redisjobs.worker.scheduler.declaring import Declaring
from redisjobs.worker.scheduler.firing import Firer
from redisjobs.worker.scheduler.known import KnownSchedules
from redisjobs.worker.service import WorkerOptions
from redisjobs.worker.worker import Worker

_MOST_ROUNDS = 1_000  # times that a drain moves on to the next delayed job
_MOST_SLOTS = 10_000  # slots of schedules that one `travel` passes


class Runs:
    """Runs the jobs of some queues on one clock.

    Args:
        queues: The queues, which are in memory.
        drivers: Their drivers, one for each queue name.
        clock: The clock of all queues. It stands still.
        faults: The faults that the test has asked for.
    """

    def __init__(
        self, queues: Sequence[Registry], drivers: dict[str, RecordingDriver], clock: Clock, faults: Faults
    ) -> None:
        self._queues = queues
        self._drivers = drivers
        self._clock = clock
        self._faults = faults

    async def drain(self, *, delayed: bool, **options: Unpack[WorkerOptions]) -> Drained:
        """Run jobs until none is ready, with `delayed` until none is delayed either."""
        self._faults.check()
        outcomes: list[JobOutcome] = []
        queues = self._handled()
        for _ in range(_MOST_ROUNDS):
            outcomes += await _work(queues, self._faults, options) if queues else []
            next_ms = self._next_ms(queues) if delayed else None
            if next_ms is None:
                return Drained([*outcomes, *self._unhandled(queues, math.inf if delayed else self._clock())])
            await self.travel_to(next_ms)
        raise RuntimeError(
            f"drain(delayed=True) has moved the clock {_MOST_ROUNDS:,} times, and jobs are still delayed: they "
            "snooze or push each other for ever; use travel and drain() instead"
        )

    def _handled(self) -> list[Registry]:
        """Return the queues that have handlers; of each name there may be one."""
        handled = [queue for queue in self._queues if queue.definitions]
        if double := [queue.name for queue in handled if sum(each.name == queue.name for each in handled) > 1]:
            raise ValueError(
                f"several queues named {double[0]!r} have handlers, and a job would go to any of them: use one in "
                "the test"
            )
        return handled

    def _unhandled(self, handled: Iterable[Registry], until_ms: float) -> list[JobOutcome]:
        """Return an outcome for each job of a queue without any handler that is due until then."""
        found, others = [], self._drivers.keys() - {queue.name for queue in handled}
        for name in sorted(others):
            memory = self._drivers[name].memory
            with memory.lock:
                waiting = [*memory.waiting(), *memory.due(until_ms)]
            why = f"queue '{name}' has no handlers in this test"
            found += [
                JobOutcome(job.id, job.name, "retried", reason="unknown name", message=why) for job in waiting
            ]
        return found

    def _next_ms(self, handled: Iterable[Registry]) -> int | None:
        """Return when the next job may start: a delayed one, or one that waits for a rate."""
        now_ms, waits = self._clock(), []
        for memory in (self._drivers[queue.name].memory for queue in handled):
            with memory.lock:
                due_ms = memory.next_due()
                waits.append(limits.next_turn(memory, None if due_ms is None else (due_ms - now_ms) / 1000))
        wait = min((wait for wait in waits if wait is not None), default=None)
        return None if wait is None else now_ms + max(1, math.ceil(wait * 1000))

    # One job

    async def run(self, queue: Registry, job: NewJob, attempt: int) -> JobOutcome:
        """Run one job by itself, and leave nothing of it on the queue; what its handler pushes stays."""
        self._faults.check()
        driver = self._drivers[queue.name]
        fields = [*job.fields, *(["attempt", str(attempt)] if attempt > 1 else [])]
        alone = replace(
            job,
            fields=fields,
            due=None,
            unique="",
            unique_for_ms=None,
            expires_in_ms=None,
            on_conflict=OnConflict.SKIP,
        )
        with driver.memory.lock:
            (answer,) = pushes.push(driver.memory, [alone], repeated=False)
        if answer.reply is not Reply.OK:
            raise ValueError(f"job_id={job.job_id!r}: a job of that id is on the queue")
        driver.only, returned = job.job_id, Returned()
        try:
            outcomes = await _work([queue], self._faults, {"middleware": [returned]}, returned)
        finally:
            driver.only = None
            with driver.memory.lock:
                left = driver.memory.jobs.get(job.job_id)
                if left is not None:
                    driver.memory.remove(left)
                    forget(driver.memory, left)
        if not outcomes:
            raise RuntimeError(
                f"a worker of the application has taken job {job.job_id}: start the application without it, as by "
                "lifespan(worker=False), or push the job"
            )
        return outcomes[0]

    # Time

    async def travel_to(self, at_ms: int) -> None:
        """Move the clock. Schedules fire on the way, each at its slot, as workers would have fired them."""
        schedulers = [
            _ClockedSchedules(queue) for queue in self._queues if _has_schedules(queue, self._drivers[queue.name])
        ]
        for scheduler in schedulers:
            await scheduler.declare()
        for _ in range(_MOST_SLOTS):
            slot_ms = min((scheduler.next_ms for scheduler in schedulers), default=math.inf)
            if slot_ms > at_ms:
                self._move(at_ms)
                return
            self._move(max(int(slot_ms), self._clock()))
            for scheduler in schedulers:
                await scheduler.fire(self._clock())
        raise ValueError(
            f"there are more than {_MOST_SLOTS:,} slots of schedules on the way: travel in shorter steps"
        )

    def _move(self, at_ms: int) -> None:
        seconds = (at_ms - self._clock()) / 1000
        self._clock.set_to = at_ms
        for driver in self._drivers.values():
            with driver.memory.lock:
                for each in driver.memory.workers.values():
                    each.until += 0 if each.id in self._faults.dead else seconds  # the others kept beating
                _take_over(driver.memory)
                driver.memory.tell("due", "0")  # a worker of the application judges by its own clock


def _take_over(memory: Memory) -> None:
    """Hand back the jobs of workers whose lease is over, by a worker that comes and goes."""
    if all(each.until > memory.monotonic() for each in memory.workers.values()):
        return
    worker.join(memory, "heir", 1, "heir")
    silent = worker.reclaim(memory, "heir", (), others=False).silent
    worker.reclaim(memory, "heir", silent, others=False)
    worker.release(memory, "heir", refund=True, watch=False)


class _ClockedSchedules:
    """Fires the schedules of one queue as the clock passes their slots."""

    def __init__(self, queue: Registry) -> None:
        self._known = known = KnownSchedules(queue)
        self._firing = Firer(known)
        self._declaring = Declaring(known, self._firing)

    async def declare(self) -> None:
        """Declare the schedules of the code, and read all of the queue."""
        await self._declaring.look()

    @property
    def next_ms(self) -> float:
        """When the next slot is; infinity if there is none."""
        return min((plan.next_ms for plan in self._known.plans.values()), default=math.inf)

    async def fire(self, now_ms: int) -> None:
        """Fire what is due."""
        self._known.record_time(now_ms)
        await self._firing.fire_due()


def _has_schedules(queue: Registry, driver: RecordingDriver) -> bool:
    return bool(queue.declared or driver.memory.schedules)


async def _work(
    queues: Sequence[Registry],
    faults: Faults,
    options: WorkerOptions,
    returned: Returned | None = None,
) -> list[JobOutcome]:
    """Run workers until idle, another one after each that died; return the outcomes of their runs."""
    outcomes: list[JobOutcome] = []

    def listen(queue: Registry, event: JobsSettled) -> None:
        if event.worker.startswith(f"{DRAIN}:"):  # the application may run a worker, too
            for job in event.jobs:
                if (outcome := outcome_of(queue, job, returned)) is not None:
                    outcomes.append(outcome)

    ends = [queue.events.subscribe(JobsSettled, partial(listen, queue)) for queue in queues]
    try:
        while True:
            try:
                given: WorkerOptions = {"concurrency": 1, **options, "worker_id": DRAIN}
                await Worker(queues, schedules=False, **given).run(until_idle=True)
                return outcomes
            except Killed as killed:
                outcomes.append(JobOutcome(killed.lease.job_id, name_of(killed.lease), "crashed"))
    finally:
        for end in ends:
            end()
