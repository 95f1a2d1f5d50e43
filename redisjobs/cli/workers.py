"""The commands that list workers, and ask them to be quiet or to stop."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from redisjobs.base.visible import number_of, visible
from redisjobs.cli import show
from redisjobs.cli.errors import Failure
from redisjobs.cli.output import say, telling
from redisjobs.cli.target import Json, QueueName, Url, named, where
from redisjobs.model.info import WorkerInfo
from redisjobs.model.transitions import Reply
from redisjobs.sync import JobQueue

app = typer.Typer()

Ids = Annotated[
    list[str], typer.Argument(metavar="ID...", help="The ids of workers, as `redisjobs workers` shows.")
]

_COLUMNS = ("worker", "state", "since", "running", "slots", "version", "job names")
_TO = {"quiet": "claim no more jobs", "resume": "claim jobs again", "stop": "stop"}


@app.callback(invoke_without_command=True)
def list_workers(
    context: typer.Context, queue: QueueName = "default", url: Url = None, as_json: Json = False
) -> None:
    """List the workers of a queue: which jobs each runs, how many at once, and since when. Or stop one.

    Each is shown as it was at its last heartbeat. A worker sends one three times per lease.
    """
    if context.invoked_subcommand is not None:  # `workers --queue emails stop ID` is about that queue, too
        typed = {"queue": queue, "url": url, "as_json": as_json}
        context.default_map = dict.fromkeys(("quiet", "resume", "stop"), typed)
        return
    with named(queue, url) as there:
        found = there.control.workers()
    if as_json:
        show.document([worker_document(worker) for worker in found])
    else:
        worker_table(found, where(there))


@app.command()
def quiet(ids: Ids, queue: QueueName = "default", url: Url = None, as_json: Json = False) -> None:
    """Ask workers to claim no more jobs of this queue until `resume`. Running jobs go on."""
    with named(queue, url) as there:
        _ask(there.control.quiet_worker, ids, "quiet", there, as_json)


@app.command()
def resume(ids: Ids, queue: QueueName = "default", url: Url = None, as_json: Json = False) -> None:
    """Ask quiet workers to claim jobs again."""
    with named(queue, url) as there:
        _ask(there.control.resume_worker, ids, "resume", there, as_json)


@app.command()
def stop(ids: Ids, queue: QueueName = "default", url: Url = None, as_json: Json = False) -> None:
    """Ask workers to stop as on SIGTERM: running jobs may finish within the grace, then the process ends.

    It can't be taken back. With --processes no other process takes its place. A service manager may start another.
    """
    with named(queue, url) as there:
        _ask(there.control.stop_worker, ids, "stop", there, as_json)


def _ask(ask: Callable[[str], Reply], ids: Sequence[str], what: str, there: JobQueue, as_json: bool) -> None:
    """Ask each worker, print which were asked, and fail if some could not be."""
    replies = {worker_id: ask(worker_id) for worker_id in ids}
    asked, stopping, missing = (
        [worker_id for worker_id, reply in replies.items() if reply is wanted]
        for wanted in (Reply.OK, Reply.STOPPING, Reply.NOT_FOUND)
    )
    with telling(f"asked to {what}: {_listed(asked) or 'none'}"):
        if as_json:
            show.document({"wish": what, "asked": asked, "stopping": stopping, "not_found": missing})
        else:
            for worker_id in asked:
                say(f"asked {visible(worker_id)} on {where(there)} to {_TO[what]}")
    faults = [f"stops already, and that can't be taken back: {_listed(stopping)}"] if stopping else []
    faults += [f"no worker on {where(there)}: {_listed(missing)}"] if missing else []
    if faults:
        raise Failure("; ".join(faults))


def _listed(ids: Sequence[str]) -> str:
    return ", ".join(map(visible, ids))


def worker_table(workers: Sequence[WorkerInfo], where: str, most: int | None = None) -> bool:
    """Print workers, one per line, up to `most`; return what `say` returns."""
    if not workers:
        return say(f"no workers on {where}")
    read = show.table(_COLUMNS, map(_row, workers[:most]), f"{number_of(len(workers), 'worker')} on {where}")
    if most is not None and len(workers) > most:
        return say(f"and {len(workers) - most} more: `redisjobs workers` lists all")
    return read


def worker_document(worker: WorkerInfo) -> dict[str, Any]:
    """Return a worker as a value for JSON."""
    return dataclasses.asdict(worker) | {"state": _state(worker)}


def _row(worker: WorkerInfo) -> list[Any]:
    names = (*worker.names, "…") if worker.has_more_names else worker.names or "none"
    facts = [worker.worker_id, _state(worker), worker.started_at, worker.running, worker.slots, worker.version]
    return [*facts, names]


def _state(worker: WorkerInfo) -> str:
    if worker.lease <= 0:
        return "lost"
    return "stopping" if worker.stopping else "quiet" if worker.quiet else "alive"
