"""The faults. Each knows how to begin, how to end, and what recovery from it means."""

import os
import signal
from collections.abc import Sequence
from contextlib import suppress

from redisjobs.errors import DriverError
from redisjobs.torture.nemesis.entries import PutHostile, PutIntoInbox, PutMalformed, PutSteep, SayAnything
from redisjobs.torture.nemesis.fault import Fault, System
from redisjobs.torture.nemesis.handlers import BlockLoop, PushPoison, RaiseAnything, TwoKillers
from redisjobs.torture.nemesis.network import (
    BlackHole,
    CutBeat,
    CutClaim,
    CutFire,
    CutPush,
    CutReclaim,
    CutSettlement,
    LateBytes,
    LateClaim,
    LateFire,
    RefuseConnections,
    ResetConnections,
    SlowBeat,
    SlowNetwork,
)
from redisjobs.torture.nemesis.processes import (
    FreezeInTurn,
    FreezeWorker,
    KillChild,
    KillHost,
    KillWorker,
    RollBack,
    StopWorker,
    UpgradeInPlace,
)
from redisjobs.torture.nemesis.records import DeleteRecord, ForgetWorkers, LoseRecord, RemoveConsumer
from redisjobs.torture.nemesis.servers import (
    DestroyGroup,
    FlushScripts,
    KillClients,
    KillListeners,
    KillServer,
    SetClockAhead,
    SetClockBack,
    SqueezeMemory,
)
from redisjobs.torture.nemesis.stops import HoldJobs, ManyLines, PauseName, PauseQueue, resume

__all__ = ["FAULTS", "PAIRABLE", "Fault", "System", "duration", "heal"]

FAULTS: Sequence[type[Fault]] = (
    *(KillWorker, KillChild, KillHost, FreezeWorker, FreezeInTurn, StopWorker, UpgradeInPlace),
    RollBack,
    *(PushPoison, TwoKillers, BlockLoop, RaiseAnything),
    *(PutMalformed, PutHostile, PutSteep, PutIntoInbox, SayAnything),
    *(DeleteRecord, RemoveConsumer, ForgetWorkers, LoseRecord),
    *(
        KillServer,
        KillClients,
        KillListeners,
        FlushScripts,
        SqueezeMemory,
        DestroyGroup,
        SetClockAhead,
        SetClockBack,
    ),
    *(ResetConnections, RefuseConnections, BlackHole, SlowNetwork, CutClaim, LateClaim, CutSettlement),
    *(CutReclaim, CutBeat, SlowBeat, CutPush, LateBytes, CutFire, LateFire),
    *(PauseQueue, PauseName, HoldJobs, ManyLines),
)
PAIRABLE = tuple(fault.name for fault in (KillWorker, KillChild, KillHost, StopWorker, PushPoison))
"""Those that may come together with one that is not of these."""


def duration(fault: type[Fault], lease: float) -> float:
    """Seconds that a fault is in force for."""
    return fault.in_leases * lease if fault.in_leases else fault.holds


def heal(system: System) -> None:
    """Undo whatever may be in force."""
    system.over = True
    for proxy in (system.workers, system.producers):
        if proxy is not None:
            proxy.black_hole(False)
            proxy.refuse(False)
            proxy.delay(0)
            proxy.delay_reply_no_more()
    if system.own is not None:
        with suppress(DriverError):
            system.store.run("CONFIG", "SET", "maxmemory", "0")
    for store in system.stores:
        with suppress(DriverError):
            store.set_clock(0)
        resume(store)
    for pid in system.fleet.pids():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    for host in system.fleet.hosts:
        host.frozen = False
