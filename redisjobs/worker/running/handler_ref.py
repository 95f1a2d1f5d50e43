"""Names a handler so that another process finds it."""

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
class HandlerRef:
    """The name of a handler."""

    module: str
    name: str  # the qualified name
    wraps: int  # how many functions wrap it, as decorators do
    by_name: bool  # the handler takes its parameters by name

    @classmethod
    def of(cls, definition: JobDefinition[Any]) -> "HandlerRef":
        """Return the name of a handler.

        Raises:
            RegistrationError: Another process would not find it: its module has something else under that name.
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
        return cls(module, name, wraps, definition.by_name)


@dataclass(frozen=True, slots=True)
class NotPacked:
    """Stands for a returned value that can't leave its process."""

    why: str  # in one line


def _find(module: str, name: str) -> Any:
    return functools.reduce(
        lambda owner, part: getattr(owner, part, None), name.split("."), sys.modules.get(module)
    )


@functools.cache
def handler_of(ref: HandlerRef) -> Callable[[Any, JobContext], Any]:
    """Return the handler that a reference names, as a function of parameters and context."""
    function = _find(ref.module, ref.name)
    for _ in range(ref.wraps):
        function = function.__wrapped__
    return Signature.of(function, ref.name).call if ref.by_name else handler_call(function)
