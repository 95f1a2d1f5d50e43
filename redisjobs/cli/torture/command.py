"""The torture: everything that can go wrong does, at once, and nothing may be lost."""

import json
import secrets
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from redisjobs.cli.fault import Mistake
from redisjobs.cli.local import ended_by_signals
from redisjobs.cli.torture import report
from redisjobs.cli.torture.checker import check
from redisjobs.cli.torture.nemesis import FAULTS, Fault
from redisjobs.cli.torture.place import place
from redisjobs.cli.torture.run import LEASE, Torture
from redisjobs.cli.torture.settable import settable
from redisjobs.cli.torture.spoiled import spoil


def torture(
    minutes: Annotated[float, typer.Option(min=0.05, help="How long faults come.")] = 5,
    url: Annotated[
        str, typer.Option("--url", help="Use this server, and let it be: only workers and connections suffer.")
    ] = "",
    seed: Annotated[int | None, typer.Option(help="Of the schedule of faults; by default a new one.")] = None,
    json_file: Annotated[
        str, typer.Option("--json", metavar="FILE", help="Write the report there as JSON; - for standard output.")
    ] = "",
    faults: Annotated[
        list[str] | None,
        typer.Option(
            "--fault", metavar="NAME", help="Only this kind of fault; again for several.", show_default=False
        ),
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", file_okay=False, help="Keep the journals and the workers' log there.")
    ] = None,
) -> None:
    """Push, run, and break everything for a while; then prove that no job was lost.

    Exit codes: 0 nothing was; 1 something was, or the run itself failed; 130 it was interrupted.
    """
    if sys.platform == "win32":
        raise Mistake("the torture needs a POSIX system: elsewhere there is no SIGKILL and no SIGSTOP")
    kinds = _kinds(faults)
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    console = Console(highlight=False, soft_wrap=True, stderr=json_file == "-")
    try:
        with (
            ended_by_signals(),
            _folder(directory) as folder,
            settable(folder / "scripts"),
            place(url) as there,
        ):
            console.print(f"torturing {there.description} for {minutes:g} min; the seed is {seed}")
            run = Torture(there, folder, seed, minutes * 60, console, kinds)
            run.go()
            verdict = check(run.lines(), run.finals, LEASE)
            verdict.wrong += run.wrong
            if not faults:
                verdict.wrong += spoil(there, folder / "spoiled", seed)
            log = run.fleet.log_end()
    except KeyboardInterrupt:
        print("redisjobs: interrupted; nothing was left running", file=sys.stderr)
        sys.exit(130)
    console.print(report.text(verdict, there.description, run.seconds, seed))
    if json_file:
        _write(json_file, report.document(verdict, there.description, run.seconds, seed))
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


def _kinds(names: Sequence[str] | None) -> Sequence[type[Fault]]:
    """The kinds of fault of these names; all for none."""
    if not names:
        return FAULTS
    known = {fault.name: fault for fault in FAULTS}
    for name in names:
        if name not in known:
            raise Mistake(f"there is no fault '{name}'; there are: {', '.join(sorted(known))}")
    return [known[name] for name in names]
