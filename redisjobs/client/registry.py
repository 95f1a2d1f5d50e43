"""The base class of both queues: handlers by name, schedules, middleware and events. It calls no store."""

import dataclasses
import functools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, Unpack, get_origin, is_typeddict

from redisjobs.base.arguments import one_of, seconds, whole
from redisjobs.client.checks import prepared_by
from redisjobs.client.functions import HandlerDecorator
from redisjobs.client.prepare import Preparing
from redisjobs.errors import DriverError, RegistrationError
from redisjobs.events.middleware import Hook, Middleware, PushEnds, all_checked, checked, hooks
from redisjobs.model import payload
from redisjobs.model.annotations import returned_type
from redisjobs.model.changes import Change
from redisjobs.model.definition import Accuracy, Definition, check_schedule
from redisjobs.model.driver import Driver, SyncDriver
from redisjobs.model.job import Duration, JobDefinition, JobName, PushedJob, checked_queue_name, name_of
from redisjobs.model.limits import LimitKey
from redisjobs.model.options import (
    HandlerOptions,
    PushOptions,
    check_handler_options,
    check_push_options,
    checked_policy,
    handled_by,
    in_ms,
    unique_of,
)
from redisjobs.model.retention import Retention
from redisjobs.model.retry import RetryPolicy, exponential_jitter
from redisjobs.model.signature import Signature, handler_call
from redisjobs.model.times import REPEATABLE
from redisjobs.model.transitions import NewJob
from redisjobs.schedules.schedule import Schedule

if TYPE_CHECKING:
    from redisjobs.client.publisher import Publisher
    from redisjobs.events.kinds import Events

P = TypeVar("P")


class Registry(Preparing):
    """A queue's handlers and defaults; see `JobQueue` for the arguments.

    Attributes:
        driver: The driver of the store, which the worker uses, too.
        declared: The schedules that the code declares, by name; see `schedule`.
        state: Handlers get this as `context.state`. Set it before jobs run.
        middleware: The queue's middleware, the outermost first; see `add_middleware`.
        retention: What the queue keeps. Its workers store it when they start; None: they change nothing.
    """

    driver: Driver
    _store: SyncDriver  # of a sync queue, whose own calls go there
    _awaits_push: ClassVar[bool] = True
    _publisher: "Publisher | None" = None  # until a caller asks for events

    def __init__(
        self,
        where: Any,
        name: str = "default",
        *,
        retry: RetryPolicy | None = None,
        max_parameters: int = payload.MAX_PARAMETERS,
        deadline: Duration = 10,
        middleware: Iterable[Middleware] = (),
        retention: Retention | None = None,
    ) -> None:
        super().__init__(checked_queue_name(name), whole(max_parameters, "max_parameters"))
        self.retry = checked_policy(retry) or exponential_jitter()
        self.deadline = seconds(deadline, "deadline")
        if not 0 < self.deadline <= REPEATABLE:
            raise ValueError(
                f"deadline={deadline!r}: give more than 0 and up to {REPEATABLE:g} s; after that a push is not "
                "safe to repeat"
            )
        if retention is not None and not isinstance(retention, Retention):
            raise TypeError(f"retention={retention!r}: give a Retention, as Retention(completed=Keep(count=1000))")
        self.retention = retention
        self.state: Any = None
        self.declared: dict[str, Definition] = {}
        self.middleware: tuple[Middleware, ...] = ()
        self._on_push: tuple[Hook, ...] = ()
        for each in all_checked(middleware, awaits_push=self._awaits_push):
            self.add_middleware(each)
        self._connect(where)

    @abstractmethod
    def _connect(self, where: Any) -> None:
        """Use another store from now on; call it before the queue's first call. See `JobQueue` for `where`."""

    @property
    def events(self) -> "Events":
        """The events of this queue in this process: `events.subscribe(kind, listener)`."""
        publisher = self._publisher
        if publisher is None:  # imported here: a program that only pushes does not need the events
            from redisjobs.client.publisher import Publisher

            # If two threads get here at once, both use the first publisher.
            publisher = vars(self).setdefault("_publisher", Publisher(self.name))
        return publisher.events

    async def _disconnect(self) -> None:
        """Close the connections of this queue. You can use it again afterwards."""
        await self.driver.aclose()

    def add_middleware(self, middleware: Middleware) -> None:
        """Add a middleware to this queue, in this process, inside the ones added before.

        A worker uses the middleware that the queue has when the worker starts. Pushes use new middleware at once.

        Raises:
            TypeError: It is not a middleware, or has a hook that can't be called.
        """
        self.middleware = (*self.middleware, checked(middleware, awaits_push=self._awaits_push))
        self._on_push = hooks(self.middleware, "on_push")

    # Handlers

    def register(
        self,
        parameters: type[P] | JobName[P],
        *,
        limit_key: Callable[[P], str | int] | None = None,
        **options: Unpack[HandlerOptions],
    ) -> HandlerDecorator[P]:
        """Register the decorated function as the handler of a job name, and return it unchanged.

        Args:
            parameters: A parameter type that has a `job_name`, or a JobName.
            limit_key: Returns a job's key for the limit, given its parameters. `max_concurrency` and `rate` then
                apply to each key. It is called when a job is pushed, or requeued with other parameters.
            options: See `HandlerOptions`.

        Raises:
            RegistrationError: The name has a handler already. Or the handler does not take (parameters) or
                (parameters, context), can't run in a process, or has a return type that pydantic can't read.
            ValueError: A duration or a limit is wrong.
            TypeError: An option does not exist.
        """
        check_handler_options(options, "limit_key", limit_key=limit_key)
        name = name_of(parameters)

        def decorate(handler: Any) -> Any:
            unique = unique_of(options.get("unique"), name.name, field_names(name.parameters))
            definition = JobDefinition(
                name,
                handler_call(handler, name.parameters),
                **{"retry": self.retry, **handled_by(handler, options)},
                returned=functools.partial(returned_type, handler),
                limit_key=limit_key,
                unique=unique,
            )
            self._add(definition, name.parameters, options.get("schedule"))
            return handler

        return decorate

    def _register_function(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        limit_key: LimitKey | None = None,
        **options: Unpack[HandlerOptions],
    ) -> tuple[JobName[Any], Signature]:
        """Register a plain function whose arguments are the parameters, for `job` of both queue classes."""
        called = getattr(function, "__name__", None) if name is None else name
        if called is None or (name is None and called == "<lambda>"):  # a partial, a callable object or a lambda
            raise RegistrationError(f"{function!r} has no name of its own: give one, as job(name='...')")
        signature = Signature.of(function, str(called))
        unique = unique_of(options.get("unique"), str(called), list(signature.type.__annotations__))
        definition = JobDefinition(
            JobName(called, signature.type),
            signature.call,
            **{"retry": self.retry, **handled_by(function, options)},
            returned=functools.partial(returned_type, function),
            limit_key=None if limit_key is None else signature.attributed(limit_key),
            unique=None if unique is None else signature.attributed(unique),
            by_name=True,
        )
        self._add(definition, signature.arguments, options.get("schedule"))
        return definition.name, signature

    def _add(self, definition: JobDefinition[Any], make: Callable[[], Any], schedule: Schedule | None) -> None:
        """Add a handler; `make` returns the parameters that its schedule pushes."""
        name = definition.name
        if name.name in self.definitions:
            raise RegistrationError(f"queue '{self.name}' has a handler for '{name.name}' already")
        _ = name.round_trip  # raises now for a type that pydantic can't read
        if definition.keep_ms:
            _ = definition.returns  # likewise
        self._names.clear()  # a type in the cache may be a subclass of this handler's type
        self.definitions[name.name] = definition
        if schedule is None:
            return
        try:
            bare = self._bare(name, make, schedule)
        except BaseException:
            del self.definitions[name.name]
            raise
        self.declared[bare.name] = bare

    # Schedules

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
        """Declare a schedule. A worker of this release pushes its job once for each slot.

        Workers fire schedules, unless they have `schedules=False`. The job of a slot has the id `name@slot`, for
        example `nightly@2026-11-26T04:00:00Z`.

        Args:
            parameters: An instance of the type that the handler takes, or a job that `prepare` made.
            schedule: When to push the job.
            job: The job's name, if the type of the parameters has no `job_name`; see `prepare`.
            name: The schedule's name: 1 to 200 characters, no spaces. Defaults to the job's name.
            accuracy: What to do about slots that were missed, for example in an outage: `latest` pushes one job
                for all of them, `all` one job for each.
            at_most: With `all`, how many missed slots get a job at most; up to 500, the newest ones. The rest are
                counted as missed.
            jitter: The most time after its slot at which a job may run. Each job takes a random share of it, so
                that not all jobs start at once.
            options: See `PushOptions`; without `job_id` and `at`. A `delay` counts from when the slot is fired.

        Raises:
            ValueError: The queue has a schedule of this name, or the value of an argument is wrong.
            EncodeError: The parameters don't fit their type.
        """
        definition = self._define(
            parameters, schedule, job=job, name=name, accuracy=accuracy, at_most=at_most, jitter=jitter, **options
        )
        self.declared[definition.name] = self._undeclared(definition)

    def _define(
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
        """Return the definition that `schedule` declares and `schedules.put` stores; see `schedule`."""
        check_push_options(options)
        if isinstance(parameters, NewJob):
            made = prepared_by(self.name, parameters, job, options)
        else:
            made = self.prepare(parameters, job, **options)
        return Definition(
            name if name is not None else str(made.fields[1]),
            check_schedule(schedule),
            replace(made, job_id="", tries=None),
            one_of(Accuracy, accuracy, "accuracy"),
            at_most,
            in_ms(jitter, "jitter") or 0,
        )

    def _bare(self, name: JobName[Any], make: Callable[[], Any], schedule: Schedule) -> Definition:
        """Return the definition for a handler's `schedule=`, which pushes the job without arguments."""
        check_schedule(schedule)
        try:
            definition = self._define(make(), schedule, job=name)
        except Exception as error:  # the application's code may raise anything
            raise RegistrationError(
                f"{name.name}: schedule= pushes the job without arguments, but it needs some ({error}); declare "
                "it by queue.schedule(parameters, schedule)"
            ) from error
        return self._undeclared(definition)

    def _undeclared(self, definition: Definition) -> Definition:
        if definition.name in self.declared:
            raise ValueError(
                f"queue '{self.name}' has a schedule '{definition.name}' already: give this one another name="
            )
        return definition

    # Pushes

    @abstractmethod
    def _handle(
        self, job_id: str, name: str, added: bool | None, replaced: bool = False, is_other: bool = False
    ) -> PushedJob:
        """Return the handle of a job on this queue; see `PushedJob`."""

    def _publish_pushed(self, handles: Sequence[PushedJob]) -> None:
        """Publish the result of a push."""
        if self._publisher is not None:
            self._publisher.pushed(handles)

    def _publish_failed(self, error: BaseException, ends: PushEnds) -> None:
        """Publish that a push raised, and call the end hooks of the middleware."""
        ends.tell((), error)
        if self._publisher is not None and isinstance(error, DriverError):
            self._publisher.push_failed(error)

    def _publish_changed(self, change: Change[Any], answer: Any) -> None:
        """Publish what a change did."""
        if self._publisher is not None:
            self._publisher.changed(change, answer)


def field_names(kind: Any) -> list[str] | None:
    """Return the names of a parameter type's fields; None if they are not known."""
    kind = get_origin(kind) or kind
    if dataclasses.is_dataclass(kind):
        return [each.name for each in dataclasses.fields(kind)]
    if isinstance(fields := getattr(kind, "model_fields", None), dict):
        return [*fields]
    return [*kind.__annotations__] if is_typeddict(kind) else None
