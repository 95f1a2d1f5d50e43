"""Waiting, and looking after workers and faults meanwhile."""

import time
from collections.abc import Callable

from redisjobs.events.recording import Recording
from redisjobs.torture.nemesis import System
from redisjobs.torture.progress import Progress

_TICK = 0.05  # seconds
_STALL = 0.5  # seconds of delay that count as a stall of this machine


class Monitor:
    """Waits; meanwhile starts workers that ended again, does the late acts of faults, and shows the progress."""

    def __init__(self, system: System, recording: Recording, progress: Progress) -> None:
        self._system, self._recording, self._progress = system, recording, progress

    def pause(self, seconds: float) -> None:
        """Wait for this many seconds."""
        self.until(lambda: False, seconds)

    def until(self, condition: Callable[[], object], seconds: float, what: str = "") -> bool:
        """Wait until a condition holds, for this many seconds at most; return whether it holds.

        `what` is shown meanwhile and afterwards; by default the text stays.
        """
        end = time.monotonic() + seconds
        if what:
            self._progress.now = what
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

    def write_notes(self) -> None:
        """Record the notes of faults."""
        for note in self._system.notes:
            self._recording.write(note)
        self._system.notes.clear()

    def _look(self) -> None:
        self._system.fleet.tend()
        self._system.tend()
        self._system.look_for_fenced()
        self._progress.tend()

    def _note_stall(self, seconds: float) -> None:
        """Record that this process did not get to run: leases may have run out, which explains what follows."""
        now = time.time()
        line = {"what": "stall", "name": "machine stood still", "at": now, "began": now - seconds, "ended": now}
        self._recording.write(line | {"lingers": 0.0, "reaches": 0.0, "hits": "all", "db": None, "pids": []})
