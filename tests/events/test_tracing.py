"""Spans: one around each push, one around each run, joined whatever happens to the job in between."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import anyio
import pytest
from each_setting import store as store
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from results import drain
from store import Store, eventually
from tenacity import stop_after_attempt, wait_none

import redisjobs.sync
from redisjobs import Fail, JobContext, JobQueue, Retry, RetryPolicy, Snooze, Worker
from redisjobs.contrib.tracing import Tracing
from redisjobs.errors import QueueFull
from redisjobs.worker.running.threads import NoThread

pytestmark = pytest.mark.anyio

TWICE = RetryPolicy(wait=wait_none(), stop=stop_after_attempt(2))


@dataclass
class Work:
    job_name: ClassVar[str] = "Work"
    what: str = ""


@pytest.fixture
async def queue(store: Store) -> AsyncIterator[JobQueue]:
    async with JobQueue(store.driver, store.queue_name, retry=TWICE) as queue:
        yield queue


class Spans:
    """The spans that have ended, and a tracer of the application's."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("the application")

    def of(self, kind: SpanKind) -> list[ReadableSpan]:
        """Those of one kind, as they ended."""
        return [span for span in self._exporter.get_finished_spans() if span.kind is kind]

    @property
    def push(self) -> ReadableSpan:
        """The one push."""
        (span,) = self.of(SpanKind.PRODUCER)
        return span

    @property
    def run(self) -> ReadableSpan:
        """The one run."""
        (span,) = self.of(SpanKind.CONSUMER)
        return span


@pytest.fixture
def spans() -> Spans:
    return Spans()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def links(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    found = span.get_span_context()
    assert found is not None
    return found.span_id


def trace_of(span: ReadableSpan) -> int:
    found = span.get_span_context()
    assert found is not None
    return found.trace_id


# A push


async def test_a_push_is_a_producers_span_with_what_is_known_of_the_job(queue: JobQueue, spans: Spans) -> None:
    queue.add_middleware(Tracing(spans.provider))
    queue.register(Work)(lambda _: None)

    with spans.tracer.start_as_current_span("a request") as request:
        await queue.push(Work(), job_id="a")

    assert (spans.push.name, parent(spans.push)) == (f"push {queue.name}", request.get_span_context().span_id)
    assert attributes(spans.push) == {
        "messaging.system": "redisjobs",
        "messaging.operation.name": "push",
        "messaging.operation.type": "send",
        "messaging.destination.name": queue.name,
        "messaging.message.id": "a",
        "redisjobs.job.name": "Work",
        "redisjobs.job.added": True,
    }
    assert spans.push.status.status_code is StatusCode.UNSET


class Watched:
    """A driver that shows what had ended as it was asked to push."""

    def __init__(self, driver: Any, look: Callable[[], object], *errors: Exception) -> None:
        self._driver = driver
        self._look = look
        self._errors = list(errors)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    async def push(self, jobs: Any, *, repeated: bool) -> Any:
        self._look()
        if self._errors:
            raise self._errors.pop()
        return await self._driver.push(jobs, repeated=repeated)


async def test_the_span_of_a_push_lasts_until_the_store_has_answered(queue: JobQueue, spans: Spans) -> None:
    queue.add_middleware(Tracing(spans.provider))
    queue.register(Work)(lambda _: None)
    ended: list[int] = []
    queue.driver = Watched(queue.driver, lambda: ended.append(len(spans.of(SpanKind.PRODUCER))))

    await queue.push(Work())

    assert (ended, len(spans.of(SpanKind.PRODUCER))) == ([0], 1)


async def test_a_push_that_fails_has_its_error_and_one_that_finds_the_job_there_has_none(
    queue: JobQueue, spans: Spans
) -> None:
    queue.add_middleware(Tracing(spans.provider))
    queue.register(Work)(lambda _: None)
    queue.driver = Watched(queue.driver, lambda: None, QueueFull("no room"))
    with pytest.raises(QueueFull):
        await queue.push(Work(), job_id="a")
    await queue.push(Work(), job_id="a")
    await queue.push(Work(), job_id="a")

    failed, added, found = spans.of(SpanKind.PRODUCER)
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.status.description == "no room"
    assert attributes(failed)["error.type"] == "redisjobs.errors.QueueFull"
    assert "redisjobs.job.added" not in attributes(failed)
    assert [attributes(span)["redisjobs.job.added"] for span in (added, found)] == [True, False]
    assert found.status.status_code is StatusCode.UNSET


async def test_each_job_of_many_has_a_span_and_a_context_of_its_own(queue: JobQueue, spans: Spans) -> None:
    queue.add_middleware(Tracing(spans.provider))
    queue.register(Work)(lambda _: None)

    handles = await queue.push_many([Work()] * 3)

    pushes = spans.of(SpanKind.PRODUCER)
    assert [attributes(span)["messaging.message.id"] for span in pushes] == [handle.id for handle in handles]
    headers = [(info and info.headers) or {} for info in [await handle.info() for handle in handles]]
    assert [each["traceparent"].split("-")[2] for each in headers] == [f"{id_of(span):016x}" for span in pushes]


async def test_the_users_own_headers_stay_and_baggage_goes_along(queue: JobQueue, spans: Spans) -> None:
    seen: list[object] = []
    queue.add_middleware(Tracing(spans.provider))
    queue.register(Work)(lambda _: seen.append(baggage.get_baggage("tenant")))

    token = context.attach(baggage.set_baggage("tenant", "t-1"))
    try:
        job = await queue.push(Work(), headers={"request": "r-17", "trace": "mine"})
    finally:
        context.detach(token)
    info = await job.info()
    await drain(queue)

    assert info is not None
    assert info.headers is not None
    assert info.headers["request"] == "r-17"
    assert info.headers["trace"] == "mine"
    assert info.headers.keys() == {"request", "trace", "traceparent", "baggage"}
    assert seen == ["t-1"]


async def test_a_push_that_is_repeated_is_the_same_push_with_the_context_it_had(
    queue: JobQueue, spans: Spans
) -> None:
    queue.add_middleware(Tracing(spans.provider))
    queue.register(Work)(lambda _: None)
    prepared = queue.prepare(Work())

    await queue.push_many([prepared])
    await queue.push_many([prepared])

    assert len(spans.of(SpanKind.PRODUCER)) == 1


def test_a_push_by_sync_code_has_a_span_as_well(spans: Spans) -> None:
    with redisjobs.sync.JobQueue("memory://", "q", middleware=[Tracing(spans.provider)]) as queue:
        queue.register(Work)(lambda _: None)
        job = queue.push(Work())
        info = job.info()

    assert info is not None
    assert info.headers is not None
    assert info.headers["traceparent"].split("-")[2] == f"{id_of(spans.push):016x}"
    assert attributes(spans.push)["redisjobs.job.added"] is True


async def test_without_an_sdk_nothing_is_written_and_the_job_runs(queue: JobQueue) -> None:
    ran: list[str] = []
    queue.add_middleware(Tracing())
    queue.register(Work)(lambda work: ran.append(work.what))

    job = await queue.push(Work("done"))
    info = await job.info()
    await drain(queue)

    assert info is not None
    assert (info.headers, ran) == (None, ["done"])


# A run


async def test_a_run_is_a_consumers_span_in_a_trace_of_its_own_with_a_link_to_the_push(
    queue: JobQueue, spans: Spans
) -> None:
    workers: list[str] = []
    queue.add_middleware(Tracing(spans.provider))

    @queue.register(Work)
    async def work(_: Work, context: JobContext) -> None:
        workers.append(context.worker_id)

    await queue.push(Work(), job_id="a")
    with spans.tracer.start_as_current_span("the application"):
        await drain(queue)

    assert spans.run.name == f"process {queue.name}"
    assert (parent(spans.run), links(spans.run)) == (None, [id_of(spans.push)])
    assert trace_of(spans.run) != trace_of(spans.push)
    assert attributes(spans.run) == {
        "messaging.system": "redisjobs",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": queue.name,
        "messaging.message.id": "a",
        "messaging.consumer.group.name": "workers",
        "messaging.client.id": workers[0],
        "redisjobs.job.name": "Work",
        "redisjobs.job.attempt": 1,
        "redisjobs.job.deliveries": 1,
    }


async def test_the_push_can_be_the_parent_of_the_run_instead(queue: JobQueue, spans: Spans) -> None:
    queue.add_middleware(Tracing(spans.provider, parent=True))
    queue.register(Work)(lambda _: None)
    await queue.push(Work())

    await drain(queue)

    assert (parent(spans.run), links(spans.run)) == (id_of(spans.push), [])
    assert trace_of(spans.run) == trace_of(spans.push)


@pytest.mark.parametrize("in_thread", [False, True])
async def test_the_span_is_current_in_the_handler_and_its_own_spans_are_inside(
    queue: JobQueue, spans: Spans, in_thread: bool
) -> None:
    queue.add_middleware(Tracing(spans.provider))

    def inside(_: Work) -> None:
        spans.tracer.start_span("inside").end()

    async def async_inside(work: Work) -> None:
        inside(work)

    queue.register(Work)(inside if in_thread else async_inside)
    await queue.push_many([Work(), Work()])

    await drain(queue)

    assert {parent(span) for span in spans.of(SpanKind.INTERNAL)} == {
        id_of(span) for span in spans.of(SpanKind.CONSUMER)
    }
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.parametrize("in_thread", [False, True])
async def test_the_span_of_what_a_handler_pushes_is_inside_of_that_which_is_current_there(
    queue: JobQueue, spans: Spans, in_thread: bool
) -> None:
    queue.add_middleware(Tracing(spans.provider))

    def inside(work: Work, context: JobContext) -> None:
        if work.what == "parent":
            with spans.tracer.start_as_current_span("inside"):
                context.push(Work("in its own span"))
            context.push(Work("in that of the run"))

    async def async_inside(work: Work, context: JobContext) -> None:
        inside(work, context)

    queue.register(Work)(inside if in_thread else async_inside)
    await queue.push(Work("parent"))

    await drain(queue)

    _, one, other = spans.of(SpanKind.PRODUCER)
    (own,), run = spans.of(SpanKind.INTERNAL), spans.of(SpanKind.CONSUMER)[0]
    assert (parent(one), parent(other), parent(own)) == (id_of(own), id_of(run), id_of(run))


async def test_a_job_that_no_one_traced_runs_in_a_trace_of_its_own(
    queue: JobQueue, store: Store, spans: Spans
) -> None:
    queue.register(Work)(lambda _: None)
    await queue.push(Work(), headers={"traceparent": "nonsense"})
    await queue.push(Work())
    queue.add_middleware(Tracing(spans.provider))

    await drain(queue)

    assert [(parent(span), links(span)) for span in spans.of(SpanKind.CONSUMER)] == [(None, [])] * 2


@pytest.mark.parametrize("asked", [ValueError("not now"), Retry(0), Snooze(0)], ids=lambda e: type(e).__name__)
async def test_the_link_is_kept_through_retries_snoozes_and_delays(
    queue: JobQueue, spans: Spans, asked: Exception
) -> None:
    runs: list[int] = []
    queue.add_middleware(Tracing(spans.provider))

    @queue.register(Work)
    async def work(_: Work, context: JobContext) -> None:
        runs.append(context.attempt)
        if len(runs) == 1:
            raise asked

    await queue.push(Work(), delay=0.01)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            worker = Worker(queue)
            tasks.start_soon(worker.run)
            await eventually(lambda: len(spans.of(SpanKind.CONSUMER)) == 2, within=20)
            worker.stop()

    first, second = spans.of(SpanKind.CONSUMER)
    assert links(first) == [id_of(spans.push)]
    assert links(second) == [id_of(spans.push), id_of(first)]
    assert trace_of(first) != trace_of(second)
    attempts = [attributes(span)["redisjobs.job.attempt"] for span in (first, second)]
    assert attempts == [1, 1 if isinstance(asked, Snooze) else 2]
    assert second.status.status_code is StatusCode.UNSET


async def test_a_job_whose_worker_was_lost_keeps_its_link_and_tells_its_deliveries(
    queue: JobQueue, store: Store, spans: Spans
) -> None:
    queue.add_middleware(Tracing(spans.provider))
    queue.register(Work)(lambda _: None)
    await queue.push(Work())
    lost = store.consumer("lost", lease=0.2)
    await lost.exchange([], 1)
    await lost.aclose()

    await drain(queue, lease=0.4)

    assert links(spans.run) == [id_of(spans.push)]
    assert attributes(spans.run)["redisjobs.job.deliveries"] == 2


class Odd(Exception):
    def __str__(self) -> str:
        raise ValueError("its text is not to be had")


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (ValueError("not now"), "ValueError"),
        (Fail("no use"), "redisjobs.errors.Fail"),
        (Retry("busy", delay=3600), "redisjobs.errors.Retry"),
        (Odd(), "test_tracing.Odd"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_a_handler_raises_is_the_spans_error(
    queue: JobQueue, spans: Spans, raised: Exception, kind: str
) -> None:
    queue.add_middleware(Tracing(spans.provider))

    @queue.register(Work, retry=RetryPolicy(wait=wait_none(), stop=stop_after_attempt(1)))
    async def work(_: Work) -> None:
        raise raised

    await queue.push(Work())

    await drain(queue)

    assert spans.run.status.status_code is StatusCode.ERROR
    assert attributes(spans.run)["error.type"] == kind
    if not isinstance(raised, Odd):
        assert spans.run.status.description == str(raised)
        (event,) = spans.run.events
        assert event.name == "exception"
        assert "Traceback" in str((event.attributes or {})["exception.stacktrace"])


async def test_a_timeout_is_an_error_as_the_cancellation_by_which_it_comes(queue: JobQueue, spans: Spans) -> None:
    queue.add_middleware(Tracing(spans.provider))

    @queue.register(Work, timeout=0.02, retry=RetryPolicy(wait=wait_none(), stop=stop_after_attempt(1)))
    async def work(_: Work) -> None:
        await anyio.sleep_forever()

    await queue.push(Work())

    await drain(queue)

    assert spans.run.status.status_code is StatusCode.ERROR
    assert str(attributes(spans.run)["error.type"]).rpartition(".")[2] in ("CancelledError", "Cancelled")


async def test_a_snooze_is_no_error(queue: JobQueue, spans: Spans) -> None:
    queue.add_middleware(Tracing(spans.provider))

    @queue.register(Work)
    async def work(_: Work) -> None:
        raise Snooze(3600)

    await queue.push(Work())

    await drain(queue)

    assert spans.run.status.status_code is StatusCode.UNSET
    assert [event.name for event in spans.run.events] == ["snoozed"]
    assert "error.type" not in attributes(spans.run)


@pytest.mark.parametrize("by", ["cancel", "stop"])
async def test_a_run_that_is_given_up_is_no_error(queue: JobQueue, spans: Spans, by: str) -> None:
    queue.add_middleware(Tracing(spans.provider))
    begun = anyio.Event()

    @queue.register(Work)
    async def work(_: Work) -> None:
        begun.set()
        await anyio.sleep_forever()

    job = await queue.push(Work())
    worker = Worker(queue, grace=0, lease=1)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await begun.wait()
            if by == "cancel":
                await job.cancel()
                await eventually(lambda: spans.of(SpanKind.CONSUMER))
            worker.stop()

    assert spans.run.status.status_code is StatusCode.UNSET
    assert [event.name for event in spans.run.events] == ["given up"]


async def test_a_job_for_which_no_thread_is_free_is_no_error(spans: Spans) -> None:
    async def no_thread() -> None:
        raise NoThread

    context = JobContext(
        job_id="a",
        job_name="Work",
        queue_name="q",
        attempt=1,
        deliveries=1,
        queued_ms=0,
        scheduled_ms=None,
        next_scheduled_ms=None,
        state=None,
        read_headers=dict,
        worker_id="w",
    )
    job: Any = None
    with pytest.raises(NoThread):
        await Tracing(spans.provider).around(job, context, no_thread)

    assert spans.run.status.status_code is StatusCode.UNSET
    assert [event.name for event in spans.run.events] == ["put off"]
