"""The kit for tests of an application: real workers on queues in memory, whose clock stands still."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar
from unittest.mock import ANY

import anyio
import process_handlers
import pytest
from store import eventually

from redisjobs import Fail, JobContext, JobName, JobQueue, Middleware, Retry, Schedule, Snooze, sync
from redisjobs.control import Accuracy
from redisjobs.errors import (
    EncodeError,
    JobFailed,
    JobTimeout,
    ResultRefused,
    Unavailable,
    UniqueConflict,
    UnknownJob,
)
from redisjobs.events import JobsCompleted
from redisjobs.model.options import PushOptions
from redisjobs.testing import AsyncJobs, Jobs
from redisjobs.testing.pushes import Push

NOWHERE = "redis://127.0.0.1:1/0"
LEASE = 15  # seconds


@dataclass
class SendEmail:
    job_name: ClassVar[str] = "SendEmail"
    to: str
    subject: str = ""


@dataclass
class Invoice:
    job_name: ClassVar[str] = "Invoice"
    number: int


class App:
    """An application: a web process that pushes to a queue of workers, by a queue object of its own."""

    def __init__(self) -> None:
        self.queue = JobQueue(NOWHERE, name="shop")
        self.web = sync.JobQueue(NOWHERE, name="shop")
        self.sent: list[tuple[str, int, int]] = []
        self.raises: list[BaseException] = []
        self.queue.register(SendEmail)(self.send)
        self.resize = self.queue.job(keep_result=60)(resize)

    async def send(self, parameters: SendEmail, context: JobContext) -> str:
        self.sent.append((parameters.to, context.attempt, context.deliveries))
        if self.raises:
            raise self.raises.pop(0)
        return f"sent to {parameters.to}"

    @property
    def dead(self) -> list[str]:
        return [job.error for job in self.web.control.jobs("dead")]


def resize(path: str, width: int = 8) -> dict[str, Any]:
    return {"path": path, "width": width}


class Awaited:
    """`AsyncJobs` for sync tests: each call has an event loop of its own."""

    def __init__(self, jobs: AsyncJobs, backend: str) -> None:
        self._jobs, self._backend = jobs, backend

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._jobs, name)
        return partial(self._call, found) if name in ("drain", "run", "travel", "assert_pushed") else found

    def _call(self, method: Any, *arguments: Any, **options: Any) -> Any:
        async def call() -> Any:
            returned: Awaitable[Any] = method(*arguments, **options)
            return await returned

        return anyio.run(call, backend=self._backend)


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture(params=["sync", "asyncio", "trio"])
def jobs(request: pytest.FixtureRequest, app: App) -> Iterator[Any]:
    """The kit, sync and async: whatever a test sees is the same."""
    if request.param == "sync":
        with Jobs(app.queue, app.web) as jobs:
            yield jobs
    else:
        with AsyncJobs(app.queue, app.web) as awaited:
            yield Awaited(awaited, request.param)


@pytest.fixture(autouse=True)
def no_threads_are_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    idle = "AnyIO worker", "Trio thread"  # these end by themselves, soon after their event loop
    left = [thread for thread in set(threading.enumerate()) - before if not thread.name.startswith(idle)]
    assert left == []


# Queues


def test_after_the_test_the_queues_have_their_stores_again(app: App) -> None:
    before = dict(vars(app.queue)), dict(vars(app.web))

    with Jobs(app.queue, app.web):
        app.web.push(SendEmail("joe"))
        assert app.queue.driver.where == "memory://"

    assert (vars(app.queue), vars(app.web)) == before


def test_each_test_begins_with_empty_queues(app: App) -> None:
    for _ in range(2):
        with Jobs(app.queue, app.web) as jobs:
            assert jobs.pushed() == []
            assert app.web.control.counts().totals["pushed"] == 0
            app.web.push(SendEmail("joe"))


def test_a_queue_may_be_named_in_the_test(app: App) -> None:
    other = sync.JobQueue(NOWHERE, name="other")
    with Jobs() as jobs:
        jobs.use(other, other)
        other.push(SendEmail("joe"))

        jobs.assert_pushed(SendEmail, times=1)


def test_what_is_no_queue_is_refused_and_no_queue_is_moved(app: App) -> None:
    with Jobs() as jobs, pytest.raises(TypeError, match="'shop' is not a queue: give a JobQueue"):
        jobs.use(app.queue, "shop")  # type: ignore[arg-type]

    assert app.queue.driver.where == NOWHERE


def test_a_test_without_queues_says_how_to_name_them() -> None:
    with Jobs() as jobs, pytest.raises(RuntimeError, match="override the fixture redisjobs_queues in conftest"):
        jobs.refute_pushed(SendEmail)


def test_an_async_test_is_sent_to_the_async_kit(app: App) -> None:
    async def test() -> None:
        with Jobs(app.queue) as jobs:
            jobs.drain()

    with pytest.raises(RuntimeError, match="use the fixture ajobs"):
        asyncio.run(test())


# Pushes


def test_a_push_is_found_by_type_name_job_name_handler_function_and_instance(jobs: Any, app: App) -> None:
    app.web.push(SendEmail("joe", "hi"))
    jobs.run(app.resize.prepare("a.png"))

    for job in (SendEmail, "SendEmail", JobName("SendEmail", SendEmail), app.send, SendEmail("joe", "hi")):
        (push,) = jobs.assert_pushed(job)
        assert push.parameters == SendEmail("joe", "hi")
    jobs.refute_pushed(SendEmail("joe", "other"))


def test_the_arguments_of_a_function_are_compared_by_name(app: App) -> None:
    async def test() -> None:
        with AsyncJobs(app.queue) as jobs:
            await app.resize.push("a.png", width=64)
            await jobs.assert_pushed(app.resize, path="a.png", width=64)
            await jobs.assert_pushed("resize", width=64)
            await jobs.refute_pushed(app.resize, width=8)

    anyio.run(test)


def test_parameters_are_compared_by_equality(jobs: Any, app: App) -> None:
    app.web.push(SendEmail("joe", "hi"))

    jobs.assert_pushed(SendEmail, to=ANY, subject="hi")


def test_every_push_option_is_compared(jobs: Any, app: App) -> None:
    options: PushOptions = {
        "delay": timedelta(minutes=1),
        "priority": "high",
        "job_id": "mail-1",
        "unique": "joe",
        "unique_for": 3600,
        "on_conflict": "replace",
        "headers": {"tenant": "7"},
        "expires_in": 30,
        "keep_result": timedelta(hours=1),
        "limit_key": 7,
        "replicas": 1,
    }
    app.web.push(SendEmail("joe"), **options)
    app.web.push(
        SendEmail("jim"), at=datetime(2050, 1, 1, 0, 0, 0, 123456, UTC), unique="jim", unique_until="start"
    )

    jobs.assert_pushed(SendEmail, to="joe", **options)
    jobs.assert_pushed(SendEmail, at=datetime(2050, 1, 1, 0, 0, 0, 123456, UTC), unique_until="start")
    for option, value in options.items():
        jobs.refute_pushed(SendEmail, **{option: value, "to": "jim"})
    assert PushOptions.__annotations__.keys() <= Push.__annotations__.keys()


def test_no_delay_is_a_delay_of_zero(jobs: Any, app: App) -> None:
    app.web.push(SendEmail("joe"))

    jobs.assert_pushed(SendEmail, delay=0)
    jobs.assert_pushed(SendEmail, delay=None)


def test_a_misspelt_value_is_an_error_even_where_nothing_must_be_pushed(jobs: Any) -> None:
    with pytest.raises(TypeError, match="SendEmail has no parameter 'too', and there is no such push option"):
        jobs.refute_pushed(SendEmail, too="joe")


def test_a_parameter_named_as_an_argument_of_the_assertion_is_not_taken_for_it(jobs: Any, app: App) -> None:
    @dataclass
    class Call:
        job_name: ClassVar[str] = "Call"
        timeout: int

    app.web.push(Call(5))

    with pytest.raises(TypeError, match="Call has a parameter 'timeout', as assert_pushed has: use pushed"):
        jobs.assert_pushed(Call, timeout=30)
    jobs.refute_pushed(Call, timeout=30)
    assert len(jobs.pushed(Call, timeout=5)) == 1
    jobs.assert_pushed(Call, times=1)


def test_what_names_no_job_is_refused(jobs: Any) -> None:
    with pytest.raises(TypeError, match="3 names no job"):
        jobs.assert_pushed(3)


def test_a_failure_shows_the_nearest_pushes_value_by_value(jobs: Any, app: App) -> None:
    far = app.web.push(SendEmail("ann", "bye"), delay=5)
    near = app.web.push(SendEmail("jo@email.com", "hi"), delay=60)

    with pytest.raises(AssertionError) as caught:
        jobs.assert_pushed(SendEmail, to="joe@email.com", subject="hi", delay=60)

    assert str(caught.value).splitlines() == [
        "SendEmail with to='joe@email.com', subject='hi', delay=60 was not pushed; of that name there were:",
        f"  SendEmail {near.id}",
        "    to: 'jo@email.com', not 'joe@email.com'",
        f"  SendEmail {far.id}",
        "    to: 'ann', not 'joe@email.com'",
        "    subject: 'bye', not 'hi'",
        "    delay: 5.0, not 60",
    ]


def test_a_push_that_does_not_fit_the_handlers_type_is_shown_and_counts_where_no_value_is_wanted(
    jobs: Any, app: App
) -> None:
    app.web.push({"address": 7}, JobName("SendEmail", dict[str, int]))

    with pytest.raises(AssertionError, match=r"SendEmail .*\n    its parameters don't fit: SendEmail.to"):
        jobs.assert_pushed(SendEmail, to="joe")
    jobs.refute_pushed(SendEmail, to="joe")
    jobs.assert_pushed(SendEmail, times=1)


def test_a_failure_shows_three_of_many(jobs: Any, app: App) -> None:
    app.web.push_many([SendEmail(f"a{number}") for number in range(9)])

    with pytest.raises(AssertionError, match="the nearest 3 of 9") as caught:
        jobs.assert_pushed(SendEmail, to="joe")
    assert str(caught.value).count("not 'joe'") == 3


def test_a_failure_without_a_push_of_that_name_says_what_was_pushed(jobs: Any, app: App) -> None:
    with pytest.raises(AssertionError, match="Invoice was not pushed; nothing was pushed"):
        jobs.assert_pushed(Invoice)
    app.web.push_many([SendEmail("joe"), SendEmail("jim")])

    with pytest.raises(
        AssertionError, match=r"Invoice with number=7 was not pushed; pushed were: SendEmail \(2\)"
    ):
        jobs.assert_pushed(Invoice, number=7)


def test_a_wrong_number_and_an_unwanted_push_are_listed(jobs: Any, app: App) -> None:
    handle = app.web.push(SendEmail("joe"), delay=60)

    with pytest.raises(AssertionError) as times:
        jobs.assert_pushed(SendEmail, times=2)
    with pytest.raises(AssertionError) as unwanted:
        jobs.refute_pushed(SendEmail, to="joe")

    listed = f":\n  SendEmail {handle.id}: SendEmail(to='joe', subject=''), delay=60.0"
    assert str(times.value) == f"SendEmail was pushed 1 time, not 2{listed}"
    assert str(unwanted.value) == f"SendEmail with to='joe' was pushed{listed}"


def test_a_push_that_adds_nothing_does_not_count(jobs: Any, app: App) -> None:
    for _ in range(2):
        app.web.push(SendEmail("joe"), unique="joe")

    jobs.assert_pushed(SendEmail, times=1)


def test_a_push_that_replaces_a_job_counts_with_the_id_of_that_job(jobs: Any, app: App) -> None:
    first = app.web.push(SendEmail("joe"), unique="joe", delay=60)
    app.web.push(SendEmail("jim"), unique="joe", on_conflict="replace")

    (push,) = jobs.assert_pushed(SendEmail, to="jim")
    assert push.job_id == first.id


def test_what_handlers_push_counts(jobs: Any, app: App) -> None:
    @app.queue.register(Invoice)
    async def invoice(parameters: Invoice, context: JobContext) -> None:
        context.push(SendEmail("follow-up"), delay=60)
        await app.queue.push(SendEmail("at once"))

    app.web.push(Invoice(1))
    assert jobs.drain().completed == 2

    jobs.assert_pushed(SendEmail, to="follow-up", delay=60)
    jobs.assert_pushed(SendEmail, to="at once")


def test_parameters_that_cannot_be_sent_fail_in_the_test_too(jobs: Any, app: App) -> None:
    with pytest.raises(EncodeError):
        app.web.push(SendEmail(5))  # type: ignore[arg-type]

    assert jobs.pushed() == []


def test_a_push_by_another_thread_can_be_waited_for(jobs: Any, app: App) -> None:
    thread = threading.Timer(0.05, lambda: app.web.push(SendEmail("joe")))
    thread.start()

    jobs.assert_pushed(SendEmail, timeout=10)

    thread.join()
    with pytest.raises(AssertionError):
        jobs.assert_pushed(SendEmail, to="jim", timeout=0.01)


def test_a_forgotten_await_hides_no_failure(app: App) -> None:
    with AsyncJobs(app.queue) as jobs:
        with pytest.raises(AssertionError):
            jobs.assert_pushed(SendEmail)
        jobs.use(app.web)
        app.web.push(SendEmail("joe"))
        with pytest.raises(AssertionError):
            jobs.refute_pushed(SendEmail)


# Drains


def test_a_drain_runs_what_is_ready_and_what_that_pushes_by_priority(jobs: Any, app: App) -> None:
    app.web.push(SendEmail("low"), priority="low")
    app.web.push(SendEmail("high"), priority="high")
    app.web.push(SendEmail("later"), delay=60)

    drained = jobs.drain()

    assert (drained.completed, repr(drained)) == (2, "Drained(completed=2)")
    assert [to for to, _, _ in app.sent] == ["high", "low"]
    assert jobs.drain().outcomes == []


def test_a_drain_raises_what_the_handler_raised_and_names_the_others(jobs: Any, app: App) -> None:
    app.raises += [ValueError("first"), KeyError("second"), ValueError("first"), KeyError("second")]
    app.web.push_many([SendEmail(to) for to in "abcde"])

    with pytest.raises(ValueError, match="first") as caught:
        jobs.drain()

    assert caught.value.__notes__ == ["also in this drain: KeyError: 'second'"]  # and each once
    assert len(app.sent) == 5


def test_without_raising_a_drain_counts(jobs: Any, app: App) -> None:
    app.raises += [ValueError("again"), Fail("blocked"), Snooze(60), Retry("busy")]
    app.web.push_many([SendEmail(to) for to in "abcde"])

    drained = jobs.drain(raise_errors=False)

    assert repr(drained) == "Drained(completed=1, retried=2, snoozed=1, dead=1)"
    assert app.dead == ["blocked"]
    assert [outcome.delay for outcome in drained.outcomes][2] == 60


def test_what_a_handler_asks_for_is_no_failure(jobs: Any, app: App) -> None:
    app.raises += [Snooze(60), Retry("busy")]
    app.web.push_many([SendEmail("a"), SendEmail("b")])

    assert repr(jobs.drain()) == "Drained(retried=1, snoozed=1)"


def test_delayed_jobs_and_retries_run_as_the_clock_moves_on(jobs: Any, app: App) -> None:
    app.raises += [ValueError("1"), ValueError("2")]
    app.web.push(SendEmail("joe"), delay=3600)
    start = jobs.now

    drained = jobs.drain(delayed=True, raise_errors=False)

    assert repr(drained) == "Drained(completed=1, retried=2)"
    assert [attempt for _, attempt, _ in app.sent] == [1, 2, 3]
    assert jobs.now - start > timedelta(hours=1)


def test_jobs_that_snooze_for_ever_end_a_drain_of_delayed_jobs(
    jobs: Any, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redisjobs.testing.runs._MOST_ROUNDS", 3)
    app.raises += [Snooze(1) for _ in range(9)]
    app.web.push(SendEmail("joe"))

    with pytest.raises(RuntimeError, match="jobs are still delayed"):
        jobs.drain(delayed=True)


def test_a_job_without_a_handler_is_an_error_that_names_it(jobs: Any, app: App) -> None:
    app.web.push(Invoice(1))

    with pytest.raises(UnknownJob, match="no handler registered for 'Invoice'; import the module"):
        jobs.drain()


@pytest.mark.parametrize(("delay", "passes", "delayed"), [(0, 0, False), (60, 60, False), (60, 0, True)])
def test_a_queue_without_handlers_is_an_error_that_names_it(
    delay: int, passes: int, delayed: bool, app: App
) -> None:
    with Jobs(app.web) as jobs:
        app.web.push(SendEmail("joe"), delay=delay)
        jobs.travel(seconds=passes)
        with pytest.raises(UnknownJob, match="queue 'shop' has no handlers in this test"):
            jobs.drain(delayed=delayed)


def test_a_job_without_handlers_counts_once_however_often_the_clock_moves(jobs: Any, app: App) -> None:
    other = sync.JobQueue(NOWHERE, name="other")
    jobs.use(other)
    app.web.push(SendEmail("joe"), delay=60)
    other.push(SendEmail("jim"))

    drained = jobs.drain(delayed=True, raise_errors=False)

    assert repr(drained) == "Drained(completed=1, retried=1)"


def test_two_queues_of_one_name_with_handlers_are_refused(jobs: Any, app: App) -> None:
    app.web.register(Invoice)(lambda invoice: None)

    with pytest.raises(ValueError, match="several queues named 'shop' have handlers"):
        jobs.drain()


def test_a_dead_letter_that_no_handler_made_is_an_error(jobs: Any, app: App) -> None:
    app.web.push(SendEmail("joe"), expires_in=60)
    jobs.travel(minutes=2)

    with pytest.raises(JobFailed) as caught:
        jobs.drain()
    assert caught.value.reason == "expired"
    assert app.sent == []


def test_timeouts_middleware_and_threads_are_as_in_a_worker(jobs: Any, app: App) -> None:
    seen: list[Any] = []

    class Seen(Middleware):
        async def around(self, job: Any, context: JobContext, call_next: Any) -> Any:
            seen.append(job.parameters)
            return await call_next()

    app.queue.add_middleware(Seen())
    slow = app.queue.job(timeout=0.05)(sleep)
    app.queue.job(name="where")(lambda: seen.append(threading.current_thread()))
    app.web.push({}, JobName("where", dict[str, int]))
    jobs.drain()

    assert seen[0] == {}
    assert seen[1] is not threading.main_thread()
    assert isinstance(jobs.run(slow.prepare()).error, JobTimeout)


async def sleep() -> None:
    await anyio.sleep(60)


@pytest.mark.slow
def test_handlers_run_in_processes_too(jobs: Any, app: App) -> None:
    where = app.queue.job(run_in="process")(process_handlers.strictly)

    outcome = jobs.run(where.prepare())

    assert outcome.kind == "completed", outcome


def test_options_of_the_worker_can_be_given(jobs: Any, app: App) -> None:
    @app.queue.register(Invoice)
    async def invoice(parameters: Invoice) -> None:
        other = await app.queue.push(SendEmail("joe"), keep_result=60)
        assert await other.result() == "sent to joe"

    app.web.push(Invoice(1))

    assert jobs.drain(concurrency=2).completed == 2


def test_results_can_be_waited_for_after_a_drain(jobs: Any, app: App) -> None:
    handle = app.web.push(SendEmail("joe"), keep_result=60)
    jobs.drain()

    assert handle.result(timeout=0) == "sent to joe"
    assert handle.result() == "sent to joe"  # by the thread of the queue, which ends with the test


# One job


def test_a_run_returns_what_the_handler_returned_and_leaves_nothing(jobs: Any, app: App) -> None:
    app.web.push(SendEmail("waits"))

    outcome = jobs.run(SendEmail("joe"), delay=60, unique="joe", expires_in=1)

    assert (outcome.kind, outcome.result, outcome.error) == ("completed", "sent to joe", None)
    assert app.sent == [("joe", 1, 1)]
    jobs.assert_pushed(SendEmail, times=1)
    assert [job.state for job in app.web.control.jobs()] == ["ready"]


def test_a_run_of_a_late_attempt_shows_what_the_retry_policy_decides(jobs: Any, app: App) -> None:
    error = ValueError("refused")
    app.raises += [error, error]

    third, last = jobs.run(SendEmail("joe"), attempt=3), jobs.run(SendEmail("joe"), attempt=4)

    assert (third.kind, third.error, third.message) == ("retried", error, "ValueError: refused")
    assert 4 <= third.delay <= 12
    assert (last.kind, last.reason, last.delay) == ("dead", "failed", None)
    assert app.web.control.counts().dead == 0
    assert jobs.drain(delayed=True).outcomes == []


def test_a_kept_result_is_the_one_that_a_reader_gets(jobs: Any, app: App) -> None:
    @app.queue.register(Invoice, keep_result=60)
    def invoice(parameters: Invoice) -> dict[int, str]:
        return {parameters.number: "paid"}

    assert jobs.run(Invoice(7)).result == {7: "paid"}
    assert jobs.run(app.resize.prepare("a.png")).result == {"path": "a.png", "width": 8}
    assert jobs.run({"path": "b.png", "width": 9}, "resize").result == {"path": "b.png", "width": 9}


def test_a_result_that_cannot_be_kept_is_refused_as_in_a_worker(jobs: Any, app: App) -> None:
    app.queue.job(name="opaque", keep_result=60)(lambda: object())

    assert isinstance(jobs.run({}, "opaque").error, ResultRefused)


def test_a_run_ignores_pauses_and_holders_of_its_unique_key(jobs: Any, app: App) -> None:
    app.web.push(SendEmail("holder"), unique="joe")
    app.web.control.pause()

    assert jobs.run(SendEmail("joe"), unique="joe").kind == "completed"
    with pytest.raises(UniqueConflict):
        app.web.push(SendEmail("joe"), unique="joe", on_conflict="raise")


def test_a_run_without_a_handler_names_those_that_there_are(jobs: Any) -> None:
    with pytest.raises(
        UnknownJob, match="no queue of this test has a handler for 'Invoice'; registered: SendEmail, resize"
    ):
        jobs.run(Invoice(1))


def test_a_run_under_the_id_of_a_job_that_is_there_is_refused(jobs: Any, app: App) -> None:
    app.web.push(SendEmail("joe"), job_id="mail-1")

    with pytest.raises(ValueError, match="a job of that id is on the queue"):
        jobs.run(SendEmail("joe"), job_id="mail-1")


def test_a_run_whose_job_a_worker_of_the_application_takes_says_so(app: App) -> None:
    async def test() -> None:
        with AsyncJobs(app.queue) as jobs:
            async with app.queue.service() as service:
                await eventually(lambda: service.health.ready)
                with pytest.raises(RuntimeError, match="a worker of the application has taken job"):
                    await jobs.run(SendEmail("joe"))

    anyio.run(test)


# Time


def test_the_clock_stands_still_until_the_test_moves_it(jobs: Any) -> None:
    start = jobs.now
    assert abs(datetime.now(UTC) - start) < timedelta(minutes=1)

    jobs.travel(hours=1, minutes=30)
    assert jobs.now - start == timedelta(hours=1, minutes=30)
    jobs.travel(to=start + timedelta(days=1))
    assert jobs.now - start == timedelta(days=1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "takes a time or a duration"),
        ({"to": datetime(2050, 1, 1, tzinfo=UTC), "hours": 1}, "takes a time or a duration"),
        ({"to": datetime(2000, 1, 1, tzinfo=UTC)}, "can't go back"),
        ({"to": datetime(2050, 1, 1)}, "has no time zone"),
    ],
)
def test_a_time_that_cannot_be_gone_to_is_refused(jobs: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        jobs.travel(**given)


def test_a_unique_key_is_free_again_when_its_time_is_over(jobs: Any, app: App) -> None:
    assert app.web.push(SendEmail("joe"), unique="joe", unique_for=3600).added
    jobs.travel(minutes=59)
    assert not app.web.push(SendEmail("joe"), unique="joe", unique_for=3600).added
    jobs.travel(minutes=1)
    assert app.web.push(SendEmail("joe"), unique="joe", unique_for=3600).added


def test_a_rate_lets_jobs_start_as_the_clock_moves(jobs: Any, app: App) -> None:
    app.queue.job(name="call", rate="1/h")(lambda: None)
    for _ in range(3):
        app.web.push({}, JobName("call", dict[str, int]))

    assert jobs.drain().completed == 1
    jobs.travel(hours=1)
    assert jobs.drain().completed == 1
    assert jobs.drain(delayed=True).completed == 1


def test_a_schedule_fires_once_for_each_slot_that_the_clock_passes(jobs: Any, app: App) -> None:
    app.queue.schedule(SendEmail("ops"), Schedule.hourly(minute=0), name="report")
    jobs.travel(hours=3)

    jobs.assert_pushed(SendEmail, to="ops", times=3)
    assert jobs.drain().completed == 3
    jobs.travel(hours=1)
    jobs.assert_pushed(SendEmail, to="ops", times=4)


def test_a_schedule_that_was_put_at_run_time_fires_too(jobs: Any, app: App) -> None:
    app.web.schedules.put("often", SendEmail("ops"), Schedule.every(600), accuracy=Accuracy.ALL)

    jobs.travel(minutes=30)

    jobs.assert_pushed(SendEmail, to="ops", times=3)


def test_a_worker_of_the_application_itself_runs_what_becomes_due(app: App) -> None:
    async def test() -> None:
        completed = anyio.Event()
        with AsyncJobs(app.queue) as jobs:
            app.queue.events.subscribe(JobsCompleted, lambda _: completed.set())
            async with app.queue.service():
                await app.queue.push(SendEmail("joe"), delay=3600)
                assert (await jobs.drain()).completed == 0
                await jobs.travel(hours=1)
                with anyio.fail_after(10):
                    await completed.wait()

    anyio.run(test)
    assert app.sent == [("joe", 1, 1)]


def test_the_workers_of_an_application_live_on_while_the_clock_moves(app: App) -> None:
    async def test() -> None:
        runs, may_end = anyio.Event(), anyio.Event()

        @app.queue.register(Invoice)
        async def invoice(parameters: Invoice) -> None:
            runs.set()
            await may_end.wait()

        with AsyncJobs(app.queue) as jobs:
            async with app.queue.service():
                await app.queue.push(Invoice(1))
                await runs.wait()
                await jobs.travel(hours=1)
                drained = await jobs.drain()
                counts = await app.queue.control.counts()
                may_end.set()

        assert (drained.outcomes, counts.running, counts.totals["reclaimed"]) == ([], 1, 0)

    anyio.run(test)


def test_too_many_slots_on_the_way_are_an_error(jobs: Any, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redisjobs.testing.runs._MOST_SLOTS", 5)
    app.queue.schedule(SendEmail("ops"), Schedule.every(1))

    with pytest.raises(ValueError, match="travel in shorter steps"):
        jobs.travel(hours=1)


# Faults


def test_a_worker_that_dies_in_a_job_leaves_it_to_the_next_after_its_lease(jobs: Any, app: App) -> None:
    app.web.push_many([SendEmail("joe"), SendEmail("jim")])
    jobs.crash(SendEmail)

    assert repr(jobs.drain()) == "Drained(completed=1, crashed=1)"
    assert app.web.control.counts().running == 1
    jobs.travel(seconds=LEASE - 1)
    assert jobs.drain().outcomes == []
    jobs.travel(seconds=1)
    assert repr(jobs.drain()) == "Drained(completed=1)"
    assert app.sent == [("joe", 1, 1), ("jim", 1, 1), ("joe", 1, 2)]


def test_what_a_dead_worker_was_to_settle_is_lost(jobs: Any, app: App) -> None:
    @app.queue.register(Invoice)
    async def invoice(parameters: Invoice, context: JobContext) -> None:
        context.push(SendEmail("follow-up"))

    app.web.push(Invoice(1))
    jobs.crash(Invoice)
    jobs.drain()
    jobs.refute_pushed(SendEmail)

    jobs.travel(minutes=1)
    jobs.drain()
    jobs.assert_pushed(SendEmail, times=1)


def test_a_job_that_kills_its_workers_becomes_a_dead_letter(jobs: Any, app: App) -> None:
    app.web.push(SendEmail("joe"))
    jobs.crash(SendEmail, times=3)
    for _ in range(3):
        assert jobs.drain().crashed == 1
        jobs.travel(seconds=LEASE)

    with pytest.raises(JobFailed, match="it may kill its workers"):
        jobs.drain()
    assert app.web.control.counts().dead == 1
    assert [deliveries for _, _, deliveries in app.sent] == [1, 2, 3]


def test_a_single_run_can_crash(jobs: Any, app: App) -> None:
    jobs.crash(SendEmail)

    assert jobs.run(SendEmail("joe")).kind == "crashed"
    assert app.web.control.counts().running == 0


def test_a_crash_beside_other_jobs_costs_them_their_run_too(jobs: Any, app: App) -> None:
    begun = list[str]()

    @app.queue.register(Invoice)
    async def invoice(parameters: Invoice, context: JobContext) -> None:
        begun.append("invoice")
        if context.deliveries == 1:
            await anyio.sleep(60)

    app.web.push_many([Invoice(1), SendEmail("joe")])
    jobs.crash(SendEmail)

    assert repr(jobs.drain(concurrency=2)) == "Drained(crashed=1)"
    jobs.travel(seconds=LEASE)
    assert jobs.drain().completed == 2
    assert begun == ["invoice", "invoice"]


def test_a_crash_in_a_job_without_a_handler_is_refused(jobs: Any) -> None:
    with pytest.raises(UnknownJob, match="'SendMail'"):
        jobs.crash("SendMail")


def test_a_push_whose_reply_is_lost_is_repeated_and_adds_one_job(jobs: Any, app: App) -> None:
    jobs.lose_reply(times=2)

    handle = app.web.push(SendEmail("joe"))

    assert handle.added
    jobs.assert_pushed(SendEmail, times=1)
    assert jobs.drain().completed == 1


def test_an_async_push_whose_reply_is_lost_is_repeated_too(app: App) -> None:
    async def test() -> None:
        with AsyncJobs(app.queue) as jobs:
            jobs.lose_reply()
            assert (await app.queue.push(SendEmail("joe"))).added
            assert (await jobs.drain()).completed == 1

    anyio.run(test)


def test_while_redis_is_unavailable_every_call_says_so_at_once(jobs: Any, app: App) -> None:
    with jobs.unavailable():
        with pytest.raises(Unavailable, match="the test has made Redis unavailable"):
            app.web.push(SendEmail("joe"))
        with pytest.raises(Unavailable):
            app.web.control.counts()
        with pytest.raises(Unavailable):
            anyio.run(app.queue.control.counts)
        with pytest.raises(Unavailable):
            jobs.drain()
        with jobs.unavailable():
            pass
        with pytest.raises(Unavailable):
            app.web.control.counts()

    assert app.web.deadline == 10
    assert app.web.push(SendEmail("joe")).added


def test_a_crash_is_not_logged_as_an_error(jobs: Any, app: App, caplog: pytest.LogCaptureFixture) -> None:
    app.web.push(SendEmail("joe"))
    jobs.crash(SendEmail)
    jobs.drain()

    assert [record.getMessage() for record in caplog.records if record.levelno > logging.WARNING] == []
