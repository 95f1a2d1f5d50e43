"""The `doctor` command, which checks a queue and its server, and may repair the queue's data."""

import dataclasses
from typing import Annotated

import typer

from redisjobs.base.visible import visible
from redisjobs.cli import show
from redisjobs.cli.bar import Bar
from redisjobs.cli.errors import Failure
from redisjobs.cli.output import say
from redisjobs.cli.target import Json, QueueName, Url, named, where
from redisjobs.model.health import Finding, Level
from redisjobs.model.progress import Progress


def doctor(
    repair: Annotated[bool, typer.Option("--repair", help="Correct what loses no job.")] = False,
    queue: QueueName = "default",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Check a queue and its server: its data, workers, backlog and schedules; memory, clock, permissions.

    It may run on a busy queue, and again at any time. The exit code is 1 if there is an error that was not
    repaired; warnings, and what could not be checked, do not count.
    """
    with named(queue, url) as there, Bar("doctor") as bar:

        def progress(done: int, total: int) -> None:
            bar.show(Progress(fraction=done / total if total else None, done=done, total=total))

        found = there.control.doctor(repair=repair, progress=progress)
    if as_json:
        show.document(
            {"queue": there.name, "server": there.driver.where, "findings": [*map(dataclasses.asdict, found)]}
        )
    else:
        say(f"{where(there)}\n")
        for finding in found:
            _show(finding)
    errors = [finding.check for finding in found if finding.level is Level.ERROR and not finding.repaired]
    if errors:
        raise Failure(f"{where(there)} has errors: {', '.join(dict.fromkeys(errors))}")


def _show(finding: Finding) -> None:
    repaired = f" Repaired: {finding.repaired}." if finding.repaired else ""
    say(f"{finding.level:<8} {finding.check:<15} {visible(finding.sentence)}{repaired}")
    if finding.advice:
        say(f"{'':<24} {visible(finding.advice)}")
