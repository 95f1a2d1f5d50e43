"""The command that shows how many jobs are in which state."""

import sys
import time
from contextlib import suppress
from typing import Annotated

import typer

from redisjobs import sync
from redisjobs.cli import show
from redisjobs.cli.errors import Mistake
from redisjobs.cli.target import Json, QueueName, Url, named
from redisjobs.errors import RedisJobsError
from redisjobs.server import DEFAULT_URL


def stats(
    seconds: Annotated[
        float | None,
        typer.Argument(min=0.1, metavar="[SECONDS]", help="With --watch: how long between; 2 if not given."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show them anew, until Ctrl-C.")] = False,
    queue: QueueName = "default",
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Show how many jobs are in which state, and the queue's counters."""
    if seconds is not None and not watch:
        raise Mistake(f"stats {seconds:g} says how long between, which is for --watch")
    with named(queue, url) as there:
        if watch:
            _watch(there, seconds or 2, as_json)
        elif as_json:
            show.document(show.counts_document(queue, there.counts(), there.pauses()))
        else:
            show.counts_table(queue, there.counts(), there.pauses())


def _watch(queue: sync.JobQueue, seconds: float, as_json: bool) -> None:
    """Show the counts again and again, as a table or as a line of JSON, until Ctrl-C or until nobody reads it."""
    clear = "\x1b[H\x1b[2J" if sys.stdout is not None and sys.stdout.isatty() else ""
    with suppress(KeyboardInterrupt):
        read = True
        while read:
            try:
                counts, pauses = queue.counts(), queue.pauses()
            except RedisJobsError as error:
                print(f"redisjobs: {error}", file=sys.stderr)
            else:
                if as_json:
                    read = show.line(show.counts_document(queue.name, counts, pauses))
                else:
                    read = show.counts_table(queue.name, counts, pauses, clear)
            time.sleep(seconds)
