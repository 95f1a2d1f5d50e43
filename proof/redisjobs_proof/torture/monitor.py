"""Waits in the torture's main thread; meanwhile it restarts workers and shows the progress."""

import time
from collections.abc import Callable
from contextlib import suppress

from redisjobs.errors import DriverError
from redisjobs.events.recording import Recording
from redisjobs.model.queries import Counts
from redisjobs_proof.torture.nemesis import System

_TICK = 0.05  # seconds
_STALL = 0.5  # seconds of delay that we record as a stall of this machine
_SHOW = 0.5  # seconds between two lines of progress
_SHOWN = {"pushed": "pushed", "completed": "done", "dead": "dead", "cancelled": "cancelled"}


class Monitor:
    """Waits. Meanwhile it restarts workers that ended, does the late acts of faults, and shows the progress.

    Args:
        system: The fleet and the stores.
        recording: For stalls and the notes of faults.
        show: Called with each line of progress.

    Attributes:
        faults: How many faults have happened.
        now: The faults that are in force, or what the torture waits for; '' for neither.
    """

    def __init__(self, system: System, recording: Recording, show: Callable[[str], object]) -> None:
        self.faults = 0
        self.now = ""
        self._system, self._recording, self._show = system, recording, show
        self._counts: list[Counts] = []
        self._started = self._shown = time.monotonic()

    def pause(self, seconds: float) -> None:
        """Wait for this many seconds."""
        self.until(lambda: False, seconds)

    def until(self, condition: Callable[[], object], seconds: float, what: str = "") -> bool:
        """Wait until a condition holds, for this many seconds at most; return whether it holds.

        It does not hold while it raises DriverError. `what` is shown meanwhile and afterwards.
        """
        end = time.monotonic() + seconds
        self.now = what or self.now
        while True:
            with suppress(DriverError):
                if condition():
                    return True
            left = end - time.monotonic()
            if left <= 0:
                return False
            self._look()
            before = time.monotonic()
            time.sleep(min(_TICK, left))
            if (late := time.monotonic() - before) > _STALL:
                self._note_stall(late)

    def write_notes(self) -> None:
        """Record the notes of faults."""
        for note in self._system.notes:
            self._recording.write(note)
        self._system.notes.clear()

    def _look(self) -> None:
        self._system.fleet.tend()
        self._system.tend()
        self._system.look_for_fenced()
        if time.monotonic() - self._shown > _SHOW:
            self._shown = time.monotonic()
            with suppress(DriverError):  # a fault may have cut us off
                self._counts = [store.counts() for store in self._system.stores]
            self._show(self._line())

    def _line(self) -> str:
        parts = [f"{time.monotonic() - self._started:5.0f} s"]
        for key, label in _SHOWN.items() if self._counts else ():
            parts.append(f"{sum(counts.totals.get(key, 0) for counts in self._counts)} {label}")
        parts += [f"{self.faults} faults"]
        return "  ".join(parts) + (f"  now: {self.now}" if self.now else "")

    def _note_stall(self, seconds: float) -> None:
        """Record that this process did not get to run. Leases may have run out, so jobs may run again."""
        now = time.time()
        line = {"what": "stall", "name": "machine stood still", "at": now, "began": now - seconds, "ended": now}
        self._recording.write(line | {"lingers": 0.0, "reaches": 0.0, "hits": "all", "db": None, "pids": []})
