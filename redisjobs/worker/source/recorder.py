"""The statistics of one source: counts the jobs that it settles; the heartbeat thread sends the counts."""

import logging
import math
import secrets
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Sequence

from redisjobs.base.logger import Log, log_from_thread
from redisjobs.errors import DriverError, Unavailable
from redisjobs.events.kinds import JobsCompleted, JobsDead, JobsSettled, LeasesLost, SettledJob
from redisjobs.events.outcomes import UNKNOWN, outcome_of, reason_of
from redisjobs.model.driver import SyncConsumer, Unsupported
from redisjobs.model.recording import MOST_CAUSES, MOST_NAMES, OTHER, Histogram, Record, Recorded, Sums, added
from redisjobs.model.transitions import DeadLetter
from redisjobs.worker.running.execution import Execution, timings

_EVERY, _EVERY_OF_MANY, _LONGEST = 9.0, 0.1, 55.0  # seconds between two flushes; of a fleet, for each worker
_AT_ONCE = 50  # names in one call; a server needs a few ms for them
_NOT_RECORDED = "statistics are not recorded, and those of this time are lost; jobs run all the same: %s"


class _NameTallies:
    """What was counted for one job name."""

    __slots__ = ("outcomes", "run", "wait")

    def __init__(self) -> None:
        self.outcomes = Counter[str]()
        self.run, self.wait = Histogram(1000), Histogram()  # in seconds, in ms: as a run has them

    def sums(self) -> Sums:
        return self.outcomes | Counter(self.run.sums("run")) | Counter(self.wait.sums("wait"))


class Recorder:
    """Counts settled jobs by name and outcome.

    Args:
        names: The job names with a handler. All other names count as one, or a producer could make any number.
        log: The worker's log.
    """

    def __init__(self, names: Container[str], log: Log) -> None:
        self._names, self._log = names, log
        self._id = secrets.token_hex(8)
        self._number = 0  # of the last record
        self._lock = threading.Lock()  # the heartbeat thread takes what the event loop counts
        self._counts: defaultdict[str, _NameTallies] = defaultdict(_NameTallies)
        self._causes = Counter[str]()
        self._unsent: list[Record] = []  # taken, but not yet answered
        self._next_at = self._minute_at = -math.inf  # by the monotonic clock
        self._is_supported, self._is_refused = True, False

    # In the event loop

    def count_done(self, runs: Sequence[Execution]) -> None:
        """Count jobs that are done, a batch at once: these are nearly all jobs."""
        with self._lock:
            for timed in timings(runs):
                counts = self._counts[timed.name]
                counts.outcomes["completed"] += timed.jobs
                counts.run.add_all(timed.ran, timed.jobs)
                counts.wait.add_all(timed.waited, timed.jobs)

    def count(self, kind: type[JobsSettled], jobs: Sequence[SettledJob]) -> None:
        """Count jobs that were settled in one way, except those that are done."""
        if kind is JobsCompleted or kind is LeasesLost:
            return
        with self._lock:
            for job in jobs:
                counts = self._counts[job.name if job.name in self._names else UNKNOWN]
                counts.outcomes[outcome_of(kind, job)] += 1
                if job.ran:
                    counts.run.add_all([job.ran])
                    counts.wait.add_all([job.waited * 1000])
                if kind is JobsDead:
                    self._causes[_cause(job)] += 1

    # In the heartbeat thread

    def flush(self, sync: SyncConsumer, *, is_last: bool = False) -> bool:
        """Send what was counted, if it is time; return whether the server is available.

        It raises nothing: statistics may get lost, and a heartbeat may not.
        """
        now = time.monotonic()
        has_some = bool(self._unsent or self._counts)
        is_due = now >= self._minute_at or (has_some and now >= self._next_at) or (has_some and is_last)
        if not (is_due and self._is_supported):
            return True
        try:
            self._send(sync, now)
        except Unavailable:
            return False  # the same records are sent again, and count once
        except Unsupported:
            self._is_supported = False
        except Exception as error:
            self._refused(error)
        return True

    def _send(self, sync: SyncConsumer, now: float) -> None:
        if not self._unsent:
            self._unsent = [*self._take()]
        has_counts, answer = bool(self._unsent[0].names), Recorded(0, 0)
        while self._unsent:
            answer = sync.change(self._unsent[0])
            del self._unsent[0]
        self._minute_at = now + answer.minute_in_ms / 1000
        if has_counts:  # a fleet sends about ten a second, up to 550 workers
            self._next_at = now + min(_LONGEST, max(_EVERY, answer.workers * _EVERY_OF_MANY))
        if self._is_refused:
            self._is_refused = False
            log_from_thread(self._log, logging.INFO, "statistics are recorded again")

    def _take(self) -> Iterator[Record]:
        """Take what was counted so far, as records; an empty one makes the store look at the queue."""
        with self._lock:
            counts, self._counts = self._counts, defaultdict(_NameTallies)
            causes, self._causes = self._causes, Counter()
        names = _limited({name: each.sums() for name, each in counts.items()})
        rows, dead = list(names.items()), _most(causes)
        for start in range(0, max(1, len(rows)), _AT_ONCE):
            self._number += 1
            yield Record(self._id, self._number, dict(rows[start : start + _AT_ONCE]), dead)
            dead = {}

    def _refused(self, error: Exception) -> None:
        """Drop what the server refuses: added much later, it would be in the wrong minute."""
        self._unsent = []
        with self._lock:
            self._counts, self._causes = defaultdict(_NameTallies), Counter()
        self._next_at = self._minute_at = time.monotonic() + _LONGEST
        if not self._is_refused:
            self._is_refused = True
            why = error if isinstance(error, DriverError) else repr(error)
            log_from_thread(self._log, logging.WARNING, _NOT_RECORDED, why)


def _cause(job: SettledJob) -> str:
    """Return what dead letters are grouped by: the fingerprint of the failure, else the reason."""
    fingerprint = job.settlement.fingerprint if isinstance(job.settlement, DeadLetter) else ""
    return fingerprint or reason_of(job)


def _limited(names: dict[str, Sums]) -> dict[str, Sums]:
    if len(names) <= MOST_NAMES:
        return names
    first, rest = list(names)[: MOST_NAMES - 1], list(names)[MOST_NAMES - 1 :]
    return {name: names[name] for name in first} | {OTHER: added(names[name] for name in rest)}


def _most(causes: Counter[str]) -> Sums:
    if len(causes) <= MOST_CAUSES:
        return causes
    most = dict(causes.most_common(MOST_CAUSES - 1))
    return most | {OTHER: causes.total() - sum(most.values())}
