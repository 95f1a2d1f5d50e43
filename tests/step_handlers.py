"""Handlers that save steps and wait: async, in a thread and in a process. A process finds them here.

Their parameters say what they do, act by act, so that one test is about all three.
"""

import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import anyio
from pydantic import BaseModel
from store import Store, eventually
from tenacity import stop_after_attempt, wait_none

from redisjobs import JobContext, JobQueue, RetryPolicy, sync
from redisjobs.base.eventloop import is_awaitable

AT_ONCE = RetryPolicy(wait=wait_none(), stop=stop_after_attempt(4))


@dataclass
class Do:
    """What a handler does, and the folder where it notes that."""

    job_name: ClassVar[str] = "Do"
    acts: list[list[Any]]
    folder: str


@dataclass
class Point:
    x: int
    y: int = 2


class Model(BaseModel):
    name: str
    at: datetime


def note(folder: str, label: str) -> int:
    """Note a call, and return how many of this label there are."""
    path = Path(folder, f"calls-{label}")
    with path.open("a") as calls:
        calls.write(f"{os.getpid()}\n")
    return len(path.read_text().splitlines())


def text(folder: str, label: str) -> str:
    return f"{label} {note(folder, label)}"


def point(folder: str, label: str) -> Point:
    return Point(note(folder, label))


def moment(folder: str, label: str) -> datetime:
    return datetime(2026, 1, note(folder, label), tzinfo=UTC)


def model(folder: str, label: str) -> Model:
    return Model(name=text(folder, label), at=datetime(2026, 1, 1, tzinfo=UTC))


def number(folder: str, label: str) -> int:
    """Not what it says."""
    return text(folder, label)  # type: ignore[return-value]


def lock(folder: str, label: str) -> object:
    note(folder, label)
    return object()


def larger(folder: str, label: str) -> str:
    note(folder, label)
    return "x" * 1_200_000


def large(folder: str, label: str) -> str:
    note(folder, label)
    return "x" * 600_000


def first_fails(folder: str, label: str) -> str:
    if note(folder, label) == 1:
        raise ValueError("the first call fails")
    return label


async def in_loop(folder: str, label: str) -> str:
    return text(folder, label)


FUNCTIONS: dict[str, Callable[[str, str], Any]] = {
    each.__name__: each for each in (text, point, moment, model, number, lock, large, larger, first_fails, in_loop)
}


def perform(context: Any, do: Do, act: list[Any]) -> Any:
    """Perform an act. What is awaited in an async handler is returned."""
    match act:
        case ["step", str(name), *rest]:
            return context.step(name, FUNCTIONS[rest[0] if rest else "text"], do.folder, name)
        case ["step of a call", str(name)]:
            return context.step(name, in_loop(do.folder, name))
        case ["sleep", dict(parts)]:
            return context.sleep(**parts)
        case ["sleep until", str(until)]:
            return context.sleep(until=datetime.fromisoformat(until))
        case ["sleep for", float(seconds)]:
            return context.sleep(timedelta(seconds=seconds))
        case ["wait for", str(name), *options]:
            return context.wait_for(name, **(options[0] if options else {}))
        case ["checkpoint", value]:
            return context.checkpoint(value)
        case ["checkpoint of", what]:
            return context.checkpoint({"large": "x" * 600_000, "tuple": (1, 2)}[what])
        case ["saved"]:
            return context.saved
        case ["version"]:
            return context.version
        case ["work", float(seconds)]:
            return _work(seconds, is_async=not isinstance(context, sync.JobContext))
        case ["alarm", float(seconds)]:
            signal.signal(signal.SIGALRM, _alarm)
            signal.setitimer(signal.ITIMER_REAL, seconds)
            return None
        case ["in fork", *inner]:
            return _in_fork(context, do, inner)
        case ["in threads", *several]:
            with ThreadPoolExecutor(len(several)) as threads:
                return [*threads.map(lambda each: perform(context, do, each), several)]
        case ["call", str(label)]:
            return note(do.folder, label)
        case ["fail", int(times)]:
            if note(do.folder, "fail") <= times:
                raise LookupError("as the test says")
            return None
        case ["await file", str(label)]:
            note(do.folder, label)
            return _wait(Path(do.folder, f"go-{label}"), is_async=not isinstance(context, sync.JobContext))
    raise NotImplementedError(act)


def _alarm(*_: object) -> None:
    raise TimeoutError("the alarm")


def _in_fork(context: Any, do: Do, act: list[Any]) -> str:
    """Perform an act in a forked process; what it raises there."""
    path = Path(do.folder, "forked")
    if (forked := os.fork()) == 0:
        try:
            perform(context, do, act)
        except BaseException as error:
            path.write_text(f"{type(error).__name__}: {error}")
        os._exit(0)
    os.waitpid(forked, 0)
    return path.read_text()


def _work(seconds: float, *, is_async: bool) -> Any:
    return anyio.sleep(seconds) if is_async else time.sleep(seconds)


def _wait(path: Path, *, is_async: bool) -> Any:
    if is_async:
        return eventually(path.exists, within=30)
    end = time.monotonic() + 30
    while not path.exists():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.005)
    return None


def finish(do: Do, told: list[str]) -> None:
    path = Path(do.folder, f"told-{uuid.uuid4().hex}")
    path.write_text(json.dumps(told))
    path.rename(Path(do.folder, "told"))


@contextmanager
def telling(told: list[str], act: list[Any]) -> Iterator[list[Any]]:
    """Yield what an act does. `try` notes an error of it, and `swallow` what is no error either."""
    how, inner = (act[0], act[1:]) if act[0] in ("try", "swallow") else ("", act)
    try:
        yield inner
    except BaseException as error:
        if not how or (how == "try" and not isinstance(error, Exception)):
            raise
        told.append(f"{type(error).__name__}: {error}")


async def do_async(do: Do, context: JobContext) -> None:
    told = list[str]()
    for act in do.acts:
        with telling(told, act) as inner:
            result = perform(context, do, inner)
            told.append(repr(await result if is_awaitable(result) else result))
    finish(do, told)


def do_sync(do: Do, context: sync.JobContext) -> None:
    told = list[str]()
    for act in do.acts:
        with telling(told, act) as inner:
            told.append(repr(perform(context, do, inner)))
    finish(do, told)


def do_in_process(do: Do, context: JobContext) -> None:
    assert isinstance(context, sync.JobContext)
    do_sync(do, context)


class Bench:
    """A queue whose one handler is `async`, or runs in a `thread` or a `process`."""

    def __init__(self, store: Store, kind: str, folder: Path, **options: Any) -> None:
        self.store = store
        self.folder = folder
        self.queue = handled(JobQueue(store.driver, store.queue_name), kind, **options)

    async def push(self, *acts: Sequence[Any], **options: Any) -> str:
        """Push a job of these acts; its id."""
        return (await self.queue.push(Do([[*act] for act in acts], str(self.folder)), **options)).id

    def calls(self, label: str) -> int:
        """How often this was called."""
        path = self.folder / f"calls-{label}"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def go(self, label: str) -> None:
        """Let the handlers go on that await this file."""
        (self.folder / f"go-{label}").touch()

    @property
    def told(self) -> list[str]:
        """The results of all acts, as a run that came to its end has noted them."""
        told: list[str] = json.loads((self.folder / "told").read_text())
        return told


def handled(queue: JobQueue, kind: str, **options: Any) -> JobQueue:
    """Register the handler of a kind."""
    register = queue.register(
        Do, **{"retry": AT_ONCE, **options}, run_in="process" if kind == "process" else "thread"
    )
    register({"async": do_async, "thread": do_sync, "process": do_in_process}[kind])
    return queue
