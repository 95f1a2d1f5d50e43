"""A handler's signature: which arguments it takes, and how they become a job's parameters."""

import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, is_dataclass
from types import NoneType, SimpleNamespace
from typing import Any, NotRequired, get_args, get_origin, get_type_hints

from redisjobs.errors import EncodeError, RegistrationError
from redisjobs.model import sync_verbs
from redisjobs.model.annotations import annotated, called_as, hint_of, inner, is_async, is_generator
from redisjobs.model.context import JobContext
from redisjobs.model.options import PushOptions

if sys.version_info >= (3, 12):
    from typing import TypedDict
else:
    from typing_extensions import TypedDict


def handler_call(handler: Callable[..., Any], kind: Any = Any) -> Callable[[Any, JobContext], Any]:
    """Return a function of (parameters, context) that calls a handler of one or both of them.

    `kind` is the type of the parameters that it is registered for.

    Raises:
        RegistrationError: The handler takes other arguments.
    """
    try:
        wanted = inspect.signature(handler)
    except (TypeError, ValueError) as error:
        raise RegistrationError(f"{handler!r} can't be a handler: {error}") from error
    _refuse_uncallable(handler, wanted)
    hints = {name: _hint_of(handler, name) for name in wanted.parameters}
    for hint in hints.values():
        _refuse_sync_context(handler, hint)
    arguments = [each for each in wanted.parameters.values() if each.kind in _BY_PLACE]
    _refuse_first(handler, arguments[:1], hints, kind)
    count = 1 if len(arguments) > 1 and not _gets_context(handler, arguments[1], hints) else 2
    for number in range(count, 0, -1):
        try:
            wanted.bind(*[None] * number)
        except TypeError:
            continue
        return handler if number == 2 else lambda parameters, _context: handler(parameters)
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
        except NameError as error:
            why = f"{error}: import it where the code runs, not only for type checkers"
            raise RegistrationError(f"{called}: can't read its signature: {why}") from error
        except (AttributeError, TypeError, ValueError, SyntaxError) as error:
            raise RegistrationError(f"{called}: can't read its signature: {error}") from error
        _refuse_uncallable(function, signature)
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
        if context is None:
            _refuse_untyped_context(called, hints, keys)
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


def _refuse_uncallable(function: Callable[..., Any], signature: inspect.Signature) -> None:
    """Raise a RegistrationError for what a call with a job's parameters would not run."""
    called = _full_name(function)
    if isinstance(inner(function), type):
        raise RegistrationError(
            f"{called} is a class, so a job would only make an instance of it: give a function; if it is a job's "
            f"parameters, its handler is decorated with register({called})"
        )
    if is_generator(function):
        raise RegistrationError(f"{called_as(function)} is a generator: a call would not run it; remove its yield")
    first = next(iter(signature.parameters.values()), None)
    if first is not None and (first.name == "self" or (first.name == "cls" and first.annotation is first.empty)):
        raise RegistrationError(
            f"{called} takes '{first.name}', for which a job has no value: make it a function or a static method, "
            f"or give the method of an instance, as queue.job(instance.{called_as(function)})"
        )


def _full_name(function: Callable[..., Any]) -> str:
    """Return the name of a function or a class for messages, with its class if it is a method."""
    return str(getattr(function, "__qualname__", None) or called_as(function)).rpartition("<locals>.")[2]


def _refuse_untyped_context(called: str, hints: Mapping[str, Any], keys: Collection[str]) -> None:
    """Raise a RegistrationError for an argument that is called like a context, but would be a parameter."""
    for name in keys:
        if name in _CONTEXTS and name not in hints:
            raise RegistrationError(
                f"{called}: argument '{name}' has no type, so each push would have to give it: write "
                f"'{name}: JobContext' for the job's context, or the type of your parameter"
            )


_CONTEXTS = ("context", "ctx", "job_context")
_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _hint_of(handler: Callable[..., Any], name: str) -> Any:
    with suppress(Exception):  # an annotation that can't be read asks for no context
        return hint_of(handler, name)
    return Any


def _refuse_first(
    handler: Callable[..., Any], first: Sequence[inspect.Parameter], hints: Mapping[str, Any], kind: Any
) -> None:
    """Raise a RegistrationError if the first argument is certainly not for parameters of a type."""
    for argument in first:
        hint = hints[argument.name]
        untyped = hint is Any and argument.name in _CONTEXTS
        if untyped or _is_context(hint):
            raise RegistrationError(
                f"{_full_name(handler)}: its first argument, '{argument.name}', would get the parameters: a "
                "handler takes (parameters) or (parameters, context)"
            )
        taken, given = _origin(hint), _origin(kind)
        is_class = isinstance(given, type) and given is not Any
        if is_class and _holds_parameters(taken) and not issubclass(given, taken):
            raise RegistrationError(
                f"{_full_name(handler)} takes a {taken.__name__}, but is registered for {given.__name__}"
            )


def _holds_parameters(kind: Any) -> bool:
    return isinstance(kind, type) and (is_dataclass(kind) or hasattr(kind, "__pydantic_core_schema__"))


def _origin(kind: Any) -> Any:
    """Return the class of a generic type: Box for a Box[int]."""
    return get_origin(kind) or getattr(kind, "__pydantic_generic_metadata__", {}).get("origin") or kind


def _gets_context(handler: Callable[..., Any], argument: inspect.Parameter, hints: Mapping[str, Any]) -> bool:
    """Return whether the second argument of a handler gets the context; else its default counts.

    Raises:
        RegistrationError: It certainly takes something else, and has no default.
    """
    hint = hints[argument.name]
    if hint is Any:
        return argument.name in _CONTEXTS or argument.default in (argument.empty, None)
    if not _is_no_context(hint):
        return True
    if argument.default is argument.empty:
        raise RegistrationError(
            f"{_full_name(handler)}: its second argument, '{argument}', would get the context: a handler takes "
            "(parameters) or (parameters, context); what else it needs goes into the parameters"
        )
    return False


def _is_no_context(hint: Any) -> bool:
    """Return whether a value of a type is certainly no context. It may be one for a protocol, or a base class."""
    if _is_context(hint) or not isinstance(hint, type) or getattr(hint, "_is_protocol", False):
        return False
    return not (issubclass(JobContext, hint) or issubclass(hint, JobContext))
