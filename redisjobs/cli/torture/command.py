"""The torture: everything that can go wrong does, at once, and nothing may be lost."""

import json
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from redisjobs import server
from redisjobs.cli import journal
from redisjobs.cli.fault import Failure, Mistake
from redisjobs.cli.journal import Journal
from redisjobs.cli.local import end_on_signals
from redisjobs.cli.target import without_password
from redisjobs.cli.torture import nemesis, report
from redisjobs.cli.torture.checker import check
from redisjobs.cli.torture.fleet import Fleet
from redisjobs.cli.torture.nemesis import FAULTS, Fault, Field, duration
from redisjobs.cli.torture.plan import Planned, plan
from redisjobs.cli.torture.producers import Producers
from redisjobs.cli.torture.proxy import Proxy
from redisjobs.cli.torture.store import Final, Store
from redisjobs.driver import Counts
from redisjobs.errors import DriverError

_LEASE = 2.0  # seconds: short, so that many faults fit in
_RATE = 120.0  # jobs a second
_TICK = 0.05  # seconds
_MOMENT = 0.3  # seconds for workers to take what a fault has prepared
_STALL = 0.5  # seconds late from which on this machine is said to have stood still
_DRAIN = 90.0  # seconds that all work may take to drain once the faults are over
_WARM_UP = 20.0  # seconds that the workers may take to start
_SAY = 5.0  # seconds between lines where there is no terminal


def torture(
    minutes: Annotated[float, typer.Option(min=0.05, help="How long faults come.")] = 5,
    url: Annotated[
        str, typer.Option("--url", help="Use this server, and let it be: only workers and connections suffer.")
    ] = "",
    seed: Annotated[int | None, typer.Option(help="Of the schedule of faults; by default a new one.")] = None,
    json_file: Annotated[
        str, typer.Option("--json", metavar="FILE", help="Write the report there as JSON; - for standard output.")
    ] = "",
    directory: Annotated[
        Path | None, typer.Option("--dir", file_okay=False, help="Keep the journals and the workers' log there.")
    ] = None,
) -> None:
    """Push, run, and break everything for a while; then prove that no job was lost.

    Exit codes: 0 nothing was; 1 something was, or the run itself failed; 130 it was interrupted.
    """
    if sys.platform == "win32":
        raise Mistake("the torture needs a POSIX system: elsewhere there is no SIGKILL and no SIGSTOP")
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    console = Console(highlight=False, soft_wrap=True, stderr=json_file == "-")
    try:
        end_on_signals()
        with _folder(directory) as folder, _place(url) as place:
            console.print(f"torturing {place.description} for {minutes:g} min; the seed is {seed}")
            run = _Run(place, folder, seed, minutes * 60, console)
            run.go()
            verdict = check(run.lines(), run.final)
            verdict.wrong += run.wrong
            log = run.fleet.log_end()
    except KeyboardInterrupt:
        print("redisjobs: interrupted; nothing was left running", file=sys.stderr)
        sys.exit(130)
    console.print(report.text(verdict, place.description, run.seconds, seed))
    if json_file:
        _write(json_file, report.document(verdict, place.description, run.seconds, seed))
    if not verdict.passed:
        print(f"the end of the workers' log:\n{log}", file=sys.stderr)
        sys.exit(1)


@contextmanager
def _folder(directory: Path | None) -> Iterator[Path]:
    """Where journals go: a new directory that stays, or one that does not."""
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="redisjobs-torture-") as scratch:
            yield Path(scratch)
        return
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise Mistake(f"{directory} is not empty")
    yield directory.absolute()


def _write(file: str, document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=2)
    if file == "-":
        print(text)
    else:
        Path(file).write_text(text + "\n")


class _Place:
    """Where the queue is, and what stands between it and its users."""

    def __init__(
        self, url: str, description: str, own: server.Server | None, workers: Proxy | None, producers: Proxy | None
    ) -> None:
        self.url, self.description, self.own = url, description, own
        self.workers, self.producers = workers, producers
        self.queue = f"torture-{secrets.token_hex(4)}"
        self.store = Store(url, self.queue)

    def through(self, proxy: Proxy | None) -> str:
        """The server's URL, by way of a proxy."""
        if proxy is None:
            return self.url
        parts = urlsplit(self.url)
        user, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user}{at}127.0.0.1:{proxy.port}").geturl()


@contextmanager
def _place(url: str) -> Iterator[_Place]:
    """A place for the torture, gone afterwards: a server of its own, or a queue on the user's."""
    with ExitStack() as stack:
        own = None
        if not url:
            # What was acknowledged is on the disk: then a kill may lose nothing.
            own = stack.enter_context(server.start(options=("--appendfsync", "always")))
        there = own.url if own else url
        try:
            parts = urlsplit(there)
            target = (parts.hostname or "127.0.0.1", parts.port or 6379)
        except ValueError as error:
            raise Mistake(f"{url!r} is no URL of a server: {error}") from error
        proxies: list[Proxy | None] = [None, None]
        if parts.scheme == "redis":
            proxies = [stack.enter_context(Proxy(*target)) for _ in range(2)]
        description = f"{own.description}, {there}" if own else without_password(there)
        try:
            place = _Place(there, description, own, *proxies)
        except ValueError as error:
            raise Mistake(str(error)) from error
        try:
            place.store.counts()  # says so if it does not answer
            yield place
        finally:
            if own is None:
                with suppress(DriverError):
                    place.store.remove()
            place.store.close()


class _Run:
    """One run, from the first worker's start to the last one's end.

    Attributes:
        final: What was in the store at its end.
        wrong: What went wrong that no journal tells.
        seconds: How long it took.
    """

    def __init__(self, place: _Place, directory: Path, seed: int, length: float, console: Console) -> None:
        self.place, self.seed, self.length, self.console = place, seed, length, console
        self.directory = directory
        self.journal = Journal(directory)
        self.store = place.store
        url = place.through(place.workers)
        self.fleet = Fleet(url, place.queue, directory, _LEASE, random.Random(seed))
        self.field = Field(self.fleet, self.store, _LEASE, place.workers, place.producers, place.own)
        self.counts: Counts | None = None
        self.faults = 0
        self.in_force = ""
        self.final = Final()
        self.wrong: list[str] = []
        self.seconds = 0.0

    def lines(self) -> list[dict[str, Any]]:
        """All journals."""
        return list(journal.read(self.directory))

    def go(self) -> None:
        """Run it all."""
        self.started = self.looked = time.monotonic()
        producers = Producers(
            self.place.through(self.place.producers), self.place.queue, self.journal, seed=self.seed, rate=_RATE
        )
        with _Display(self.console) as self.display, self.fleet:
            self.fleet.start()
            if not self._until(lambda: self.fleet.complete, _WARM_UP, "the workers start"):
                raise Failure(f"the workers did not start in {_WARM_UP:g} s:\n{self.fleet.log_end()}")
            with producers:
                self._harm()
                self._heal()
            self.wrong += producers.errors
            if not self._until(self._drained, _DRAIN, "the rest drains"):
                self.wrong.append(f"the queue did not drain in {_DRAIN:g} s")
            self.fleet.dismiss()
            self.wrong += [*self.fleet.unasked, *self.fleet.complaints()]
        self.final = self.store.final()
        self.seconds = time.monotonic() - self.started

    # Faults

    def _harm(self) -> None:
        kinds = {fault.name: fault for fault in FAULTS if fault.possible(self.field)}
        schedule = plan(
            self.seed,
            self.length,
            {name: duration(fault, _LEASE) for name, fault in kinds.items()},
            [name for name in nemesis.COMPANY if name in kinds],
        )
        began = time.monotonic()
        for planned in schedule:
            self._pause(began + planned.at - time.monotonic())
            self._commit(planned, [kinds[name]() for name in planned.names])
        self._pause(began + self.length - time.monotonic())

    def _commit(self, planned: Planned, faults: list[Fault]) -> None:
        self.in_force = " and ".join(planned.names)
        self.field.rng.seed(planned.seed)
        self.fleet.rng.seed(planned.seed)
        begun = []
        for fault in faults:
            self._until(partial(fault.is_possible_now, self.field), _WARM_UP)
        for fault in faults:
            with suppress(DriverError):
                fault.prepare(self.field)
        self._pause(_MOMENT)
        for fault in faults:
            at = time.time()
            with suppress(DriverError):  # the other fault keeps this one from happening
                fault.begin(self.field)
                begun.append((fault, at))
        end = time.monotonic() + planned.holds
        while (left := end - time.monotonic()) > 0:
            for fault, _ in begun:
                with suppress(DriverError):
                    fault.keep(self.field)
            self._pause(min(left, 0.1))
        for fault, at in begun:
            fault.end(self.field)
            if fault.happened:
                self._note_fault(fault, at)
        for note in self.field.notes:
            self.journal.write(note)
        self.field.notes.clear()
        self.in_force = ""

    def _note_fault(self, fault: Fault, began: float) -> None:
        self.faults += 1
        now = time.time()
        line = {"what": "fault", "name": fault.name, "at": began, "began": began, "ended": now}
        line |= {"recovery": fault.recovery, "detail": fault.detail, "workers": self.fleet.pids()}
        line |= {"pids": fault.pids, "jobs": fault.jobs, "lingers": fault.lingers}
        self.journal.write(line)

    def _heal(self) -> None:
        self.in_force = "none any more"
        nemesis.heal(self.field)

    # Waiting, and seeing to things meanwhile

    def _pause(self, seconds: float) -> None:
        self._until(lambda: False, seconds)

    def _until(self, condition: Callable[[], object], seconds: float, what: str = "") -> bool:
        end = time.monotonic() + seconds
        if what:
            self.in_force = what
        while not condition():
            left = end - time.monotonic()
            if left <= 0:
                return False
            self._look()
            before = time.monotonic()
            time.sleep(min(_TICK, left))
            if (late := time.monotonic() - before) > _STALL:
                self._note_stall(late)
        return True

    def _note_stall(self, seconds: float) -> None:
        """Leases run out where nobody gets to run: that is no fault of ours, and explains what follows."""
        now = time.time()
        line = {"what": "stall", "name": "machine stood still", "at": now, "began": now - seconds, "ended": now}
        self.journal.write(line | {"lingers": 0.0, "recovery": "workers", "pids": []})

    def _look(self) -> None:
        self.fleet.tend()
        if time.monotonic() - self.looked > 0.5:
            self.looked = time.monotonic()
            with suppress(DriverError):  # it may be away, as we see to it that it is
                self.counts = self.store.counts()
            self.display.show(self._line())

    def _line(self) -> str:
        elapsed = time.monotonic() - self.started
        parts = [f"{elapsed:5.0f} s"]
        if self.counts is not None:
            totals = self.counts.totals
            parts += [f"{totals.get(key, 0)} {word}" for key, word in _SHOWN.items()]
        parts += [f"{self.faults} faults"]
        return "  ".join(parts) + (f"  now: {self.in_force}" if self.in_force else "")

    def _drained(self) -> bool:
        try:
            counts = self.store.counts()
        except DriverError:
            return False
        return not (sum(counts.ready.values()) or counts.running or counts.delayed)


_SHOWN = {"pushed": "pushed", "completed": "done", "dead": "dead", "cancelled": "cancelled"}


class _Display:
    """One line that changes, on a terminal; else a line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._said = 0.0

    def __enter__(self) -> "_Display":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, line: str) -> None:
        """Show it."""
        if self._live is not None:
            self._live.update(Text(line), refresh=True)
        elif time.monotonic() - self._said >= _SAY:
            self._said = time.monotonic()
            self._console.print(line)
