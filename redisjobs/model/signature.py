"""A handler's signature: what it takes, and how a plain function's arguments are a job's parameters."""

import inspect
import sys
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import NoneType, SimpleNamespace
from typing import Any, NotRequired, get_args, get_origin, get_type_hints

from redisjobs.errors import EncodeError, RegistrationError
from redisjobs.model.context import JobContext
from redisjobs.model.options import PushOptions

if sys.version_info >= (3, 12):
    from typing import TypedDict
else:
    from typing_extensions import TypedDict


def handler_call(handler: Callable[..., Any]) -> Callable[[Any, JobContext], Any]:
    """Return a handler of (parameters) or (parameters, context) as one that takes both.

    Raises:
        RegistrationError: It takes something else.
    """
    try:
        wanted = inspect.signature(handler)
    except (TypeError, ValueError) as error:
        raise RegistrationError(f"{handler!r} can't be a handler: {error}") from error
    _refuse_generator(handler)
    for count in (2, 1):
        try:
            wanted.bind(*[None] * count)
        except TypeError:
            continue
        return handler if count == 2 else lambda parameters, _context: handler(parameters)
    raise RegistrationError(
        f"a handler takes (parameters) or (parameters, context); {_called(handler)}{wanted} doesn't"
    )


@dataclass(frozen=True)
class Signature:
    """A plain function's arguments as a job's parameters: named, typed, checked."""

    function: Callable[..., Any]
    type: Any  # a TypedDict with one key for each argument but the context
    context: str | None  # the name of its JobContext argument
    _signature: inspect.Signature = field(repr=False)

    @classmethod
    def of(cls, function: Callable[..., Any], called: str) -> "Signature":
        """Read the signature of a function, or of a callable object, which messages call `called`.

        Raises:
            RegistrationError: It takes *args, **kwargs, positional-only arguments or two contexts, is a
                generator, or names a type that does not exist.
        """
        try:
            signature = inspect.signature(function)
            hints = get_type_hints(_annotated(function), include_extras=True)
        except (NameError, AttributeError, TypeError, ValueError, SyntaxError) as error:
            raise RegistrationError(f"{called}: can't read its signature: {error}") from error
        _refuse_generator(function)
        context, keys = None, {}
        for name, argument in signature.parameters.items():
            if argument.kind not in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY):
                raise RegistrationError(f"{called}: {argument} can't be a job's parameter; give each one a name")
            if _is_context(hints.get(name)):
                if context is not None:
                    raise RegistrationError(f"{called}: {context} and {name} both ask for the context")
                context = name
            else:
                hint = hints.get(name, Any)
                keys[name] = hint if argument.default is argument.empty else NotRequired[hint]
        fields: Any = keys
        return cls(function, TypedDict(called, fields), context, signature)  # type: ignore[operator]

    def arguments(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the arguments of one call by name, without the context; an `EncodeError` if they don't fit."""
        signature = self._signature
        if self.context is not None:
            rest = [p for name, p in signature.parameters.items() if name != self.context]
            signature = signature.replace(parameters=rest)
        try:
            return signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            hint = _how_to_say(self.type.__name__, kwargs.keys() - signature.parameters.keys())
            raise EncodeError(f"{self.type.__name__}{signature}: {error}{hint}") from None

    def attributed(self, function: Callable[[Any], Any]) -> Callable[[Mapping[str, Any]], Any]:
        """Turn a function of an object, whose attributes are the arguments, into a function of a dict of these."""
        return lambda parameters: function(self._named(parameters))

    def _named(self, parameters: Mapping[str, Any]) -> SimpleNamespace:
        """Return the arguments of one call as attributes of an object, with the defaults of the rest."""
        every = self._signature.parameters.items()
        defaults = {
            name: argument.default
            for name, argument in every
            if argument.default is not argument.empty and name != self.context
        }
        return SimpleNamespace(**(defaults | dict(parameters)))

    def call(self, parameters: Mapping[str, Any], context: JobContext) -> Any:
        """Call the function with its arguments by name."""
        if self.context is None:
            return self.function(**parameters)
        return self.function(**parameters, **{self.context: context})


def _how_to_say(called: str, unknown: Collection[str]) -> str:
    """Return what to write instead, if push options were given as arguments; '' if none was.

    They do not count as options: a later parameter of that name would change their meaning.
    """
    options = [name for name in PushOptions.__annotations__ if name in unknown]
    if options:
        said = ", ".join(f"{name}=..." for name in options)
        return f"; arguments are the function's own, so write {called}.options({said}).push(...)"
    if "timeout" in unknown:
        return "; arguments are the function's own, so say how long to wait by asyncio.timeout, or by queue.run"
    return ""


def returned_type(function: Any) -> Any:
    """Return the type of what a handler returns once it was awaited, by its annotation; Any if it has none.

    Raises:
        RegistrationError: The annotation names a type that does not exist.
    """
    annotated = inspect.unwrap(_annotated(function))
    try:
        # Of this alone: a parameter's type may be known to type checkers only.
        stub = SimpleNamespace(
            __annotations__={"return": getattr(annotated, "__annotations__", {}).get("return", Any)}
        )
        names = getattr(annotated, "__globals__", {})
        kind = get_type_hints(stub, globalns=names, include_extras=True)["return"]
    except Exception as error:  # it may run any code
        raise RegistrationError(f"{_called(function)}: can't read what it returns: {error}") from error
    awaited = get_origin(kind) in (Awaitable, Coroutine)
    return get_args(kind)[-1] if awaited else kind


def _annotated(function: Any) -> Any:
    """Return what has the annotations: of a partial its function, of a callable object its `__call__`."""
    while isinstance(function, partial):
        function = function.func
    # An object that a decorator made has those of the function that it wraps.
    return function if inspect.isroutine(function) or hasattr(function, "__wrapped__") else function.__call__


def _is_context(hint: Any) -> bool:
    """Return whether an argument is the context; with `| None` a plain call can leave it out."""
    if get_origin(hint) is JobContext:  # as in JobContext[Resources]
        return True
    several = [each for each in get_args(hint) if each is not NoneType]
    return hint is JobContext or (len(several) == 1 and NoneType in get_args(hint) and _is_context(several[0]))


def _refuse_generator(function: Callable[..., Any]) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise RegistrationError(f"{_called(function)} is a generator: a call would not run it; remove its yield")


def _called(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", repr(function))
