"""The `workers` command, which lists the workers of a queue."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from redisjobs.base.visible import number_of
from redisjobs.cli import show
from redisjobs.cli.output import say
from redisjobs.cli.target import Json, QueueName, Url, named, where
from redisjobs.model.info import WorkerInfo

_COLUMNS = ("worker", "state", "since", "running", "slots", "version", "job names")


def list_workers(queue: QueueName = "default", url: Url = None, as_json: Json = False) -> None:
    """List the workers of a queue: which jobs each runs, how many at once, and since when.

    Each is shown as it was at its last heartbeat. A worker sends one three times per lease.
    """
    with named(queue, url) as there:
        found = there.workers()
    if as_json:
        show.document([worker_document(worker) for worker in found])
    else:
        worker_table(found, where(there))


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
    return "alive" if worker.lease > 0 else "lost"
