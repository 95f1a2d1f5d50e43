"""The torture's own connection to a queue, past the proxies."""

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from redisjobs import sync
from redisjobs.drivers.redis import long_calls
from redisjobs.drivers.redis.commands import Command, run_steps_sync
from redisjobs.drivers.redis.pushes import PushCommands
from redisjobs.drivers.redis.sync_connection import SyncConnection
from redisjobs.drivers.redis.target import Target
from redisjobs.errors import DriverError
from redisjobs.model.changes import Change, Ending, GetStatus, JobStatus, Tidy
from redisjobs.model.queries import Counts
from redisjobs.model.transitions import MOST_JOBS
from redisjobs.torture.fleet.settable import KEY

T = TypeVar("T")
Fields = Mapping[str, str | bytes]

MARK = "mark"
"""The header that tells jobs of one id apart; an entry that no producer pushed has it as a field, too."""

_PAGE = 1000
_STEP = 1_000_000  # bytes
_HOUR_MS = 3_600_000
_UNWATCHED = 30.0  # seconds within which it is seen that a fenced worker's consumer need not be watched any more
_DEADLINE = 2.0  # seconds that one call is tried for
_PUT = """
local entry = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 3))
if ARGV[1] ~= '' then redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2] .. ' ' .. entry) end
"""


def new_mark() -> str:
    """Return a mark that no other job has."""
    return f"mark-{secrets.token_hex(6)}"


class Store:
    """One queue in one database of the torture, and a connection to it; for one thread."""

    def __init__(self, url: str, queue: str, db: int = 0) -> None:
        self.url, self.db = url, db
        self.queue = sync.JobQueue(url, queue, deadline=_DEADLINE)
        self._commands = PushCommands(queue)
        self.prefix, self.streams = self._commands.prefix, self._commands.streams
        self._connection = SyncConnection(self._commands, Target(url, queue))

    def run(self, *wire: Any) -> Any:
        """Run one command; return its reply, in bytes."""
        words = [word if isinstance(word, bytes) else str(word) for word in wire]
        return self._connection.run(Command(words, lambda reply: reply))

    def counts(self) -> Counts:
        """Return how many jobs are in each state."""
        with suppress(DriverError):
            self.run("PING")  # a fault may have broken this connection: the next command gets a new one
        return self.queue.counts()

    def time(self) -> datetime:
        """Return the server's own time, to the second."""
        seconds, _ = self.run("TIME")
        return datetime.fromtimestamp(int(seconds), UTC)

    @property
    def drained(self) -> bool:
        """Whether no job is left to run; False also if that is unknown."""
        try:
            counts = self.counts()
        except DriverError:
            return False
        return not (sum(counts.ready.values()) or counts.running or counts.delayed or counts.inbox)

    def put(self, fields: Fields, stream: int = 1) -> None:
        """Add a ready job past all checks of a push; with an `id`, or it is no job."""
        flat = [text for pair in fields.items() for text in pair]
        place = self.streams[stream].rpartition(":")[2]
        self.run("EVAL", _PUT, 2, self.streams[stream], f"{self.prefix}jobs", fields["id"], place, *flat)

    def put_into_inbox(self, fields: Fields) -> str:
        """Push a job as people do with redis-cli; return its entry id."""
        flat = [text for pair in fields.items() for text in pair]
        return str(self.run("XADD", f"{self.prefix}inbox", "*", *flat).decode())

    def publish(self, message: bytes) -> None:
        """Publish on every channel of this queue that a worker listens to."""
        for channel in self.run("PUBSUB", "CHANNELS", f"{self.prefix}*"):
            self.run("PUBLISH", channel, message)

    # Workers

    def workers(self, pid: int) -> list[str]:
        """Return the ids by which a process is a worker: mostly one."""
        ids = [text(raw) for raw in self.run("ZRANGE", f"{self.prefix}workers", 0, -1)]
        return [worker for worker in ids if f":{pid}:" in worker]

    def fenced(self) -> list[str]:
        """Return the ids of workers that were fenced lately."""
        return [text(raw) for raw in self.run("ZRANGE", f"{self.prefix}fenced", 0, -1)]

    def tidy(self) -> None:
        """Look at all consumers and for lost entries now, as some worker does each minute."""
        tidied = self._connection.run(long_calls.begin_tidying(self._commands, _HOUR_MS, 0))
        while tidied.after:
            tidied = self._do(Tidy(tidied.after))

    def set_clock(self, seconds: float) -> None:
        """Set the server's clock ahead, or back if negative; see `settable`."""
        if seconds:
            self.run("SET", self.prefix + KEY, seconds)
        else:
            self.run("DEL", self.prefix + KEY)

    def _do(self, change: Change[T]) -> T:
        return run_steps_sync(long_calls.change(self._commands, change), self._connection.run_all)

    def statuses(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """Return how these jobs have ended, in steps, as one answer may not have room for all."""
        found: dict[str, JobStatus] = {}
        left = list(dict.fromkeys(job_ids))
        while left:
            some, left = left[:MOST_JOBS], left[MOST_JOBS:]
            statuses = self._do(GetStatus(some))
            for job, status in zip(some, statuses, strict=True):
                if status.ending is Ending.LATER:
                    left.append(job)
                else:
                    found[job] = status
        return found

    def keys(self) -> Sequence[str]:
        """Return every key of the queue."""
        found: set[str] = set()
        cursor = b"0"
        while True:
            cursor, keys = self.run("SCAN", cursor, "MATCH", f"{self.prefix}*", "COUNT", _PAGE)
            found.update(key.decode() for key in keys)
            if cursor == b"0":
                return sorted(found)

    def remove(self) -> None:
        """Remove all keys of the queue."""
        if keys := self.keys():
            self.run("DEL", *keys)

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()
        self.queue.close()


def through(url: str, port: int) -> str:
    """Return a server's URL by way of a port of this machine; of a topology's URL, that of one of its servers."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    scheme, is_topology, _ = parts.scheme.partition("+")
    path = f"/{parts.path.rpartition('/')[2] or 0}" if is_topology else parts.path
    return parts._replace(scheme=scheme, netloc=f"{user}{at}127.0.0.1:{port}", path=path).geturl()


def text(raw: bytes) -> str:
    """Decode a reply that may be no UTF-8."""
    return raw.decode("utf-8", "surrogateescape")
