"""Reads what functions return, from their annotations."""

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


def annotated(function: Any) -> Any:
    """Return the function with the annotations: inside a partial, or `__call__` of a callable object."""
    while isinstance(function, partial):
        function = function.func
    # A decorator's object with `__wrapped__` has the annotations itself.
    return function if inspect.isroutine(function) or hasattr(function, "__wrapped__") else function.__call__


def called_as(function: Callable[..., Any]) -> str:
    """Return the name of a function for messages."""
    return getattr(function, "__name__", repr(function))
