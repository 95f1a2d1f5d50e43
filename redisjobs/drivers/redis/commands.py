"""What a command is, without I/O: keys and arguments in, the reply's meaning out.

Those of producers and operators are in `queue_commands.py`, a worker's in `worker_commands.py`. The async driver,
the sync one and the heartbeat thread run these same definitions. A script says itself which keys it needs, and in
which order.
"""

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from redis import exceptions as redis_errors

from redisjobs.drivers.redis import scripts
from redisjobs.errors import DriverError, QueueFull, ServerTooOld, Unavailable, WrongType
from redisjobs.model.driver import Fenced, OtherVersion
from redisjobs.model.job import Priority, checked_queue_name
from redisjobs.model.transitions import After, At, Due, Reply

T = TypeVar("T")
Word = str | bytes
"""A part of a command. Never a number: hiredis packs one by its `repr`, in which Python may run a signal's
handler, and hiredis crashes when that handler raises."""

Wire = Sequence[Word]

GROUP = "workers"
LAYOUT = 4
"""The version of the keys. A release that knows another one refuses the queue, and writes nothing."""

_FLOORS = {"redis": (7, 0), "valkey": (8, 0)}
_IN_SCRIPT = re.compile(r" script: ([0-9a-f]{40}, )?on @user_script:\d+\.$")  # where in which script
_NEEDED = "redisjobs needs Redis 7.0 or newer, or Valkey 8.0 or newer"


@dataclass(slots=True)
class Command(Generic[T]):
    """One command and what its reply means.

    Attributes:
        wire: The words to send.
        parse: Makes a value of the reply.
        script: The script that EVALSHA runs, in case the server has to be given it.
        looks_back: Whether it asks about what came before it, so that it is run again where any of that is.
        when_full: What it comes to where the server refuses it for want of memory, and others go on; None: that is
            an error.
        when_refused: What it comes to where the server refuses it for another reason, and others go on; None:
            that is an error.
        worker: Whose it is, if it needs the group of a stream: where that is missing, it is made for a worker that
            the server knows.
    """

    wire: Wire
    parse: Callable[[Any], T]
    script: scripts.Script | None = None
    looks_back: bool = False
    when_full: T | None = None
    when_refused: T | None = None
    worker: str = ""


@dataclass(frozen=True, slots=True)
class Further(Generic[T]):
    """What a command comes to that needs others: these, in one round trip.

    A script can't list very many consumers in a short time; a client can. So such a script says that the client is
    to list them.

    Attributes:
        commands: What to run.
        join: Makes a value of what they come to, or the next of these.
    """

    commands: Sequence[Command[Any]]
    join: Callable[[list[Any]], Any]


class Commands:
    """What all commands of one queue have in common: its keys, and how a server is readied for them.

    Args:
        queue: Its name: the hash tag of its keys.
        now_ms: The time to say it is; None leaves that to the server. For tests.
        database: Of the server: the channel of notifications is one for all databases, unlike its keys.
    """

    def __init__(self, queue: str, now_ms: Callable[[], int] | None = None, database: int = 0) -> None:
        self.prefix = f"redisjobs:{{{checked_queue_name(queue)}}}:"
        # Where keys are named, these are channels.
        self._channels = {"control": f"control:{database}", "waiter:": f"waiter:{database}:"}
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
        return f"{self.prefix}{self._channels['control']}"

    def waiter(self, process: str) -> str:
        """The channel of a process that waits for jobs."""
        return f"{self.prefix}{self._channels['waiter:']}{process}"

    @property
    def _now(self) -> str:
        return "" if self._now_ms is None else str(self._now_ms())

    def _run(
        self, name: str, arguments: Wire, parse: Callable[[Any], T], when_full: T | None = None
    ) -> Command[T]:
        """Run a script; `name` is its own. See `Command` for `when_full`."""
        script = scripts.script(name)
        script = script if when_full is None else script.careful
        if script.sha not in self._heads:
            keys = [self.prefix + self._channels.get(key, key) for key in script.keys]
            self._heads[script.sha] = ["EVALSHA", script.sha, str(len(keys)), *keys]
        return Command([*self._heads[script.sha], *arguments], parse, script, when_full=when_full)

    def meeting(self) -> list[Command[str]]:
        """What a producer or an operator asks first over each connection: the server may be another one by now.

        The first one raises ServerTooOld, the second OtherVersion. The last parses to a warning, or ''.
        """
        version = Command(["HGET", f"{self.prefix}layout", "version"], self._checked_version, when_refused="")
        policy = memory_policy()
        warning = Command(policy.wire, lambda reply: eviction_warning(policy.parse(reply)), when_refused="")
        return [hello(), version, warning]

    def _checked_version(self, reply: Any) -> str:
        if reply is not None and reply != b"%d" % LAYOUT:
            raise self.other_version(reply)
        return ""

    def other_version(self, version: bytes) -> OtherVersion:
        """The error for keys of another version."""
        found = version.decode("utf-8", "replace")
        way = "it is too old for this queue: install the release that the queue's workers run"
        if found.isdigit() and int(found) < LAYOUT:
            way = (
                "let workers of the older release run the queue empty and stop them, then start a worker of this "
                "release, which takes it over"
            )
        return OtherVersion(
            f"the keys {self.prefix}* are of version {found}, and this release of redisjobs knows version "
            f"{LAYOUT}: {way}; nothing was written"
        )

    def healing(
        self, commands: Sequence[Command[Any]], replies: list[Any]
    ) -> Generator[list[Wire], list[Any], list[Any]]:
        """Run those commands again that a server had to be readied for, in one round trip more, or two.

        Yields what to send and is sent the replies, errors among them as values. NOSCRIPT and NOGROUP mean
        that the command did nothing that counts, so it is safe to run it again.

        A group is missing where the stream was deleted, or where the server has lost all its data. Then
        it has lost the worker's record too, so the worker is fenced and has to join again before it reads.

        Args:
            commands: The commands.
            replies: What came of them at first, errors among it.

        Returns:
            Each command's parsed reply.

        Raises:
            Fenced: A group is missing, and the server does not know the worker that reads.
            DriverError: The first error reply that has no cure here, or that of a cure.
        """
        for _ in range(2):  # a script may be missing, and once it is there, the group
            healed = [i for i, reply in enumerate(replies) if _is_curable(commands[i], reply)]
            if not healed:
                break
            cures = self._cures([(commands[i], replies[i]) for i in healed])
            healed += [i for i in range(healed[0], len(commands)) if commands[i].looks_back and i not in healed]
            again = yield [*(cure.wire for cure in cures), *(commands[i].wire for i in healed)]
            for cure, reply in zip(cures, again, strict=False):
                value_of(cure, reply)
            for i, reply in zip(healed, again[len(cures) :], strict=True):
                replies[i] = reply
        return [value_of(command, reply) for command, reply in zip(commands, replies, strict=True)]

    def _cures(self, failed: Sequence[tuple[Command[Any], Any]]) -> list[Command[Any]]:
        lacks_group = {
            command.worker for command, reply in failed if not isinstance(reply, redis_errors.NoScriptError)
        }
        joins = [self._make_groups(worker) for worker in lacks_group]
        lacking = [command for command, reply in failed if isinstance(reply, redis_errors.NoScriptError)]
        scripts = {command.script for command in [*lacking, *joins] if command.script}
        return [*(Command(["SCRIPT", "LOAD", script.source], bytes) for script in scripts), *joins]

    def consumers_of(self, number: int) -> Command[dict[bytes, int]]:
        """How many jobs each consumer of a stream has pending, of those that have any; the stream has a group."""

        def parse(reply: Any) -> dict[bytes, int]:
            return {name: int(pending) for name, pending in reply[3] or ()}

        return Command(["XPENDING", self.streams[number], GROUP], parse)

    def _make_groups(self, worker: str) -> Command[None]:
        """Make the groups that are missing, for a worker that has joined before."""

        def parse(reply: Any) -> None:
            if reply == b"FENCED":
                raise Fenced(worker)

        return self._run("join", [worker, "", "", str(LAYOUT), self._now], parse)


def value_of(command: Command[T], reply: Any) -> T:
    """What a reply means.

    Raises:
        DriverError: It is an error.
    """
    if not isinstance(reply, Exception):
        return command.parse(reply)
    error = translate(reply)
    if isinstance(error, QueueFull) and command.when_full is not None:
        return command.when_full
    if command.when_refused is not None and not isinstance(error, Unavailable):
        return command.when_refused
    raise error


def _is_curable(command: Command[Any], reply: Any) -> bool:
    if isinstance(reply, redis_errors.NoScriptError):
        return True
    # An operator makes no groups: it merely looks at one.
    is_workers = bool(command.worker or command.script)
    return is_workers and isinstance(reply, redis_errors.ResponseError) and "NOGROUP" in str(reply)


_NOBODY = (b"", b"released", b"alone", b"parked")  # who has a job that is ready


def is_waiting(consumer: bytes) -> bool:
    """Whether a job that this consumer has is ready; see lua/include/is_waiting."""
    return consumer in _NOBODY or consumer.startswith(b"line:")


def running_of(consumers: Mapping[bytes, int], but: bytes = b"") -> int:
    """How many jobs run, of those that consumers have pending, but for those of one worker."""
    return sum(many for name, many in consumers.items() if name != but and not is_waiting(name))


def client_id() -> Command[int]:
    """By what number the server knows this connection."""
    return Command(["CLIENT", "ID"], int)


def unblock(client: int) -> Command[int]:
    """Let the blocking read of another connection end now, as if its time were over; 0 if it does not read."""
    return Command(["CLIENT", "UNBLOCK", str(client)], int)


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


def eviction_warning(policy: str) -> str:
    """What to say of a server that does this when memory runs out; '' if it keeps all keys."""
    if policy in ("", "noeviction"):
        return ""
    return (
        f"the server evicts keys when memory runs out (maxmemory-policy {policy}): jobs can vanish; "
        "set it to noeviction"
    )


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
    text = _IN_SCRIPT.sub("", str(error)) or type(error).__name__
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


def raw_id(job_id: str) -> bytes:
    """An id as it is in Redis; one put in by hand need not be text, and redis-py would refuse it."""
    return job_id.encode("utf-8", "surrogateescape")


def text_id(reply: bytes) -> str:
    """An id as it is everywhere else."""
    return reply.decode("utf-8", "surrogateescape")


def reply_of(reply: Any) -> Reply:
    """What a script says of one job."""
    return Reply(reply.decode())


def due_word(due: Due | None) -> str:
    """When a job may run, as scripts take it: '' now, '+5000' in so many ms, else a time in ms."""
    match due:
        case None:
            return ""
        case After(ms):
            return f"+{ms:.15g}"
        case At(ms):
            return str(ms)


def queued_ms_of(entry: str) -> int:
    """When an entry was written, in ms, as its id says."""
    return int(entry.partition("-")[0] or 0)


def pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """The fields of an entry."""
    if len(flat) == 6:  # as most have: id, name and parameters. In a third of the time, and each job goes by here
        first, its, second, seconds, third, thirds = flat
        return {first: its, second: seconds, third: thirds}
    values = iter(flat)
    return dict(zip(values, values, strict=True))
