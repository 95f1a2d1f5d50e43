"""The worker's settings as options of the command line."""

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
    """Return the number of bytes in a text like `400MB`."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or not int(match[1]):
        raise typer.BadParameter(f"{text!r} is not a size: give one as 400MB")
    return int(match[1]) * _UNITS[match[2].lower()]


Concurrency = Annotated[
    int | None,
    typer.Option(
        "--concurrency",
        "-c",
        min=1,
        help="Jobs that run at once, in each process.",
        show_default="100, or 10 if a handler is a plain function",
    ),
]
Lease = Annotated[float, typer.Option(min=0.1, help="Seconds after which a dead worker's jobs run elsewhere.")]
Grace = Annotated[float, typer.Option(min=0, help="Seconds after a stop in which running jobs may finish.")]
MaxDeliveries = Annotated[
    int, typer.Option(min=1, help="Deliveries without a result before a job becomes a dead letter.")
]
UnknownFor = Annotated[
    float, typer.Option(min=0, help="Seconds to keep a job while no worker has a handler for its name.")
]
MaxJobs = Annotated[
    int | None,
    typer.Option(min=1, help="End a process after this many jobs; with --processes another replaces it."),
]
MaxRss = Annotated[
    int | None,
    typer.Option(
        parser=_size,
        metavar="SIZE",
        help="End a process that uses more memory, as 400MB; with --processes another replaces it.",
    ),
]
Abandoned = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Start no sync handler while this many timed-out threads still run. Defaults to -c.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerArguments:
    """The settings of a worker, named like their options; see `Worker`. A wrong value is a `Mistake`."""

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
        """Return a worker of these queues with these settings, or raise a `Mistake` for a wrong setting."""
        try:
            return Worker(queues, strict=strict, supervised=supervised, schedules=schedules, **asdict(self))
        except ValueError as error:
            raise Mistake(str(error)) from error

    def options(self) -> Iterator[str]:
        """Yield the settings as command-line arguments."""
        for name, value in asdict(self).items():
            if value is not None:
                yield from (f"--{name.replace('_', '-')}", str(value))
