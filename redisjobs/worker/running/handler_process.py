"""The process for sync handlers: it runs one handler after another until the worker is gone.

The worker's side is in `handler_pool`.
"""

import importlib
import logging
import multiprocessing.connection
import os
import pickle
import signal
import sys
import threading
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from redisjobs.base.visible import visible
from redisjobs.errors import EncodeError
from redisjobs.model.context import set_current_job, set_message_sink
from redisjobs.model.failures import deciding
from redisjobs.model.job import PushedJob
from redisjobs.model.outcome import describe, known_as, plain, text_of, traceback_of
from redisjobs.model.progress import HandlerMessage, Progress, PushRequest
from redisjobs.model.requests import Answered, LeaveStep, Request, RunChildren, unwrapped
from redisjobs.worker.running.handler_ref import NotPacked, handler_of

READY, BEGUN = b"ready", b"begun"
MESSAGE = b"message "
"""Begins a pickled message of the handler. An answer is only a pickle, which never begins like this."""

_BETWEEN = 0.1  # seconds between two reports of progress, at least
_NOTHING = pickle.dumps(None)


def serve(pipe: Connection, lifeline: Connection, modules: set[str], log: tuple[int, bytes | None]) -> None:
    """Run handlers until the worker closes the pipe or is gone.

    `lifeline` closes when the worker ends. `modules` are imported first. `log` is what `log_settings` returned.
    """
    # A signal to the whole process group is meant for the worker, which gives running jobs a grace. We catch the
    # signals and don't ignore them, so that processes that handlers start have the default behaviour.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    _end_with(lifeline)
    _set_up_logging(log)
    for module in modules:
        importlib.import_module(module)
    pid = os.getpid()
    with suppress(EOFError, OSError):
        pipe.send_bytes(READY)
        while True:
            task = pipe.recv_bytes()
            pipe.send_bytes(BEGUN)
            sink = _PipeSink(pipe)
            answer = _answer(task, pid, sink)
            sink.end()
            pipe.send_bytes(answer)


def _end_with(lifeline: Connection) -> None:
    """Make this process end as soon as its worker is gone, however the worker ended.

    On Linux the kernel kills it when the other end of the pipe closes. A thread can't do that while the handler
    holds the interpreter lock in C, or while this process is stopped. PR_SET_PDEATHSIG can't be used: that signal
    comes when the *thread* that started this process ends, and the threads of a worker come and go.
    """
    if sys.platform == "linux":
        import fcntl  # here, because Windows has none

        with suppress(OSError):  # a kernel that only looks like Linux may not have it
            fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    # On Linux too: the worker may have ended before the calls above.
    threading.Thread(target=_wait_for_end, args=(lifeline,), name="redisjobs orphan", daemon=True).start()


def _wait_for_end(lifeline: Connection) -> None:
    multiprocessing.connection.wait([lifeline])
    os._exit(1)


class _PipeSink:
    """Sends a handler's messages to the worker, from any thread of this process.

    A thread sends the latest progress, so that a report costs the handler nothing. The first report starts that
    thread. All other messages are sent at once.
    """

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._pid = os.getpid()
        self._latest: Progress | None = None
        self._news = threading.Event()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_owed = False  # an answer is still to come

    def handle(self, message: HandlerMessage) -> PushedJob | None:
        """Send a message soon. Do nothing once the handler is over, or in a process that it forked."""
        if self._over.is_set() or os.getpid() != self._pid:  # a fork must not write to our pipe
            return None
        if isinstance(message, PushRequest):
            return self._push(message)
        if not isinstance(message, Progress):
            with self._lock:
                self._send(message)
            return None
        self._latest = message
        if not self._news.is_set():
            self._news.set()
            if self._thread is None and not self._start():
                self._send_latest()
        return None

    def ask(self, request: Request, answered: Answered) -> None:
        """Answer a request at once: no code of a handler's process but the handler waits in an event loop."""
        answered(self.ask_and_wait(request))

    def ask_and_wait(self, request: Request) -> Any:
        """Send a request, and return the answer, or raise it.

        Raises:
            RuntimeError: The handler is over, or this is a process that it forked.
        """
        if os.getpid() != self._pid:
            raise RuntimeError("a process that a handler has forked can't save steps or wait: the handler can")
        if isinstance(request, RunChildren):
            request = replace(request, context=None)  # no context leaves its process
        answer = self._answer(pickle.dumps(request))
        if answer is not None:
            return unwrapped(pickle.loads(answer))
        if isinstance(request, LeaveStep):
            return None
        raise RuntimeError("the handler has returned, so it can save no steps and wait no more")

    def _push(self, pushing: PushRequest) -> PushedJob | None:
        """Send a push, wait for the answer, and return the job; None if it was too late.

        Raises:
            EncodeError: The push can't be sent to the worker's process.
            Exception: The error that the worker raised.
        """
        try:
            message = pickle.dumps(pushing)
        except Exception as error:  # its class may be made in a function, and its code is the user's
            raise EncodeError(f"what is pushed can't leave this process: {describe(error)}") from error
        answer = self._answer(message)
        pushed: PushedJob | None = None if answer is None else unwrapped(pickle.loads(answer))
        return pushed

    def _answer(self, message: bytes) -> bytes | None:
        """Send a message and return the answer; None if it was too late, as the pipe is the next job's by now."""
        with self._lock:
            if self._over.is_set():
                return None
            self._skip_answer()
            self._is_owed = True
            self._pipe.send_bytes(MESSAGE + message)
            answer = self._pipe.recv_bytes()
            self._is_owed = False
            return answer

    def _skip_answer(self) -> None:
        """Skip the answer that is still to come, if the handler's code for a signal has raised in `_answer`."""
        if self._is_owed:
            self._pipe.recv_bytes()
            self._is_owed = False

    def _start(self) -> bool:
        """Start the thread, and return whether the system gave one."""
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
                self._news.clear()  # first, so that a report from now on is sent, too
                self._send(self._latest)
            if last:
                self._skip_answer()
                self._over.set()

    def _send(self, message: HandlerMessage) -> None:
        if not self._over.is_set():
            with suppress(OSError):  # the worker is gone
                self._pipe.send_bytes(MESSAGE + pickle.dumps(message))

    def end(self) -> None:
        """Send the latest progress and then nothing more, because the answer follows."""
        self._send_latest(last=True)
        self._news.set()  # wakes the thread, which ends


def _answer(task: bytes, pid: int, sink: _PipeSink) -> bytes:
    returned, raised = copy_context().run(_run, task, sink)
    answer = pickle.dumps((returned, _dump(raised)))
    if os.getpid() != pid:
        _end_fork(raised)
    return answer


def _end_fork(raised: BaseException | None) -> NoReturn:
    """End a forked process that has come to the handler's end, in the way a program ends."""
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


def _run(task: bytes, sink: _PipeSink) -> tuple[bytes | NotPacked, BaseException | None]:
    try:
        ref, parameters, context, is_kept = pickle.loads(task)
        set_message_sink(context, sink)
        set_current_job(context)
        returned = handler_of(ref)(parameters, context)
        if hasattr(type(returned), "__await__"):
            with suppress(AttributeError):
                returned.close()
            raise TypeError("a handler in a process can't be async, but this one returned something to await")
    except BaseException as error:
        return _NOTHING, error
    return _pack(returned) if is_kept else _NOTHING, None


def _pack(returned: Any) -> bytes | NotPacked:
    try:
        return pickle.dumps(returned)
    except BaseException as error:  # its class may be made in a function, and its code is the user's
        return NotPacked(describe(error))


def _dump(raised: BaseException | None) -> Any:
    """Return an error pickled, and with it what to show if it can't be pickled or loaded again."""
    if raised is None:
        return None
    packed, first = list[bytes](), deciding(raised)
    for error in (raised, first):  # of a group, at least the error that decides
        with suppress(BaseException):
            packed.append(pickle.dumps(error))
    name = visible(plain(type(first).__name__))
    return packed, name, text_of(first), traceback_of(raised), known_as(raised)


def log_settings() -> tuple[int, bytes | None]:
    """Return the root logger's level and formatter. The stream that it writes to can't be shared."""
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
        with suppress(Exception):  # this process does not have its module, or its class
            handler.setFormatter(pickle.loads(formatter))
    logging.basicConfig(level=level, handlers=[handler])
