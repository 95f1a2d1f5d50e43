"""Where a process finds a handler that its worker tells it to run."""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redisjobs.errors import RegistrationError
from redisjobs.model.context import JobContext
from redisjobs.model.job import JobDefinition
from redisjobs.model.signature import Signature, handler_call


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process finds a handler.

    Attributes:
        module: Its module.
        name: Its qualified name there.
        wraps: How many functions are around it, as decorators make them.
        by_name: It takes its parameters by name.
    """

    module: str
    name: str
    wraps: int
    by_name: bool


@dataclass(frozen=True, slots=True)
class NotPacked:
    """In the place of what a handler returned, which can't leave its process.

    Attributes:
        why: In one line.
    """

    why: str


def place_of(definition: JobDefinition[Any]) -> Place:
    """Where a process finds a handler.

    Raises:
        RegistrationError: It does not, as its module has something else under its name.
    """
    function = definition.function
    module, name = function.__module__, function.__qualname__
    found, wraps = _find(module, name), 0
    while found is not None and found is not function:
        found, wraps = getattr(found, "__wrapped__", None), wraps + 1
    if found is None:
        raise RegistrationError(
            f"'{definition.name.name}' has run_in=\"process\", but a process would not find its handler as "
            f"{module}.{name}: give it that name in its module"
        )
    return Place(module, name, wraps, definition.by_name)


def _find(module: str, name: str) -> Any:
    return functools.reduce(
        lambda owner, part: getattr(owner, part, None), name.split("."), sys.modules.get(module)
    )


@functools.cache
def call_of(place: Place) -> Callable[[Any, JobContext], Any]:
    """The handler that is there, as what takes parameters and context."""
    function = _find(place.module, place.name)
    for _ in range(place.wraps):
        function = function.__wrapped__
    return Signature.of(function, place.name).call if place.by_name else handler_call(function)
