"""The commands that list, cancel and hold jobs, by id or by state and filters."""

from typing import Annotated

import typer

from redisjobs.base.visible import number_of, visible
from redisjobs.cli import show
from redisjobs.cli.errors import Failure, Mistake
from redisjobs.cli.filters import Cancellable, Name, OlderThan, Text, Waiting, Worker, filters
from redisjobs.cli.target import Json, Limit, QueueName, Url, named, where
from redisjobs.control.filters import FilterOptions
from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.job import State
from redisjobs.model.transitions import Reply
from redisjobs.sync import JobQueue

Id = Annotated[str | None, typer.Argument(metavar="[ID]", help="The job's id.")]
WaitingState = Annotated[
    Waiting | None, typer.Option("--state", help="All jobs that are ready, delayed, or suspended.")
]

_REFUSED = {
    Reply.RUNNING: "runs, and goes on; `redisjobs cancel` cancels it",
    Reply.DEAD: "is a dead letter, and stays one; `redisjobs dead delete` removes it",
}


def list_jobs(
    state: Annotated[
        State | None, typer.Option(help="Jobs of this state. Defaults to all states, up to the limit of each.")
    ] = None,
    queue: QueueName = "default",
    url: Url = None,
    limit: Limit = 100,
    name: Name = None,
    text: Text = None,
    older_than: OlderThan = None,
    worker: Worker = None,
    as_json: Json = False,
) -> None:
    """List jobs: ready and running by priority and age, delayed or suspended by time, others newest first."""
    wanted = filters(name, text, older_than, worker=worker)
    with named(queue, url) as there:
        show.job_list(there.control.jobs(state, limit, **wanted), state, where(there), as_json)


def cancel(
    job_id: Id = None,
    state: Annotated[Cancellable | None, typer.Option(help="All jobs of this state.")] = None,
    name: Name = None,
    text: Text = None,
    older_than: OlderThan = None,
    queue: QueueName = "default",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Cancel a job: remove a waiting job, or cancel a running handler. Or cancel all jobs of a state.

    Children of a job that have not ended are cancelled with it.
    """
    wanted = _checked(job_id, state, filters(name, text, older_than))
    with named(queue, url) as there:
        if job_id is None:
            _done_to_all("cancelled", there.control.cancel_all(str(state), **wanted), state, there, as_json)
            return
        left = _children_left(there, job_id)
        reply = there.cancel(job_id)
        if reply not in (Reply.CANCELLED, Reply.CANCELLING):
            raise _refused(job_id, reply, there)
        running = "it runs; its handler is being cancelled, and it won't run again"
        said = "cancelled" if reply is Reply.CANCELLED else running
        said += f"; with it {number_of(left, 'child', 'children')} that had not ended" if left else ""
        document = {"job_id": job_id, "result": reply.lower()} | ({"children": left} if left else {})
        show.done(f"{visible(job_id)} on {where(there)}: {said}", document, as_json)


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
    """Stop a waiting job, or all jobs of a state, from starting until `unhold`. It keeps its place."""
    wanted = _checked(job_id, state, filters(name, text, older_than))
    with named(queue, url) as there:
        if job_id is None:
            _done_to_all("held", there.control.hold_all(str(state), **wanted), state, there, as_json)
            return
        reply = there.control.hold(job_id)
        if reply is not Reply.HELD:
            raise _refused(job_id, reply, there)
        show.done(f"held: {visible(job_id)} on {where(there)}", {"job_id": job_id, "held": True}, as_json)


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
    """Let a held job, or all held jobs of a state, start again."""
    wanted = _checked(job_id, state, filters(name, text, older_than))
    with named(queue, url) as there:
        if job_id is None:
            _done_to_all("unheld", there.control.unhold_all(str(state), **wanted), state, there, as_json)
            return
        if not there.control.unhold(job_id):
            raise Failure(f"job {job_id!r} on {where(there)} is not held")
        show.done(f"unheld: {visible(job_id)} on {where(there)}", {"job_id": job_id, "held": False}, as_json)


def _children_left(there: JobQueue, job_id: str) -> int:
    """Return how many children of a job have not ended; 0 if this user may not read that."""
    try:
        return sum(group.left for group in there.control.children(job_id, limit=0))
    except Unavailable:
        raise
    except DriverError:
        return 0


def _checked(job_id: str | None, state: str | None, wanted: FilterOptions) -> FilterOptions:
    if (job_id is None) == (state is None) or (wanted and state is None):
        raise Mistake("name one job, or say --state, and which of those by --name, --text, --older-than")
    return wanted


def _refused(job_id: str, reply: Reply, there: JobQueue) -> Failure:
    if reply in _REFUSED:
        return Failure(f"job {job_id!r} on {where(there)} {_REFUSED[reply]}")
    return Failure(f"no job {job_id!r} on {where(there)}: it ended, or never was")


def _done_to_all(what: str, count: int, state: str | None, there: JobQueue, as_json: bool) -> None:
    show.done(f"{what} {number_of(count, f'{state} job')} on {where(there)}", {"count": count}, as_json)
