"""The `stats` command, which shows how many jobs are in each state."""

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated

import typer

from redisjobs import sync
from redisjobs.cli import show
from redisjobs.cli.errors import Failure, Mistake
from redisjobs.cli.output import ClosedOutput, say
from redisjobs.cli.target import Json, QueueName, Url, named, naming, where
from redisjobs.cli.workers import worker_document, worker_table
from redisjobs.model.queries import Counts
from redisjobs.model.statistics import total

_SHOWN = ("completed", "retried", "dead")
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
    """Show how many jobs are in each state, the queue's counters, its throughput, and its workers."""
    if seconds is not None and not watch:
        raise Mistake(f"stats {seconds:g}: the seconds between two looks need --watch")
    with named(queue, url) as there:
        if watch:
            _watch(there, seconds or 2, as_json)
        else:
            _show(there, as_json, _Speed())


class _Speed:
    """How fast a queue works: over the last one or two minutes; from the second look on, since the last look."""

    def __init__(self) -> None:
        self._totals: Mapping[str, int] | None = None
        self._looked_at = 0.0

    def look(self, queue: sync.JobQueue, counts: Counts) -> dict[str, float | None]:
        """Return the jobs per second by outcome, and how many seconds 95 % of the last minutes' jobs waited."""
        lately, now = total(queue.control.statistics(last=120)), time.monotonic()
        since, done = lately.seconds, {name: getattr(lately, name) for name in _SHOWN}
        if self._totals is not None:
            since = max(0.001, now - self._looked_at)
            done = {name: max(0, counts.totals[name] - self._totals[name]) for name in _SHOWN}
        self._totals, self._looked_at = counts.totals, now
        rates = {name: round(many / since, 1) for name, many in done.items()}
        waited = None if lately.wait is None else round(lately.wait.p95, 3)
        return {**rates, "wait_p95": waited, "seconds": round(since, 1)}


def _show(queue: sync.JobQueue, as_json: bool, speed: _Speed, before: str = "", *, line: bool = False) -> bool:
    """Show the counts as a table, after the text `before`, or as JSON; return what `say` returns."""
    counts, pauses, workers = queue.control.counts(), queue.control.pauses(), queue.control.workers()
    throughput = speed.look(queue, counts)
    if not as_json:
        read = show.counts_table(where(queue), counts, pauses, before)
        read = read and say(_speed_line(throughput))
        return read and worker_table(workers, where(queue), most=_WORKERS)
    document = show.counts_document(queue, counts, pauses) | {"throughput": throughput}
    return (show.line if line else show.document)(document | {"workers": [*map(worker_document, workers)]})


def _speed_line(throughput: Mapping[str, float | None]) -> str:
    rates = ", ".join(f"{throughput[name]} {name}" for name in _SHOWN)
    wait = throughput["wait_p95"]
    waits = "" if wait is None else f"; 95 % of jobs waited up to {wait:g} s"
    return f"\njobs a second, in the last {throughput['seconds']:.0f} s: {rates}{waits}\n"


def _watch(queue: sync.JobQueue, seconds: float, as_json: bool) -> None:
    """Show the counts repeatedly, as a table or as a line of JSON, until Ctrl-C or until stdout is closed."""
    clear = "\x1b[H\x1b[2J" if sys.stdout is not None and sys.stdout.isatty() else ""
    speed = _Speed()
    with suppress(KeyboardInterrupt):
        read = True
        while read:
            try:
                with naming(queue):
                    read = _show(queue, as_json, speed, clear, line=True)
            except ClosedOutput:
                raise  # not an error of the server: the next output would fail, too
            except Failure as error:
                print(f"redisjobs: {error}", file=sys.stderr)
            time.sleep(seconds)
