"""Several servers that work together: a cluster, or a master with replicas and the sentinels that watch it."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Self

from redisjobs.drivers.redis.commands import Command, Commands
from redisjobs.drivers.redis.locator import SLOTS, slot_of
from redisjobs.drivers.redis.sync_connection import SyncConnection
from redisjobs.drivers.redis.target import Target
from redisjobs.errors import DriverError
from redisjobs.local import server

_READY = 30.0  # seconds that servers may take to agree
_PAUSE = 0.02
_MOVED = 50  # keys that are moved in one call
_MOVED_WITHIN_MS = "5000"
NODE_TIMEOUT_MS = 1000
"""How long a node of a cluster is silent before the others count it as down."""

DOWN_AFTER_MS = 1500
"""How long a master is silent before a sentinel counts it as down. With 700 ms, sentinels fail over twice."""


class Topology(ABC):
    """Servers that work together. As a context manager it stops them.

    Attributes:
        servers: The servers that have data.
        url: Where a queue finds its server.
    """

    url = ""

    def __init__(self) -> None:
        self.servers: list[server.Server] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop all servers."""
        for each in self._all():
            with suppress(ProcessLookupError):
                each.stop()

    @abstractmethod
    def owner(self, queue: str) -> server.Server:
        """Return the server that has the keys of a queue.

        Raises:
            LookupError: No server knows.
        """

    def _all(self) -> Iterator[server.Server]:
        yield from self.servers

    def _at(self, port: int) -> server.Server:
        return next(each for each in self.servers if each.port == port)


class Cluster(Topology):
    """A cluster of three primaries with a replica each.

    Args:
        binary: The program. Defaults to what `server.find` finds.
        options: Options for all nodes.
    """

    def __init__(self, binary: server.Binary | None = None, options: Sequence[str] = ()) -> None:
        super().__init__()
        try:
            for _ in range(6):
                self.servers.append(server.start(binary, options=[*_cluster_options(), *options]))
            self._join()
        except BaseException:
            self.stop()
            raise
        self.url = "redis+cluster://" + ",".join(f"{server.HOST}:{each.port}" for each in self.servers)

    def owner(self, queue: str) -> server.Server:  # noqa: D102
        slot = slot_of(queue)
        for each in self.servers:
            with suppress(DriverError):
                for begin, end, owner, *_ in ask(each, "CLUSTER", "SLOTS"):
                    if begin <= slot <= end:
                        return self._at(owner[1])
        raise LookupError(f"no node says who owns slot {slot}")

    def replicas_of(self, primary: server.Server) -> list[server.Server]:
        """Return the replicas of a node, as they say."""
        found = []
        for each in self.servers:
            with suppress(DriverError):
                facts = replication(each)
                if facts["role"] == "slave" and facts["master_port"] == str(primary.port):
                    found.append(each)
        return found

    def another_primary(self, owner: server.Server) -> server.Server:
        """Return a primary that is not this one."""
        return next(each for each in self.servers if each is not owner and replication(each)["role"] == "master")

    def _join(self) -> None:
        first, primaries, replicas = self.servers[0], self.servers[:3], self.servers[3:]
        for number, each in enumerate(self.servers):
            ask(each, "CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
            if each in primaries:
                begin, end = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
                ask(each, "CLUSTER", "ADDSLOTSRANGE", str(begin), str(end))
            if each is not first:
                bus = ask(each, "CONFIG", "GET", "cluster-port")[1]
                ask(first, "CLUSTER", "MEET", server.HOST, str(each.port), bus)
        until(lambda: all(_info(each)["cluster_known_nodes"] == "6" for each in self.servers), "the nodes met")
        for primary, replica in zip(primaries, replicas, strict=True):
            name = ask(primary, "CLUSTER", "MYID")
            until(partial(ask, replica, "CLUSTER", "REPLICATE", name), "the replicas know the primaries")
        until(lambda: all(_info(each)["cluster_state"] == "ok" for each in self.servers), "the cluster is ok")
        until(lambda: all(map(is_in_step, replicas)), "the replicas are in step")


class Sentinels(Topology):
    """A master with two replicas, and three sentinels that watch it.

    Args:
        binary: The program. Defaults to what `server.find` finds.
        options: Options for the servers that have data.

    Attributes:
        sentinels: The sentinels.
        name: The name of the master.
    """

    name = "jobs"

    def __init__(self, binary: server.Binary | None = None, options: Sequence[str] = ()) -> None:
        super().__init__()
        self.sentinels: list[server.Server] = []
        try:
            master = server.start(binary, options=[*_REPLICATION, *options])
            self.servers.append(master)
            for _ in range(2):
                of = ["--replicaof", f"{server.HOST} {master.port}"]
                self.servers.append(server.start(binary, options=[*_REPLICATION, *of, *options]))
            for _ in range(3):
                self.sentinels.append(_Sentinel(binary or server.find(), None, server.free_port(), []))
            self._watch(master)
        except BaseException:
            self.stop()
            raise
        hosts = ",".join(f"{server.HOST}:{each.port}" for each in self.sentinels)
        self.url = f"redis+sentinel://{hosts}/{self.name}/0"

    def owner(self, queue: str = "") -> server.Server:  # noqa: D102
        for each in self.sentinels:
            with suppress(DriverError):
                return self._at(int(ask(each, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)[1]))
        raise LookupError(f"no sentinel knows the master {self.name!r}")

    def fail_over(self) -> None:
        """Have the sentinels promote a replica, though the master lives; return when they have begun."""
        # Not just after another failover: the error is INPROG or NOGOODSLAVE then.
        until(partial(ask, self.sentinels[0], "SENTINEL", "FAILOVER", self.name), "a sentinel may fail over")

    def _all(self) -> Iterator[server.Server]:
        yield from self.servers
        yield from self.sentinels

    def _watch(self, master: server.Server) -> None:
        options = {"down-after-milliseconds": DOWN_AFTER_MS, "failover-timeout": 10_000, "parallel-syncs": 2}
        for each in self.sentinels:
            ask(each, "SENTINEL", "MONITOR", self.name, server.HOST, str(master.port), "2")
            for option, value in options.items():
                ask(each, "SENTINEL", "SET", self.name, option, str(value))
        until(lambda: all(map(is_in_step, self.servers[1:])), "the replicas are in step")
        until(lambda: all(map(self._sees_all, self.sentinels)), "the sentinels know all")

    def _sees_all(self, sentinel: server.Server) -> bool:
        reply = ask(sentinel, "SENTINEL", "MASTER", self.name)
        facts = dict(zip(reply[::2], reply[1::2], strict=True))
        return bool(facts[b"num-other-sentinels"] == b"2" and facts[b"num-slaves"] == b"2")


class _Sentinel(server.Server):
    def _command(self) -> list[str]:
        file = self.directory / "sentinel.conf"
        if not file.exists():
            file.write_text(f"port {self.port}\nbind {server.HOST}\ndir {self.directory}\n", "utf-8")
        return [self.binary.path, str(file), "--sentinel"]

    def _is_ready(self) -> bool:
        return "Sentinel ID is" in self._log()


# A full copy starts at once, and a replica notices soon that its primary is gone.
_REPLICATION = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")


def _cluster_options() -> list[str]:
    options = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)]
    # Else the bus is at the port + 10,000, which is where outgoing connections are.
    return [*options, "--cluster-port", str(server.free_port()), *_REPLICATION]


def ask(one: server.Server, *words: str | bytes) -> Any:
    """Send a command to one server, which may be a sentinel; return the reply.

    Raises:
        DriverError: It refuses the command, or does not answer.
    """
    connection = SyncConnection(Commands("none"), Target(f"redis://{server.HOST}:{one.port}"))
    try:
        return connection.run(Command(words))
    finally:
        connection.close()


def begin_move(slot: int, owner: server.Server, to: server.Server) -> None:
    """Let a slot be on its way to another primary, with its keys where they were. May be called again."""
    names = [ask(each, "CLUSTER", "MYID") for each in (owner, to)]
    ask(to, "CLUSTER", "SETSLOT", str(slot), "IMPORTING", names[0])
    ask(owner, "CLUSTER", "SETSLOT", str(slot), "MIGRATING", names[1])


def end_move(slot: int, owner: server.Server, to: server.Server) -> None:
    """Move the keys of a slot that is on its way, and give the slot away. May be called again after an error."""
    while keys := ask(owner, "CLUSTER", "GETKEYSINSLOT", str(slot), str(_MOVED)):
        # An earlier try may have left a key in both: clients used that of the owner.
        ask(owner, "MIGRATE", server.HOST, str(to.port), "", "0", _MOVED_WITHIN_MS, "REPLACE", "KEYS", *keys)
    for each in (to, owner):
        ask(each, "CLUSTER", "SETSLOT", str(slot), "NODE", ask(to, "CLUSTER", "MYID"))


def move_at_once(slot: int, owner: server.Server, to: server.Server) -> None:
    """Begin to copy a slot to another primary, which takes it over in one step. Only Valkey 9 can do that."""
    node = ask(to, "CLUSTER", "MYID")
    ask(owner, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", str(slot), str(slot), "NODE", node)


def until(holds: Callable[[], object], what: str) -> None:
    """Wait until something holds; a server's error means that it does not yet."""
    deadline = time.monotonic() + _READY
    while True:
        with suppress(DriverError):
            if holds():
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {_READY:g} s: {what}")
        time.sleep(_PAUSE)


def replication(one: server.Server) -> dict[str, str]:
    """Return what a server says of its replication."""
    return _fields(ask(one, "INFO", "replication"))


def is_in_step(replica: server.Server) -> bool:
    """Whether a replica is connected to its primary and has its data."""
    return replication(replica).get("master_link_status") == "up"


def _info(one: server.Server) -> dict[str, str]:
    return _fields(ask(one, "CLUSTER", "INFO"))


def _fields(reply: bytes) -> dict[str, str]:
    return dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)
