"""Turns parameters into a job to push: finds the job's name, encodes the parameters, adds the options."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, Unpack, overload

from redisjobs.base.visible import visible
from redisjobs.client.checks import check_items, prepared_by, refuse_function, why_no_parameters
from redisjobs.client.push import PushChunk, name_in
from redisjobs.client.results import kept_for_a_while
from redisjobs.errors import EncodeError, UnknownJob
from redisjobs.model import codec, payload
from redisjobs.model.changes import Requeue
from redisjobs.model.job import JobDefinition, JobName, Named, TypedMapping, borrowed, name_of
from redisjobs.model.limits import checked_key
from redisjobs.model.options import PushOptions, check_push_options, checked_unique, new_job
from redisjobs.model.queries import Row
from redisjobs.model.transitions import MOST_BYTES, MOST_JOBS, NewJob, PreparedJob, weight_of

P = TypeVar("P")
T = TypeVar("T")


class Preparing:
    """The part of a queue that encodes jobs."""

    def __init__(self, name: str, max_parameters: int) -> None:
        self.name = name
        self.max_parameters = max_parameters
        self.definitions: dict[str, JobDefinition[Any]] = {}
        self._names: dict[Any, JobName[Any]] = {}  # a cache, by the type of parameters

    def definition(self, name: str) -> JobDefinition[Any]:
        """Return the definition registered for a job name.

        Raises:
            UnknownJob: No handler has that name. The message lists the names that exist.
        """
        if name not in self.definitions:
            known = ", ".join(sorted(self.definitions)) or "none"
            said = f"queue '{self.name}' has no handler for '{visible(name)}'; registered: {known}"
            hint = f"give JobName('{visible(name)}', T), T being the type of its parameters"
            raise UnknownJob(f"{said}. To push without the handler, {hint}")
        return self.definitions[name]

    @overload
    def prepare(self, parameters: P, name: JobName[P], **options: Unpack[PushOptions]) -> PreparedJob[Any]: ...

    @overload
    def prepare(
        self, parameters: dict[str, Any], name: JobName[TypedMapping], **options: Unpack[PushOptions]
    ) -> PreparedJob[Any]: ...

    @overload
    def prepare(
        self, parameters: Named, name: None = None, **options: Unpack[PushOptions]
    ) -> PreparedJob[Any]: ...

    @overload
    def prepare(self, parameters: Any, name: str, **options: Unpack[PushOptions]) -> PreparedJob[Any]: ...

    def prepare(
        self, parameters: Any, name: JobName[Any] | str | None = None, **options: Unpack[PushOptions]
    ) -> PreparedJob[Any]:
        """Encode a job without pushing it. Give it to `push_many`.

        Args:
            parameters: An instance of the type that the handler takes.
            name: The job's name, if the type of the parameters has no `job_name` or serves several names. It is a
                JobName, or the name of a handler registered here; then parameters may be a dict of the fields.
            options: See `PushOptions`.

        Raises:
            UnknownJob: No handler here has that name. The message lists the names that exist.
            EncodeError: The parameters don't fit their declared type, or are too large.
            ValueError: The value of an option is wrong.
            TypeError: An option does not exist, or the parameters can't be parameters, for example a class.
        """
        if options and options.keys() - PushOptions.__annotations__.keys():
            refuse_function(parameters)
            check_push_options(options)
        job = self._prepared(parameters, name, options)
        job.queue = self.name
        return job

    def _prepared(
        self, parameters: Any, name: JobName[Any] | str | None, options: PushOptions
    ) -> PreparedJob[Any]:
        if name is None:
            name = self._names.get(type(parameters)) or self._name_for(parameters)
        elif isinstance(name, str):
            if callable(parameters):
                refuse_function(parameters)
            name = self.definition(name).name
            parameters = payload.instance(name, parameters)
        elif not isinstance(name, JobName):
            refuse_function(parameters)
            if isinstance(parameters, str) and self.definitions.keys() & {parameters}:
                raise TypeError(f"the parameters come first: push({name!r:.100}, {parameters!r})")
            raise TypeError(f"{name!r} is no job name: give a JobName, or as a string the name of a job here")
        fields: list[str | bytes] = ["name", name.name, "parameters", self._encode(name, parameters)]
        if (known := self.definitions.get(name.name)) is not None:
            options = _with_defaults(known, parameters, options, fields)
        return new_job(fields, options) if options else PreparedJob(codec.new_job_id(), fields)

    def _prepare_awaited(self, parameters: Any, name: JobName[Any] | str | None, options: PushOptions) -> NewJob:
        """Encode a job for `run`, so that its result is kept and can be read here.

        Raises:
            ValueError: `keep_result=0`.
            RegistrationError: The return type of its handler can't be read.
        """
        job = kept_for_a_while(self.prepare(parameters, name, **options))
        if (known := self.definitions.get(name_in(job))) is not None:
            _ = known.returns  # raises for a type that can't be read, before the push
        return job

    def _prepare_many(
        self, items: Iterable[Any], name: JobName[Any] | str | None, options: PushOptions
    ) -> Iterator[PushChunk]:
        """Encode jobs in chunks, each for one script call."""
        check_push_options(options)
        check_items(items)
        if options.get("job_id"):
            raise ValueError("job_id= would give all jobs one id; use prepare(..., job_id=...) for each")
        chunk: list[NewJob] = []
        size, prepared = 0, False
        for item in items:
            prepared = prepared or isinstance(item, NewJob)
            job = prepared_by(self.name, item) if isinstance(item, NewJob) else self._prepared(item, name, options)
            chunk.append(job)
            size += weight_of(job)
            if len(chunk) == MOST_JOBS or size >= MOST_BYTES:
                yield PushChunk(chunk, prepared, is_last=False)
                chunk, size, prepared = [], 0, False
        if chunk:
            yield PushChunk(chunk, prepared, is_last=True)

    def _edited(self, row: Row, parameters: Any) -> Requeue:
        """Return the change that requeues a job with new parameters; if no handler is known, they may be any JSON.

        If the handler has a `limit_key` or a `unique`, the job gets the key of the new parameters.

        Raises:
            EncodeError: The parameters don't fit, or are too large, or `limit_key` gave no key for them.
            TypeError: They can't be parameters, for example a class.
        """
        name = row.fields.get(b"name", b"").decode("utf-8", "replace")
        if name in self.definitions:
            known = self.definitions[name]
            given = payload.instance(known.name, parameters)
            encoded = self._encode(known.name, given)
            key = _key_by(known, "limit_key", given, checked_key) if known.limit_key is not None else ""
            unique = None
            if known.unique is not None and b"unique" in row.fields:
                unique = _key_by(known, "unique", given, checked_unique) or ""
            return Requeue(row.job_id, parameters=encoded, limit_key=key, ended=True, key=row.key, unique=unique)
        if why := why_no_parameters(parameters):
            raise TypeError(why)
        untyped = payload.encode_untyped(visible(name), parameters, self.max_parameters)
        return Requeue(row.job_id, parameters=untyped, ended=True, key=row.key)

    def _encode(self, name: JobName[Any], parameters: Any) -> bytes:
        try:
            return payload.encode_parameters(name, parameters, self.max_parameters)
        except EncodeError:
            if why := why_no_parameters(parameters):
                raise TypeError(why) from None
            raise

    def _name_for(self, parameters: Any) -> JobName[Any]:
        kind = type(parameters)
        if why := why_no_parameters(parameters):
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
        """Refuse a subclass of a handler's parameter type with the same job name: its own fields would be lost."""
        there = self.definitions.get(name.name)
        base = there.name.parameters if there else None
        if base in name.parameters.__mro__[1:]:
            kind, other = name.parameters.__name__, base.__name__
            raise EncodeError(
                f"{name.name}: a {kind} would arrive as a {other}, which the handler of '{name.name}' takes; "
                f"push a {other}, or give {kind} a job_name and a handler of its own"
            )


def _with_defaults(
    known: JobDefinition[Any], parameters: Any, options: PushOptions, fields: list[str | bytes]
) -> PushOptions:
    """Return the options of a push, completed with the handler's defaults.

    The defaults for `keep_result` and `limit_key` are added to `fields` instead.
    """
    if known.keep_ms and options.get("keep_result") is None:
        fields += ["keep_result", str(known.keep_ms)]
    if known.limit_key is not None and options.get("limit_key") is None:
        fields += ["limit_key", _key_by(known, "limit_key", parameters, checked_key)]
    if known.priority is None and known.unique is None:
        return options
    defaults = PushOptions()
    if known.priority is not None:
        defaults["priority"] = known.priority
        if options.get("priority", "") is None:
            options = options.copy()
            del options["priority"]
    if known.unique is not None and "unique" not in options:
        defaults["unique"] = _key_by(known, "unique", parameters, checked_unique)
    return {**defaults, **options}


def _key_by(known: JobDefinition[Any], option: str, parameters: Any, check: Callable[[Any], T]) -> T:
    """Return the key for these parameters, from the handler's `limit_key` or `unique` function."""
    try:
        return check(getattr(known, option)(parameters))
    except Exception as error:  # the application's code may raise anything
        raise EncodeError(f"{known.name.name}: {option}= gave no key for these parameters ({error})") from error
