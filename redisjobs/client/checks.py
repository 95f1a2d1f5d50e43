"""Checks of the arguments of pushes and of calls on one job, with hints about what to write instead."""

import inspect
from collections.abc import Iterable, Mapping

from redisjobs.base.visible import visible
from redisjobs.client.functions import FunctionJob
from redisjobs.client.push import name_in
from redisjobs.model.job import PushedJob
from redisjobs.model.transitions import NewJob


def why_no_parameters(given: object) -> str:
    """Return why a value can't be pushed as parameters, and what to write instead; '' if it can."""
    if isinstance(given, type):
        return f"{given.__name__} is a class: push an instance of it, as push({given.__name__}(...))"
    if isinstance(given, NewJob):
        return "a job that was prepared is pushed by push_many([job])"
    if isinstance(given, PushedJob):
        return (
            f"the job {visible(given.id, 60)} was pushed already: push parameters, or what prepare makes of them, "
            "by push_many([job])"
        )
    if isinstance(given, FunctionJob):
        return f"{given.__name__} is a job itself: push its arguments, as {given.__name__}.push(...)"
    return ""


def refuse_function(given: object) -> None:
    """Raise a TypeError for a job function or a handler that was given as the parameters."""
    if why := why_no_parameters(given):
        raise TypeError(why)
    if inspect.isroutine(given):
        name = getattr(given, "__name__", "it")
        raise TypeError(
            f"{name} is a function: push the parameters that it takes; the job's name comes after them"
        )


def check_items(items: object) -> None:
    """Raise a TypeError for one job where many are wanted; without it, a dict would push its keys."""
    one = isinstance(items, Mapping | str | bytes | NewJob | PushedJob | FunctionJob) or hasattr(items, "job_name")
    if one or hasattr(type(items), "__pydantic_fields__") or not isinstance(items, Iterable):
        shown = items.__name__ if isinstance(items, type) else f"a {type(items).__name__}"
        raise TypeError(f"push_many takes jobs in a list or another iterable, not {shown}: give push_many([job])")


def prepared_by(queue_name: str, job: NewJob, *given: object) -> NewJob:
    """Return a job that `prepare` made.

    Raises:
        ValueError: Another queue made it.
        TypeError: A name or push options were given with it.
    """
    if any(given):
        raise TypeError("a job that was prepared has its name and its push options: give these to prepare")
    if job.queue and job.queue != queue_name:
        raise ValueError(
            f"the job '{visible(name_in(job))}' was prepared by queue '{job.queue}', and this is queue "
            f"'{queue_name}': push it there, by its own push or that queue's push_many([job])"
        )
    return job


def id_of(job: str | PushedJob) -> str:
    """Return a job's id, given the id or the job's handle; raise a TypeError for anything else."""
    if isinstance(job, str | PushedJob):
        return str(job)
    shown = f"{job!r:.100}"
    hint = ", as its job_id" if hasattr(job, "job_id") else ""
    raise TypeError(f"{shown} is no job: give its id{hint}, or the handle that push returned")
