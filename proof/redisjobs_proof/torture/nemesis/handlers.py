"""Faults: handlers that end their worker, block its event loop, or raise a BaseException."""

from collections.abc import Sequence
from typing import ClassVar

from redisjobs.model.job import Priority
from redisjobs_proof.torture.fleet import jobs
from redisjobs_proof.torture.nemesis.fault import Fault, System


class PushPoison(Fault):
    """A job that ends its worker in each run."""

    name = "poison job"
    holds = 1.0
    recovery = "killers"

    def begin(self, system: System) -> None:  # noqa: D102
        poison = jobs.Poison(system.rng.choice(jobs.POISONS))
        self.jobs = [system.push(poison)]
        self.detail = f"{self.jobs[0]}: {poison.does}"


class BlockLoop(Fault):
    """A handler that blocks its worker's event loop for longer than the lease."""

    name = "event loop blocked"
    in_leases = 2.0

    def begin(self, system: System) -> None:  # noqa: D102
        self.jobs = [system.push(jobs.Blocker(1.8 * system.lease))]
        self.detail = self.jobs[0]


class TwoKillers(Fault):
    """Two jobs that kill their workers, one a while after the other, beside many harmless jobs."""

    name = "two killers"
    holds = 4.0
    recovery = "killers"
    BYSTANDERS: ClassVar[int] = 30

    def prepare(self, system: System) -> None:  # noqa: D102
        self.store = system.store
        for _ in range(self.BYSTANDERS):
            system.push(jobs.Work(system.rng.uniform(0.5, 1.0) * system.lease), self.store)

    def begin(self, system: System) -> None:  # noqa: D102
        self._push(system)

    def keep(self, system: System) -> None:  # noqa: D102
        # Once the first has killed two workers: now the jobs beside it are at their last delivery.
        if len(self.jobs) < 2 and self._deaths(system) >= 2:
            self._push(system)

    def end(self, system: System) -> None:  # noqa: D102
        if len(self.jobs) < 2:
            self._push(system)
        self.detail = f"{' and '.join(self.jobs)}, beside {self.BYSTANDERS} others"

    def _push(self, system: System) -> None:
        self.jobs.append(system.push(jobs.Poison(), self.store, priority=Priority.HIGH))

    def _deaths(self, system: System) -> int:
        info = self.store.queue.get(self.jobs[0])
        return 9 if info is None else info.deliveries - 1


class RaiseAnything(Fault):
    """Handlers that raise a BaseException, or leave a cancel scope open."""

    name = "handlers raise"
    holds = 3.0
    recovery = "workers"

    def begin(self, system: System) -> None:  # noqa: D102
        store = system.some_store()
        self.db = store.db
        ways: Sequence[jobs.Raiser | jobs.ThreadRaiser] = [
            *(jobs.Raiser(what) for what in (*jobs.RAISED, jobs.LEAVES_SCOPE)),
            *(jobs.ThreadRaiser(what) for what in jobs.RAISED),
        ]
        for way in system.rng.sample(ways, len(ways)):
            self.jobs.append(system.push(way, store))
            system.push(jobs.Work(0.001), store)
        for what in jobs.RAISED:  # not by a push, which would make the parameters itself, and raise
            self.jobs.append(system.put({"name": "Trap", "parameters": f'{{"what": "{what}"}}'}, store))
        self.detail = f"{len(self.jobs)} jobs"
