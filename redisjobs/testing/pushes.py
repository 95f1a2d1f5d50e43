"""The pushes of a test: a record of each, which of them match, and which come nearest if none does."""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from redisjobs.base.arguments import milliseconds
from redisjobs.base.visible import number_of
from redisjobs.client.functions import FunctionJob
from redisjobs.client.registry import Registry, field_names
from redisjobs.errors import DecodeError
from redisjobs.model import codec, payload
from redisjobs.model.job import JobName, OnConflict, Priority, UniqueUntil, name_of
from redisjobs.model.options import PushOptions
from redisjobs.model.transitions import After, At, NewJob

_NEAREST = 3  # near misses that a failure shows
_ABSENT = object()  # a parameter that the push did not give


@dataclass(frozen=True)
class Push:
    """A job that was pushed in a test, with the options of its push.

    Attributes:
        queue: The queue's name.
        name: The job's name.
        job_id: The job's id; if the push replaced a waiting job, the id of that job.
        parameters: What the handler gets: an instance of its type, or the arguments of a function by name. If no
            handler is registered, the plain JSON value.
        delay: In seconds; None: no delay.
    """

    queue: str
    name: str
    job_id: str
    parameters: Any
    delay: float | None = None
    at: datetime | None = None
    priority: Priority = Priority.NORMAL
    unique: str | None = None
    unique_for: float | None = None
    unique_until: UniqueUntil | None = None
    on_conflict: OnConflict | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    expires_in: float | None = None
    keep_result: float | None = None
    limit_key: str | None = None
    replicas: int | None = None
    raw: bytes = field(default=b"", repr=False, compare=False)  # the parameters as JSON


@dataclass(frozen=True)
class Wanted:
    """The pushes that an assertion is about.

    Attributes:
        name: The job's name.
        parameters: The values of some or all parameters.
        options: The values of some push options.
        kind: The type of the parameters, if it is known.
    """

    name: str
    parameters: Mapping[str, Any]
    options: Mapping[str, Any]
    kind: JobName[Any] | None

    @property
    def fields(self) -> Collection[str]:
        """The names of the job's parameters, as far as they are known."""
        return () if self.kind is None else field_names(self.kind.parameters) or ()

    def differences(self, push: Push) -> list[str]:
        """Return what differs in a push of the same name, a line for each value."""
        given = push.parameters
        if self.kind is not None and self.parameters:
            try:
                given = payload.decode_parameters(self.kind, push.raw)
            except DecodeError as error:  # the producer's type may differ
                return [f"its parameters don't fit: {error}"]
        pairs = [(name, _value(given, name), value) for name, value in self.parameters.items()]
        pairs += [(name, getattr(push, name), _stored(name, value)) for name, value in self.options.items()]
        return [f"{name}: {_shown(is_)}, not {wanted!r}" for name, is_, wanted in pairs if wanted != is_]

    def __str__(self) -> str:
        values = {**self.parameters, **self.options}
        return self.name + (
            f" with {', '.join(f'{key}={value!r}' for key, value in values.items())}" if values else ""
        )


class Pushes:
    """The pushes of a test, in order. Any thread may add one."""

    def __init__(self, queues: Sequence[Registry]) -> None:
        self.all: list[Push] = []
        self.changed = threading.Condition()
        self.listeners: list[Callable[[], object]] = []
        self._queues = queues

    def add(self, queue: str, job: NewJob, job_id: str) -> None:
        """Record a push that has added or replaced a job."""
        push = self._push_of(queue, job, job_id)
        with self.changed:
            self.all.append(push)
            self.changed.notify_all()
        for listener in list(self.listeners):
            listener()

    def _push_of(self, queue: str, job: NewJob, job_id: str) -> Push:
        pairs = zip(job.fields[::2], job.fields[1::2], strict=True)
        entry = {_text(key): value for key, value in pairs}
        name, raw = _text(entry["name"]), _bytes(entry["parameters"])
        until = None if not job.unique or job.unique_for_ms is not None else UniqueUntil.END
        return Push(
            queue,
            name,
            job_id,
            self._decoded(queue, name, raw),
            delay=job.due.ms / 1000 if isinstance(job.due, After) else None,
            at=codec.when(job.due.ms) if isinstance(job.due, At) else None,
            priority=job.priority,
            unique=job.unique or None,
            unique_for=_seconds(job.unique_for_ms),
            unique_until=UniqueUntil.START if "unique_until" in entry else until,
            on_conflict=job.on_conflict if job.unique else None,
            headers=codec.decode_headers(entry.get("headers")),
            expires_in=_seconds(job.expires_in_ms),
            keep_result=_seconds(int(entry["keep_result"])) if "keep_result" in entry else None,
            limit_key=_text(entry["limit_key"]) if "limit_key" in entry else None,
            replicas=job.replicas or None,
            raw=raw,
        )

    def _decoded(self, queue: str, name: str, raw: bytes) -> Any:
        for each in self._queues:
            if each.name == queue and name in each.definitions:
                with suppress(DecodeError):  # the producer's type may differ
                    return payload.decode_parameters(each.definitions[name].name, raw)
        with suppress(DecodeError):
            return payload.decode_untyped(name, raw)
        return raw

    def matching(self, wanted: Wanted) -> list[Push]:
        """Return the pushes that an assertion is about."""
        return [push for push in self._named(wanted.name) if not wanted.differences(push)]

    def _named(self, name: str) -> list[Push]:
        return [push for push in list(self.all) if push.name == name]

    def missing(self, wanted: Wanted, times: int | None) -> str:
        """Return the message of an assertion that found too few or too many pushes."""
        found = self.matching(wanted)
        if times is not None and found:
            return f"{wanted} was pushed {number_of(len(found), 'time')}, not {times}{_listed(found)}"
        if not (near := self._named(wanted.name)):
            return f"{wanted} was not pushed; {self._all_names()}"
        near.sort(key=lambda push: len(wanted.differences(push)))
        shown = "".join(
            f"\n  {push.name} {push.job_id}{_lines(wanted.differences(push))}" for push in near[:_NEAREST]
        )
        of_all = "" if len(near) <= _NEAREST else f" (the nearest {_NEAREST} of {len(near)})"
        return f"{wanted} was not pushed; of that name there were{of_all}:{shown}"

    def unwanted(self, wanted: Wanted) -> str:
        """Return the message of an assertion that found pushes that must not be; '' if there are none."""
        found = self.matching(wanted)
        return f"{wanted} was pushed{_listed(found)}" if found else ""

    def _all_names(self) -> str:
        counts = Counter(push.name for push in list(self.all))
        named = ", ".join(f"{name} ({count})" for name, count in counts.items())
        return f"pushed were: {named}" if named else "nothing was pushed on the queues of this test"

    def wanted(self, job: Any, values: Mapping[str, Any]) -> Wanted:
        """Return what an assertion asks for.

        Raises:
            TypeError: `job` names no job, or a value is neither a parameter of it nor a push option.
        """
        name, instance = self.name_of(job)
        kind = name if isinstance(name, JobName) else None
        called = name.name if isinstance(name, JobName) else name
        known = field_names(kind.parameters) if kind is not None else None
        parameters = {} if instance is None else {each: _value(instance, each) for each in known or ()}
        options = dict[str, Any]()
        for key, value in values.items():
            is_parameter = instance is None and (key in known if known is not None else key not in _OPTIONS)
            if not is_parameter and key not in _OPTIONS:
                there = ", ".join(known or ())
                raise TypeError(
                    f"{called} has no parameter {key!r}, and there is no such push option; its parameters: {there}"
                )
            (parameters if is_parameter else options)[key] = value
        return Wanted(called, parameters, options, kind)

    def name_of(self, job: Any) -> tuple[JobName[Any] | str, Any]:
        """Return the name that a caller gives for a job, with the type if it is known; and the parameters given.

        Raises:
            TypeError: It names no job.
        """
        known = [each for queue in self._queues for each in queue.definitions.values()]
        if isinstance(job, FunctionJob):
            return job.name, None
        if isinstance(job, JobName):
            return job, None
        if isinstance(job, str):
            return next((each.name for each in known if each.name.name == job), job), None
        if isinstance(job, type) and hasattr(job, "job_name"):
            return name_of(job), None
        if handler := next((each for each in known if each.function == job), None):
            return handler.name, None
        if hasattr(type(job), "job_name"):
            return name_of(type(job)), job
        raise TypeError(
            f"{job!r:.100} names no job: give its parameter type or its parameters, its name, or its function"
        )


_OPTIONS = PushOptions.__annotations__.keys()
_DURATIONS = ("delay", "unique_for", "expires_in", "keep_result")


def _stored(option: str, value: Any) -> Any:
    """Return the wanted value of an option as a push stores it."""
    if option in _DURATIONS and isinstance(value, timedelta):
        value = value.total_seconds()
    if option == "delay" and value == 0:
        return None
    if isinstance(value, datetime) and value.tzinfo is not None:
        return codec.when(milliseconds(value.timestamp()))
    return str(value) if option == "limit_key" and isinstance(value, int) else value


def _value(parameters: Any, name: str) -> Any:
    if isinstance(parameters, Mapping):
        return parameters.get(name, _ABSENT)
    return getattr(parameters, name, _ABSENT)


def _shown(value: Any) -> str:
    return "absent" if value is _ABSENT else repr(value)


def _listed(pushes: Iterable[Push]) -> str:
    return ":" + "".join(f"\n  {push.name} {push.job_id}: {push.parameters!r}{_options(push)}" for push in pushes)


def _options(push: Push) -> str:
    given = {name: getattr(push, name) for name in _OPTIONS}
    plain = Push("", "", push.job_id, None)
    said = [f"{name}={value!r}" for name, value in given.items() if value != getattr(plain, name)]
    return f", {', '.join(said)}" if said else ""


def _lines(differences: Iterable[str]) -> str:
    return "".join(f"\n    {line}" for line in differences)


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
