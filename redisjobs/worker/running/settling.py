"""Decides the settlement of a job from the outcome of its handler."""

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from redisjobs.model.outcome import CancelAsked, Interrupted, Outcome, Raised, Suspended, attach, decide
from redisjobs.model.retry import exponential_jitter
from redisjobs.model.transitions import ACK, Ack, After, DeadLetter, Release, Result, RetryLater, Settlement
from redisjobs.worker.running.execution import Execution
from redisjobs.worker.running.handler_run import DONE


def settle(run: Execution, outcome: Outcome) -> None:
    """Decide the settlement of a job, by its handler's retry policy; None if the job is no longer ours."""
    run.outcome = outcome
    trace = "" if run.context is None else run.context._trace
    run.context = None  # it leads back to the job: a reference cycle
    if run.steps is not None:
        run.take_children(adds=isinstance(outcome, Suspended))
    run.settlement = _settlement_of(run, outcome, trace)


def _settlement_of(run: Execution, outcome: Outcome, trace: str) -> Settlement | None:
    """Return the settlement of a job, or None.

    `trace` is the identity of the span of this run, to which the span of the next run has a link; '' for none.
    """
    if outcome is DONE and run.steps is None:
        return Ack(reported=True) if _may_have_reported(run) else ACK
    if isinstance(outcome, Suspended):
        changes = {"started_at": str(_began_ms(run)), "unknown_since": ""}
        return replace(outcome.suspend, changes=_changes(run, changes, trace))
    if isinstance(outcome, Interrupted):
        return hand_back(run, refund=not outcome.counts)
    if isinstance(outcome, CancelAsked):
        kept = Result(run.keep_ms) if run.keep_ms else None
        return Ack(cancelled=True, result=kept, reported=_may_have_reported(run))
    settlement = _judged(run, outcome)
    if isinstance(settlement, RetryLater):
        return RetryLater(settlement.due, _changes(run, settlement.changes, trace))
    if isinstance(settlement, Ack) and run.has_steps:
        settlement = replace(settlement, stepped=True)
    cancels = run.definition is not None and run.definition.cancels_children
    if cancels and isinstance(settlement, DeadLetter) and run.has_steps:
        settlement = replace(settlement, cancels=True)
    if isinstance(settlement, Ack | DeadLetter) and _may_have_reported(run):
        settlement = replace(settlement, reported=True)
    return settlement


def _judged(run: Execution, outcome: Outcome) -> Settlement | None:
    """Return what the retry policy decides. If it raises, neither the job nor the worker may fail."""
    job, now_ms = run.job, run.owner.server_ms(time.monotonic())
    attempt, started_ms = (job.attempt, _began_ms(run)) if job else (1, now_ms)
    judge = partial(decide, attempt=attempt, started_ms=started_ms, now_ms=now_ms)
    try:
        # What the policy sets in its context must not reach the next job.
        return run.runtime.contexts.fresh().run(judge, outcome, policy=run.retry)
    except BaseException as error:  # the policy is the user's code too
        run.settings.log.exception("%s: its retry policy raised; the default one decides", run.description)
        attach(error, "__context__", outcome.error if isinstance(outcome, Raised) else None)
        return judge(Raised(error), policy=exponential_jitter())


def hand_back(run: Execution, *, refund: bool = True) -> Settlement:
    """Return the settlement that lets another worker run a job.

    A job that has started can't expire any more. Only its entry can show that to the worker that runs it next.
    """
    job = run.job
    if refund and run.began and job is not None and job.expires_ms is not None and job.started_ms is None:
        return RetryLater(After(0), _changes(run, {"started_at": str(run.run_ms)}))
    return Release(refund=refund)


def _changes(run: Execution, changes: Mapping[str, str], trace: str = "") -> Mapping[str, str]:
    """Return the changes of the job's entry, with what this run has learnt about the job."""
    job, added = run.job, dict[str, str]()
    if job is not None and run.keep_ms and job.keep_ms is None:
        # From now on the entry shows it to clients that wait for the result, and to the code that ends the job.
        added["keep_result"] = str(run.keep_ms)
    if job is not None and job.suspended_ms is not None and "started_at" in changes:
        added["suspended_at"] = ""  # else no handler ran: it still goes on after its wait
    if run.has_steps:
        added["steps"] = "1"
    if trace:
        added["trace"] = trace
    return {**changes, **added} if added else changes


def _began_ms(run: Execution) -> int:
    """Return when a job's first run began, without the time for which the job was suspended since."""
    job = run.job
    if job is None or job.started_ms is None:
        return run.run_ms
    if job.suspended_ms is None:
        return job.started_ms
    return max(job.started_ms, run.run_ms - max(0, job.suspended_ms - job.started_ms))


def _may_have_reported(run: Execution) -> bool:
    """Return whether this run, or an earlier one, may have left progress or chunks, which end with the job."""
    if run.reported is not None or run.outbox is not None or run.lease.deliveries > 1:
        return True
    return run.job is not None and run.job.started_ms is not None
