"""What is published, logged, counted and traced of jobs that save steps and wait."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from each_setting import store as store
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry
from store import Store, eventually

from redisjobs import JobContext, JobQueue, PushedJob, Retry, Worker
from redisjobs.contrib.metrics import Metrics, QueueMetrics
from redisjobs.contrib.tracing import Tracing
from redisjobs.events import Event, JobsSuspended, StepsSaved
from redisjobs.model.queries import Find

pytestmark = pytest.mark.anyio


@pytest.fixture
async def queue(store: Store) -> AsyncIterator[JobQueue]:
    async with JobQueue(store.driver, store.queue_name) as queue:

        @queue.job
        async def order(seconds: float, context: JobContext) -> None:
            await context.step("charge", int)
            await context.step("charge", int)
            await context.checkpoint(1)
            if seconds:
                await context.sleep(seconds, name="rest")
            await context.wait_for("approved")

        yield queue


async def run(queue: JobQueue) -> None:
    await Worker(queue, schedules=False).run(until_idle=True)


async def pushed(queue: JobQueue, seconds: float = 0) -> PushedJob:
    job = await queue.push({"seconds": seconds}, queue.definitions["order"].name)
    await run(queue)
    return job


async def test_saved_steps_are_published_a_checkpoint_and_a_wait_are_not(queue: JobQueue) -> None:
    seen = list[Event]()
    queue.events.subscribe(StepsSaved, seen.append)

    job = await pushed(queue)

    steps = [step for event in seen if isinstance(event, StepsSaved) for step in event.steps]
    assert steps == [(job.id, "order", "charge"), (job.id, "order", "charge#2")]


async def test_a_suspended_job_is_published_with_what_it_waits_for(queue: JobQueue) -> None:
    seen = list[Any]()
    queue.events.subscribe(JobsSuspended, seen.append)

    job = await pushed(queue)

    ((suspended,),) = (event.jobs for event in seen)
    assert (suspended.job_id, suspended.name, suspended.attempt) == (job.id, "order", 1)
    assert suspended.settlement.wait.key == "approved"


async def test_the_log_says_what_a_job_waits_for_and_how_long(
    queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    await pushed(queue)
    await pushed(queue, 7200)

    lines = [each.getMessage().partition("): ")[2] for each in caplog.records if "suspended" in each.getMessage()]
    assert lines == ["suspended, waits for signal approved", "suspended, waits for the time, up to 2.0 h"]


async def test_suspended_jobs_and_saved_steps_are_counted(queue: JobQueue) -> None:
    registry = CollectorRegistry()
    Metrics(registry).listen(queue)
    job = await pushed(queue)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"queue": queue.name, "name": "order", **labels})

    assert value("redisjobs_steps_total") == 2
    assert value("redisjobs_jobs_total", outcome="suspended") == 1
    await queue.signal(job, "approved")
    await run(queue)
    assert value("redisjobs_steps_total") == 2
    assert value("redisjobs_jobs_total", outcome="completed") == 1


async def test_the_metrics_of_a_queue_have_the_suspended_ones_and_those_that_were_woken(
    queue: JobQueue,
) -> None:
    registry = CollectorRegistry()
    registry.register(QueueMetrics(queue))
    await pushed(queue)
    job = await pushed(queue)
    await queue.signal(job, "approved")

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"queue": queue.name, **labels})

    assert value("redisjobs_queue_jobs", state="suspended", priority="") == 1
    assert value("redisjobs_queue_jobs", state="delayed", priority="") == 0
    assert value("redisjobs_queue_events_total", event="suspended") == 2
    assert value("redisjobs_queue_events_total", event="woken") == 1


async def test_statistics_count_suspended_runs_and_sample_suspended_jobs(queue: JobQueue) -> None:
    await pushed(queue)
    await pushed(queue)

    intervals = await queue.control.statistics(60)

    assert sum(each.suspended for each in intervals) == 2
    assert sum(each.completed for each in intervals) == 0
    assert (await queue.control.overview()).names[0].suspended == 2
    samples = [each.sample for each in await queue.control.statistics(86_400) if each.sample]
    assert {sample.suspended for sample in samples} <= {0, 1, 2}


# Spans


class Spans:
    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def runs(self) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.kind is SpanKind.CONSUMER]

    @property
    def push(self) -> ReadableSpan:
        (span,) = (span for span in self._exporter.get_finished_spans() if span.kind is SpanKind.PRODUCER)
        return span


def id_of(span: ReadableSpan) -> int:
    found = span.get_span_context()
    assert found is not None
    return found.span_id


def links(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


async def test_a_run_that_is_suspended_is_no_error_and_the_next_one_has_a_link_to_it(queue: JobQueue) -> None:
    spans = Spans()
    queue.add_middleware(Tracing(spans.provider))
    job = await pushed(queue)
    await queue.signal(job, "approved")

    await run(queue)

    first, second = spans.runs
    assert [event.name for event in first.events] == ["suspended"]
    assert first.status.status_code is StatusCode.UNSET
    assert links(first) == [id_of(spans.push)]
    assert links(second) == [id_of(spans.push), id_of(first)]


async def test_a_run_inside_the_trace_of_its_push_has_a_link_to_the_run_before_all_the_same(
    queue: JobQueue,
) -> None:
    spans = Spans()
    queue.add_middleware(Tracing(spans.provider, parent=True))
    job = await pushed(queue)
    await queue.signal(job, "approved")

    await run(queue)

    first, second = spans.runs
    assert (links(first), links(second)) == ([], [id_of(first)])


async def test_without_tracing_the_entry_of_a_job_names_no_span(queue: JobQueue, store: Store) -> None:
    job = await pushed(queue)

    row = await store.driver.read(Find(job.id))
    assert row is not None
    assert b"trace" not in row.fields


async def test_each_try_has_a_link_to_the_one_before_it(store: Store) -> None:
    spans = Spans()
    async with JobQueue(store.driver, store.queue_name) as queue:
        queue.add_middleware(Tracing(spans.provider))

        @queue.job
        async def again(context: JobContext) -> None:
            if context.attempt < 3:
                raise Retry(0)

        await again.push()
        worker = Worker(queue, schedules=False)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await eventually(lambda: len(spans.runs) == 3, within=20)
            worker.stop()

    first, second, third = spans.runs
    assert [links(span)[1:] for span in (first, second, third)] == [[], [id_of(first)], [id_of(second)]]
