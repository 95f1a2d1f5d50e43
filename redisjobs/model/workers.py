"""What is known of the workers of a queue, for people."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from redisjobs.model.queries import WorkersFound

FACTS = ("host", "pid", "started", "concurrency", "running", "version", "names")
"""What a worker says of itself with each heartbeat."""

_MOST_NAMES = 2_000  # characters: a heartbeat carries them, and a step of `FindWorkers` those of 100 workers


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker of a queue, as it was at its last heartbeat.

    Attributes:
        worker_id: Its id.
        started_at: When it began to run jobs of this queue; None: it has not said so yet.
        slots: How many jobs it can run at once, of all its queues.
        running: How many jobs of this queue it runs.
        names: The job names that it has handlers for, in alphabetical order; not all, if there are many.
        has_more_names: Whether some are left out.
        host: The host it runs on.
        pid: Its process there.
        version: Its release of redisjobs.
        lease: For how many seconds its lease still lasts. At less than 0 the worker has sent no heartbeat for a
            whole lease, and others take its jobs over.
    """

    worker_id: str
    started_at: datetime | None
    slots: int
    running: int
    names: Sequence[str]
    has_more_names: bool
    host: str
    pid: str
    version: str
    lease: float


def names_fact(names: Iterable[str]) -> str:
    """Job names as a worker tells them, separated by spaces; where they are too long, the first ones and `…`."""
    told = " ".join(sorted(names))
    return told if len(told) <= _MOST_NAMES else told[:_MOST_NAMES].rpartition(" ")[0] + " …"


def worker_infos(steps: Iterable[WorkersFound]) -> list[WorkerInfo]:
    """The workers that several steps found, each once, by their ids."""
    found = {worker[0]: _info(*worker) for step in steps for worker in step.workers}
    return [found[worker_id] for worker_id in sorted(found)]


def _info(worker_id: str, lease: float, facts: Mapping[str, str]) -> WorkerInfo:
    names = facts.get("names", "").split()
    return WorkerInfo(
        worker_id=worker_id,
        started_at=_time(facts.get("started", "")),
        slots=_number(facts.get("concurrency", "")),
        running=_number(facts.get("running", "")),
        names=tuple(name for name in names if name != "…"),
        has_more_names=names[-1:] == ["…"],
        host=facts.get("host", ""),
        pid=facts.get("pid", ""),
        version=facts.get("version", ""),
        lease=lease,
    )


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _time(text: str) -> datetime | None:
    with suppress(ValueError):  # a worker that has not beaten yet, or a hand, left another text there
        at = datetime.fromisoformat(text)
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    return None
