"""Spans for OpenTelemetry: one around each push and one around each run, connected by the job's headers.

Needs the extra `tracing`, which is only OpenTelemetry's API: the application chooses the SDK and the exporter.
Without an SDK all of this does nothing.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

try:
    from opentelemetry import context as contexts
    from opentelemetry import propagate, trace
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, SpanKind, StatusCode, TracerProvider
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "opentelemetry":
        raise
    raise ModuleNotFoundError(
        "redisjobs.contrib.tracing needs opentelemetry-api; in a checkout of redisjobs: pip install '.[tracing]'",
        name="opentelemetry",
    ) from error

import anyio

from redisjobs._version import __version__
from redisjobs.base.visible import visible
from redisjobs.errors import Snooze
from redisjobs.events.middleware import CallNext, Middleware, OutgoingJob, RunningJob
from redisjobs.model.context import JobContext
from redisjobs.model.failures import deciding
from redisjobs.model.outcome import text_of
from redisjobs.worker.running.threads import NoThread

# Names from OpenTelemetry's semantic conventions 1.44 for messaging spans, `messaging/messaging-spans.md` there.
# They are still in development. We copy them, because their package moves them when they become stable.
SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
MESSAGE_ID = "messaging.message.id"
CONSUMER_GROUP = "messaging.consumer.group.name"
CLIENT_ID = "messaging.client.id"
ERROR_TYPE = "error.type"

# Ours.
JOB_NAME = "redisjobs.job.name"
JOB_ATTEMPT = "redisjobs.job.attempt"
JOB_DELIVERIES = "redisjobs.job.deliveries"
JOB_ADDED = "redisjobs.job.added"

_GROUP = "workers"  # the consumer group of a queue's streams
_PLAIN = TraceContextTextMapPropagator()
_TRACEPARENT = "traceparent"
_UNSTARTED = Context()  # the context of a span that begins a trace


class Tracing(Middleware):
    """Makes spans for pushes and runs. Give it to a queue, in the module that both producers and workers import.

    `push QUEUE` is a PRODUCER span. It lasts from before a job is sent until the push has its answer or its error,
    all tries included. The application's propagator writes its trace context into the job's headers, and there it
    stays through retries, snoozes and delays. `process QUEUE` is a CONSUMER span around each run, and the current
    span in it. By default it begins its own trace and has a link to the push.

    A job that runs again, because it was suspended, snoozed or failed, has a link from each run to the run before.

    A run that raises is an error, even if it raises `Retry` or `Fail`. It is not an error if it raises `Snooze`,
    if the job was suspended or cancelled, or if the worker stopped.

    Args:
        tracer_provider: Makes the spans. Defaults to the global provider, even if that is set later.
        parent: Whether the push is the parent of each run, instead of linked. Then all is one trace, however long
            the job waits.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None, parent: bool = False) -> None:
        self._tracer = trace.get_tracer("redisjobs", __version__, tracer_provider)
        self._parent = parent

    def on_push(self, job: OutgoingJob) -> None:
        """Begin the span of a push, and write its trace context into the job's headers."""
        span = self._tracer.start_span(
            f"push {job.queue_name}",
            kind=SpanKind.PRODUCER,
            attributes={
                **_attributes(job.queue_name, job.job_id, job.name),
                OPERATION_NAME: "push",
                OPERATION_TYPE: "send",
            },
        )
        propagate.inject(job.headers, trace.set_span_in_context(span))
        if not span.is_recording():
            span.end()
            return

        def end(added: bool, error: BaseException | None) -> None:
            if error is None:
                span.set_attribute(JOB_ADDED, added)
            else:
                _note_error(span, error)
            span.end()

        job.when_pushed(end)

    async def around(self, job: RunningJob, context: JobContext, call_next: CallNext) -> Any:
        """Run a job inside its span."""
        sent = _extracted(context.headers)
        before = trace.get_current_span(sent).get_span_context()
        links = [] if self._parent or not before.is_valid else [Link(before)]
        last = trace.get_current_span(_PLAIN.extract({_TRACEPARENT: context._trace})).get_span_context()
        links += [Link(last)] if last.is_valid else []
        # Baggage and the like is kept. Without the span of the push, this begins a trace.
        inside = sent if self._parent else trace.set_span_in_context(trace.INVALID_SPAN, sent)
        span = self._tracer.start_span(
            f"process {context.queue_name}",
            inside,
            SpanKind.CONSUMER,
            {
                **_attributes(context.queue_name, context.job_id, context.job_name),
                OPERATION_NAME: "process",
                OPERATION_TYPE: "process",
                CONSUMER_GROUP: _GROUP,
                CLIENT_ID: context.worker_id,
                JOB_ATTEMPT: context.attempt,
                JOB_DELIVERIES: context.deliveries,
            },
            links or None,
        )
        if span.is_recording():
            context._trace = _traceparent(span)
        token = contexts.attach(trace.set_span_in_context(span, inside))
        try:
            return await call_next()
        except BaseException as error:
            _note_end(span, context, error)
            raise
        finally:
            contexts.detach(token)
            span.end()


def _traceparent(span: Span) -> str:
    """Return the identity of a span as the job's entry keeps it for the next run, whatever the propagator is."""
    carrier = dict[str, str]()
    _PLAIN.inject(carrier, trace.set_span_in_context(span, _UNSTARTED))
    return carrier.get(_TRACEPARENT, "")


def _attributes(queue: str, job_id: str, name: str) -> dict[str, str | int]:
    return {SYSTEM: "redisjobs", DESTINATION: queue, MESSAGE_ID: visible(job_id), JOB_NAME: name}


def _extracted(headers: Mapping[str, str]) -> Context:
    return propagate.extract(headers, _UNSTARTED) if headers else _UNSTARTED


def _note_end(span: Span, context: JobContext, error: BaseException) -> None:
    """Record what a run raised: an error, or another end."""
    from redisjobs.worker.running.handler_run import is_suspension  # here: producers that trace load no worker

    if isinstance(deciding(error), Snooze):
        span.add_event("snoozed")
    elif is_suspension(error):
        span.add_event("suspended")
    elif isinstance(error, NoThread):
        span.add_event("put off")
    elif isinstance(error, anyio.get_cancelled_exc_class()) and context.cancelled:
        span.add_event("given up")
    else:
        _note_error(span, error)


def _note_error(span: Span, error: BaseException) -> None:
    kind = type(deciding(error))
    builtin = kind.__module__ in ("builtins", "__main__")
    span.set_attribute(ERROR_TYPE, kind.__qualname__ if builtin else f"{kind.__module__}.{kind.__qualname__}")
    span.set_status(StatusCode.ERROR, text_of(deciding(error)))
    with suppress(Exception):  # the error's own code makes its text
        span.record_exception(error)
