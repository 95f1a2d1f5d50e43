"""A queue's store as tests need it: its driver, a clock to set, leases to age, and what is wrong in it."""

import copy
import functools
import itertools
import re
import secrets
import shlex
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import anyio
import redis
from tenacity import wait_none

from redisjobs.drivers.memory.driver import MemoryConsumer, MemoryDriver
from redisjobs.drivers.memory.state import Memory, StoredJob, encoded
from redisjobs.drivers.memory.worker import join
from redisjobs.drivers.redis import scripts
from redisjobs.drivers.redis.consumer import RedisConsumer
from redisjobs.drivers.redis.driver import RedisDriver
from redisjobs.drivers.redis.sync_connection import SyncConnection
from redisjobs.model.changes import Tidy
from redisjobs.model.driver import Consumer, Driver
from redisjobs.model.job import Priority
from redisjobs.model.retry import RetryPolicy
from redisjobs.model.transitions import Lease
from redisjobs.testing.clock import Clock as Clock
from redisjobs.worker.source.batcher import Batch
from redisjobs.worker.source.source import Source
from redisjobs_proof.contract import memory_moving as memory_moving
from redisjobs_proof.contract.acts import Heart as Heart
from redisjobs_proof.contract.acts import happened as happened
from redisjobs_proof.contract.acts import take_over as take_over
from redisjobs_proof.contract.store import DriverStore

ROLES = ("producer", "worker", "scheduler", "operator", "doctor")
"""Who write, each by its rule in restrict-access.md."""


async def eventually(condition: Callable[[], object], within: float = 5) -> None:
    """Wait until a condition holds that has no event; TimeoutError if it does not in time."""
    with anyio.fail_after(within):
        while not condition():  # noqa: ASYNC110  (what other processes and threads do sets no event here)
            await anyio.sleep(0.005)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def documented_rule(role: str, queue_name: str) -> list[str]:
    """The rule in restrict-access.md for a role, for this queue instead of `emails`: words of ACL SETUSER."""
    return [word.replace("{emails}", f"{{{queue_name}}}") for word in _documented_words(role)]


@functools.cache  # each test has a queue, and by these a user, of its own
def _documented_words(role: str) -> list[str]:
    path = Path(__file__).parents[1] / "docs/how-to/restrict-access.md"
    page = path.read_text("utf-8").replace("\\\n", " ")
    (command,) = re.findall(rf"^redis-cli (?:-p 26379 )?ACL SETUSER {role} reset on \S+ (.+)$", page, re.MULTILINE)
    return shlex.split(command)


@contextmanager
def documented_user(store: "RedisStore", role: str, *more: str) -> Iterator[str]:
    """Make a user of Redis who may do what the rule of a role says, and more; yield the URL."""
    name = f"{role}-{store.queue_name}"
    rule = documented_rule(role, store.queue_name)
    store.admin.execute_command("ACL", "SETUSER", name, "reset", "on", ">pw", *rule, *more)
    host = store.url.rpartition("@")[2].removeprefix("redis://")
    yield f"redis://{name}:pw@{host}"
    store.admin.execute_command("ACL", "DELUSER", name)


@contextmanager
def a_deadline_of(seconds: float, queue: Any) -> Iterator[None]:
    """Have a queue of either face give up after so long; what it is asked afterwards may take its time again."""
    usual, queue.deadline = queue.deadline, seconds
    try:
        yield
    finally:
        queue.deadline = usual


class Begun:
    """For a sync handler with a short timeout: a run whose thread had not begun is tried again, no other one."""

    def __init__(self) -> None:
        self._threads = 0
        self.retry = RetryPolicy(stop=lambda _: self._take(), wait=wait_none())

    def note(self) -> None:
        """A thread has begun."""
        self._threads += 1

    def _take(self) -> bool:
        took = self._threads > 0
        self._threads -= took
        return took


async def restore(driver: Driver) -> int:
    """Look for what was left behind, to the end; how many jobs were handed back."""
    tidied = await driver.change(Tidy())
    total = tidied.restored
    while tidied.after:
        tidied = await driver.change(Tidy(tidied.after))
        total += tidied.restored
    return total


def lease_at(
    stream: int, entry: str, deliveries: int, job_id: str, fields: Mapping[bytes, bytes] | None = None
) -> Lease:
    """A lease of an entry: in the stream of that number, from 1 for the highest priority."""
    queued_ms = int(entry.partition("-")[0]) if entry[:1].isdigit() else 0
    return Lease(f"{stream} {entry}", (stream, entry), deliveries, job_id, fields or {}, queued_ms, stream - 1)


def dispatch(source: Source, leases: Sequence[Lease], asked_at: float = float("inf")) -> None:
    """Let a source have jobs as if it had claimed them."""
    source.dispatcher.take(leases, asked_at)


def settling(source: Source) -> Batch:
    """An exchange that settles what there is, and claims nothing."""
    return Batch(source.leases.next(500), None)


async def inherit(heir: Consumer, count: int = 10, *, idle: bool = False) -> list[Lease]:
    """Take over, and claim what was handed back."""
    await take_over(heir)
    return list((await heir.exchange([], count, idle=idle)).leases)


class Store(DriverStore, Protocol):
    """What every kind of store offers a test here: all that the contract needs, and more.

    Attributes:
        queue_name: Of the queue.
    """

    queue_name: str

    def consumer(self, worker_id: str, *, lease: float = 15, max_deliveries: int = 3) -> Consumer:
        """A worker's side; the worker has joined, or has long been there."""

    def put(
        self, fields: Mapping[str, str | bytes], priority: Priority = Priority.NORMAL, *, entry: str = "*"
    ) -> str:
        """Add a ready job as it stands, past all checks of a push; its id."""


class MemoryStore:
    """The memory driver's."""

    def __init__(self, queue_name: str) -> None:
        self.queue_name = queue_name
        self.clock = Clock()
        self.memory = Memory(self.clock)
        self.driver: Driver = MemoryDriver(self.memory)
        self.lacks: Collection[type[Any]] = ()

    def another(self) -> Driver:
        return MemoryDriver(self.memory)

    def contents(self) -> object:
        unstored = ("lock", "channels", "now_ms")
        return copy.deepcopy({key: value for key, value in vars(self.memory).items() if key not in unstored})

    def consumer(self, worker_id: str, *, lease: float = 15, max_deliveries: int = 3) -> Consumer:
        consumer = self.driver.consumer(worker_id, lease=lease, max_deliveries=max_deliveries)
        assert isinstance(consumer, MemoryConsumer)
        if worker_id in self.memory.workers:
            consumer._run = self.memory.workers[worker_id].run
        join(self.memory, worker_id, lease, consumer._run)
        return consumer

    def age(self, seconds: float) -> None:
        with self.memory.lock:
            for worker in self.memory.workers.values():
                worker.until -= seconds
            for job in self.memory.jobs.values():
                job.since -= seconds

    def put(
        self, fields: Mapping[str, str | bytes], priority: Priority = Priority.NORMAL, *, entry: str = "*"
    ) -> str:
        with self.memory.lock:
            job_id = text_of(fields.get("id")) or f"put-{next(_numbers)}"
            raw = {b"id": encoded(job_id)} | {encoded(name): encoded(value) for name, value in fields.items()}
            self.memory.enqueue(StoredJob(job_id, priority, raw), 0)
            return job_id


_loaded = set[str]()  # servers
_numbers = itertools.count(1)


def text_of(value: str | bytes | None) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value or ""


def _load_scripts(server: str, admin: Any) -> None:
    """Let a server have all scripts: else what a test asks first might run in another order than it does later."""
    if server not in _loaded:
        _loaded.add(server)
        for name in scripts.names():
            for script in (scripts.script(name), scripts.script(name).careful):
                admin.script_load(script.source)


class RedisStore:
    """A real server's, as a user that may touch nothing but this queue: an undeclared key fails on the spot.

    Attributes:
        admin: A connection that may do everything.
        user: The name of a user that may do what producers, workers and operators of this queue may, no more.
        url: That user's.
        prefix: Of the queue's keys.
    """

    def __init__(self, admin: Any, url: str, queue_name: str, *rights: str) -> None:
        self.admin = admin
        self.queue_name = queue_name
        self.prefix = f"redisjobs:{{{queue_name}}}:"
        self.clock = Clock()
        self.user, password = f"user-{queue_name}", secrets.token_hex(8)
        rules = [rule for role in ROLES for rule in documented_rule(role, queue_name)]
        self.admin.execute_command("ACL", "SETUSER", self.user, "on", f">{password}", *rules, *rights)
        parts = urlsplit(url)
        self.url = f"{parts.scheme}://{self.user}:{password}@{parts.hostname}:{parts.port}{parts.path or '/0'}"
        self.driver: Driver = RedisDriver(self.url, queue_name, self.clock)
        _load_scripts(f"{parts.hostname}:{parts.port}", admin)
        self.lacks: Collection[type[Any]] = ()

    def another(self) -> Driver:
        return RedisDriver(self.url, self.queue_name, self.clock)

    def contents(self) -> object:
        keys = {key: self.admin.dump(self.prefix + key) for key in list(self.keys())}
        return keys, [self.pending(priority) for priority in Priority]

    def consumer(self, worker_id: str, *, lease: float = 15, max_deliveries: int = 3) -> Consumer:
        consumer = self.driver.consumer(worker_id, lease=lease, max_deliveries=max_deliveries)
        assert isinstance(consumer, RedisConsumer)
        assert isinstance(self.driver, RedisDriver)
        run = self.admin.hget(f"{self.prefix}worker:{worker_id}", "run")
        consumer._run_id = run.decode() if run else consumer._run_id
        connection = SyncConnection(consumer._commands, self.driver.target)
        connection.run(consumer._commands.join(worker_id, int(lease * 1000), consumer._run_id))
        connection.close()
        return consumer

    def stream(self, priority: Priority = Priority.NORMAL) -> str:
        """The key of a ready stream."""
        return f"{self.prefix}ready:{priority}"

    def is_blocked(self) -> bool:
        """Whether the server holds a blocking read of this store's user."""
        return any("b" in client["flags"] for client in self.admin.client_list() if client["user"] == self.user)

    def pending(self, priority: Priority = Priority.NORMAL) -> list[tuple[str, str, int]]:
        """The leases of a ready stream: entry, worker, deliveries."""
        try:
            rows = self.admin.xpending_range(self.stream(priority), "workers", "-", "+", 2000)
        except redis.ResponseError:
            return []
        return [(text_of(row["message_id"]), text_of(row["consumer"]), row["times_delivered"]) for row in rows]

    def age(self, seconds: float) -> None:
        for worker, _ in self.admin.zrange(f"{self.prefix}workers", 0, -1, withscores=True):
            self.admin.zincrby(f"{self.prefix}workers", -int(seconds * 1000), worker)
        for priority in Priority:
            for entry, worker, _ in self.pending(priority):
                idle = int(seconds * 1000)
                self.admin.xclaim(self.stream(priority), "workers", worker, 0, [entry], idle=idle, justid=True)

    def put(
        self, fields: Mapping[str, str | bytes], priority: Priority = Priority.NORMAL, *, entry: str = "*"
    ) -> str:
        job_id = text_of(fields.get("id")) or f"put-{next(_numbers)}"
        made = self.add_entry({"id": job_id, **fields}, priority, entry=entry)
        self.admin.hset(f"{self.prefix}jobs", job_id.encode("utf-8", "surrogateescape"), f"{priority} {made}")
        return job_id

    def add_entry(
        self, fields: Mapping[str, str | bytes], priority: Priority = Priority.NORMAL, *, entry: str = "*"
    ) -> str:
        """Add an entry to a ready stream that no push has added, as redis-cli's XADD does; its entry id."""
        made: bytes = self.admin.xadd(self.stream(priority), dict(fields), id=entry)
        return made.decode()

    def keys(self) -> dict[str, int]:
        """Every key of the queue, without its prefix, and its time to live in ms (-1: for ever)."""
        found = list(self.admin.scan_iter(match=self.prefix.replace("[", r"\[") + "*", count=1000))
        asked = self.admin.pipeline(transaction=False)
        for key in found:
            asked.pttl(key)
        lives = zip((text_of(key).removeprefix(self.prefix) for key in found), asked.execute(), strict=True)
        return {key: ttl for key, ttl in lives if ttl != -2}  # that one ended as it was looked at

    def located(self) -> dict[str, str]:
        """The locator: job id -> where it is."""
        return {text_of(job): text_of(place) for job, place in self.admin.hgetall(f"{self.prefix}jobs").items()}

    def faults(self) -> list[str]:
        """What contradicts what in the queue's keys; empty if all is in order."""
        keys, located = self.keys(), self.located()
        faults = [f"key without a reason: {key}" for key, ttl in keys.items() if not self._has_reason(key, ttl)]
        there: dict[str, set[str]] = {}
        streams = {priority: f"ready:{priority}" for priority in Priority}
        for place in (*Priority, "dead", "completed", "cancelled"):
            for entry, fields in self.admin.xrange(self.prefix + streams.get(place, place)):
                if b"id" in fields:
                    job = text_of(fields[b"id"])
                    there.setdefault(job, set()).add(f"{place} {text_of(entry)}")
        lines = {
            mark: [text_of(member).partition(" ") for member in self.admin.zrange(f"{self.prefix}{index}", 0, -1)]
            for index, mark in (("due", ""), ("suspended", " suspended"))
        }
        due = {job for members in lines.values() for _, _, job in members}
        delayed = {text_of(job) for job in self.admin.hkeys(f"{self.prefix}delayed")}
        if due != delayed:
            faults.append(f"due and delayed differ: {due ^ delayed}")
        for mark, members in lines.items():
            for line, _, job in members:
                there.setdefault(job, set()).add(f"delayed {line}{mark}")
        for job, place in located.items():
            if re.sub(" (cancelling|alone)$", "", place) not in there.get(job, ()):
                faults.append(f"{job} is located at {place} but is at {there.get(job)}")
        for key, ttl in keys.items():
            if key.startswith("unique:") and ttl == -1:
                holder = text_of(self.admin.get(encoded(self.prefix + key)))
                if holder not in located:
                    faults.append(f"{key} is held by {holder}, which is gone")
        held = {text_of(job) for job in self.admin.hkeys(f"{self.prefix}held")}
        faults += [f"{job} is held, and gone" for job in held - located.keys()]
        waited_for = {text_of(job) for job in self.admin.hkeys(f"{self.prefix}waiters")}
        faults += [f"{job} is waited for, and gone" for job in waited_for - located.keys()]
        signalled = {text_of(job) for job in self.admin.hkeys(f"{self.prefix}signals")}
        faults += [f"{job} has signals, and is gone" for job in signalled - located.keys()]
        cancelling = {text_of(token) for token in self.admin.zrange(f"{self.prefix}cancelling", 0, -1)}
        for token in (key.removeprefix("children:") for key in keys if key.startswith("children:")):
            parent, key, closed = self.admin.hmget(f"{self.prefix}children:{token}", "parent", "key", "closed")
            known = self.admin.hget(encoded(f"{self.prefix}steps:") + parent, b"children " + key)
            if not (token in cancelling if closed else known == token.encode()):
                faults.append(f"the children {token} of {text_of(parent)} are of no job")
        stepped = {key.removeprefix("steps:") for key in keys if key.startswith("steps:")}
        faults += [f"{job} has steps, and is gone" for job in stepped - located.keys()]
        return faults + self._noted_for_nothing() + self._parked_for_nothing(held) + self._limited_for_nothing()

    def _noted_for_nothing(self) -> list[str]:
        """Groups that differ from the dead letters, and histories of entries that are gone."""
        kinds, located = dict[str, set[bytes]](), {*self.admin.hvals(f"{self.prefix}jobs")}
        for entry, fields in self.admin.xrange(f"{self.prefix}dead"):
            kind = text_of(fields.get(b"fingerprint") or fields.get(b"reason", b""))
            if b"dead " + entry in located:  # else it was added outside redisjobs
                ms, _, number = entry.partition(b"-")
                kinds.setdefault(kind, set()).add(b"%b-%06d" % (ms, int(number)))
        named = {text_of(kind) for kind in self.admin.zrange(f"{self.prefix}groups", 0, -1)}
        groups = {kind: set(self.admin.zrange(encoded(f"{self.prefix}group:{kind}"), 0, -1)) for kind in named}
        faults = [] if groups == kinds else [f"groups {groups} are not {kinds}"]
        for place in self.admin.hkeys(f"{self.prefix}history"):
            priority, entry = text_of(place).split(" ")
            stream = self.stream(Priority(priority))
            if self.admin.exists(stream) and not self.admin.xrange(stream, entry, entry):
                faults.append(f"history of {text_of(place)}, which is gone")
        return faults

    def _parked_for_nothing(self, held: set[str]) -> list[str]:
        names = self.admin.hkeys(f"{self.prefix}paused:names")
        faults = []
        for place in (f"ready:{priority}" for priority in Priority):
            parked = self._pending(place, "parked")
            for entry in parked:
                fields = dict(self.admin.xrange(f"{self.prefix}{place}", entry, entry)).get(entry, {})
                job = text_of(fields.get(b"id", entry))
                if fields.get(b"name") not in names and not {job, f"{text_of(entry)}@{place[6:]}"} & held:
                    faults.append(f"{job} is parked, and neither its name is paused nor it is held")
        return [] if self.admin.hexists(f"{self.prefix}layout", "unpark") else faults

    def _limited_for_nothing(self) -> list[str]:
        """Shares that no job holds, or are noted on one side only, and waiting lines that wait for nothing."""
        shares = {text_of(place): bucket for place, bucket in self.admin.hgetall(f"{self.prefix}shares").items()}
        running, lines = dict[str, str](), dict[bytes, int]()
        for priority in Priority:
            for entry, consumer, _ in self.pending(priority):
                running[f"{priority} {entry}"] = consumer
                if consumer.startswith("line:"):
                    bucket = encoded(consumer[5:])
                    lines[bucket] = lines.get(bucket, 0) + 1
        idle = [
            place
            for place in shares
            if running.get(place, "line:").startswith(("line:", "released", "alone", "parked"))
        ]
        faults = [f"{place} holds a share, and does not run" for place in idle]
        held = dict[str, bytes]()
        for key in self.admin.scan_iter(match=self.prefix.replace("[", r"\[") + "holders:*", count=1000):
            bucket = key.removeprefix(f"{self.prefix}holders:".encode())
            held |= {text_of(place): bucket for place in self.admin.zrange(key, 0, -1)}
        if held != shares:
            faults.append(f"shares and holders differ: {held.items() ^ shares.items()}")
        turns = {bucket for bucket, _ in self.admin.zrange(f"{self.prefix}turns", 0, -1, withscores=True)}
        names = self.admin.hkeys(f"{self.prefix}paused:names")
        noted = set(self.admin.zrange(f"{self.prefix}lines", 0, -1))
        for bucket in lines:
            is_seen_to = bucket in turns or bucket in shares.values() or bucket.partition(b" ")[0] in names
            if bucket not in noted or not is_seen_to:
                faults.append(f"{text_of(bucket)} has a line, and no worker will look at it")
        return faults

    def _pending(self, place: str, consumer: str) -> list[bytes]:
        try:
            found = self.admin.xpending_range(f"{self.prefix}{place}", "workers", "-", "+", 1000, consumer)
        except redis.ResponseError:  # there is no group
            return []
        return [pending["message_id"] for pending in found]

    def _has_reason(self, key: str, ttl: int) -> bool:
        streams = ("inbox", "ready:high", "ready:normal", "ready:low", "dead")
        lasting = (
            *(*streams, "completed", "cancelled", "retention", "paused", "paused:names", "held", "limits"),
            *(
                "jobs",
                "due",
                "suspended",
                "delayed",
                "signals",
                "cancelling",
                "large",
                "stats",
                "workers",
                "fenced",
                "layout",
                "schedules",
                "groups",
                "history",
                "taken",
            ),
        )
        if key.startswith("schedule:"):
            return self.admin.zscore(f"{self.prefix}schedules", key.removeprefix("schedule:")) is not None
        if key in ("shares", "lines", "turns") or key.startswith("holders:"):
            return True  # what is wrong in them, `_limited_for_nothing` says
        if key.startswith("rate:"):
            return ttl >= 0
        if key.startswith("worker:"):
            worker = key.removeprefix("worker:")
            alive = self.admin.zscore(f"{self.prefix}workers", worker) is not None
            return alive or self.admin.zscore(f"{self.prefix}fenced", worker) is not None
        ends = key in ("waiters", "promoter", "schedulers") or key.startswith(
            (
                *("finished:", "conflict:", "result:", "outcome:", "progress:", "chunks:", "schedulers:"),
                *("minute:", "ten:", "recorded:"),
            )
        )
        noted = ("unique:", "group:", "relayed:", "imported:", "steps:", "children:")
        return key in lasting or key.startswith(noted) or (ttl > 0 and ends)

    def end(self) -> None:
        """Remove the queue and its user."""
        if keys := self.keys():
            self.admin.delete(*(encoded(self.prefix + key) for key in keys))
        self.admin.execute_command("ACL", "DELUSER", self.user)
        self.admin.close()
