"""The settings of a worker on the command line, and how they are passed on to a worker process of its own."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from redisjobs.cli.errors import Mistake, check_seconds
from redisjobs.worker.settings.settings import Listed
from redisjobs.worker.worker import Worker

_SIZE = re.compile(r"(\d+)\s*([kmg]?)(?:i?b)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def _size(text: str) -> int:
    """Bytes, of `400MB`."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or not int(match[1]):
        raise typer.BadParameter(f"{text!r} is no size, as 400MB is")
    return int(match[1]) * _UNITS[match[2].lower()]


Concurrency = Annotated[
    int | None,
    typer.Option(
        *("--concurrency", "-c"),
        min=1,
        help="Jobs run at once, in each process.",
        show_default="100, or 10 if a handler is a plain function",
    ),
]
Lease = Annotated[float, typer.Option(min=0.1, help="Seconds after which a dead worker's jobs run elsewhere.")]
Grace = Annotated[float, typer.Option(min=0, help="Seconds that running jobs may finish in, after a stop.")]
MaxDeliveries = Annotated[
    int, typer.Option(min=1, help="So often a job is delivered without an outcome; then it is a dead letter.")
]
UnknownFor = Annotated[
    float, typer.Option(min=0, help="Seconds that a job whose name has no handler anywhere is kept.")
]
MaxJobs = Annotated[int | None, typer.Option(min=1, help="End a process after so many jobs, once they are done.")]
MaxRss = Annotated[
    int | None,
    typer.Option(parser=_size, metavar="SIZE", help="The same with more memory in use than, say, 400MB."),
]
Abandoned = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Start no sync handler with so many threads of such that timed out; as many as -c if not given.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A worker's, as its options give them; see `Worker`. Each goes by its option's name.

    Raises:
        Mistake: Some can't be numbers of seconds.
    """

    concurrency: int | None
    lease: float
    grace: float
    max_deliveries: int
    unknown_for: float
    max_jobs: int | None
    max_rss: int | None
    abandoned: int | None

    def __post_init__(self) -> None:
        check_seconds(lease=self.lease, grace=self.grace, unknown_for=self.unknown_for)

    def worker(
        self, queues: Sequence[Listed], *, strict: bool, supervised: bool, schedules: bool = True
    ) -> Worker:
        """A worker of these queues, with these settings.

        Raises:
            Mistake: They can't be worked with.
        """
        try:
            return Worker(queues, strict=strict, supervised=supervised, schedules=schedules, **asdict(self))
        except ValueError as error:
            raise Mistake(str(error)) from error

    def options(self) -> Iterator[str]:
        """The same as options of a command."""
        for name, value in asdict(self).items():
            if value is not None:
                yield from (f"--{name.replace('_', '-')}", str(value))
