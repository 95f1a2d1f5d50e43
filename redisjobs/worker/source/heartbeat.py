"""The heartbeat of a worker. It has its own thread, so a handler that blocks the event loop keeps its job.

There is one thread for each server. With one for all, a server that hangs would cost the leases on every server.
"""

import logging
import os
import socket
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import UTC, datetime

from redisjobs._version import __version__
from redisjobs.base.logger import Log, log_from_thread
from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.changes import Wish
from redisjobs.model.driver import Beat, Consumer, Fenced, Renewed
from redisjobs.model.info import QUIET, STOPPING, names_fact
from redisjobs.model.transitions import Lease
from redisjobs.worker.source.claims import Claims
from redisjobs.worker.source.dispatcher import Dispatcher
from redisjobs.worker.source.member import Member
from redisjobs.worker.source.settler import Settler

logger = Log("redisjobs.worker")

_LOOK = 0.25  # seconds between looks at the event loop; less than the loop may be silent for


class Beats:
    """The heartbeats of one source: what they send, and what their answers change."""

    heartbeat: "Heartbeat"  # the thread; set by the code that makes it

    def __init__(self, member: Member, claims: Claims, settler: Settler, dispatcher: Dispatcher) -> None:
        self.is_beating = False
        self.consumer: Consumer = member.consumer
        self.recorder = settler.report.recorder
        self._member = member
        self._pool = claims.pool
        self._leases = claims.leases
        self._settler = settler
        self._timer = member.timer
        self._dispatcher = dispatcher
        self._claims = claims
        self._wish: Wish | None = None  # the last one that was obeyed
        self._call_soon = claims.pool.threads.call_soon
        self._names = names_fact(member.settings.queue.definitions)
        self._started = datetime.now(UTC).isoformat(timespec="seconds")

    def start(self) -> None:
        """Beat from now on; the first time at once."""
        self.is_beating = True
        self.heartbeat.start()

    @property
    def knows_it_is_away(self) -> bool:
        """Whether the source has noticed, and logged, that the server is away."""
        return bool(self._member.unavailable)

    def hurry_for(self, job_id: str) -> None:
        """Beat now if that job is held: a notification says it is cancelled, and the answer confirms it."""
        # If a beat is about to be sent, don't search the held jobs again: its answer names all that are cancelled.
        if not self.heartbeat.hurries and any(lease.job_id == job_id for lease in self.held()):
            self.heartbeat.hurry()

    def held(self) -> Sequence[Lease]:
        """Return the leases that the source holds now."""
        return self._leases.all

    def facts(self) -> Mapping[str, str]:
        """Return the fields of the worker's record."""
        settings = self._member.settings
        return {
            "host": socket.gethostname(),
            "pid": str(os.getpid()),
            "started": self._started,
            "concurrency": str(settings.concurrency),
            "running": str(self._pool.slots.count_busy()),
            "refused": str(self._settler.refused),
            "version": __version__,
            "names": self._names,
            "state": STOPPING if self._pool.shutdown.stopping else QUIET if self._claims.is_quiet else "",
        }

    def beaten(self, began: float, answer: Renewed) -> None:
        """Handle a heartbeat that got through: note when it began, and do what its answer asks for."""
        self._member.beat_at = began
        if answer.wish is Wish.STOP:
            self._pool.leave()  # in this thread: a handler may block the event loop
        self._call_soon(lambda: self._act(answer))

    def _act(self, answer: Renewed) -> None:
        self._settler.cancel(answer.cancelled)
        if answer.wish is not None:
            self._obey(answer.wish)
        self._timer.wake()  # the source may be waiting for a heartbeat to get through

    def _obey(self, wish: Wish) -> None:
        """Do what an operator asks for, once. Each beat repeats the last wish."""
        if wish in (self._wish, Wish.STOP):  # `beaten` stops the worker
            return
        self._wish, log = wish, self._member.log
        self._claims.is_quiet = wish is Wish.QUIET
        if self._claims.is_quiet:
            log.info("an operator asked this worker to be quiet: it claims no more jobs; running jobs go on")
            self._claims.fetcher.interrupt()
            self._dispatcher.hand_back_waiting(at_once=True)
        else:
            log.info("an operator asked this worker to claim jobs again")
            self._claims.found_nothing = False
        self.heartbeat.hurry()  # the record shows what the worker does
        self._pool.changed()

    def fenced(self, error: Fenced) -> None:
        """Handle the server's answer that it takes this worker for dead."""
        self._call_soon(lambda: self.note_fenced(error))

    def note_fenced(self, error: Fenced) -> None:
        """Begin no job from now on, if the error is about the current id; the source's task joins again."""
        if error.worker_id == self.consumer.worker_id:
            self._member.is_renewing = True
            self._settler.cancel_all()
            self._member.failure = error
        self._timer.wake()


class Heartbeat:
    """The thread that beats every third of a lease, and sooner after a beat that failed.

    Args:
        beating: The sources that it beats for, in one round trip if their consumers have the same `server`.
        lease: Seconds.
        look: Called in the thread four times a second, to watch the event loop from outside.
        log: The log for these queues.
    """

    def __init__(
        self, beating: Sequence[Beats], lease: float, look: Callable[[], object], log: Log = logger
    ) -> None:
        self._all = beating
        self._interval = lease / 3
        self._look = look
        self._log = log
        self._failing = False  # beats fail, and that was logged
        self._failures = 0  # in a row
        self._ended = False
        self._stir = threading.Event()
        self._thread = threading.Thread(target=self._run, name="redisjobs heartbeat", daemon=True)
        self.started = False

    @property
    def broken(self) -> bool:
        """Whether the thread has ended without being asked to."""
        return self.started and not self._ended and not self._thread.is_alive()

    def start(self) -> None:
        """Start the thread, which beats at once. If it has started, beat now."""
        if self.started:
            self.hurry()  # for the source that has joined
        else:
            self._thread.start()
            self.started = True

    def hurry(self) -> None:
        """Beat now. The answer says which jobs are cancelled."""
        self._stir.set()

    @property
    def hurries(self) -> bool:
        """Whether a beat was asked for and is about to be sent."""
        return self._stir.is_set()

    def end(self) -> None:
        """Begin no more beats."""
        self._ended = True
        self._stir.set()

    def stop(self, timeout: float) -> None:
        """Begin no more beats, and wait up to `timeout` seconds for the one under way."""
        self.end()
        if self.started:
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._ended:
            self._pause(self._beat())
        if not self._failures:
            self._record(is_last=True)
        for each in self._all:
            each.consumer.sync.close()

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            stirred = self._stir.wait(min(_LOOK, left))
            try:
                self._look()
            except Exception as error:  # `look` meets the user's code; without this thread every job would be lost
                log_from_thread(logger, logging.WARNING, "could not check the event loop: %r", error)
            if stirred:
                self._stir.clear()
                return

    def _beat(self) -> float:
        """Beat once; return the seconds until the next time."""
        started = time.monotonic()
        beating = [each for each in self._all if each.is_beating]
        try:
            if beating:
                self._beat_for(beating, started)
        except Exception as error:  # any error: without this thread every job would be lost
            self._failures += 1
            if not self._failing and not self._is_logged(error, beating):
                self._failing = True
                shown = error if isinstance(error, DriverError) else "".join(traceback.format_exception(error))
                log_from_thread(self._log, logging.WARNING, "no heartbeat got through, retrying: %s", shown)
            return min(1.0, self._interval / 2)
        self._failures = 0
        if beating:
            self._record()
        if beating and self._failing:
            log_from_thread(self._log, logging.INFO, "heartbeats get through again")
            self._failing = False
        return max(0.0, started + self._interval - time.monotonic())

    def _record(self, *, is_last: bool = False) -> None:
        """Send the statistics of all sources, after their beats, as long as the server answers."""
        for each in self._all:
            if not each.recorder.flush(each.consumer.sync, is_last=is_last):
                return

    def _is_logged(self, error: Exception, beating: Sequence[Beats]) -> bool:
        """Return whether the source logs this error. A server that is away is logged once, by the source."""
        if not isinstance(error, Unavailable):
            return False
        return self._failures == 1 or all(each.knows_it_is_away for each in beating)

    def _beat_for(self, beating: Sequence[Beats], started: float) -> None:
        by_server = defaultdict[Hashable, list[Beats]](list)
        for each in beating:
            by_server[each.consumer.server].append(each)
        failed: DriverError | None = None
        for those in by_server.values():  # several if one address has turned out to be a cluster's
            try:
                self._beat_at_once(those, started)
            except DriverError as error:
                failed = error
        if failed is not None:
            raise failed

    def _beat_at_once(self, beating: Sequence[Beats], started: float) -> None:
        beats = [Beat(each.consumer, each.held, each.facts()) for each in beating]
        try:
            answers = beating[0].consumer.sync.beat(*beats)
        except Unavailable:
            raise
        except DriverError:
            if len(beating) == 1:
                raise
            self._beat_for_each(beating, started)
            return
        for each, answer in zip(beating, answers, strict=True):
            if isinstance(answer, Fenced):
                each.fenced(answer)
            else:
                each.beaten(started, answer)

    def _beat_for_each(self, beating: Sequence[Beats], started: float) -> None:
        """Beat for each source by itself: the server refuses one of them, and the others keep their leases."""
        refused: DriverError | None = None
        for each in beating:
            try:
                self._beat_at_once([each], started)
            except Unavailable:
                raise
            except DriverError as error:
                refused = error
        if refused is not None:
            raise refused
