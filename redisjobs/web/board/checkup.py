"""Runs of the doctor for the page: one at a time a queue, in a thread of this process. The last result is kept."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from redisjobs.client.operation import Operation
from redisjobs.client.registry import Registry
from redisjobs.control.doctor import doctor
from redisjobs.model.health import Finding
from redisjobs.web.board.background import carry_out, in_thread, paced


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of a run.

    Attributes:
        findings: What it found.
        at: When it ended.
        looked: How many things of the queue's data it looked at.
        repaired: Whether it was asked to repair.
    """

    findings: Sequence[Finding]
    at: datetime
    looked: int
    repaired: bool


class Checkup:
    """The doctor of one queue.

    Attributes:
        last: The result of the last run that came to its end; None before that.
        failed: Why the last run did not come to its end; '' if it did, and while one runs.
        is_running: Whether a run goes on.
        done: How many things this run has looked at.
        total: About how many there are.
    """

    def __init__(self, registry: Registry) -> None:
        self.last: Checked | None = None
        self.failed = ""
        self.is_running, self.repairs = False, False
        self.done, self.total = 0, 0
        self._registry = registry
        self._stop, self._lock = threading.Event(), threading.Lock()

    def start(self, *, repair: bool) -> bool:
        """Begin a run; return False if one goes on."""
        with self._lock:
            if self.is_running:
                return False
            self.is_running, self.repairs, self.failed = True, repair, ""
        self.done, self.total = 0, 0
        self._stop.clear()
        in_thread(self._run, "doctor")
        return True

    def stop(self) -> None:
        """End the run after its present step. What is repaired stays so, and the result before is kept."""
        self._stop.set()

    # In the thread

    def _run(self) -> None:
        before = self.last
        failed = carry_out(self._registry, self._steps(), f"a check of queue '{self._registry.name}'")
        self.failed = failed or ("It was stopped." if self.last is before else "")
        self.is_running = False

    def _steps(self) -> Operation[None]:
        found = yield from paced(doctor(self._registry.name, self.repairs, self._progress), self._stop)
        if found is not None:
            self.last = Checked(found, datetime.now(UTC), self.done, self.repairs)

    def _progress(self, done: int, total: int) -> None:
        self.done, self.total = done, total
