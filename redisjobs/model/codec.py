"""The wire format: job ⇄ fields of an entry, parameters ⇄ JSON. Nobody else knows it."""

import functools
import json
import math
import os
import re
import time
from binascii import b2a_base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticSerializationError

from redisjobs.errors import DecodeError, EncodeError
from redisjobs.model.job import JobName, Priority, State, WhyWaiting
from redisjobs.model.progress import Progress, measured, note_of
from redisjobs.model.queries import Row
from redisjobs.model.retention import ASIDE
from redisjobs.model.roundtrip import Fault
from redisjobs.model.transitions import Lease

P = TypeVar("P")

MAX_PARAMETERS = 512 * 1024
"""Bytes of JSON a job's parameters may have, unless the queue says otherwise."""

_LATEST_MS = 253_402_300_799_999  # the end of the year 9999, the last that a datetime knows
_NUMBERS = (
    *(b"attempt", b"queued_at", b"expires_at", b"started_at", b"unknown_since"),
    *(b"scheduled_for", b"next_scheduled_at", b"keep_result"),
)
_BARE = {b"id", b"name", b"parameters"}
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_SORTED = bytes.maketrans(_BASE64, b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz")
_MAX_FIELDS = 64  # an entry of ours has at most a dozen; more is nothing we wrote, nor can Lua unpack any number


def new_job_id() -> str:
    """18 characters: 7 of the time in ms, so that ids sort by push time until 2109, then 64 random bits.

    They are those of base64url, in the order of ASCII. In hex it would have 28, and a queued job's id is in the
    server's memory twice.
    """
    random = b2a_base64(os.urandom(8), newline=False)[:11].translate(_SORTED).decode()
    return _time_in_id(time.time_ns() // 1_000_000) + random


@functools.lru_cache(maxsize=1)  # several are made in a ms
def _time_in_id(time_ms: int) -> str:
    return b2a_base64((time_ms % 2**42 << 6).to_bytes(6), newline=False)[:7].translate(_SORTED).decode()


def new_nonce() -> str:
    """16 random hex characters: what tells one push of an id from the next."""
    return os.urandom(8).hex()


def encode_parameters(name: JobName[P], parameters: P, limit: int = MAX_PARAMETERS) -> bytes:
    """Parameters as JSON, validated as a worker will validate them, but strictly: no `"5"` for 5.

    What a handler returned is written so too, by its `ReturnType`.

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
    """Whether some of it may not be there: what JSON can't say is written as null, as stars or as U+FFFD."""
    # To look for one byte takes a tenth of the time.
    return b"null" in raw or (b"*" in raw and b"****" in raw) or (not raw.isascii() and b"\xef\xbf\xbd" in raw)


def _too_large(
    name: str, raw: bytes, limit: int, takes: str = "parameters take", give: str = "push"
) -> EncodeError:
    return EncodeError(
        f"{name}: {takes} {len(raw):,} bytes of JSON, the limit is {limit:,}; keep large data "
        f"elsewhere and {give} where it is, or raise max_parameters= of the queue"
    )


def encode_untyped(name: str, parameters: Any, limit: int = MAX_PARAMETERS) -> bytes:
    """Parameters of a job whose type is not known here, as JSON: what a JSON text can say, and nothing else.

    Args:
        name: The job's, for the message.
        parameters: Dicts with strings as keys, lists, strings, numbers, booleans and None.
        limit: Bytes that they may take.

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
    """What a JSON text says; `what` names it in the error.

    Raises:
        DecodeError: It is no JSON.
    """
    try:
        return json.loads(raw)  # orjson would make a float of an integer of more than 64 bits
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"{what} is no JSON: {error}") from None


_UNTYPED = "no handler here has this name, so parameters are to be what JSON can say: dicts, lists, strings, ..."


def read_parameters(name: JobName[P], raw: bytes) -> P:
    """Parameters that somebody typed as JSON: read as a worker reads them, but a key too many is a mistake.

    Raises:
        DecodeError: They don't fit their type, or have a key that it lacks.
    """
    try:
        return _with_known_keys(name, functools.partial(name.adapter.validate_json, raw))
    except ValidationError as error:
        raise DecodeError(_told(name, _say(name, error))) from None
    except _KeysTooMany as error:
        raise DecodeError(_told(name, str(error))) from None
    except Exception as error:  # the type's own validators may raise anything
        raise DecodeError(f"{name.name}: {type(error).__name__}: {error}") from error


def _with_known_keys(name: JobName[Any], validate: Callable[..., P]) -> P:
    """What is validated, if no type in it lacks a key that it was given, which pydantic would leave out."""
    try:
        return validate(extra="forbid")
    except ValidationError as error:  # perhaps only of keys that a type allows and keeps
        made = validate()
        if unknown := _unknown_keys(name, error, made):
            raise _KeysTooMany(unknown) from None
        return made


class _KeysTooMany(Exception):
    """A type lacks keys that it was given."""


_KEYS_TOO_MANY = ("extra_forbidden", "unexpected_keyword_argument")


def _unknown_keys(name: JobName[Any], error: ValidationError, parameters: Any) -> str:
    """Which keys the types at their places lack, of those that were forbidden; '' if all are kept after all."""
    said = []
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        *path, key = fault["loc"]
        if fault["type"] in _KEYS_TOO_MANY and not _keeps(parameters, path, key):
            said.append(f"{'.'.join([_type_name(name), *map(str, path)])} has no key {key!r}")
    return "; ".join(dict.fromkeys(said))


def _keeps(value: Any, path: Iterable[Any], key: Any) -> bool:
    """Whether what is at some place has a key that was not declared, as its type allows."""
    for step in path:
        if isinstance(value, Mapping | list | tuple):
            with suppress(LookupError, TypeError):
                value = value[step]
        else:
            value = getattr(value, str(step), value)  # a step may be the choice of a union
    extra = value if isinstance(value, Mapping) else getattr(value, "__pydantic_extra__", None)
    return key in (extra or ())


def instance(name: JobName[P], parameters: Any) -> Any:
    """Parameters that were given as a dict of fields, as an instance of the type that has these fields.

    Raises:
        EncodeError: They don't fit it.
    """
    kind: Any = name.parameters
    if not isinstance(parameters, dict):
        return parameters
    try:
        if hasattr(kind, "__dataclass_fields__"):
            return kind(**parameters)
        if hasattr(kind, "model_validate"):
            return _with_known_keys(name, functools.partial(kind.model_validate, parameters, strict=True))
    except ValidationError as error:
        raise EncodeError(_told(name, _misfits(name, error))) from None
    except _KeysTooMany as error:
        raise EncodeError(_told(name, str(error))) from None
    except Exception as error:  # the type's own checks may raise anything
        raise EncodeError(f"{name.name}: can't make a {_type_name(name)} of what was given: {error}") from error
    return parameters


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
        return raw  # pydantic expects nothing but a generator for an Iterable


# pydantic's words for a value that is written, but is not of the declared type: bytes for a str, say.
_MISFIT = re.compile(
    r".*?Expected `(?P<wanted>.+?)`(?:.*\[field_name='(?P<field>[^']*)')?.*input_type=(?P<got>\w+)"
)


def _say_misfit(name: JobName[Any], misfit: re.Match[str]) -> str:
    where = ".".join(filter(None, [_type_name(name), misfit["field"]]))
    return f"{where}: should be {misfit['wanted']} (got {misfit['got']})"


def _misfits(name: JobName[Any], error: ValidationError) -> str:
    return _unfit(name, _say(name, error))


def _unfit(name: JobName[Any], faults: str) -> str:
    """What does not fit. The type may have the job's name, which is then said once."""
    if name.is_result:
        return f"{name.what} does not fit: {faults}"
    return faults if _type_name(name) == name.name else f"{name.what} don't fit: {faults}"


def _misspelt(name: JobName[Any], parameters: Any) -> str:
    """Keys that a TypedDict does not have: why another seems to be missing."""
    kind: Any = name.parameters
    if not hasattr(kind, "__optional_keys__") or not isinstance(parameters, dict):
        return ""
    may_have_more = getattr(kind, "__pydantic_config__", {}).get("extra") == "allow"
    unknown = () if may_have_more else parameters.keys() - kind.__required_keys__ - kind.__optional_keys__
    return f"{_type_name(name)} has no key {', '.join(sorted(map(repr, unknown)))}" if unknown else ""


def _where(name: JobName[Any], fault: Fault) -> str:
    return f"{'.'.join([_type_name(name), *reversed(fault.path)])} {fault.text}"


def _unwritable(name: JobName[Any], parameters: Any, error: Exception) -> str:
    """What pydantic can't write, if we know what to do about it: text or bytes that are not UTF-8."""
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
    """What JSON would not carry, though pydantic writes something in its stead; '' for nothing."""
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
    """All that parameters consist of, keys too, and where each is."""
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
    """Parameters from the JSON of an entry.

    Raises:
        DecodeError: The bytes are not JSON, or don't validate; with pydantic's text.
    """
    try:
        return name.adapter.validate_json(raw)
    except ValidationError as error:
        raise DecodeError(_told(name, _say(name, error))) from None
    except Exception as error:  # the type's own validators may raise anything
        raise DecodeError(f"{name.name}: {type(error).__name__}: {error}") from error


def _say(name: JobName[Any], error: ValidationError) -> str:
    """Each fault as `Type.field: what is wrong (got str)`."""
    faults = error.errors(include_url=False, include_context=False)
    lines = []
    for fault in faults[:5]:
        where = ".".join([_type_name(name), *map(str, fault["loc"])])
        lines.append(f"{where}: {_in_our_words(fault)}")
    if len(faults) > 5:
        lines.append(f"and {len(faults) - 5} more")
    return "; ".join(lines)


def _in_our_words(fault: ErrorDetails) -> str:
    """What pydantic found, as the other messages have it."""
    match fault["type"]:
        case "missing" | "missing_argument" | "missing_keyword_only_argument":
            return "missing"
        case "json_invalid":
            why = fault["msg"].removeprefix("Invalid JSON")
            return "is not JSON" + re.sub(r"expected (ident|value)\b", "expected a value", why)
    return f"{plainly(fault['msg'])} (got {type(fault['input']).__name__})"


def plainly(message: str) -> str:
    """What pydantic says of a value, without what is about itself."""
    return re.sub("^(Input |Value error, |Assertion failed, )|, unable to parse string as .*$", "", message)


def _told(name: JobName[Any], fault: str) -> str:
    """A fault with the name of its job, once: the type may have the same name."""
    return fault if re.match(rf"{re.escape(name.name)}[.: ]", fault) else f"{name.name}: {fault}"


def _type_name(name: JobName[Any]) -> str:
    return str(getattr(name.parameters, "__name__", name.parameters))


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Headers as JSON.

    Raises:
        EncodeError: They are not strings.
    """
    if not isinstance(headers, Mapping) or not all(isinstance(s, str) for pair in headers.items() for s in pair):
        raise EncodeError(f"headers are strings to strings; got {headers!r}")
    try:
        return orjson.dumps(dict(headers))
    except (TypeError, orjson.JSONEncodeError) as error:
        raise EncodeError(f"headers can't be written: {error}") from error


def decode_headers(raw: str | bytes | None) -> dict[str, str]:
    """Headers from their JSON; empty if it can't be read, for headers are never worth a job."""
    try:
        headers = orjson.loads(raw or b"{}")
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(headers, dict):
        return {}
    # By hand there may be other values; lists and dicts may be too deep to make a text of.
    return {key: str(value) for key, value in headers.items() if not isinstance(value, dict | list)}


@dataclass(slots=True)
class Job:
    """A claimed job, read from its entry.

    Attributes:
        name: Which handler it wants.
        parameters: JSON, not yet validated.
        attempt: From 1.
        queued_ms: When it was pushed, by the server's clock.
        expires_ms: Not to be started after this; None: whenever.
        started_ms: When its first run that had an outcome began; None if none had one yet.
        unknown_ms: Since when no worker knew its name; None if one did.
        scheduled_ms: The slot that a schedule pushed it for; None: none did.
        next_scheduled_ms: The slot after that.
        keep_ms: For how long what its handler returns is kept, 0 for not at all; None: the entry does not say.
        headers: JSON, or None.
    """

    name: str
    parameters: bytes
    attempt: int
    queued_ms: int
    expires_ms: int | None = None
    started_ms: int | None = None
    unknown_ms: int | None = None
    scheduled_ms: int | None = None
    next_scheduled_ms: int | None = None
    keep_ms: int | None = None
    headers: bytes | None = None

    def read_headers(self) -> dict[str, str]:
        """What the producer sent along; see `decode_headers`."""
        return decode_headers(self.headers)


def decode_job(lease: Lease) -> Job:
    """Read a claimed job's entry, its parameters aside.

    Raises:
        DecodeError: It has no name or parameters, or a number that is none.
    """
    fields = lease.fields
    if len(fields) == 3 and fields.keys() >= _BARE:  # as most are, and each job goes by here
        name = fields[b"name"].decode("utf-8", "replace")
        return Job(name, fields[b"parameters"], 1, min(lease.queued_ms, _LATEST_MS))
    return _decode(fields, lease.queued_ms)


def _decode(fields: Mapping[bytes, bytes], queued_ms: int) -> Job:
    if len(fields) > _MAX_FIELDS:
        raise DecodeError(f"the entry has {len(fields)} fields, at most {_MAX_FIELDS} can be a job's")
    for wanted in (b"name", b"parameters"):
        if wanted not in fields:
            there = ", ".join(key.decode("utf-8", "replace") for key in fields) or "none"
            raise DecodeError(f"the entry has no field '{wanted.decode()}'; its fields: {there}")
    numbers = {key: _number(fields, key) for key in _NUMBERS if key in fields}
    queued = numbers.get(b"queued_at")
    return Job(
        fields[b"name"].decode("utf-8", "replace"),
        fields[b"parameters"],
        numbers.get(b"attempt") or 1,
        # An immediate push does not repeat what the store knows.
        queued if queued is not None else min(queued_ms, _LATEST_MS),
        numbers.get(b"expires_at"),
        numbers.get(b"started_at"),
        numbers.get(b"unknown_since"),
        numbers.get(b"scheduled_for"),
        numbers.get(b"next_scheduled_at"),
        numbers.get(b"keep_result"),
        fields.get(b"headers"),
    )


def _number(fields: Mapping[bytes, bytes], key: bytes) -> int | None:
    text = fields.get(key)
    if text is None:
        return None
    if not text.isdigit() or len(text) > 15 or int(text) > _LATEST_MS:
        raise DecodeError(f"field '{key.decode()}' is {text[:40]!r}, not a whole number from 0 to {_LATEST_MS}")
    return int(text)


def when(ms: int) -> datetime:
    """A wire time as an aware datetime, in UTC; the nearest there is for one that no datetime can be."""
    return datetime.fromtimestamp(max(0, min(ms, _LATEST_MS)) / 1000, UTC)


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A job as an operator sees it.

    Attributes:
        job_id: By what it is looked up; bytes that are not UTF-8 as lone surrogates.
        name: Its name; '' if the entry has none.
        state: Where it is in its life.
        priority: Of its ready stream.
        parameters: The JSON text as stored; U+FFFD stands for bytes that are not UTF-8.
        attempt: Which attempt it is at, from 1.
        deliveries: How often it was delivered since its last outcome.
        worker: Who runs it, or who settled it as dead, done or cancelled; '' for nobody.
        queued_at: When it was pushed, by the server's clock; None if the entry does not tell.
        due_at: When a delayed job may run.
        failed_at: When it became a dead letter.
        finished_at: When it was done or cancelled, of a job that was kept.
        started_at: When the run began that is under way; of a job that was kept, or is dead as it failed, its last
            run. By the server's clock: when the worker got it. None: it waits, or never ran.
        duration: For how many seconds that run has been going on, or has lasted.
        progress: How far it is, as its handler said last, until it has ended; None: it has said nothing.
        why_waiting: What keeps it from starting beside its place in line and its due time, as `held`, `paused`,
            `limit` or `no worker`: see `WhyWaiting`. None: nothing else, or it does not wait.
        cancelling: Whether a cancel was asked for while it runs.
        unique: The unique key it holds; '' for none.
        headers: What the producer sent along.
        reason: Why it is dead, in a word or two; '' if it isn't.
        error: The last failure, in one line; '' for none.
        traceback: Of the failure that made it a dead letter.
        error_type: The class of that exception: module and qualified name, of a builtin the name alone.
        fingerprint: 12 hex characters, equal for failures of one kind: by the class, and the functions of yours
            that it came through; '' of what is no failure.
        held: Whether it waits, and does not start until it is let go.
        parent: The id of the job that has pushed it; '' if none did.
    """

    job_id: str
    name: str
    state: State
    priority: Priority
    parameters: str
    attempt: int = 1
    deliveries: int = 0
    worker: str = ""
    queued_at: datetime | None = None
    due_at: datetime | None = None
    failed_at: datetime | None = None
    finished_at: datetime | None = None
    cancelling: bool = False
    unique: str = ""
    headers: Mapping[str, str] | None = None
    reason: str = ""
    error: str = ""
    traceback: str = ""
    error_type: str = ""
    fingerprint: str = ""
    held: bool = False
    parent: str = ""
    started_at: datetime | None = None
    duration: float | None = None
    progress: Progress | None = None
    why_waiting: WhyWaiting | None = None


def job_info(row: Row) -> JobInfo:
    """A row of the store in an operator's words; never fails, whatever the entry holds."""

    def text(key: bytes) -> str:
        return row.fields.get(key, b"").decode("utf-8", "replace")

    def number(key: bytes) -> int:
        try:
            return _number(row.fields, key) or 0
        except DecodeError:
            return 0

    def time_of(key: bytes) -> datetime | None:
        return when(number(key)) if number(key) else None

    try:
        job = _decode(row.fields, row.queued_ms)
    except DecodeError:
        job = None
    is_aside = row.state in ASIDE
    ran_ms, started_ms = row.ran_ms, row.started_ms
    if is_aside and b"ran_ms" in row.fields:
        ran_ms = number(b"ran_ms")
        started_ms = (number(b"finished_at") or number(b"failed_at")) - ran_ms
    return JobInfo(
        job_id=row.job_id,
        name=text(b"name"),
        state=row.state,
        priority=row.priority,
        parameters=text(b"parameters"),
        attempt=job.attempt if job else 1,
        deliveries=number(b"deliveries") if is_aside else row.deliveries,
        worker=text(b"worker") if is_aside else row.worker,
        queued_at=when(job.queued_ms) if job and job.queued_ms else time_of(b"queued_at"),
        due_at=when(row.due_ms) if row.due_ms is not None else None,
        failed_at=time_of(b"failed_at"),
        finished_at=time_of(b"finished_at"),
        cancelling=row.cancelling,
        unique=text(b"unique"),
        headers=(job.read_headers() or None) if job else None,
        reason=text(b"reason"),
        error=text(b"error"),
        traceback=text(b"traceback"),
        error_type=text(b"error_type"),
        fingerprint=text(b"fingerprint"),
        held=row.held,
        parent=text(b"parent"),
        started_at=None if started_ms is None else when(started_ms),
        duration=None if ran_ms is None else ran_ms / 1000,
        progress=decode_progress(row.progress),
        why_waiting=row.why_waiting,
    )


def encode_progress(progress: Progress) -> bytes:
    """How far a running job is, as JSON; what its handler did not say is left out."""
    said = {"fraction": progress.fraction, "done": progress.done, "total": progress.total}
    told: dict[str, Any] = {key: value for key, value in said.items() if value is not None}
    return orjson.dumps(told | {"note": progress.note} if progress.note else told)


def decode_progress(raw: bytes | None) -> Progress | None:
    """What such JSON says; None if it is none, as somebody may have written anything. Never fails."""
    try:
        told = orjson.loads(raw or b"")
        note = note_of(told["note"]) if "note" in told else ""
        if "done" in told:
            return measured((told["done"], told.get("total")), note)
        return measured((told["fraction"],), note) if "fraction" in told else Progress(note=note) if note else None
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
