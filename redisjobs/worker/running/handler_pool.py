"""Runs sync handlers in processes that can be killed: the worker's side.

Each process has its own pipe and runs one handler at a time, so one that dies takes no other with it. The pools of
pebble and of the standard library share one pipe and its locks among all processes. There, a crash can break the
pool for the other processes, and these stand still while one is being killed.
"""

import functools
import math
import multiprocessing
import multiprocessing.connection
import pickle
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import anyio
import anyio.to_thread

from redisjobs.base.forks import begin_after_fork
from redisjobs.errors import EncodeError, JobSuspended, ProcessDied, RegistrationError
from redisjobs.model.context import JobContext
from redisjobs.model.job import JobDefinition, PushedJob
from redisjobs.model.outcome import RemoteTraceback, attach, describe
from redisjobs.model.progress import MessageSink, PushRequest
from redisjobs.model.requests import Request
from redisjobs.worker.running.handler_process import BEGUN, MESSAGE, READY, log_settings, serve
from redisjobs.worker.running.handler_ref import HandlerRef, NotPacked
from redisjobs.worker.running.threads import NoThread, Trouble
from redisjobs.worker.settings.shutdown import how_ended

_END = 2.0  # seconds that idle processes have to end by themselves
_TRIES = 3  # processes that may die when they are given a job, before that counts as the job's failure
_LOOK = 1.0  # seconds between looks: a process's end may go unnoticed while a fork of it keeps its pipe open
_NOTED = 1.0  # seconds that another thread may take to record how a process ended

_spawn = multiprocessing.get_context("spawn")  # never fork: there are threads


class HandlerPool:
    """As many processes as handlers run at once. Each is started when first needed, and kept.

    Raises:
        RegistrationError: A process would not find one of the handlers.
    """

    def __init__(self, definitions: Iterable[JobDefinition[Any]]) -> None:
        self.trouble = Trouble("handler in a process", "handlers in processes")
        # Not by name: handlers of several queues may share one.
        self._refs = {id(each): HandlerRef.of(each) for each in definitions}
        # The slots are the limit. The application uses the default limiter too, and may have used it up.
        self._limiter = anyio.CapacityLimiter(math.inf)
        self._idle: list[Process] = []
        self._busy: set[Process] = set()
        self._dying: list[Process] = []  # processes that were killed and may not have ended yet

    async def open(self) -> None:
        """Start the first process.

        Raises:
            RegistrationError: The process does not start; stderr shows why.
        """
        try:
            await self._start()
        except NoThread as error:
            raise RegistrationError(
                f"{error} before it could run handlers, and stderr says why: it must be able to import "
                'their modules, and the code that starts a worker must be under `if __name__ == "__main__":`'
            ) from None

    async def prepare(self) -> None:
        """Make sure that a process is idle. The job's run time begins only then.

        Raises:
            NoThread: The system has no process to give.
        """
        while self._idle and not self._idle[-1].is_idle:
            process = self._idle.pop()
            process.end()
            self._kill(process)
        if not self._idle:
            try:
                await self._start()
            except NoThread as error:
                if not self._busy:  # else jobs go on, with fewer at once
                    self.trouble.note(str(error))
                raise
        self.trouble.note("")

    async def _start(self) -> None:
        process = Process({ref.module for ref in self._refs.values()})
        if not await self._in_thread(process, process.start):
            raise NoThread(f"a process {process.ending}")
        self._idle.append(process)

    async def run(
        self,
        definition: JobDefinition[Any],
        parameters: Any,
        context: JobContext,
        sink: MessageSink,
    ) -> tuple[Any, BaseException | None]:
        """Run a handler in a prepared process; return what it returned, if that is kept, and what it raised.

        `sink` gets the handler's messages and requests meanwhile.

        Raises:
            NoThread: The handler was not started.
            BaseException: A cancellation; the process was killed.
        """
        try:
            task = pickle.dumps((self._refs[id(definition)], parameters, context, context.keeps_result))
        except BaseException as error:
            return None, error
        for _ in range(_TRIES):
            process = self._idle.pop()
            answer = await self._in_thread(process, functools.partial(process.ask, task, sink))
            if answer is not None:
                self._idle.append(process)
                return _load(answer)
            if process.begun:
                break
            await self.prepare()
        return None, ProcessDied(f"the process of the handler {process.ending}")

    async def _in_thread(self, process: "Process", call: Callable[[], Any]) -> Any:
        self._busy.add(process)
        try:
            return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._limiter)
        except RuntimeError as error:  # from starting the thread, not from the handler
            self._kill(process)
            raise NoThread(f"the system starts no more threads: {error}") from None
        except BaseException:
            self._kill(process)
            raise
        finally:
            self._busy.discard(process)

    def _kill(self, process: "Process") -> None:
        process.kill()
        self._dying = [process, *(each for each in self._dying if not each.has_ended)]

    async def close(self) -> None:
        """End all processes, and wait until they have ended."""
        for process in list(self._busy):
            self._kill(process)
        for process in self._idle:
            process.end()
        with anyio.CancelScope(shield=True):
            try:
                await anyio.to_thread.run_sync(self._join_all, limiter=self._limiter)
            except RuntimeError:  # no thread can be started
                self._join_all()

    def _join_all(self) -> None:
        processes, until = (*self._idle, *self._dying), time.monotonic() + _END
        for process in processes:
            process.join(until)
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


class Process:
    """One process that runs handlers. Call the methods that block in a thread."""

    def __init__(self, modules: set[str]) -> None:
        self.ending = "was killed"  # how it ended, or why it did not begin
        self.begun = False  # it has begun its latest task
        self._given_up = False
        self._pipe, theirs = _spawn.Pipe()
        watched, self._lifeline = _spawn.Pipe(duplex=False)  # never written to; it closes when the worker ends
        self._theirs = theirs, watched
        arguments = (theirs, watched, modules, log_settings())
        # Not a daemon: a daemon could not start processes.
        self._process = _spawn.Process(target=serve, args=arguments, name="redisjobs handler", daemon=False)
        begin_after_fork(self)

    def begin(self) -> None:
        """Close our ends in a process that a handler here has forked, because it may outlive the worker."""
        self._pipe.close()
        self._lifeline.close()

    def start(self) -> bool:
        """Start the process, wait until it has imported what it will run, and return whether it has."""
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
        return self._receive() == READY

    def ask(self, task: bytes, sink: MessageSink) -> bytes | None:
        """Run a handler in the process, and return its answer; None if the process died.

        `sink` gets the handler's messages and requests before that.
        """
        self.begun = False
        with suppress(OSError):
            self._pipe.send_bytes(task)
        self.begun = self._receive() == BEGUN
        answer = self._receive() if self.begun else None
        while answer is not None and answer.startswith(MESSAGE):
            self._pass_on(answer[len(MESSAGE) :], sink)
            answer = self._receive()
        return answer

    def _pass_on(self, packed: bytes, sink: MessageSink) -> None:
        """Pass on a message of the handler. A push and a request wait for an answer, or an error."""
        try:
            message = pickle.loads(packed)
        except BaseException as error:  # a push: only that has classes of the user's, whose code runs here
            self._reply(EncodeError(f"what is pushed can't leave this process: {describe(error)}"))
            return
        answer: Any
        try:
            answer = sink.ask_and_wait(message) if isinstance(message, Request) else _sent(sink.handle(message))
        except (Exception, JobSuspended) as error:
            answer = error
        if isinstance(message, PushRequest | Request):
            self._reply(answer)

    def _reply(self, answer: Any) -> None:
        with suppress(OSError):
            self._pipe.send_bytes(_packed(answer))

    def _receive(self) -> bytes | None:
        with suppress(EOFError, OSError):
            while self._process.is_alive() or self._pipe.poll():
                multiprocessing.connection.wait([self._pipe, self._process.sentinel], _LOOK)
                if self._pipe.poll():
                    return self._pipe.recv_bytes()
        self._process.join()  # the process has closed its pipe, or ended
        code = self._exit_code()
        self.ending = "ended" if code is None else how_ended(code)
        self._pipe.close()
        return None

    def _exit_code(self) -> int | None:
        """Return the exit code; None if other code here has waited for the process, and so has the code."""
        until = time.monotonic() + _NOTED
        # A thread that starts another process polls all processes, and may not have recorded this end yet.
        while (code := self._process.exitcode) is None and time.monotonic() < until:
            time.sleep(0.001)
        return code

    def kill(self) -> None:
        """Kill the process, now or as soon as it has started."""
        self._given_up = True
        if self._process.pid is not None:
            with suppress(ValueError):  # it has ended, and is closed
                self._process.kill()

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a task. Not if it has closed its pipe, or sends something unasked."""
        with suppress(OSError):
            return self._process.is_alive() and not self._pipe.poll()
        return False

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, or was never started."""
        return self._process.pid is None or not self._process.is_alive()

    def end(self) -> None:
        """Let the process end, because nothing more will come."""
        self._pipe.close()

    def join(self, until: float | None = None) -> None:
        """Wait until it has ended, or until a time of the monotonic clock."""
        if self._process.pid is not None:
            self._process.join(None if until is None else max(0.0, until - time.monotonic()))


def _sent(pushed: Any) -> PushedJob | None:
    """Return the handle of a pushed job as it can leave this process, without its queue; None for no job."""
    is_job = isinstance(pushed, PushedJob)
    return PushedJob(pushed.id, pushed.name, pushed.added, pushed.replaced) if is_job else None


def _packed(answer: Any) -> bytes:
    """Pickle an answer. If an error could not be loaded over there, send one of ours instead."""
    try:
        packed = pickle.dumps(answer)
        pickle.loads(packed)
    except Exception:
        return pickle.dumps(EncodeError(describe(answer)) if isinstance(answer, Exception) else None)
    return packed


def _load(answer: bytes) -> tuple[Any, BaseException | None]:
    """Return what a handler returned and raised, as far as it can be loaded here."""
    returned, raised = pickle.loads(answer)
    return _load_returned(returned), None if raised is None else _load_raised(raised)


def _load_returned(packed: bytes | NotPacked) -> Any:
    if isinstance(packed, NotPacked):
        return packed
    try:
        return pickle.loads(packed)
    except BaseException as error:  # its class may exist only over there, and its code is the user's
        return NotPacked(describe(error))


def _load_raised(raised: Any) -> BaseException:
    packed, name, text, shown, fingerprint = raised
    error: Any = None
    for each in packed:
        with suppress(BaseException):  # as above
            error = pickle.loads(each)
            break
    if not issubclass(type(error), BaseException):
        error = type(name, (Exception,), {})(text)
    attach(error, "__cause__", RemoteTraceback(shown, fingerprint))
    return error  # type: ignore[no-any-return]
