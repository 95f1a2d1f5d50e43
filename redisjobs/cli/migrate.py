"""The `migrate` command, which brings a database's schema up to this release."""

from typing import Annotated

import typer

from redisjobs.cli.errors import Mistake
from redisjobs.cli.output import say
from redisjobs.drivers.postgres import connecting, schema

Database = Annotated[
    str,
    typer.Option(
        "--database",
        envvar="REDISJOBS_DATABASE",
        metavar="URL",
        help="The database, as postgresql://USER@HOST/NAME.",
        show_default=False,
    ),
]
Print = Annotated[bool, typer.Option("--print", help="Print the SQL that would run, and run nothing.")]


def migrate(database: Database, only_print: Print = False) -> None:
    """Make or change the schema `redisjobs` of a Postgres database for this release.

    You can run it again, and on several hosts at once: each change is made once. It changes nothing outside of the
    schema, and needs no superuser: only the right to create a schema, or one that belongs to the role.
    """
    check_database(database)
    if only_print:
        said = "\n".join(schema.pending(database)).rstrip("\n")
        say(said or f"-- {_current()}: nothing to do")
        return
    is_new = False
    for line in schema.migrate(database):
        is_new = say(line)
    say(f"{connecting.shown(database)}: {_current()}" + ("" if is_new else " already: nothing to do"))
    if danger := schema.danger(database):
        typer.echo(f"warning: {danger}", err=True)


def check_database(url: str) -> None:
    """Raise a `Mistake` if a URL names no Postgres database."""
    try:
        connecting.checked(url)
    except ValueError as error:
        raise Mistake(f"--database {error}") from None


def _current() -> str:
    return f"the schema redisjobs has version {schema.migrations()[-1].version}"
