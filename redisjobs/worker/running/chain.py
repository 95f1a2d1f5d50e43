"""Composes a worker's handlers with the middleware around them, when the worker starts."""

from collections.abc import Callable, Iterable, Mapping
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import Any, cast

from redisjobs.base.eventloop import is_awaitable
from redisjobs.middleware import Handler, Middleware, chained, hooks
from redisjobs.model.context import JobContext, message_sink_of
from redisjobs.model.job import JobDefinition
from redisjobs.worker.running.handler_run import HandlerRun
from redisjobs.worker.running.threads import NoThread

Find = Callable[[str], JobDefinition[Any] | None]
"""Returns the definition of a job name; None if there is none."""


def finder(definitions: Mapping[str, JobDefinition[Any]], middleware: Iterable[Middleware]) -> Find:
    """Return a function that finds a job's definition, composed with the middleware that runs around handlers."""
    around = hooks(middleware, "around")
    if not around:
        return definitions.get
    chains = _Chains(definitions, around)
    for name in list(definitions):
        chains.find(name)
    return chains.find


class _Chains:
    """Definitions whose call runs in the event loop, wherever the handler runs: so its middleware can be async."""

    def __init__(
        self, definitions: Mapping[str, JobDefinition[Any]], around: tuple[Callable[..., Any], ...]
    ) -> None:
        self._definitions = definitions
        self._around = around
        self._composed: dict[str, JobDefinition[Any]] = {}
        self._turned_away: set[JobContext] = set()

    def find(self, name: str) -> JobDefinition[Any] | None:
        """Return the definition of a job name; composed on first use, if it was registered after the start."""
        if (composed := self._composed.get(name)) is not None:
            return composed
        definition = self._definitions.get(name)
        if definition is not None:
            self._composed[name] = replace(definition, call=self._compose(definition), is_async=True)
        return self._composed.get(name)

    def _compose(self, definition: JobDefinition[Any]) -> Handler:
        if definition.is_async:
            return chained(definition.call, definition.name.name, self._around)
        place = _in_process if definition.in_process else _in_thread
        chain = chained(self._placed(partial(place, definition)), definition.name.name, self._around)

        async def run(parameters: Any, context: JobContext) -> Any:
            try:
                return await chain(parameters, context)
            finally:
                if context in self._turned_away:  # whatever the middleware did with that error
                    self._turned_away.discard(context)
                    raise NoThread

        return run

    def _placed(self, call: Handler) -> Handler:
        async def run(parameters: Any, context: JobContext) -> Any:
            try:
                return await call(parameters, context)
            except NoThread:
                self._turned_away.add(context)
                raise

        return run


async def _in_thread(definition: JobDefinition[Any], parameters: Any, context: JobContext) -> Any:
    run, surroundings = _run_of(context), copy_context()  # for a thread that is given up stays in its context
    return await _come_to(*await run.in_thread(surroundings, definition.call, parameters, context))


async def _in_process(definition: JobDefinition[Any], parameters: Any, context: JobContext) -> Any:
    return await _come_to(*await _run_of(context).in_process(definition, parameters, context))


def _run_of(context: JobContext) -> HandlerRun:
    return cast(HandlerRun, message_sink_of(context))  # as the run has made the context


async def _come_to(returned: Any, raised: BaseException | None) -> Any:
    """Return what a handler returned elsewhere, or raise what it raised."""
    try:
        if raised is not None:
            raise raised
        # A plain function may return a coroutine, as decorators make them.
        return await returned if is_awaitable(returned) else returned
    finally:
        del raised  # a reference cycle otherwise, through its traceback
