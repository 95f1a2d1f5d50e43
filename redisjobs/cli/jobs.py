"""The command that lists jobs."""

from itertools import islice
from typing import Annotated

import typer

from redisjobs.cli import show
from redisjobs.cli.errors import Mistake
from redisjobs.cli.filters import Name, OlderThan, Text, filters
from redisjobs.cli.target import Json, Limit, QueueName, Url, named
from redisjobs.job import State
from redisjobs.server import DEFAULT_URL


def list_jobs(
    state: Annotated[State, typer.Option(help="Which ones.")],
    queue: QueueName = "default",
    url: Url = DEFAULT_URL,
    limit: Limit = 100,
    name: Name = None,
    text: Text = None,
    older_than: OlderThan = None,
    as_json: Json = False,
) -> None:
    """List jobs: ready and running by priority and age, delayed by due time, others newest first."""
    wanted = filters(name, text, older_than)
    if wanted and state is State.RUNNING:
        raise Mistake("--name, --text and --older-than are for jobs that do not run")
    with named(queue, url) as there:
        jobs = list(islice(there.scan(state, **wanted), limit)) if wanted else there.jobs(state, limit)
    if as_json:
        show.document([show.job_document(job) for job in jobs])
    else:
        show.job_list(jobs, state, queue)
