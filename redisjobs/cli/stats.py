"""The `stats` command, which shows how many jobs are in each state."""

import sys
import time
from contextlib import suppress
from typing import Annotated

import typer

from redisjobs import sync
from redisjobs.cli import show
from redisjobs.cli.errors import Failure, Mistake
from redisjobs.cli.output import Unwritable
from redisjobs.cli.target import Json, QueueName, Url, named, naming, where
from redisjobs.cli.workers import worker_document, worker_table

_WORKERS = 20  # the most workers to show; `redisjobs workers` shows all


def stats(
    seconds: Annotated[
        float | None,
        typer.Argument(min=0.1, metavar="[SECONDS]", help="With --watch: seconds between two looks; default 2."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show them again and again, until Ctrl-C.")] = False,
    queue: QueueName = "default",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show how many jobs are in each state, the queue's counters, and its workers."""
    if seconds is not None and not watch:
        raise Mistake(f"stats {seconds:g}: the seconds between two looks need --watch")
    with named(queue, url) as there:
        if watch:
            _watch(there, seconds or 2, as_json)
        else:
            _show(there, as_json)


def _show(queue: sync.JobQueue, as_json: bool, before: str = "", *, line: bool = False) -> bool:
    """Show the counts as a table, after the text `before`, or as JSON; return what `say` returns."""
    counts, pauses, workers = queue.counts(), queue.pauses(), queue.workers()
    if not as_json:
        read = show.counts_table(where(queue), counts, pauses, before)
        return read and worker_table(workers, where(queue), most=_WORKERS)
    document = show.counts_document(queue, counts, pauses) | {"workers": [*map(worker_document, workers)]}
    return (show.line if line else show.document)(document)


def _watch(queue: sync.JobQueue, seconds: float, as_json: bool) -> None:
    """Show the counts repeatedly, as a table or as a line of JSON, until Ctrl-C or until stdout is closed."""
    clear = "\x1b[H\x1b[2J" if sys.stdout is not None and sys.stdout.isatty() else ""
    with suppress(KeyboardInterrupt):
        read = True
        while read:
            try:
                with naming(queue):
                    read = _show(queue, as_json, clear, line=True)
            except Unwritable:
                raise  # not an error of the server: the next output would fail, too
            except Failure as error:
                print(f"redisjobs: {error}", file=sys.stderr)
            time.sleep(seconds)
