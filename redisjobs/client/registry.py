"""What a queue knows without its store: its handlers by name, and how a push becomes a job on its way in.

Both faces of a queue, async and sync, are built on it.
"""

import asyncio
import copy
import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    Unpack,
    get_origin,
    is_typeddict,
    overload,
)

from redisjobs.base.arguments import one_of, seconds, whole
from redisjobs.base.visible import visible
from redisjobs.client.push import Chunk, Push, PushOutcome, name_in
from redisjobs.client.results import kept_for_a_while
from redisjobs.errors import DriverError, EncodeError, RegistrationError, UnknownJob
from redisjobs.middleware import Hook, Middleware, PushEnds, all_checked, checked, hooks
from redisjobs.model import codec
from redisjobs.model.context import JobContext
from redisjobs.model.driver import Driver
from redisjobs.model.job import (
    AppState,
    Duration,
    Expected,
    JobDefinition,
    JobName,
    Named,
    PushedJob,
    ReturnType,
    TypedMapping,
    borrowed,
    checked_queue_name,
    name_of,
)
from redisjobs.model.limits import LimitKey, checked_key
from redisjobs.model.options import (
    HandlerOptions,
    PushOptions,
    check_handler_options,
    check_push_options,
    checked_policy,
    checked_unique,
    in_ms,
    is_async,
    new_definition,
    new_job,
    unique_of,
)
from redisjobs.model.queries import Change, Requeue, Row
from redisjobs.model.retention import Retention
from redisjobs.model.retry import RetryPolicy, exponential_jitter
from redisjobs.model.signature import Signature, handler_call, returned_type
from redisjobs.model.stored import Accuracy, Definition, check_schedule
from redisjobs.model.transitions import MOST_BYTES, MOST_JOBS, REPEATABLE, NewJob, Pushed, weight_of
from redisjobs.schedules.schedule import Schedule

if TYPE_CHECKING:
    from redisjobs.client.changes import Publisher
    from redisjobs.events import Events

P = TypeVar("P")
Args = ParamSpec("Args")
Given = ParamSpec("Given")
Returned = TypeVar("Returned")
Returned_co = TypeVar("Returned_co", covariant=True)  # so that any coroutine is one


class Anything:
    """No argument is one of these: a function takes it as its first only where that may be anything."""


# For type checkers, which can leave the context out of a signature only where it comes first. Anywhere else, and
# where the first argument may be anything, so also a context, what is pushed goes unchecked until it is.
Unchecked = (
    Callable[Concatenate[Anything, ...], Returned]
    | Callable[Concatenate[Any, JobContext[AppState], ...], Returned]
    | Callable[Concatenate[Any, Any, JobContext[AppState], ...], Returned]
    | Callable[Concatenate[Any, Any, Any, JobContext[AppState], ...], Returned]
    | Callable[Concatenate[Any, Any, Any, Any, JobContext[AppState], ...], Returned]
)


class HandlerDecorator(Protocol[P]):
    """What `register(...)` returns: makes a function the handler of a job; the function stays as it is."""

    @overload
    def __call__(
        self, handler: Callable[[P, JobContext[AppState]], Returned], /
    ) -> Callable[[P, JobContext[AppState]], Returned]: ...

    @overload
    def __call__(self, handler: Callable[[P], Returned], /) -> Callable[[P], Returned]: ...


class Registry:
    """A queue's handlers and defaults.

    Attributes:
        driver: The store, for whoever runs the handlers.
        declared: The schedules that the code declares, by name; see `schedule`.
        state: What handlers find as `context.state`; an application sets it before jobs run.
        middleware: Who takes part in it, the outermost first; see `add_middleware`.
        on_push: Their hooks of that name, for whoever pushes.
        retention: What the queue keeps, which its workers say as they begin; None: they leave it as it is.

    Args:
        name: The queue's name: 1 to 200 characters, no braces, no spaces.
        retry: The retry policy of handlers that name none. Defaults to `exponential_jitter()`.
        max_parameters: Bytes of JSON that a job's parameters may have.
        deadline: Seconds that a call is retried for while the store is unavailable; up to 50.
        middleware: Who takes part in what happens to the jobs; the outermost first.
        retention: What the queue keeps; None: what it was told before.

    Raises:
        TypeError: One of these is no middleware, or has a hook that the queue can't await; or retention is none.
        ValueError: The name, the deadline or the number of bytes can't be one.
    """

    driver: Driver
    _awaits_push: ClassVar[bool] = True

    def __init__(
        self,
        name: str,
        *,
        retry: RetryPolicy | None,
        max_parameters: int,
        deadline: Duration,
        middleware: Iterable[Middleware] = (),
        retention: Retention | None = None,
    ) -> None:
        self.name = checked_queue_name(name)
        self.retry = checked_policy(retry) or exponential_jitter()
        self.max_parameters = whole(max_parameters, "max_parameters")
        self.deadline = seconds(deadline, "deadline")
        if not 0 < self.deadline <= REPEATABLE:
            raise ValueError(
                f"deadline={deadline!r}: give more than 0 and up to {REPEATABLE:g} s, for so long a push "
                "is safe to repeat"
            )
        if retention is not None and not isinstance(retention, Retention):
            raise TypeError(f"retention={retention!r}: give a Retention, as Retention(completed=Keep(count=1000))")
        self.retention = retention
        self.state: Any = None
        self.definitions: dict[str, JobDefinition[Any]] = {}
        self.declared: dict[str, Definition] = {}
        self._publishers = list["Publisher"]()  # none, or one that counts
        self._names: dict[Any, JobName[Any]] = {}
        self.middleware: tuple[Middleware, ...] = ()
        self.on_push: tuple[Hook, ...] = ()
        for each in all_checked(middleware, awaits_push=self._awaits_push):
            self.add_middleware(each)

    @property
    def events(self) -> "Events":
        """Who listens to what happens on this queue, in this process: `events.subscribe(kind, listener)`."""
        if not self._publishers:  # whoever only pushes never gets here, and need not load what may happen to jobs
            from redisjobs.client.changes import Publisher

            # Threads may do so at once: the first that is there counts.
            self._publishers.append(Publisher(self.name))
        return self._publishers[0].events

    async def disconnect(self) -> None:
        """Close the connections of this queue; it can be used again after."""
        await self.driver.aclose()

    def add_middleware(self, middleware: Middleware) -> None:
        """Let a middleware take part in the jobs of this queue, in this process, inside of those added before.

        A worker takes up those that are there when its run begins; one that is added later is for pushes, and for
        the next run.

        Raises:
            TypeError: It is no middleware, or has a hook that can't be called.
        """
        self.middleware = (*self.middleware, checked(middleware, awaits_push=self._awaits_push))
        self.on_push = hooks(self.middleware, "on_push")

    def register(
        self,
        parameters: type[P] | JobName[P],
        *,
        limit_key: Callable[[P], str | int] | None = None,
        **options: Unpack[HandlerOptions],
    ) -> HandlerDecorator[P]:
        """Register the decorated function as the handler of a job name; it stays as it is.

        Args:
            parameters: A parameter type that has a `job_name`, or a JobName.
            limit_key: Says by the parameters under which key a job is counted: then `max_concurrency` and `rate`
                hold for each key. It is called where a job is pushed, or requeued with other parameters.
            options: See `HandlerOptions`.

        Raises:
            RegistrationError: The name has a handler already, or the handler takes something other than
                (parameters) or (parameters, context), or can't run in a process; or there is a schedule, and the
                parameters can't be made without arguments; or what it returns can't be kept.
            ValueError: A duration can't be one, or a limit makes no sense.
            TypeError: There is no such option.
        """
        check_handler_options(options, "limit_key", limit_key=limit_key)
        name = name_of(parameters)

        def decorate(handler: Any) -> Any:
            unique = unique_of(options.get("unique"), name.name, _fields_of(name.parameters))
            make, call = name.parameters, handler_call(handler)
            self._add(name, call, handler, make, options, limit_key=limit_key, unique=unique)
            return handler

        return decorate

    def register_function(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        limit_key: LimitKey | None = None,
        **options: Unpack[HandlerOptions],
    ) -> tuple[JobName[Any], Signature]:
        """Register a plain function whose signature is the parameters; what `job` of each face does."""
        called = getattr(function, "__name__", None) if name is None else name
        if called is None:  # a partial, or an object that can be called
            raise RegistrationError(f"{function!r} has no name of its own: give one, as job(name='...')")
        signature = Signature.of(function, str(called))
        job_name = JobName(called, signature.type)
        key_of = None if limit_key is None else signature.attributed(limit_key)
        arguments = signature.arguments
        unique = unique_of(options.get("unique"), str(called), list(signature.type.__annotations__))
        unique = None if unique is None else signature.attributed(unique)
        self._add(
            job_name, signature.call, function, arguments, options, limit_key=key_of, unique=unique, by_name=True
        )
        return job_name, signature

    def _bare(self, name: JobName[Any], make: Callable[[], Any], schedule: Schedule) -> Definition:
        """The schedule of a job that is pushed without arguments; nothing is declared yet."""
        check_schedule(schedule)
        try:
            definition = self.define(make(), schedule, job=name)
        except Exception as error:  # a type's own code may raise anything
            raise RegistrationError(
                f"{name.name}: schedule= pushes the job without arguments, which does not do ({error}); declare "
                "it by queue.schedule(parameters, schedule)"
            ) from error
        return self._undeclared(definition)

    def _add(
        self,
        name: JobName[Any],
        call: Callable[..., Any],
        function: Any,
        make: Callable[[], Any],
        options: HandlerOptions,
        *,
        limit_key: LimitKey | None,
        unique: Callable[[Any], str | None] | None,
        by_name: bool = False,
    ) -> None:
        if name.name in self.definitions:
            raise RegistrationError(f"queue '{self.name}' has a handler for '{name.name}' already")
        _ = name.round_trip  # a type that pydantic can't read is an error here and now
        returned = functools.partial(returned_type, function)
        definition = new_definition(
            name,
            call,
            function,
            options,
            retry=self.retry,
            returned=returned,
            limit_key=limit_key,
            unique=unique,
            by_name=by_name,
        )
        if definition.keep_ms:
            _ = definition.returns  # likewise
        self._names.clear()  # what was pushed before may be a subclass of what this handler takes
        self.definitions[name.name] = definition
        if (schedule := options.get("schedule")) is None:
            return
        try:
            bare = self._bare(name, make, schedule)
        except BaseException:
            del self.definitions[name.name]
            raise
        self.declared[bare.name] = bare

    def schedule(
        self,
        parameters: Any,
        schedule: Schedule,
        *,
        job: JobName[Any] | str | None = None,
        name: str | None = None,
        accuracy: Accuracy | Literal["latest", "all"] = Accuracy.LATEST,
        at_most: int = 100,
        jitter: Duration | None = None,
        **options: Unpack[PushOptions],
    ) -> None:
        """Declare that a job is pushed again and again, by whichever scheduler of this release comes first.

        Workers fire schedules, but those with `schedules=False`. Each slot of a schedule is fired once, by any
        number of workers. Its job has the id `name@slot`, as `nightly@2026-11-26T04:00:00Z`.

        Args:
            parameters: What the handler gets, or a job that `prepare` made.
            schedule: When.
            job: For parameters whose type has no `job_name` of its own; see `prepare`.
            name: What the schedule is called: 1 to 200 characters, no spaces. Defaults to the job's name.
            accuracy: What becomes of slots that nobody fired in time, after an outage say: `latest` makes one job
                for all of them, `all` one for each.
            at_most: With `all`, how many are made up for, the newest; up to 500. The rest counts as missed.
            jitter: Each job may run at a time up to so long after its slot, by chance, so that not all start at
                once.
            options: As for `push`; but not `job_id` and `at`. A `delay` counts from when the slot is fired.

        Raises:
            ValueError: The queue has a schedule of this name, or an argument has a value that can't be worked
                with.
            EncodeError: The parameters don't fit their type.
        """
        definition = self.define(
            parameters, schedule, job=job, name=name, accuracy=accuracy, at_most=at_most, jitter=jitter, **options
        )
        self.declared[definition.name] = self._undeclared(definition)

    def _undeclared(self, definition: Definition) -> Definition:
        """A schedule, if none of its name is declared."""
        if definition.name in self.declared:
            raise ValueError(
                f"queue '{self.name}' has a schedule '{definition.name}' already: give this one another name="
            )
        return definition

    def define(
        self,
        parameters: Any,
        schedule: Schedule,
        *,
        job: JobName[Any] | str | None = None,
        name: str | None = None,
        accuracy: str = Accuracy.LATEST,
        at_most: int = 100,
        jitter: Duration | None = None,
        **options: Unpack[PushOptions],
    ) -> Definition:
        """What `schedule` declares, and `schedules.put` puts; see there."""
        check_push_options(options)
        if isinstance(parameters, NewJob) and (job is not None or options):
            raise TypeError("a job that was prepared has its name and its push options: give these to prepare")
        prepared = isinstance(parameters, NewJob)
        made = prepared_by(self.name, parameters) if prepared else self.prepare(parameters, job, **options)
        return Definition(
            name if name is not None else str(made.fields[1]),
            check_schedule(schedule),
            replace(made, job_id="", tries=None),
            one_of(Accuracy, accuracy, "accuracy"),
            at_most,
            in_ms(jitter, "jitter") or 0,
        )

    def definition(self, name: str) -> JobDefinition[Any]:
        """The definition registered for a name.

        Raises:
            UnknownJob: There is none; names those there are.
        """
        if name not in self.definitions:
            known = ", ".join(sorted(self.definitions)) or "none"
            said = f"queue '{self.name}' has no handler for '{visible(name)}'; registered: {known}"
            hint = f"give JobName('{visible(name)}', T), T being the type of its parameters"
            raise UnknownJob(f"{said}. To push without the handler, {hint}")
        return self.definitions[name]

    @overload
    def prepare(self, parameters: P, name: JobName[P], **options: Unpack[PushOptions]) -> NewJob: ...

    @overload
    def prepare(
        self, parameters: dict[str, Any], name: JobName[TypedMapping], **options: Unpack[PushOptions]
    ) -> NewJob: ...

    @overload
    def prepare(self, parameters: Named, name: None = None, **options: Unpack[PushOptions]) -> NewJob: ...

    @overload
    def prepare(self, parameters: Any, name: str, **options: Unpack[PushOptions]) -> NewJob: ...

    def prepare(
        self, parameters: Any, name: JobName[Any] | str | None = None, **options: Unpack[PushOptions]
    ) -> NewJob:
        """Encode a job without pushing it; `push_many` takes what this returns beside plain parameters.

        Args:
            parameters: What the handler gets. By the name of a handler, a dict of its fields will do.
            name: For parameters whose type has no `job_name` of its own, or serves several names: a JobName, or
                the name of a job that has a handler here.
            options: See `PushOptions`.

        Raises:
            UnknownJob: No handler here has that name; the message has those there are.
            EncodeError: The parameters don't fit their declared type, or are too large.
            ValueError: An option makes no sense.
            TypeError: There is no such option, or what is given as parameters is something else, such as a class.
        """
        if options and options.keys() - PushOptions.__annotations__.keys():
            _refuse_function(parameters)
            check_push_options(options)
        job = self._prepared(parameters, name, options)
        job.queue = self.name
        return job

    def _prepared(self, parameters: Any, name: JobName[Any] | str | None, options: PushOptions) -> NewJob:
        if name is None:
            name = self._names.get(type(parameters)) or self._name_for(parameters)
        elif isinstance(name, str):
            if callable(parameters):
                _refuse_function(parameters)
            name = self.definition(name).name
            parameters = codec.instance(name, parameters)
        elif not isinstance(name, JobName):
            _refuse_function(parameters)
            if isinstance(parameters, str) and self.definitions.keys() & {parameters}:
                raise TypeError(f"the parameters come first: push({name!r:.100}, {parameters!r})")
            raise TypeError(f"{name!r} is no job name: give a JobName, or as a string the name of a job here")
        fields: list[str | bytes] = ["name", name.name, "parameters", self._encode(name, parameters)]
        known = self.definitions.get(name.name)
        if known is not None and (known.priority is not None or known.unique is not None):
            options = _with_defaults(known, parameters, options)
        if known is not None and known.keep_ms and options.get("keep_result") is None:
            fields += ["keep_result", str(known.keep_ms)]
        if known is not None and known.limit_key is not None and options.get("limit_key") is None:
            fields += ["limit_key", _key_of(known, parameters)]
        return new_job(fields, options) if options else NewJob(codec.new_job_id(), fields)

    def _encode(self, name: JobName[Any], parameters: Any) -> bytes:
        try:
            return codec.encode_parameters(name, parameters, self.max_parameters)
        except EncodeError:
            if why := _no_parameters(parameters):
                raise TypeError(why) from None
            raise

    def edited(self, row: Row, parameters: Any) -> Requeue:
        """The change that requeues a job with new parameters: by the type of its handler here, else as JSON.

        Where that handler has a `limit_key`, the job is counted under what this says of the new ones.

        Raises:
            EncodeError: They don't fit, or are too large; or the handler's `limit_key` gave no key for them.
            TypeError: What is given is something else, such as a class.
        """
        name = row.fields.get(b"name", b"").decode("utf-8", "replace")
        letter = f"{row.key}@{row.state}"  # and not what becomes of its job after
        if name in self.definitions:
            known = self.definitions[name]
            given = codec.instance(known.name, parameters)
            encoded = self._encode(known.name, given)
            key = _key_of(known, given) if known.limit_key is not None else ""
            return Requeue(letter, parameters=encoded, limit_key=key, ended=True)
        if why := _no_parameters(parameters):
            raise TypeError(why)
        untyped = codec.encode_untyped(visible(name), parameters, self.max_parameters)
        return Requeue(letter, parameters=untyped, ended=True)

    def handle(self, job_id: str, name: str, *, added: bool | None) -> PushedJob:
        """The handle of a job of this queue."""
        return PushedJob(job_id, name, added, False)

    def expected(self, job: "str | PushedJob", returns: Any) -> Expected:
        """What is known here of the result of a job.

        Args:
            job: Its handle, by which the handler is found that is registered here; or its id.
            returns: The type, if somebody says it.

        Raises:
            RegistrationError: Pydantic has no schema for the type.
        """
        name, is_other = (job.name, job.is_other) if isinstance(job, PushedJob) else ("", False)
        known = self.definitions.get(name)
        unkept_by = name if known is not None and not known.keep_ms and not is_other else ""
        if returns is not None:
            kind = ReturnType(name or "result", returns)
            _ = kind.adapter
            return Expected(kind, unkept_by=unkept_by)
        return Expected(known.returns if known is not None else None, not is_other, unkept_by)

    def _awaited(self, job: NewJob) -> NewJob:
        """A job that is pushed to wait for its result: that is kept, and can be read.

        Raises:
            ValueError: It was said that nothing is kept.
            RegistrationError: What its handler here returns can't be read.
        """
        job = kept_for_a_while(job)
        self.expected(self.handle(job.job_id, name_in(job), added=None), None)
        return job

    def _told(self, push: Push, answers: Sequence[Pushed]) -> list[PushOutcome]:
        """What became of each job of a push; whoever listens is told as well.

        Raises:
            DriverError: One could not be added.
        """
        told = push.told(answers)
        if self._publishers:  # else nobody has asked for events, to listen
            self._publishers[0].pushed(told)
        return told

    def _tell_failed(self, error: BaseException, ends: PushEnds) -> None:
        """Tell that a push raised: who took part in it; and, unless it was only given up, whoever listens."""
        ends.tell((), error)
        if self._publishers and isinstance(error, DriverError):
            self._publishers[0].push_failed(error)

    def _tell_changed(self, change: Change[Any], answer: Any) -> None:
        """Tell whoever listens what a change came to."""
        if self._publishers:
            self._publishers[0].changed(change, answer)

    def _name_for(self, parameters: Any) -> JobName[Any]:
        kind = type(parameters)
        if why := _no_parameters(parameters):
            raise TypeError(why)
        if isinstance(parameters, str) and parameters in self.definitions:
            raise TypeError(
                f"{parameters!r} is the name of a job: push its parameters first, as push({{...}}, {parameters!r})"
            )
        if issubclass(kind, dict):
            raise EncodeError(
                "a dict does not say which job it is for: push({...}, 'NAME') with the name of a handler that is "
                "registered here, or else push({...}, JobName('NAME', Its))"
            )
        if why := borrowed(kind):
            raise EncodeError(why)
        name = name_of(kind)
        self._refuse_subclass(name)
        self._names[kind] = name
        return name

    def _refuse_subclass(self, name: JobName[Any]) -> None:
        """A subclass may say its base's job name; what it adds would be lost on the way to the handler of that."""
        there = self.definitions.get(name.name)
        base = there.name.parameters if there else None
        if base in name.parameters.__mro__[1:]:
            kind, other = name.parameters.__name__, base.__name__
            raise EncodeError(
                f"{name.name}: a {kind} would arrive as a {other}, which the handler of '{name.name}' takes; "
                f"push a {other}, or give {kind} a job_name and a handler of its own"
            )

    def prepare_many(
        self, items: Iterable[Any], name: JobName[Any] | str | None, options: PushOptions
    ) -> Iterator[Chunk]:
        """Encode jobs in chunks that one script call takes."""
        check_push_options(options)
        _check_items(items)
        if options.get("job_id"):
            raise ValueError("job_id= would give all jobs one id; use prepare(..., job_id=...) for each")
        chunk: list[NewJob] = []
        size, held = 0, False
        for item in items:
            held = held or isinstance(item, NewJob)
            job = prepared_by(self.name, item) if isinstance(item, NewJob) else self._prepared(item, name, options)
            chunk.append(job)
            size += weight_of(job)
            if len(chunk) == MOST_JOBS or size >= MOST_BYTES:
                yield Chunk(chunk, held, is_last=False)
                chunk, size, held = [], 0, False
        if chunk:
            yield Chunk(chunk, held, is_last=True)


def prepared_by(queue_name: str, job: NewJob) -> NewJob:
    """A job that was prepared, if it was by a queue of that name.

    Raises:
        ValueError: It was by another one.
    """
    if job.queue and job.queue != queue_name:
        raise ValueError(
            f"the job '{visible(name_in(job))}' was prepared by queue '{job.queue}', and this is queue "
            f"'{queue_name}': push it there, by its own push or that queue's push_many([job])"
        )
    return job


def id_of(job: str | PushedJob) -> str:
    """A job's id, of that or of its handle.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(job, str | PushedJob):
        return str(job)
    shown = f"{job!r:.100}"
    hint = ", as its job_id" if hasattr(job, "job_id") else ""
    raise TypeError(f"{shown} is no job: give its id{hint}, or the handle that push returned")


class FunctionJob(Generic[Args, Given, Returned_co]):
    """A function that is a job as well: call it as ever, or push it with the same arguments but the context.

    For type checkers it has the function's arguments, those that are pushed, and what it returns. They know which
    are pushed where the context comes first, or isn't asked for. Where it comes later they let pass whatever is
    pushed; where it is given by keyword only they miss it.

    Attributes:
        name: Its job name.
    """

    __name__: str  # the function's, as its docstring and the rest of its looks

    def __init__(
        self, registry: Registry, function: Callable[Args, Returned_co], name: JobName[Any], signature: Signature
    ) -> None:
        # Not the attributes of an object that can be called: they would stand in for ours.
        functools.update_wrapper(self, function, updated=("__dict__",) if inspect.isroutine(function) else ())
        self.name = name
        self._registry = registry
        self._function = function
        self._signature = signature
        self._options = PushOptions()
        if is_async(function):
            _mark_async(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} '{visible(self.name.name)}' of queue '{self._registry.name}'>"

    def __call__(self, *args: Args.args, **kwargs: Args.kwargs) -> Returned_co:
        """Call the function itself, here and now."""
        return self._function(*args, **kwargs)

    def options(self, **options: Unpack[PushOptions]) -> Self:
        """The same job with push options, as in `resize.options(delay=60).push("a.png", width=64)`.

        Raises:
            TypeError: There is no such option.
            ValueError: An option makes no sense.
            EncodeError: The headers are not strings.
        """
        check_push_options(options)
        other = copy.copy(self)
        other._options = {**self._options, **options}
        known = self._registry.definitions.get(self.name.name)
        key = PushOptions(unique="its own") if known is not None and known.unique is not None else PushOptions()
        new_job([], {**key, **other._options})  # what makes no sense is said here, not at each push
        return other

    def prepare(self, *args: Given.args, **kwargs: Given.kwargs) -> NewJob:
        """Encode a call without pushing it, for `queue.push_many`.

        Raises:
            EncodeError: The arguments don't fit the function.
        """
        return self._registry.prepare(self._signature.arguments(*args, **kwargs), self.name, **self._options)


def _mark_async(function: Any) -> None:
    """Have frameworks await what calling it returns: they look whether it is a coroutine function."""
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(function)
    else:  # what asyncio.iscoroutinefunction looks for, as asgiref has it
        function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]


def _no_parameters(given: object) -> str:
    """Why something can't be pushed as parameters, and what was meant perhaps; '' if it might be."""
    if isinstance(given, type):
        return f"{given.__name__} is a class: push an instance of it, as push({given.__name__}(...))"
    if isinstance(given, NewJob):
        return "a job that was prepared is pushed by push_many([job])"
    if isinstance(given, PushedJob):
        return (
            f"the job {visible(given.id, 60)} was pushed already: push parameters, or what prepare makes of them, "
            "by push_many([job])"
        )
    if isinstance(given, FunctionJob):
        return f"{given.__name__} is a job itself: push its arguments, as {given.__name__}.push(...)"
    return ""


def _refuse_function(given: object) -> None:
    """A function that is a job, or handles one, was given in place of parameters.

    Raises:
        TypeError: It was.
    """
    if why := _no_parameters(given):
        raise TypeError(why)
    if inspect.isroutine(given):
        name = getattr(given, "__name__", "it")
        raise TypeError(
            f"{name} is a function: push the parameters that it takes; the job's name comes after them"
        )


def _with_defaults(definition: JobDefinition[Any], parameters: Any, options: PushOptions) -> PushOptions:
    """What a push says, and for the rest what its handler does."""
    defaults = PushOptions()
    if definition.priority is not None:
        defaults["priority"] = definition.priority
    if definition.unique is not None and "unique" not in options:
        defaults["unique"] = _unique_key_of(definition, parameters)
    if options.get("priority", "") is None:
        options = options.copy()
        del options["priority"]
    return {**defaults, **options}


def _unique_key_of(definition: JobDefinition[Any], parameters: Any) -> str | None:
    """The unique key of a job, as its handler says."""
    assert definition.unique is not None
    try:
        return checked_unique(definition.unique(parameters))
    except Exception as error:  # it is the user's code, and may raise anything
        raise EncodeError(f"{definition.name.name}: unique= gave no key for these parameters ({error})") from error


def _fields_of(kind: Any) -> list[str] | None:
    """The names of what parameters of a type have; None where that is not known."""
    kind = get_origin(kind) or kind
    if dataclasses.is_dataclass(kind):
        return [each.name for each in dataclasses.fields(kind)]
    if isinstance(fields := getattr(kind, "model_fields", None), dict):
        return [*fields]
    return [*kind.__annotations__] if is_typeddict(kind) else None


def _check_items(items: object) -> None:
    """One job must not be taken for many: of a dict its keys would be pushed, of a model its fields."""
    one = isinstance(items, Mapping | str | bytes | NewJob | PushedJob | FunctionJob) or hasattr(items, "job_name")
    if one or hasattr(type(items), "__pydantic_fields__") or not isinstance(items, Iterable):
        shown = items.__name__ if isinstance(items, type) else f"a {type(items).__name__}"
        raise TypeError(f"push_many takes jobs in a list or another iterable, not {shown}: give push_many([job])")


def check_job_options(function: object, options: Mapping[str, Any]) -> None:
    """What `job` was given: a function, or options that there are.

    Raises:
        TypeError: It was given something else.
    """
    if function is not None and not callable(function):
        raise TypeError(f"job({function!r}): give it a function; a name is given as job(name='...')")
    check_handler_options(options, "name", "limit_key", limit_key=options.get("limit_key"))


def _key_of(definition: JobDefinition[Any], parameters: Any) -> str:
    """Under which key a job is counted, as its handler says."""
    assert definition.limit_key is not None
    try:
        return checked_key(definition.limit_key(parameters))
    except Exception as error:  # it is the user's code, and may raise anything
        raise EncodeError(
            f"{definition.name.name}: limit_key= gave no key for these parameters ({error})"
        ) from error
