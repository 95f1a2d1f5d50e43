"""What somebody gets who waits for a job: its result, or why there is none."""

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
from redisjobs.model import codec
from redisjobs.model.job import Expected, ReturnType
from redisjobs.model.queries import Ending, JobStatus
from redisjobs.model.transitions import NewJob

KEPT = 3600
"""Seconds for which the result of a job is kept that `run` pushes, where nothing else is said."""


def kept_for_a_while(job: NewJob) -> NewJob:
    """A job whose result is kept, for `KEPT` where nothing else was said.

    Raises:
        ValueError: It was said that nothing is kept.
    """
    said = dict(zip(job.fields[::2], job.fields[1::2], strict=True))
    if said.get("keep_result") == "0":
        raise ValueError(
            "keep_result=0: nothing would be kept that could be waited for; leave it out, or use push"
        )
    if "keep_result" in said:
        return job
    return replace(job, fields=[*job.fields, "keep_result", str(KEPT * 1000)])


def has_ended(standing: JobStatus) -> bool:
    """Whether there is nothing more to wait for."""
    return standing.ending not in (Ending.PENDING, Ending.LATER)


def result_of(job_id: str, standing: JobStatus, expected: Expected, *, was_there: bool) -> Any:
    """What the handler of a job returned that has ended.

    Args:
        job_id: Which job.
        standing: How it has ended.
        expected: What is known of that here.
        was_there: Whether it had not ended when it was asked for first.

    Raises:
        NoResult: There is none; one class for each reason.
        DecodeError: It does not fit the type that is declared here.
    """
    if standing.ending is not Ending.COMPLETED:
        raise _no_result(job_id, standing, was_there=was_there)
    said = f"the result of job {visible(job_id)}"
    if expected.returns is None:
        return codec.decode_untyped(said, standing.value)
    if expected.is_certain:
        return codec.decode_parameters(expected.returns, standing.value)
    return _whichever(said, expected.returns, standing.value)


def _whichever(said: str, returns: ReturnType[Any], raw: bytes) -> Any:
    """A result of this type, if its JSON is what such a one is written as; else what that says."""
    untyped = codec.decode_untyped(said, raw)
    try:
        value = codec.decode_parameters(returns, raw)
        written = codec.encode_parameters(returns, value, 2 * len(raw))
    except (DecodeError, EncodeError):
        return untyped
    return value if codec.decode_untyped(said, written) == untyped else untyped


def not_kept_yet(job_id: str, standing: JobStatus) -> ResultNotKept | None:
    """The error for whoever waits for a job of which it is known that nothing will be kept; None for any other."""
    if standing.ending is not Ending.PENDING or standing.keep != 0:
        return None
    return ResultNotKept(
        job_id,
        f"job {visible(job_id)} was pushed with keep_result=0, so no result of it will be kept; it goes on",
    )


def not_ended(job_id: str, standing: JobStatus | None, expected: Expected, timeout: float) -> str:
    """What to tell who has waited long enough.

    Args:
        job_id: For which job.
        standing: How it stands; None: that could not be asked.
        expected: What is known of its result here.
        timeout: Seconds for which it was waited for.
    """
    said = f"job {visible(job_id)} has not ended in {timeout:g} s; it goes on"
    if standing is None or standing.keep is not None or not expected.unkept_by:
        return said
    return (
        f"{said}. As far as is known here no result of it will be kept: neither its push nor the handler of "
        f"'{expected.unkept_by}' says keep_result="
    )


def _no_result(job_id: str, standing: JobStatus, *, was_there: bool) -> NoResult:
    job = f"job {visible(job_id)}"
    match standing.ending:
        case Ending.DEAD:
            return JobFailed(job_id, standing.error_type, standing.error, standing.traceback, standing.reason)
        case Ending.CANCELLED:
            return JobCancelled(job_id, f"{job} was cancelled")
        case Ending.REFUSED:
            return ResultRefused(job_id, f"{job} is done, but its result could not be kept: {standing.error}")
        case Ending.EXPIRED:
            return ResultExpired(job_id, f"{job} is done, and its result was kept until a while ago; push it anew")
    if was_there or standing.ending is Ending.NOT_KEPT:
        why = f"{job} has ended, and no result of it was kept; give keep_result= where it is pushed or registered"
    else:
        why = (
            f"no {job} is on the queue, and nothing is known of one that has ended: there never was one, or no "
            "result of it was kept, or it ended long ago"
        )
    return ResultNotKept(job_id, why)
