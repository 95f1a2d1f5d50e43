"""Job functions: what a queue's `job` makes of a function, and the types for `job` and `register`."""

import asyncio
import copy
import functools
import inspect
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, Unpack, overload

from redisjobs.base.visible import visible
from redisjobs.model import sync_verbs
from redisjobs.model.annotations import is_async
from redisjobs.model.context import JobContext
from redisjobs.model.job import AppState, JobDefinition, JobName
from redisjobs.model.options import PushOptions, check_handler_options, check_push_options, new_job
from redisjobs.model.signature import Signature
from redisjobs.model.transitions import PreparedJob

P = TypeVar("P")
R = TypeVar("R")
Args = ParamSpec("Args")
Given = ParamSpec("Given")
Returned = TypeVar("Returned")
Returned_co = TypeVar("Returned_co", covariant=True)  # so that a JobFunction matches Coroutine[Any, Any, R]


class Anything:
    """A type that no caller uses: only a function whose first argument may be anything accepts it."""


# For type checkers. They can drop the context from a signature only if it is the first argument. If it comes
# later, or if the first argument may be anything, they don't check the arguments of a push; the push itself does.
Unchecked = (
    Callable[Concatenate[Anything, ...], Returned]
    | Callable[Concatenate[Any, sync_verbs.JobContext[AppState], ...], Returned]
    | Callable[Concatenate[Any, Any, sync_verbs.JobContext[AppState], ...], Returned]
    | Callable[Concatenate[Any, Any, Any, sync_verbs.JobContext[AppState], ...], Returned]
    | Callable[Concatenate[Any, Any, Any, Any, sync_verbs.JobContext[AppState], ...], Returned]
)


class HandlerDecorator(Protocol[P]):
    """The decorator that `register(...)` returns. It registers a handler, and returns it unchanged."""

    @overload
    def __call__(
        self, handler: Callable[[P, JobContext[AppState]], Returned], /
    ) -> Callable[[P, JobContext[AppState]], Returned]: ...

    @overload
    def __call__(
        self, handler: Callable[[P, sync_verbs.JobContext[AppState]], Returned], /
    ) -> Callable[[P, sync_verbs.JobContext[AppState]], Returned]: ...

    @overload
    def __call__(self, handler: Callable[[P], Returned], /) -> Callable[[P], Returned]: ...


class Queue(Protocol):
    """The part of a queue that a job function uses."""

    name: str
    definitions: dict[str, JobDefinition[Any]]

    @property
    def prepare(self) -> Callable[..., PreparedJob[Any]]: ...  # noqa: D102


class FunctionJob(Generic[Args, Given, Returned_co]):
    """A function that is also a job: call it as before, or push it with the same arguments, without the context.

    Type checkers know the function's arguments, the arguments of a push, and the return type. They check a push
    if the function takes no context, or takes it as its first argument. If the context comes later, they check
    nothing. They take a keyword-only context for an argument of the push.

    Attributes:
        name: Its job name.
    """

    __name__: str  # of the function; its docstring and signature are copied, too

    def __init__(
        self, queue: Queue, function: Callable[Args, Returned_co], name: JobName[Any], signature: Signature
    ) -> None:
        # Don't copy the attributes of a callable object: they would replace ours.
        functools.update_wrapper(self, function, updated=("__dict__",) if inspect.isroutine(function) else ())
        self.name = name
        self._queue = queue
        self._function = function
        self._signature = signature
        self._options = PushOptions()
        self._within: Any = None
        if is_async(function):
            _mark_async(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} '{visible(self.name.name)}' of queue '{self._queue.name}'>"

    def __call__(self, *args: Args.args, **kwargs: Args.kwargs) -> Returned_co:
        """Call the function itself, here and now."""
        return self._function(*args, **kwargs)

    def options(self, *, within: Any = None, **options: Unpack[PushOptions]) -> Self:
        """Return the same job with push options: `resize.options(delay=60).push("a.png", width=64)`.

        Args:
            within: A database connection or session to push in, for `push` alone; see `JobQueue.push`.
            options: See `PushOptions`.

        Raises:
            TypeError: An option does not exist.
            ValueError: The value of an option is wrong.
            EncodeError: The headers are not strings.
        """
        check_push_options(options)
        other = copy.copy(self)
        other._options = {**self._options, **options}
        other._within = self._within if within is None else within
        known = self._queue.definitions.get(self.name.name)
        key = PushOptions(unique="its own") if known is not None and known.unique is not None else PushOptions()
        new_job([], {**key, **other._options})  # raises for a wrong value now, not only at a push
        return other

    @overload
    def prepare(
        self: "FunctionJob[Args, Given, Coroutine[Any, Any, R]]", *args: Given.args, **kwargs: Given.kwargs
    ) -> PreparedJob[R]: ...

    @overload
    def prepare(
        self: "FunctionJob[Args, Given, R]", *args: Given.args, **kwargs: Given.kwargs
    ) -> PreparedJob[R]: ...

    def prepare(self, *args: Given.args, **kwargs: Given.kwargs) -> PreparedJob[Any]:
        """Encode a call without pushing it, for `queue.push_many`.

        Raises:
            EncodeError: The arguments don't fit the function.
        """
        self._check_no_transaction()
        return self._queue.prepare(self._signature.arguments(*args, **kwargs), self.name, **self._options)

    def _check_no_transaction(self) -> None:
        if self._within is not None:
            raise TypeError(f"{self.name.name}: within= is for push: only that writes in your transaction")


def job_function(queue: Any, kind: Any, function: Any, options: Mapping[str, Any]) -> Any:
    """Return the job function that `queue.job` makes of a function; without a function, a decorator."""
    if function is not None and not callable(function):
        raise TypeError(f"job({function!r}): give it a function; a name is given as job(name='...')")
    check_handler_options(options, "name", "limit_key", limit_key=options.get("limit_key"))
    if function is None:
        return lambda decorated: job_function(queue, kind, decorated, options)
    return kind(queue, function, *queue._register_function(function, **options))


def _mark_async(function: Any) -> None:
    """Mark an object as a coroutine function, so that frameworks await its calls."""
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(function)
    else:  # asyncio.iscoroutinefunction checks this attribute; asgiref sets it the same way
        function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
