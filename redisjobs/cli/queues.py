"""The `queues` command, which lists the queues in your code, or the queues that you name.

It can't ask the server for its queues. That would need a SCAN of all keys, or a key that all queues write, which
ACLs of single queues forbid.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from redisjobs import sync
from redisjobs.cli import show
from redisjobs.cli.errors import Mistake
from redisjobs.cli.target import Json, Url, naming, queue_of, queues_in

_COLUMNS = ("queue", "server", "ready", "running", "delayed", "suspended", "dead", "workers", "paused")


def list_queues(
    modules: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODULE|MODULE:QUEUE...]", help="All queues of a module, or one of them."),
    ] = None,
    names: Annotated[
        list[str] | None, typer.Option("--queue", "-q", metavar="NAME", help="A queue by its name; repeatable.")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List queues: how many jobs and workers each has.

    A server does not know its queues, so name the modules that define them, or the queues themselves.
    """
    if not modules and not names:
        raise Mistake("name a module that has queues, as app or app:queue, or queues by --queue")
    left_out = list[str]()
    documents = [_document(queue) for queue in _opened(modules or (), names or (), url, left_out)]
    rows = ([document[column] for column in _COLUMNS] for document in documents)
    show.listing(documents, as_json, _COLUMNS, rows, f"queues: {len(documents)}", "no queues")
    if left_out:
        print(
            f"redisjobs: not shown, as they are at memory://, inside one process: {', '.join(left_out)}",
            file=sys.stderr,
        )


def _opened(
    modules: Sequence[str], names: Sequence[str], url: str | None, left_out: list[str]
) -> Iterator[sync.JobQueue]:
    """Yield each queue once, and close it afterwards; a queue of a module only if it is on a server."""
    seen = set[Any]()
    found = list[str]()
    for module in modules:
        paths, inside = ([module], []) if ":" in module else queues_in(module)
        found += paths
        left_out += inside
    for queue in (queue_of(name, url) for name in (*found, *names)):
        if queue.driver.place not in seen:
            seen.add(queue.driver.place)
            with queue, naming(queue):
                yield queue


def _document(queue: sync.JobQueue) -> dict[str, Any]:
    counts, pauses = queue.control.counts(), queue.control.pauses()
    return {
        "queue": queue.name,
        "server": queue.driver.where,
        "ready": sum(counts.ready.values()),
        "running": counts.running,
        "delayed": counts.delayed,
        "suspended": counts.suspended,
        "dead": counts.dead,
        "workers": sum(worker.lease > 0 for worker in queue.control.workers()),
        "paused": pauses.since,
    }
