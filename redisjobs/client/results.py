"""Turns the status of an ended job into its result, or into the error that says why it has none."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from redisjobs.base.visible import visible
from redisjobs.errors import (
    DecodeError,
    EncodeError,
    JobCancelled,
    JobFailed,
    NoResult,
    ResultExpired,
    ResultNotKept,
    ResultRefused,
)
from redisjobs.model import payload
from redisjobs.model.changes import Ending, JobStatus
from redisjobs.model.job import Expected, JobDefinition, PushedJob, ReturnType
from redisjobs.model.transitions import NewJob

KEPT = 3600
"""Seconds for which `run` keeps a job's result, if neither the push nor the handler has `keep_result=`."""


def kept_for_a_while(job: NewJob) -> NewJob:
    """Return the job with `keep_result`, by default `KEPT`; raise a ValueError for `keep_result=0`."""
    said = dict(zip(job.fields[::2], job.fields[1::2], strict=True))
    if said.get("keep_result") == "0":
        raise ValueError(
            "keep_result=0: nothing would be kept that could be waited for; leave it out, or use push"
        )
    if "keep_result" in said:
        return job
    return replace(job, fields=[*job.fields, "keep_result", str(KEPT * 1000)])


def expected(definitions: Mapping[str, JobDefinition[Any]], job: str | PushedJob, returns: Any) -> Expected:
    """Return what this process knows of a job's result; with a job's id alone, it knows no handler.

    The caller's type, `returns`, takes precedence over the handler's.

    Raises:
        RegistrationError: Pydantic has no schema for the type.
    """
    name, is_other = (job.name, job.is_other) if isinstance(job, PushedJob) else ("", False)
    known = definitions.get(name)
    unkept_by = name if known is not None and not known.keep_ms and not is_other else ""
    if returns is not None:
        kind = ReturnType(name or "result", returns)
        _ = kind.adapter
        return Expected(kind, unkept_by=unkept_by)
    return Expected(known.returns if known is not None else None, not is_other, unkept_by)


def has_ended(status: JobStatus) -> bool:
    """Return whether the job has ended."""
    return status.ending not in (Ending.PENDING, Ending.LATER)


def result_of(job_id: str, status: JobStatus, expected: Expected, *, was_there: bool) -> Any:
    """Return the result of a job that has ended; `was_there`: it had not ended when the wait began.

    Raises:
        NoResult: There is no result; each reason has its own class.
        DecodeError: The result does not fit the type declared here.
    """
    if status.ending is not Ending.COMPLETED:
        raise _no_result(job_id, status, was_there=was_there)
    what = f"the result of job {visible(job_id)}"
    if expected.returns is None:
        return payload.decode_untyped(what, status.value)
    if expected.is_certain:
        return payload.decode_parameters(expected.returns, status.value)
    return _typed_if_it_fits(what, expected.returns, status.value)


def _typed_if_it_fits(what: str, returns: ReturnType[Any], raw: bytes) -> Any:
    """Return a result as this type, if its JSON is then the same; else as plain JSON."""
    untyped = payload.decode_untyped(what, raw)
    try:
        value = payload.decode_parameters(returns, raw)
        written = payload.encode_parameters(returns, value, 2 * len(raw))
    except (DecodeError, EncodeError):
        return untyped
    return value if payload.decode_untyped(what, written) == untyped else untyped


def not_kept_yet(job_id: str, status: JobStatus) -> ResultNotKept | None:
    """Return the error for waiting on a job whose result will not be kept; None for any other job."""
    if status.ending is not Ending.PENDING or status.keep != 0:
        return None
    return ResultNotKept(
        job_id,
        f"job {visible(job_id)} was pushed with keep_result=0, so no result of it will be kept; it goes on",
    )


def not_ended(job_id: str, status: JobStatus | None, expected: Expected, timeout: float) -> str:
    """Return the message of a wait that timed out; a status of None means that Redis did not answer."""
    said = f"job {visible(job_id)} has not ended in {timeout:g} s; it goes on"
    if status is None or status.keep is not None or not expected.unkept_by:
        return said
    return (
        f"{said}. As far as is known here no result of it will be kept: neither its push nor the handler of "
        f"'{expected.unkept_by}' says keep_result="
    )


def _no_result(job_id: str, status: JobStatus, *, was_there: bool) -> NoResult:
    job = f"job {visible(job_id)}"
    match status.ending:
        case Ending.DEAD:
            return JobFailed(job_id, status.error_type, status.error, status.traceback, status.reason)
        case Ending.CANCELLED:
            return JobCancelled(job_id, f"{job} was cancelled")
        case Ending.REFUSED:
            return ResultRefused(job_id, f"{job} is done, but its result could not be kept: {status.error}")
        case Ending.EXPIRED:
            return ResultExpired(job_id, f"{job} is done, and its result is no longer kept; push it again")
    if was_there or status.ending is Ending.NOT_KEPT:
        why = f"{job} has ended, and no result of it was kept; give keep_result= where it is pushed or registered"
    else:
        why = (
            f"no {job} is on the queue, and nothing is known of one that has ended: there never was one, or no "
            "result of it was kept, or it ended long ago"
        )
    return ResultNotKept(job_id, why)
