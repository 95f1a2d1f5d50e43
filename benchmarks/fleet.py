"""`python -m benchmarks fleet`: many workers and producers on one server; stand-ins send what real ones send."""

import argparse
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from benchmarks import report
from benchmarks.fleet_place import KEY, SPARE, Place, Process
from benchmarks.fleet_process import NAP, QUEUE, SLOTS, Text
from benchmarks.fleet_report import FEW, PROBES, SLOWLY, Check, Costs, Phase, Result, page, text
from benchmarks.fleet_traffic import Timer, counts, sent, timers
from benchmarks.results import keep
from benchmarks.session import SIZE, Monitor
from benchmarks.systems import CHECKOUT, Failed
from redisjobs import JobName, __version__
from redisjobs.local import server
from redisjobs.sync import JobQueue

_IDLE, _BUSY, _SETTLED = 40.0, 10.0, 4.0  # seconds: of a measure of a few; until a new rate is steady
_FLUSHED = 12.0  # seconds after which a worker has sent what it has counted
_SEVERAL = 20  # producers beside workers that wait
_BATCH = 20_000  # jobs, pushed and drained together


# A few, real ones and stand-ins


@dataclass(frozen=True)
class Traffic:
    """What a few workers and producers sent.

    Attributes:
        seconds: For how long.
        commands: The commands themselves.
        received: Bytes a second that came to the server.
        connections: Of one worker.
        of_producer: Connections of one producer.
    """

    seconds: float
    commands: list[list[str]]
    received: float
    connections: int
    of_producer: int

    @property
    def rates(self) -> dict[str, float]:
        """How many a second, by name."""
        return {name: count / self.seconds for name, count in counts(self.commands).items()}


def few_real(rates: Sequence[float]) -> list[Traffic]:
    """What real workers and producers send at these rates a worker; first when idle."""
    with Place(100) as place:
        producers = place.start("real_producers", FEW)
        before = place.connections
        for _ in range(FEW):
            place.start("real_worker", NAP, SLOTS)
        place.wait(lambda: place.admin.zcard(f"{KEY}workers") == FEW, "the workers")
        return _traffic(place, producers, before, rates, lambda rate: None)


def few_stand_ins(
    rates: Sequence[float], connections: int, idle: Sequence[Timer], busy: Sequence[Timer]
) -> list[Traffic]:
    """The same of stand-ins."""
    with Place(100) as place:
        producers = place.start("stand_in_producers", FEW)
        before = place.connections
        workers = place.start("stand_in_workers", FEW, connections)

        def repeat(rate: float) -> None:
            workers.ask(timers=[asdict(timer) for timer in (busy if rate else idle)])

        return _traffic(place, producers, before, rates, repeat)


def _traffic(
    place: Place, producers: Process, before: int, rates: Sequence[float], prepare: Callable[[float], None]
) -> list[Traffic]:
    found = []
    for rate in (*rates, 0.0):  # idle in the end: a worker that has just started looks round more often
        prepare(rate)
        producers.ask(rate=rate * FEW)
        time.sleep(_SETTLED if rate else _FLUSHED)
        received, seconds = place.received, _BUSY if rate else _IDLE
        with Monitor(place.server.port) as monitor:
            time.sleep(seconds)
        received = place.received - received
        connections = (place.connections - before) // FEW
        found.append(Traffic(seconds, sent(monitor.said), received / seconds, connections, before // FEW))
    return [found[-1], *found[:-1]]


def repeated(real: Sequence[Traffic]) -> tuple[list[Timer], list[Timer]]:
    """What stand-ins have to repeat when idle, and when busy.

    What an idle worker sends as well is counted when idle, for longer.
    """
    idle = timers(real[0].commands, FEW, real[0].seconds)
    known = {timer.name for timer in idle}
    commands = [words for traffic in real[1:] for words in traffic.commands]
    busy = timers(commands, FEW, sum(traffic.seconds for traffic in real[1:]))
    return idle, [*idle, *(timer for timer in busy if timer.name not in known)]


# Jobs pushed and run together


def in_batches() -> Costs:
    """What a job costs where a producer pushes many at once, and a worker has 100 slots."""
    with Place(100) as place, JobQueue(place.server.url, QUEUE) as queue:
        queue.push({"text": ""}, JobName("work", Text))
        memory, cpu = place.memory, place.cpu
        queue.push_many([{"text": "x" * SIZE}] * _BATCH, JobName("work", Text))
        pushed, held = place.cpu - cpu, place.memory - memory
        cpu = place.cpu
        place.start("real_worker", 0, 100)
        place.wait(lambda: place.completed > _BATCH, "the jobs")
        return Costs(pushed / _BATCH, (place.cpu - cpu) / _BATCH, held / _BATCH)


# The fleet


def fleet(
    workers: int, producers: int, rates: Sequence[float], seconds: float, real: Sequence[Traffic]
) -> Iterator[Phase]:
    """Measure an idle fleet, then a busy one at each rate."""
    idle, busy = repeated(real)
    with Place(workers * real[0].connections + producers) as place:
        empty = place.memory
        pushing = place.start("stand_in_producers", producers)
        working = place.start("stand_in_workers", workers, real[0].connections)
        with JobQueue(place.server.url, QUEUE) as probe:
            for rate, few in zip((0.0, *rates), real, strict=True):
                working.ask(timers=[asdict(timer) for timer in (busy if rate else idle)])
                pushing.ask(rate=max(0.0, rate - PROBES))
                time.sleep(_SETTLED)
                expected = sum(few.rates.values()) * workers / FEW
                yield _phase(place, [pushing, working], probe, rate, seconds, empty, expected)


def _phase(
    place: Place,
    processes: Sequence[Process],
    probe: JobQueue,
    rate: float,
    seconds: float,
    empty: int,
    expected: float,
) -> Phase:
    asked = sum(process.ask()["commands"] for process in processes)
    started, cpu, received, completed = time.monotonic(), place.cpu, place.received, place.completed
    pushes = _probed(probe, seconds) if rate else []
    if not rate:
        time.sleep(seconds)
    took, cpu, received = time.monotonic() - started, place.cpu - cpu, place.received - received
    completed, waiting, memory = place.completed - completed, place.waiting, place.memory
    asked = sum(process.ask()["commands"] for process in processes) - asked + len(pushes)
    return Phase(
        wanted=rate,
        jobs=completed / took,
        cpu=cpu / took,
        commands=asked / took,
        expected=expected,
        received=received / took,
        connections=place.connections,
        memory=memory,
        a_connection=(memory - empty) / place.connections,
        waiting=waiting,
        pushes=sorted(pushes or _probed(probe, 4.0)),  # after the measure, where the fleet is to be idle
    )


def waiting(workers: int, connections: int) -> float:
    """CPU seconds of the server for a job while nearly all workers wait, above what the same idle ones cost."""
    with Place(workers * connections + _SEVERAL) as place:
        pushing = place.start("stand_in_producers", _SEVERAL)
        place.start("stand_in_workers", workers, connections)
        idle, _ = _worked(place)
        pushing.ask(rate=SLOWLY)
        busy, jobs = _worked(place)
        return (busy - idle) / max(1, jobs)


def _worked(place: Place) -> tuple[float, int]:
    time.sleep(_SETTLED)
    cpu, completed = place.cpu, place.completed
    time.sleep(_BUSY)
    return place.cpu - cpu, place.completed - completed


def _probed(probe: JobQueue, seconds: float) -> list[float]:
    """Push as one more producer, a real one; how long each push took."""
    name, took, begun = JobName("work", Text), [], time.monotonic()
    for number in range(int(seconds * PROBES)):
        time.sleep(max(0.0, begun + number / PROBES - time.monotonic()))
        started = time.monotonic()
        if started > begun + seconds:
            break
        probe.push({"text": "x" * SIZE}, name)
        took.append(time.monotonic() - started)
    return took


# The command


def allow_files(needed: int) -> None:
    """Let this process, and those that it starts, have that many files open.

    Raises:
        Failed: The system allows fewer.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise Failed(
            f"the fleet needs {needed:,} open files in a process, and the limit is {hard:,}: raise it "
            f"(`ulimit -Hn {needed}` as root), or take fewer --workers and --producers"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def measure(options: argparse.Namespace) -> Result:
    """Do all of it."""
    rates = [rate / options.workers for rate in options.rates]
    _say(f"{FEW} real workers and producers")
    real = few_real(rates)
    allow_files(options.workers * real[0].connections + options.producers + SPARE)
    _say(f"{FEW} stand-ins")
    idle, busy = repeated(real)
    stand_ins = few_stand_ins(rates, real[0].connections, idle, busy)
    checks = [
        Check(rate, one.rates, other.rates, one.received, other.received)
        for rate, one, other in zip([0.0, *rates], real, stand_ins, strict=True)
    ]
    _say("jobs in batches")
    costs, phases = in_batches(), list[Phase]()
    _say("workers that wait")
    several = sorted({FEW, max(FEW, options.workers // 4), options.workers})
    waits = [(workers, waiting(workers, real[0].connections)) for workers in several]
    for phase in fleet(options.workers, options.producers, options.rates, options.seconds, real):
        phases.append(phase)
        _say(f"{phase.wanted:g} jobs/s: {phase.jobs:.0f} jobs/s, server {phase.cpu:.0%} of a core")
    return Result(
        options.workers, options.producers, real[0].connections, real[0].of_producer, checks, costs, phases, waits
    )


def main(words: Sequence[str]) -> int:
    """The command; its exit code: 1 if it failed, or the stand-ins are not like real ones."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks fleet", description="A fleet on one server.")
    parser.add_argument("--workers", type=int, default=200, help="stand-ins for workers (200)")
    parser.add_argument("--producers", type=int, default=2000, help="stand-ins for producers (2000)")
    parser.add_argument(
        "--rates", type=_rates, default=[500.0, 1000.0, 2000.0, 5000.0], help="jobs/s (500,1000,2000,5000)"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of each phase (20; at most 60)")
    parser.add_argument("--docs", action="store_true", help="put it on docs/scale.md")
    options = parser.parse_args(words)
    if options.workers <= FEW or options.producers < 1 or not 1 <= options.seconds <= 60:
        parser.error(f"--workers must be more than {FEW}, --producers at least 1, and --seconds from 1 to 60")
    date, load = datetime.now(UTC).isoformat(timespec="seconds"), os.getloadavg()[0]
    try:
        allow_files(options.workers * 4 + options.producers + SPARE)
        result = measure(options)
    except (Failed, OSError) as failed:
        _say(f"failed: {failed}")
        return 1
    print(text(result))
    keep(asdict(result), date, "fleet")
    if options.docs:
        at = f"{date}, {report.machine()}, {server.find().description}, redisjobs {__version__}"
        head = f"{at}; load average before it {load:.1f}. To repeat it: `python -m benchmarks fleet --docs`."
        scale = CHECKOUT / "docs/scale.md"
        scale.write_text(page(scale.read_text("utf-8"), head, result), "utf-8")
    return 0 if result.is_like_real else 1


def _rates(text: str) -> list[float]:
    rates = [float(word) for word in text.split(",")]
    if min(rates) <= 0:
        raise argparse.ArgumentTypeError("each must be more than 0")
    return rates


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
