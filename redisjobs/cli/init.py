"""The `init` command, which writes one of the projects in `examples/`."""

import json
import os
import shlex
import sys
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import typer

import redisjobs
from redisjobs.cli.errors import Failure, Mistake

_PACKAGE = Path(redisjobs.__file__).parent
_CHECKOUT = _PACKAGE.parent
_SOURCE = "--wheel-dir wheels ../.."  # the words of a README that name where redisjobs comes from
_MADE = {"__pycache__", ".pytest_cache", ".venv", "wheels", "db.sqlite3"}  # in a checkout whose examples were run


class Framework(StrEnum):
    """The web frameworks that there is a project for."""

    FASTAPI = "fastapi"
    DJANGO = "django"
    FLASK = "flask"


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", file_okay=False, help="Where to write it.")] = Path(),
    framework: Annotated[
        Framework, typer.Option("--framework", "-f", case_sensitive=False, help="The web framework.")
    ] = Framework.FASTAPI,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|URL",
            help="Where its README installs redisjobs from: a checkout, or git+https://...",
            show_default="where this redisjobs was installed from",
        ),
    ] = None,
) -> None:
    """Write a small web application with jobs: its worker, its image, its test.

    The README in it says how to install, run and test it. Files that exist are not overwritten: then nothing is
    written.
    """
    root = _projects() / framework.value
    files = {path.relative_to(root): path for path in sorted(root.rglob("*")) if path.is_file()}
    files = {name: path for name, path in files.items() if not _MADE.intersection(name.parts)}
    there = [str(name) for name in files if os.path.lexists(directory / name)]
    folders = {folder for name in files for folder in name.parents}
    there += [str(folder) for folder in sorted(folders) if (directory / folder).is_file()]
    if there:
        raise Failure(f"nothing was written: {directory} has {', '.join(there)} already; name another directory")
    origin = _origin() if source is None else _checked(source)
    _write(files, directory, origin)
    print(f"wrote {len(files)} files to {directory}; {directory / 'README.md'} says how to go on")


def _write(files: dict[Path, Path], directory: Path, origin: str) -> None:
    for name, path in files.items():
        text = path.read_text("utf-8")
        if name.name == "README.md":
            text = text.replace(_SOURCE, f"--wheel-dir wheels {shlex.quote(origin)}")
        try:
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            with (directory / name).open("x", encoding="utf-8") as file:  # an error if it is there by now
                file.write(text)
        except OSError as error:
            raise Failure(
                f"{directory / name} can't be written: {error.strerror}; the project is not whole"
            ) from error


def _projects() -> Path:
    """Return the folder of the projects: in the package, or in a checkout's examples."""
    return next(path for path in (_PACKAGE / "projects", _CHECKOUT / "examples") if path.is_dir())


def _checked(source: str) -> str:
    """Return a source for pip; a path as an absolute one, because the README is read elsewhere."""
    if "://" in source:
        return source
    if not Path(source).exists():
        raise Mistake(f"--source {source}: there is no such path; give a checkout, a wheel, or git+https://...")
    return str(Path(source).resolve())


def _origin() -> str:
    """Return where this redisjobs was installed from, as installers note it.

    Raises:
        Mistake: It is not known.
    """
    try:
        noted = json.loads(distribution("redisjobs").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        noted = {}
    url = str(noted.get("url", ""))
    if vcs := noted.get("vcs_info"):
        return f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
    if url.startswith("file:"):
        return unquote(urlsplit(url).path)
    if url or (_CHECKOUT / "pyproject.toml").is_file():
        return url or str(_CHECKOUT)
    raise Mistake(
        f"it is not known where {sys.prefix} has redisjobs from: give --source, a checkout or git+https://..."
    )
