"""Sync handlers in processes of their own, which can be killed.

Each process has a pipe of its own and runs one handler at a time, so one that dies takes nothing with it. pebble's
pool, and those of the standard library, share a pipe and its locks among all processes: there a crash can break
the pool under its bystanders, and they stand still while one is being killed.
"""

import functools
import importlib
import logging
import math
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, NoReturn

import anyio
import anyio.to_thread

from redisjobs.errors import ProcessDied, RegistrationError
from redisjobs.job import JobContext, JobDefinition
from redisjobs.outcome import RemoteTraceback, attach, plain, text_of, traceback_of
from redisjobs.signature import Signature, handler_call
from redisjobs.visible import visible
from redisjobs.worker.threads import NoThread, Trouble

_LOOK = 1.0  # seconds between looks at a process whose end may go unnoticed: what it forked keeps its pipe open
_END = 2.0  # seconds that idle processes have to end by themselves
_TOLD = 1.0  # seconds that another thread may take to write down how a process ended
_TRIES = 3  # processes that may die as they are given a job, before that counts as its failure
_READY, _BEGUN = b"ready", b"begun"

_spawn = multiprocessing.get_context("spawn")  # never fork: there are threads


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process finds a handler.

    Attributes:
        module: Its module.
        name: Its qualified name there.
        wraps: How many functions are around it, as decorators make them.
        by_name: It takes its parameters by name.
    """

    module: str
    name: str
    wraps: int
    by_name: bool


def place_of(definition: JobDefinition[Any]) -> Place:
    """Where a process finds a handler.

    Raises:
        RegistrationError: It does not, as its module has something else under its name.
    """
    function = definition.function
    module, name = function.__module__, function.__qualname__
    found, wraps = _find(module, name), 0
    while found is not None and found is not function:
        found, wraps = getattr(found, "__wrapped__", None), wraps + 1
    if found is None:
        raise RegistrationError(
            f"'{definition.name.name}' has run_in=\"process\", but a process would not find its handler as "
            f"{module}.{name}: give it that name in its module"
        )
    return Place(module, name, wraps, definition.by_name)


def _find(module: str, name: str) -> Any:
    return functools.reduce(
        lambda owner, part: getattr(owner, part, None), name.split("."), sys.modules.get(module)
    )


class Processes:
    """As many processes as run handlers at once, each started when first needed and then kept.

    Args:
        definitions: The handlers.
        changed: Called when there is no process, and none can be started, and when that is over.

    Attributes:
        trouble: Why there is none.

    Raises:
        RegistrationError: A process would not find one of the handlers.
    """

    def __init__(self, definitions: Iterable[JobDefinition[Any]], changed: Callable[[], None]) -> None:
        self.trouble = Trouble(changed)
        self._places = {each.name.name: place_of(each) for each in definitions}
        # The slots are the limit; the default limiter is the application's too, which may have used it up.
        self._limiter = anyio.CapacityLimiter(math.inf)
        self._idle: list[_Process] = []
        self._busy: set[_Process] = set()
        self._dying: list[_Process] = []  # that were killed, and may not have ended yet

    async def open(self) -> None:
        """Start the first process.

        Raises:
            RegistrationError: It does not start; why, it has said on stderr.
        """
        try:
            await self._start()
        except NoThread as error:
            raise RegistrationError(
                f"{error} before it could run handlers, and stderr says why: it must be able to import "
                'their modules; and what starts a worker stands behind `if __name__ == "__main__":`'
            ) from None

    async def prepare(self) -> None:
        """See to it that a process is idle; for a job whose time runs only then.

        Raises:
            NoThread: The system has none to give.
        """
        while self._idle and not self._idle[-1].is_idle:
            process = self._idle.pop()
            process.end()
            self._kill(process)
        if not self._idle:
            try:
                await self._start()
            except NoThread as error:
                if not self._busy:  # else jobs go on, though fewer at once
                    self.trouble.note(str(error))
                raise
        self.trouble.note("")

    async def _start(self) -> None:
        process = _Process({place.module for place in self._places.values()})
        if not await self._in_thread(process, process.start):
            raise NoThread(f"a process {process.ending}")
        self._idle.append(process)

    async def run(
        self, definition: JobDefinition[Any], parameters: Any, context: JobContext
    ) -> BaseException | None:
        """Run a handler in a process that was prepared; what it raised.

        Raises:
            NoThread: It was not begun.
            BaseException: A cancellation; the process was killed.
        """
        try:
            task = pickle.dumps((self._places[definition.name.name], parameters, context))
        except BaseException as error:
            return error
        for _ in range(_TRIES):
            process = self._idle.pop()
            answer = await self._in_thread(process, functools.partial(process.ask, task))
            if answer is not None:
                self._idle.append(process)
                return _load(answer)
            if process.begun:
                break
            await self.prepare()
        return ProcessDied(f"the process of the handler {process.ending}")

    async def _in_thread(self, process: "_Process", call: Callable[[], Any]) -> Any:
        self._busy.add(process)
        try:
            return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._limiter)
        except RuntimeError as error:  # not the handler's
            self._kill(process)
            raise NoThread(f"the system starts no more threads: {error}") from None
        except BaseException:
            self._kill(process)
            raise
        finally:
            self._busy.discard(process)

    def _kill(self, process: "_Process") -> None:
        process.kill()
        self._dying = [process, *(each for each in self._dying if not each.has_ended)]

    async def close(self) -> None:
        """End all of them, and wait until they have ended."""
        for process in list(self._busy):
            self._kill(process)
        for process in self._idle:
            process.end()
        with anyio.CancelScope(shield=True):
            try:
                await anyio.to_thread.run_sync(self._see_out, limiter=self._limiter)
            except RuntimeError:  # no thread can be started
                self._see_out()

    def _see_out(self) -> None:
        processes, until = (*self._idle, *self._dying), time.monotonic() + _END
        for process in processes:
            process.join(until)
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


class _Process:
    """One process; what blocks is for a thread.

    Attributes:
        ending: How it ended, or why it did not begin.
        begun: Whether it took up the task that it was given last.
    """

    def __init__(self, modules: set[str]) -> None:
        self.ending = "was killed"
        self.begun = False
        self._given_up = False
        self._pipe, theirs = _spawn.Pipe()
        self._theirs = theirs
        # Not a daemon: that one could have no processes of its own.
        self._process = _spawn.Process(
            target=_serve, args=(theirs, modules, _log_settings()), name="redisjobs handler", daemon=False
        )

    def start(self) -> bool:
        """Start it, and wait until it has imported what it will run; whether it has."""
        try:
            self._process.start()
        except OSError as error:
            self.ending = f"could not be started: {error}"
            return False
        finally:
            self._theirs.close()
        if self._given_up:
            self.kill()
        return self._hear() == _READY

    def ask(self, task: bytes) -> bytes | None:
        """Run a handler there; its answer, or None if the process died."""
        self.begun = False
        with suppress(OSError):
            self._pipe.send_bytes(task)
        self.begun = self._hear() == _BEGUN
        return self._hear() if self.begun else None

    def _hear(self) -> bytes | None:
        with suppress(EOFError, OSError):
            while self._process.is_alive() or self._pipe.poll():
                multiprocessing.connection.wait([self._pipe, self._process.sentinel], _LOOK)
                if self._pipe.poll():
                    return self._pipe.recv_bytes()
        self._process.join()  # it has closed its pipe, or ended
        code = self._exit_code()
        if code is None:
            self.ending = "ended"
        else:
            self.ending = f"ended with code {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"
        self._pipe.close()
        return None

    def _exit_code(self) -> int | None:
        """How it ended; None if somebody else in this process was told of it, and keeps that to himself."""
        until = time.monotonic() + _TOLD
        # A thread that starts another process asks after all of them, and may not have noted yet what it heard.
        while (code := self._process.exitcode) is None and time.monotonic() < until:
            time.sleep(0.001)
        return code

    def kill(self) -> None:
        """Kill it, now or as soon as it is there."""
        self._given_up = True
        if self._process.pid is not None:
            with suppress(ValueError):  # it has ended, and is closed
                self._process.kill()

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a task. Who has closed its pipe, or says something unasked, does not."""
        with suppress(OSError):
            return self._process.is_alive() and not self._pipe.poll()
        return False

    @property
    def has_ended(self) -> bool:
        """Whether it is no more, or never was."""
        return self._process.pid is None or not self._process.is_alive()

    def end(self) -> None:
        """Let it end, as nothing more will come."""
        self._pipe.close()

    def join(self, until: float | None = None) -> None:
        """Wait until it has ended, or until a time of the monotonic clock."""
        if self._process.pid is not None:
            self._process.join(None if until is None else max(0.0, until - time.monotonic()))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _load(answer: bytes) -> BaseException | None:
    raised = pickle.loads(answer)
    if raised is None:
        return None
    packed, name, text, shown = raised
    error: Any = None
    with suppress(BaseException):  # its class may be one that is only there, and its code the user's
        error = pickle.loads(packed)
    if not issubclass(type(error), BaseException):
        error = type(name, (Exception,), {})(text)
    attach(error, "__cause__", RemoteTraceback(shown))
    return error  # type: ignore[no-any-return]


# In the process


def _serve(pipe: Any, modules: set[str], log_settings: Any) -> None:
    """Run handlers, until the worker closes the pipe or is gone."""
    # Whoever stops a whole group of processes means the worker, which has a grace. What the handlers start is to
    # heed these as ever, so they are caught, not ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    threading.Thread(target=_end_with_the_worker, name="redisjobs orphan", daemon=True).start()
    _set_up_logging(log_settings)
    for module in modules:
        importlib.import_module(module)
    pid = os.getpid()
    with suppress(EOFError, OSError):
        pipe.send_bytes(_READY)
        while True:
            task = pipe.recv_bytes()
            pipe.send_bytes(_BEGUN)
            pipe.send_bytes(_answer(task, pid))


def _end_with_the_worker() -> None:
    worker = multiprocessing.parent_process()
    if worker is not None:
        multiprocessing.connection.wait([worker.sentinel])
        os._exit(1)


def _answer(task: bytes, pid: int) -> bytes:
    raised = copy_context().run(_run, task)
    answer = _dump(raised)
    if os.getpid() != pid:
        _end_fork(raised)
    return answer


def _end_fork(raised: BaseException | None) -> NoReturn:
    """End a process that the handler forked, and that came to the handler's end, as a program ends there."""
    code: Any = 1
    try:
        if raised is None:
            code = 0
        elif isinstance(raised, SystemExit):
            code = raised.code
        else:
            print(traceback_of(raised), file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code & 0xFF if isinstance(code, int) else int(code is not None))


def _run(task: bytes) -> BaseException | None:
    try:
        place, parameters, context = pickle.loads(task)
        returned = _call_of(place)(parameters, context)
        if hasattr(type(returned), "__await__"):
            with suppress(AttributeError):
                returned.close()
            raise TypeError("a handler in a process can't be async, but this one returned something to await")
    except BaseException as error:
        return error
    return None


@functools.cache
def _call_of(place: Place) -> Callable[[Any, JobContext], Any]:
    function = _find(place.module, place.name)
    for _ in range(place.wraps):
        function = function.__wrapped__
    return Signature.of(function, place.name).call if place.by_name else handler_call(function)


def _dump(raised: BaseException | None) -> bytes:
    """What was raised; its name, text and traceback beside it, for where it can't be packed or made anew."""
    if raised is None:
        return pickle.dumps(None)
    packed = b""
    with suppress(BaseException):
        packed = pickle.dumps(raised)
    name = visible(plain(type(raised).__name__))
    return pickle.dumps((packed, name, text_of(raised), traceback_of(raised)))


def _log_settings() -> tuple[int, bytes | None]:
    """The level of the log, and how its lines look; what it goes to can't be shared."""
    root = logging.getLogger()
    formatter = root.handlers[0].formatter if root.handlers else None
    try:
        return root.level, pickle.dumps(formatter)
    except Exception:
        return root.level, None


def _set_up_logging(settings: tuple[int, bytes | None]) -> None:
    level, formatter = settings
    handler = logging.StreamHandler()
    if formatter is not None:
        with suppress(Exception):  # made in a module, or by a name, that this process does not have
            handler.setFormatter(pickle.loads(formatter))
    logging.basicConfig(level=level, handlers=[handler])
