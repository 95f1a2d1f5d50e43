"""A handler's signature: which arguments it takes, and how they become a job's parameters."""

import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import NoneType, SimpleNamespace
from typing import Any, NotRequired, get_args, get_origin, get_type_hints

from redisjobs.errors import EncodeError, RegistrationError
from redisjobs.model import sync_verbs
from redisjobs.model.annotations import annotated, called_as, hint_of
from redisjobs.model.context import JobContext
from redisjobs.model.options import PushOptions, is_async

if sys.version_info >= (3, 12):
    from typing import TypedDict
else:
    from typing_extensions import TypedDict


def handler_call(handler: Callable[..., Any]) -> Callable[[Any, JobContext], Any]:
    """Return a function of (parameters, context) that calls a handler of one or both of them.

    Raises:
        RegistrationError: The handler takes other arguments.
    """
    try:
        wanted = inspect.signature(handler)
    except (TypeError, ValueError) as error:
        raise RegistrationError(f"{handler!r} can't be a handler: {error}") from error
    _refuse_generator(handler)
    for name in wanted.parameters:
        hint = None
        with suppress(Exception):  # an annotation that can't be read asks for no context
            hint = hint_of(handler, name)
        _refuse_sync_context(handler, hint)
    for count in (2, 1):
        try:
            wanted.bind(*[None] * count)
        except TypeError:
            continue
        return handler if count == 2 else lambda parameters, _context: handler(parameters)
    raise RegistrationError(
        f"a handler takes (parameters) or (parameters, context); {called_as(handler)}{wanted} doesn't"
    )


@dataclass(frozen=True)
class Signature:
    """The arguments of a plain function, as the parameters of a job."""

    function: Callable[..., Any]
    type: Any  # a TypedDict with one key for each argument, without the context
    context: str | None  # the name of its JobContext argument
    _signature: inspect.Signature = field(repr=False)

    @classmethod
    def of(cls, function: Callable[..., Any], called: str) -> "Signature":
        """Return the signature of a function or a callable object; `called` is its name in messages.

        Raises:
            RegistrationError: The function takes *args, **kwargs, positional-only arguments or two contexts, is a
                generator, or its annotations name a type that does not exist.
        """
        try:
            signature = inspect.signature(function)
            hints = get_type_hints(annotated(function), include_extras=True)
        except (NameError, AttributeError, TypeError, ValueError, SyntaxError) as error:
            raise RegistrationError(f"{called}: can't read its signature: {error}") from error
        _refuse_generator(function)
        context, keys = None, {}
        for name, argument in signature.parameters.items():
            if argument.kind not in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY):
                raise RegistrationError(f"{called}: {argument} can't be a job's parameter; give each one a name")
            if _is_context(hints.get(name)):
                _refuse_sync_context(function, hints[name])
                if context is not None:
                    raise RegistrationError(f"{called}: {context} and {name} both ask for the context")
                context = name
            else:
                hint = hints.get(name, Any)
                keys[name] = hint if argument.default is argument.empty else NotRequired[hint]
        fields: Any = keys
        return cls(function, TypedDict(called, fields), context, signature)  # type: ignore[operator]

    def arguments(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the arguments of a call by name, without the context, or raise an `EncodeError`."""
        signature = self._signature
        if self.context is not None:
            rest = [p for name, p in signature.parameters.items() if name != self.context]
            signature = signature.replace(parameters=rest)
        try:
            return signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            hint = _hint(self.type.__name__, kwargs.keys() - signature.parameters.keys())
            raise EncodeError(f"{self.type.__name__}{signature}: {error}{hint}") from None

    def attributed(self, function: Callable[[Any], Any]) -> Callable[[Mapping[str, Any]], Any]:
        """Return a function of a dict of arguments that calls `function` with them as attributes of an object."""
        return lambda parameters: function(self._named(parameters))

    def _named(self, parameters: Mapping[str, Any]) -> SimpleNamespace:
        """Return an object with the arguments of a call as attributes, and with the defaults of all others."""
        every = self._signature.parameters.items()
        defaults = {
            name: argument.default
            for name, argument in every
            if argument.default is not argument.empty and name != self.context
        }
        return SimpleNamespace(**(defaults | dict(parameters)))

    def call(self, parameters: Mapping[str, Any], context: JobContext) -> Any:
        """Call the function with the parameters as named arguments."""
        if self.context is None:
            return self.function(**parameters)
        return self.function(**parameters, **{self.context: context})


def _hint(called: str, unknown: Collection[str]) -> str:
    """Return what to write instead, if push options were given as arguments; else ''.

    They are not taken as options: if the function got an argument of that name later, the call's meaning changed.
    """
    options = [name for name in PushOptions.__annotations__ if name in unknown]
    if options:
        given = ", ".join(f"{name}=..." for name in options)
        return f"; arguments are the function's own, so write {called}.options({given}).push(...)"
    if "timeout" in unknown:
        return "; arguments are the function's own, so say how long to wait by asyncio.timeout, or by queue.run"
    return ""


def _is_context(hint: Any) -> bool:
    """Return whether an argument is the context, with or without `| None`."""
    return _context_class(hint) is not None


def _context_class(hint: Any) -> type[JobContext[Any]] | None:
    """Return which context a hint asks for; None for no context."""
    for kind in (JobContext, sync_verbs.JobContext):
        if hint is kind or get_origin(hint) is kind:  # the latter for JobContext[Resources]
            return kind
    several = [each for each in get_args(hint) if each is not NoneType]
    return _context_class(several[0]) if len(several) == 1 and NoneType in get_args(hint) else None


def _refuse_sync_context(function: Callable[..., Any], hint: Any) -> None:
    if is_async(function) and _context_class(hint) is sync_verbs.JobContext:
        raise RegistrationError(
            f"{called_as(function)} is async and takes a redisjobs.sync.JobContext, whose calls would block the "
            "event loop: take a redisjobs.JobContext"
        )


def _refuse_generator(function: Callable[..., Any]) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise RegistrationError(f"{called_as(function)} is a generator: a call would not run it; remove its yield")
