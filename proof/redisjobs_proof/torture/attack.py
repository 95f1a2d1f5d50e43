"""Runs the faults of one torture by a plan, and records them."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from redisjobs.errors import DriverError, RedisJobsError
from redisjobs.events.recording import Recording
from redisjobs_proof.torture import nemesis
from redisjobs_proof.torture.monitor import Monitor
from redisjobs_proof.torture.nemesis import Fault, System, duration
from redisjobs_proof.torture.nemesis.plan import Planned, plan

_MOMENT = 0.3  # seconds for workers to claim the jobs that a fault has prepared
_TRIES = 3  # tries of a fault that comes alone, until it finds something to harm
_CHANCE = 4.0  # more seconds for a fault that has found nothing to harm so far
_POSSIBLE = 20.0  # seconds to wait until a fault has something to harm
_KEEP = 0.1  # seconds between two calls of `keep`
_AGREED = 60.0  # seconds in which servers that work together have to agree again


class Attack:
    """The faults of one torture, by a plan that is drawn from a seed."""

    def __init__(
        self, kinds: Sequence[type[Fault]], system: System, recording: Recording, monitor: Monitor
    ) -> None:
        self._kinds = {fault.name: fault for fault in kinds if fault.possible(system)}
        self._system, self._recording, self._monitor = system, recording, monitor

    def run(self, seed: int, seconds: float) -> None:
        """Run faults for this many seconds; those in force at the end stay in force until `heal`."""
        began = time.monotonic()
        for number, planned in enumerate(self._schedule(seed, seconds)):
            if number >= len(self._kinds) and time.monotonic() > began + seconds:
                break  # servers took long to agree again; in the first round each kind comes all the same
            self._monitor.pause(began + planned.at - time.monotonic())
            for _ in range(_TRIES if len(planned.names) == 1 else 1):
                if self._commit(planned, [self._kinds[name]() for name in planned.names]):
                    break
        self._monitor.pause(began + seconds - time.monotonic())

    def heal(self) -> None:
        """Undo all faults that may be in force."""
        self._monitor.now = "none any more"
        nemesis.heal(self._system)

    def _schedule(self, seed: int, seconds: float) -> list[Planned]:
        return plan(
            seed,
            seconds,
            {name: duration(fault, self._system.lease) for name, fault in self._kinds.items()},
            [name for name in nemesis.PAIRABLE if name in self._kinds],
            [name for name, fault in self._kinds.items() if fault.alone],
        )

    def _commit(self, planned: Planned, faults: list[Fault]) -> bool:
        """Run these faults; return whether any of them did harm."""
        self._monitor.now = " and ".join(planned.names)
        self._system.rng.seed(planned.seed)
        self._system.fleet.rng.seed(planned.seed)
        with suppress(LookupError):
            self._system.follow()
        begun = self._begin(faults)
        end = time.monotonic() + planned.holds
        self._keep(begun, lambda: time.monotonic() < end)
        if len(begun) == 1:  # a fault that comes alone may wait longer for its chance
            end += _CHANCE
            self._keep(begun, lambda: time.monotonic() < end and not begun[0][0].happened)
        for fault, at in begun:
            if not self._monitor.until(partial(fault.may_end, self._system), _AGREED):
                raise RedisJobsError(f"no other server took over within {_AGREED:g} s of '{fault.name}'")
            undone = time.time()
            fault.end(self._system)
            if fault.happened:
                self._note(fault, at, undone)
        self._monitor.write_notes()
        for fault, _ in begun:
            if not self._monitor.until(partial(fault.is_undone, self._system), _AGREED):
                raise RedisJobsError(f"the servers did not agree within {_AGREED:g} s after '{fault.name}'")
        self._monitor.now = ""
        return any(fault.happened for fault, _ in begun)

    def _begin(self, faults: list[Fault]) -> list[tuple[Fault, float]]:
        """Begin faults; return those in force now, and when each began."""
        begun = []
        for fault in faults:
            self._monitor.until(partial(fault.is_possible_now, self._system), _POSSIBLE)
        with suppress(DriverError):
            self._system.push_flows()
        for fault in faults:
            with suppress(DriverError):
                fault.prepare(self._system)
        self._monitor.pause(_MOMENT)
        for fault in faults:
            at = time.time()
            with suppress(DriverError):  # the other fault prevents this one
                fault.begin(self._system)
                begun.append((fault, at))
        return begun

    def _keep(self, begun: list[tuple[Fault, float]], lasts: Callable[[], bool]) -> None:
        while lasts():
            for fault, _ in begun:
                with suppress(DriverError):
                    fault.keep(self._system)
            self._monitor.pause(_KEEP)

    def _note(self, fault: Fault, began: float, undone: float) -> None:
        """Record a fault; `undone` is when we began to end it, from when recovery may be possible."""
        self._monitor.faults += 1
        now, workers = time.time(), self._system.fleet.staying()
        line = {"what": "fault", "at": began, "began": began, "ended": now, "workers": workers}
        self._recording.write(line | {"undone": undone} | fault.facts)
