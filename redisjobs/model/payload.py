"""Encodes parameters and results as JSON, decodes them, and says in an error which value does not fit."""

import functools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticSerializationError

from redisjobs.errors import DecodeError, EncodeError, RegistrationError
from redisjobs.model.job import JobName
from redisjobs.model.roundtrip import LossyValue

P = TypeVar("P")

MAX_PARAMETERS = 512 * 1024
"""The most bytes of JSON that a job's parameters may have, unless the queue has another limit."""


def encode_parameters(name: JobName[P], parameters: P, limit: float = MAX_PARAMETERS) -> bytes:
    """Return parameters as JSON, after a strict validation: the text `"5"` does not fit an int.

    A handler's result is encoded the same way, with its `ReturnType` as the name.

    Raises:
        EncodeError: The parameters don't fit their type, JSON can't hold them, a worker would read other values,
            or they take more than `limit` bytes.
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
                raise EncodeError(_named(name, _where(name, fault)))
    except EncodeError:
        raise
    except ValidationError as error:
        raise EncodeError(_named(name, _misspelt(name, parameters) or _misfits(name, error))) from None
    except RegistrationError as error:  # it names the job, too
        raise EncodeError(str(error)) from error
    except Exception as error:  # validators and serializers of the type may raise anything
        why = _unwritable(name, parameters, error) or f" as {_type_name(name)}: {_say_unknown(error)}"
        raise EncodeError(f"{name.name}: {name.what} can't be written{why}") from error
    if len(raw) > limit:
        raise _too_large(name.name, raw, limit, *(("the result takes", "return") if name.is_result else ()))
    return raw


def _may_have_lost(raw: bytes) -> bool:
    """Return whether a value may be lost. Pydantic writes null, stars or U+FFFD for what JSON has no form for."""
    # The search for one `*` comes first, because it takes a tenth of the time.
    return b"null" in raw or (b"*" in raw and b"****" in raw) or (not raw.isascii() and b"\xef\xbf\xbd" in raw)


def _too_large(
    name: str, raw: bytes, limit: float, takes: str = "parameters take", give: str = "push"
) -> EncodeError:
    return EncodeError(
        f"{name}: {takes} {len(raw):,} bytes of JSON, the limit is {limit:,}; keep large data "
        f"elsewhere and {give} where it is, or raise max_parameters= of the queue"
    )


def encode_untyped(name: str, parameters: Any, limit: int = MAX_PARAMETERS) -> bytes:
    """Return parameters as JSON without knowing their type; they must be plain JSON values.

    Raises:
        EncodeError: They are no plain JSON values, or take more than `limit` bytes.
    """
    raw = encode_plain(name, parameters, math.inf, _UNTYPED)
    if len(raw) > limit:
        raise _too_large(name, raw, limit)
    return raw


def encode_plain(what: str, value: Any, limit: float, wanted: str = "") -> bytes:
    """Return plain JSON values as JSON.

    Args:
        what: What it is, for messages.
        value: The value.
        limit: The most bytes of JSON.
        wanted: What is wanted, for messages.

    Raises:
        EncodeError: It is no plain JSON value, or takes more than `limit` bytes.
    """
    wanted = wanted or _PLAIN
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        is_same = json.loads(text) == value  # not for a tuple, which becomes a list, or a key 1: "1"
        raw = text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise EncodeError(f"{what}: {wanted}; a {type(value).__name__} can't be written: {error}") from None
    if not is_same:
        raise EncodeError(f"{what}: {wanted}; {value!r:.100} would come back as {text[:100]}")
    if len(raw) > limit:
        raise EncodeError(
            f"{what}: it has {len(raw):,} bytes of JSON, the limit is {limit:,}; keep large data elsewhere"
        )
    return raw


def decode_untyped(what: str, raw: bytes) -> Any:
    """Return the value of a JSON text; raise a `DecodeError` that calls the text `what`."""
    try:
        return json.loads(raw)  # not orjson, which turns an integer of more than 64 bits into a float
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"{what} is not JSON: {error}") from None


_PLAIN = "give a value that JSON can hold: dicts, lists, strings, numbers, ..."
_UNTYPED = "no handler here has this name, so give parameters that JSON can hold: dicts, lists, strings, ..."


def read_parameters(name: JobName[P], raw: bytes) -> P:
    """Return parameters that an operator typed as JSON; raise a `DecodeError` even for an unknown key."""
    try:
        made, unknown = _with_known_keys(name, functools.partial(name.adapter.validate_json, raw))
    except ValidationError as error:
        raise DecodeError(_named(name, _say(name, error))) from None
    except Exception as error:  # validators of the type may raise anything
        raise DecodeError(f"{name.name}: {type(error).__name__}: {error}") from error
    if unknown:
        raise DecodeError(_named(name, unknown))
    return made


def _with_known_keys(name: JobName[Any], validate: Callable[..., P]) -> tuple[P, str]:
    """Return the validated parameters, and an error about unknown keys, which pydantic would drop; '' for none."""
    try:
        return validate(extra="forbid"), ""
    except ValidationError as error:  # it may be only about keys that a type allows and keeps
        made = validate()
        return made, _unknown_keys(name, error, made)


_KEYS_TOO_MANY = ("extra_forbidden", "unexpected_keyword_argument")


def _unknown_keys(name: JobName[Any], error: ValidationError, parameters: Any) -> str:
    """Return an error about the extra keys that the validated parameters don't keep; '' if they keep all."""
    faults = []
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        *path, key = fault["loc"]
        if fault["type"] in _KEYS_TOO_MANY and not _keeps(parameters, path, key):
            faults.append(f"{'.'.join([_type_name(name), *map(str, path)])} has no key {key!r}")
    return "; ".join(dict.fromkeys(faults))


def _keeps(value: Any, path: Iterable[Any], key: Any) -> bool:
    """Return whether the value at this path has kept an extra key, because its type allows extra keys."""
    for step in path:
        if isinstance(value, Mapping | list | tuple):
            with suppress(LookupError, TypeError):
                value = value[step]
        else:
            value = getattr(value, str(step), value)  # a step may only name the choice of a union
    extra = value if isinstance(value, Mapping) else getattr(value, "__pydantic_extra__", None)
    return key in (extra or ())


def instance(name: JobName[P], parameters: Any) -> Any:
    """Return an instance of the parameters' type if they are a dict of its fields, else the parameters themselves.

    Raises:
        EncodeError: The dict does not fit the type.
    """
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
        raise EncodeError(_named(name, _misfits(name, error))) from None
    except Exception as error:  # checks of the type may raise anything
        raise EncodeError(f"{name.name}: can't make a {_type_name(name)} of what was given: {error}") from error
    if unknown:
        raise EncodeError(_named(name, unknown))
    return made


def _dump(name: JobName[P], parameters: P) -> bytes:
    try:
        # By alias and for a round trip, so that the text can be validated again; without computed fields.
        return name.adapter.serializer.to_json(parameters, by_alias=True, round_trip=True, warnings="error")
    except PydanticSerializationError as error:
        misfits = [_MISFIT.match(line.strip()) for line in str(error).splitlines()[1:]]
        if not misfits:
            raise
        raw = name.adapter.dump_json(parameters, by_alias=True, round_trip=True, warnings=False)
        name.adapter.validate_json(raw, strict=True)  # if this raises too, its error is clearer
        faults = [_say_misfit(name, misfit) for misfit in misfits if misfit and misfit["wanted"] != "generator"]
        if faults:
            raise EncodeError(_named(name, _unfit(name, "; ".join(faults)))) from None
        return raw  # pydantic only warned that an Iterable was no generator


# Pydantic's warning about a value that it writes although the type is another one, for example bytes for a str.
_MISFIT = re.compile(
    r".*?Expected `(?P<wanted>.+?)`(?:.*\[field_name='(?P<field>[^']*)')?.*input_type=(?P<got>\w+)"
)


def _say_misfit(name: JobName[Any], misfit: re.Match[str]) -> str:
    where = ".".join(filter(None, [_type_name(name), misfit["field"]]))
    return f"{where}: should be {misfit['wanted']} (got {misfit['got']})"


def _misfits(name: JobName[Any], error: ValidationError) -> str:
    return _unfit(name, _say(name, error))


def _unfit(name: JobName[Any], faults: str) -> str:
    """Return the faults with the word "parameters"; without it if the type already has the job's name."""
    if name.is_result:
        return f"{name.what} does not fit: {faults}"
    return faults if _type_name(name) == name.name else f"{name.what} don't fit: {faults}"


def _misspelt(name: JobName[Any], parameters: Any) -> str:
    """Return an error about keys that a TypedDict lacks: they explain better why a key is missing; '' for none."""
    kind: Any = name.parameters
    if not hasattr(kind, "__optional_keys__") or not isinstance(parameters, dict):
        return ""
    may_have_more = getattr(kind, "__pydantic_config__", {}).get("extra") == "allow"
    unknown = () if may_have_more else parameters.keys() - kind.__required_keys__ - kind.__optional_keys__
    return f"{_type_name(name)} has no key {', '.join(sorted(map(repr, unknown)))}" if unknown else ""


def _where(name: JobName[Any], fault: LossyValue) -> str:
    return f"{'.'.join([_type_name(name), *reversed(fault.path)])} {fault.text}"


def _unwritable(name: JobName[Any], parameters: Any, error: Exception) -> str:
    """Return which text or bytes are not UTF-8, so that pydantic can't write them, and what to do; '' for none."""
    if not isinstance(error, PydanticSerializationError):
        return ""
    with suppress(Exception):  # serializers of the type may raise anything
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
    """Return which value JSON has no form for, although pydantic wrote something in its place; '' for none."""
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
    """Return all values and keys inside the parameters, each with its path."""
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
    """Return parameters from the JSON of an entry; raise a `DecodeError` that lists what pydantic found."""
    try:
        return name.adapter.validate_json(raw)
    except ValidationError as error:
        raise DecodeError(_named(name, _say(name, error))) from None
    except Exception as error:  # validators of the type may raise anything
        raise DecodeError(f"{name.name}: {type(error).__name__}: {error}") from error


def _say(name: JobName[Any], error: ValidationError) -> str:
    """Return the faults in one line, each as `Type.field: what is wrong (got str)`."""
    faults = error.errors(include_url=False, include_context=False)
    lines = []
    for fault in faults[:5]:
        where = ".".join([_type_name(name), *map(str, fault["loc"])])
        lines.append(f"{where}: {_in_our_words(fault)}")
    if len(faults) > 5:
        lines.append(f"and {len(faults) - 5} more")
    return "; ".join(lines)


def _in_our_words(fault: ErrorDetails) -> str:
    """Return pydantic's fault in the words of our other messages."""
    match fault["type"]:
        case "missing" | "missing_argument" | "missing_keyword_only_argument":
            return "missing"
        case "json_invalid":
            why = fault["msg"].removeprefix("Invalid JSON")
            return "is not JSON" + re.sub(r"expected (ident|value)\b", "expected a value", why)
    return f"{plainly(fault['msg'])} (got {type(fault['input']).__name__})"


def plainly(message: str) -> str:
    """Return pydantic's message about a value without its prefixes."""
    return re.sub("^(Input |Value error, |Assertion failed, )|, unable to parse string as .*$", "", message)


def _named(name: JobName[Any], fault: str) -> str:
    """Return a fault after its job's name, unless the fault already begins with it."""
    return fault if re.match(rf"{re.escape(name.name)}[.: ]", fault) else f"{name.name}: {fault}"


def _type_name(name: JobName[Any]) -> str:
    return str(getattr(name.parameters, "__name__", name.parameters))
