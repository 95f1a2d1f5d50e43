"""Faults of the server that owns a queue, where several servers work together: another one becomes the owner.

Replication is asynchronous. An owner that dies takes with it what it had acknowledged, and not yet sent to the
replica that takes over. So a fault that does not wait for the replica is `lossy` until there is a new owner.
"""

import os
import signal
import time
from abc import abstractmethod
from contextlib import suppress
from typing import ClassVar

from redisjobs.drivers.redis.locator import slot_of
from redisjobs.errors import DriverError
from redisjobs.local import server
from redisjobs_proof.torture.nemesis.fault import Fault, System
from redisjobs_proof.torture.topology import (
    Cluster,
    Sentinels,
    ask,
    begin_move,
    end_move,
    is_in_step,
    move_at_once,
    replication,
)

_BEHIND = 1.0  # seconds that a replica may be behind
_TOLD = 1.0  # seconds in which clients learn from sentinels that there is a new master
_GOES_ON = 1.0  # seconds from a new owner until the frozen one goes on
_AGAIN = 5.0  # seconds after which servers are asked again: they may have refused, or given up


class OwnerFault(Fault):
    """Another server becomes the owner.

    Attributes:
        old: The owner before.
        taken_over: When another one was seen to be the owner; 0 if none was.
        asks: Whether it asks servers to act, which they may refuse or give up.
    """

    asks: ClassVar[bool] = False
    recovery = "workers"
    unsteady = True
    reaches = 3.0  # an answer is waited for 2 s; the longest pause between two tries is 1 s
    lingers = 3.0

    def __init__(self) -> None:
        super().__init__()
        self.taken_over = 0.0

    @classmethod
    def possible(cls, system: System) -> bool:  # noqa: D102
        return system.topology is not None

    def begin(self, system: System) -> None:  # noqa: D102
        assert system.topology is not None
        assert system.own is not None
        self.old, servers = system.own, system.topology.servers
        # The one that may not answer is asked last who the owner is.
        servers.sort(key=lambda each: each is self.old)
        self.detail = f"port {self.old.port}"
        self._harm(system)

    @abstractmethod
    def harm(self, system: System) -> None:
        """Make another server the owner, or let that happen."""

    def keep(self, system: System) -> None:  # noqa: D102
        assert system.topology is not None
        if not self.taken_over:
            with suppress(LookupError, DriverError):
                owner = system.topology.owner(system.fleet.queue)
                if owner is not self.old and replication(owner)["role"] == "master":
                    self.taken_over = time.time()
                    self.detail += f", then port {owner.port}"
        if self.asks and not self.taken_over and time.monotonic() > self.harmed_at + _AGAIN:
            self._harm(system)

    def _harm(self, system: System) -> None:
        self.harmed_at = time.monotonic()
        try:
            self.harm(system)
        except DriverError:
            if not self.asks:
                raise

    def may_end(self, system: System) -> bool:  # noqa: D102
        self.keep(system)
        return self.taken_over > 0

    def is_undone(self, system: System) -> bool:
        """Whether the owner has its replicas again, and all replicas are in step."""
        assert system.topology is not None
        with suppress(LookupError):
            owner = system.topology.owner(system.fleet.queue)
            told = [(each, replication(each)) for each in system.topology.servers]
            own = next(facts for each, facts in told if each is owner)
            replicas = len(told) - 1 if isinstance(system.topology, Sentinels) else 1
            in_step = all(is_in_step(each) for each, facts in told if facts["role"] == "slave")
            return own["role"] == "master" and int(own["connected_slaves"]) >= replicas and in_step
        return False


class FailOver(OwnerFault):
    """A replica takes over in order: the owner waits until it has all its data. So nothing may be lost."""

    name = "owner failed over"
    asks = True

    @classmethod
    def possible(cls, system: System) -> bool:  # noqa: D102
        # Sentinels of Redis, and of Valkey before 9, promote a replica without waiting: see `ForceFailover`.
        return isinstance(system.topology, Cluster) or (
            isinstance(system.topology, Sentinels) and _is_valkey_9(system.topology.servers[0])
        )

    def harm(self, system: System) -> None:  # noqa: D102
        if isinstance(system.topology, Cluster):
            for replica in system.topology.replicas_of(self.old):
                ask(replica, "CLUSTER", "FAILOVER")
        elif isinstance(system.topology, Sentinels):
            ask(system.topology.sentinels[0], "SENTINEL", "FAILOVER", system.topology.name, "COORDINATED")


class ForceFailover(OwnerFault):
    """`SENTINEL FAILOVER`: a replica is promoted at once. The old master takes writes until it learns of that."""

    name = "failover forced"
    asks = True
    alone = True  # the check of replication excuses what is written meanwhile

    @classmethod
    def possible(cls, system: System) -> bool:  # noqa: D102
        return isinstance(system.topology, Sentinels)

    def harm(self, system: System) -> None:  # noqa: D102
        assert isinstance(system.topology, Sentinels)
        asked = [time.time(), float("inf")]
        self.lossy = self.lossy or asked
        ask(system.topology.sentinels[0], "SENTINEL", "FAILOVER", system.topology.name)
        self.lossy = asked  # not from before, when the sentinel refused or gave up

    def end(self, system: System) -> None:  # noqa: D102
        self.lossy = [self.lossy[0], self.taken_over + _TOLD]


class KillOwner(OwnerFault):
    """SIGKILL of the owner. Once its replica has taken over, it starts again, and becomes a replica."""

    name = "owner killed"
    alone = True
    hits = "all"

    def harm(self, system: System) -> None:  # noqa: D102
        self.lossy = [time.time() - _BEHIND, float("inf")]
        self.old.kill()

    def end(self, system: System) -> None:  # noqa: D102
        self.lossy = [self.lossy[0], self.taken_over]
        self.old.restart()


class FreezeOwner(OwnerFault):
    """SIGSTOP of the owner. A moment after its replica has taken over, it goes on, as if it owned the queue."""

    name = "owner frozen"
    alone = True
    hits = "all"

    def harm(self, system: System) -> None:  # noqa: D102
        self.lossy = [time.time() - _BEHIND, float("inf")]
        os.kill(self.old.pid, signal.SIGSTOP)

    def may_end(self, system: System) -> bool:  # noqa: D102
        return super().may_end(system) and time.time() >= self.taken_over + _GOES_ON

    def end(self, system: System) -> None:  # noqa: D102
        self.lossy = [self.lossy[0], self.taken_over]
        os.kill(self.old.pid, signal.SIGCONT)


class MoveSlot(OwnerFault):
    """The queue's slot is moved to another primary of the cluster, key by key."""

    name = "slot moved"
    asks = True  # else a call that fails would leave the slot on its way

    @classmethod
    def possible(cls, system: System) -> bool:  # noqa: D102
        return isinstance(system.topology, Cluster)

    def harm(self, system: System) -> None:  # noqa: D102
        assert isinstance(system.topology, Cluster)
        move = slot_of(system.fleet.queue), self.old, system.topology.another_primary(self.old)
        begin_move(*move)
        end_move(*move)


class MigrateSlot(OwnerFault):
    """`CLUSTER MIGRATESLOTS`: the queue's slot is copied to another primary, which takes it over at once."""

    name = "slot migrated"
    asks = True

    @classmethod
    def possible(cls, system: System) -> bool:  # noqa: D102
        return isinstance(system.topology, Cluster) and _is_valkey_9(system.topology.servers[0])

    def harm(self, system: System) -> None:  # noqa: D102
        assert isinstance(system.topology, Cluster)
        move_at_once(slot_of(system.fleet.queue), self.old, system.topology.another_primary(self.old))


def _is_valkey_9(one: server.Server) -> bool:
    return one.binary.name == "Valkey" and int(one.binary.version.partition(".")[0]) >= 9
