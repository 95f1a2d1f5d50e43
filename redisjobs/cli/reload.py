"""Watches the source of an application for `worker --reload`. Needs the extra `reload`."""

import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from redisjobs.base.logger import Log
from redisjobs.cli.errors import Mistake

logger = Log("redisjobs.supervisor")


def need_watchfiles() -> None:
    """Raise a `Mistake` unless the extra `reload` is installed."""
    if importlib.util.find_spec("watchfiles") is None:
        raise Mistake("--reload needs watchfiles; in a checkout of redisjobs: pip install '.[reload]'")


def directories(modules: Iterable[str], chosen: Sequence[Path] | None) -> list[Path]:
    """Return the directories to watch: the chosen ones, or those of the imported modules' top-level packages.

    Instead of an installed package, as Django's queues have, it is the working directory.

    Raises:
        Mistake: A chosen directory does not exist.
    """
    if chosen:
        for directory in chosen:
            if not directory.is_dir():
                raise Mistake(f"--reload-dir {directory}: there is no such directory")
        return [directory.resolve() for directory in chosen]
    found = dict[Path, None]()
    for name in modules:
        top = sys.modules[name.partition(".")[0]]
        places = getattr(top, "__path__", None) or [Path(top.__file__ or os.getcwd()).parent]
        if top.__name__ == "redisjobs" or any("site-packages" in Path(place).parts for place in places):
            places = [Path.cwd()]
        found |= dict.fromkeys(Path(place).resolve() for place in places)
    return list(found)


def watch(directories: Sequence[Path], changed: Callable[[], object]) -> None:
    """Call `changed` after each change of Python files in these directories, in a thread.

    Only of Python files: a job that writes another file there must not end its own worker.
    """
    import watchfiles

    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it counts every change in a line of its own

    def follow() -> None:
        logger.info("watching %s for changes", ", ".join(map(str, directories)))
        try:
            for changes in watchfiles.watch(*directories, watch_filter=watchfiles.PythonFilter()):
                paths = sorted({path for _, path in changes})
                _forget(paths)
                more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
                logger.info("%s%s changed: restarting the workers", os.path.relpath(paths[0]), more)
                changed()
        except Exception:
            logger.exception("changes are not noticed any more")

    threading.Thread(target=follow, name="redisjobs reload", daemon=True).start()


def _forget(paths: Iterable[str]) -> None:
    """Remove the bytecode of changed files.

    Python compares only size and time in whole seconds, so a second change within a second could go unnoticed.
    """
    for path in paths:
        with suppress(OSError, NotImplementedError):
            Path(importlib.util.cache_from_source(path)).unlink()
