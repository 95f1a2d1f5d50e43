"""The options that filter jobs."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from redisjobs.cli.errors import check_seconds, mistake
from redisjobs.control.filters import FilterOptions, filter_of
from redisjobs.model.job import CANCELLABLE, WAITING, State

Name = Annotated[str | None, typer.Option("--name", help="Only jobs of this name.")]
Text = Annotated[
    str | None, typer.Option("--text", help="Only jobs with this text in their parameters or their error.")
]
Fingerprint = Annotated[str | None, typer.Option("--fingerprint", help="Only failures of this kind.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Only dead letters with this reason.")]
Worker = Annotated[
    str | None, typer.Option("--worker", help="Only jobs that this worker runs, or settled as dead or done.")
]
OlderThan = Annotated[
    float | None,
    typer.Option("--older-than", help="Only jobs that were pushed, or died, at least this many seconds ago."),
]


if TYPE_CHECKING:
    Waiting: TypeAlias = State
    Cancellable: TypeAlias = State
else:  # the command line takes the values of an enum
    Waiting = StrEnum("Waiting", {state.name: state.value for state in WAITING})
    Cancellable = StrEnum("Cancellable", {state.name: state.value for state in CANCELLABLE})


def filters(
    name: str | None,
    text: str | None,
    older_than: float | None,
    fingerprint: str | None = None,
    reason: str | None = None,
    worker: str | None = None,
) -> FilterOptions:
    """Return the typed filters for the calls of a queue; raise a `Mistake` for a wrong one."""
    check_seconds(older_than=older_than)
    failure = FilterOptions(fingerprint=fingerprint, reason=reason)
    options = FilterOptions(name=name, text=text, worker=worker, older_than=older_than, **failure)
    try:
        filter_of(options)
    except ValueError as error:
        raise mistake(error, options) from error
    return options if any(value is not None for value in options.values()) else FilterOptions()
