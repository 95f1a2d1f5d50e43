"""Declaring jobs: names, parameter types, handlers, and functions that are jobs."""

import functools
import inspect
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import anyio.lowlevel
import httpx
import pytest
import typing_extensions
from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.applications import Starlette
from starlette.background import BackgroundTasks
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import redisjobs
import redisjobs.sync
from redisjobs import EncodeError, JobContext, JobName, JobQueue, exponential_jitter, no_retry
from redisjobs.errors import RegistrationError, UnknownJob
from redisjobs.model.job import JobDefinition

pytestmark = pytest.mark.anyio


@dataclass
class Add:
    job_name: ClassVar[str] = "Add"
    a: int
    b: int = 1


class Model(BaseModel):
    job_name: ClassVar[str] = "Model"
    x: int


class Old(typing.TypedDict):
    a: int


class New(typing_extensions.TypedDict):
    a: int


@pytest.fixture(params=[redisjobs, redisjobs.sync], ids=["async", "sync"])
def queue(request: pytest.FixtureRequest) -> JobQueue:
    """A queue of either face: they register alike."""
    made: JobQueue = request.param.JobQueue("memory://", "emails")
    return made


def context(**changes: Any) -> JobContext:
    told: dict[str, Any] = {
        "job_id": "j", "job_name": "Add", "queue_name": "emails", "attempt": 2, "deliveries": 1, "worker_id": "w",
        "queued_ms": 1_700_000_000_123, "scheduled_ms": None, "next_scheduled_ms": None, "state": None,
        "read_headers": lambda: {"k": "v"},
    }  # fmt: skip
    return JobContext(**told | changes)


async def call(definition: JobDefinition[Any], parameters: Any) -> Any:
    result = definition.call(parameters, context())
    return await result if inspect.isawaitable(result) else result


# Names


@pytest.mark.parametrize("name", ["Send", "a", "x" * 200, "größe/2", "日本"])
def test_a_job_name_is_any_word(name: str) -> None:
    assert JobName(name, Add).name == name


@pytest.mark.parametrize("name", ["", " ", "two words", "line\n", "tab\t", "null\x00", "x" * 201])
def test_a_job_name_has_no_spaces_or_control_characters(name: str) -> None:
    with pytest.raises(RegistrationError, match="can't name a job"):
        JobName(name, Add)


def test_a_type_without_a_name_needs_a_job_name(queue: JobQueue) -> None:
    for nameless in (Old, int, type("Named", (), {"job_name": 5})):
        with pytest.raises(RegistrationError, match=f"{nameless.__name__} has no job name.*JobName\\('...',"):
            queue.register(nameless)


@pytest.mark.parametrize("kind", [Add, Model, JobName("Old", Old), JobName("New", New)])
def test_each_kind_of_parameters_can_be_registered(queue: JobQueue, kind: Any) -> None:
    def handler(parameters: Any) -> None: ...

    assert queue.register(kind)(handler) is handler
    assert list(queue.definitions) == [kind.name if isinstance(kind, JobName) else kind.job_name]


async def test_one_type_can_serve_many_names(queue: JobQueue) -> None:
    def make(factor: int) -> Callable[[Add], int]:
        return lambda parameters: parameters.a * factor

    for factor in (1, 2, 3):
        queue.register(JobName(f"times-{factor}", Add))(make(factor))

    assert [await call(queue.definition(f"times-{factor}"), Add(5)) for factor in (1, 2, 3)] == [5, 10, 15]


def test_a_name_registered_twice_is_an_error_at_once_and_changes_nothing(queue: JobQueue) -> None:
    queue.register(Add)(lambda parameters: "first")
    first = queue.definition("Add")

    with pytest.raises(RegistrationError, match="queue 'emails' has a handler for 'Add' already"):
        queue.register(JobName("Add", Model))(lambda parameters: "second")
    with pytest.raises(RegistrationError, match="'Add' already"):
        queue.job(name="Add")(lambda: None)

    assert queue.definition("Add") is first


def test_an_unknown_name_is_told_with_those_there_are(queue: JobQueue) -> None:
    with pytest.raises(UnknownJob, match="no handler for 'Send'; registered: none"):
        queue.definition("Send")
    queue.register(Model)(print)
    queue.register(Add)(print)
    with pytest.raises(UnknownJob, match="registered: Add, Model"):
        queue.definition("Send")


class Unfinished(BaseModel):
    job_name: ClassVar[str] = "Unfinished"
    x: "NotThere"  # type: ignore[name-defined]  # noqa: F821


class Nested(typing.TypedDict):
    x: "NotThere"  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize("kind", [Unfinished, JobName("N", Nested), JobName("Odd", dict[str, inspect.Signature])])
def test_a_type_that_cannot_be_read_is_an_error_at_registration(queue: JobQueue, kind: Any) -> None:
    with pytest.raises(RegistrationError, match="can't be a job's parameters"):
        queue.register(kind)(print)
    assert queue.definitions == {}


# Handlers


class Callables:
    async def __call__(self, parameters: Add, context: JobContext) -> str:
        return f"{parameters.a} {context.attempt}"

    def method(self, parameters: Add) -> int:
        return parameters.a


async def plain(parameters: Add) -> int:
    return parameters.a


def with_both(parameters: Add, context: JobContext) -> str:
    return f"{parameters.a} {context.attempt}"


def with_default(parameters: Add, context: JobContext | None = None, more: int = 5) -> str:
    return f"{parameters.a} {context and context.attempt} {more}"


@pytest.mark.parametrize(
    ("handler", "is_async", "returned"),
    [
        (plain, True, 7),
        (with_both, False, "7 2"),
        (with_default, False, "7 2 5"),
        (Callables(), True, "7 2"),
        (Callables().method, False, 7),
        (functools.partial(with_default, more=6), False, "7 2 6"),
        (lambda *arguments: len(arguments), False, 2),
        (lambda parameters: plain(parameters), False, 7),
    ],
)
async def test_a_handler_takes_parameters_and_if_it_likes_the_context(
    queue: JobQueue, handler: Callable[..., Any], is_async: bool, returned: Any
) -> None:
    queue.register(Add)(handler)
    definition = queue.definition("Add")
    assert definition.is_async is is_async
    assert await call(definition, Add(7)) == returned


@pytest.mark.parametrize(
    "handler", [lambda: None, lambda a, b, c: None, lambda parameters, *, context: None, dict.update, 5]
)
def test_a_handler_that_takes_something_else_is_refused(queue: JobQueue, handler: Any) -> None:
    with pytest.raises(RegistrationError, match=r"a handler takes \(parameters\) or|can't be a handler"):
        queue.register(Add)(handler)


class Mailer:
    job_name = "Mailer"

    def __init__(self, host: str = "") -> None: ...
    def send(self, parameters: Add) -> None: ...
    @classmethod
    def of(cls, parameters: Add) -> None: ...
    @staticmethod
    def plain(parameters: Add) -> None: ...
    @staticmethod
    async def later(parameters: Add) -> None: ...


def in_the_first(context: JobContext, parameters: Add) -> None: ...
def untyped(context, parameters) -> None: ...  # type: ignore[no-untyped-def]
def needs_more(parameters: Add, factor: int) -> None: ...
def of_another(parameters: Model) -> None: ...


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (Mailer, "Mailer is a class, so a job would only make an instance of it: give a function"),
        (functools.partial(Mailer, "localhost"), "is a class"),
        (
            Mailer.send,
            r"Mailer.send takes 'self', .* give the method of an instance, as queue.job\(instance.send\)",
        ),
        (
            vars(Mailer)["of"].__func__,
            r"Mailer.of takes 'cls', for which a job has no value: make it a function or a static",
        ),
        (
            in_the_first,
            r"in_the_first: its first argument, 'context', would get the parameters: a handler takes \(",
        ),
        (untyped, "untyped: its first argument, 'context', would get the parameters"),
        (needs_more, "needs_more: its second argument, 'factor: int', would get the context"),
        (of_another, "of_another takes a Model, but is registered for Add"),
    ],
)
def test_a_handler_that_would_be_called_with_something_else_is_refused(
    queue: JobQueue, handler: Any, why: str
) -> None:
    with pytest.raises(RegistrationError, match=why):
        queue.register(Add)(handler)
    assert queue.definitions == {}


@pytest.mark.parametrize("handler", [Mailer().send, Mailer.plain, Mailer.of, vars(Mailer)["plain"]])
def test_a_method_that_needs_no_instance_any_more_is_a_handler(queue: JobQueue, handler: Any) -> None:
    queue.register(Add)(handler)
    assert not queue.definition("Add").is_async
    assert not queue.job(name="plain")(handler).prepare(Add(1)).replicas


@pytest.mark.parametrize("handler", [Mailer.later, vars(Mailer)["later"], functools.partial(Callables())])
def test_what_returns_a_coroutine_is_async_however_it_is_wrapped(queue: JobQueue, handler: Any) -> None:
    queue.register(Add)(handler)
    assert queue.definition("Add").is_async


async def test_a_second_argument_that_is_no_context_keeps_its_default(queue: JobQueue) -> None:
    def count(parameters: Add, dry_run: bool = False) -> tuple[int, bool]:
        return parameters.a, dry_run

    def untyped(parameters, times=3):  # type: ignore[no-untyped-def]
        return parameters.a * times

    for name, handler in (("count", count), ("untyped", untyped)):
        queue.register(JobName(name, Add))(handler)
    assert await call(queue.definition("count"), Add(7)) == (7, False)
    assert await call(queue.definition("untyped"), Add(7)) == 21


def holds_one(a: int, mailer: Mailer) -> None: ...
def may_hold_some(a: int, *, mailers: "list[Mailer] | None" = None) -> None: ...
def untyped_context(a: int, context) -> None: ...  # type: ignore[no-untyped-def]
def returns_one(a: int) -> Mailer: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (Mailer, "Mailer is a class, so a job would only make an instance of it: give a function; .*register"),
        (Mailer.send, "Mailer.send takes 'self', for which a job has no value"),
        (untyped_context, "untyped_context: argument 'context' has no type, .* write 'context: JobContext'"),
        (holds_one, r"holds_one: 'mailer' takes a test_job.Mailer, which JSON has no form for: push its id, or"),
        (may_hold_some, r"may_hold_some: 'mailers' takes a test_job.Mailer, which JSON has no form for"),
        (returns_one, r"returns_one: its result is a test_job.Mailer, which JSON has no form for: return its id"),
    ],
)
def test_a_function_that_no_job_could_call_or_push_is_refused_with_what_to_write(
    queue: JobQueue, function: Any, why: str
) -> None:
    with pytest.raises(RegistrationError, match=why) as refused:
        queue.job(keep_result=60)(function)
    assert "arbitrary_types_allowed" not in str(refused.value)
    assert "pydantic.dev" not in str(refused.value)
    assert queue.definitions == {}


def test_a_class_that_is_no_type_of_parameters_is_refused_with_those_there_are(queue: JobQueue) -> None:
    why = (
        "Mailer: a test_job.Mailer can't be a job's parameters: give a dataclass, a pydantic model or a TypedDict$"
    )
    with pytest.raises(RegistrationError, match=why):
        queue.register(Mailer)(print)
    with pytest.raises(EncodeError, match=why):
        queue.prepare(Mailer())  # type: ignore[call-overload]


def test_a_generator_is_refused_for_called_it_would_not_run(queue: JobQueue) -> None:
    def lazy(x: int) -> Iterator[int]:
        yield x

    async def lazier(x: int) -> AsyncIterator[int]:
        yield x

    for generator in (lazy, lazier):
        with pytest.raises(RegistrationError, match=f"{generator.__name__} is a generator"):
            queue.register(Add)(generator)  # type: ignore[arg-type]
        with pytest.raises(RegistrationError, match=f"{generator.__name__} is a generator"):
            queue.job(generator)


def test_a_handler_has_its_own_policy_and_timeout_or_those_of_the_queue() -> None:
    policy, own = exponential_jitter(max_attempts=9), no_retry()
    queue = JobQueue("memory://", retry=policy)
    queue.register(Add)(plain)
    queue.register(JobName("Model", Add), retry=own, timeout=2)(plain)
    added, model = queue.definition("Add"), queue.definition("Model")
    assert (added.retry, added.timeout) == (policy, None)
    assert (model.retry, model.timeout) == (own, 2.0)


def test_a_policy_that_is_none_and_a_timeout_that_is_none_are_refused(queue: JobQueue) -> None:
    with pytest.raises(RegistrationError, match=r"retry=3: give a RetryPolicy, such as exponential_jitter"):
        queue.register(Add, retry=3)(plain)  # type: ignore[arg-type]
    with pytest.raises(RegistrationError, match="give a RetryPolicy"):
        JobQueue("memory://", retry="often")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout=-1"):
        queue.job(timeout=-1)(plain)
    assert queue.definitions == {}


# Functions


@pytest.mark.parametrize("framework", ["starlette", "fastapi"])
async def test_a_job_function_is_awaited_as_a_background_task_of_a_web_application(
    queue: JobQueue, framework: str
) -> None:
    did: list[str] = []

    @queue.job
    async def later(word: str) -> None:
        await anyio.lowlevel.checkpoint()
        did.append(f"async {word}")

    @queue.job
    def at_once(word: str) -> None:
        did.append(f"sync {word}")

    async def respond(tasks: BackgroundTasks) -> None:
        tasks.add_task(later, "a")
        tasks.add_task(later.options(delay=1), word="b")
        tasks.add_task(at_once, "c")

    async def endpoint(_: Request) -> Response:
        tasks = BackgroundTasks()
        await respond(tasks)
        return Response(background=tasks)

    app: Any = Starlette(routes=[Route("/", endpoint)])
    if framework == "fastapi":
        app = FastAPI()
        app.add_api_route("/", respond)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/")).status_code == 200

    assert did == ["async a", "async b", "sync c"]


async def test_a_job_function_shows_its_name_and_its_queue(queue: JobQueue) -> None:
    @queue.job(name="resize-image")
    async def resize(path: str) -> None: ...

    assert repr(resize) == f"<JobFunction 'resize-image' of queue '{queue.name}'>"


async def test_a_function_that_is_a_job_can_still_be_called_and_keeps_its_looks(queue: JobQueue) -> None:
    @queue.job
    async def resize(path: str, width: int = 64) -> str:
        """Make it smaller."""
        return f"{path}@{width}"

    @queue.job(name="double-it", retry=no_retry())
    def double(x: int) -> int:
        return 2 * x

    assert await resize("a.png", width=2) == "a.png@2"
    assert double(4) == 8
    assert (resize.__name__, resize.__doc__) == ("resize", "Make it smaller.")
    assert (resize.name.name, double.name.name) == ("resize", "double-it")
    assert set(queue.definitions) == {"resize", "double-it"}
    assert await call(queue.definition("resize"), {"path": "b.png"}) == "b.png@64"


def first(context: JobContext, x: int, y: int = 2) -> Any:
    return context, x, y


def last(x: int, y: int = 2, *, context: JobContext) -> Any:
    return context, x, y


def between(x: int, told: JobContext, y: int = 2) -> Any:
    return told, x, y


def maybe(x: int, y: int = 2, context: JobContext | None = None) -> Any:
    return context, x, y


@pytest.mark.parametrize("function", [first, last, between, maybe])
async def test_the_context_is_given_wherever_the_signature_asks_for_it(queue: JobQueue, function: Any) -> None:
    job = queue.job(function)
    assert set(job.name.parameters.__annotations__) == {"x", "y"}
    assert job.prepare(5, y=6).fields == ["name", function.__name__, "parameters", b'{"x":5,"y":6}']

    told, *arguments = await call(queue.definition(function.__name__), {"x": 5})
    assert isinstance(told, JobContext)
    assert arguments == [5, 2]
    with pytest.raises(EncodeError, match=r"multiple values|too many|unexpected"):
        job.prepare(5, 6, context())


class Scaler:
    """An object that can be called, with attributes whose names are also those of a job."""

    def __init__(self) -> None:
        self.name = self.push = "mine"

    async def __call__(self, x: int, told: JobContext, y: int = 2) -> Any:
        return told, x, y

    def method(self, x: int, y: int = 2, *, context: JobContext) -> Any:
        return context, x, y


class Decorated:
    """What a decorator may make of a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


PARTIALS = [
    Decorated(last),
    functools.partial(Decorated(first), y=2),
    functools.lru_cache(between),
    functools.partial(last, y=2),
    functools.partial(first, y=2),
    functools.partial(functools.partial(between), y=2),
    Scaler(),
    Scaler().method,
]


@pytest.mark.parametrize("function", PARTIALS)
async def test_a_partial_and_an_object_that_can_be_called_can_be_jobs(queue: JobQueue, function: Any) -> None:
    job: Any = queue.job(name="f")(function)
    assert job.prepare(5, y=6).fields == ["name", "f", "parameters", b'{"x":5,"y":6}']
    with pytest.raises(EncodeError, match=r"^f\.x: should be a valid integer"):
        job.prepare("5")

    told, *arguments = await call(queue.definition("f"), {"x": 5})
    assert isinstance(told, JobContext)
    assert arguments == [5, 2]


async def test_what_a_partial_was_given_is_no_parameter(queue: JobQueue) -> None:
    job: Any = queue.job(name="f")(functools.partial(maybe, 5))

    assert job.prepare(y=6).fields[-1] == b'{"y":6}'
    told, *arguments = await call(queue.definition("f"), {"y": 6})
    assert isinstance(told, JobContext)
    assert arguments == [5, 6]


@pytest.mark.parametrize("function", [functools.partial(last, y=2), Scaler(), lambda x: None])
def test_what_has_no_name_of_its_own_has_to_be_given_one(queue: JobQueue, function: Any) -> None:
    with pytest.raises(RegistrationError, match=r"has no name of its own: give one, as job\(name='...'\)"):
        queue.job(function)
    assert queue.definitions == {}


def test_a_function_with_an_optional_context_is_called_plainly_without(queue: JobQueue) -> None:
    assert queue.job(maybe)(5) == (None, 5, 2)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda *paths: None, r"\*paths can't be a job's parameter"),
        (lambda **more: None, r"\*\*more can't be a job's parameter"),
        (eval("lambda x, /: None"), "x can't be a job's parameter"),
        (functools.partial(print, "a"), r"\*args can't be a job's parameter|can't read its signature"),
        (dict.fromkeys, "can't be a job's parameter|can't read its signature"),
    ],
)
def test_a_signature_whose_arguments_have_no_names_is_refused(queue: JobQueue, function: Any, why: str) -> None:
    with pytest.raises(RegistrationError, match=why):
        queue.job(name="f")(function)
    assert queue.definitions == {}


def test_a_function_may_not_ask_for_two_contexts_or_for_a_type_that_is_not_there(queue: JobQueue) -> None:
    def greedy(one: JobContext, two: JobContext) -> None: ...
    def lost(x: "NotThere") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(RegistrationError, match="greedy: one and two both ask for the context"):
        queue.job(greedy)
    with pytest.raises(RegistrationError, match="lost: can't read its signature: name 'NotThere'"):
        queue.job(lost)


def test_the_name_of_a_function_that_is_a_job_has_to_be_a_job_name(queue: JobQueue) -> None:
    with pytest.raises(RegistrationError, match="'two words' can't name a job"):
        queue.job(name="two words")(lambda x: None)


@pytest.mark.parametrize(
    ("args", "kwargs", "why"),
    [
        ((), {}, r"resize\(path: str, \*, width: .*\).*missing a required argument: 'path'"),
        (("a", 5), {}, "too many positional arguments"),
        (("a",), {"widht": 5}, "unexpected keyword argument 'widht'"),
        (("a",), {"path": "b"}, "multiple values for argument 'path'"),
        (("a",), {"width": "5"}, r"resize\.width: should be a valid integer \(got str\)"),
        (("a",), {"width": 0}, r"resize\.width: should be greater than 0"),
        ((5,), {}, r"resize\.path: should be a valid string \(got int\)"),
    ],
)
def test_arguments_that_do_not_fit_are_an_error_at_push(queue: JobQueue, args: Any, kwargs: Any, why: str) -> None:
    @queue.job
    def resize(path: str, *, width: Annotated[int, Field(gt=0)] = 64) -> None: ...

    with pytest.raises(EncodeError, match=why):
        resize.prepare(*args, **kwargs)


def test_only_arguments_that_were_given_go_on_the_wire_so_defaults_are_the_workers(queue: JobQueue) -> None:
    @queue.job
    def resize(path: str, width: int = 64, anything=None) -> None: ...  # type: ignore[no-untyped-def]

    assert resize.prepare("a").fields == ["name", "resize", "parameters", b'{"path":"a"}']
    assert resize.prepare("a", anything=[1]).fields[-1] == b'{"path":"a","anything":[1]}'


# The context


def test_a_context_tells_the_handler_of_its_job(caplog: pytest.LogCaptureFixture) -> None:
    told = context(scheduled_ms=1_700_000_000_000, next_scheduled_ms=1_700_000_060_000)
    assert told.queued_at.isoformat() == "2023-11-14T22:13:20.123000+00:00"
    assert told.scheduled_for is not None
    assert told.scheduled_for.isoformat() == "2023-11-14T22:13:20+00:00"
    assert told.next_scheduled_at is not None
    assert told.next_scheduled_at.isoformat() == "2023-11-14T22:14:20+00:00"
    assert context().scheduled_for is context().next_scheduled_at is None
    assert told.headers == {"k": "v"}

    told.logger.warning("look")
    (record,) = caplog.records
    fields = {name: getattr(record, name) for name in ("job_id", "job_name", "attempt", "queue")}
    assert fields == {"job_id": "j", "job_name": "Add", "attempt": 2, "queue": "emails"}
