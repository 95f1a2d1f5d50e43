"""The torture's own connection to a queue on Redis, and what it finds there at the end."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

from redisjobs.drivers.redis import long_calls
from redisjobs.drivers.redis.commands import GROUP, Command, run_steps_sync
from redisjobs.drivers.redis.pushes import PushCommands
from redisjobs.drivers.redis.sync_connection import SyncConnection
from redisjobs.drivers.redis.target import Target
from redisjobs.errors import DriverError
from redisjobs.model.changes import Change, Ending, GetStatus, JobStatus, Tidy
from redisjobs.model.stored import ScheduleInfo
from redisjobs.model.transitions import MOST_JOBS
from redisjobs_proof.torture.fleet.release import Release
from redisjobs_proof.torture.fleet.settable import KEY
from redisjobs_proof.torture.fleet.store import MARK, Fields, Letter, Store

T = TypeVar("T")

_PAGE = 1000
_HOUR_MS = 3_600_000
_UNWATCHED = 30.0  # seconds in which workers notice that a fenced worker's consumer needs no more watching
_LASTING = (
    "inbox ready:high ready:normal ready:low jobs large dead stats layout workers fenced schedules limits groups"
).split()
"""Keys that may stay, without the queue's prefix."""
_COUNTED = {"due": "ZCARD", "suspended": "ZCARD", "delayed": "HLEN", "signals": "HLEN", "waiters": "HLEN"}
"""Keys that may not have a job, and how many they have."""
_PUT = """
local entry = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 3))
if ARGV[1] ~= '' then redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2] .. ' ' .. entry) end
"""


class RedisStore(Store):
    """One queue in one database of a Redis server; see `Store`."""

    def __init__(self, url: str, queue: str, db: int = 0) -> None:
        super().__init__(url, queue, db)
        self._commands = PushCommands(queue)
        self.prefix, self.streams = self._commands.prefix, self._commands.streams
        self._connection = SyncConnection(self._commands, Target(url, queue))

    def run(self, *wire: Any) -> Any:
        """Run one command; return its reply, in bytes."""
        words = [
            word if isinstance(word, bytes) else str(word).encode("utf-8", "surrogateescape") for word in wire
        ]
        return self._connection.run(Command(words, lambda reply: reply))

    def connect(self) -> None:  # noqa: D102
        with suppress(DriverError):
            self.run("PING")

    def time(self) -> datetime:
        """Return the server's own time, to the second."""
        seconds, _ = self.run("TIME")
        return datetime.fromtimestamp(int(seconds), UTC)

    def put(self, fields: Fields, rank: int = 1) -> bool:
        """Add a ready job past all checks of a push; with an `id`, or it is no job."""
        flat = [text for pair in fields.items() for text in pair]
        place = self.streams[rank].rpartition(":")[2]
        self.run("EVAL", _PUT, 2, self.streams[rank], f"{self.prefix}jobs", fields["id"], place, *flat)
        return True

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

    def wires(self, trigger: str, release: Release) -> list[bytes]:  # noqa: D102
        names = [] if trigger.isupper() else ["push", "push_plain", "push_one"] if trigger == "push" else [trigger]
        scripts = [sha for name in names for sha in [*release.shas(name), *release.shas(name, careful=True)]]
        return [wire.encode() for wire in scripts or [trigger]]

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
            found.update(map(text, keys))
            if cursor == b"0":
                return sorted(found)

    def remove(self) -> None:
        """Remove all keys of the queue."""
        if keys := self.keys():
            self.run("DEL", *keys)

    def letters(self) -> dict[str, Letter]:  # noqa: D102
        return {f"dead {entry}": letter for entry, letter in _letters(self)}

    def located(self) -> dict[str, str]:  # noqa: D102
        flat = self.run("HGETALL", f"{self.prefix}jobs")
        return {text(job): place.decode() for job, place in zip(flat[::2], flat[1::2], strict=True)}

    def left(self, schedules: Sequence[ScheduleInfo]) -> Iterator[str]:  # noqa: D102
        yield from _jobs_left(self)
        yield from _keys_left(self, schedules)
        yield from _watched_for_long(self)

    def close(self) -> None:  # noqa: D102
        self._connection.close()
        super().close()


def on_redis(store: Store) -> RedisStore:
    """Return a store that a fault needs to be on Redis."""
    assert isinstance(store, RedisStore)
    return store


def text(raw: bytes) -> str:
    """Decode a reply that may be no UTF-8."""
    return raw.decode("utf-8", "surrogateescape")


def _jobs_left(store: RedisStore) -> Iterator[str]:
    for stream in store.streams:
        if entries := store.run("XLEN", stream):
            yield f"{entries} entries in {stream}"
        with suppress(DriverError):  # no worker ever came
            if pending := store.run("XPENDING", stream, GROUP)[0]:
                yield f"{pending} leases in {stream}"
    for kind, command in _COUNTED.items():
        if number := store.run(command, store.prefix + kind):
            yield f"{number} jobs in {kind}"


def _keys_left(store: RedisStore, schedules: Sequence[ScheduleInfo]) -> Iterator[str]:
    lasting = {*_LASTING, *_looked_at_later(store)}
    # The record of a worker that was fenced lately stays for late reads; another may have been killed just now.
    for key in ("fenced", "workers"):
        lasting |= {f"worker:{text(raw)}" for raw in store.run("ZRANGE", store.prefix + key, 0, -1)}
    lasting |= {f"group:{text(kind)}" for kind in store.run("ZRANGE", f"{store.prefix}groups", 0, -1)}
    # A declared schedule expires by itself.
    lasting |= {f"schedule:{info.name}" for info in schedules if not info.declared}
    keys = store.keys()
    lasting |= set(_of_dead_flows(store, keys))
    for key in keys:
        if key.removeprefix(store.prefix) not in lasting and store.run("PTTL", key) == -1:
            yield f"the key {key}"


def _of_dead_flows(store: RedisStore, keys: Sequence[str]) -> Iterator[str]:
    """Yield the keys of the steps, and of the groups of children, that dead letters keep."""
    for steps in {f"{store.prefix}steps:{letter.job}" for _, letter in _letters(store)}.intersection(keys):
        yield steps.removeprefix(store.prefix)
        groups = store.run("HGET", steps, "child groups") or b""
        yield from (f"children:{text(token)}" for token in groups.split())


def _looked_at_later(store: RedisStore) -> set[str]:
    """Return the keys of waiting lines, if all lines are empty: workers remove them when they look next."""
    for stream in store.streams:
        with suppress(DriverError):  # no worker ever came
            rows = store.run("XPENDING", stream, GROUP)[3] or ()
            if any(consumer.startswith(b"line:") for consumer, _ in rows):
                return set()
    return {"lines", "turns"}


def _watched_for_long(store: RedisStore) -> Iterator[str]:
    """Yield workers that were fenced so long ago that Redis can't serve a late read of them any more."""
    now = store.time().timestamp()
    for worker in store.fenced():
        until = store.run("HGET", f"{store.prefix}worker:{worker}", "watched_until")
        if until is None or int(until) / 1000 + _UNWATCHED < now:
            yield f"{worker}, fenced, whose consumer need not be watched any more"


def _letters(store: RedisStore) -> Iterator[tuple[str, Letter]]:
    """Yield each dead letter with its entry id."""
    start = "-"
    while page := store.run("XRANGE", f"{store.prefix}dead", start, "+", "COUNT", _PAGE):
        for entry, flat in page:
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            deliveries = fields.get(b"deliveries", b"")
            yield (
                entry.decode(),
                Letter(
                    text(fields.get(b"id", b"")),
                    fields.get(b"reason", b"").decode(),
                    _mark_in(fields),
                    int(fields.get(b"failed_at", b"0")) / 1000,
                    int(deliveries) if deliveries.isdigit() else 0,
                    sum(map(len, flat)),
                ),
            )
        start = f"({page[-1][0].decode()}"


def _mark_in(fields: Mapping[bytes, bytes]) -> str:
    """Return the mark of a dead letter; a large entry has it in `entry`, the one field that keeps all others."""
    if b"entry" in fields:
        flat = json.loads(fields[b"entry"].decode("utf-8", "surrogateescape"))
        return str(dict(zip(flat[::2], flat[1::2], strict=False)).get(MARK, ""))
    if MARK.encode() in fields:
        return text(fields[MARK.encode()])
    try:
        return str(json.loads(fields.get(b"headers", b"{}"))[MARK])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
