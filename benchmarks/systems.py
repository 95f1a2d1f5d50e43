"""The systems that are measured: what each one is, its environment, and how its workers are started."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
CHECKOUT = HERE.parent
PEERS = HERE / "peers"
VENVS = HERE / ".venvs"
_INSTALL_WITHIN = 300.0  # seconds
_OUR_OWN = ("REDISJOBS_URL", "BENCH_CONCURRENCY")  # not the user's server, nor what is tuned elsewhere

Commands = list[list[str]]


class Failed(Exception):
    """A system can't be measured, or one measure of it went wrong; the message says why."""


@dataclass(frozen=True)
class System:
    """One system.

    Attributes:
        name: What it is called in tables and on the command line.
        module: Of its program, `<module>_jobs.py`.
        packages: What pip installs, versions pinned.
        distribution: Whose version is reported.
        setup: How it is set up, in a few words.
        workers: From the folder of its programs, a number of processes and how many jobs each may run at once, the
            commands that start them; None is whatever the system does by itself.
        scale: How many jobs it is given, as a share of the fastest system's.
        concurrency: Jobs at once in a drain of jobs that do nothing.
        gives_up: What it goes without that redisjobs does meanwhile, as read in its code and documents, or run.
        peers: The folder where `<module>_jobs.py`, `drive.py` and `meter.py` are.
    """

    name: str
    module: str
    packages: Sequence[str]
    distribution: str
    setup: str
    workers: Callable[[Path, int | None, int | None], Commands]
    scale: float = 1.0
    concurrency: int = 100
    peers: Path = PEERS
    gives_up: str = ""

    @property
    def venv(self) -> Path:
        """Where its environment is; the floor shares ours."""
        return VENVS / ("redisjobs" if self.module == "floor" else self.name)

    @property
    def programs(self) -> Path:
        """The folder of its programs."""
        return self.venv / "bin"

    @property
    def producer(self) -> list[str]:
        """The command that starts its producer."""
        return [str(self.programs / "python"), "drive.py", self.module]

    def environment(self, url: str, meter: Path, concurrency: int | None) -> dict[str, str]:
        """The variables that its processes are started with; without `concurrency` nothing is tuned."""
        tuned = {
            "BENCH_CONCURRENCY": str(concurrency),
            "dramatiq_queue_prefetch": "100",  # by itself it is twice the threads
        }
        return {
            **{key: value for key, value in os.environ.items() if key not in _OUR_OWN},
            "PYTHONPATH": str(self.peers),
            "BENCH_URL": url,
            "BENCH_METER": str(meter),
            **({} if concurrency is None else tuned),
        }

    def install(self, python: str) -> str:
        """Make its environment, unless it is there, and return the version of what is in it.

        Raises:
            Failed: It does not install; the message is pip's last word.
        """
        self.make(python, self.packages, "\n".join(self.packages) + "\n" + _project())
        return self.version()

    def make(self, python: str, packages: Sequence[str], wanted: str) -> None:
        """Make its environment, unless the one that is there was made for the same `python` and `wanted`.

        Raises:
            Failed: It does not install; the message is pip's last word.
        """
        stamp, wanted = self.venv / "installed.txt", f"{python}\n{wanted}"
        if not stamp.is_file() or stamp.read_text() != wanted:
            shutil.rmtree(self.venv, ignore_errors=True)
            checked([python, "-m", "venv", str(self.venv)])
            checked([str(self.programs / "python"), "-m", "pip", "install", "--quiet", *packages])
            stamp.write_text(wanted)

    def version(self) -> str:
        """The version of what is in its environment."""
        code = f"import importlib.metadata as m; print(m.version({self.distribution!r}))"
        return checked([str(self.programs / "python"), "-c", code]).strip()

    def pins(self) -> list[str]:
        """The versions of all that is in its environment, as pip takes them, but not of the project itself."""
        frozen = [str(self.programs / "python"), "-m", "pip", "freeze", "--exclude-editable"]
        return checked(frozen).splitlines()


def _project() -> str:
    return (CHECKOUT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[0]


def checked(command: list[str]) -> str:
    """What a command says that installs something.

    Raises:
        Failed: It did not do what it was to; the message is its last word.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_WITHIN)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"can't be installed: {error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise Failed(f"can't be installed: {lines[-1].strip()}")
    return done.stdout


def python() -> str:
    """The Python for every environment: the newest at hand that all peers run on. ardiq needs 3.12, mayu 3.13."""
    for path in filter(None, map(shutil.which, ("python3.13", "python3.12"))):
        asked = subprocess.run([path, "-c", "import ensurepip, sys; print(sys.executable)"], capture_output=True)
        if not asked.returncode:
            return asked.stdout.decode().strip()
    return sys.executable


def python_version(python: str) -> str:
    """Such as `Python 3.13.5`."""
    return checked([python, "--version"]).strip()


def _given(**options: int | None) -> list[str]:
    """Options as they are typed; those that are None are left to the system itself."""
    given = [(f"--{name.replace('_', '-')}", str(value)) for name, value in options.items() if value is not None]
    return [word for option in given for word in option]


def _redisjobs(programs: Path, processes: int | None, concurrency: int | None) -> Commands:
    worker = [str(programs / "redisjobs"), "worker", "redisjobs_jobs:queue", "--log-level", "warning"]
    return [[*worker, *_given(concurrency=concurrency)]] * (processes or 1)


def _floor(programs: Path, processes: int | None, concurrency: int | None) -> Commands:
    return [[str(programs / "python"), "floor_jobs.py"]] * (processes or 1)


def _tarsk(programs: Path, processes: int | None, concurrency: int | None) -> Commands:
    worker = [str(programs / "tarsk"), "worker", "--app", "tarsk_jobs:app", "--queues", "default"]
    return [[*worker, "--broker", "URL", *_given(children=processes, slots=concurrency)]]


def _taskiq(programs: Path, processes: int | None, concurrency: int | None) -> Commands:
    worker = [str(programs / "taskiq"), "worker", "taskiq_jobs:broker", "--log-level", "ERROR", "--no-parse"]
    prefetch = None if concurrency is None else 100
    return [[*worker, *_given(workers=processes, max_async_tasks=concurrency, max_prefetch=prefetch)]]


def _ardiq(programs: Path, processes: int | None, concurrency: int | None) -> Commands:
    return [[str(programs / "ardiq"), "run", "--quiet", *_given(workers=processes), "ardiq_jobs:app"]]


def _cauli(programs: Path, processes: int | None, concurrency: int | None) -> Commands:
    worker = [str(programs / "cauli-worker"), "--app", "cauli_jobs:app", "--log-level", "error"]
    return [[*worker, *_given(procs=processes, io_concurrency=concurrency)]]


def _blitzq(programs: Path, processes: int | None, concurrency: int | None) -> Commands:
    worker = [str(programs / "blitzq"), "worker", "blitzq_jobs:queue", "--log-level", "ERROR"]
    return [[*worker, *_given(workers=processes, concurrency=concurrency)]]


def _mayu(programs: Path, processes: int | None, concurrency: int | None) -> Commands:
    worker = [str(programs / "mayu"), "worker", "mayu_jobs:app", "--mode", "thread", "--log-level", "ERROR"]
    prefetch = None if concurrency is None else max(200 // concurrency, 2)  # it is by thread, and by itself 2
    return [[*worker, *_given(processes=processes, threads=concurrency, prefetch_multiplier=prefetch)]]


def _dramatiq(programs: Path, processes: int | None, concurrency: int | None) -> Commands:
    worker = [str(programs / "dramatiq"), "dramatiq_jobs", "--skip-logging"]
    return [[*worker, *_given(processes=processes, threads=concurrency)]]


def _streaq(programs: Path, processes: int | None, concurrency: int | None) -> Commands:
    return [[str(programs / "streaq"), "run", *_given(workers=processes), "streaq_jobs:worker"]]


def _arq(programs: Path, processes: int | None, concurrency: int | None) -> Commands:
    worker = [str(programs / "arq"), "--custom-log-dict", "arq_jobs.QUIET", "arq_jobs.WorkerSettings"]
    return [worker] * (processes or 1)


US, FLOOR = "redisjobs", "floor"


def distribution_of(checkout: Path) -> str:
    """Return what the project is called at pip, which was another name once."""
    project = checkout / "pyproject.toml"
    return str(tomllib.loads(project.read_text("utf-8"))["project"]["name"]) if project.is_file() else US


OURS = ("--editable", f"{CHECKOUT}[worker]", "redis[hiredis]==8.1.0", "hiredis==3.5.0")

SYSTEMS = {
    system.name: system
    for system in (
        System(US, "redisjobs", OURS, distribution_of(CHECKOUT), "uvloop, hiredis, every check on", _redisjobs),
        System(FLOOR, "floor", OURS, "redis", "redis-py, uvloop, hiredis, batches of 100", _floor),
        System(
            "tarsk-redis",
            "tarsk",
            ("tarsk-redis==0.2.1", "uvloop==0.23.0"),
            "tarsk-redis",
            "100 slots a child; pushes in flight from threads",
            _tarsk,
            gives_up="A crashed worker's jobs wait for their timeout and 30 s more. It looks for delayed "
            "jobs once a second. No typed parameters.",
        ),
        System(
            "taskiq-redis",
            "taskiq",
            ("taskiq-redis==1.2.4", "taskiq==0.13.0", "uvloop==0.23.0", "hiredis==3.5.0", "orjson==3.13.0"),
            "taskiq-redis",
            "streams, uvloop, hiredis, orjson, prefetch 100, no parsing",
            _taskiq,
            scale=0.4,
            gives_up="A crashed worker's jobs wait 10 minutes, and for ever if no other job comes. Finished "
            "jobs stay in the stream. No delayed jobs in the broker, no dead letters.",
        ),
        System(
            "ardiq",
            "ardiq",
            ("ardiq==1.2.0", "uvloop==0.23.0"),
            "ardiq",
            "uvloop, prefetch as it comes",
            _ardiq,
            gives_up="It runs prefetched jobs twice without any failure. A job that kills its worker is "
            "tried for ever. A worker ends when its connection breaks once.",
        ),
        System(
            "cauli",
            "cauli",
            ("cauli==0.1.0", "hiredis==3.5.0"),
            "cauli",
            "a worker in Rust that embeds Python, acknowledges by 64",
            _cauli,
            gives_up="Acknowledgements are unchecked: a worker that lost a job still settles it. No lease is "
            "renewed, so a long job runs twice. Recovery takes minutes.",
        ),
        System(
            "blitzq",
            "blitzq",
            ("blitzq==1.1.0", "uvloop==0.23.0", "hiredis==3.5.0"),
            "blitzq",
            "its reliable mode, uvloop, hiredis, results not kept",
            _blitzq,
            gives_up="A repeated push adds the job twice. Acknowledgements are unchecked: a worker that lost "
            "a job still settles it.",
        ),
        System(
            "mayu",
            "mayu",
            ("mayu==0.2.5",),
            "mayu",
            "a client in Rust, 2 threads (100 where jobs sleep), prefetch 200, results not kept",
            _mayu,
            concurrency=2,
            gives_up="A crashed worker's jobs wait 30 s. Rate limits hold for a process, not for the fleet. "
            "Handlers run in threads, which no timeout can end. It is alpha, by its own words.",
        ),
        System(
            "dramatiq",
            "dramatiq",
            ("dramatiq[redis]==2.2.1", "hiredis==3.5.0"),
            "dramatiq",
            "hiredis, 8 threads (100 where jobs sleep), prefetch 100",
            _dramatiq,
            scale=0.4,
            concurrency=8,
            gives_up="A crashed worker's jobs come back by maintenance that runs at random, after a minute "
            "at best. Delayed jobs wait in a worker's memory. Dead letters can't be requeued.",
        ),
        System(
            "streaq",
            "streaq",
            ("streaq==7.2.0", "uvloop==0.23.0"),
            "streaq",
            "uvloop, prefetch as it comes, silent, results not kept",
            _streaq,
            scale=0.2,
            gives_up="A crashed worker's jobs wait 60 to 120 s. A worker ends if the server is away for 6 s. "
            "Most exceptions are never retried. No dead letters.",
        ),
        System(
            "arq",
            "arq",
            ("arq==0.28.0", "uvloop==0.23.0", "hiredis==3.5.0"),
            "arq",
            "uvloop, hiredis, polls each 50 ms, results not kept",
            _arq,
            scale=0.2,
            gives_up="A crashed worker's jobs wait about 5 minutes. No lease is renewed. It polls. No dead "
            "letters.",
        ),
    )
}
QUICK = (US, "tarsk-redis", "taskiq-redis", FLOOR)
PEER_NAMES = tuple(name for name in SYSTEMS if name not in (US, FLOOR))


def chosen(names: str | None, quick: bool, against: bool = False) -> list[System]:
    """The systems to measure: us, the floor, and the peers that were asked for.

    By default `against` is redisjobs alone: a commit is held against the working tree, not against peers.

    Raises:
        ValueError: There is no such peer.
    """
    if names is None and against:
        return [SYSTEMS[US]]
    if names is None:
        return [SYSTEMS[name] for name in (QUICK if quick else SYSTEMS)]
    peers = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in peers if name not in PEER_NAMES]:
        raise ValueError(f"no such peer: {', '.join(unknown)}; there are {', '.join(PEER_NAMES)}")
    return [SYSTEMS[name] for name in (US, *peers, FLOOR)]
