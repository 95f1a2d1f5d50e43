"""The calls by which a handler saves steps and waits: `context.step`, `context.sleep`, and so on."""

import math
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from contextvars import copy_context
from datetime import datetime, timedelta
from typing import Any, Literal, ParamSpec, TypeVar, overload
from weakref import WeakKeyDictionary

from redisjobs.base.arguments import aware, milliseconds, seconds
from redisjobs.base.eventloop import gates, is_awaitable
from redisjobs.base.visible import visible
from redisjobs.errors import DecodeError, EncodeError, NoResult, RegistrationError, UnwritableResult
from redisjobs.model import payload
from redisjobs.model.annotations import called_as, returned_type
from redisjobs.model.job import ReturnType
from redisjobs.model.progress import MessageSink
from redisjobs.model.requests import (
    AwaitStep,
    BeginStep,
    Begun,
    EndStep,
    LeaveStep,
    Request,
    RunChildren,
    SaveCheckpoint,
    unwrapped,
)
from redisjobs.model.steps import MOST_STEP_BYTES, How, Saved, checked_step
from redisjobs.model.transitions import After, At, Due, NewJob, PreparedJob, WaitsFor

Args = ParamSpec("Args")
R = TypeVar("R")

NO_DEFAULT: Any = object()
"""The default of a wait that has none: it raises a TimeoutError."""

_results = WeakKeyDictionary[Any, ReturnType[Any]]()  # by function


def result_of(function: Callable[..., Any]) -> ReturnType[Any]:
    """Return the type of a step's result, from the annotation of its function; raise a TypeError if it is none."""
    key = getattr(function, "__func__", function)  # a method is a new object each time
    with suppress(TypeError):  # an object that can't be a key
        if (known := _results.get(key)) is not None:
            return known
    if not callable(function):
        if isinstance(function, Coroutine):
            function.close()  # else Python warns that it was never awaited
        raise TypeError(
            "a step takes a function and its arguments, as step('charge', charge_card, 7), and not "
            f"{function!r:.100}"
        )
    # The name is for messages; a partial has none, and is called by its `repr`, which may be any text.
    kind = ReturnType(re.sub(r"[\s\x00-\x1f]+", "_", called_as(function))[:200] or "?", returned_type(function))
    with suppress(TypeError):
        _results[key] = kind
    return kind


def encoded(kind: ReturnType[Any], key: str, value: Any) -> bytes:
    """Return the result of a step as JSON; raise an `UnwritableResult` if it can't be kept."""
    try:
        raw = payload.encode_parameters(kind, value, math.inf)
    except (EncodeError, RegistrationError) as error:
        raise UnwritableResult(f"step '{visible(key)}' has run, and is not saved: {error}") from error
    if len(raw) > MOST_STEP_BYTES:
        raise UnwritableResult(
            f"step '{visible(key)}' has run, and is not saved: its result has {len(raw):,} bytes of JSON, of "
            f"{MOST_STEP_BYTES:,} at most for all steps of a job: keep large data elsewhere, return where it is"
        )
    return raw


def decoded(kind: ReturnType[Any], key: str, value: bytes) -> Any:
    """Return the saved result of a step; raise a `DecodeError` if it does not fit."""
    try:
        return payload.decode_parameters(kind, value)
    except DecodeError as error:
        why = f"step '{visible(key)}': its saved result does not fit what its function returns now"
        raise DecodeError(
            f"{why}: {error}; requeue the job from this step, or give the step another name"
        ) from None


def due_of(duration: float | timedelta | None, until: datetime | None, parts: dict[str, float]) -> Due:
    """Return when a sleep is over; raise a ValueError unless it is given in exactly one way."""
    if sum((duration is not None, until is not None, bool(parts))) != 1:
        raise ValueError(
            "sleep takes a duration or a time, as sleep(60), sleep(hours=24) or sleep(until=a_datetime)"
        )
    if until is not None:
        return At(max(0, milliseconds(aware(until, "until").timestamp())))
    try:
        given = timedelta(**parts) if parts else duration
    except (TypeError, OverflowError) as error:
        said = ", ".join(f"{part}={value!r:.40}" for part, value in parts.items())
        raise ValueError(f"sleep({said}): give weeks, days, hours, minutes or seconds, as numbers") from error
    assert given is not None
    return After(seconds(given, "duration") * 1000)


def value_of(saved: Saved, name: str, default: Any) -> Any:
    """Return the value of a signal that came, or the default of one that did not."""
    if saved.how is How.SIGNAL:
        return payload.decode_untyped(f"signal '{name}'", saved.value)
    if default is NO_DEFAULT:
        raise TimeoutError(f"signal '{name}' did not come in time")
    return default


def timeout_of(timeout: float | timedelta | None) -> Due | None:
    """Return when a wait for a signal is over; None for no limit."""
    return None if timeout is None else After(seconds(timeout, "timeout") * 1000)


def _name_of(jobs: Sequence[NewJob]) -> str:
    """Return the name of a step that runs these jobs: theirs, if they have one name."""
    names = {str(job.fields[1]) for job in jobs if isinstance(job, NewJob)}
    return names.pop().replace("#", "_") if len(names) == 1 else "run_all"


class StepVerbs:
    """What a handler saves and waits for. All of it survives the run: the next one finds it saved.

    A handler that waits ends here, by a `JobSuspended`, and is started again from its top once the wait is over.
    Then each step that is saved returns what it returned, and its function is not called again.

    Attributes:
        version: The version of the handler that saved the job's first step; this handler's own if none is saved.
    """

    version: int = 1
    _sink: MessageSink | None
    _checkpoint: bytes | None = None  # JSON
    _transactions: tuple[Callable[[], bool], ...] = ()  # those that the run has pushed in: whether each is open

    def _check_wait(self, step: str) -> str:
        """Return the name of a step that may wait, unless a transaction is open that the run has pushed in."""
        if any(is_open() for is_open in self._transactions):
            raise RuntimeError(
                f"step '{visible(step)}' may wait, and a transaction is open in which this run has pushed jobs: "
                "commit before the wait, or the suspension rolls it back"
            )
        return step

    def _checked_sink(self) -> MessageSink:
        if self._sink is None:
            raise RuntimeError("this context belongs to no run of a worker: it has no steps")
        return self._sink

    async def _ask(self, request: Request) -> Any:
        sink, answers = self._checked_sink(), list[Any]()
        gate = gates()()

        def answered(answer: Any) -> None:
            answers.append(answer)
            gate.open()

        sink.ask(request, answered)
        try:
            if not answers:
                await gate.wait()
        except BaseException:  # it was cancelled
            if isinstance(request, RunChildren):
                sink.ask(LeaveStep(request.name, answered), list[Any]().append)
            raise
        return unwrapped(answers[0])

    async def _called(self, name: str, result: Any) -> Any:
        """Return the result of a step's function, which may be an awaitable."""
        return await result if is_awaitable(result) else result

    @overload
    async def step(
        self, name: str, function: Callable[Args, Awaitable[R]], /, *args: Args.args, **kwargs: Args.kwargs
    ) -> R: ...

    @overload
    async def step(
        self, name: str, function: Callable[Args, R], /, *args: Args.args, **kwargs: Args.kwargs
    ) -> R: ...

    async def step(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a function once in the life of the job, and save what it returns.

        If a run ends before the result is saved, the next run calls the function again. So it is called at least
        once, and never again once this has returned. What it raises is raised here, and not saved. Steps of
        one name are numbered in their order, so steps that run at the same time need different names.

        Args:
            name: 1 to 200 characters, no spaces and no `#`.
            function: An async or a sync function. Its return annotation is the type of the result.
            args: Its arguments.
            kwargs: Its arguments by name.

        Raises:
            UnwritableResult: The function has returned, but its result can't be kept: JSON can't hold it, or the
                job would have more than 1 MB of results. Nothing was saved, and the job is not run again.
            StepsFull: The job has 1,000 steps, or 1 MB of results. The function was not called.
            DecodeError: The saved result does not fit the return annotation.
            ValueError: The name is wrong, or a step of this name has not ended yet.
            TypeError: This is no function, but what a call of it returned, say.
        """
        kind = result_of(function)
        begun: Begun = await self._ask(BeginStep(checked_step(name)))
        if begun.value is not None:
            return decoded(kind, begun.key, begun.value)
        try:
            result = await self._called(name, function(*args, **kwargs))
            await self._ask(EndStep(begun.key, encoded(kind, begun.key, result)))
        except BaseException:
            await self._ask(LeaveStep(name))
            raise
        return result

    async def sleep(
        self,
        duration: float | timedelta | None = None,
        /,
        *,
        until: datetime | None = None,
        name: str = "sleep",
        **parts: float,
    ) -> None:
        """Suspend the job for some time: `sleep(60)`, `sleep(hours=24)` or `sleep(until=a_datetime)`.

        The job needs no worker and no slot meanwhile.

        Args:
            duration: Seconds, or a timedelta.
            until: An aware datetime.
            name: The name of the step; see `step`.
            parts: `weeks`, `days`, `hours`, `minutes`, `seconds`.

        Raises:
            JobSuspended: The time has not come; let it pass.
            StepsFull: The job has 1,000 steps.
            ValueError: The time is wrong, or not given in exactly one way.
            RuntimeError: A transaction is open in which this run has pushed jobs.
        """
        await self._ask(
            AwaitStep(self._check_wait(checked_step(name)), WaitsFor.TIME, due_of(duration, until, parts))
        )

    async def wait_for(
        self, name: str, *, timeout: float | timedelta | None = None, default: Any = NO_DEFAULT
    ) -> Any:
        """Suspend the job until a signal comes, and return its value, plain JSON; see `JobQueue.signal`.

        A signal that came before is taken at once. Each signal is taken by one wait.

        Args:
            name: The name of the signal, which is also the name of the step; see `step`.
            timeout: How long to wait, at most. Defaults to no limit.
            default: What to return after that time. Defaults to raising a TimeoutError.

        Raises:
            TimeoutError: The signal did not come in time, and there is no default.
            JobSuspended: The wait is not over; let it pass.
            StepsFull: The job has 1,000 steps.
            ValueError: The name or the timeout is wrong.
            RuntimeError: A transaction is open in which this run has pushed jobs.
        """
        saved = await self._ask(
            AwaitStep(self._check_wait(checked_step(name, "signal")), WaitsFor.SIGNAL, timeout_of(timeout))
        )
        return value_of(saved, name, default)

    async def run(self, job: PreparedJob[R], *, name: str | None = None) -> R:
        """Run a job as a child of this one, wait until it has ended, and return its result; see `run_all`.

        Raises:
            NoResult: The child has no result: JobFailed, JobCancelled, ResultRefused or NotAdded.
        """
        (result,) = await StepVerbs.run_all(self, [job], name=name)  # a sync context has another one
        return result

    @overload
    async def run_all(
        self, jobs: Iterable[PreparedJob[R]], *, on_failure: Literal["raise"] = "raise", name: str | None = None
    ) -> list[R]: ...

    @overload
    async def run_all(
        self, jobs: Iterable[PreparedJob[R]], *, on_failure: Literal["return"], name: str | None = None
    ) -> list[R | NoResult]: ...

    async def run_all(
        self, jobs: Iterable[PreparedJob[Any]], *, on_failure: str = "raise", name: str | None = None
    ) -> list[Any]:
        """Run jobs as children of this one, wait until all have ended, and return the results.

        The job is suspended meanwhile, so one worker with one slot can run parent and children. Each child is
        added once. Give the same jobs in each run of the handler: results are found by their place in the list.

        Args:
            jobs: What `prepare` of a job function, or of the queue, returns; up to 10,000, of this queue.
            on_failure: What to do once all have ended, if one has no result. `"raise"`: raise the error of the
                first. `"return"`: return the errors in place of results.
            name: The name of the step; see `step`. Defaults to the name of the jobs, or to `run_all`.

        Returns:
            The results, in the order of the jobs, each with the return type of its handler if that is registered
            here, else plain JSON.

        Raises:
            NoResult: A child has no result: JobFailed, JobCancelled, ResultRefused or NotAdded.
            JobSuspended: Not all children have ended; let it pass.
            StepsFull: The job has 1,000 steps.
            ValueError: The name is wrong, there are too many children, or not as many as in the run before; or
                another queue prepared one.
            TypeError: One of the jobs was not prepared.
            RuntimeError: A transaction is open in which this run has pushed jobs.
        """
        children = list(jobs)
        if on_failure not in ("raise", "return"):
            raise ValueError(f'on_failure={on_failure!r}: give "raise" or "return"')
        step = self._check_wait(checked_step(_name_of(children) if name is None else name))
        results: list[Any] = await self._ask(RunChildren(step, children, copy_context()))
        if on_failure == "raise":
            for each in results:
                unwrapped(each)
        return results

    async def checkpoint(self, value: Any) -> None:
        """Save how far the job has come, as plain JSON, in place of the checkpoint before; see `saved`.

        For a long loop: one checkpoint for many items costs less than a step for each.

        Raises:
            EncodeError: The value is no plain JSON, or has more than 1 MB. The checkpoint before stays.
            StepsFull: With it, the job would have saved more than 1 MB. The checkpoint before stays.
        """
        raw = payload.encode_plain("the checkpoint", value, MOST_STEP_BYTES)
        await self._ask(SaveCheckpoint(raw))
        self._checkpoint = raw

    @property
    def saved(self) -> Any:
        """The last checkpoint of this or an earlier run of the job, plain JSON; None if there is none."""
        raw = self._checkpoint
        return None if raw is None else payload.decode_untyped("the checkpoint", raw)
