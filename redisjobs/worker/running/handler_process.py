"""One process that runs sync handlers: the worker's end of its pipe, and what it does itself."""

import importlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from redisjobs.base.forks import begin_after_fork
from redisjobs.base.visible import visible
from redisjobs.errors import EncodeError
from redisjobs.model.context import set_current_job, set_message_sink
from redisjobs.model.job import PushedJob
from redisjobs.model.outcome import RemoteTraceback, attach, describe, known_as, plain, text_of, traceback_of
from redisjobs.model.progress import HandlerMessage, Progress, Pushing
from redisjobs.worker.running.handler_ref import NotPacked, call_of

_LOOK = 1.0  # seconds between looks at a process whose end may go unnoticed: what it forked keeps its pipe open
_TOLD = 1.0  # seconds that another thread may take to write down how a process ended
_BETWEEN = 0.1  # seconds between two reports of progress, at least
_READY, _BEGUN = b"ready", b"begun"
_SAID = b"said "  # and then, pickled, what the handler says before its answer; a pickle never begins like this

_spawn = multiprocessing.get_context("spawn")  # never fork: there are threads


class Process:
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
        watched, self._lifeline = _spawn.Pipe(duplex=False)  # nothing is written: it closes as the worker ends
        self._theirs = theirs, watched
        arguments = (theirs, watched, modules, _log_settings())
        # Not a daemon: that one could have no processes of its own.
        self._process = _spawn.Process(target=_serve, args=arguments, name="redisjobs handler", daemon=False)
        begin_after_fork(self)

    def begin(self) -> None:
        """Close our ends in a process that a handler of this one forked: it may outlive the worker."""
        self._pipe.close()
        self._lifeline.close()

    def start(self) -> bool:
        """Start it, and wait until it has imported what it will run; whether it has."""
        try:
            self._process.start()
        except OSError as error:
            self.ending = f"could not be started: {error}"
            return False
        finally:
            for end in self._theirs:
                end.close()
        if self._given_up:
            self.kill()
        return self._hear() == _READY

    def ask(self, task: bytes, said: Callable[[HandlerMessage], object]) -> bytes | None:
        """Run a handler there.

        Args:
            task: Which, with what.
            said: Is called, in this thread, with what the handler says before its answer.

        Returns:
            The answer, or None if the process died.
        """
        self.begun = False
        with suppress(OSError):
            self._pipe.send_bytes(task)
        self.begun = self._hear() == _BEGUN
        answer = self._hear() if self.begun else None
        while answer is not None and answer.startswith(_SAID):
            self._answer(answer[len(_SAID) :], said)
            answer = self._hear()
        return answer

    def _answer(self, packed: bytes, said: Callable[[HandlerMessage], Any]) -> None:
        """Pass on what the handler says; who pushes a job waits to hear what it is called."""
        answer: PushedJob | Exception | None
        try:
            what = pickle.loads(packed)
        except BaseException as error:  # of a push: nothing else has classes of the user's, and their code
            self._reply(EncodeError(f"what is pushed can't leave this process: {describe(error)}"))
            return
        try:
            pushed = said(what)
            is_job = isinstance(pushed, PushedJob)
            answer = PushedJob(pushed.id, pushed.name, pushed.added, pushed.replaced) if is_job else None
        except Exception as error:
            answer = error
        if isinstance(what, Pushing):
            self._reply(answer)

    def _reply(self, answer: PushedJob | Exception | None) -> None:
        with suppress(OSError):
            self._pipe.send_bytes(_packed(answer))

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


def _packed(answer: PushedJob | Exception | None) -> bytes:
    """What is said to a push; an error as one of ours where it can't be made anew over there."""
    try:
        packed = pickle.dumps(answer)
        pickle.loads(packed)
    except Exception:
        return pickle.dumps(EncodeError(describe(answer)) if isinstance(answer, Exception) else None)
    return packed


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def load(answer: bytes) -> tuple[Any, BaseException | None]:
    """What a handler returned and raised, of the answer to its task; made anew as far as that can be."""
    returned, raised = pickle.loads(answer)
    return _load_returned(returned), None if raised is None else _load_raised(raised)


def _load_returned(packed: bytes | NotPacked) -> Any:
    if isinstance(packed, NotPacked):
        return packed
    try:
        return pickle.loads(packed)
    except BaseException as error:  # its class may be one that is only there, and its code the user's
        return NotPacked(describe(error))


def _load_raised(raised: Any) -> BaseException:
    packed, name, text, shown, fingerprint = raised
    error: Any = None
    with suppress(BaseException):  # as above
        error = pickle.loads(packed)
    if not issubclass(type(error), BaseException):
        error = type(name, (Exception,), {})(text)
    attach(error, "__cause__", RemoteTraceback(shown, fingerprint))
    return error  # type: ignore[no-any-return]


# In the process


def _serve(pipe: Connection, lifeline: Connection, modules: set[str], log_settings: Any) -> None:
    """Run handlers, until the worker closes the pipe or is gone."""
    # Whoever stops a whole group of processes means the worker, which has a grace. What the handlers start is to
    # heed these as ever, so they are caught, not ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    _end_with(lifeline)
    _set_up_logging(log_settings)
    for module in modules:
        importlib.import_module(module)
    pid = os.getpid()
    with suppress(EOFError, OSError):
        pipe.send_bytes(_READY)
        while True:
            task = pipe.recv_bytes()
            pipe.send_bytes(_BEGUN)
            teller = _Teller(pipe)
            answer = _answer(task, pid, teller)
            teller.end()
            pipe.send_bytes(answer)


def _end_with(lifeline: Connection) -> None:
    """Have this process end as soon as its worker is gone, however that ended.

    On Linux the kernel kills it when the other end of the pipe closes. A thread can't do that while the handler
    holds the interpreter lock in C, or while this process is stopped. PR_SET_PDEATHSIG can't be used: that signal
    comes when the *thread* that started this process ends, and the threads of a worker come and go.
    """
    if sys.platform == "linux":
        import fcntl  # here, as Windows has none

        with suppress(OSError):  # a kernel that only looks like Linux may not have it
            fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    # On Linux too: the worker may have ended before that.
    threading.Thread(target=_wait_for_end, args=(lifeline,), name="redisjobs orphan", daemon=True).start()


def _wait_for_end(lifeline: Connection) -> None:
    multiprocessing.connection.wait([lifeline])
    os._exit(1)


class _Teller:
    """Tells the worker what a handler says while it runs; for any thread of this process.

    Progress is sent by a thread, the latest alone, so that reporting it costs the handler nothing. The thread is
    started by the first report. All else is sent at once.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._pid = os.getpid()
        self._latest: Progress | None = None
        self._news = threading.Event()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def hear(self, said: HandlerMessage) -> PushedJob | None:
        """Send it soon; nothing once the handler is over, or of a process that it forked: the pipe is ours."""
        if self._over.is_set() or os.getpid() != self._pid:
            return None
        if isinstance(said, Pushing):
            return self._push(said)
        if not isinstance(said, Progress):
            with self._lock:
                self._send(said)
            return None
        self._latest = said
        if not self._news.is_set():
            self._news.set()
            if self._thread is None and not self._start():
                self._send_latest()
        return None

    def _push(self, pushing: Pushing) -> PushedJob | None:
        """Send it, and wait for the answer, in which is also what is wrong with it; None if it is too late.

        Raises:
            EncodeError: It can't be taken to the worker's process.
        """
        try:
            message = _SAID + pickle.dumps(pushing)
        except Exception as error:  # its class may be made in a function, and its code is the user's
            raise EncodeError(f"what is pushed can't leave this process: {describe(error)}") from error
        with self._lock:
            if self._over.is_set():
                return None  # what the pipe carries now is another job's
            self._pipe.send_bytes(message)
            answer = pickle.loads(self._pipe.recv_bytes())
        if isinstance(answer, Exception):
            raise answer
        pushed: PushedJob | None = answer
        return pushed

    def _start(self) -> bool:
        """Start the thread; whether the system has one."""
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._follow, name="redisjobs progress", daemon=True)
                with suppress(RuntimeError):
                    thread.start()
                    self._thread = thread
        return self._thread is not None

    def _follow(self) -> None:
        while self._news.wait() and not self._over.is_set():
            self._send_latest()
            self._over.wait(_BETWEEN)

    def _send_latest(self, *, last: bool = False) -> None:
        with self._lock:
            if self._news.is_set() and self._latest is not None:
                self._news.clear()  # first: what is said from now on is news again
                self._send(self._latest)
            if last:
                self._over.set()

    def _send(self, said: HandlerMessage) -> None:
        if not self._over.is_set():
            with suppress(OSError):  # the worker is gone
                self._pipe.send_bytes(_SAID + pickle.dumps(said))

    def end(self) -> None:
        """Send what was said last, and then nothing more: the answer follows."""
        self._send_latest(last=True)
        self._news.set()  # the thread ends


def _answer(task: bytes, pid: int, teller: _Teller) -> bytes:
    returned, raised = copy_context().run(_run, task, teller)
    answer = pickle.dumps((returned, _dump(raised)))
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


def _run(task: bytes, teller: _Teller) -> tuple[bytes | NotPacked, BaseException | None]:
    try:
        place, parameters, context, is_kept = pickle.loads(task)
        set_message_sink(context, teller)
        set_current_job(context)
        returned = call_of(place)(parameters, context)
        if hasattr(type(returned), "__await__"):
            with suppress(AttributeError):
                returned.close()
            raise TypeError("a handler in a process can't be async, but this one returned something to await")
    except BaseException as error:
        return _NOTHING, error
    return _pack(returned) if is_kept else _NOTHING, None


_NOTHING = pickle.dumps(None)


def _pack(returned: Any) -> bytes | NotPacked:
    try:
        return pickle.dumps(returned)
    except BaseException as error:  # its class may be made in a function, and its code is the user's
        return NotPacked(describe(error))


def _dump(raised: BaseException | None) -> Any:
    """What was raised; beside it what is told of it, for where it can't be packed or made anew."""
    if raised is None:
        return None
    packed = b""
    with suppress(BaseException):
        packed = pickle.dumps(raised)
    name = visible(plain(type(raised).__name__))
    return packed, name, text_of(raised), traceback_of(raised), known_as(raised)


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
