"""The demo command: hash the files of a directory in two worker processes, kill one half-way, lose nothing."""

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
from redisjobs.local.demo import report, results
from redisjobs.local.demo.jobs import HashFile
from redisjobs.local.demo.place import DemoQueue, place
from redisjobs.local.demo.results import ResultLine, Verdict
from redisjobs.local.demo.workers import Workers

_CHUNK = 500  # jobs pushed between two checks of the counts
_LOOK = 0.01  # seconds between checks
_CONCURRENCY = 8  # of each worker, so up to 8 jobs run when one is killed


def demo(
    directory: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="The directory to hash. Defaults to Python's standard library."),
    ] = None,
    lease: Annotated[float, typer.Option(min=0.1, help="Seconds after which the killed worker's jobs run.")] = 3,
    url: Annotated[str | None, typer.Option("--url", help="Use this server instead of a local one.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server running, to look around.")] = False,
) -> None:
    """Hash every file of DIR in two worker processes, kill one half-way, and check that nothing is lost.

    It starts a local server. With --url it uses that server, with a new queue that it removes at the end.

    The lease is shorter than the usual 15 s, so that you see the recovery sooner.
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
    """Raise an error unless a server answers at this URL."""
    with named("default", url) as queue:
        queue.control.counts()


def _find(directory: Path | None) -> tuple[Path, list[str], int]:
    """Return the directory, its regular files, and how many files were skipped because of names not in UTF-8."""
    root = (directory or Path(sysconfig.get_path("stdlib"))).absolute()
    if not root.is_dir():
        raise Mistake(f"{root} is no directory")
    # Installed packages are not part of the standard library.
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


def _run(there: DemoQueue, paths: Sequence[str], scratch: Path, lease: float) -> report.Run:
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
    """The run of the demo: push the jobs, kill a worker half-way, start another, wait until all jobs are done."""

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
        """Check the counts, kill a worker if half is done, and return how many pushed jobs are not done."""
        counts = self.queue.control.counts()
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
            said = f"killed worker {kill.pid} (SIGKILL) with {len(kill.held)} running jobs"
            self.progress.console.print(f"{said}; its replacement is {self.workers.start()}")


def _check(paths: Sequence[str], lines: Sequence[ResultLine]) -> Verdict:
    with _progress() as progress:
        bar = progress.add_task("checking", total=len(paths))
        return results.check(paths, lines, lambda: progress.advance(bar))


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(highlight=False, soft_wrap=True))
