"""A fault of a PostgreSQL server with a standby: it is lost, and the standby, which lags, takes its place."""

import time

from redisjobs_proof.torture.fleet import jobs
from redisjobs_proof.torture.nemesis.fault import Fault, System
from redisjobs_proof.torture.nemesis.processes import HELD

_UNSENT = 1.0  # seconds; what does not wait for the disk is sent only once it is there


class PromoteStandby(Fault):
    """Nothing more reaches the standby; seconds later the server is killed, and the standby is promoted.

    All that the server has acknowledged meanwhile is lost, and workers still hold jobs that are not there any
    more, or that are another job. No such job may be mixed up with one that came later.
    """

    name = "standby promoted"
    holds = 4.0
    hits = "all"
    recovery = "workers"
    unsteady = True
    alone = True
    reaches = 3.0  # an answer is waited for 2 s; the longest pause between two tries is 1 s
    lingers = 3.0
    LAG = 2.5

    @classmethod
    def possible(cls, system: System) -> bool:  # noqa: D102
        return system.pair is not None

    def begin(self, system: System) -> None:  # noqa: D102
        assert system.pair is not None
        self.promoted_at = 0.0
        self.lossy = [system.pair.lag() - _UNSENT, float("inf")]
        self.due = time.monotonic() + self.LAG

    def keep(self, system: System) -> None:  # noqa: D102
        assert system.pair is not None
        if self.promoted_at:
            return
        if time.monotonic() < self.due:
            # Lost ones that still run when others have taken their places.
            system.push(jobs.Work(system.rng.uniform(1, 2) * system.lease))
            return
        system.pair.fail_over()
        system.own, self.promoted_at = system.pair.primary, time.time()
        self.lossy = [self.lossy[0], self.promoted_at]
        for store in system.stores:
            store.connect()
        for _ in range(3 * HELD):  # if one is mixed up with a lost one, it has that one's result
            system.push(jobs.Work(system.rng.uniform(0, 1) * system.lease), keep_result=jobs.KEPT)

    def may_end(self, system: System) -> bool:  # noqa: D102
        self.keep(system)
        return self.promoted_at > 0

    def end(self, system: System) -> None:  # noqa: D102
        assert system.pair is not None
        self.detail = f"after {self.LAG:g} s, port {system.pair.primary.port}"
        system.pair.add_standby()

    def is_undone(self, system: System) -> bool:  # noqa: D102
        assert system.pair is not None
        return system.pair.is_followed
