"""What the runs of a test came to."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from redisjobs.client.registry import Registry
from redisjobs.errors import JobFailed, ResultRefused, Retry, Snooze, UnknownJob
from redisjobs.events.kinds import JobsCancelled, JobsCompleted, JobsDead, JobsRetried, JobsSuspended, SettledJob
from redisjobs.events.middleware import CallNext, Middleware, RunningJob
from redisjobs.model import payload
from redisjobs.model.context import JobContext
from redisjobs.model.failures import deciding
from redisjobs.model.job import JobDefinition
from redisjobs.model.outcome import Raised, UnknownName
from redisjobs.model.steps import waits_for
from redisjobs.model.transitions import Ack, After, DeadLetter, Due, RetryLater, Settlement, Suspend

Kind = Literal["completed", "retried", "snoozed", "suspended", "dead", "cancelled", "crashed"]


@dataclass(frozen=True)
class JobOutcome:
    """What one run of a job came to.

    Attributes:
        name: The job's name; '?' if its entry could not be read.
        kind: `completed`; `retried` or `snoozed`, it runs again later; `suspended`, it waits in the middle of its
            handler; `dead`, it is a dead letter; `cancelled`; `crashed`, its worker died.
        result: What the handler returned. If the job keeps its result, this is the result as a reader gets it.
        error: What the handler raised; None if it raised nothing.
        reason: Why it is a dead letter: `failed`, `expired`, `unknown name`, `undecodable` or `worker lost`.
        message: The stored error, in one line; of a suspended job, what it waits for, as `signal approved` or
            `children of render`.
        delay: The seconds until it runs again; None: it does not, or waits without a limit.
    """

    job_id: str
    name: str
    kind: Kind
    attempt: int = 1
    result: Any = None
    error: BaseException | None = None
    reason: str = ""
    message: str = ""
    delay: float | None = None

    @property
    def failure(self) -> BaseException | None:
        """The error that a drain raises for this run; None for a run that ended as its handler asked."""
        if self.kind not in ("retried", "dead"):
            return None
        if self.error is not None:
            return None if self.kind == "retried" and isinstance(deciding(self.error), Retry) else self.error
        if self.reason == "unknown name":
            return UnknownJob(
                f"{self.message}; import the module that registers it, or name its queue in the test"
            )
        return JobFailed(self.job_id, "", self.message, reason=self.reason)


@dataclass(frozen=True)
class Drained:
    """What a drain has done.

    Attributes:
        outcomes: What each run came to, in order.
    """

    outcomes: Sequence[JobOutcome]

    def _count(self, kind: Kind) -> int:
        return sum(outcome.kind == kind for outcome in self.outcomes)

    @property
    def completed(self) -> int:
        """How many jobs are done."""
        return self._count("completed")

    @property
    def retried(self) -> int:
        """How many runs failed and are tried again later."""
        return self._count("retried")

    @property
    def snoozed(self) -> int:
        """How many runs ended with `Snooze`."""
        return self._count("snoozed")

    @property
    def suspended(self) -> int:
        """How many runs ended because their handler waits."""
        return self._count("suspended")

    @property
    def dead(self) -> int:
        """How many jobs became dead letters."""
        return self._count("dead")

    @property
    def cancelled(self) -> int:
        """How many jobs were cancelled."""
        return self._count("cancelled")

    @property
    def crashed(self) -> int:
        """How many workers died."""
        return self._count("crashed")

    def __repr__(self) -> str:
        counts = {kind: getattr(self, kind) for kind in get_args(Kind)}
        return f"Drained({', '.join(f'{kind}={count}' for kind, count in counts.items() if count)})"

    def check(self) -> None:
        """Raise the error of the first run that failed; a note names the others."""
        failures = [failure for outcome in self.outcomes if (failure := outcome.failure) is not None]
        if not failures:
            return
        said = dict.fromkeys(f"{type(failure).__name__}: {failure}" for failure in failures)
        for other in list(said)[1:]:
            failures[0].add_note(f"also in this drain: {other}")
        raise failures[0]


class Returned(Middleware):
    """Notes what a handler returns."""

    def __init__(self) -> None:
        self.value: Any = None

    async def around(self, job: RunningJob, context: JobContext, call_next: CallNext) -> Any:
        """Keep the handler's value, before it is encoded or dropped."""
        self.value = await call_next()
        return self.value


def outcome_of(queue: Registry, job: SettledJob, returned: Returned | None) -> JobOutcome | None:
    """Return the outcome of a settled job; None if it was handed back, or another worker has it."""
    error = job.outcome.error if isinstance(job.outcome, Raised) else None
    common = JobOutcome(job.job_id, job.name, "completed", job.attempt, error=error)
    if job.kind is JobsCompleted:
        return _completed(common, job, queue.definitions.get(job.name), returned)
    if job.kind is JobsCancelled:
        return replace(common, kind="cancelled")
    if job.kind is JobsDead:
        return _dead(common, job.settlement, queue.driver)
    return _again(common, job, queue.driver) if job.kind in (JobsRetried, JobsSuspended) else None


def _completed(
    common: JobOutcome, job: SettledJob, definition: JobDefinition[Any] | None, returned: Returned | None
) -> JobOutcome:
    result = job.settlement.result if isinstance(job.settlement, Ack) else None
    if result is not None and result.refused:
        why = f"job {job.job_id} is done, but its result could not be kept: {result.refused}"
        return replace(common, error=ResultRefused(job.job_id, why))
    if result is not None and result.value is not None and definition is not None:
        return replace(common, result=payload.decode_parameters(definition.returns, result.value))
    return replace(common, result=returned.value if returned is not None else None)


def _dead(common: JobOutcome, settlement: Settlement | None, driver: Any) -> JobOutcome:
    if isinstance(settlement, DeadLetter):
        return replace(common, kind="dead", reason=settlement.reason, message=settlement.error)
    with driver.memory.lock:  # no worker ran it, so the event has little about it
        job = driver.memory.jobs[common.job_id]
    reason, message = job.text(b"reason"), job.text(b"error")
    return replace(common, name=job.name, kind="dead", reason=reason, message=message)


def _again(common: JobOutcome, job: SettledJob, driver: Any) -> JobOutcome:
    settlement = job.settlement
    if isinstance(settlement, Suspend):
        wait = settlement.wait
        waits, delay = (
            waits_for(wait.what, wait.key),
            None if settlement.due is None else _delay(settlement.due, driver),
        )
        return replace(common, kind="suspended", message=waits, delay=delay)
    assert isinstance(settlement, RetryLater)
    is_snoozed = common.error is not None and isinstance(deciding(common.error), Snooze)
    kind: Kind = "snoozed" if is_snoozed else "retried"
    return replace(
        common,
        kind=kind,
        reason="unknown name" if isinstance(job.outcome, UnknownName) else "",
        message=settlement.changes.get("error", ""),
        delay=_delay(settlement.due, driver),
    )


def _delay(due: Due, driver: Any) -> float:
    ms: float = due.ms if isinstance(due, After) else due.ms - driver.memory.now_ms()
    return ms / 1000
