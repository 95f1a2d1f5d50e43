"""One job in a worker's hands: from its lease to its outcome."""

import inspect
import logging
import math
import time
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread

from redisjobs import codec
from redisjobs.driver import Ack, DeadLetter, Fate, Lease, Release, RetryLater, Word
from redisjobs.errors import DecodeError, JobTimeout, Snooze
from redisjobs.fate import Done, Expired, Interrupted, Outcome, Raised, Undecodable, UnknownName, decide
from redisjobs.job import JobContext, JobDefinition
from redisjobs.registry import Registry
from redisjobs.retry import exponential_jitter
from redisjobs.visible import visible

logger = logging.getLogger("redisjobs.worker")

_DONE = Done()


@dataclass(frozen=True, slots=True)
class Settings:
    """What a worker is told; see `Worker`. Seconds, but for `unknown_ms`; infinity for no limit."""

    queue: Registry
    worker_id: str
    concurrency: int
    lease: float
    max_deliveries: int
    unknown_ms: int
    max_jobs: float = math.inf
    max_rss: float = math.inf

    def is_suspect(self, deliveries: int) -> bool:
        """Whether a job is delivered for the last time, and so runs with nothing beside it."""
        return deliveries >= self.max_deliveries > 1


class Running:
    """A leased job, its handler about to run, running or done.

    Attributes:
        lease: The lease; a renewed token may replace it.
        place: The lease's place.
        over: Whether it has an outcome, or was let go; it may still have to be settled.
        fate: How to settle it, once that is decided; None also if it is no longer ours.
        resent: Whether its settlement was sent before, and the reply lost.
        sent_at: When it was last sent, in s since 1970; 0 if never.
    """

    __slots__ = (
        "_context",
        "_definition",
        "_job",
        "_outcome",
        "_run_ms",
        "_scope",
        "_settings",
        "_started",
        "_threads",
        "_why",
        "fate",
        "lease",
        "over",
        "place",
        "resent",
        "sent_at",
    )

    def __init__(self, lease: Lease, settings: Settings, threads: anyio.CapacityLimiter) -> None:
        self.lease = lease
        self.place = lease.place
        self.over = False
        self.fate: Fate | None = None
        self.resent = False
        self.sent_at = 0.0
        self._settings = settings
        self._threads = threads
        self._started = 0.0
        self._run_ms = 0
        self._job: codec.Job | None = None
        self._outcome: Outcome | None = None
        self._definition: JobDefinition[Any] | None = None
        self._context: JobContext | None = None
        self._scope: anyio.CancelScope | None = None
        self._why: Outcome | None = None

    @property
    def description(self) -> str:
        """Which job this is, for people."""
        return f"job {visible(self.lease.job_id)} ({visible(self._job.name) if self._job else '?'})"

    def give_up(self, why: Outcome) -> None:
        """Cancel the handler; `why` is the outcome, unless it is over already."""
        if self.over or self._why is not None:
            return
        self._why = why
        if self._context is not None:
            self._context.cancelled = True
        if self._scope is not None:
            self._scope.cancel()

    @property
    def given_up(self) -> Outcome:
        """The outcome of a job that was given up, and whose handler did not object."""
        return self._why if self._why is not None else Interrupted()

    async def run(self, scope: anyio.CancelScope, now_ms: int) -> Outcome:
        """Read the job and run its handler.

        Args:
            scope: What `give_up` cancels, around this call; should it cut the run off, `given_up` is the outcome.
            now_ms: The server's clock.

        Raises:
            BaseException: Only a cancellation that came from outside, and what ends a process.
        """
        if self._why is not None:  # given up before it began
            return self._why
        self._started, self._run_ms = time.monotonic(), now_ms
        try:
            job = self._job = codec.decode_job(self.lease)
            definition = self._definition = self._settings.queue.definitions.get(job.name)
            if definition is None:
                return UnknownName(job.name, job.unknown_ms, self._settings.unknown_ms)
            if job.expires_ms is not None and job.expires_ms < now_ms and not self._has_started(job):
                late = (now_ms - job.expires_ms) / 1000
                return Expired(f"not started in time: expired {late:.1f} s before a worker was free")
            parameters = codec.decode_parameters(definition.name, job.parameters)
        except DecodeError as error:
            return Undecodable(str(error))
        self._scope = scope
        context = self._make_context(job)
        if definition.timeout is None:
            return await self._handle(definition, parameters, context, scope)
        return await self._handle_in_time(definition, parameters, context, definition.timeout)

    def _has_started(self, job: codec.Job) -> bool:
        """Whether it was started before: a run of it had an outcome, or a worker died to which it was given."""
        return job.started_ms is not None or self.lease.deliveries > 1

    async def _handle_in_time(
        self, definition: JobDefinition[Any], parameters: Any, context: JobContext, timeout: float
    ) -> Outcome:
        with anyio.CancelScope(deadline=anyio.current_time() + timeout) as limit:
            return await self._handle(definition, parameters, context, limit)
        if self._why is not None:
            return self._why
        return self._timed_out(timeout)

    async def _handle(
        self, definition: JobDefinition[Any], parameters: Any, context: JobContext, scope: anyio.CancelScope
    ) -> Outcome:
        try:
            await self._call(definition, parameters, context)
            return _DONE
        except anyio.get_cancelled_exc_class() as error:
            # Cancelled by us, by the worker's end, or raised by the handler out of nowhere: only the last is
            # a failure like any other.
            if scope.cancel_called or anyio.current_effective_deadline() == float("-inf"):
                raise
            raised: BaseException = error
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # SystemExit too: a handler must not end the worker
            raised = error
        if self._why is not None:
            return self._why
        if scope.cancel_called and definition.timeout is not None:
            return self._timed_out(definition.timeout, raised)
        return Raised(raised)

    def _timed_out(self, timeout: float, cause: BaseException | None = None) -> Outcome:
        if self._context is not None:
            self._context.cancelled = True
        error = JobTimeout(f"the handler was still running after its timeout of {timeout:g} s")
        error.__cause__ = cause
        return Raised(error)

    async def _call(self, definition: JobDefinition[Any], parameters: Any, context: JobContext) -> None:
        if definition.is_async:
            await definition.call(parameters, context)
            return

        def call() -> tuple[Any]:  # boxed, for trio takes a bare coroutine for a mistake
            return (definition.call(parameters, context),)

        (result,) = await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._threads)
        if inspect.isawaitable(result):  # a plain function that returns a coroutine, as decorators make them
            await result

    def _make_context(self, job: codec.Job) -> JobContext:
        self._context = JobContext(
            job_id=self.lease.job_id,
            job_name=job.name,
            queue_name=self._settings.queue.name,
            attempt=job.attempt,
            deliveries=self.lease.deliveries,
            queued_ms=job.queued_ms,
            next_scheduled_ms=job.next_scheduled_ms,
            read_headers=job.read_headers,
            worker_id=self._settings.worker_id,
        )
        return self._context

    def decide(self, outcome: Outcome, now_ms: int) -> None:
        """Decide the job's fate, by its handler's retry policy."""
        self._outcome = outcome
        job = self._job
        attempt, started_ms = (job.attempt, job.started_ms or self._run_ms) if job else (1, now_ms)
        policy = self._definition.retry if self._definition else self._settings.queue.retry
        try:
            self.fate = decide(outcome, attempt=attempt, started_ms=started_ms, now_ms=now_ms, policy=policy)
        except Exception as error:
            # The policy is the user's code too; one that breaks must cost neither the job nor the worker.
            logger.exception("%s: its retry policy raised; the default one decides", self.description)
            error.__context__ = outcome.error if isinstance(outcome, Raised) else None
            policy = exponential_jitter()
            outcome = Raised(error)
            self.fate = decide(outcome, attempt=attempt, started_ms=started_ms, now_ms=now_ms, policy=policy)

    def report(self, word: Word) -> None:
        """Log what became of the job, one line a state change; a failure with its traceback.

        Each record says in its attributes, for whoever collects them, what was settled, how, and by which lease.
        """
        if word is Word.OK and type(self.fate) is Ack and not logger.isEnabledFor(logging.INFO):
            return
        error = self._outcome.error if isinstance(self._outcome, Raised) else None
        match word, self.fate:
            case Word.LEASE_LOST, _ if self.resent:
                self._log(
                    word, logging.WARNING, "was settled twice, as the first reply was lost; or the lease was"
                )
            case Word.LEASE_LOST, _:
                self._log(word, logging.WARNING, "the lease was lost before it was settled; nothing was written")
            case Word.CANCELLED, _:
                self._log(word, logging.INFO, "cancelled")
            case _, Ack(cancelled):
                self._log(word, logging.INFO, "cancelled" if cancelled else "done")
            case _, RetryLater(due):
                level = logging.INFO if error is None or isinstance(error, Snooze) else logging.WARNING
                self._log(word, level, f"runs again, due {due} ms", error)
            case _, DeadLetter(reason, text):
                self._log(word, logging.ERROR, f"dead letter, {reason}: {text}", error)
            case _, Release():
                self._log(word, logging.INFO, "released")

    def _log(self, word: Word, level: int, what: str, error: BaseException | None = None) -> None:
        if not logger.isEnabledFor(level):
            return
        job_id, name = self.lease.job_id, self._job.name if self._job else "?"
        unread = self.lease.fields.get(b"attempt", b"1")[:9].decode("utf-8", "replace")
        attempt = self._job.attempt if self._job else int(unread) if unread.isdigit() else 1
        ran = time.monotonic() - self._started if self._started else 0.0
        logger.log(
            level,
            "job %s (%s, attempt %d, %.3f s): %s",
            visible(job_id),
            visible(name),
            attempt,
            ran,
            what,
            exc_info=error if level >= logging.WARNING else None,
            extra={
                "job_id": job_id,
                "job_name": name,
                "attempt": attempt,
                "queue": self._settings.queue.name,
                "worker": self._settings.worker_id,
                "deliveries": self.lease.deliveries,
                "word": word.value,
                "fate": type(self.fate).__name__,
                "sent_at": self.sent_at,
                "resent": self.resent,
            },
        )
