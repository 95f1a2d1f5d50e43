"""Waiting, and seeing to things meanwhile."""

import time
from collections.abc import Callable

from redisjobs.events.recording import Recording
from redisjobs.torture.nemesis import System
from redisjobs.torture.progress import Progress

_TICK = 0.05  # seconds
_STALL = 0.5  # seconds late from which on this machine is said to have stood still


class Monitor:
    """Waits, and meanwhile sees to workers that ended, to what faults have left to be done, and to the progress.

    Args:
        field: What it sees to.
        recording: Where it is written down.
        progress: Told of what is waited for.
    """

    def __init__(self, system: System, recording: Recording, progress: Progress) -> None:
        self._system, self._recording, self._progress = system, recording, progress

    def pause(self, seconds: float) -> None:
        """Wait for so long."""
        self.until(lambda: False, seconds)

    def until(self, condition: Callable[[], object], seconds: float, what: str = "") -> bool:
        """Wait until a condition holds, but no longer than so many seconds.

        Args:
            condition: Asked again and again.
            seconds: The most.
            what: What to say of it meanwhile, and afterwards; nothing else than before by default.

        Returns:
            Whether it holds.
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
        """Write down what faults want written down."""
        for note in self._system.notes:
            self._recording.write(note)
        self._system.notes.clear()

    def _look(self) -> None:
        self._system.fleet.tend()
        self._system.tend()
        self._system.look_for_fenced()
        self._progress.tend()

    def _note_stall(self, seconds: float) -> None:
        """Leases run out where nobody gets to run: that is no fault of ours, and explains what follows."""
        now = time.time()
        line = {"what": "stall", "name": "machine stood still", "at": now, "began": now - seconds, "ended": now}
        self._recording.write(line | {"lingers": 0.0, "reaches": 0.0, "hits": "all", "db": None, "pids": []})
