"""The options by which a command is told which jobs are meant."""

from enum import StrEnum
from typing import Annotated

import typer

from redisjobs.base.arguments import is_text
from redisjobs.cli.errors import Mistake, check_seconds
from redisjobs.client.operations import FilterOptions

Name = Annotated[str | None, typer.Option("--name", help="Only jobs of this name.")]
Text = Annotated[
    str | None, typer.Option("--text", help="Only those with this in their parameters or their error.")
]
Fingerprint = Annotated[str | None, typer.Option("--fingerprint", help="Only failures of this kind.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Only those that are dead for this reason.")]
OlderThan = Annotated[
    float | None,
    typer.Option("--older-than", help="Only those that were pushed, or died, so many seconds ago or more."),
]


class Waiting(StrEnum):
    """States of jobs that can be held all at once."""

    READY = "ready"
    DELAYED = "delayed"


class Cancellable(StrEnum):
    """States of jobs that can be cancelled all at once."""

    READY = "ready"
    DELAYED = "delayed"
    RUNNING = "running"


def filters(
    name: str | None,
    text: str | None,
    older_than: float | None,
    fingerprint: str | None = None,
    reason: str | None = None,
) -> FilterOptions:
    """What was typed, for the calls of a queue; empty where nothing was.

    Raises:
        Mistake: An option makes no sense.
    """
    check_seconds(older_than=older_than)
    typed = {"name": name, "text": text, "fingerprint": fingerprint, "reason": reason}
    for option, value in typed.items():
        if value is not None and not is_text(value, r"(?s:.{1,1000})"):
            raise Mistake(f"--{option} {value[:40]!r}: give 1 to 1,000 characters that UTF-8 can carry")
    options = FilterOptions(name=name, text=text, fingerprint=fingerprint, reason=reason, older_than=older_than)
    return options if any(value is not None for value in options.values()) else FilterOptions()
