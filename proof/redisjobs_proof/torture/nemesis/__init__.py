"""The nemesis of a torture: its fault injector. Each fault can begin and end, and says what recovery means."""

import os
import signal
from collections.abc import Sequence
from contextlib import suppress

from redisjobs.errors import DriverError
from redisjobs_proof.torture.fleet.redis_store import RedisStore
from redisjobs_proof.torture.nemesis import (
    answers,
    backends,
    entries,
    handlers,
    keys,
    network,
    owners,
    processes,
    promoting,
    records,
    schema,
    servers,
    sessions,
    stops,
)
from redisjobs_proof.torture.nemesis.fault import Fault, System
from redisjobs_proof.torture.topology import ask

__all__ = ["FAULTS", "PAIRABLE", "POSTGRES_FAULTS", "Fault", "System", "duration", "heal"]

_EVERYWHERE: Sequence[type[Fault]] = (
    processes.KillWorker,
    processes.KillChild,
    processes.KillHost,
    processes.FreezeWorker,
    processes.FreezeInTurn,
    processes.StopWorker,
    processes.RollBack,
    processes.KillParent,
    processes.AskToStop,
    processes.QuietWorker,
    handlers.PushPoison,
    handlers.TwoKillers,
    handlers.BlockLoop,
    handlers.RaiseAnything,
    entries.PutMalformed,
    entries.PutHostile,
    entries.PutSteep,
    entries.PutTraces,
    entries.PublishAnything,
    network.ResetConnections,
    network.RefuseConnections,
    network.BlackHole,
    network.SlowNetwork,
    network.CutClaim,
    network.LateClaim,
    network.CutSettlement,
    network.CutReclaim,
    network.CutBeat,
    network.SlowBeat,
    network.CutPush,
    network.LateBytes,
    network.CutFire,
    network.LateFire,
    stops.PauseQueue,
    stops.PauseName,
    stops.HoldJobs,
    stops.ManyLines,
)
FAULTS: Sequence[type[Fault]] = (
    *_EVERYWHERE,
    processes.UpgradeInPlace,
    entries.PutIntoInbox,
    entries.PutOddIds,
    records.DeleteRecord,
    records.RemoveConsumer,
    records.ForgetWorkers,
    records.LoseRecord,
    servers.KillServer,
    servers.KillClients,
    servers.KillListeners,
    servers.FlushScripts,
    servers.SqueezeMemory,
    servers.LimitRequests,
    servers.DestroyGroup,
    servers.SetClockAhead,
    servers.SetClockBack,
    owners.FailOver,
    owners.ForceFailover,
    owners.KillOwner,
    owners.FreezeOwner,
    owners.MoveSlot,
    owners.MigrateSlot,
)
"""The faults of a queue on Redis."""
POSTGRES_FAULTS: Sequence[type[Fault]] = (
    *_EVERYWHERE,
    backends.CrashServer,
    backends.CrashBackend,
    backends.KillBackends,
    backends.KillEars,
    backends.KillPooler,
    backends.FillConnections,
    backends.DatabaseAhead,
    backends.DatabaseBack,
    backends.DeleteWorkerRow,
    backends.LoseWorkerRows,
    backends.ForgetBeats,
    sessions.HoldSnapshot,
    sessions.LeaveTransactionOpen,
    sessions.LockInDisorder,
    sessions.RaiseIsolation,
    sessions.IdleAtFence,
    answers.FreezeAtClaim,
    keys.HoldKeys,
    promoting.PromoteStandby,
    schema.PutRows,
    schema.Migrate,
    schema.AddColumn,
    schema.TwoReleases,
    schema.Maintain,
)
"""The faults of a queue on Postgres."""
PAIRABLE = tuple(
    fault.name
    for fault in (
        processes.KillWorker,
        processes.KillChild,
        processes.KillHost,
        processes.StopWorker,
        handlers.PushPoison,
    )
)
"""Faults that may come together with another fault that is not in this list."""


def duration(fault: type[Fault], lease: float) -> float:
    """Return the seconds that a fault is in force."""
    return fault.in_leases * lease if fault.in_leases else fault.holds


def heal(system: System) -> None:
    """Undo all faults that may be in force."""
    system.over = True
    for proxy in (system.workers, system.producers, *(each for front in system.fronts.values() for each in front)):
        if proxy is not None:
            proxy.black_hole(False)
            proxy.refuse(False)
            proxy.delay(0)
            proxy.delay_reply_no_more()
    is_redis = isinstance(system.store, RedisStore)
    for each in [system.own] if system.topology is None else system.topology.servers:
        if each is not None and is_redis:
            with suppress(DriverError):
                ask(each, "CONFIG", "SET", "maxmemory", "0")
    for store in system.stores:
        with suppress(DriverError):
            store.set_clock(0)
        stops.resume(store)
    for pid in system.fleet.pids():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    system.fleet.thaw()
