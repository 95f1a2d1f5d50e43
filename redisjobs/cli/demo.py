"""The demo: hash every file of a directory in two worker processes, kill one half-way, lose nothing."""

import os
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from redisjobs import sync
from redisjobs.cli.dev import ended_by_signals
from redisjobs.cli.errors import Mistake
from redisjobs.cli.target import named
from redisjobs.demo import report, results
from redisjobs.demo.jobs import HashFile
from redisjobs.demo.place import Place, place
from redisjobs.demo.results import Line, Verdict
from redisjobs.demo.workers import Workers

_CHUNK = 500  # jobs pushed between two looks
_LOOK = 0.01  # seconds between looks
_CONCURRENCY = 8  # of each worker: what the killed one can take with it


def demo(
    directory: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="Whose files are hashed; by default Python's standard library."),
    ] = None,
    lease: Annotated[float, typer.Option(min=0.1, help="Seconds after which the killed worker's jobs run.")] = 3,
    url: Annotated[
        str | None, typer.Option("--url", help="Use this server instead of a local one that is started for this.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server up, to look around.")] = False,
) -> None:
    """Hash every file of DIR in two worker processes, kill one half-way, and check that nothing is lost.

    The server is a local one, started for this. With --url it is another one: a queue of its own is made there,
    and removed at the end.

    The lease is shorter than a worker's usual 15 s, to see the recovery sooner.
    """
    if url is not None:
        _see(url)
    try:
        root, paths, skipped = _find(directory)
        with (
            ended_by_signals(),
            tempfile.TemporaryDirectory(prefix="redisjobs-demo-") as scratch,
            place(keep, url) as there,
        ):
            print(f"hashing {len(paths)} files of {root}", "" if directory else "(without site-packages)")
            print(f"two workers, and {there.description}", flush=True)
            run = _run(there, paths, Path(scratch), lease)
            lines = list(results.read(scratch))
            verdict = _check(paths, lines)
    except KeyboardInterrupt:
        print("redisjobs: interrupted; nothing was left running", file=sys.stderr)
        sys.exit(130)
    print(report.text(run, lines, there))
    print(report.conclusion(verdict, skipped))
    sys.exit(not verdict.passed)


def _see(url: str) -> None:
    """See that a server answers there, before anything else is begun."""
    with named("default", url) as queue:
        queue.counts()


def _find(directory: Path | None) -> tuple[Path, list[str], int]:
    """The directory, its regular files, and how many have a name that can't be in a job: it is not UTF-8."""
    root = (directory or Path(sysconfig.get_path("stdlib"))).absolute()
    if not root.is_dir():
        raise Mistake(f"{root} is no directory")
    # What others installed into it does not belong to the standard library.
    left_out = () if directory else ("site-packages", "dist-packages")
    paths, skipped = [], 0
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in left_out]
        for path in (os.path.join(folder, name) for name in names):
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            if _is_utf8(path):
                paths.append(path)
            else:
                skipped += 1
    if not paths:
        raise Mistake(f"there is no regular file in {root}")
    return root, paths, skipped


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _run(there: Place, paths: Sequence[str], scratch: Path, lease: float) -> report.Run:
    options = ("--lease", str(lease), "--concurrency", str(_CONCURRENCY))
    with (
        named(there.queue, there.url) as queue,
        Workers(queue, there.url, scratch, *options) as workers,
        _progress() as progress,
    ):
        show = _Show(queue, workers, progress, report.Run(len(paths), lease))
        show.go(paths)
        workers.stop()
    return show.run


class _Show:
    """Pushes the jobs and looks on until all are done; half-way it kills a worker and starts another."""

    def __init__(self, queue: sync.JobQueue, workers: Workers, progress: Progress, run: report.Run) -> None:
        self.queue, self.workers, self.progress, self.run = queue, workers, progress, run
        self.bar = progress.add_task("running", total=run.jobs)

    def go(self, paths: Sequence[str]) -> None:
        for _ in range(2):
            self.workers.start()
        self.started = time.monotonic()
        for start in range(0, len(paths), _CHUNK):
            self.queue.push_many(HashFile(path) for path in paths[start : start + _CHUNK])
            self.look()
        while self.look():
            time.sleep(_LOOK)
        self.run.seconds = time.monotonic() - self.started

    def look(self) -> int:
        """Look once, and act on what is seen; how many of the jobs that were pushed are not done."""
        counts = self.queue.counts()
        done = counts.totals.get("completed", 0) + counts.dead
        self.progress.update(self.bar, completed=done)
        self.workers.watch()
        if self.run.kill is None and done * 2 >= self.run.jobs:
            self.kill(done)
        return sum(counts.ready.values()) + counts.running + counts.delayed

    def kill(self, done: int) -> None:
        kill = self.run.kill = self.workers.kill_one()
        if kill is not None:
            self.run.before, self.run.before_seconds = done, time.monotonic() - self.started
            said = f"killed worker {kill.pid} (SIGKILL) with {len(kill.held)} jobs that it held"
            self.progress.console.print(f"{said}; its replacement is {self.workers.start()}")


def _check(paths: Sequence[str], lines: Sequence[Line]) -> Verdict:
    with _progress() as progress:
        bar = progress.add_task("checking", total=len(paths))
        return results.check(paths, lines, lambda: progress.advance(bar))


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(highlight=False, soft_wrap=True))
