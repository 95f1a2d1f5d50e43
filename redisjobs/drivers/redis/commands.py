"""Commands without I/O: the words to send, and how to parse the reply.

`PushCommands` has the commands of producers and operators, `WorkerCommands` those of workers. The async driver,
the sync driver and the heartbeat thread all use these definitions. A call of several round trips is a generator,
so that it too is written only once: see `Steps`.
"""

import math
import re
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, TypeVar

from redis import exceptions as redis_errors

from redisjobs.drivers.redis import scripts
from redisjobs.drivers.redis.wire import NEEDED, Wire, as_it_is, is_a_sentinel, translate
from redisjobs.errors import DriverError, QueueFull, ServerTooOld, Unavailable
from redisjobs.model.driver import Fenced, OtherVersion
from redisjobs.model.job import Priority, checked_queue_name

T = TypeVar("T")
Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

GROUP = "workers"
LAYOUT = 5
"""The version of the keys. A release that knows another one refuses the queue, and writes nothing."""

READS = 4
"""The oldest version whose jobs this release can run as they are.

Its own workers must not run beside: the end of a child wakes its parent, and they know nothing of that.
"""

_FLOORS = {"redis": (7, 0), "valkey": (8, 0)}


@dataclass(slots=True)
class Command(Generic[T]):
    """One command, and how to parse its reply.

    Attributes:
        script: The script that EVALSHA runs, in case the server does not have it yet.
        looks_back: Whether the reply depends on the commands before it. If one of these is run again, so is this.
        when_full: The value if the server is out of memory and refuses the command; None: raise an error.
        when_refused: The value if the server refuses the command for another reason; None: raise an error.
        worker: The worker that sends it, if the command needs the group of a stream. If the group is missing and
            the server knows the worker, we create the group.
    """

    wire: Wire
    parse: Callable[[Any], T] = as_it_is
    script: scripts.Script | None = None
    looks_back: bool = False
    when_full: T | None = None
    when_refused: T | None = None
    worker: str = ""


Steps = Generator[Sequence[Command[Any]], list[Any], T]
"""A call of one or more round trips. Yields the commands of each, is sent the parsed replies, returns the answer.

A script takes too long to list thousands of consumers, but a client can. So such a script asks the client to list
them, and to call it again."""


async def run_steps(
    steps: Generator[Asked, Answer, T], run: Callable[[Asked, float], Awaitable[Answer]], until: float = math.inf
) -> T:
    """Run what a generator yields, and send or throw the outcome into it; return its return value."""
    try:
        asked = next(steps)
        while True:
            try:
                answer = await run(asked, until)
            except DriverError as error:
                asked = steps.throw(error)
            else:
                asked = steps.send(answer)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


def run_steps_sync(
    steps: Generator[Asked, Answer, T], run: Callable[[Asked, float], Answer], until: float = math.inf
) -> T:
    """Do the same as `run_steps`, in sync code."""
    try:
        asked = next(steps)
        while True:
            try:
                answer = run(asked, until)
            except DriverError as error:
                asked = steps.throw(error)
            else:
                asked = steps.send(answer)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


class Commands:
    """The base of a queue's commands: its keys, and what to do about a missing script or group.

    `now_ms` returns the time that scripts use, for tests; None: the server's clock. A channel's name includes the
    number of the database, because all databases of a server share their channels.
    """

    def __init__(self, queue: str, now_ms: Callable[[], int] | None = None, database: int = 0) -> None:
        self.prefix = f"redisjobs:{{{checked_queue_name(queue)}}}:"
        # Scripts name these like keys, but they are channels.
        self._channels = {"control": f"control:{database}", "waiter:": f"waiter:{database}:"}
        scripts.load()
        self._now_ms = now_ms
        self._heads: dict[str, Wire] = {}

    @cached_property
    def streams(self) -> list[str]:
        """The ready streams, highest priority first."""
        return [f"{self.prefix}ready:{priority}" for priority in Priority]

    def channel(self, process: str = "") -> str:
        """Return the channel of a process that waits for jobs; without a process, the channel of the queue."""
        return f"{self.prefix}{self._channels['waiter:'] + process if process else self._channels['control']}"

    @property
    def now(self) -> str:
        """The time that a script is to use, in ms; '' for the server's clock."""
        return "" if self._now_ms is None else str(self._now_ms())

    def run(
        self, name: str, arguments: Wire, parse: Callable[[Any], T] = as_it_is, when_full: T | None = None
    ) -> Command[T]:
        """Return the command that runs a script; see `Command` for `when_full`."""
        script = scripts.script(name)
        script = script if when_full is None else script.careful
        if script.sha not in self._heads:
            keys = [self.prefix + self._channels.get(key, key) for key in script.keys]
            self._heads[script.sha] = ["EVALSHA", script.sha, str(len(keys)), *keys]
        return Command([*self._heads[script.sha], *arguments], parse, script, when_full=when_full)

    def consumers_of(self, number: int) -> Command[dict[bytes, int]]:
        """Count the pending jobs of each consumer that has any. The stream must have its group."""

        def parse(reply: Any) -> dict[bytes, int]:
            return {name: int(pending) for name, pending in reply[3] or ()}

        return Command(["XPENDING", self.streams[number], GROUP], parse)

    def first_checks(self) -> list[Command[Any]]:
        """Return the checks that a producer or an operator runs first on each connection.

        Each time, because another server may have taken over. Parsing the first reply may raise ServerTooOld, the
        second OtherVersion. The last parses to a warning, or ''.
        """
        version = Command(["HGET", f"{self.prefix}layout", "version"], self._check_version, when_refused=False)
        return [hello(), version, replace(loss_warning(), when_refused="")]

    def _check_version(self, reply: Any) -> bool:
        if reply is not None and reply != b"%d" % LAYOUT:
            raise self.other_version(reply)
        return True

    def other_version(self, version: bytes) -> OtherVersion:
        found = version.decode("utf-8", "replace")
        way = "it is too old for this queue: install the release that the queue's workers run"
        if found.isdigit() and READS <= int(found) < LAYOUT:
            way = "stop the workers of the older release, then start one of this release, which takes it over"
        elif found.isdigit() and int(found) < READS:
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
        """Load missing scripts and create missing groups, then run the failed commands again.

        This takes one or two more round trips. Yields what to send, is sent the replies (an error reply is a
        value), and returns the parsed replies. A command that failed with NOSCRIPT or NOGROUP has changed nothing
        that counts, so it is safe to run it again.

        A group is missing if its stream was deleted, or if the server has lost all its data. In the second case
        the worker's record is lost too, so the worker is fenced, and has to join again before it reads.

        Raises:
            Fenced: A group is missing, and the server does not know the worker that reads.
            DriverError: The first error reply that can't be cured here, or the failure of a cure.
        """
        for _ in range(2):  # first a script may be missing, then a group
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
        lack_script = [command for command, reply in failed if isinstance(reply, redis_errors.NoScriptError)]
        workers = {
            command.worker for command, reply in failed if not isinstance(reply, redis_errors.NoScriptError)
        }
        joins = [self._make_groups(worker) for worker in workers]
        scripts = {command.script for command in [*lack_script, *joins] if command.script}
        return [*(Command(["SCRIPT", "LOAD", script.source], bytes) for script in scripts), *joins]

    def _make_groups(self, worker: str) -> Command[None]:
        """Create the groups that are missing, for a worker that has joined before."""

        def parse(reply: Any) -> None:
            if reply == b"FENCED":
                raise Fenced(worker)

        return self.run("join", [worker, "", "", str(LAYOUT), str(READS), self.now], parse)


def value_of(command: Command[T], reply: Any) -> T:
    """Return the parsed reply; raise an error reply as a DriverError."""
    if not isinstance(reply, Exception):
        return command.parse(reply)
    error = translate(reply)
    if isinstance(error, QueueFull) and command.when_full is not None:
        return command.when_full
    if command.when_refused is not None and not isinstance(error, Unavailable):
        return command.when_refused
    raise error from reply  # MOVED has an address


def _is_curable(command: Command[Any], reply: Any) -> bool:
    if isinstance(reply, redis_errors.NoScriptError):
        return True
    # An operator's plain command creates no groups.
    is_workers = bool(command.worker or command.script)
    return is_workers and isinstance(reply, redis_errors.ResponseError) and "NOGROUP" in str(reply)


_NO_WORKER = (b"", b"released", b"alone", b"parked")  # consumers whose jobs are ready, not running


def is_waiting(consumer: bytes) -> bool:
    """Whether a job that this consumer holds is ready; see lua/include/is_waiting."""
    return consumer in _NO_WORKER or consumer.startswith(b"line:")


def running_of(consumers: Mapping[bytes, int], but: bytes = b"") -> int:
    """Count the running jobs among those that consumers have pending, except those of one worker."""
    return sum(many for name, many in consumers.items() if name != but and not is_waiting(name))


def hello() -> Command[None]:
    """Ask the server for its name and version; needs no permission. Parsing raises ServerTooOld for an old one.

    It raises DriverError for a sentinel.
    """
    return Command(["HELLO"], _check_server)


def _check_server(reply: Any) -> None:
    flat = [part for pair in reply.items() for part in pair] if isinstance(reply, dict) else reply
    texts = [part.decode() if isinstance(part, bytes) else str(part) for part in flat]
    facts = dict(zip(texts[::2], texts[1::2], strict=False))
    if facts.get("mode") == "sentinel":
        raise is_a_sentinel()
    name, version = facts.get("server", "redis"), facts.get("version", "0")
    floor = _FLOORS.get(name, (7, 0))
    # A server of another name must meet Redis' floor: such servers report the Redis version they are like.
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < floor:
        raise ServerTooOld(f"the server is {name} {version}; {NEEDED}")


def run_id() -> Command[str]:
    """Ask which server has answered the commands before this one: it gave itself a name as it started.

    '' if `INFO` is not allowed, or has no such name.
    """

    def parse(reply: Any) -> str:
        raw = reply if isinstance(reply, bytes) else str(reply).encode()
        # Not decoded as a whole: paths of the server stand there too, and need not be UTF-8.
        found = re.search(rb"^run_id:(\w+)", raw, re.MULTILINE)
        return found[1].decode() if found else ""

    return Command(["INFO", "server"], parse, when_refused="", looks_back=True)


def loss_warning() -> Command[str]:
    """Ask how the server can lose jobs; parses to a warning, or ''."""

    def parse(reply: Any) -> str:
        text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
        warnings, policy = list[str](), re.search(r"maxmemory_policy:(\S+)", text)
        if policy is not None and policy[1] != "noeviction":
            warnings.append(
                f"the server evicts keys when memory runs out (maxmemory-policy {policy[1]}): jobs can vanish; "
                "set it to noeviction"
            )
        # A server shows the second field only if it is configured to need replicas.
        if re.search(r"connected_slaves:[1-9]", text) and "min_slaves_good_slaves" not in text:
            warnings.append(
                "the server has replicas, and takes writes that no replica has (min-replicas-to-write 0): a "
                "failover can lose jobs, all that are pushed to a primary that is cut off; set it to 1"
            )
        return "; ".join(warnings)

    return Command(["INFO", "memory", "replication"], parse)
