"""Reads what functions are and return, from their kinds and annotations."""

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from types import SimpleNamespace
from typing import Any, get_args, get_origin, get_type_hints

from redisjobs.errors import RegistrationError


def returned_type(function: Any) -> Any:
    """Return the annotated type of a handler's awaited result; Any without an annotation.

    Raises:
        RegistrationError: The annotation can't be read, for example because it names a type that does not exist.
    """
    try:
        kind = hint_of(function, "return")
    except Exception as error:  # reading an annotation may run any code
        raise RegistrationError(f"{called_as(function)}: can't read what it returns: {error}") from error
    awaited = get_origin(kind) in (Awaitable, Coroutine)
    return get_args(kind)[-1] if awaited else kind


def hint_of(function: Any, name: str) -> Any:
    """Return the annotated type of an argument, or of `return`; Any without an annotation.

    It reads only this annotation, because others may name types that only a type checker imports.
    """
    found = inspect.unwrap(annotated(function))
    stub = SimpleNamespace(__annotations__={name: getattr(found, "__annotations__", {}).get(name, Any)})
    return get_type_hints(stub, globalns=getattr(found, "__globals__", {}), include_extras=True)[name]


def inner(function: Any) -> Any:
    """Return the function inside partials and static methods."""
    while isinstance(function, partial | staticmethod):
        function = function.func if isinstance(function, partial) else function.__func__
    return function


def annotated(function: Any) -> Any:
    """Return the function with the annotations: the inner one, or `__call__` of a callable object."""
    function = inner(function)
    # A decorator's object with `__wrapped__` has the annotations itself.
    return function if inspect.isroutine(function) or hasattr(function, "__wrapped__") else function.__call__


def is_async(function: Callable[..., Any]) -> bool:
    """Return whether a call of a function returns a coroutine."""
    function = inner(function)
    call = getattr(function, "__call__", None)  # noqa: B004  (an object may have an async one)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def is_generator(function: Callable[..., Any]) -> bool:
    """Return whether a call of a function returns a generator, async or not, and runs nothing."""
    function = annotated(function)
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def called_as(function: Callable[..., Any]) -> str:
    """Return the name of a function for messages."""
    return getattr(function, "__name__", repr(function))
