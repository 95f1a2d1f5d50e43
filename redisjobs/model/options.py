"""The options of a push and of a handler, and their checks.

To add an option of a push, add its name, type and meaning to `PushOptions`, and the option to `cli/push.py`. If it
only travels in the job's entry, also add a line to `ENTRY_OPTIONS`. If the store acts on it, add it to `NewJob` in
`transitions.py` and to the drivers: `memory/pushes.py`, `redis/wire.py` with `lua/push.lua`, and
`postgres/entries.py` with `functions/push.sql`.
"""

import re
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from string import Formatter
from typing import Any, Literal, NamedTuple, TypedDict

from redisjobs.base.arguments import aware, is_text, milliseconds, one_of, seconds, whole
from redisjobs.errors import RegistrationError
from redisjobs.model import codec
from redisjobs.model.annotations import is_async
from redisjobs.model.job import Duration, OnConflict, Priority, UniqueUntil
from redisjobs.model.limits import Limit, checked_key
from redisjobs.model.retry import RetryPolicy
from redisjobs.model.transitions import MOST_JOBS, After, At, Due, PreparedJob
from redisjobs.schedules.schedule import Schedule

RunIn = Literal["thread", "process"]
"""Where a sync handler runs. A thread is cheap, but can't be killed. A process costs more, but can be killed."""


class PushOptions(TypedDict, total=False):
    """The options of a push; all are optional.

    Attributes:
        delay: Seconds or a timedelta before the job may run, by the server's clock.
        at: The earliest time the job may run: an aware datetime. Not with delay.
        priority: HIGH, NORMAL (the default) or LOW, or their text: "high".
        job_id: Your own id. While a job with this id is delayed, ready, running, suspended or dead, no other one
            is added. Once it is done or cancelled, a new push makes a new job. Defaults to a new id. In both
            cases, a push that is repeated after a lost reply adds nothing.
        unique: A key that only one job may hold, from its push until it is done, dead or cancelled. While another
            job holds it, a push adds nothing, and its handle has that job's id.
        unique_for: Hold the unique key for this long after the push instead, even if the job ends earlier.
        unique_until: `"start"`: hold the unique key only until a worker gets the job. Not with unique_for.
            Defaults to `"end"`.
        on_conflict: What the push does if another job holds its unique key. `"skip"`, the default: it adds
            nothing. `"replace"`: if that job is delayed or ready, the new job takes its place and its id (see the
            guide on unique jobs); if it runs or has ended, nothing is added. `"raise"`: raise UniqueConflict.
        headers: Strings by name that are stored with the job, for example a trace context.
        expires_in: If the job has not started within this time, it becomes a dead letter, reason `expired`. A job
            that has started once does not expire, even if it is tried again.
        keep_result: How long to keep the result for `queue.result`; 0: not at all. Defaults to the option of its
            handler.
        limit_key: The job's key for the limit of its name: text of 1 to 200 characters, or a whole number.
            Defaults to what the handler's `limit_key` returns, if the handler is registered here.
        replicas: How many replicas must have the job before the push returns. While fewer have it, the push is
            repeated, and in the end raises Unavailable. Defaults to none. See the page on failovers.
    """

    delay: Duration | None
    at: datetime | None
    priority: Priority | Literal["high", "normal", "low"] | None
    job_id: str | None
    unique: str | None
    unique_for: Duration | None
    unique_until: UniqueUntil | Literal["start", "end"] | None
    on_conflict: OnConflict | Literal["skip", "replace", "raise"] | None
    headers: Mapping[str, str] | None
    expires_in: Duration | None
    keep_result: Duration | None
    limit_key: str | int | None
    replicas: int | None


class EntryOption(NamedTuple):
    """A push option that the job's entry stores in a field of the same name."""

    write: Callable[[Any], str | bytes]  # checks a value, and returns the text of the field; '' for no field
    pattern: str = r"(?s:.*)"  # of the stored text in a schedule; if it was changed in Redis, reading it may fail


ENTRY_OPTIONS: Mapping[str, EntryOption] = {
    "headers": EntryOption(lambda headers: codec.encode_headers(headers) if headers else ""),
    "keep_result": EntryOption(lambda duration: str(in_ms(duration, "keep_result")), r"\d{1,15}"),
    "limit_key": EntryOption(lambda key: checked_key(key)),
    "unique_until": EntryOption(lambda until: _if_start(until), "start"),
}


class HandlerOptions(TypedDict, total=False):
    """The options of a handler; all are optional.

    Attributes:
        retry: When a failed job runs again. Defaults to the queue's policy.
        timeout: How long one run may take; the handler may ask for more by `context.extend`. Defaults to no limit.
        stalled_after: How long one run may go without a progress report before it fails with `JobStalled`.
            Defaults to no limit.
        run_in: Where a sync handler runs, by default in a `"thread"`. A `"process"` is killed at the timeout. If
            it crashes, the job fails with `ProcessDied`. It imports the handler by its name from its module.
        schedule: When to push the job again and again without arguments. If the parameters need arguments, use the
            queue's method `schedule`.
        keep_result: How long to keep the result for `queue.result`. Defaults to not at all. The same option of a
            push takes precedence.
        strict_result: Whether the job becomes a dead letter if its result can't be kept. If not, it is done, and
            its result is refused.
        max_concurrency: The most of these jobs that run at once, in all workers of the queue together. A worker
            stores it when it starts. The last worker to start, or a later `set_limit`, decides.
        rate: How many of these jobs may start: `50/s`, `100/m` or `5/h`.
        burst: The most that may start together after a rest. Defaults to one, plus as many as the rate allows in
            0.1 s.
        priority: The priority of its jobs, unless the push has one.
        unique: The unique key of each job, unless the push has one. It is a function of the parameters, like
            `lambda p: p.order`, that returns the key, or None for no key; or a text with parameter names, like
            `"order-{order}"`. A push with `unique=None` has no key.
        version: The version of the handler, a whole number; 1 by default. Raise it when you change the steps of
            the handler. It is stored with the first step of a job, and later runs find it in `context.version`.
        children: What becomes of the children of a dead letter that have not ended. `"leave"`, the default: they
            go on. `"cancel"`: they are cancelled. Those of a job that was cancelled always are.
    """

    retry: RetryPolicy | None
    timeout: Duration | None
    stalled_after: Duration | None
    run_in: RunIn
    schedule: Schedule | None
    keep_result: Duration | None
    strict_result: bool
    max_concurrency: int | None
    rate: str | None
    burst: int | None
    priority: Priority | Literal["high", "normal", "low"] | None
    unique: Callable[[Any], str | None] | str | None
    version: int
    children: Literal["leave", "cancel"]


# Of a push


def check_push_options(options: PushOptions) -> None:
    """Raise a TypeError for options that do not exist. If they were ignored, the job would run in a wrong way."""
    if options and (unknown := options.keys() - PushOptions.__annotations__.keys()):
        known = ", ".join(PushOptions.__annotations__)
        raise TypeError(f"there is no push option {', '.join(sorted(unknown))}; there are {known}")


def new_job(fields: list[str | bytes], options: PushOptions) -> PreparedJob[Any]:
    """Return a job to push, made from the fields of its entry and the options of the push.

    Raises:
        ValueError: The value of an option is wrong.
        EncodeError: The headers are not strings.
    """
    job_id, unique = _text(options.get("job_id"), "job_id"), _text(options.get("unique"), "unique")
    unique_for, on_conflict = in_ms(options.get("unique_for"), "unique_for"), options.get("on_conflict")
    if not (unique and unique_for is None):  # else the options fit together
        _check_key_options(options, unique, unique_for)
    if not ENTRY_OPTIONS.keys().isdisjoint(options):
        for name, (write, _) in ENTRY_OPTIONS.items():
            if (value := options.get(name)) is not None and (written := write(value)):
                fields += [name, written]
    return PreparedJob(
        job_id or codec.new_job_id(),
        fields,
        _priority(options.get("priority")),
        _due(options.get("delay"), options.get("at")),
        unique or "",
        unique_for,
        in_ms(options.get("expires_in"), "expires_in"),
        codec.new_nonce() if job_id else "",
        OnConflict.SKIP if on_conflict is None else one_of(OnConflict, on_conflict, "on_conflict"),
        replicas=_replicas(options.get("replicas")),
    )


def _check_key_options(options: PushOptions, unique: str | None, unique_for: int | None) -> None:
    """Raise a ValueError for options that need a unique key, or that exclude each other."""
    if unique_for is not None and not (unique and unique_for):
        raise ValueError("unique_for= says how long, at least 1 ms, a unique= key is held; give the key too")
    if options.get("unique_until") is not None:
        if not unique:
            raise ValueError("unique_until= says how long a unique= key is held; give the key too")
        raise ValueError(
            "unique_for= holds the key for a time, whatever becomes of the job; leave out unique_until="
        )
    if options.get("on_conflict") is not None and not unique:
        raise ValueError(
            "on_conflict= says what is done where another job holds the unique= key; give the key too"
        )


def checked_unique(key: str | None) -> str | None:
    """Return a unique key, or None; raise a ValueError if it can't be one."""
    return _text(key, "unique")


def in_ms(duration: Duration | None, what: str) -> int | None:
    """Return a duration in whole ms, rounded up, or None; raise a ValueError that names the argument `what`."""
    return None if duration is None else milliseconds(seconds(duration, what))


def _if_start(until: str) -> str:
    return "start" if one_of(UniqueUntil, until, "unique_until") is UniqueUntil.START else ""


def _text(text: str | None, what: str) -> str | None:
    if text is None or is_text(text, r"(?s:.{1,500})"):
        return text
    raise ValueError(f"{what}={text!r:.60}: give 1 to 500 characters that UTF-8 can carry")


def _replicas(replicas: int | None) -> int:
    if replicas is None:
        return 0
    if whole(replicas, "replicas") > MOST_JOBS:
        raise ValueError(f"replicas={replicas!r:.60}: no server has more than {MOST_JOBS}")
    return replicas


def _priority(priority: str | None) -> Priority:
    if priority is None:
        return Priority.NORMAL
    return one_of(Priority, priority, "priority")


def _due(delay: Duration | None, at: datetime | None) -> Due | None:
    if delay is not None and at is not None:
        raise ValueError("give delay= or at=, not both")
    if at is not None:
        return At(max(0, milliseconds(aware(at, "at").timestamp())))
    wait_ms = 0.0 if delay is None else round(seconds(delay, "delay") * 1000, 3)
    return After(wait_ms) if wait_ms else None  # the store rounds it, with its own clock


# Of a handler


def check_handler_options(options: Mapping[str, Any], *others: str, limit_key: object = None) -> None:
    """Check the options of a handler; `others` are names of more options, whose values are not checked here.

    Raises:
        TypeError: There is no such option, or `limit_key` can't be called.
        RegistrationError: The value of an option has a wrong type.
        ValueError: A duration or a limit is wrong.
    """
    known = [*others, *HandlerOptions.__annotations__]
    if unknown := options.keys() - known:
        hint = "; how often it is tried, as retry=exponential_jitter(max_attempts=3)"
        raise TypeError(
            f"there is no handler option {', '.join(sorted(unknown))}; there are {', '.join(known)}"
            + (hint if any("retr" in name or "attempt" in name for name in unknown) else "")
        )
    if (run_in := options.get("run_in", "thread")) not in ("thread", "process"):
        raise RegistrationError(f'run_in={run_in!r}: give "thread" or "process"')
    if limit_key is not None and (not callable(limit_key) or is_async(limit_key)):
        raise TypeError(f"limit_key={limit_key!r}: give a plain function of the parameters, as lambda p: p.tenant")
    _settings({option: value for option, value in options.items() if option not in others})


def handled_by(function: Any, options: HandlerOptions) -> dict[str, Any]:
    """Return the attributes of a definition that come from the handler and its options.

    Raises:
        RegistrationError: The handler can't run in a process, or the value of an option has a wrong type.
        ValueError: A duration or a limit is wrong.
    """
    awaits = is_async(function)
    in_process = _in_process(function, awaits, options.get("run_in", "thread"))
    return {
        "is_async": awaits,
        "awaits": awaits,
        "in_process": in_process,
        "function": function,
        **_settings(options),
    }


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a definition that come from the options alone."""
    strict_result = options.get("strict_result", False)
    if not isinstance(strict_result, bool):
        raise RegistrationError(f"strict_result={strict_result!r}: give True or False")
    settings = {
        "timeout": _above_zero(options.get("timeout"), "timeout", "no run ends in no time"),
        "stalled_after": _above_zero(
            options.get("stalled_after"), "stalled_after", "no run reports progress before it began"
        ),
        "keep_ms": in_ms(options.get("keep_result"), "keep_result") or 0,
        "strict_result": strict_result,
        "cancels_children": _cancels_children(options.get("children", "leave")),
        "version": 1 if (version := options.get("version")) is None else whole(version, "version"),
        "limit": Limit(options.get("max_concurrency"), options.get("rate"), options.get("burst")).text,
        "priority": None if (priority := options.get("priority")) is None else _priority(priority),
    }
    policy = checked_policy(options.get("retry"))
    return settings if policy is None else {**settings, "retry": policy}


def _cancels_children(children: str) -> bool:
    if children not in ("leave", "cancel"):
        raise RegistrationError(f'children={children!r}: give "leave" or "cancel"')
    return children == "cancel"


def checked_policy(retry: RetryPolicy | None) -> RetryPolicy | None:
    """Return a retry policy, or None; raise a `RegistrationError` for anything else."""
    if retry is None or isinstance(retry, RetryPolicy):
        return retry
    raise RegistrationError(f"retry={retry!r}: give a RetryPolicy, such as exponential_jitter(max_attempts=3)")


def _above_zero(duration: Duration | None, what: str, why: str) -> float | None:
    value = None if duration is None else seconds(duration, what)
    if value == 0:
        raise ValueError(f"{what}=0: {why}; give more than 0 s")
    return value


def _in_process(handler: Any, is_async: bool, run_in: RunIn) -> bool:
    """Return whether a handler runs in a separate process; raise a `RegistrationError` if it can't."""
    if run_in == "thread":
        return False
    called = getattr(handler, "__qualname__", "")
    if is_async:
        raise RegistrationError(
            f'{called} is async, so it runs in the event loop: run_in="process" is for sync handlers'
        )
    if not called or not getattr(handler, "__module__", "") or "<" in called:
        raise RegistrationError(
            f'{called or repr(handler)} has run_in="process", but a process would not find it: '
            "define it at the top of a module"
        )
    return True


def unique_of(
    given: Callable[[Any], str | None] | str | None, called: str, names: Collection[str] | None
) -> Callable[[Any], str | None] | None:
    """Return a function of the parameters that returns a job's unique key.

    `given` is that function, or a text with names of parameters in braces. `names` are all names, if known.

    Raises:
        RegistrationError: `given` is neither, or names a parameter that does not exist.
    """
    if given is None or (callable(given) and not is_async(given)):
        return given
    field = next(iter(names or ["id"]), "id")
    example = f'give a plain function of the parameters, or a text as "{called}-{{{field}}}"'
    if not isinstance(given, str) or not given:
        raise RegistrationError(f"{called}: unique={given!r}: {example}")
    try:
        wanted = [re.split(r"[.\[]", name)[0] for _, name, _, _ in Formatter().parse(given) if name is not None]
    except ValueError as error:
        raise RegistrationError(f"{called}: unique={given!r}: {error}; {example}") from error
    for name in wanted:
        if not name.isidentifier() or (names is not None and name not in names):
            there = f"no parameter is called '{name}'; there are {', '.join(names or ()) or 'none'}"
            raise RegistrationError(f"{called}: unique={given!r}: {there}")
    return lambda parameters: given.format_map(_Values(parameters))


class _Values(dict[str, Any]):
    """A mapping for `format_map` that looks up parameters by attribute or key."""

    def __init__(self, parameters: Any) -> None:
        self._parameters = parameters

    def __missing__(self, name: str) -> Any:
        given = self._parameters
        return given[name] if isinstance(given, Mapping) else getattr(given, name)
