"""Runs a handler in its own context, inside the current task."""

import decimal
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, copy_context
from types import AsyncGeneratorType, CoroutineType, coroutine
from typing import Any

from redisjobs.worker.running.cancels import TaskCancels


class Contexts:
    """Copies of the current context, one for each job. What a job sets there does not reach the next job."""

    def __init__(self) -> None:
        # A copied context holds the same values, and a decimal context can be changed in place.
        shared = [pair for pair in copy_context().items() if isinstance(pair[1], decimal.Context)]
        self._shared: list[tuple[Any, decimal.Context]] = shared
        self.fresh: Callable[[], Context] = self._copy if self._shared else copy_context

    def part(self) -> None:
        """Give the current context its own copies of values that can be changed in place."""
        for variable, value in self._shared:
            variable.set(value.copy())

    def _copy(self) -> Context:
        context = copy_context()
        context.run(self.part)
        return context


Begun = tuple[Coroutine[Any, Any, Any], Any]
"""A handler's coroutine, and what it waits for."""


def begin_in(
    context: Context,
    take: Callable[[Any], object] | None,
    call: Callable[[Any, Any], Awaitable[Any]],
    parameters: Any,
    job: Any,
) -> Begun | BaseException | None:
    """Call a handler in a context, and take the first step of what it returns.

    A task for each job would have its own context too, but costs more than all the rest of the job. A context can
    be entered for only one step at a time, so the coroutine is stepped here.

    Returns:
        If the handler waits for something, what `go_on_in` needs to go on. Else what the handler raised, or None;
        then `take` was called with what it returned.
    """
    try:
        return context.run(_first_step, take, call, parameters, job)
    except BaseException as error:
        return without_frames(error, 2)


async def run_in(
    context: Context, take: Callable[[Any], object] | None, call: Callable[[], Awaitable[Any]]
) -> BaseException | None:
    """Call a function in a context and await what it returns; return what it raised, or None. See `begin_in`."""
    begun = begin_in(context, take, _called, call, None)
    return await go_on_in(context, begun, take) if isinstance(begun, tuple) else begun


def _called(call: Callable[[], Awaitable[Any]], _: None) -> Awaitable[Any]:
    return call()


def _first_step(
    take: Callable[[Any], object] | None, call: Callable[[Any, Any], Awaitable[Any]], parameters: Any, job: Any
) -> Begun | None:
    """Return the handler's coroutine and what it waits for; None if it ended without waiting."""
    called = call(parameters, job)
    steps: Any = called if type(called) is CoroutineType else _awaiting(called)
    try:
        return steps, steps.send(None)
    except StopIteration as end:
        if end.value is None and take is None:  # most handlers
            return None
        if (error := _took(take, end.value)) is not None:
            raise error from None
        return None


def _took(take: Callable[[Any], object] | None, returned: Any) -> TypeError | None:
    """Let `take` have what a handler returned; return an error instead if that would still have to run."""
    if type(returned) in (CoroutineType, AsyncGeneratorType):
        called = returned.__qualname__.rpartition("<locals>.")[2]
        if isinstance(returned, CoroutineType):
            returned.close()
            return TypeError(f"the handler returned the coroutine of '{called}', and did not await it")
        return TypeError(f"the handler returned the async generator of '{called}', and nothing iterates over it")
    if take is not None:
        take(returned)
    return None


async def _awaiting(called: Awaitable[Any]) -> Any:
    return await called


@coroutine
def go_on_in(
    context: Context, begun: Begun, take: Callable[[Any], object] | None, cancels: TaskCancels | None = None
) -> Generator[Any, Any, BaseException | None]:
    """Await a handler that `begin_in` began, and return what it raised, or None.

    `cancels` records whether the handler itself has cancelled this task.
    """
    steps, waits_for = begun
    step: Callable[[Any], Any]
    value: Any
    count: Callable[[], int] = int
    if cancels is not None:
        cancels.by_job, count = False, cancels.count
    while True:
        if count() and cancels is not None:
            cancels.by_job = True
        try:
            step, value = steps.send, (yield waits_for)
        except GeneratorExit:
            context.run(steps.close)
            raise
        except BaseException as error:
            step, value = steps.throw, error
        try:
            waits_for = context.run(step, value)
        except StopIteration as end:
            return _took(take, end.value)
        except BaseException as error:
            return without_frames(error, 1)
        finally:
            del value  # it would make a reference cycle: an exception leads to its frames


def without_frames(error: BaseException, frames: int) -> BaseException:
    """Return an error without its outermost frames. These are ours, and would make a reference cycle."""
    trace = error.__traceback__
    for _ in range(frames):
        trace = trace and trace.tb_next
    return BaseException.with_traceback(error, trace)  # the error's class may have its own `with_traceback`
