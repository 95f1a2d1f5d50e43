"""A producer that sends signals to the jobs that it pushes: early, in time, twice, and after their end."""

import random
import secrets
import threading
import time
from dataclasses import dataclass, replace
from functools import partial

from redisjobs import sync
from redisjobs.errors import DriverError
from redisjobs.model.codec import new_job_id
from redisjobs_proof.torture.fleet import flows
from redisjobs_proof.torture.fleet.producer import Producer

_EVERY = 0.6  # seconds between two jobs
_TICK = 0.05  # seconds
_GOES_ON = 120.0  # seconds after the last push in which each job that waits without a limit has to end
_UNSIGNALLED = 0.02  # of the jobs


@dataclass(frozen=True, slots=True)
class _Planned:
    """A signal that is to be sent.

    Attributes:
        at: When, by the monotonic clock.
        repeats: Whether others follow until the job has ended.
    """

    at: float
    job: str
    repeats: bool


class Signaller:
    """Pushes jobs that wait for signals, sends these, and records each attempt and each answer."""

    def __init__(self, producer: Producer, queue: sync.JobQueue, rng: random.Random) -> None:
        self._producer, self._queue, self._rng = producer, queue, rng
        self._planned: list[_Planned] = []

    def go_on_until(self, over: threading.Event) -> None:
        """Push jobs until `over` is set, and send signals until no job waits without a limit."""
        last = 0.0
        while not over.wait(_TICK):
            if time.monotonic() > last + _EVERY:
                last = time.monotonic()
                self._push()
            self._send_due()
        end = time.monotonic() + _GOES_ON
        while self._planned and time.monotonic() < end:
            self._send_due()
            time.sleep(_TICK)

    def _push(self) -> None:
        chance, rng = self._rng.random(), self._rng
        if chance < _UNSIGNALLED:
            job = self._queue.prepare(flows.Unsignalled(), job_id=new_job_id())
            self._producer.push([job], partial(self._queue.push_many, [job]))
            return
        is_limited = chance < 0.6
        waiter = flows.Waiter(rng.randint(1, 4), rng.uniform(0.1, 2) if is_limited else None)
        delay = rng.choice((None, None, 0.5))  # then the first signal is early
        job = self._queue.prepare(waiter, job_id=new_job_id(), delay=delay)
        if not self._producer.push([job], partial(self._queue.push_many, [job])):
            return
        now = time.monotonic()
        if not is_limited:
            self._planned.append(_Planned(now + rng.choice((0, 0.3)), job.job_id, repeats=True))
            return
        for _ in range(rng.randint(0, waiter.times + 1)):
            at = now + rng.choice((0, 0, 0.2, 1, 2, 9))
            self._planned += [_Planned(at, job.job_id, repeats=False)] * rng.choice((1, 1, 2))

    def _send_due(self) -> None:
        now = time.monotonic()
        due = [each for each in self._planned if each.at <= now]
        self._planned = [each for each in self._planned if each.at > now]
        for each in due:
            reply = self._send(each.job)
            if each.repeats and reply not in ("NOT_FOUND", "DEAD"):
                again = time.monotonic() + self._rng.choice((0, 0.1, 0.5))
                self._planned.append(replace(each, at=again))

    def _send(self, job_id: str) -> str:
        """Send a signal; return the reply, or '' if there was none."""
        value = secrets.token_hex(6)
        self._producer.note("signal", job=job_id, value=value)
        try:
            reply = str(self._queue.signal(job_id, flows.SIGNAL, value))
        except DriverError:
            reply = ""  # it may be taken, or not
        self._producer.note("signalled", job=job_id, value=value, reply=reply)
        return reply
