"""The torture's own connection to a queue, past the proxies: what it asks of a server of either kind."""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from redisjobs import sync
from redisjobs.errors import DriverError
from redisjobs.model.changes import JobStatus
from redisjobs.model.info import JobInfo
from redisjobs.model.job import State
from redisjobs.model.queries import Counts
from redisjobs.model.stored import ScheduleInfo
from redisjobs_proof.torture.fleet.release import Release

Fields = Mapping[str, str | bytes]

MARK = "mark"
"""The header that tells jobs of one id apart; an entry that no producer pushed has it as a field, too."""

UNSIGNALLED = "Unsignalled"
"""The name of jobs that wait for a signal which no producer sends."""

_DEADLINE = 2.0  # seconds that one call is tried for


def new_mark() -> str:
    """Return a mark that no other job has."""
    return f"mark-{secrets.token_hex(6)}"


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter.

    Attributes:
        job: The job's id.
        mark: The job's mark, if it has one.
        failed_at: When it became a dead letter, in seconds since 1970.
        deliveries: The job's deliveries; 0 if unknown.
        size: The bytes of all its fields.
    """

    job: str
    reason: str
    mark: str = ""
    failed_at: float = 0.0
    deliveries: int = 0
    size: int = 0


class Store(ABC):
    """One queue in one database of the torture, and a connection to it; for one thread.

    Attributes:
        db: The number of the database in the torture.
        queue: The queue itself.
    """

    def __init__(self, url: str, queue: str, db: int = 0) -> None:
        self.url, self.db = url, db
        self.queue = sync.JobQueue(url, queue, deadline=_DEADLINE)

    def counts(self) -> Counts:
        """Return how many jobs are in each state."""
        self.connect()
        return self.queue.control.counts()

    @property
    def drained(self) -> bool:
        """Whether no job is left to run, and none to be woken; False also if that is unknown."""
        try:
            counts = self.counts()  # of one instant: a job that is woken between two would be in neither
            if _has_work(counts):
                return False
            return counts.suspended == sum(job.name == UNSIGNALLED for job in self.suspended())
        except DriverError:
            return False

    @property
    def has_work(self) -> bool:
        """Whether a job is left that needs no signal to go on.

        Raises:
            DriverError: The server does not answer.
        """
        return _has_work(self.counts())

    def suspended(self) -> list[JobInfo]:
        """Return the suspended jobs."""
        self.connect()
        return [*self.queue.control.scan(State.SUSPENDED)]

    @abstractmethod
    def connect(self) -> None:
        """Let the next call use a connection that works, if there can be one: a fault may have broken it."""

    @abstractmethod
    def time(self) -> datetime:
        """Return the server's own time."""

    @abstractmethod
    def put(self, fields: Fields, rank: int = 1) -> bool:
        """Add a ready job past all checks of a push; return False if another one has its id.

        `rank` is of its priority, 0 for high.
        """

    @abstractmethod
    def publish(self, message: bytes) -> None:
        """Publish on every channel of this queue that a worker listens to."""

    @abstractmethod
    def workers(self, pid: int) -> list[str]:
        """Return the ids by which a process is a worker: mostly one."""

    @abstractmethod
    def fenced(self) -> list[str]:
        """Return the ids of workers that were fenced lately."""

    @abstractmethod
    def tidy(self) -> None:
        """Look for lost jobs now, as some worker does each minute."""

    @abstractmethod
    def set_clock(self, seconds: float) -> None:
        """Set the server's clock ahead, or back if negative; see `settable`."""

    @abstractmethod
    def wires(self, trigger: str, release: Release) -> list[bytes]:
        """Return bytes that tell requests of a kind, in any release so far, from others."""

    @abstractmethod
    def statuses(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """Return how these jobs have ended."""

    @abstractmethod
    def letters(self) -> Mapping[str, Letter]:
        """Return all dead letters, by their places."""

    @abstractmethod
    def located(self) -> dict[str, str]:
        """Return the place of each job that has not ended: `dead` and a key for a dead letter."""

    @abstractmethod
    def left(self, schedules: Sequence[ScheduleInfo]) -> Iterable[str]:
        """Return what should be gone at the end of a torture, in words."""

    @abstractmethod
    def remove(self) -> None:
        """Remove the queue."""

    def close(self) -> None:
        """Close the connections."""
        self.queue.close()


def through(url: str, port: int) -> str:
    """Return a server's URL by way of a port of this machine; of a topology's URL, that of one of its servers."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    scheme, is_topology, _ = parts.scheme.partition("+")
    path = f"/{parts.path.rpartition('/')[2] or 0}" if is_topology else parts.path
    return parts._replace(scheme=scheme, netloc=f"{user}{at}127.0.0.1:{port}", path=path).geturl()


def _has_work(counts: Counts) -> bool:
    return bool(sum(counts.ready.values()) or counts.running or counts.delayed or counts.inbox)
