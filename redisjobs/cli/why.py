"""The `why` command, which says why a job does not run."""

import dataclasses
from typing import Annotated

import typer

from redisjobs.base.visible import visible
from redisjobs.cli import show
from redisjobs.cli.errors import Mistake
from redisjobs.cli.output import say
from redisjobs.cli.target import Json, QueueName, Url, named
from redisjobs.model.why import Cause


def why(
    job_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="The job's id.")] = None,
    unique: Annotated[
        str | None,
        typer.Option("--unique", metavar="KEY", help="Instead of an id: the job that holds this unique key."),
    ] = None,
    queue: QueueName = "default",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Say why a job does not run, or what became of it, and what to do.

    If the job is not on the queue, and how it ended is not known, the exit code is 1.
    """
    if (job_id is None) == (unique is None):
        raise Mistake("give the ID of a job, or --unique KEY")
    with named(queue, url) as there:
        found = there.control.why(job_id, unique=unique)
    if as_json:
        job = show.job_document(found.job) if found.job else None
        show.document({**dataclasses.asdict(found), "job": job})
    else:
        say(visible(found.sentence))
        if found.advice:
            say(visible(found.advice))
        say("")
        show.labelled(found.facts)
    if found.cause is Cause.GONE:
        raise typer.Exit(1)
