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
    Counts,
    DeadLetter,
    Ended,
    Fenced,
    IdTaken,
    Lease,
    NewJob,
    Pushed,
    Reclaimed,
    Release,
    Reply,
    RetryLater,
    Row,
    Settlement,
    Settlements,
    Silent,
    Turn,
)
from redisjobs.drivers.redis import scripts
from redisjobs.errors import DriverError, QueueFull, ServerTooOld, Unavailable, WrongType
from redisjobs.job import Priority, State, checked_queue_name

T = TypeVar("T")
Wire = Sequence[Any]

GROUP = "workers"
LAYOUT = 1
"""The version of the keys; a worker of another one refuses the queue."""

_YOUNG_MS = (
    65_000  # a push that is older can't be repeated; some seconds more, as our clock is behind the server's
)
_FLOORS = {"redis": (7, 0), "valkey": (8, 0)}
_NEEDED = "redisjobs needs Redis 7.0 or newer, or Valkey 8.0 or newer"
_FENCED = b"FENCED"
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
    script: scripts.Script | None = None


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
class Ahead:
    """What a claim would find.

    Attributes:
        released: Whether any job was handed back; such are claimed first.
        unread: How many jobs of each stream were never delivered, or about as many.
    """

    released: bool
    unread: list[int]

    def __bool__(self) -> bool:
        return self.released or any(self.unread)

    @property
    def stream(self) -> int | None:
        """The stream of the highest priority that has jobs which were never delivered."""
        return next((number for number, unread in enumerate(self.unread, 1) if unread > 0), None)


@dataclass(slots=True)
class Settled:
    """The answer to a batch of settlements.

    Attributes:
        replies: One for each.
        now_us: The server's clock.
        due_in_us: µs until the next delayed job; -1: there is none, or nothing was asked.
        ahead: What a claim would find.
    """

    replies: Sequence[Reply]
    now_us: int
    due_in_us: int
    ahead: Ahead


@dataclass(slots=True)
class Claimed:
    """The answer to a claim.

    Attributes:
        now_us: The server's clock.
        due_in_us: µs until the next delayed job; -1: there is none.
        ahead: What another claim would find.
        waits_ms: For how long a job has been waiting for a worker with nothing else to run; -1: there is none.
        leases: The jobs claimed.
        ended: Those that were ended instead.
    """

    now_us: int
    due_in_us: int
    ahead: Ahead
    waits_ms: int
    leases: list[Lease]
    ended: list[Ended]


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
        scripts.load()
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
        script = scripts.script(name)
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

    def cancel(self, job_id: str) -> Command[Reply]:
        return self._run("cancel", [_raw(job_id), self._now], _reply)

    def requeue(self, job_id: str) -> Command[Reply]:
        return self._run("requeue", [_raw(job_id)], _reply)

    def delete(self, job_id: str) -> Command[Reply]:
        return self._run("delete", [_raw(job_id), self._now], _reply)

    def find(self, job_id: str) -> Command[Row | None]:
        return self._run("find", [_raw(job_id)], lambda reply: _row(reply) if reply else None)

    def jobs(self, state: State, limit: int) -> Command[list[Row]]:
        return self._run("jobs", [state, limit], lambda reply: [_row(row) for row in reply])

    def counts(self) -> Command[Counts]:
        return self._run("counts", [], _counts)

    # A worker's

    def join(self, worker: str = "", lease_ms: int = 0, run: str = "") -> Command[None]:
        """Let a worker begin; without one, only make the groups that are missing."""

        def parse(reply: Any) -> None:
            match reply:
                case b"OK":
                    return
                case b"EXISTS":
                    raise IdTaken(worker)
            raise DriverError(
                f"the keys of this queue are of version {reply.decode()}, and this release of redisjobs knows "
                f"version {LAYOUT}: run all workers of a queue by one release; nothing was claimed"
            )

        return self._run("join", [worker, lease_ms, run, LAYOUT, self._now], parse)

    def beat(self, worker: str, facts: Mapping[str, str]) -> Command[int | None]:
        """Parses to how often somebody has asked to cancel a job of the worker; None: it was fenced."""
        flat = [text for fact in facts.items() for text in fact]
        arguments = [worker, self._now, *flat]
        return self._run("beat", arguments, lambda reply: None if reply == _FENCED else int(reply))

    def cancelled(self, leases: Sequence[Lease]) -> Command[list[Lease]]:
        """Which of these jobs somebody has asked to cancel."""
        # What was put in by hand may go by its mere entry id since it was leased: what had that has ended.
        twins = [lease for lease in leases if lease.job_id.startswith(f"{lease.entry}@")]
        asked = [*leases, *twins]

        def parse(reply: Any) -> list[Lease]:
            return [
                lease
                for lease, located in zip(asked, reply, strict=True)
                if located == f"{self._place(lease)} cancelling".encode()
            ]

        names = [*(_raw(lease.job_id) for lease in leases), *(lease.entry for lease in twins)]
        return Command(["HMGET", f"{self.prefix}jobs", *names], parse)

    def _place(self, lease: Lease) -> str:
        return f"ready:{list(Priority)[lease.stream - 1]} {lease.entry}"

    def settle(
        self,
        worker: str,
        turn: Turn | None,
        settlements: Settlements,
        *,
        promote: bool,
        server_ms: float | None,
    ) -> Command[Settled]:
        """Settle at most 500 jobs.

        Args:
            worker: Who settles them.
            turn: By what this is known when it is sent again; None: it never is.
            settlements: The jobs, and what they came to.
            promote: Whether to promote what is due, and hear what a claim would find.
            server_ms: The server's clock, or earlier; None: not known.
        """
        # The same cut as the script would make, by text: entry ids begin with their time, of as many digits.
        cut = "" if server_ms is None else f"{server_ms - _YOUNG_MS:.0f}"
        done: list[list[int]] = [[], [], []]  # positions
        entries: list[list[str]] = [[], [], []]
        ids: list[list[bytes]] = [[], [], []]
        young: list[bytes] = []
        has_nonces = False
        uniques: list[bytes] = []
        others: list[Any] = []
        rest: list[int] = []
        for position, (lease, settlement) in enumerate(settlements):
            job_id = _raw(lease.job_id)
            if type(settlement) is Ack and not settlement.cancelled and lease.deliveries == 1:
                number = lease.stream - 1
                done[number].append(position)
                entries[number].append(lease.entry)
                ids[number].append(job_id)
                nonce, unique = lease.nonce, lease.unique
                if lease.entry > cut:
                    young.append(b"%b %b" % (nonce, job_id) if nonce else job_id)
                has_nonces = has_nonces or bool(nonce)
                if unique:
                    uniques += (unique, job_id)
            else:
                verb, values = _settlement(lease, settlement)
                rest.append(position)
                others += (verb, lease.stream, lease.entry, lease.deliveries, job_id, len(values), *values)
        lane, number = (turn.lane, turn.number) if turn and settlements else (0, 0)
        arguments: list[Any] = [worker, lane, number, "1" if promote else "", self._now]
        plain = len(young) == sum(map(len, ids)) and not has_nonces
        arguments += [*map(len, entries), "ids" if plain else len(young), len(uniques) // 2]
        for number in range(3):
            arguments += entries[number]
            arguments += ids[number]
        arguments += [*(() if plain else young), *uniques, *others]

        def parse(reply: Any) -> Settled:
            now_us, due_in, released, unread, *said = _unless_fenced(reply, worker)
            replies: list[Reply] = [Reply.OK] * len(settlements)
            if said != [b"OK"]:
                order = [*done[0], *done[1], *done[2], *rest]
                for position, raw in zip(order, said, strict=True):
                    replies[position] = _reply(raw)
            return Settled(replies, now_us, due_in, Ahead(bool(released), unread))

        return self._run("settle", arguments, parse)

    def claim(
        self, worker: str, count: int, most_bytes: int, max_deliveries: int, *, idle: bool
    ) -> Command[Claimed]:
        def parse(reply: Any) -> Claimed:
            now_us, due_in, released, unread, waits, jobs, ended = _unless_fenced(reply, worker)
            leases = [_lease(*job) for job in jobs]
            return Claimed(now_us, due_in, Ahead(bool(released), unread), waits, leases, _ended(ended))

        arguments = [worker, min(count, MOST_JOBS), most_bytes, max_deliveries, "1" if idle else "", self._now]
        return self._run("claim", arguments, parse)

    def read(self, worker: str, stream: int, count: int) -> Command[list[Lease]]:
        """Claim from one stream what was never delivered."""
        wire = ["XREADGROUP", "GROUP", GROUP, worker, "COUNT", count, "STREAMS", self.streams[stream - 1], ">"]
        return Command(wire, self._read)

    def wait(self, worker: str, count: int, timeout_ms: int) -> Command[list[Lease]]:
        wire = ["XREADGROUP", "GROUP", GROUP, worker, "COUNT", count, "BLOCK", timeout_ms, "STREAMS"]
        return Command([*wire, *self.streams, ">", ">", ">"], self._read)

    def _read(self, reply: Any) -> list[Lease]:
        leases = []
        for stream, entries in reply or ():
            number = self.streams.index(stream.decode()) + 1
            for entry, fields in entries:
                leases.append(_lease(number, entry, 1, fields or []))
        return leases

    def adopt(self, leases: Sequence[Lease]) -> Command[list[str]]:
        """Ids for jobs that were put in by hand without one."""
        arguments = [word for lease in leases for word in (lease.stream, lease.entry)]
        return self._run("adopt", arguments, lambda reply: [job_id.decode() for job_id in reply])

    def recover(
        self, worker: str, most_bytes: int, idle_ms: int, held: Sequence[str]
    ) -> Command[tuple[bool, list[Lease]]]:
        """Whether there may be more, and what the worker has beyond what stands at the places `held`."""

        def parse(reply: Any) -> tuple[bool, list[Lease]]:
            more, jobs = _unless_fenced(reply, worker)
            return bool(more), [_lease(*job) for job in jobs]

        return self._run("recover", [worker, most_bytes, idle_ms, *held], parse)

    def reclaim(
        self, worker: str, count: int, silent: Sequence[Silent], *, others: bool, thorough: bool
    ) -> Command[Reclaimed]:
        def parse(reply: Any) -> Reclaimed:
            now_us, named, fenced, jobs, more, released, held = _unless_fenced(reply, worker)
            return Reclaimed(
                [Silent(_id(worker_id), end.decode(), lease_ms / 1000) for worker_id, end, lease_ms in named],
                [_id(worker_id) for worker_id in fenced],
                jobs,
                bool(more),
                bool(released),
                held,
                now_us / 1000,
            )

        pairs = [word for each in silent for word in (_raw(each.worker_id), each.until_ms)]
        return self._run(
            "reclaim", [worker, count, "1" if others else "", "1" if thorough else "", self._now, *pairs], parse
        )

    def release(self, worker: str, *, refund: bool, watch: bool) -> Command[int]:
        return self._run("release", [worker, int(refund), "1" if watch else "", self._now], int)

    def tidy(self, idle_ms: int, every_ms: int) -> Command[tuple[int, bool]]:
        """How many consumers were removed or are to be looked at, and whether `restore` may find something."""
        return self._run("tidy", [idle_ms, every_ms, self._now], lambda reply: (reply[0], bool(reply[1])))

    def restore(self, number: int, start: bytes, most_bytes: int) -> Command[tuple[int, bytes, int]]:
        """Where to go on, in no stream at the end, and how many jobs were handed back."""
        return self._run("restore", [number, start, most_bytes], tuple)

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
        joins: list[Command[Any]] = [self.join()] if lacks_group else []
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


def _settlement(lease: Lease, settlement: Settlement) -> tuple[str, list[Any]]:
    """What settle calls it, and the values that it takes with it."""
    match settlement:
        case Ack(cancelled):
            return "cancelled" if cancelled else "done", [lease.unique, lease.nonce]
        case RetryLater(due, changes):
            return "retry", [due, *(text for change in changes.items() for text in change)]
        case Release(refund):
            return "release", [int(refund)]
        case DeadLetter(reason, error, traceback):
            return "fail", [reason, error, traceback]


def _unless_fenced(reply: Any, worker: str) -> Any:
    """A reply of a worker's verb.

    Raises:
        Fenced: It says that the worker is no longer one.
        DriverError: It says that what was sent is out of date.
    """
    if reply == _FENCED:
        raise Fenced(worker)
    if reply == b"STALE":
        raise DriverError("these settlements came after later ones of this worker; nothing was written")
    return reply


def _raw(job_id: str) -> bytes:
    """An id as it is in Redis; one put in by hand need not be text, and redis-py would refuse it."""
    return job_id.encode("utf-8", "surrogateescape")


def _id(reply: bytes) -> str:
    return reply.decode("utf-8", "surrogateescape")


def _reply(reply: Any) -> Reply:
    return Reply(reply.decode())


def _push_answer(reply: Any) -> PushAnswer:
    now_us, *said = reply
    if said == [Reply.STALE.encode()]:
        return PushAnswer(now_us / 1000, None)
    return PushAnswer(now_us / 1000, [_pushed(each) for each in said])


def _pushed(reply: bytes) -> Pushed:
    word, _, holder = reply.decode("utf-8", "surrogateescape").partition(" ")
    return Pushed(Reply(word), holder)


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    values = iter(flat)
    return dict(zip(values, values, strict=True))


def _lease(stream: int, entry: bytes, deliveries: int, flat: Sequence[bytes]) -> Lease:
    fields = _pairs(flat)
    place = entry.decode()
    job_id = fields.get(b"id", b"").decode("utf-8", "surrogateescape") or place
    return Lease(stream, place, deliveries, job_id, fields)


def _ended(reply: Any) -> list[Ended]:
    return [(_id(job_id), _reply(raw)) for job_id, raw in reply]


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
