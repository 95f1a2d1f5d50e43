# sentry_app.py
import os

import sentry_sdk
from sentry_sdk.integrations.logging import ignore_logger

from redisjobs import Fail, JobContext, JobQueue, Middleware, Retry, Snooze
from redisjobs.errors import JobStalled, JobTimeout
from redisjobs.events import SettledJob
from redisjobs.events.middleware import CallNext, OutgoingJob, RunningJob
from redisjobs.model.outcome import Outcome, Raised

sentry_sdk.init(dsn=os.environ.get("SENTRY_DSN"), traces_sample_rate=0.1)
ignore_logger("redisjobs.worker")  # it logs each failure, which the middleware reports already


class Sentry(Middleware):
    def on_push(self, job: OutgoingJob) -> None:
        for name, value in sentry_sdk.get_current_scope().iter_trace_propagation_headers():
            job.headers[name] = value

    async def around(self, job: RunningJob, context: JobContext, call_next: CallNext) -> object:
        with sentry_sdk.isolation_scope() as scope:
            scope.set_tag("queue", context.queue_name)
            scope.set_context("job", {"id": context.job_id, "name": job.name, "attempt": context.attempt})
            trace = sentry_sdk.continue_trace(dict(context.headers), op="queue.process", name=job.name)
            with sentry_sdk.start_transaction(trace):
                try:
                    return await call_next()
                except (Retry, Snooze):  # the handler asks for another run
                    raise
                except Exception as error:
                    sentry_sdk.capture_exception(error)
                    raise

    def on_settled(self, job: SettledJob, outcome: Outcome | None) -> None:
        # In `around` these are cancellations.
        if isinstance(outcome, Raised) and isinstance(outcome.error, JobTimeout | JobStalled):
            sentry_sdk.capture_exception(outcome.error, tags={"job": job.name})


queue = JobQueue("redis://127.0.0.1:6379/0", name="orders", middleware=[Sentry()])


@queue.job
async def charge(order: int) -> None:
    raise Fail(f"order {order} has no card")
