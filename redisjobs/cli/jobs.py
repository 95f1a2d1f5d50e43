"""The command that lists jobs."""

from typing import Annotated

import typer

from redisjobs.cli import show
from redisjobs.cli.filters import Name, OlderThan, Text, filters
from redisjobs.cli.target import Json, Limit, QueueName, Url, named, where
from redisjobs.model.job import State


def list_jobs(
    state: Annotated[
        State | None, typer.Option(help="Which ones. Defaults to all, up to the limit of each.")
    ] = None,
    queue: QueueName = "default",
    url: Url = None,
    limit: Limit = 100,
    name: Name = None,
    text: Text = None,
    older_than: OlderThan = None,
    as_json: Json = False,
) -> None:
    """List jobs: ready and running by priority and age, delayed by due time, others newest first."""
    wanted = filters(name, text, older_than)
    with named(queue, url) as there:
        jobs = there.jobs(state, limit, **wanted)
    if as_json:
        show.document([show.job_document(job) for job in jobs])
    else:
        show.job_list(jobs, state, where(there))
