"""The kit for tests of an application: its queues in memory, on a clock that stands still."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import anyio

from redisjobs import sync
from redisjobs.base.arguments import aware, whole
from redisjobs.base.eventloop import threadsafe_caller
from redisjobs.client.registry import Registry
from redisjobs.drivers.memory.state import Memory
from redisjobs.errors import UnknownJob
from redisjobs.model import codec
from redisjobs.model.job import JobName, PushedJob
from redisjobs.model.options import PushOptions
from redisjobs.model.transitions import NewJob, Reply
from redisjobs.testing.clock import Clock
from redisjobs.testing.driver import Faults, RecordingDriver
from redisjobs.testing.moves import Moves, checked_queue
from redisjobs.testing.outcomes import Drained, JobOutcome
from redisjobs.testing.pushes import Push, Pushes, Wanted
from redisjobs.testing.runs import Runs
from redisjobs.worker.service import WorkerOptions

T = TypeVar("T")

_SOON = 0.01  # seconds after which a call gives up while Redis is unavailable


class Kit:
    """What `Jobs` and `AsyncJobs` share: everything that runs no job.

    Attributes:
        queues: The queues that the test uses, in memory.
    """

    def __init__(self, *queues: Registry) -> None:
        self.queues: list[Registry] = []
        self._clock = Clock()
        self._faults = Faults()
        self._pushes = Pushes(self.queues)
        self._drivers: dict[str, RecordingDriver] = {}
        self._moves = Moves()
        self._runs = Runs(self.queues, self._drivers, self._clock, self._faults)
        self._given = queues

    def __enter__(self) -> Self:
        self._clock.set_to = self._clock()
        self.use(*self._given)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._moves.undo()
        self.queues.clear()

    def use(self, *queues: Registry) -> None:
        """Move queues to memory until the end of the test. Queues of one name then share their jobs.

        Raises:
            TypeError: One of them is not a queue.
        """
        for queue in [checked_queue(each) for each in queues]:  # all, before one is moved
            if queue in self.queues:
                continue
            name = queue.name
            if name not in self._drivers:
                memory = Memory(self._clock, lambda: self._clock() / 1000)
                self._drivers[name] = RecordingDriver(memory, name, self._faults, self._pushes)
            self._moves.move(queue, self._drivers[name])
            self.queues.append(queue)

    # Pushes

    def pushed(self, job: Any = None, /, **values: Any) -> list[Push]:
        """Return the jobs that were pushed in this test, in order; with arguments, those that match.

        Schedules and handlers push jobs, too, and so does a job that runs children. A push that added nothing does
        not count.

        Args:
            job: The parameter type, the parameters, the name, the JobName, or the function of the jobs.
            values: The values of some parameters, or of options of the push. A parameter goes before an option of
                the same name.

        Raises:
            TypeError: There is no such parameter or option.
        """
        if job is None:
            return list(self._pushes.all)
        return self._pushes.matching(self._wanted(job, values))

    def _wanted(self, job: Any, values: dict[str, Any]) -> Wanted:
        if not self.queues:
            raise RuntimeError(
                "this test uses no queue: override the fixture redisjobs_queues in conftest.py to return your "
                "queues, or call use(queue)"
            )
        return self._pushes.wanted(job, values)

    def _asserted(self, job: Any, values: dict[str, Any], **own: object) -> Wanted:
        """Return what `assert_pushed` is about; its own arguments must not be meant as parameters of the job."""
        wanted = self._wanted(job, values)
        if meant := [name for name, value in own.items() if value and name in wanted.fields]:
            raise TypeError(
                f"{wanted.name} has a parameter {meant[0]!r}, as assert_pushed has: use pushed(), which has none"
            )
        return wanted

    def _checked(self, wanted: Wanted, times: int | None) -> list[Push]:
        found = self._pushes.matching(wanted)
        if not found if times is None else len(found) != times:
            raise AssertionError(self._pushes.missing(wanted, times))
        return found

    def _is_pushed(self, wanted: Wanted, times: int | None) -> bool:
        return len(self._pushes.matching(wanted)) >= (times or 1)

    def _refute(self, job: Any, values: dict[str, Any]) -> None:
        if message := self._pushes.unwanted(self._wanted(job, values)):
            raise AssertionError(message)

    # Time

    @property
    def now(self) -> datetime:
        """The time of the test's clock, in UTC. It begins with the real time, and stands still."""
        return codec.when(self._clock())

    def _time_after(self, to: datetime | None, units: dict[str, float]) -> int:
        """Return the time that `travel` goes to, in ms."""
        if (to is None) == (not units):
            raise ValueError("travel takes a time or a duration, as travel(hours=1) or travel(to=a_datetime)")
        at = aware(to, "to") if to is not None else self.now + timedelta(**units)
        at_ms = round(at.timestamp() * 1000)
        if at_ms < self._clock():
            raise ValueError(f"the clock is at {self.now}, and can't go back")
        return at_ms

    # Signals

    def signal(self, job: str | PushedJob, name: str, value: Any = None) -> Reply:
        """Send a signal to a job of the test; see `JobQueue.signal` for the replies. The next drain runs the job.

        Raises:
            EncodeError: The value is no plain JSON. Nothing was sent.
            StepsFull: The job keeps as many signals as it may.
            ValueError: The name is wrong.
            Unavailable: The test has made Redis unavailable.
        """
        reply = Reply.NOT_FOUND
        for driver in self._drivers.values():
            with sync.JobQueue(driver, driver.name, deadline=_SOON) as queue:
                reply = queue.signal(job, name, value)
            if reply is not Reply.NOT_FOUND:
                break
        return reply

    # Faults

    def crash(self, job: Any, *, times: int = 1) -> None:
        """Let the worker of a later drain die in such a job: its handler ends, and nothing of that is settled.

        The job stays with the dead worker until its lease of 15 seconds is over; see `travel`. Then it is
        delivered again, and after three deliveries it is a dead letter. The drain goes on with another worker.

        Raises:
            UnknownJob: No queue of the test has a handler for it.
        """
        name, _ = self._pushes.name_of(job)
        called = name.name if isinstance(name, JobName) else name
        self._queue_for(called)
        self._faults.crashes[called] += whole(times, "times")

    def lose_reply(self, *, times: int = 1) -> None:
        """Let the reply to the next push be lost: the job is on the queue, but the caller has no answer.

        The queue repeats the push, and the job is there once.
        """
        self._faults.lost_replies += whole(times, "times")

    @contextmanager
    def unavailable(self) -> Iterator[None]:
        """Let Redis be unavailable in a `with` block: each call of the queues raises `Unavailable`.

        The queues give up after 10 ms instead of their `deadline`.
        """
        before = [(queue, queue.deadline) for queue in self.queues]
        was, self._faults.is_unavailable = self._faults.is_unavailable, True
        for queue in self.queues:
            queue.deadline = _SOON
        try:
            yield
        finally:
            self._faults.is_unavailable = was
            for queue, deadline in before:
                queue.deadline = deadline

    # For the runs

    def _job_for(self, parameters: Any, name: Any, options: PushOptions) -> tuple[Registry, NewJob]:
        """Return the job that `run` runs, and the queue that has its handler."""
        if isinstance(parameters, NewJob):
            return self._queue_for(str(parameters.fields[1]), parameters.queue), parameters
        called, _ = self._pushes.name_of(parameters if name is None else name)
        queue = self._queue_for(called.name if isinstance(called, JobName) else called)
        return queue, queue.prepare(parameters, name, **options)

    def _queue_for(self, name: str, queue_name: str = "") -> Registry:
        for queue in self.queues:
            # By `get`, because a queue of Django's tasks then looks for a task that was not used before.
            if queue_name in ("", queue.name) and queue.definitions.get(name) is not None:
                return queue
        known = ", ".join(sorted(each for queue in self.queues for each in queue.definitions)) or "none"
        raise UnknownJob(f"no queue of this test has a handler for '{name}'; registered: {known}")


class Jobs(Kit):
    """The kit for sync tests: `with Jobs(queue) as jobs:`, or the fixture `jobs`.

    Args:
        queues: The queues of the application, sync or async. They are in memory until the end of the test.
    """

    _runner: asyncio.Runner

    def __enter__(self) -> Self:
        # With a loop factory, the runner leaves the thread's current event loop alone.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._runner.close()
        finally:
            super().__exit__(kind, error, trace)

    def _wait_for(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if _is_in_event_loop():
            raise RuntimeError("this test runs in an event loop: use the fixture ajobs, and await its methods")
        return self._runner.run(call())

    def assert_pushed(
        self, job: Any, /, *, times: int | None = None, timeout: float = 0, **values: Any
    ) -> list[Push]:
        """Check that a job was pushed in this test, and return the pushes that match; see `pushed`.

        Args:
            job: The parameter type, the parameters, the name, the JobName, or the function of the job.
            times: How many pushes must match. Defaults to any number from 1.
            timeout: The seconds to wait for a push by another thread.
            values: The values of some parameters, or of options of the push.

        Raises:
            AssertionError: No push matches, or the number differs. The message shows the nearest ones.
            TypeError: There is no such parameter or option; or `times` or `timeout` is also one: use `pushed`.
        """
        wanted = self._asserted(job, values, times=times, timeout=timeout)
        with self._pushes.changed:
            self._pushes.changed.wait_for(lambda: self._is_pushed(wanted, times), timeout)
        return self._checked(wanted, times)

    def refute_pushed(self, job: Any, /, **values: Any) -> None:
        """Check that no such job was pushed in this test; see `pushed`.

        Raises:
            AssertionError: One was. The message lists all.
        """
        self._refute(job, values)

    def drain(
        self, *, delayed: bool = False, raise_errors: bool = True, **options: Unpack[WorkerOptions]
    ) -> Drained:
        """Run the jobs of all queues with a real worker, until none is ready.

        One job runs at a time, unless you give a `concurrency`. The clock stands still, so a job that is retried
        or sleeps waits for `travel`, and one that waits for a signal waits for `signal`. One that runs children
        goes on in the same drain, once they have ended. A drain does not wait for jobs that a worker of the
        application runs.

        Args:
            delayed: Whether to move the clock on until no job is delayed, retries and jobs that sleep included.
            raise_errors: Whether to raise, at the end, what the first handler that failed has raised. `Retry` and
                `Snooze` are no failures.
            options: Options of the worker; see `Worker`.

        Returns:
            How many jobs were completed, retried, and so on.

        Raises:
            UnknownJob: A job has no handler here.
            JobFailed: A job became a dead letter, and its handler raised nothing.
        """
        drained = self._wait_for(lambda: self._runs.drain(delayed=delayed, **options))
        if raise_errors:
            drained.check()
        return drained

    def run(
        self, parameters: Any, name: Any = None, *, attempt: int = 1, **options: Unpack[PushOptions]
    ) -> JobOutcome:
        """Run one job with a real worker, and return its outcome. It does not stay on the queue.

        What it pushes stays, and so do children that it runs: it does not wait for them, and its outcome is
        `suspended`.

        Args:
            parameters: As in `push`; or a job that `prepare` made.
            name: As in `push`.
            attempt: The number of the attempt, from 1.
            options: Options of the push. A delay, an expiry and a unique key have no effect.

        Raises:
            UnknownJob: No queue of the test has a handler for it.
            EncodeError: The parameters don't fit.
            RuntimeError: A worker of the application has taken it.
        """
        queue, job = self._job_for(parameters, name, options)
        return self._wait_for(lambda: self._runs.run(queue, job, whole(attempt, "attempt")))

    def travel(self, *, to: datetime | None = None, **units: float) -> None:
        """Move the clock, by a duration such as `hours=1`, or to a time.

        Delayed jobs and retries become due, jobs that sleep wake, waits for signals time out, jobs expire, unique
        keys and leases of dead workers run out. The next drain runs what is due. Schedules fire on the way: their
        jobs are pushed, once for each slot.

        Args:
            to: A time with a time zone.
            units: `weeks`, `days`, `hours`, `minutes`, `seconds`.

        Raises:
            ValueError: The time is in the past.
        """
        at_ms = self._time_after(to, units)
        self._wait_for(lambda: self._runs.travel_to(at_ms))


class AsyncJobs(Kit):
    """The kit for async tests: `with AsyncJobs(queue) as jobs:`, or the fixture `ajobs`.

    You await its methods `drain`, `run`, `travel`, `assert_pushed` and `refute_pushed`.

    Args:
        queues: The queues of the application, sync or async. They are in memory until the end of the test.
    """

    def assert_pushed(
        self, job: Any, /, *, times: int | None = None, timeout: float = 0, **values: Any
    ) -> Awaitable[list[Push]]:
        """Check that a job was pushed in this test; see `Jobs.assert_pushed`.

        Without a timeout it is checked at once, so a forgotten `await` hides no failure.
        """
        wanted = self._asserted(job, values, times=times, timeout=timeout)
        return self._wait(wanted, times, timeout) if timeout else _Ready(self._checked(wanted, times))

    async def _wait(self, wanted: Wanted, times: int | None, timeout: float) -> list[Push]:
        wake, there = threadsafe_caller(), anyio.Event()

        def listener() -> None:
            wake(lambda: there.set())

        self._pushes.listeners.append(listener)
        try:
            with anyio.move_on_after(timeout):
                while not self._is_pushed(wanted, times):
                    await there.wait()
                    there = anyio.Event()
        finally:
            self._pushes.listeners.remove(listener)
        return self._checked(wanted, times)

    def refute_pushed(self, job: Any, /, **values: Any) -> Awaitable[None]:
        """Check that no such job was pushed in this test, at once; see `Jobs.refute_pushed`."""
        self._refute(job, values)
        return _Ready(None)

    async def drain(
        self, *, delayed: bool = False, raise_errors: bool = True, **options: Unpack[WorkerOptions]
    ) -> Drained:
        """Run the jobs of all queues in this event loop, until none is ready; see `Jobs.drain`."""
        drained = await self._runs.drain(delayed=delayed, **options)
        if raise_errors:
            drained.check()
        return drained

    async def run(
        self, parameters: Any, name: Any = None, *, attempt: int = 1, **options: Unpack[PushOptions]
    ) -> JobOutcome:
        """Run one job in this event loop, and return its outcome; see `Jobs.run`."""
        queue, job = self._job_for(parameters, name, options)
        return await self._runs.run(queue, job, whole(attempt, "attempt"))

    async def travel(self, *, to: datetime | None = None, **units: float) -> None:
        """Move the clock, by a duration such as `hours=1`, or to a time; see `Jobs.travel`."""
        await self._runs.travel_to(self._time_after(to, units))


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Ready(Awaitable[T]):
    """A value that is there, to await."""

    def __init__(self, value: T) -> None:
        self._value = value

    def __await__(self) -> Generator[Any, None, T]:
        return self._value
        yield  # makes this a generator
