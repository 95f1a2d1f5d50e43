"""The commands that pause and resume a queue or a job name."""

import sys
from typing import Annotated

import typer

from redisjobs.base.visible import visible
from redisjobs.cli import show
from redisjobs.cli.errors import mistake
from redisjobs.cli.target import Json, QueueName, Url, named, where
from redisjobs.model.job import CANCELLABLE, checked_name
from redisjobs.sync import JobQueue

Name = Annotated[str | None, typer.Option("--name", help="Only jobs of this name.")]

_MOST_JOBS = 5_000  # with more jobs, a name is not searched among them


def pause(name: Name = None, queue: QueueName = "default", url: Url = None, as_json: Json = False) -> None:
    """Stop the jobs of a queue, or of one name, from starting until `resume`. Running jobs go on."""
    _check(name)
    with named(queue, url) as there:
        there.control.pause(name)
        _say(name, there, as_json, is_paused=True)


def resume(name: Name = None, queue: QueueName = "default", url: Url = None, as_json: Json = False) -> None:
    """Let the jobs of a queue, or of one paused name, start again."""
    _check(name)
    with named(queue, url) as there:
        there.control.resume(name)
        _say(name, there, as_json, is_paused=False)


def _check(name: str | None) -> None:
    try:
        if name is not None:
            checked_name(name)
    except ValueError as error:
        raise mistake(error, ["name"]) from error


def _say(name: str | None, there: JobQueue, as_json: bool, *, is_paused: bool) -> None:
    what = where(there) if name is None else f"'{visible(name)}' on {where(there)}"
    document = {"queue": there.name, "name": name, "paused": is_paused}
    show.done(f"{what} is {'paused' if is_paused else 'not paused'}", document, as_json)
    if not _is_known(there, name):
        missing = "it has had no job, and has no worker"
        if name is not None:
            missing = "no worker has a handler for it, and no job has it"
        print(f"redisjobs: nothing is known of {what}: {missing}; see that it is spelled right", file=sys.stderr)


def _is_known(there: JobQueue, name: str | None) -> bool:
    """Return whether the queue has had jobs or workers, or whether the name may have a handler or a job."""
    workers, counts = there.control.workers(), there.control.counts()
    if name is None:
        return any((workers, *counts.ready.values(), counts.running, *counts.totals.values()))
    if any(name in worker.names or worker.has_more_names for worker in workers):
        return True
    live = {state: counts.of(state) for state in CANCELLABLE}
    is_quick = sum(live.values()) <= _MOST_JOBS
    return not is_quick or any(there.control.jobs(state, 1, name=name) for state, number in live.items() if number)
