"""Sync handlers in processes of their own, which can be killed.

Each process has a pipe of its own and runs one handler at a time, so one that dies takes nothing with it. pebble's
pool, and those of the standard library, share a pipe and its locks among all processes: there a crash can break
the pool under its bystanders, and they stand still while one is being killed.
"""

import functools
import math
import pickle
import time
from collections.abc import Callable, Iterable
from typing import Any

import anyio
import anyio.to_thread

from redisjobs.errors import ProcessDied, RegistrationError
from redisjobs.model.context import JobContext, message_sink_of
from redisjobs.model.job import JobDefinition
from redisjobs.model.progress import HandlerMessage
from redisjobs.worker.running.handler_process import Process, load
from redisjobs.worker.running.handler_ref import place_of
from redisjobs.worker.running.threads import NoThread, Trouble

_END = 2.0  # seconds that idle processes have to end by themselves
_TRIES = 3  # processes that may die as they are given a job, before that counts as its failure


class HandlerPool:
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
        # Not by their names: handlers of several queues may share one.
        self._places = {id(each): place_of(each) for each in definitions}
        # The slots are the limit; the default limiter is the application's too, which may have used it up.
        self._limiter = anyio.CapacityLimiter(math.inf)
        self._idle: list[Process] = []
        self._busy: set[Process] = set()
        self._dying: list[Process] = []  # that were killed, and may not have ended yet

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
        process = Process({place.module for place in self._places.values()})
        if not await self._in_thread(process, process.start):
            raise NoThread(f"a process {process.ending}")
        self._idle.append(process)

    async def run(
        self, definition: JobDefinition[Any], parameters: Any, context: JobContext
    ) -> tuple[Any, BaseException | None]:
        """Run a handler in a process that was prepared; what it returned, where that is kept, and what it raised.

        Raises:
            NoThread: It was not begun.
            BaseException: A cancellation; the process was killed.
        """
        try:
            task = pickle.dumps((self._places[id(definition)], parameters, context, context.keeps_result))
        except BaseException as error:
            return None, error
        sink = message_sink_of(context)
        said: Callable[[HandlerMessage], object] = sink.hear if sink is not None else bool
        for _ in range(_TRIES):
            process = self._idle.pop()
            answer = await self._in_thread(process, functools.partial(process.ask, task, said))
            if answer is not None:
                self._idle.append(process)
                return load(answer)
            if process.begun:
                break
            await self.prepare()
        return None, ProcessDied(f"the process of the handler {process.ending}")

    async def _in_thread(self, process: Process, call: Callable[[], Any]) -> Any:
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

    def _kill(self, process: Process) -> None:
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
