"""The command that cancels a job, or all that are meant."""

from typing import Annotated

import typer

from redisjobs.base.visible import number_of, visible
from redisjobs.cli import show
from redisjobs.cli.errors import Failure, Mistake
from redisjobs.cli.filters import Cancellable, Name, OlderThan, Text, filters
from redisjobs.cli.output import say, telling
from redisjobs.cli.target import Json, QueueName, Url, named, where
from redisjobs.client.operations import FilterOptions
from redisjobs.model.transitions import Reply


def cancel(
    job_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="The job's id.")] = None,
    state: Annotated[Cancellable | None, typer.Option(help="All jobs of this state.")] = None,
    name: Name = None,
    text: Text = None,
    older_than: OlderThan = None,
    queue: QueueName = "default",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Cancel a job: one that waits is gone at once, one that runs has its handler cancelled. Or all of a state."""
    wanted = filters(name, text, older_than)
    if (job_id is None) == (state is None) or (wanted and state is None):
        raise Mistake("name the job to cancel, or say --state, and which of those by --name, --text, --older-than")
    if state is not None:
        _cancel_all(state, wanted, queue, url, as_json)
    elif job_id is not None:
        _cancel(job_id, queue, url, as_json)


def _cancel_all(state: Cancellable, wanted: FilterOptions, queue: str, url: str | None, as_json: bool) -> None:
    with named(queue, url) as there:
        count = there.cancel_all(state, **wanted)
    with telling(f"cancelled: {count}"):
        if as_json:
            show.document({"count": count})
        else:
            say(f"cancelled {number_of(count, f'{state} job')} on {where(there)}")


def _cancel(job_id: str, queue: str, url: str | None, as_json: bool) -> None:
    with named(queue, url) as there:
        reply = there.cancel(job_id)
    said: dict[Reply, str] = {
        Reply.CANCELLED: "cancelled",
        Reply.CANCELLING: "it runs; its handler is being cancelled, and it won't run again",
    }
    if reply is Reply.DEAD:
        raise Failure(
            f"job {job_id!r} on {where(there)} is a dead letter, and stays one; `redisjobs dead delete` removes it"
        )
    if reply not in said:
        raise Failure(f"no job {job_id!r} on {where(there)}: it ended, or never was")
    with telling(f"job {job_id!r}: {said[reply]}"):
        if as_json:
            show.document({"job_id": job_id, "result": reply.lower()})
        else:
            say(f"{visible(job_id)} on {where(there)}: {said[reply]}")
