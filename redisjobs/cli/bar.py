"""A progress bar for a job, on a terminal only."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from redisjobs.base.visible import visible
from redisjobs.model.progress import Progress, amount


class Bar:
    """A context manager that shows a progress bar on stderr; `is_shown` is True only on a terminal."""

    def __init__(self, job_id: str) -> None:
        self._bar = RichProgress(
            TextColumn("{task.fields[job]}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[done]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self.is_shown = self._bar.console.is_terminal
        self._task = self._bar.add_task("", total=None, job=visible(job_id, 40), done="", note="")

    def __enter__(self) -> Self:
        if self.is_shown:  # in a pipe, rich 13 prints an empty line even for a disabled bar
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_shown:
            self._bar.stop()

    def show(self, progress: Progress) -> None:
        """Show the job's progress."""
        total = None if progress.fraction is None else 1.0
        note = visible(progress.note)
        self._bar.update(
            self._task, total=total, completed=progress.fraction or 0.0, done=amount(progress), note=note
        )
