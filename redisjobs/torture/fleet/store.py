"""The torture's own view of a queue: straight, past the proxies; with all that an operator may do."""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from redisjobs import sync
from redisjobs.drivers.redis.commands import GROUP, Command
from redisjobs.drivers.redis.connection import SyncConnection, Target
from redisjobs.drivers.redis.queue_commands import QueueCommands
from redisjobs.errors import DriverError
from redisjobs.model.changes import Ending, GetStatus, JobStatus, Tidy
from redisjobs.model.queries import Counts
from redisjobs.model.stored import ScheduleInfo
from redisjobs.model.transitions import MOST_JOBS
from redisjobs.torture.fleet.settable import KEY

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
    """A mark that no other job has."""
    return f"mark-{secrets.token_hex(6)}"


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter.

    Attributes:
        job: The job's id.
        reason: Why it is dead.
        mark: The job's, if it has one.
        failed_at: Since when, in s since 1970.
        deliveries: How often it was delivered; 0 if that isn't known.
    """

    job: str
    reason: str
    mark: str = ""
    failed_at: float = 0.0
    deliveries: int = 0


@dataclass(slots=True)
class FinalState:
    """What is in the store when all is over.

    Attributes:
        letters: The dead letters.
        left: What should not be there any more, in words.
        located: Ids the locator still knows, where they are said to be.
        totals: The counters.
        schedules: Each schedule, and what became of it.
        statuses: What is said of each job whose result was to be kept, by its id.
    """

    letters: list[Letter] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    located: dict[str, str] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    schedules: list[ScheduleInfo] = field(default_factory=list)
    statuses: dict[str, JobStatus] = field(default_factory=dict)


class Store:
    """One queue in one database, and a connection to it; for one thread.

    Args:
        url: Where it is.
        queue: The queue's name; plain, so that it is no pattern.
        db: Which of the torture's databases this is.
    """

    def __init__(self, url: str, queue: str, db: int = 0) -> None:
        self.url, self.db = url, db
        self.queue = sync.JobQueue(url, queue, deadline=_DEADLINE)
        self._commands = QueueCommands(queue)
        self.prefix, self.streams = self._commands.prefix, self._commands.streams
        self._connection = SyncConnection(self._commands, Target(url))

    def run(self, *wire: Any) -> Any:
        """Run one command; its reply, in bytes.

        Raises:
            DriverError: It failed.
        """
        words = [word if isinstance(word, bytes) else str(word) for word in wire]
        return self._connection.run(Command(words, lambda reply: reply))

    def counts(self) -> Counts:
        """How many jobs are in each state."""
        with suppress(DriverError):
            self.run("PING")  # a fault may have broken this connection: the next command gets a new one
        return self.queue.counts()

    def time(self) -> datetime:
        """What the server's own clock says, to the second.

        Raises:
            DriverError: The store is unavailable.
        """
        seconds, _ = self.run("TIME")
        return datetime.fromtimestamp(int(seconds), UTC)

    @property
    def drained(self) -> bool:
        """Whether nothing is left to be done; False also if nobody knows."""
        try:
            counts = self.counts()
        except DriverError:
            return False
        return not (sum(counts.ready.values()) or counts.running or counts.delayed or counts.inbox)

    def put(self, fields: Fields, stream: int = 1) -> None:
        """Add a ready job as it stands, past all checks of a push; with an `id`, or it is no job."""
        flat = [text for pair in fields.items() for text in pair]
        place = self.streams[stream].rpartition(":")[2]
        self.run("EVAL", _PUT, 2, self.streams[stream], f"{self.prefix}jobs", fields["id"], place, *flat)

    def put_into_inbox(self, fields: Fields) -> str:
        """Push a job as people do with redis-cli; its entry id."""
        flat = [text for pair in fields.items() for text in pair]
        return str(self.run("XADD", f"{self.prefix}inbox", "*", *flat).decode())

    def publish(self, message: bytes) -> None:
        """Say something on every channel that this queue's workers hear."""
        for channel in self.run("PUBSUB", "CHANNELS", f"{self.prefix}*"):
            self.run("PUBLISH", channel, message)

    # Workers

    def workers(self, pid: int) -> list[str]:
        """The ids by which a process is a worker: mostly one."""
        ids = [_text(raw) for raw in self.run("ZRANGE", f"{self.prefix}workers", 0, -1)]
        return [worker for worker in ids if f":{pid}:" in worker]

    def fenced(self) -> list[str]:
        """The ids of workers that were fenced, lately at least."""
        return [_text(raw) for raw in self.run("ZRANGE", f"{self.prefix}fenced", 0, -1)]

    def tidy(self) -> None:
        """Look at all consumers now, and for what nobody would be given, as some worker does each minute."""
        tidied = self._connection.run(self._commands.forget(_HOUR_MS, 0))
        while tidied.after:
            tidied = self._connection.run(self._commands.tidy(Tidy(tidied.after)))

    def set_clock(self, seconds: float) -> None:
        """Let the server's clock be so far ahead, or, if that is negative, behind; see `settable`."""
        if seconds:
            self.run("SET", self.prefix + KEY, seconds)
        else:
            self.run("DEL", self.prefix + KEY)

    # At the end

    def final(self, kept: Sequence[str] = ()) -> FinalState:
        """Look at all that is left, and ask for the results of these jobs."""
        final = FinalState(totals=dict(self.counts().totals), schedules=self.queue.schedules.list())
        final.statuses = self._ask(kept)
        located = self.run("HGETALL", f"{self.prefix}jobs")
        for job, place in zip(located[::2], located[1::2], strict=True):
            final.located[_text(job)] = place.decode()
        found = {f"dead {entry}" for entry in self._read_letters(final)}
        lettered = set(final.located.values())
        final.left += [f"the dead letter {place[5:]}, which no id finds" for place in sorted(found - lettered)]
        for stream in self.streams:
            if entries := self.run("XLEN", stream):
                final.left.append(f"{entries} entries in {stream}")
            with suppress(DriverError):  # no worker ever came
                if pending := self.run("XPENDING", stream, GROUP)[0]:
                    final.left.append(f"{pending} leases in {stream}")
        for job, place in final.located.items():
            if not place.startswith("dead "):
                final.left.append(f"{job} in the locator, at {place}")
            elif place not in found:
                final.left.append(f"{job} in the locator as dead, but no dead letter")
        for kind, command in {"due": "ZCARD", "delayed": "HLEN", "waiters": "HLEN"}.items():
            if number := self.run(command, self.prefix + kind):
                final.left.append(f"{number} jobs in {kind}")
        lasting = {
            "inbox",
            "ready:high",
            "ready:normal",
            "ready:low",
            "jobs",
            "large",
            "dead",
            "stats",
            "layout",
            "workers",
            "fenced",
            "schedules",
            "limits",
        }
        lasting |= self._looked_at_later()
        # Those that were fenced lately: a late read of theirs may be served yet. And who was killed just now.
        lasting |= {f"worker:{worker}" for worker in self.fenced()}
        lasting |= {f"worker:{_text(raw)}" for raw in self.run("ZRANGE", f"{self.prefix}workers", 0, -1)}
        # What a release declares goes with the releases that do.
        lasting |= {f"schedule:{info.name}" for info in final.schedules if not info.declared}
        for key in self.keys():
            if key.removeprefix(self.prefix) not in lasting and self.run("PTTL", key) == -1:
                final.left.append(f"the key {key}")
        final.left += self._watched_for_long()
        return final

    def _ask(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """How these jobs have ended; in steps, as not all may be said at once."""
        found: dict[str, JobStatus] = {}
        left = list(dict.fromkeys(job_ids))
        while left:
            some, left = left[:MOST_JOBS], left[MOST_JOBS:]
            statuses = self._connection.run(self._commands.ask(GetStatus(some)))
            for job, status in zip(some, statuses, strict=True):
                if status.ending is Ending.LATER:
                    left.append(job)
                else:
                    found[job] = status
        return found

    def _looked_at_later(self) -> set[str]:
        """The keys of waiting lines that are at their end, which the next look at them takes away."""
        waiting = set[bytes]()
        for stream in self.streams:
            with suppress(DriverError):  # no worker ever came
                rows = self.run("XPENDING", stream, GROUP)[3] or ()
                waiting |= {consumer for consumer, _ in rows if consumer.startswith(b"line:")}
        return set() if waiting else {"lines", "turns"}

    def _watched_for_long(self) -> Iterator[str]:
        """Workers that were fenced so long ago that no late read of theirs is served any more."""
        now = self.time().timestamp()
        for worker in self.fenced():
            until = self.run("HGET", f"{self.prefix}worker:{worker}", "watched_until")
            if until is None or int(until) / 1000 + _UNWATCHED < now:
                yield f"{worker}, fenced, whose consumer need not be watched any more"

    def _read_letters(self, final: FinalState) -> Iterator[str]:
        start = "-"
        while page := self.run("XRANGE", f"{self.prefix}dead", start, "+", "COUNT", _PAGE):
            for entry, flat in page:
                fields = dict(zip(flat[::2], flat[1::2], strict=True))
                reason = fields.get(b"reason", b"").decode()
                failed_at, deliveries = int(fields.get(b"failed_at", b"0")) / 1000, fields.get(b"deliveries", b"")
                final.letters.append(
                    Letter(
                        _text(fields.get(b"id", b"")),
                        reason,
                        _mark_in(fields),
                        failed_at,
                        int(deliveries) if deliveries.isdigit() else 0,
                    )
                )
                yield entry.decode()
            start = f"({page[-1][0].decode()}"

    def keys(self) -> Sequence[str]:
        """Every key of the queue."""
        found: set[str] = set()
        cursor = b"0"
        while True:
            cursor, keys = self.run("SCAN", cursor, "MATCH", f"{self.prefix}*", "COUNT", _PAGE)
            found.update(key.decode() for key in keys)
            if cursor == b"0":
                return sorted(found)

    def remove(self) -> None:
        """Take all of the queue's keys away."""
        if keys := self.keys():
            self.run("DEL", *keys)

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()
        self.queue.close()


def through(url: str, port: int) -> str:
    """A server's URL, by way of a port of this machine."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}{at}127.0.0.1:{port}").geturl()


def _mark_in(fields: Mapping[bytes, bytes]) -> str:
    """The mark of a dead letter; of an entry that was too large it is within the one field that keeps it."""
    if b"entry" in fields:
        flat = json.loads(fields[b"entry"].decode("utf-8", "surrogateescape"))
        return str(dict(zip(flat[::2], flat[1::2], strict=False)).get(MARK, ""))
    if MARK.encode() in fields:
        return _text(fields[MARK.encode()])
    try:
        return str(json.loads(fields.get(b"headers", b"{}"))[MARK])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
