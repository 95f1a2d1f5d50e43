"""One torture, from the first worker's start to the last one's end."""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from redisjobs.driver import Counts
from redisjobs.errors import DriverError, RedisJobsError
from redisjobs.recording import Recording
from redisjobs.torture import lines, nemesis
from redisjobs.torture.fleet import Fleet
from redisjobs.torture.nemesis import Fault, Field, duration
from redisjobs.torture.place import Place
from redisjobs.torture.plan import Planned, plan
from redisjobs.torture.producers import Producers
from redisjobs.torture.store import Final

LEASE = 2.0
"""The shorter of the workers' leases, in seconds: short, so that many faults fit in."""

_RATE = 120.0  # jobs a second
_TICK = 0.05  # seconds
_MOMENT = 0.3  # seconds for workers to take what a fault has prepared
_TRIES = 3  # at a fault that comes alone, until it finds something to harm
_CHANCE = 4.0  # seconds more for a fault that has had nothing to harm so far
_STALL = 0.5  # seconds late from which on this machine is said to have stood still
_DRAIN = 90.0  # seconds that all work may take to drain once the faults are over
_LATE = 60.0  # seconds that what comes after its fault may take
_WARM_UP = 20.0  # seconds that the workers may take to start


class Torture:
    """One run, from the first worker's start to the last one's end.

    Attributes:
        finals: What was in each database at its end.
        wrong: What went wrong that no recording tells.
        seconds: How long it took.
    """

    def __init__(
        self,
        place: Place,
        directory: Path,
        seed: int,
        length: float,
        show: Callable[[str], object],
        kinds: Sequence[type[Fault]],
    ) -> None:
        self.place, self.seed, self.length, self.show = place, seed, length, show
        self.directory = directory
        self.recording = Recording(directory)
        self.kinds = kinds
        self.fleet = Fleet(place.urls(place.workers), place.queue, directory, LEASE, random.Random(seed))
        lease = self.fleet.longest_lease
        self.field = Field(self.fleet, place.stores, lease, place.workers, place.producers, place.own)
        self.counts: list[Counts] = []
        self.faults = 0
        self.in_force = ""
        self.finals: list[Final] = []
        self.wrong: list[str] = []
        self.seconds = 0.0

    def lines(self) -> list[dict[str, Any]]:
        """All recordings."""
        return list(lines.read(self.directory))

    def go(self) -> None:
        """Run it all."""
        self.started = self.looked = time.monotonic()
        urls = self.place.urls(self.place.producers)
        producers = Producers(urls, self.place.queue, self.recording, seed=self.seed, rate=_RATE)
        with self.field, self.fleet:
            self.fleet.start()
            if not self._until(lambda: self.fleet.complete, _WARM_UP, "the workers start"):
                raise RedisJobsError(f"the workers did not start in {_WARM_UP:g} s:\n{self.fleet.log_end()}")
            with producers:
                self._harm()
                self._heal()
            self.wrong += producers.errors
            if not self._until(lambda: not self.field.late, _LATE, "late bytes arrive"):
                self.wrong.append(f"{len(self.field.late)} jobs did not end in {_LATE:g} s")
            if not self._until(self._drained, _DRAIN, "the rest drains"):
                self.wrong.append(f"the queue did not drain in {_DRAIN:g} s")
            self.fleet.dismiss()
            self.field.look_for_fenced()
            self._write_notes()
            self.wrong += [*self.fleet.unasked, *self.fleet.complaints()]
        self.finals = [store.final() for store in self.place.stores]
        self.seconds = time.monotonic() - self.started

    # Faults

    def _harm(self) -> None:
        kinds = {fault.name: fault for fault in self.kinds if fault.possible(self.field)}
        schedule = plan(
            self.seed,
            self.length,
            {name: duration(fault, self.field.lease) for name, fault in kinds.items()},
            [name for name in nemesis.COMPANY if name in kinds],
            [name for name, fault in kinds.items() if fault.alone],
        )
        began = time.monotonic()
        for planned in schedule:
            self._pause(began + planned.at - time.monotonic())
            for _ in range(_TRIES if len(planned.names) == 1 else 1):
                if self._commit(planned, [kinds[name]() for name in planned.names]):
                    break
        self._pause(began + self.length - time.monotonic())

    def _commit(self, planned: Planned, faults: list[Fault]) -> bool:
        """Let faults happen; whether any did."""
        self.in_force = " and ".join(planned.names)
        self.field.rng.seed(planned.seed)
        self.fleet.rng.seed(planned.seed)
        begun = []
        for fault in faults:
            self._until(partial(fault.is_possible_now, self.field), _WARM_UP)
        for fault in faults:
            with suppress(DriverError):
                fault.prepare(self.field)
        self._pause(_MOMENT)
        for fault in faults:
            at = time.time()
            with suppress(DriverError):  # the other fault keeps this one from happening
                fault.begin(self.field)
                begun.append((fault, at))
        end = time.monotonic() + planned.holds
        self._keep(begun, lambda: time.monotonic() < end)
        if len(begun) == 1:  # one that waits for its chance may take longer
            end += _CHANCE
            self._keep(begun, lambda: time.monotonic() < end and not begun[0][0].happened)
        for fault, at in begun:
            undone = time.time()
            fault.end(self.field)
            if fault.happened:
                self._note_fault(fault, at, undone)
        self._write_notes()
        self.in_force = ""
        return any(fault.happened for fault, _ in begun)

    def _write_notes(self) -> None:
        for note in self.field.notes:
            self.recording.write(note)
        self.field.notes.clear()

    def _keep(self, begun: list[tuple[Fault, float]], lasts: Callable[[], bool]) -> None:
        while lasts():
            for fault, _ in begun:
                with suppress(DriverError):
                    fault.keep(self.field)
            self._pause(0.1)

    def _note_fault(self, fault: Fault, began: float, undone: float) -> None:
        """Write it down; `undone` is when it began to be undone: by its end, all may be well again."""
        self.faults += 1
        now = time.time()
        line = {"what": "fault", "at": began, "began": began, "ended": now, "workers": self.fleet.staying()}
        self.recording.write(line | {"undone": undone} | fault.facts)

    def _heal(self) -> None:
        self.in_force = "none any more"
        nemesis.heal(self.field)

    # Waiting, and seeing to things meanwhile

    def _pause(self, seconds: float) -> None:
        self._until(lambda: False, seconds)

    def _until(self, condition: Callable[[], object], seconds: float, what: str = "") -> bool:
        end = time.monotonic() + seconds
        if what:
            self.in_force = what
        while not condition():
            left = end - time.monotonic()
            if left <= 0:
                return False
            self._look()
            before = time.monotonic()
            time.sleep(min(_TICK, left))
            if (late := time.monotonic() - before) > _STALL:
                self._note_stall(late)
        return True

    def _note_stall(self, seconds: float) -> None:
        """Leases run out where nobody gets to run: that is no fault of ours, and explains what follows."""
        now = time.time()
        line = {"what": "stall", "name": "machine stood still", "at": now, "began": now - seconds, "ended": now}
        self.recording.write(line | {"lingers": 0.0, "reaches": 0.0, "hits": "all", "db": None, "pids": []})

    def _look(self) -> None:
        self.fleet.tend()
        self.field.tend()
        self.field.look_for_fenced()
        if time.monotonic() - self.looked > 0.5:
            self.looked = time.monotonic()
            with suppress(DriverError):  # it may be away, as we see to it that it is
                self.counts = [store.counts() for store in self.place.stores]
            self.show(self._line())

    def _line(self) -> str:
        elapsed = time.monotonic() - self.started
        parts = [f"{elapsed:5.0f} s"]
        for key, label in _SHOWN.items() if self.counts else ():
            parts.append(f"{sum(counts.totals.get(key, 0) for counts in self.counts)} {label}")
        parts += [f"{self.faults} faults"]
        return "  ".join(parts) + (f"  now: {self.in_force}" if self.in_force else "")

    def _drained(self) -> bool:
        return all(store.drained for store in self.place.stores)


_SHOWN = {"pushed": "pushed", "completed": "done", "dead": "dead", "cancelled": "cancelled"}
