"""How a job is pushed, and how its handler runs: the options of both, checked."""

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from string import Formatter
from typing import Any, Literal, TypedDict

from redisjobs.base.arguments import aware, is_text, milliseconds, one_of, seconds
from redisjobs.errors import RegistrationError
from redisjobs.model import codec
from redisjobs.model.job import Duration, JobDefinition, JobName, OnConflict, Priority, UniqueUntil
from redisjobs.model.limits import Limit, checked_key
from redisjobs.model.retry import RetryPolicy
from redisjobs.model.transitions import After, At, Due, NewJob
from redisjobs.schedules.schedule import Schedule

RunIn = Literal["thread", "process"]
"""Where a sync handler runs: a thread is cheap and can't be killed, a process is neither."""


class PushOptions(TypedDict, total=False):
    """How a job is pushed; every one may be left out.

    Attributes:
        delay: Seconds or a timedelta from now, by the server's clock, before it may run.
        at: The earliest time it may run: an aware datetime. Not with delay.
        priority: HIGH, NORMAL (the default) or LOW, or the same in words: "high".
        job_id: One job at a time may have it: while a job of that id is on the queue, delayed or dead, another is
            not added. Once that has ended or was cancelled, a new push makes a new job. Defaults to a new id.
            Whichever it is, a push that is tried again after a lost reply adds nothing.
        unique: A key that one job at a time may hold, from its push until it is done, dead or cancelled; a push
            while another job holds it adds nothing; its handle has that job's id.
        unique_for: Hold the unique key for just this long from the push instead, whatever becomes of the job.
        unique_until: `"start"`: hold the unique key only while the job waits. A push that comes once a worker has
            it adds a job, which holds the key from then on. Not with unique_for. Defaults to `"end"`.
        on_conflict: What becomes of a push while another job holds its unique key. `"skip"`, the default: it adds
            nothing. `"replace"`: if that job waits, delayed or ready, it becomes what is pushed, under its own id:
            see the guide on unique jobs; if it runs or has ended, nothing is added. `"raise"`: UniqueConflict.
        headers: Strings to strings that go with the job, such as a trace context.
        expires_in: A job not started within this time becomes a dead letter, reason `expired`. One that was
            started never does, however often it is tried again, also after its worker died or stopped.
        keep_result: For how long what its handler returns is kept, for `queue.result`; 0: not at all. Defaults to
            what is said where the handler is registered.
        limit_key: Under which key the job is counted, where its name has a limit: text of 1 to 200 characters, or
            a whole number. Defaults to what the `limit_key` of its handler says, if that is here.
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


class HandlerOptions(TypedDict, total=False):
    """How the jobs of a handler run; every one may be left out.

    Attributes:
        retry: When a failed run is tried again. Defaults to the queue's policy.
        timeout: How long one run may take; it may ask for more by `context.extend`. Defaults to no limit.
        stalled_after: For how long one run may report no progress, by `context.progress` or `context.track`,
            before it counts as failed, with `JobStalled`. Defaults to any time.
        run_in: Where a sync handler runs, a `"thread"` by default. A `"process"` ends with the timeout, and a
            crash there is the job's failure, `ProcessDied`; it must find the handler by its name in its module.
        schedule: When the job is pushed, again and again, with parameters that need no arguments. For more, and
            for other parameters, there is the queue's method `schedule`.
        keep_result: For how long what the handler returns is kept, for `queue.result`. Defaults to not at all.
            What a push says goes first.
        strict_result: Whether a job fails whose handler returns what can't be kept, instead of being done with its
            result refused. It is not run again.
        max_concurrency: So many of these jobs run at once at most, in all workers of the queue together. A worker
            stores that as it begins, and the last that did so, or `set_limit`, counts.
        rate: So many of them start in a time, as `50/s`, `100/m` or `5/h`.
        burst: How many may start together after a rest. Defaults to one, and as many more as the rate
            allows in 0.1 s.
        priority: Of its jobs, where the push does not say: HIGH, NORMAL or LOW, or the same in words.
        unique: The unique key of each job, where the push does not say: a function of the parameters, as
            `lambda p: p.order`, of which None means no key; or a text with their names, as `"order-{order}"`. The
            function gets what that of `limit_key` gets. A push with `unique=None` has no key.
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


def check_push_options(options: PushOptions) -> None:
    """A misspelt option must not be an option left out: the job would run, but not as asked."""
    if options and (unknown := options.keys() - PushOptions.__annotations__.keys()):
        known = ", ".join(PushOptions.__annotations__)
        raise TypeError(f"there is no push option {', '.join(sorted(unknown))}; there are {known}")


def check_handler_options(options: Mapping[str, Any], *others: str, limit_key: object = None) -> None:
    """A misspelt option must not be one that is left out: the job would run, but not as asked.

    Args:
        options: What was given.
        others: What may be given beside `HandlerOptions`.
        limit_key: Of these, what says under which key a job is counted.

    Raises:
        TypeError: There is no such option, or `limit_key` can't be called.
        RegistrationError: An option is of another type.
        ValueError: A duration can't be one, or a limit makes no sense.
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
    if limit_key is not None and not callable(limit_key):
        raise TypeError(f"limit_key={limit_key!r}: give a function of the parameters, as lambda p: p.tenant")
    _settings({option: value for option, value in options.items() if option not in others})


def new_job(fields: list[str | bytes], options: PushOptions) -> NewJob:
    """A job to push, of the fields that it has and what was asked for.

    Raises:
        ValueError: An option makes no sense.
    """
    headers, unique = options.get("headers"), _text(options.get("unique"), "unique")
    job_id = _text(options.get("job_id"), "job_id")
    unique_for = in_ms(options.get("unique_for"), "unique_for")
    if headers:
        fields += ["headers", codec.encode_headers(headers)]
    if options.get("keep_result") is not None:
        fields += ["keep_result", str(in_ms(options["keep_result"], "keep_result"))]
    if (limit_key := options.get("limit_key")) is not None:
        fields += ["limit_key", checked_key(limit_key)]
    if unique_for is not None and not (unique and unique_for):
        raise ValueError("unique_for= says how long, at least 1 ms, a unique= key is held; give the key too")
    fields += _unique_until(options.get("unique_until"), unique, unique_for)
    return NewJob(
        job_id or codec.new_job_id(),
        fields,
        _priority(options.get("priority")),
        _due(options.get("delay"), options.get("at")),
        unique or "",
        unique_for,
        in_ms(options.get("expires_in"), "expires_in"),
        codec.new_nonce() if job_id else "",
        _on_conflict(options.get("on_conflict"), unique),
    )


def new_definition(
    name: JobName[Any],
    call: Callable[..., Any],
    function: Any,
    options: HandlerOptions,
    *,
    retry: RetryPolicy,
    returned: Callable[[], Any],
    limit_key: Callable[[Any], str | int] | None,
    unique: Callable[[Any], str | None] | None,
    by_name: bool,
) -> JobDefinition[Any]:
    """A handler, with what was asked for.

    Args:
        name: Its job name.
        call: Takes (parameters, context).
        function: The handler itself.
        options: What was asked for.
        retry: The queue's policy.
        returned: Gives the type that it returns.
        limit_key: Says under which key a job is counted.
        unique: Says its unique key, where its push does not.
        by_name: Whether it takes its parameters by name.

    Raises:
        RegistrationError: It can't run in a process, or an option is of another type.
        ValueError: A duration can't be one, or a limit makes no sense.
    """
    awaits = is_async(function)
    return JobDefinition(
        name,
        call,
        awaits,
        **{"retry": retry, **_settings(options)},
        in_process=_in_process(function, awaits, options.get("run_in", "thread")),
        function=function,
        by_name=by_name,
        returned=returned,
        limit_key=limit_key,
        unique=unique,
    )


def unique_of(
    given: Callable[[Any], str | None] | str | None, called: str, names: Collection[str] | None
) -> Callable[[Any], str | None] | None:
    """What says the unique key of a job by its parameters.

    Args:
        given: That itself, or a text with names of parameters in braces.
        called: The job's name.
        names: Of the parameters; None: not known.

    Raises:
        RegistrationError: It is neither, or there is no such parameter.
    """
    if given is None or callable(given):
        return given
    example = f'give a function of the parameters, or a text as "{called}-{{{next(iter(names or ["id"]), "id")}}}"'
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
    """The parameters of a job by name, be they attributes or keys."""

    def __init__(self, parameters: Any) -> None:
        self._parameters = parameters

    def __missing__(self, name: str) -> Any:
        given = self._parameters
        return given[name] if isinstance(given, Mapping) else getattr(given, name)


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """What a definition has of its options by themselves."""
    timeout, strict_result = options.get("timeout"), options.get("strict_result", False)
    if not isinstance(strict_result, bool):
        raise RegistrationError(f"strict_result={strict_result!r}: give True or False")
    settings = {
        "timeout": None if timeout is None else seconds(timeout, "timeout"),
        "stalled_after": _stalled_after(options.get("stalled_after")),
        "keep_ms": in_ms(options.get("keep_result"), "keep_result") or 0,
        "strict_result": strict_result,
        "limit": Limit(options.get("max_concurrency"), options.get("rate"), options.get("burst")).text,
        "priority": None if (priority := options.get("priority")) is None else _priority(priority),
    }
    policy = checked_policy(options.get("retry"))
    return settings if policy is None else {**settings, "retry": policy}


def checked_policy(retry: RetryPolicy | None) -> RetryPolicy | None:
    """A retry policy, or none.

    Raises:
        RegistrationError: It is something else.
    """
    if retry is None or isinstance(retry, RetryPolicy):
        return retry
    raise RegistrationError(f"retry={retry!r}: give a RetryPolicy, such as exponential_jitter(max_attempts=3)")


def in_ms(duration: Duration | None, what: str) -> int | None:
    """A duration in whole ms, rounded up; None if there is none.

    Raises:
        ValueError: It is negative, or no duration; `what` is what the caller calls it.
    """
    return None if duration is None else milliseconds(seconds(duration, what))


def _stalled_after(duration: Duration | None) -> float | None:
    value = None if duration is None else seconds(duration, "stalled_after")
    if value == 0:
        raise ValueError("stalled_after=0: no run reports progress before it began; give more than 0 s")
    return value


def _priority(priority: str | None) -> Priority:
    if priority is None:
        return Priority.NORMAL
    return one_of(Priority, priority, "priority")


def _unique_until(until: str | None, unique: str | None, unique_for: int | None) -> list[str | bytes]:
    """The field for how long a unique key is held: until the job starts, or, without one, until its end."""
    if until is None:
        return []
    if not unique:
        raise ValueError("unique_until= says how long a unique= key is held; give the key too")
    if unique_for is not None:
        raise ValueError(
            "unique_for= holds the key for a time, whatever becomes of the job; leave out unique_until="
        )
    is_short = one_of(UniqueUntil, until, "unique_until") is UniqueUntil.START
    return ["unique_until", "start"] if is_short else []


def _on_conflict(on_conflict: str | None, unique: str | None) -> OnConflict:
    if on_conflict is None:
        return OnConflict.SKIP
    if not unique:
        raise ValueError(
            "on_conflict= says what is done where another job holds the unique= key; give the key too"
        )
    return one_of(OnConflict, on_conflict, "on_conflict")


def _text(text: str | None, what: str) -> str | None:
    if text is None or is_text(text, r"(?s:.{1,500})"):
        return text
    raise ValueError(f"{what}={text!r}: give 1 to 500 characters that UTF-8 can carry")


def checked_unique(key: str | None) -> str | None:
    """A unique key, or none.

    Raises:
        ValueError: It can't be one.
    """
    return _text(key, "unique")


def _due(delay: Duration | None, at: datetime | None) -> Due | None:
    if delay is not None and at is not None:
        raise ValueError("give delay= or at=, not both")
    if at is not None:
        return At(max(0, milliseconds(aware(at, "at").timestamp())))
    wait_ms = 0.0 if delay is None else round(seconds(delay, "delay") * 1000, 3)
    return After(wait_ms) if wait_ms else None  # the store rounds it, with its own clock


def _in_process(handler: Any, is_async: bool, run_in: RunIn) -> bool:
    """Whether a handler is to run in a process of its own."""
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


def is_async(handler: Callable[..., Any]) -> bool:
    """Whether calling a handler returns a coroutine."""
    call = getattr(handler, "__call__", None)  # noqa: B004  (an object may have an async one)
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call)
