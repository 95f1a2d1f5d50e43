"""The commands that hold waiting jobs, and let them go."""

from typing import Annotated

import typer

from redisjobs.base.visible import number_of, visible
from redisjobs.cli import show
from redisjobs.cli.errors import Failure, Mistake
from redisjobs.cli.filters import Name, OlderThan, Text, Waiting, filters
from redisjobs.cli.output import say, telling
from redisjobs.cli.target import Json, QueueName, Url, named, where
from redisjobs.client.operations import FilterOptions
from redisjobs.model.transitions import Reply
from redisjobs.sync import JobQueue

Id = Annotated[str | None, typer.Argument(metavar="[ID]", help="The job's id.")]
WaitingState = Annotated[Waiting | None, typer.Option("--state", help="All jobs that are ready, or delayed.")]


def hold(
    job_id: Id = None,
    state: WaitingState = None,
    name: Name = None,
    text: Text = None,
    older_than: OlderThan = None,
    queue: QueueName = "default",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Let a waiting job not start, until `unhold`: it keeps its due time and its place. Or all of a state."""
    wanted = _checked(job_id, state, filters(name, text, older_than))
    with named(queue, url) as there:
        if state is not None:
            _say_many("held", there.hold_all(state, **wanted), state, there, as_json)
        elif job_id is not None:
            _say_held(job_id, there.hold(job_id), there, as_json)


def unhold(
    job_id: Id = None,
    state: WaitingState = None,
    name: Name = None,
    text: Text = None,
    older_than: OlderThan = None,
    queue: QueueName = "default",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Let go of a job that is held: it starts when it is due. Or of all of a state."""
    wanted = _checked(job_id, state, filters(name, text, older_than))
    with named(queue, url) as there:
        if state is not None:
            _say_many("let go of", there.unhold_all(state, **wanted), state, there, as_json)
        elif job_id is not None:
            if not there.unhold(job_id):
                raise Failure(f"job {job_id!r} on {where(there)} is not held")
            _say_one(job_id, "let go", there, as_json)


def _checked(job_id: str | None, state: Waiting | None, wanted: FilterOptions) -> FilterOptions:
    if (job_id is None) == (state is None) or (wanted and state is None):
        raise Mistake("name one job, or say --state, and which of those by --name, --text, --older-than")
    return wanted


def _say_held(job_id: str, reply: Reply, there: JobQueue, as_json: bool) -> None:
    match reply:
        case Reply.HELD:
            _say_one(job_id, "held", there, as_json)
        case Reply.RUNNING:
            raise Failure(f"job {job_id!r} on {where(there)} runs, and goes on; `redisjobs cancel` cancels it")
        case Reply.DEAD:
            raise Failure(f"job {job_id!r} on {where(there)} is a dead letter: it does not start by itself")
        case _:
            raise Failure(f"no job {job_id!r} on {where(there)}: it ended, or never was")


def _say_one(job_id: str, what: str, there: JobQueue, as_json: bool) -> None:
    with telling(f"job {job_id!r}: {what}"):
        if as_json:
            show.document({"job_id": job_id, "held": what == "held"})
        else:
            say(f"{what}: {visible(job_id)} on {where(there)}")


def _say_many(what: str, count: int, state: Waiting, there: JobQueue, as_json: bool) -> None:
    with telling(f"{what}: {count}"):
        if as_json:
            show.document({"count": count})
        else:
            say(f"{what} {number_of(count, f'{state} job')} on {where(there)}")
