"""The progress of a torture, in one line."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from redisjobs.errors import DriverError
from redisjobs.model.queries import Counts
from redisjobs.torture.fleet.store import Store

_EVERY = 0.5  # seconds between two lines
_SHOWN = {"pushed": "pushed", "completed": "done", "dead": "dead", "cancelled": "cancelled"}


class Progress:
    """Shows the time, the counters of all databases, and what is going on.

    Attributes:
        faults: How many have happened.
        now: What is going on: faults, or what is waited for; '' for nothing.
    """

    def __init__(self, stores: Sequence[Store], show: Callable[[str], object]) -> None:
        self.faults = 0
        self.now = ""
        self._stores, self._show = stores, show
        self._counts: list[Counts] = []
        self._started = self._shown = time.monotonic()

    def tend(self) -> None:
        """Show a line if it is time for one."""
        if time.monotonic() - self._shown > _EVERY:
            self._shown = time.monotonic()
            with suppress(DriverError):  # a fault may have taken it away
                self._counts = [store.counts() for store in self._stores]
            self._show(self._line())

    def _line(self) -> str:
        elapsed = time.monotonic() - self._started
        parts = [f"{elapsed:5.0f} s"]
        for key, label in _SHOWN.items() if self._counts else ():
            parts.append(f"{sum(counts.totals.get(key, 0) for counts in self._counts)} {label}")
        parts += [f"{self.faults} faults"]
        return "  ".join(parts) + (f"  now: {self.now}" if self.now else "")
