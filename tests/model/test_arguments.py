"""Whatever is given to a public call in place of what it wants is refused at the call, by us and not by what is
underneath, with a text that has the value or its type in it."""

import inspect
import linecache
import math
import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, get_type_hints

import anyio
import pytest
from pydantic import BaseModel

import redisjobs
from redisjobs import (
    JobName,
    JobQueue,
    Keep,
    Middleware,
    Retention,
    Retry,
    RetryPolicy,
    Schedule,
    Snooze,
    Worker,
    exponential_jitter,
    sync,
)
from redisjobs.control import Control, FilterOptions, Overview, SyncControl
from redisjobs.drivers.memory.state import StoredJob, with_fields
from redisjobs.model.job import Priority, State

PACKAGE = redisjobs.__file__.removesuffix("__init__.py")


@dataclass
class Card:
    job_name: ClassVar[str] = "Card"
    n: int = 0


class Letter(BaseModel):
    to: str = "joe"


CARD = Card()
NAMED = JobName("named", Card)


def resize(path: str = "a") -> None: ...
def nothing() -> None: ...
async def later(parameters: object) -> str: ...  # type: ignore[empty-body]


class Odd:
    """Of no use to anybody."""


TEXTS = [5, 1.5, b"text", ["text"], Odd(), Card]
NUMBERS = ["5", "5s", 1.5, 0, -1, True, b"5", [5], Odd(), int]
DURATIONS = ["5", "5s", -1, float("nan"), float("inf"), True, b"5", [5], Odd(), datetime.now(UTC), int]
PLACES = ["nowhere", "http://x", 5, None, b"redis://127.0.0.1", Odd()]
OPTIONS: dict[str, list[Any]] = {
    "delay": DURATIONS,
    "at": ["tomorrow", 5, datetime(2030, 1, 1), Odd(), datetime],
    "priority": ["urgent", "", 0, Odd(), b"high"],
    "job_id": [*TEXTS, ""],
    "unique": [*TEXTS, ""],
    "unique_for": DURATIONS,
    "unique_until": ["never", "", 5, True, Odd(), ["start"]],
    "on_conflict": ["skp", "", 5, True, Odd(), ["skip"]],
    "headers": ["a=b", 5, ["a"], {"a": 1}, {1: "a"}, {"a": b"b"}, Odd()],
    "expires_in": DURATIONS,
    "keep_result": DURATIONS,
    "replicas": NUMBERS,
    "limit_key": ["", "a\n", "x" * 201, "\ud800", 1.5, True, b"a", ["a"], Odd(), Card],
}
WANTED: dict[str, list[Any]] = {
    **{name: [*TEXTS, ""] for name in ("name", "text", "fingerprint", "reason", "worker")},
    "older_than": DURATIONS,
    "age": [5],
}
POLICIES = [3, "often", Odd(), RetryPolicy, exponential_jitter]
JOB: dict[str, list[Any]] = {
    "retry": POLICIES,
    "timeout": [*DURATIONS, 0],
    "stalled_after": [*DURATIONS, 0],
    "run_in": ["fork", "", 5, None, Odd()],
    "schedule": ["0 4 * * *", 5, Odd()],
    "keep_result": DURATIONS,
    "strict_result": ["no", 1, None, Odd()],
    "max_concurrency": NUMBERS,
    "rate": [5, b"5/s", Odd(), "", "5", "5/d", "0/s", "-1/s"],
    "burst": [*NUMBERS, 5],
    "limit_key": [5, "tenant", Odd(), later],
}
NO_MIDDLEWARE = [5, "Middleware", None, Odd(), Middleware]
QUEUE: dict[str, list[Any]] = {
    "where": PLACES,
    "name": [*TEXTS, None, "", "a b", "{a}", "a\n", "\ud800"],
    "retry": POLICIES,
    "max_parameters": [*NUMBERS, None, "1MB"],
    "deadline": [*DURATIONS, None, 0, 61],
    "middleware": [*([each] for each in NO_MIDDLEWARE), 5, None, Middleware()],
    "retention": [5, "30 days", Odd(), Retention, Keep(5)],
}
SWITCHES = [5, "yes", None, Odd()]
ID = [*(text for text in TEXTS if text is not Card), None, Card, CARD]
NOT_ONE_ID: dict[str, list[Any]] = {"job": ID}
NAMES = [5, b"Card", ["Card"], Odd(), Card]


def put_letters(queue: Any) -> None:
    """Dead letters of a job that has a handler there, and of one that has none."""
    for job_id, name in (("known", "Card"), ("unknown", "Other")):
        fields = {"id": job_id, "name": name, "parameters": "{}", "priority": "normal"}
        if job_id in queue.driver.memory.jobs:
            queue.driver.memory.remove(queue.driver.memory.jobs[job_id])
        letter = StoredJob(job_id, Priority.NORMAL, with_fields({}, fields))
        queue.driver.memory.put(letter, queue.driver.memory.aside[State.DEAD])


# For each call: how it is made of what is given in place of right arguments, those, and what to try for each.
Case = tuple[str, Callable[..., Any], dict[str, Any], dict[str, list[Any]]]


def cases(make: Any) -> Iterator[Case]:
    """All public calls of one face of a queue, and those beside it."""
    queue = make("memory://")
    queue.register(Card)(print)
    job = queue.job(resize)
    prepared = queue.prepare(CARD)
    no_card = [*NAMES, queue, job, "text", None]
    yield "JobQueue", make, {"where": "memory://"}, QUEUE
    yield "add_middleware", queue.add_middleware, {}, {"middleware": NO_MIDDLEWARE}
    yield (
        "register",
        lambda **given: queue.register(**{"parameters": JobName("new", Card)} | given)(print),
        {},
        JOB | {"parameters": [5, "Card", CARD, None, Odd(), Odd, int]},
    )
    yield (
        "register(...)",
        lambda handler: queue.register(NAMED)(handler),
        {},
        {"handler": [5, "print", None, CARD]},
    )
    yield (
        "job",
        lambda function=nothing, **given: queue.job(**given)(function),
        {},
        JOB | {"name": [*TEXTS, "", "two words"], "function": [5, "resize", CARD]},
    )
    yield "prepare", queue.prepare, {"parameters": CARD}, OPTIONS | {"parameters": no_card, "name": NAMES}
    no_connection = [5, "postgresql://", CARD, object()]
    wrong = OPTIONS | {"parameters": no_card, "name": NAMES, "within": no_connection}
    yield "push", queue.push, {"parameters": CARD}, wrong
    no_cards = [
        Card,
        CARD,
        {"n": 1},
        prepared,
        job,
        "Card",
        b"Card",
        5,
        None,
        Odd(),
        Letter(),
        [Card],
        [5],
        [[CARD]],
    ]
    options = OPTIONS | {"job_id": [*OPTIONS["job_id"], "mine"]}
    yield (
        "push_many",
        queue.push_many,
        {"items": [CARD]},
        options | {"items": no_cards, "name": NAMES, "within": no_connection},
    )
    for verb in ("get", "cancel", "watch"):
        yield verb, getattr(queue, verb), {}, NOT_ONE_ID
    for verb in ("steps", "delete", "hold", "unhold"):
        yield verb, getattr(queue.control, verb), {}, NOT_ONE_ID
    from_zero = [each for each in NUMBERS if each != 0 or isinstance(each, bool)]
    yield (
        "children",
        lambda job="never", **given: queue.control.children(job, **given),
        {},
        NOT_ONE_ID
        | {"step": ["", "a b", 5, b"page", Odd()], "first": from_zero, "limit": from_zero, "look_up": SWITCHES},
    )
    yield (
        "signal",
        lambda job="never", **given: queue.signal(job, **{"name": "approved"} | given),
        {},
        NOT_ONE_ID | {"name": ["", "a b", "a#2", 5, None, Odd()], "value": [Odd(), {5: 6}, (1,), math.nan]},
    )
    yield (
        "stream",
        lambda job="never", **given: queue.stream(job, **given),
        {},
        NOT_ONE_ID | {"after": ["", "1", "1-x", 5, Odd()]},
    )
    yield (
        "result",
        lambda job="never", **given: queue.result(job, **given),
        {},
        NOT_ONE_ID | {"timeout": DURATIONS, "returns": [5, "int", CARD, Odd(), Odd]},
    )
    yield (
        "run",
        lambda **given: queue.run(**{"parameters": CARD} | given),
        {},
        OPTIONS | {"parameters": no_card, "name": NAMES, "timeout": DURATIONS},
    )
    edits = [5, 1.5, "text", ["text"], Odd(), Card, Letter(), queue, job]

    def requeue(**given: Any) -> Any:
        put_letters(queue)
        return queue.control.requeue(**given)

    yield (
        "requeue",
        requeue,
        {"job": "known"},
        NOT_ONE_ID
        | {"parameters": edits, "ended": [5, "yes", None, Odd()], "unique": ["yes", 1, None, Odd()]}
        | {"from_step": ["", "a b", "gone", 5, b"charge", Odd()]},
    )
    odd = [CARD, Card, b"text", (1,), {1: 2}, float("nan"), "\ud800", Odd(), Letter(), job]
    yield "requeue", requeue, {"job": "unknown", "parameters": {"n": [1]}}, {"parameters": odd}
    yield (
        "jobs",
        queue.control.jobs,
        {"state": "ready"},
        WANTED | {"state": ["gone", "", 5, Odd()], "limit": [*NUMBERS, None]},
    )
    rates = [5, 1.5, b"5/s", ["5/s"], Odd(), "", "5", "5/d", "0/s", "-1/s", "1e3/s", "nan/s", "5 /s", "5/s\n"]
    yield "requeue_all", queue.control.requeue_all, {"rate": "1.5/m"}, WANTED | {"rate": rates}
    yield "delete_all", queue.control.delete_all, {"name": "Card"}, WANTED
    states = {"state": ["gone", "running", "dead", "", 5, None, Odd()]}
    not_running = {"state": [state for state in states["state"] if state != "running"]}
    yield "cancel_all", queue.control.cancel_all, {"state": "ready"}, WANTED | not_running
    for verb in ("hold_all", "unhold_all"):
        yield verb, getattr(queue.control, verb), {"state": "ready"}, WANTED | states
    for verb in ("pause", "resume", "is_paused"):
        yield (
            verb,
            getattr(queue.control, verb),
            {},
            {"name": ["", "two words", b"Card", 5, ["Card"], Card, Odd()]},
        )
    limits = {"max_concurrency": [*NUMBERS, 10**9], "rate": JOB["rate"], "burst": [*NUMBERS, 10**9]}
    limited = {"name": "Card", "rate": "5/s"}
    yield (
        "set_limit",
        queue.control.set_limit,
        limited,
        limits | {"name": ["", "two words", b"Card", 5, None, Card, Odd()]},
    )
    yield (
        "statistics",
        queue.control.statistics,
        {"last": 60, "name": "Card", "since": datetime.now(UTC)},
        {
            "last": [*DURATIONS, None, 0, 259_201],
            "name": ["", "two words", b"Card", 5, ["Card"], Card, Odd()],
            "since": ["tomorrow", 5, datetime(2030, 1, 1), Odd(), datetime],
        },
    )
    yield "why", queue.control.why, {}, NOT_ONE_ID
    yield (
        "why",
        queue.control.why,
        {"unique": "key"},
        {"unique": ["", 5, b"key", ["key"], "\ud800", "x" * 1001, Odd()]},
    )
    yield "doctor", queue.control.doctor, {}, {"repair": [5, "yes", None, Odd()], "progress": [5, "yes", [5]]}
    yield "overview", queue.control.overview, {}, {"previous": [5, "", [5], Odd(), Card, Overview]}
    yield "scan", queue.control.scan, {"state": "dead"}, WANTED | {"state": ["gone", "", 5, None, Odd()]}
    rules = {
        "schedule": ["0 4 * * *", 5, None, Odd(), Schedule],
        "job": NAMES,
        "name": [*TEXTS, "", "a b"],
        "accuracy": ["some", "", 5, None, Odd()],
        "at_most": [*NUMBERS, None, 501],
        "jitter": DURATIONS,
    }
    declared = {"parameters": CARD, "schedule": Schedule.daily()}
    parameters = {"parameters": [each for each in no_card if each != "text"]}
    yield "schedule", queue.schedule, declared, OPTIONS | rules | parameters
    put = {"name": "nightly", "parameters": CARD, "rule": Schedule.daily()}
    rules["rule"] = rules.pop("schedule")
    yield "schedules.put", queue.schedules.put, put, OPTIONS | rules | parameters
    for verb in ("get", "pause", "resume", "remove", "run_now"):
        yield f"schedules.{verb}", getattr(queue.schedules, verb), {}, {"name": [*TEXTS, None, ""]}
    failures = {"on_failure": ["stop", "", 5, None, Odd()], "concurrency": NUMBERS}
    yield "service", queue.service, {}, failures
    yield "lifespan", queue.lifespan, {}, failures | {"then": ["app", 5, Odd()]}
    yield "options", job.options, {}, OPTIONS
    yield "job.prepare", job.prepare, {}, {"path": TEXTS}
    yield "job.push", job.push, {}, {"path": TEXTS}
    yield "job.run", job.run, {}, {"path": TEXTS}


def others() -> Iterator[Case]:
    """All public calls that are of no queue."""
    queue = JobQueue("memory://")
    yield (
        "Worker",
        Worker,
        {"queue": queue},
        {
            "middleware": [*([each] for each in NO_MIDDLEWARE), 5, None, Middleware()],
            "queue": [
                "redis://127.0.0.1:1/0",
                b"redis://",
                JobQueue,
                sync.JobQueue,
                None,
                5,
                CARD,
                [None],
                {queue: 3},
                {queue},
            ],
            "weights": [
                5,
                "emails",
                {"emails": 1},
                {"default": 0},
                {"default": "3"},
                {"default": True},
                ["default"],
            ],
            "strict": [None, 1, "yes", Odd()],
            "concurrency": NUMBERS,
            "lease": [*DURATIONS, None, 0, 0.05],
            "max_deliveries": [*NUMBERS, None],
            "grace": [*DURATIONS, None],
            "unknown_for": [*DURATIONS, None],
            "max_jobs": NUMBERS,
            "max_rss": [*NUMBERS, "400MB"],
            "abandoned": NUMBERS,
            "worker_id": [*TEXTS, "", "a b", "released", "{a}"],
        },
    )
    yield (
        "JobName",
        JobName,
        {"name": "a", "parameters": Card},
        {"name": [*TEXTS, None, "", "a b", "\ud800"], "parameters": [5, "Card", CARD, Odd(), {"n": 1}, [Card]]},
    )
    yield (
        "exponential_jitter",
        exponential_jitter,
        {},
        {
            "max_attempts": [*NUMBERS, None],
            "max_backoff": [*DURATIONS, None],
            "min_jitter": ["a", None, True, -2, 0.5, float("nan"), Odd()],
            "max_jitter": ["a", None, True, -0.5, float("nan"), float("inf"), Odd()],
        },
    )
    yield (
        "RetryPolicy",
        RetryPolicy,
        {},
        {
            "stop": [3, "3", None, int, Odd()],
            "wait": [3, "3", None, int, Odd()],
            "retry_if": [OSError, (OSError,), "OSError", None, 3, Odd()],
        },
    )
    yield "Keep", Keep, {"age": 5, "count": 5}, {"age": [*DURATIONS, 0], "count": NUMBERS}
    no_keep = [5, "30 days", Odd(), Keep]
    kept = {"completed": no_keep, "cancelled": no_keep, "dead": [*no_keep, None]}
    yield "Retention", Retention, {"completed": Keep(5)}, kept
    odd = [value for value in DURATIONS if not isinstance(value, str)]
    yield "Retry", lambda either: Retry(either), {}, {"either": odd}
    yield "Retry", Retry, {}, {"delay": DURATIONS}
    yield "Snooze", Snooze, {}, {"for_": [*DURATIONS, None], "until": ["tomorrow", 5, datetime(2030, 1, 1)]}


CASES: list[Case] = [
    *((f"async {case[0]}", *case[1:]) for case in cases(JobQueue)),
    *((f"sync {case[0]}", *case[1:]) for case in cases(sync.JobQueue)),
    *others(),
]


async def outcome(call: Callable[..., Any], arguments: dict[str, Any]) -> Exception | None:
    """What a call raises."""
    try:
        result = call(**arguments)
        if inspect.isawaitable(result):
            await result
    except Exception as error:
        return error
    return None


def raised_by_us(error: Exception) -> bool:
    """Whether it comes from a `raise` of our own: what is underneath knows nothing of our arguments."""
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    file = frame.f_code.co_filename
    return file.startswith(PACKAGE) and linecache.getline(file, line).strip().startswith("raise ")


def shown(value: Any, text: str) -> bool:
    """Whether a message says what it is about: a value, or of what type."""
    inner = value[0] if isinstance(value, list) else value  # of a list the first member is at fault
    kinds = [type(value).__name__, type(inner).__name__, getattr(inner, "__name__", "")]
    return repr(value)[:40] in text or any(re.search(rf"\b{re.escape(kind)}\b", text) for kind in kinds if kind)


@pytest.mark.anyio
@pytest.mark.parametrize(("called", "call", "right", "wrong"), CASES, ids=[case[0] for case in CASES])
async def test_a_wrong_argument_is_an_error_at_the_call_that_says_what_is_wrong(
    called: str, call: Callable[..., Any], right: dict[str, Any], wrong: dict[str, list[Any]]
) -> None:
    bad = []
    for name, values in wrong.items():
        for value in values:
            also = {"unique": "key"} if name in ("unique_for", "unique_until", "on_conflict") else {}
            error = await outcome(call, right | also | {name: value})
            if error is None or not raised_by_us(error):
                bad.append(f"{name}={value!r}: {error!r}")
            elif not (shown(value, str(error)) or f"{name}=" in str(error)):
                bad.append(f"{name}={value!r} is not told of: {error!r}")
    assert bad == []


@pytest.mark.anyio
@pytest.mark.parametrize(("called", "call", "right", "wrong"), CASES, ids=[case[0] for case in CASES])
async def test_a_right_argument_is_none(
    called: str, call: Callable[..., Any], right: dict[str, Any], wrong: dict[str, list[Any]]
) -> None:
    if right:
        assert await outcome(call, right) is None


UNTRIED = {
    "JobQueue.aclose", "JobQueue.close",  # take nothing
    "Control.counts", "Control.dead_groups", "Control.limits",  # nor do these
    "Worker.run", "Worker.stop", "Worker.stop_now",  # take nothing but flags
    "JobQueue.definition",  # of the inside
}  # fmt: skip


FLAGS = {"supervised", "schedules", "worker"}  # of these any value says yes or no


def test_every_argument_of_every_public_call_is_tried() -> None:
    tried = {(called.split()[-1], name) for called, _, _, wrong in CASES for name in wrong}
    for face in (JobQueue, sync.JobQueue, Control, SyncControl):
        untried = {
            f"{name}({argument})"
            for name, verb in inspect.getmembers(face, inspect.isfunction)
            if not name.startswith("_") and not {f"JobQueue.{name}", f"Control.{name}"} & UNTRIED
            for argument in inspect.signature(verb).parameters
            if argument not in ("self", "options", *FLAGS) and (name, argument) not in tried
        }
        assert untried == set()
    for kind in (JobQueue, sync.JobQueue, Worker, JobName, Keep, Retention, RetryPolicy, exponential_jitter):
        wanted = set(inspect.signature(kind).parameters) - FLAGS
        assert {(kind.__name__, argument) for argument in wanted} <= tried
    assert {("push", option) for option in get_type_hints(redisjobs.PushOptions)} <= tried
    for verb in ("scan", "jobs", "requeue_all", "delete_all", "cancel_all", "hold_all", "unhold_all"):
        assert {(verb, option) for option in get_type_hints(FilterOptions)} <= tried


@pytest.mark.parametrize("make", [JobQueue, sync.JobQueue])
def test_what_is_not_parameters_is_told_how_it_is_pushed(make: Any) -> None:
    queue = make("memory://")
    job, prepared = queue.job(resize), queue.prepare(CARD)

    def told(call: Callable[..., Any], *arguments: Any) -> str:
        error = anyio.run(outcome, lambda: call(*arguments), {})
        assert isinstance(error, TypeError)
        return str(error)

    assert told(queue.push, Card) == "Card is a class: push an instance of it, as push(Card(...))"
    assert told(queue.push, prepared) == "a job that was prepared is pushed by push_many([job])"
    assert told(queue.push, job) == "resize is a job itself: push its arguments, as resize.push(...)"
    assert told(queue.push_many, [Card]) == "Card is a class: push an instance of it, as push(Card(...))"
    many = "push_many takes jobs in a list or another iterable, not a {}: give push_many([job])"
    assert told(queue.push_many, prepared) == many.format("PreparedJob")
    assert told(queue.push_many, {"n": 1}) == many.format("dict")
    assert told(queue.push_many, CARD) == many.format("Card")


@pytest.mark.anyio
async def test_a_job_that_was_pushed_is_told_so_when_its_handle_is_pushed() -> None:
    with sync.JobQueue("memory://") as queue:
        handle: Any = queue.push(CARD, job_id="mine")
        with pytest.raises(TypeError, match=r"the job mine was pushed already: .* by push_many\(\[job\]\)"):
            queue.push(handle)
        with pytest.raises(TypeError, match="the job mine was pushed already"):
            queue.push_many([handle])
        info: Any = queue.get(handle)
        with pytest.raises(TypeError, match="is no job: give its id, as its job_id, or the handle that push"):
            queue.cancel(info)
        assert queue.cancel(info.job_id) == "CANCELLED"


def test_a_worker_says_what_it_was_given_without_its_text() -> None:
    queue: Any = "redis://:secret@127.0.0.1:1/0"
    with pytest.raises(TypeError, match=r"^Worker runs the jobs of a queue, not of a str: give a JobQueue with"):
        Worker(queue)
    queue = JobQueue
    with pytest.raises(TypeError, match=r"^Worker runs the jobs of a queue, not of the class JobQueue: give"):
        Worker(queue)
