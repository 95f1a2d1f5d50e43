"""Finds the queue of a command: `MODULE:QUEUE` in the user's code, or `--queue NAME` at a URL."""

import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Annotated, Any

import typer

from redisjobs import sync
from redisjobs.base.visible import visible
from redisjobs.cli.errors import Failure, Mistake
from redisjobs.client.registry import Registry
from redisjobs.errors import DriverError, UniqueConflict
from redisjobs.local.server import DEFAULT_URL
from redisjobs.queue import JobQueue

_ANSWER = 3.0  # seconds that an operator's command waits for an unavailable server

Target = Annotated[str, typer.Argument(metavar="MODULE:QUEUE", help="The queue in your code: myapp.jobs:queue.")]
Targets = Annotated[
    list[str],
    typer.Argument(
        metavar="MODULE:QUEUE[=WEIGHT]...",
        envvar="REDISJOBS_APP",  # before typer 0.29, an argument without one takes no default of a file
        help="The queue in your code, as myapp.jobs:queue; or several, with a weight for each.",
    ),
]
Unweighted = Annotated[
    list[str],
    typer.Argument(
        metavar="MODULE:QUEUE...", envvar="REDISJOBS_APP", help="The queues in your code, as myapp.jobs:queue."
    ),
]
Imports = Annotated[
    list[str] | None,
    typer.Option("--import", metavar="MODULE", help="Also import this module, for its handlers; repeatable."),
]
Moved = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="REDISJOBS_URL",
        show_default=False,  # a file may name one with a password
        help="Use this server instead of the one the module names.",
    ),
]
Url = Annotated[
    str | None,
    typer.Option("--url", envvar="REDISJOBS_URL", help="The URL of the server.", show_default=DEFAULT_URL),
]
QueueName = Annotated[
    str, typer.Option("--queue", "-q", metavar="NAME|MODULE:QUEUE", help="The queue's name, or its place in code.")
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="The most jobs to list.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]


def where(queue: Registry) -> str:
    """Return a queue and its server for messages."""
    return f"queue '{visible(queue.name)}' at {visible(queue.driver.where)}"


@contextmanager
def naming(queue: Registry) -> Iterator[None]:
    """Add the queue and its server to errors of its driver."""
    try:
        yield
    except UniqueConflict:
        raise  # its message already names the job
    except DriverError as error:
        raise Failure(f"{error} ({where(queue)}){_hint(error, queue)}") from error


def _hint(error: DriverError, queue: Registry) -> str:
    """Return a hint for the case that no server listens at the default URL, else ''."""
    if queue.driver.where != DEFAULT_URL or "refused" not in str(error):
        return ""
    return "; start a server, as `redisjobs dev --port 6379`, or name one by --url or REDISJOBS_URL"


@contextmanager
def named(name: str, url: str | None) -> Iterator[sync.JobQueue]:
    """Yield a queue for an operator's command, and close its connections; see `queue_of` and `naming`."""
    with queue_of(name, url) as queue, naming(queue):
        yield queue


def queue_of(name: str, url: str | None) -> sync.JobQueue:
    """Return a queue without handlers, given its name or `MODULE:QUEUE`.

    Without a URL, it is on the server that the module names, or at the default URL.

    Raises:
        Mistake: The URL or the name is wrong, or `load` failed.
    """
    module, colon, _ = name.partition(":")
    try:
        if not (colon and _is_module(module)):
            found: Registry = sync.JobQueue(url or DEFAULT_URL, name=name, deadline=_ANSWER)
        else:
            found = load(name, url)
        if hasattr(found.driver, "memory"):
            raise Mistake(
                f"{name} is at memory://, a queue inside one process that no command can look into; give --url"
            )
        return sync.JobQueue(found.driver, name=found.name, deadline=_ANSWER)
    except ValueError as error:
        raise Mistake(str(error)) from error


def queues_in(module: str) -> tuple[list[str], list[str]]:
    """Return a module's queues on a server, and its queues at memory://, each as `MODULE:QUEUE`.

    Raises:
        Mistake: There is no such module, it raised, or it has no queue on a server.
    """
    found, inside = list[str](), list[str]()
    for name, value in sorted(vars(_import(module)).items()):
        if isinstance(value, JobQueue | sync.JobQueue):
            (inside if hasattr(value.driver, "memory") else found).append(f"{module}:{name}")
    if not found:
        raise Mistake(f"module {module!r} has no queue on a server; import it there, or name MODULE:QUEUE")
    return found, inside


def _is_module(name: str) -> bool:
    """Return whether there may be a module of this name. If not, the colon is part of the queue's name."""
    first = name.partition(".")[0]
    here = os.getcwd()
    if first in sys.stdlib_module_names:  # Python's module hides the user's; `load` then says so
        return os.path.exists(os.path.join(here, f"{first}.py"))
    _look_in(here)
    try:
        return importlib.util.find_spec(first) is not None
    except (ImportError, ValueError):
        return False


def load(target: str, url: str | None = None, imports: Sequence[str] | None = None) -> Registry:
    """Return the queue of a `MODULE:QUEUE`, moved to the URL if there is one. QUEUE may have dots.

    Modules in the current directory come before installed ones. `imports` are modules with handlers.

    Raises:
        Mistake: There is no such module or attribute, it is no queue, or the module raised. In the last case its
            traceback is printed.
    """
    module_name, colon, path = target.partition(":")
    if not (module_name and colon and path):
        raise Mistake(f"{target!r} is not MODULE:QUEUE, as in myapp.jobs:queue")
    found: Any = _import(module_name)
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            raise Mistake(_nothing_there(found, attribute, target))
        found = getattr(found, attribute)
    if not isinstance(found, JobQueue | sync.JobQueue):
        raise Mistake(f"{target} is a {type(found).__qualname__}, not a JobQueue")
    for name in imports or ():
        _import(name)
    if url is not None:
        try:
            found._connect(url)
        except ValueError as error:
            raise Mistake(str(error)) from error
    return found


def load_all(
    targets: Sequence[str], url: str | None = None, imports: Sequence[str] | None = None
) -> list[Registry | tuple[Registry, float]]:
    """Return the queues of `MODULE:QUEUE` or `MODULE:QUEUE=WEIGHT`, each once, with its weight if it has one.

    Raises:
        Mistake: `load` failed, a weight is no number, or two targets give one queue different weights.
    """
    found = dict[Registry, float | None]()
    paths = dict[Registry, str]()
    for target in targets:
        path, equals, weight = target.partition("=")
        share = _number(weight, target) if equals else None
        queue = load(path, url, imports)
        earlier = found.setdefault(queue, share)
        paths.setdefault(queue, path)
        if share is not None and earlier not in (None, share):
            raise Mistake(f"{paths[queue]} and {path} are one queue, with the weights {earlier:g} and {share:g}")
        found[queue] = earlier if share is None else share
    _check_places(paths)
    return [queue if share is None else (queue, share) for queue, share in found.items()]


def _check_places(paths: Mapping[Registry, str]) -> None:
    """Raise a `Mistake` if two objects stand for one queue, because each would have only some of the handlers."""
    by = dict[Hashable, str]()
    for queue, path in paths.items():
        earlier = by.setdefault(queue.driver.place, path)
        if earlier != path:
            raise Mistake(
                f"{earlier} and {path} are two JobQueue objects of one queue, '{visible(queue.name)}': register "
                "all its handlers on one of them"
            )


def _number(weight: str, target: str) -> float:
    try:
        return float(weight)
    except ValueError:
        raise Mistake(
            f"{target!r}: {weight!r} is no number; give MODULE:QUEUE=WEIGHT, as {target.partition('=')[0]}=3"
        ) from None


def _import(name: str) -> Any:
    here = os.getcwd()
    _look_in(here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # If the module exists, but can't import another one, it is `_broken`.
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            parent = name.rpartition(".")[0]
            why = f": {parent!r} is not a package" if parent in sys.modules else ""
            raise Mistake(f"there is no module {name!r} in {here} or on sys.path{why}") from None
        _broken(name, error)
    except (TypeError, ValueError) as error:
        if error.__traceback__ is not None and _own_frames(error.__traceback__) is None:
            raise Mistake(f"{name!r} can't name a module: give its full name, as myapp.jobs") from None
        _broken(name, error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit, too
        _broken(name, error)


def _look_in(folder: str) -> None:
    """Add a folder to `sys.path`: before installed packages, but after the standard library and our own imports.

    Else a `queue.py` or a `redis.py` in it would replace the module that all other code imports.
    """
    if sys.path[:1] == [folder]:  # `python -m` has put it there
        del sys.path[0]
    importlib.import_module("redisjobs.drivers.redis.driver")
    if folder not in sys.path:
        ours = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
        ours += [os.path.join(path, "lib-dynload") for path in ours]
        last = max((at for at, path in enumerate(sys.path) if path in ours), default=-1)
        sys.path.insert(last + 1, folder)


def _broken(name: str, error: BaseException) -> None:
    traceback.print_exception(type(error), error, _own_frames(error.__traceback__))
    raise Mistake(f"importing {name!r} raised {type(error).__name__}") from None


def _own_frames(trace: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback that begins in the user's code, without this module and the import system."""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file not in (__file__, importlib.__file__) and not file.startswith("<frozen importlib"):
            return trace
        trace = trace.tb_next
    return None


def _nothing_there(owner: Any, attribute: str, target: str) -> str:
    queues = ", ".join(sorted(name for name, value in vars(owner).items() if isinstance(value, Registry)))
    where = getattr(owner, "__file__", None) or type(owner).__name__
    name = getattr(owner, "__name__", where)
    said = f"{target}: {name} ({where}) has no attribute {attribute!r}; its queues: {queues or 'none'}"
    yours = os.path.join(os.getcwd(), f"{name}.py")
    if os.path.exists(yours) and not os.path.samefile(yours, where):
        said += f"; {yours} has a name that is taken: give it another"
    return said


def check_shared(queues: Iterable[Registry], lack: str) -> None:
    """Raise a `Mistake` if a queue is inside one process; `lack` says what another process can't do with it."""
    if any(hasattr(queue.driver, "memory") for queue in queues):
        raise Mistake(f"memory:// is a queue inside one process, which {lack}")


def check_names(queues: Iterable[Registry], why: str) -> None:
    """Raise a `Mistake` if two queues have one name; `why` says what that leads to."""
    names = [queue.name for queue in queues]
    if len(set(names)) < len(names):
        raise Mistake(f"two of these queues have one name, {why}")
