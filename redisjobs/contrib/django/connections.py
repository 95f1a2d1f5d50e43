"""Database connections of handlers, closed as Django closes those of requests."""

from typing import Any

from asgiref.sync import sync_to_async
from django.db import close_old_connections

from redisjobs.events.middleware import CallNext, CallNextSync, Middleware, RunningJob
from redisjobs.model.context import JobContext


class Connections(Middleware):
    """Middleware that closes old database connections before and after each job, as Django does for a request.

    A connection is old if it is older than `CONN_MAX_AGE`, or broken. A queue of `Backend` has this middleware.
    Give it to your other queues: `JobQueue(..., middleware=[Connections()])`. It does not reach handlers with
    `run_in="process"`.
    """

    async def around(self, job: RunningJob, context: JobContext, call_next: CallNext) -> Any:
        """Close the connections that Django's async calls use. They are all in one thread."""
        if not job.is_async:
            return await call_next()
        await sync_to_async(close_old_connections)()
        try:
            return await call_next()
        finally:
            await sync_to_async(close_old_connections)()

    def around_sync(self, job: RunningJob, context: JobContext, call_next: CallNextSync) -> Any:
        """Close the connections of the handler's thread."""
        close_old_connections()
        try:
            return call_next()
        finally:
            close_old_connections()
