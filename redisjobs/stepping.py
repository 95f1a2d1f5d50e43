"""Runs a handler in a context of its own, inside the current task."""

import decimal
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context, copy_context
from types import CoroutineType, coroutine
from typing import Any


class Contexts:
    """Contexts like the one that is current now, for one job each: what it sets is no business of the next one's.

    Attributes:
        fresh: Makes one.
    """

    def __init__(self) -> None:
        # A context's copy holds the same values, and this one can be changed in place.
        shared = [pair for pair in copy_context().items() if isinstance(pair[1], decimal.Context)]
        self._shared: list[tuple[Any, decimal.Context]] = shared
        self.fresh: Callable[[], Context] = self._copy if self._shared else copy_context

    def part(self) -> None:
        """Make the current context, which is a copy, share nothing with the one that it was copied from."""
        for variable, value in self._shared:
            variable.set(value.copy())

    def _copy(self) -> Context:
        context = copy_context()
        context.run(self.part)
        return context


@coroutine
def stepped(call: Awaitable[Any], context: Context) -> Generator[Any, Any, BaseException | None]:
    """Await a handler's call in a context; what it raised, whatever that is, or None.

    A task a job would have a context of its own too, but costs more than all the rest of it. A context can only be
    entered for one step at a time, so the coroutine is stepped by hand.
    """
    steps: Any = call if type(call) is CoroutineType else _awaiting(call)
    run, step, value = context.run, steps.send, None
    while True:
        try:
            waits_for = run(step, value)
        except StopIteration:
            return None
        except BaseException as error:
            # Without this frame: those that it is called from keep the error, which would hold itself.
            return error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
        finally:
            value = None  # an exception would hold itself, through its traceback
        try:
            step, value = steps.send, (yield waits_for)
        except GeneratorExit:
            run(steps.close)
            raise
        except BaseException as error:
            step, value = steps.throw, error


async def _awaiting(call: Awaitable[Any]) -> Any:
    return await call
