"""One torture, from the first worker's start to the last one's end."""

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from redisjobs.errors import RedisJobsError
from redisjobs.events.recording import Line, Recording
from redisjobs_proof.torture.attack import Attack
from redisjobs_proof.torture.checks import lines
from redisjobs_proof.torture.checks.answers import UNKNOWN
from redisjobs_proof.torture.fleet import schedules
from redisjobs_proof.torture.fleet.final import FinalState, final_state
from redisjobs_proof.torture.fleet.fleet import Fleet
from redisjobs_proof.torture.fleet.place import Place
from redisjobs_proof.torture.fleet.producers import Producers
from redisjobs_proof.torture.fleet.store import Store
from redisjobs_proof.torture.fleet.waiters import wait_again
from redisjobs_proof.torture.monitor import Monitor
from redisjobs_proof.torture.nemesis import Fault, System

LEASE = 2.0
"""The shorter of the workers' leases, in seconds. Short, so that a torture has time for many faults."""

_RATE = 85.0  # jobs a second, without those of flows: these run several times
_DRAIN = 90.0  # seconds after the faults in which all jobs, or at least some, have to end
_LEAVE = 150.0  # seconds in which producers end
_LATE = 60.0  # seconds in which all late acts of faults have to be done
_WARM_UP = 60.0  # seconds in which the workers have to start, on a busy machine


class Torture:
    """One run, from the first worker's start to the last one's end.

    Args:
        directory: For recordings and the workers' log.
        length: For how many seconds faults come.
        show: Called with each line of progress.

    Attributes:
        finals: The contents of each database at the end.
        wrong: Errors that are in no recording.
        seconds: How long the torture took.
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
        self._place, self._seed, self._length, self._kinds = place, seed, length, kinds
        self._directory = directory
        self._recording = Recording(directory)
        self.fleet = Fleet(
            place.workers_urls(), place.queue, directory, LEASE, random.Random(seed), proxies=place.proxies
        )
        lease = self.fleet.longest_lease
        self._system = System(
            *(self.fleet, place.stores, lease, place.workers, place.producers, place.own),
            topology=place.topology,
            fronts=place.fronts,
            pair=place.pair,
            pooler=place.pooler,
        )
        self._system.follow()
        self._monitor = Monitor(self._system, self._recording, show)
        self.finals: list[FinalState] = []
        self.wrong: list[str] = []
        self.seconds = 0.0

    def lines(self) -> list[dict[str, Any]]:
        """Return all recordings."""
        return list(lines.read(self._directory))

    def go(self) -> None:
        """Run the torture.

        Raises:
            RedisJobsError: The workers did not start.
        """
        started = time.monotonic()
        with self._system, self.fleet:
            self.fleet.start()
            if not self._monitor.until(lambda: self.fleet.complete, _WARM_UP, "the workers start"):
                raise RedisJobsError(f"the workers did not start in {_WARM_UP:g} s:\n{self.fleet.log_end()}")
            for store in self._place.stores:
                schedules.put(store)
            self._harm()
            self._drain()
        told = self.lines()
        self._wait_again(told)
        self.finals = [final_state(store, _kept(told, store.db)) for store in self._place.stores]
        self.seconds = time.monotonic() - started

    def _harm(self) -> None:
        """Run producers and faults, then undo the faults."""
        urls = self._place.producers_urls()
        producers = Producers(urls, self._place.queue, self._recording, seed=self._seed, rate=_RATE)
        attack = Attack(self._kinds, self._system, self._recording, self._monitor)
        with producers:
            attack.run(self._seed, self._length)
            attack.heal()
            producers.stop()
            self._monitor.until(lambda: producers.ended, _LEAVE, "producers end")  # meanwhile workers are tended
        self.wrong += producers.errors

    def _drain(self) -> None:
        """Wait until all jobs have ended, then end the workers."""
        if not self._monitor.until(lambda: not self._system.late, _LATE, "late bytes arrive"):
            self.wrong.append(f"{len(self._system.late)} jobs did not end in {_LATE:g} s")
        self._pause_schedules()
        # Each job that ends its worker takes a while, and isolated jobs run one after another.
        ended = -1
        while not self._monitor.until(self._is_drained, _DRAIN, "the rest drains"):
            before, ended = ended, sum(map(_ended, self._place.stores))
            if ended == before and any(store.has_work for store in self._place.stores):
                self.wrong.append(f"the queue did not drain, and no job ended in {_DRAIN:g} s")
            if ended == before:  # what is suspended is judged by itself: a signal may be among the lost writes
                break
        self._cancel_the_rest()
        self.fleet.dismiss()
        self._system.look_for_fenced()
        self._monitor.write_notes()
        self.wrong += [*self.fleet.unasked, *self.fleet.complaints()]

    def _cancel_the_rest(self) -> None:
        """Record which jobs are suspended though all others have ended, and cancel them."""
        for store in self._place.stores:
            producer = self._system.producer(store.db)
            for job in store.suspended():
                producer.note("left suspended", job=job.job_id, name=job.name)
                producer.cancel(store.queue, job.job_id)

    def _pause_schedules(self) -> None:
        """Wait until schedules have caught up, then pause them: else the queue would never drain."""
        stores = self._place.stores
        if not self._monitor.until(lambda: not any(map(schedules.behind, stores)), _LATE, "schedules catch up"):
            self.wrong += [what for store in stores for what in schedules.behind(store)]
        if not self._monitor.until(lambda: all(map(schedules.pause, stores)), _LATE, "schedules are paused"):
            self.wrong.append(f"the schedules could not be paused in {_LATE:g} s")

    def _wait_again(self, told: Sequence[Line]) -> None:
        """Ask again for results that a wait did not get: now all of them must be there."""
        for store, url in zip(self._place.stores, self._place.producers_urls(), strict=True):
            answers = (line for line in told if line["what"] == "answered" and line["db"] == store.db)
            in_vain = [line["job"] for line in answers if line["error"] in UNKNOWN and not line.get("mark")]
            wait_again(store, url, self._recording, in_vain)

    def _is_drained(self) -> bool:
        return all(store.drained for store in self._place.stores)


def _kept(lines: Sequence[Line], db: int) -> list[str]:
    """Return the jobs of a database whose results were to be kept."""
    return [line["job"] for line in lines if line.get("kept") and line["db"] == db]


def _ended(store: Store) -> int:
    """Return how many jobs have ended in a database."""
    totals = store.counts().totals
    return totals["completed"] + totals["dead"] + totals["cancelled"]
