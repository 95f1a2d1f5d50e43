"""Handlers for tests/worker/running/test_processes.py, where a process finds them."""

import contextvars
import ctypes
import decimal
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tenacity import retry_if_exception_type, stop_after_attempt, wait_none

from redisjobs import (
    EncodeError,
    Fail,
    JobContext,
    JobQueue,
    Retry,
    RetryPolicy,
    Snooze,
    current_job,
    no_retry,
)
from redisjobs.model.context import message_sink_of

START_TAKES = "START_TAKES"
"""For how many more seconds a process starts, by its environment."""

time.sleep(float(os.environ.get(START_TAKES, "0")))

TWICE = RetryPolicy(wait=wait_none(), stop=stop_after_attempt(2), retry_if=retry_if_exception_type(BaseException))


@dataclass
class Do:
    """What a handler is to do, and where it writes what it did."""

    job_name: ClassVar[str] = "Do"
    what: str
    folder: str = ""


class Odd(Exception):
    """One that can't be made again from its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Unpackable(Exception):
    def __init__(self) -> None:
        super().__init__("not to be packed")
        self.call = lambda: None


@dataclass(frozen=True)
class Frozen(Exception):
    """One that nothing can be set on."""

    number: int = 1


class Text(Exception):
    """One that is no exception any more when it has been packed."""

    def __reduce__(self) -> Any:
        return str, ("text",)


class Exits(Exception):
    """One that ends any other process that unpacks it."""

    def __reduce__(self) -> Any:
        return exit_elsewhere, (os.getpid(),)


def exit_elsewhere(pid: int) -> Exception:
    if os.getpid() != pid:
        raise SystemExit(4)
    return Exits("unpacked here")


class Causes(Exception):
    """One with a cause of its own making."""

    @property
    def __cause__(self) -> Any:  # type: ignore[override]
        raise LookupError("no cause")


class Kind(type):
    """What makes classes with a name that is none."""

    @property
    def __name__(cls) -> Any:  # type: ignore[override]
        return 5


class Nameless(Unpackable, metaclass=Kind): ...


variable = contextvars.ContextVar("variable", default=0)
kept = list[JobContext]()


def do(do: Do, context: JobContext) -> None:
    folder = Path(do.folder or ".")
    match do.what:
        case "context":
            context.logger.warning("at work on %s", context.job_id)
            told: list[Any] = [
                context.job_id,
                context.job_name,
                context.queue_name,
                context.attempt,
                context.deliveries,
            ]
            told += [context.worker_id, dict(context.headers), context.queued_at.isoformat(), os.getpid()]
            (folder / "context").write_text(repr(told))
        case "state":
            raise ValueError(context.state)
        case "leak":
            with (folder / "leaks").open("a") as leaks:
                leaks.write(f"{variable.get()} {decimal.getcontext().prec} {os.getpid()}\n")
            variable.set(1)
            decimal.getcontext().prec += 1
        case "emit":
            for number in range(12_000):
                context.emit(number)
            context.emit("é\0".encode())
        case "sleep":
            (folder / f"pid-{context.job_id}").write_text(str(os.getpid()))
            time.sleep(600)
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            (folder / f"pid-{context.job_id}").write_text(str(os.getpid()))
            time.sleep(600)
        case "hold the lock":
            (folder / f"pid-{context.job_id}").write_text(str(os.getpid()))
            ctypes.PyDLL(None).sleep(600)  # in C, with the interpreter lock held: no other thread of it runs
        case "stop":
            (folder / f"pid-{context.job_id}").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)
        case "grandchild":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            with (folder / "grandchildren").open("a") as file:
                file.write(f"{child.pid}\n")
            os._exit(7)
        case "exit":
            os._exit(7)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            ctypes.string_at(0)
        case "leave":
            raise SystemExit(3)
        case "value":
            raise ValueError("no luck")
        case "odd":
            raise Odd(1, 2)
        case "unpackable":
            raise Unpackable
        case "frozen":
            raise Frozen
        case "text":
            raise Text("to be packed")
        case "exits":
            raise Exits("at home")
        case "causes":
            raise Causes("itself")
        case "nameless":
            raise Nameless
        case "there only":
            raise only_here()("no such class elsewhere")
        case "fork":
            if (forked := os.fork()) == 0:
                with (folder / "child").open("w") as file:
                    file.write(str(os.getpid()))
                    sys.exit(3)
            _, status = os.waitpid(forked, 0)
            (folder / "status").write_text(str(os.waitstatus_to_exitcode(status)))
        case "fork and go":
            if os.fork() == 0:
                while not (folder / "go").exists():
                    time.sleep(0.005)
                (folder / "child-of").write_text(str(os.getpid()))
                (folder / "child-of").rename(folder / "child")
        case "wait for the child":
            (folder / "go").touch()
            while not (folder / "child").exists():
                time.sleep(0.005)
            os.waitpid(int((folder / "child").read_text()), 0)
            raise ValueError("no luck")
        case "linger":
            threading.Thread(target=time.sleep, args=(600,)).start()
            while len(list(folder.glob("lingers-*"))) < 3:
                (folder / f"lingers-{os.getpid()}").touch()
                time.sleep(0.005)
        case "track":
            for _ in context.track(range(1000), note="items"):
                pass
        case "report once":
            (folder / f"pid-{context.job_id}").write_text(str(os.getpid()))
            context.progress(0.5)
            time.sleep(600)
        case "report":
            for step in range(40):
                context.progress(step, 40)
                time.sleep(0.05)
        case "extend":
            for _ in range(40):
                context.extend(1)
                time.sleep(0.05)
        case "extend once":
            (folder / f"pid-{context.job_id}").write_text(str(os.getpid()))
            context.extend(1.5)
            time.sleep(600)
        case "report in a fork":
            context.progress(0.5)
            if (forked := os.fork()) == 0:
                context.progress(0.75)
                context.extend(600)
                os._exit(0)
            os.waitpid(forked, 0)
        case "keep":
            context.progress(0.5)
            kept.append(context)
        case "report by another's":
            kept[0].progress(0.75)
            kept[0].extend(600)
            (folder / "reported").write_text(str(os.getpid()))
        case "retry":
            raise Retry(delay=50, reason="busy")
        case "group":
            raise ExceptionGroup("tasks", [Unpackable(), ExceptionGroup("more", [Fail("never")])])
        case "snooze":
            raise Snooze(for_=50)
        case "fail":
            raise Fail("never")
        case "print":
            print("printed by a handler")
            subprocess.run([sys.executable, "-c", "print('printed by a program')"], check=True)
        case _:
            with (folder / "ran").open("a") as ran:
                ran.write(f"{context.job_id} {os.getpid()}\n")


def only_here() -> type[Exception]:
    """A class that can be packed and unpacked, but not elsewhere."""

    class Local(Exception): ...

    Local.__qualname__ = "Local"
    globals()["Local"] = Local
    return Local


def double(number: int, context: JobContext, *, folder: str) -> None:
    (Path(folder) / "doubled").write_text(f"{number * 2} {context.attempt} {os.getpid()}")


def around(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


@around
def wrapped(do: Do) -> None:
    (Path(do.folder) / "wrapped").write_text(str(os.getpid()))


def later(_: Do) -> Any:
    async def wait() -> None: ...

    return wait()


async def is_async(_: Do) -> None: ...


def replaced(_: Do) -> None: ...


original, replaced = replaced, later


def queue_of(driver: Any, name: str, **options: Any) -> JobQueue:
    """A queue with handlers in processes."""
    queue = JobQueue(driver, name)
    queue.register(Do, run_in="process", **{"retry": no_retry(), **options})(do)
    return queue


def first_of_two(folder: str) -> None:
    """For one job name in two queues: each writes which of the handlers it is."""
    (Path(folder) / "first").touch()


def second_of_two(folder: str) -> None:
    (Path(folder) / "second").touch()


def push_from_process(number: int, context: JobContext) -> None:
    """Pushes one job, and one that there is no handler for."""
    pushed = context.push({"number": number + 1}, "Next", delay=3600)
    try:
        context.push({}, "unknown")
    except Exception as error:
        refused = f"{type(error).__name__}: {error}"
    context.push({"number": len(refused)}, "Next", delay=3600, job_id=f"after-{pushed.id}")


class _Late:
    """Is packed once the handler that pushes it has ended."""

    def __init__(self, over: threading.Event) -> None:
        self._over = over

    def __reduce__(self) -> tuple[Any, ...]:
        self._over.wait(20)
        return int, (1,)


_threads: list[threading.Thread] = []


def push_late_from_process(folder: str, context: JobContext) -> None:
    """The first run's push comes as the second one runs, in the same process."""
    if _threads:
        _threads[0].join(20)
        return
    teller: Any = message_sink_of(context)

    def push() -> None:
        try:
            context.push({"number": _Late(teller._over)}, "Next", delay=3600)
        except RuntimeError as error:
            (Path(folder) / "told").write_text(str(error))

    _threads.append(threading.Thread(target=push))
    _threads[0].start()


class Unmakeable:
    """What can be packed, and not made again."""

    def __reduce__(self) -> tuple[type[int], tuple[str]]:
        return int, ("no number",)


def push_unpackable(context: JobContext, what: str) -> str:
    """Push what can't leave the process; return the error."""
    try:
        context.push({"number": Unmakeable() if what == "unmakeable" else lambda: 1}, "Next")
    except EncodeError as error:
        return str(error)
    return ""


def returns(what: str) -> Any:
    """What can leave its process, or can't."""
    return {"total": {"total": 5}, "call": lambda: 5, "local": local_class()()}[what]


def local_class() -> type[Any]:
    class Local: ...

    return Local


def strictly() -> int:
    return "5"  # type: ignore[return-value]


def running_here() -> str:
    """The id of the job that runs here."""
    return current_job().job_id
