"""Parameters, and results, as JSON: written, read, and what to say of those that don't fit."""

import functools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticSerializationError

from redisjobs.errors import DecodeError, EncodeError
from redisjobs.model.job import JobName
from redisjobs.model.roundtrip import Fault

P = TypeVar("P")

MAX_PARAMETERS = 512 * 1024
"""The most bytes of JSON that a job's parameters may have, unless the queue says otherwise."""


def encode_parameters(name: JobName[P], parameters: P, limit: int = MAX_PARAMETERS) -> bytes:
    """Return parameters as JSON, validated as a worker will validate them, but strictly: no `"5"` for 5.

    The result of a handler is written so too, by its `ReturnType`.

    Raises:
        EncodeError: They don't fit their type, JSON can't carry them, they would not come back as they are, or
            they take more than `limit` bytes.
    """
    try:
        raw = _dump(name, parameters)
        if _may_have_lost(raw) and (lost := _lost(name, parameters)):
            raise EncodeError(f"{name.name}: {name.what} can't be written: {lost}")
        decoded = name.adapter.validator.validate_json(raw, strict=True)
        if check := name.round_trip.check:
            if name.round_trip.decodes:
                decoded = name.adapter.validate_json(raw)
            if fault := check(parameters, decoded):
                raise EncodeError(_told(name, _where(name, fault)))
    except EncodeError:
        raise
    except ValidationError as error:
        raise EncodeError(_told(name, _misspelt(name, parameters) or _misfits(name, error))) from None
    except Exception as error:  # the type's own validators and serializers may raise anything
        why = _unwritable(name, parameters, error) or f" as {_type_name(name)}: {_say_unknown(error)}"
        raise EncodeError(f"{name.name}: {name.what} can't be written{why}") from error
    if len(raw) > limit:
        raise _too_large(name.name, raw, limit, *(("the result takes", "return") if name.is_result else ()))
    return raw


def _may_have_lost(raw: bytes) -> bool:
    """Return whether a part may be lost: what JSON can't say is written as null, as stars or as U+FFFD."""
    # A search for one byte takes a tenth of the time.
    return b"null" in raw or (b"*" in raw and b"****" in raw) or (not raw.isascii() and b"\xef\xbf\xbd" in raw)


def _too_large(
    name: str, raw: bytes, limit: int, takes: str = "parameters take", give: str = "push"
) -> EncodeError:
    return EncodeError(
        f"{name}: {takes} {len(raw):,} bytes of JSON, the limit is {limit:,}; keep large data "
        f"elsewhere and {give} where it is, or raise max_parameters= of the queue"
    )


def encode_untyped(name: str, parameters: Any, limit: int = MAX_PARAMETERS) -> bytes:
    """Return parameters of a type that is not known here as JSON, if a JSON text can say them.

    Raises:
        EncodeError: They are something else, or take more than `limit` bytes.
    """
    try:
        text = json.dumps(parameters, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        is_same = json.loads(text) == parameters  # a tuple would come back as a list, a key 1 as "1"
        raw = text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise EncodeError(f"{name}: {_UNTYPED}; a {type(parameters).__name__} can't be written: {error}") from None
    if not is_same:
        raise EncodeError(f"{name}: {_UNTYPED}; {parameters!r:.100} would come back as {text[:100]}")
    if len(raw) > limit:
        raise _too_large(name, raw, limit)
    return raw


def decode_untyped(what: str, raw: bytes) -> Any:
    """Return what a JSON text says, or raise a `DecodeError`, in which `what` names the text."""
    try:
        return json.loads(raw)  # orjson would turn an integer of more than 64 bits into a float
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"{what} is not JSON: {error}") from None


_UNTYPED = "no handler here has this name, so give parameters that JSON can say: dicts, lists, strings, ..."


def read_parameters(name: JobName[P], raw: bytes) -> P:
    """Return parameters that an operator typed as JSON; unlike for a worker, an unknown key is a `DecodeError`."""
    try:
        made, unknown = _with_known_keys(name, functools.partial(name.adapter.validate_json, raw))
    except ValidationError as error:
        raise DecodeError(_told(name, _say(name, error))) from None
    except Exception as error:  # the type's own validators may raise anything
        raise DecodeError(f"{name.name}: {type(error).__name__}: {error}") from error
    if unknown:
        raise DecodeError(_told(name, unknown))
    return made


def _with_known_keys(name: JobName[Any], validate: Callable[..., P]) -> tuple[P, str]:
    """Return what `validate` makes, and which keys a type was given that it has not: pydantic would drop them."""
    try:
        return validate(extra="forbid"), ""
    except ValidationError as error:  # perhaps only of keys that a type allows and keeps
        made = validate()
        return made, _unknown_keys(name, error, made)


_KEYS_TOO_MANY = ("extra_forbidden", "unexpected_keyword_argument")


def _unknown_keys(name: JobName[Any], error: ValidationError, parameters: Any) -> str:
    """Return which forbidden keys are not kept by the types at their places; '' if all are."""
    said = []
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        *path, key = fault["loc"]
        if fault["type"] in _KEYS_TOO_MANY and not _keeps(parameters, path, key):
            said.append(f"{'.'.join([_type_name(name), *map(str, path)])} has no key {key!r}")
    return "; ".join(dict.fromkeys(said))


def _keeps(value: Any, path: Iterable[Any], key: Any) -> bool:
    """Return whether the value at a path has a key that was not declared, as its type allows."""
    for step in path:
        if isinstance(value, Mapping | list | tuple):
            with suppress(LookupError, TypeError):
                value = value[step]
        else:
            value = getattr(value, str(step), value)  # a step may be the choice of a union
    extra = value if isinstance(value, Mapping) else getattr(value, "__pydantic_extra__", None)
    return key in (extra or ())


def instance(name: JobName[P], parameters: Any) -> Any:
    """Return parameters, maybe a dict of fields, as an instance of their type; or raise an `EncodeError`."""
    kind: Any = name.parameters
    if not isinstance(parameters, dict):
        return parameters
    made, unknown = parameters, ""
    try:
        if hasattr(kind, "__dataclass_fields__"):
            made = kind(**parameters)
        elif hasattr(kind, "model_validate"):
            made, unknown = _with_known_keys(name, functools.partial(kind.model_validate, parameters, strict=True))
    except ValidationError as error:
        raise EncodeError(_told(name, _misfits(name, error))) from None
    except Exception as error:  # the type's own checks may raise anything
        raise EncodeError(f"{name.name}: can't make a {_type_name(name)} of what was given: {error}") from error
    if unknown:
        raise EncodeError(_told(name, unknown))
    return made


def _dump(name: JobName[P], parameters: P) -> bytes:
    try:
        # By alias and for the round trip: as validation wants to read it, computed fields left out.
        return name.adapter.serializer.to_json(parameters, by_alias=True, round_trip=True, warnings="error")
    except PydanticSerializationError as error:
        misfits = [_MISFIT.match(line.strip()) for line in str(error).splitlines()[1:]]
        if not misfits:
            raise
        raw = name.adapter.dump_json(parameters, by_alias=True, round_trip=True, warnings=False)
        name.adapter.validate_json(raw, strict=True)  # says it better, if it refuses too
        said = [_say_misfit(name, misfit) for misfit in misfits if misfit and misfit["wanted"] != "generator"]
        if said:
            raise EncodeError(_told(name, _unfit(name, "; ".join(said)))) from None
        return raw  # for an Iterable pydantic expects a generator


# Pydantic's words for a value that it writes though it is of another type, such as bytes for a str.
_MISFIT = re.compile(
    r".*?Expected `(?P<wanted>.+?)`(?:.*\[field_name='(?P<field>[^']*)')?.*input_type=(?P<got>\w+)"
)


def _say_misfit(name: JobName[Any], misfit: re.Match[str]) -> str:
    where = ".".join(filter(None, [_type_name(name), misfit["field"]]))
    return f"{where}: should be {misfit['wanted']} (got {misfit['got']})"


def _misfits(name: JobName[Any], error: ValidationError) -> str:
    return _unfit(name, _say(name, error))


def _unfit(name: JobName[Any], faults: str) -> str:
    """Return what does not fit. If the type has the job's name, that is said once."""
    if name.is_result:
        return f"{name.what} does not fit: {faults}"
    return faults if _type_name(name) == name.name else f"{name.what} don't fit: {faults}"


def _misspelt(name: JobName[Any], parameters: Any) -> str:
    """Return the keys that a TypedDict does not have: they are why another seems to be missing."""
    kind: Any = name.parameters
    if not hasattr(kind, "__optional_keys__") or not isinstance(parameters, dict):
        return ""
    may_have_more = getattr(kind, "__pydantic_config__", {}).get("extra") == "allow"
    unknown = () if may_have_more else parameters.keys() - kind.__required_keys__ - kind.__optional_keys__
    return f"{_type_name(name)} has no key {', '.join(sorted(map(repr, unknown)))}" if unknown else ""


def _where(name: JobName[Any], fault: Fault) -> str:
    return f"{'.'.join([_type_name(name), *reversed(fault.path)])} {fault.text}"


def _unwritable(name: JobName[Any], parameters: Any, error: Exception) -> str:
    """Return what pydantic can't write, if there is a remedy: text or bytes that are not UTF-8."""
    if not isinstance(error, PydanticSerializationError):
        return ""
    with suppress(Exception):  # the type's own serializers may raise anything
        for part, where in _parts(name, parameters):
            if isinstance(part, bytes) and not _is_utf8(part):
                do = "return" if name.is_result else "push"
                return f": {where}: bytes go as text, and these are not UTF-8; {do} base64.b64encode(...).decode()"
            if isinstance(part, str) and not _is_utf8(part):
                return f": {where}: {_HALF.format(part[:40])}"
    return ""


def _say_unknown(error: Exception) -> str:
    return re.sub(
        r"^Unable to serialize unknown type: <class '(.+)'>$",
        r"JSON has no form for a value of type \1",
        str(error),
    )


def _lost(name: JobName[Any], parameters: Any) -> str:
    """Return what JSON would lose, though pydantic writes something instead; '' for nothing."""
    for part, where in _parts(name, parameters):
        if isinstance(part, float) and not math.isfinite(part) and not where.endswith(_KEY):
            return f"{where}: JSON has no number {part}"
        if hasattr(part, "get_secret_value"):
            do = "return" if name.is_result else "push"
            return f"{where}: {type(part).__name__} is written as stars; {do} where the secret is kept, or a str"
        if isinstance(part, str) and where.endswith(_KEY) and not _is_utf8(part):
            return f"{where}: {_HALF.format(part[:40])}"
    return ""


_KEY = ", a key"
_HALF = "{!r} has half of a surrogate pair, which UTF-8 can't carry; leave it out"


def _parts(name: JobName[Any], parameters: Any) -> Iterator[tuple[Any, str]]:
    """Return all parts of the parameters, keys too, and where each is."""
    return _inside(name.adapter.dump_python(parameters, warnings=False), _type_name(name))


def _inside(value: Any, where: str) -> Iterator[tuple[Any, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield key, where + _KEY
            yield from _inside(item, f"{where}.{key}")
    elif isinstance(value, list | tuple | set | frozenset):
        for at, item in enumerate(value):
            yield from _inside(item, f"{where}.{at}")
    else:
        yield value, where


def _is_utf8(text: str | bytes) -> bool:
    try:
        text.decode() if isinstance(text, bytes) else text.encode()
    except UnicodeError:
        return False
    return True


def decode_parameters(name: JobName[P], raw: bytes) -> P:
    """Return parameters from the JSON of an entry; a `DecodeError` says what is wrong, as pydantic does."""
    try:
        return name.adapter.validate_json(raw)
    except ValidationError as error:
        raise DecodeError(_told(name, _say(name, error))) from None
    except Exception as error:  # the type's own validators may raise anything
        raise DecodeError(f"{name.name}: {type(error).__name__}: {error}") from error


def _say(name: JobName[Any], error: ValidationError) -> str:
    """Return each fault as `Type.field: what is wrong (got str)`."""
    faults = error.errors(include_url=False, include_context=False)
    lines = []
    for fault in faults[:5]:
        where = ".".join([_type_name(name), *map(str, fault["loc"])])
        lines.append(f"{where}: {_in_our_words(fault)}")
    if len(faults) > 5:
        lines.append(f"and {len(faults) - 5} more")
    return "; ".join(lines)


def _in_our_words(fault: ErrorDetails) -> str:
    """Return what pydantic found, in the words of the other messages."""
    match fault["type"]:
        case "missing" | "missing_argument" | "missing_keyword_only_argument":
            return "missing"
        case "json_invalid":
            why = fault["msg"].removeprefix("Invalid JSON")
            return "is not JSON" + re.sub(r"expected (ident|value)\b", "expected a value", why)
    return f"{plainly(fault['msg'])} (got {type(fault['input']).__name__})"


def plainly(message: str) -> str:
    """Return pydantic's message about a value, without the words about pydantic."""
    return re.sub("^(Input |Value error, |Assertion failed, )|, unable to parse string as .*$", "", message)


def _told(name: JobName[Any], fault: str) -> str:
    """Return a fault with the name of its job, once: the type may have the same name."""
    return fault if re.match(rf"{re.escape(name.name)}[.: ]", fault) else f"{name.name}: {fault}"


def _type_name(name: JobName[Any]) -> str:
    return str(getattr(name.parameters, "__name__", name.parameters))
