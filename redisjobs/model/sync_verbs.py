"""The context of sync handlers: the calls that save steps and wait, without `await`."""

from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime, timedelta
from typing import Any, Literal, ParamSpec, TypeVar, overload

from redisjobs.base.eventloop import is_awaitable
from redisjobs.errors import NoResult
from redisjobs.model import context
from redisjobs.model.job import AppState
from redisjobs.model.requests import Request
from redisjobs.model.step_verbs import NO_DEFAULT, StepVerbs
from redisjobs.model.transitions import PreparedJob

Args = ParamSpec("Args")
R = TypeVar("R")


def finished(verb: Coroutine[Any, Any, R]) -> R:
    """Return what a coroutine returns that waits for nothing: it blocks this thread instead."""
    try:
        verb.send(None)
    except StopIteration as end:
        returned: R = end.value
        return returned
    finally:
        verb.close()
    raise RuntimeError("a call of a sync handler's context has waited in an event loop")


class JobContext(context.JobContext[AppState]):
    """The context of the job that a sync handler runs, in a thread or a process.

    It is a `redisjobs.JobContext` whose calls that save steps and wait need no `await`: they block
    the thread that calls them. Every sync handler gets it, even if it is annotated `redisjobs.JobContext`. Threads
    that the handler starts may call it too. In the worker's event loop, for example in async middleware, these
    raise a RuntimeError.
    """

    async def _ask(self, request: Request) -> Any:  # it never waits, see `finished`
        return self._checked_sink().ask_and_wait(request)

    async def _called(self, name: str, result: Any) -> Any:
        if not is_awaitable(result):
            return result
        if isinstance(result, Coroutine):
            result.close()
        raise TypeError(
            f"step '{name}': its function is async, and a sync handler can't await it: give a sync one"
        )

    def step(  # type: ignore[override]
        self, name: str, function: Callable[Args, R], /, *args: Args.args, **kwargs: Args.kwargs
    ) -> R:
        """Call a sync function once in the life of the job, and save what it returns.

        See `redisjobs.JobContext.step`.
        """
        verb: Coroutine[Any, Any, R] = StepVerbs.step(self, name, function, *args, **kwargs)
        return finished(verb)

    def sleep(  # type: ignore[override]
        self,
        duration: float | timedelta | None = None,
        /,
        *,
        until: datetime | None = None,
        name: str = "sleep",
        **parts: float,
    ) -> None:
        """Suspend the job for some time; see `redisjobs.JobContext.sleep`."""
        finished(StepVerbs.sleep(self, duration, until=until, name=name, **parts))

    def wait_for(self, name: str, *, timeout: float | timedelta | None = None, default: Any = NO_DEFAULT) -> Any:
        """Suspend the job until a signal comes, and return its value; see `redisjobs.JobContext.wait_for`."""
        return finished(StepVerbs.wait_for(self, name, timeout=timeout, default=default))

    def run(self, job: PreparedJob[R], *, name: str | None = None) -> R:  # type: ignore[override]
        """Run a job as a child, wait until it has ended, and return its result; see `redisjobs.JobContext.run`."""
        return finished(StepVerbs.run(self, job, name=name))

    @overload  # type: ignore[override]
    def run_all(
        self, jobs: Iterable[PreparedJob[R]], *, on_failure: Literal["raise"] = "raise", name: str | None = None
    ) -> list[R]: ...

    @overload
    def run_all(
        self, jobs: Iterable[PreparedJob[R]], *, on_failure: Literal["return"], name: str | None = None
    ) -> list[R | NoResult]: ...

    def run_all(
        self, jobs: Iterable[PreparedJob[Any]], *, on_failure: Any = "raise", name: str | None = None
    ) -> list[Any]:
        """Run jobs as children, wait until all have ended, and return their results.

        See `redisjobs.JobContext.run_all`.
        """
        return finished(StepVerbs.run_all(self, jobs, on_failure=on_failure, name=name))

    def checkpoint(self, value: Any) -> None:  # type: ignore[override]
        """Save how far the job has come, as plain JSON; see `redisjobs.JobContext.checkpoint`."""
        finished(StepVerbs.checkpoint(self, value))
