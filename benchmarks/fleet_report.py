"""What `python -m benchmarks fleet` has found, as tables, and on the page `docs/scale.md`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.report import number, table
from benchmarks.session import SIZE

FEW = 4
"""Real workers and producers that are measured, and stand-ins that are held against them."""

PROBES = 50.0
"""Pushes a second that are timed."""

SLOWLY = 200.0
"""Jobs a second beside workers that nearly all wait."""

ERROR = 0.1
"""The share of real workers' commands that stand-ins may send more or less often."""

BUSY = 0.6
"""The share of the server's core that a fleet is planned for."""

HEADING = "## Measured"
_KEPT_UP = 0.95  # of the jobs that were asked for


@dataclass(frozen=True)
class Check:
    """Stand-ins beside real workers and producers, as many of each.

    Attributes:
        rate: Jobs a second and worker.
        real: Commands a second, by name.
        stand_in: The same of the stand-ins.
        real_bytes: Bytes a second that real ones sent.
        stand_in_bytes: The same of the stand-ins.
    """

    rate: float
    real: dict[str, float]
    stand_in: dict[str, float]
    real_bytes: float
    stand_in_bytes: float

    @property
    def error(self) -> float:
        """The commands that stand-ins send too often or too seldom, each name for itself, as a share of all."""
        names = {*self.real, *self.stand_in}
        apart = sum(abs(self.stand_in.get(name, 0.0) - self.real.get(name, 0.0)) for name in names)
        return apart / sum(self.real.values())


@dataclass(frozen=True)
class Costs:
    """What a job costs the server where many go together: CPU seconds of its push and its run, and bytes."""

    push: float
    run: float
    memory: float


@dataclass(frozen=True)
class Phase:
    """A fleet at one rate.

    Attributes:
        wanted: Jobs a second that were to be pushed; 0: an idle fleet.
        jobs: Jobs a second that ended.
        cpu: Share of a core that the server used.
        commands: Commands a second of clients.
        expected: The same of a few real ones, at the rate that each has here, times the size of the fleet.
        received: Bytes a second that the server received.
        connections: Open connections.
        memory: Bytes that the server had allocated.
        a_connection: Of these, bytes a connection, more than the empty server.
        waiting: Jobs on the queue at the end, running ones among them.
        pushes: Seconds that each push of one real sync producer took, ascending.
    """

    wanted: float
    jobs: float
    cpu: float
    commands: float
    expected: float
    received: float
    connections: int
    memory: int
    a_connection: float
    waiting: int
    pushes: Sequence[float]

    @property
    def kept_up(self) -> bool:
        """Whether all jobs were pushed and run."""
        return self.jobs >= _KEPT_UP * self.wanted

    def push(self, part: float) -> float:
        """The seconds that this part of the pushes took at most."""
        return self.pushes[max(0, math.ceil(len(self.pushes) * part) - 1)]


@dataclass(frozen=True)
class Result:
    """All that a run has found."""

    workers: int
    producers: int
    connections: int  # of one worker
    of_producer: int  # connections of one producer
    checks: Sequence[Check]
    costs: Costs
    phases: Sequence[Phase]
    waiting: Sequence[tuple[int, float]]  # workers, nearly all waiting, and CPU seconds a job above an idle server

    @property
    def is_like_real(self) -> bool:
        """Whether the stand-ins send the same commands as often as real ones."""
        return all(check.error <= ERROR for check in self.checks)

    @property
    def busiest(self) -> Phase | None:
        """The busiest phase that kept up; None: none did."""
        return next((phase for phase in reversed(self.phases[1:]) if phase.kept_up), None)

    @property
    def life(self) -> float | None:
        """CPU seconds of the server for a job's whole life in that phase."""
        return (self.busiest.cpu - self.phases[0].cpu) / self.busiest.jobs if self.busiest else None

    @property
    def an_idle_worker(self) -> float:
        """CPU seconds of the server in a second for each worker of the idle fleet."""
        return self.phases[0].cpu / self.workers

    def jobs_by_plan(self, workers: int, life: float) -> float:
        """Return the jobs a second that fill the planned share of the core, with `life` CPU seconds a job."""
        return (BUSY - workers * self.an_idle_worker) / life

    @property
    def a_waiting_worker(self) -> float:
        """CPU seconds of the server by which each worker that waits makes a job dearer."""
        (few, least), (many, most) = self.waiting[0], self.waiting[-1]
        return (most - least) / (many - few)

    @property
    def together(self) -> float:
        """CPU seconds of the server for the life of a job that is pushed and run among many."""
        return self.costs.push + self.costs.run


def text(result: Result) -> str:
    """The tables; Markdown."""
    worst = max(check.error for check in result.checks)
    holds = "holds" if result.is_like_real else "does not hold"
    return "\n\n".join(
        [
            f"{result.workers:,} workers and {result.producers:,} producers, by stand-ins that repeat what "
            "real ones sent in the same run.",
            _phases(result),
            _ABOUT,
            _waiting(result),
            _checks(result),
            "The difference is how many more or fewer stand-ins send of each command, added up, as a share of "
            f"all. It must be at most {ERROR:.0%}. It is at most {worst:.1%}, which {holds}.",
            _commands(result),
            _constants(result),
        ]
    )


_ABOUT = (
    "A job's µs are the server's CPU time above that of the idle fleet. Pushes are those of one more producer, a "
    f"real one, which pushes {PROBES:g} jobs a second, each alone. Where the fleet sends fewer commands than as "
    "many real workers would at this rate, the server or the machine was late: workers then find several jobs at "
    "once, which share commands, and a job gets cheaper. A phase that did not keep up while the server's core had "
    "time shows the limit of the machine with the stand-ins, not of the server."
)


def page(old: str, head: str, result: Result) -> str:
    """Replace what the page says of measures."""
    before = old.partition(f"{HEADING}\n")[0]
    return f"{before}{HEADING}\n\n{head}\n\n{text(result)}\n"


def _phases(result: Result) -> str:
    idle = result.phases[0].cpu
    rows = [
        [
            f"{phase.wanted:,.0f} jobs/s" if phase.wanted else "idle",
            number(phase.jobs),
            f"{phase.cpu:.1%}",
            number((phase.cpu - idle) / phase.jobs * 1e6) if phase.wanted and phase.jobs else "",
            number(phase.commands),
            f"{phase.commands / phase.expected:.0%}",
            number(phase.received / 1e3),
            f"{phase.connections:,}",
            number(phase.memory / 1e6),
            number(phase.a_connection / 1e3),
            number(phase.push(0.5) * 1e3),
            number(phase.push(0.99) * 1e3),
            "yes" if phase.kept_up else "no",
        ]
        for phase in result.phases
    ]
    head = [
        "fleet",
        "jobs/s",
        "server, of a core",
        "µs a job",
        "commands/s",
        "of real ones",
        "kB/s",
        "connections",
    ]
    head += ["memory, MB", "kB a connection", "push p50, ms", "push p99, ms", "kept up"]
    return table(head, rows)


def _waiting(result: Result) -> str:
    """The price of a job that is pushed alone, by how many workers wait for it."""
    rows = [
        [f"{workers:,}", number(life * 1e6), number(result.jobs_by_plan(workers, life))]
        for workers, life in result.waiting
    ]
    head = [
        "workers, nearly all waiting",
        f"server, µs a job, at {SLOWLY:g} jobs/s",
        f"at this price, with these workers' own cost, jobs/s at {BUSY:.0%} of a core",
    ]
    return table(head, rows)


def _checks(result: Result) -> str:
    rows = [
        [
            f"{check.rate:g} jobs/s each" if check.rate else "idle",
            number(sum(check.real.values())),
            number(sum(check.stand_in.values())),
            f"{check.error:.1%}",
            number(check.real_bytes / 1e3),
            number(check.stand_in_bytes / 1e3),
        ]
        for check in result.checks
    ]
    head = [f"{FEW} workers, {FEW} producers", "real, commands/s", "stand-ins, commands/s", "difference"]
    return table([*head, "real, kB/s", "stand-ins, kB/s"], rows)


def _commands(result: Result) -> str:
    """What a worker sends, by name: real ones."""
    names = sorted({name for check in result.checks for name in check.real}, key=lambda name: _order(result, name))
    rows = [[name, *(number(check.real.get(name, 0.0) / FEW) for check in result.checks)] for name in names]
    head = [f"at {check.rate:g} jobs/s" if check.rate else "idle" for check in result.checks]
    return table(["a real worker, with a producer, sends in a second", *head], rows)


def _order(result: Result, name: str) -> tuple[float, str]:
    return (-result.checks[0].real.get(name, 0.0) - result.checks[-1].real.get(name, 0.0), name)


def _where(phase: Phase | None) -> str:
    """Say how many commands it is for: late stand-ins send fewer than real workers would."""
    if phase is None:
        return ""
    return f" at {phase.wanted:,.0f} jobs/s, with {phase.commands / phase.expected:.0%} of real workers' commands"


def _micro(seconds: float | None) -> str:
    return number(None if seconds is None else seconds * 1e6)


def _constants(result: Result) -> str:
    idle, costs = result.phases[0], result.costs
    few, least = result.waiting[0]
    rows = [
        ["connections of a worker", str(result.connections)],
        ["connections of a producer that pushes one job at a time", str(result.of_producer)],
        ["memory a connection, kB", number(idle.a_connection / 1e3)],
        [f"memory a waiting job of {SIZE} bytes, B", number(costs.memory)],
        ["an idle worker, µs of the server in a second", number(result.an_idle_worker * 1e6)],
        [f"a job's life, pushed alone, {few} workers waiting, µs of the server", number(least * 1e6)],
        ["for each further worker that waits, µs", number(result.a_waiting_worker * 1e6)],
        [f"a job's life in the fleet above{_where(result.busiest)}, µs", _micro(result.life)],
        ["a job's life, pushed and run many at once, µs", number(result.together * 1e6)],
        ["of these its push, µs", number(costs.push * 1e6)],
        [f"many at once, jobs/s at {BUSY:.0%} of a core", number(BUSY / result.together)],
    ]
    return table(["constants", ""], rows)
