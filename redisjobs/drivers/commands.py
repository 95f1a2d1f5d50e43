"""Every command of the Redis drivers, without I/O: keys and arguments in, the reply's meaning out.

The async driver, the sync one and the heartbeat thread run these same definitions. A script's keys follow
from its header, so nobody counts positions here.
"""

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from redis import exceptions as redis_errors

from redisjobs.driver import (
    MOST_JOBS,
    Ack,
    ClockSet,
    Counts,
    DeadLetter,
    Lease,
    NewJob,
    Pushed,
    Release,
    RetryLater,
    Row,
    Settlement,
    Word,
)
from redisjobs.drivers import lua
from redisjobs.errors import DriverError, QueueFull, ServerTooOld, Unavailable, WrongType
from redisjobs.job import Priority, State, checked_queue_name

T = TypeVar("T")
Wire = Sequence[Any]
Ended = list[tuple[str, Word]]

GROUP = "workers"
_FLOORS = {"redis": (7, 0), "valkey": (8, 0)}
_NEEDED = "redisjobs needs Redis 7.0 or newer, or Valkey 8.0 or newer"
_FAR = 1e15  # ms; somebody may have made `inf` a due time
_PLACES = {f"ready:{priority}": priority for priority in Priority}


@dataclass(frozen=True, slots=True)
class Command(Generic[T]):
    """One command and what its reply means.

    Attributes:
        wire: The words to send.
        parse: Makes a value of the reply.
        script: The script that EVALSHA runs, in case the server has to be given it.
    """

    wire: Wire
    parse: Callable[[Any], T]
    script: lua.Script | None = None


@dataclass(slots=True)
class PushAnswer:
    """The answer to a push.

    Attributes:
        server_ms: The server's clock.
        pushed: What became of each job; None: the push was STALE, and wrote nothing.
    """

    server_ms: float
    pushed: list[Pushed] | None


@dataclass(slots=True)
class Claimed:
    """The answer to a claim.

    Attributes:
        now_us: The server's clock.
        due_in_us: µs until the next delayed job; -1: there is none.
        waits_ms: For how long a job has been waiting for a worker with nothing else to run; -1: there is none.
        leases: The jobs claimed.
        ended: Those that were ended instead.
    """

    now_us: int
    due_in_us: int
    waits_ms: int
    leases: list[Lease]
    ended: Ended


class Commands:
    """The commands of one queue.

    Args:
        queue: Its name: the hash tag of its keys.
        now_ms: The time to say it is; None leaves that to the server. For tests.
        database: Of the server: the channel of notifications is one for all databases, unlike its keys.
    """

    def __init__(self, queue: str, now_ms: Callable[[], int] | None = None, database: int = 0) -> None:
        self.prefix = f"redisjobs:{{{checked_queue_name(queue)}}}:"
        self._channel = f"control:{database}"
        lua.load()
        self._now_ms = now_ms
        self._heads: dict[str, Wire] = {}

    @cached_property
    def streams(self) -> list[str]:
        """The ready streams, highest priority first."""
        return [f"{self.prefix}ready:{priority}" for priority in Priority]

    @property
    def control(self) -> str:
        """The channel of notifications."""
        return f"{self.prefix}{self._channel}"

    @property
    def _now(self) -> str:
        return "" if self._now_ms is None else str(self._now_ms())

    def _run(self, name: str, arguments: Wire, parse: Callable[[Any], T]) -> Command[T]:
        script = lua.script(name)
        if name not in self._heads:
            keys = [self.prefix + (key if key != "control" else self._channel) for key in script.keys]
            self._heads[name] = ["EVALSHA", script.sha, len(keys), *keys]
        return Command([*self._heads[name], *arguments], parse, script)

    # A producer's

    def push(self, jobs: Sequence[NewJob], *, repeated: bool, sent_ms: float | None) -> Command[PushAnswer]:
        """`sent_ms` is now by the server's clock, or earlier; None: not known, and the answer is STALE."""
        arguments: list[Any] = [self._now, "" if sent_ms is None else f"{sent_ms:.0f}", "1" if repeated else ""]
        for job in jobs:
            arguments += [_raw(job.job_id), job.nonce, job.priority, job.due, job.unique, _text(job.unique_for_ms)]
            arguments += [_text(job.expires_in_ms), len(job.fields), *job.fields]
        return self._run("push", arguments, _push_answer)

    # An operator's

    def cancel(self, job_id: str) -> Command[Word]:
        return self._run("cancel", [_raw(job_id), self._now], _word)

    def requeue(self, job_id: str) -> Command[Word]:
        return self._run("requeue", [_raw(job_id)], _word)

    def delete(self, job_id: str) -> Command[Word]:
        return self._run("delete", [_raw(job_id), self._now], _word)

    def find(self, job_id: str) -> Command[Row | None]:
        return self._run("find", [_raw(job_id)], lambda reply: _row(reply) if reply else None)

    def jobs(self, state: State, limit: int) -> Command[list[Row]]:
        return self._run("jobs", [state, limit], lambda reply: [_row(row) for row in reply])

    def counts(self) -> Command[Counts]:
        return self._run("counts", [], _counts)

    # A worker's

    def settle(
        self, worker: str, settlements: Sequence[Settlement]
    ) -> list[tuple[list[int], Command[list[Word]]]]:
        """One command for each kind of fate, with the positions of the settlements it answers for."""
        kinds: dict[tuple[str, str, int], tuple[list[int], list[Any]]] = {}
        for position, (lease, fate) in enumerate(settlements):
            verb, counter, more = _verb(lease, fate)
            positions, arguments = kinds.setdefault((verb, counter, position // MOST_JOBS), ([], []))
            positions.append(position)
            arguments += [lease.stream, lease.entry, lease.deliveries, _raw(lease.job_id), *more]
        return [
            (positions, self._run(verb, [worker, *self._preface(verb, counter), *arguments], _words))
            for (verb, counter, _), (positions, arguments) in kinds.items()
        ]

    def _preface(self, verb: str, counter: str) -> list[str]:
        match verb:
            case "ack":
                return [counter, self._now]
            case "release":
                return []
            case _:
                return [self._now]

    def claim(self, worker: str, count: int, max_deliveries: int, *, idle: bool) -> Command[Claimed]:
        def parse(reply: Any) -> Claimed:
            now_us, due_in, waits, jobs, ended = reply
            return Claimed(now_us, due_in, waits, [_lease(*job) for job in jobs], _ended(ended))

        arguments = [worker, min(count, MOST_JOBS), max_deliveries, "1" if idle else "", self._now]
        return self._run("claim", arguments, parse)

    def adopt(self, leases: Sequence[Lease]) -> Command[list[str]]:
        """Ids for jobs that were put in by hand without one."""
        arguments = [word for lease in leases for word in (lease.stream, lease.entry)]
        return self._run("adopt", arguments, lambda reply: [job_id.decode() for job_id in reply])

    def wait(self, worker: str, count: int, timeout_ms: int) -> Command[list[Lease]]:
        wire = ["XREADGROUP", "GROUP", GROUP, worker, "COUNT", count, "BLOCK", timeout_ms, "STREAMS"]

        def parse(reply: Any) -> list[Lease]:
            leases = []
            for stream, entries in reply or ():
                number = self.streams.index(stream.decode()) + 1
                for entry, fields in entries:
                    leases.append(_lease(number, entry, 1, fields or []))
            return leases

        return Command([*wire, *self.streams, ">", ">", ">"], parse)

    def reclaim(
        self,
        worker: str,
        count: int,
        lease_ms: int,
        max_deliveries: int,
        cursors: Sequence[str],
        latest_ms: int | None,
    ) -> Command[tuple[list[str], list[Lease], Ended, int, int]]:
        def parse(reply: Any) -> tuple[list[str], list[Lease], Ended, int, int]:
            if reply == Word.CLOCK_SET.encode():
                raise ClockSet("the server's clock is later than it can be")
            *cursors, jobs, ended, elsewhere, waiting = reply
            return (
                [cursor.decode() for cursor in cursors],
                [_lease(*job) for job in jobs],
                _ended(ended),
                elsewhere,
                waiting,
            )

        arguments = [worker, min(count, MOST_JOBS), lease_ms, max_deliveries, *cursors]
        arguments += [_text(latest_ms), self._now]
        return self._run("reclaim", arguments, parse)

    def release_all(self, worker: str, held: Sequence[Lease], *, refund: bool) -> Command[int]:
        return self._run("release_all", [worker, int(refund), *(lease.place for lease in held)], int)

    def leave(self, worker: str) -> Command[int]:
        return self._run("leave", [worker], int)

    def renew(
        self, worker: str, leases: Sequence[Lease], facts: Mapping[str, str], alive_ms: int
    ) -> Command[list[Word]]:
        flat = [text for fact in facts.items() for text in fact]
        tokens = [
            word for held in leases for word in (held.stream, held.entry, held.deliveries, _raw(held.job_id))
        ]
        return self._run("renew", [worker, alive_ms, len(flat), *flat, *tokens], _words)

    def tidy(self, idle_ms: int) -> Command[int]:
        return self._run("tidy", [idle_ms], int)

    def join(self) -> Command[int]:
        return self._run("join", [], int)

    def conversation(self, commands: Sequence[Command[Any]]) -> Generator[list[Wire], list[Any], list[Any]]:
        """Run commands in one round trip, in a second only for those a server had to be readied for.

        Yields what to send and is sent the replies, errors among them as values. NOSCRIPT and NOGROUP mean
        that the command did nothing that counts, so it is safe to run it again.

        Returns:
            Each command's parsed reply.

        Raises:
            DriverError: The first error reply that has no cure here, or that of a cure.
        """
        replies = yield [command.wire for command in commands]
        for _ in range(2):  # a script may be missing, and once it is there, the group
            healed = [i for i, reply in enumerate(replies) if isinstance(reply, Exception) and _is_curable(reply)]
            if not healed:
                break
            cures = self._cures([(commands[i], replies[i]) for i in healed])
            again = yield [*cures, *(commands[i].wire for i in healed)]
            for reply in again[: len(cures)]:
                if isinstance(reply, Exception):
                    raise translate(reply)
            for i, reply in zip(healed, again[len(cures) :], strict=True):
                replies[i] = reply
        for reply in replies:
            if isinstance(reply, Exception):
                raise translate(reply)
        return [command.parse(reply) for command, reply in zip(commands, replies, strict=True)]

    def _cures(self, failed: Sequence[tuple[Command[Any], Any]]) -> list[Wire]:
        lacks_group = [reply for _, reply in failed if not isinstance(reply, redis_errors.NoScriptError)]
        joins = [self.join()] if lacks_group else []
        lacking = [command for command, reply in failed if isinstance(reply, redis_errors.NoScriptError)]
        scripts = {command.script for command in [*lacking, *joins] if command.script}
        return [*(["SCRIPT", "LOAD", script.source] for script in scripts), *(join.wire for join in joins)]


def _is_curable(error: Exception) -> bool:
    return isinstance(error, redis_errors.NoScriptError) or (
        isinstance(error, redis_errors.ResponseError) and "NOGROUP" in str(error)
    )


def client_id() -> Command[int]:
    """By what number the server knows this connection."""
    return Command(["CLIENT", "ID"], int)


def unblock(client: int) -> Command[int]:
    """Let the blocking read of another connection end now, as if its time were over; 0 if it does not read."""
    return Command(["CLIENT", "UNBLOCK", client], int)


def hello() -> Command[str]:
    """Ask the server what it is; no permission is needed for that.

    Parses to a description such as `Valkey 8.1.1`; raises ServerTooOld for one that lacks what we need.
    """
    return Command(["HELLO"], _server)


def _server(reply: Any) -> str:
    flat = [part for pair in reply.items() for part in pair] if isinstance(reply, dict) else reply
    texts = [part.decode() if isinstance(part, bytes) else str(part) for part in flat]
    facts = dict(zip(texts[::2], texts[1::2], strict=False))
    name, version = facts.get("server", "redis"), facts.get("version", "0")
    floor = _FLOORS.get(name, (7, 0))
    # A server of another name is held to Redis' floor: such servers say which Redis they are like.
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < floor:
        raise ServerTooOld(f"the server is {name} {version}; {_NEEDED}")
    return f"{name.capitalize()} {version}"


def memory_policy() -> Command[str]:
    """What the server does when memory runs out, as `noeviction`; '' if it does not tell."""

    def parse(reply: Any) -> str:
        found = re.search(r"maxmemory_policy:(\S+)", reply.decode() if isinstance(reply, bytes) else str(reply))
        return found[1] if found else ""

    return Command(["INFO", "memory"], parse)


# Error codes of a server that may well answer later. redis-py takes some codes off and makes a class of them, the
# newer it is the more.
_NOT_NOW = (
    *("READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS"),
    *("BUSY", "UNKILLABLE", "MISCONF", "UNBLOCKED"),
)
_NOT_NOW_CLASSES = (redis_errors.ReadOnlyError, redis_errors.ClusterDownError, redis_errors.TryAgainError)


def translate(error: BaseException) -> DriverError:
    """One of redis-py's errors, or the operating system's, as one of ours."""
    if isinstance(error, DriverError):
        return error
    text = str(error) or type(error).__name__
    if isinstance(error, redis_errors.AuthenticationError):
        return DriverError(f"the server refused the credentials: {text}")
    if isinstance(error, redis_errors.ConnectionError | redis_errors.TimeoutError | OSError | EOFError):
        # BusyLoadingError is a ConnectionError, and rightly here: a server that loads will answer soon.
        return Unavailable(text)
    if isinstance(error, redis_errors.OutOfMemoryError):
        return QueueFull(f"the server is out of memory, nothing was written: {text}")
    if isinstance(error, _NOT_NOW_CLASSES) or text.partition(" ")[0] in _NOT_NOW:
        return Unavailable(f"{type(error).__name__}: {text}")
    if isinstance(error, redis_errors.NoPermissionError) or text.startswith("ACL failure in script"):
        return DriverError(f"the server's ACL forbids what this role needs: {text}")
    if text.startswith("WRONGTYPE"):
        return WrongType(text)
    if "unknown command" in text and "HELLO" in text.upper():
        return ServerTooOld(f"the server does not know HELLO, so it is older than 6.0; {_NEEDED}")
    return DriverError(f"{type(error).__name__}: {text}")


def _text(number: int | None) -> str:
    return "" if number is None else str(number)


def _verb(lease: Lease, fate: Ack | RetryLater | Release | DeadLetter) -> tuple[str, str, list[Any]]:
    """The script that carries a fate out, what it counts as, and what it takes beyond the token."""
    match fate:
        case Ack(cancelled):
            return "ack", "cancelled" if cancelled else "completed", [lease.unique, lease.nonce]
        case RetryLater(due, changes):
            flat = [text for change in changes.items() for text in change]
            return "retry", "", [lease.unique, due, len(flat), *flat]
        case Release(refund):
            return "release", "", [int(refund)]
        case DeadLetter(reason, error, traceback):
            return "fail", "", [lease.unique, reason, error, traceback]


def _raw(job_id: str) -> bytes:
    """An id as it is in Redis; one put in by hand need not be text, and redis-py would refuse it."""
    return job_id.encode("utf-8", "surrogateescape")


def _word(reply: Any) -> Word:
    return Word(reply.decode())


def _words(reply: Any) -> list[Word]:
    return [Word(word.decode()) for word in reply]


def _push_answer(reply: Any) -> PushAnswer:
    now_us, *words = reply
    if words == [Word.STALE.encode()]:
        return PushAnswer(now_us / 1000, None)
    return PushAnswer(now_us / 1000, [_pushed(word) for word in words])


def _pushed(reply: bytes) -> Pushed:
    word, _, holder = reply.decode("utf-8", "surrogateescape").partition(" ")
    return Pushed(Word(word), holder)


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    values = iter(flat)
    return dict(zip(values, values, strict=True))


def _lease(stream: int, entry: bytes, deliveries: int, flat: Sequence[bytes]) -> Lease:
    fields = _pairs(flat)
    place = entry.decode()
    job_id = fields.get(b"id", b"").decode("utf-8", "surrogateescape") or place
    return Lease(stream, place, deliveries, job_id, fields)


def _ended(reply: Any) -> Ended:
    return [(job_id.decode("utf-8", "surrogateescape"), _word(word)) for job_id, word in reply]


def _row(reply: Any) -> Row:
    job_id, place, entry, due, consumer, deliveries, mark, flat = reply
    where = place.decode()
    fields = _pairs(flat)
    if where == "dead":
        state, priority = State.DEAD, fields.get(b"priority", b"normal").decode("utf-8", "replace")
    elif where.startswith("delayed:"):
        state, priority = State.DELAYED, where.partition(":")[2]
    else:
        priority = _PLACES[where]
        running = consumer not in (b"", b"released")
        state = State.RUNNING if running else State.READY
    known = Priority(priority) if priority in list(Priority) else Priority.NORMAL
    return Row(
        job_id=job_id.decode("utf-8", "surrogateescape"),
        state=state,
        priority=known,
        entry=entry.decode(),
        due_ms=int(max(-_FAR, min(float(due), _FAR))) if due else None,
        worker=consumer.decode("utf-8", "replace") if state is State.RUNNING else "",
        deliveries=int(deliveries) if deliveries not in (b"", "") else 0,
        cancelling=mark == b"cancelling",
        fields=fields,
    )


def _counts(reply: Any) -> Counts:
    ready, running, delayed, dead, totals = reply
    counted = {}
    for name, value in _pairs(totals).items():
        with suppress(ValueError):  # by hand
            counted[name.decode("utf-8", "replace")] = int(value)
    return Counts(dict(zip(Priority, ready, strict=True)), running, delayed, dead, counted)
