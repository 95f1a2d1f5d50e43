"""Pushes one id again and again."""

import threading
import time
from functools import partial
from typing import Any

from redisjobs import sync
from redisjobs.errors import DriverError, QueueFull
from redisjobs_proof.torture.fleet import jobs
from redisjobs_proof.torture.fleet.producer import PAUSE, Producer
from redisjobs_proof.torture.fleet.store import MARK, new_mark
from redisjobs_proof.torture.fleet.waiters import answer

_LOOK = 0.02  # seconds between looks at whether a job has ended
_PATIENCE = 15.0  # seconds to wait for a job's end


class ReusedId:
    """An id that is pushed again and again, each time with a new mark."""

    def __init__(self, producer: Producer, queue: sync.JobQueue, job_id: str) -> None:
        self._producer, self._queue = producer, queue
        self._job_id = job_id
        self._mark = ""

    def push(self, parameters: Any, *, expected: str = "new", **options: Any) -> bool:
        """Push the id; return whether Redis acknowledged it. `expected`: `there` if a job has it, else `new`."""
        mark = new_mark()
        if expected == "new":
            self._mark = mark
        line = {"job": self._job_id, MARK: mark}
        self._producer.note("push", name=parameters.job_name, expected=expected, **line)
        try:
            handle = self._queue.push(parameters, job_id=self._job_id, headers={MARK: mark}, **options)
        except DriverError as error:
            full = isinstance(error, QueueFull)
            self._producer.note("refused", jobs=[self._job_id], full=full, error=str(error))
            return False
        self._producer.note("pushed", holder="", added=handle.added, delay=options.get("delay", 0.0), **line)
        return True

    def push_meanwhile(self) -> bool:
        """Push the id while a job has it."""
        return self.push(jobs.Work(0.001), expected="there")

    def wait_for_end(self, over: threading.Event) -> bool:
        """Wait until the job has ended; return whether it has."""
        until = time.monotonic() + _PATIENCE
        while not over.is_set() and time.monotonic() < until:
            try:
                if self._queue.get(self._job_id) is None:
                    return True
            except DriverError:
                pass
            time.sleep(_LOOK)
        return False

    def ask(self) -> None:
        """Ask for the result of the job, which has ended, and record the answer."""
        answer(
            self._producer,
            self._job_id,
            partial(self._queue.result, self._job_id, timeout=_PATIENCE),
            mark=self._mark,
        )

    def cancel(self) -> bool:
        """Cancel the job, which waits; return whether it is known to be gone."""
        until = time.monotonic() + _PATIENCE
        while not (reply := self._producer.cancel(self._queue, self._job_id, self._mark)):
            if time.monotonic() > until:
                return False
            time.sleep(PAUSE)
        return reply in ("CANCELLED", "NOT_FOUND")
