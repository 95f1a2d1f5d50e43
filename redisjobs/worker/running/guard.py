"""Keeps apart what was meant for a worker's tasks, and what a handler did to every task of the event loop.

Handlers share the event loop with their worker, so one that cancels all tasks cancels the worker's as well. Those
that a worker makes do not heed a job. The one it was started in is its caller's, and does; but it shows that a
job cancelled it, and the worker goes on. It ends when a scope around it is cancelled, or that task by anybody
else. Only asyncio has such cancels: on trio each one has a scope.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from operator import attrgetter
from typing import Any, Protocol
from weakref import WeakSet

import anyio

from redisjobs.base.eventloop import AsyncioGate, Gate, gates, was_asked

_author: ContextVar["Author | None"] = ContextVar("redisjobs_author", default=None)
"""The job whose code runs; None in the worker's own, and in whatever else runs in the loop."""

_home: ContextVar[Any] = ContextVar("redisjobs_home", default=None)
"""The event loop that this job's worker runs in. Its code may run others, in threads of its own."""

set_author = _author.set

_TURNS = 3  # of the event loop, in which a cancelled task hears of it


class Author(Protocol):
    """A job, as far as it matters what its code does to the tasks of the event loop."""

    ended: bool
    """Whether its handler runs no more; timers that it set still may."""


def _author_in(loop: asyncio.AbstractEventLoop) -> Author | None:
    return _author.get() if _home.get() is loop else None


def cancel_counter() -> Callable[[], int]:
    """What counts the cancels that the current task got and has not forgotten; for later, and for any task."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # trio counts none
        task = None
    return task.cancelling if task is not None else int


def forget_cancels() -> None:
    """Make the current task forget that it was cancelled, and went on.

    On asyncio a task counts such cancels, and from Python 3.13 its task groups then misread every error as one.
    """
    # Not what a scope around us has sent; it is sent again until it is heeded, but let it be counted.
    if not cancel_counter()() or was_asked():
        return
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


async def keep_up(duty: Callable[[], Awaitable[object]]) -> None:
    """Do a duty of the worker's to its end; again from its beginning where a handler cancelled it."""
    while True:
        try:
            await duty()
            return
        except anyio.get_cancelled_exc_class():
            if was_asked():
                raise
            forget_cancels()


class OpenScopes:
    """The cancel scopes of the current task. One that a handler left open there would hit the next job.

    Only anyio, and trio, know which these are. To enter and leave a scope around each job would show it too, but
    costs as much as half of all the rest of it.

    Attributes:
        innermost: Tells which one was opened last.
    """

    def __init__(self) -> None:
        try:
            from anyio._backends._asyncio import _task_states

            task = asyncio.current_task()
            keeper: Any
            keeper, name = _task_states[task] if task else None, "cancel_scope"
        except RuntimeError:
            import trio

            keeper, name = trio.lowlevel.current_task(), "_cancel_status"
        self.innermost: Callable[[], Any] = partial(attrgetter(name), keeper)

    def close_inside(self, outer: Any) -> None:
        """Cancel and close those that were opened since `outer` was the innermost one."""
        while (inner := self.innermost()) is not outer:
            scope = getattr(inner, "_scope", inner)
            scope.cancel()  # the tasks in it too
            scope.__exit__(None, None, None)


class _Canary(asyncio.Task[None]):
    """A task that only who cancels all tasks would cancel; it survives that, and tells of it."""

    def __init__(self, struck: Callable[[Author | None], None], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(_forever(), loop=loop, name="redisjobs guard")
        self._struck = struck
        self._log_destroy_pending = False  # who closes the loop under us has worse to tell

    def cancel(self, msg: object = None) -> bool:
        author = _author_in(self.get_loop()) if self.get_loop().is_running() else None
        self._struck(author)
        return author is None and super().cancel(msg)

    def end(self) -> None:
        super().cancel()


class _Watched(asyncio.Future[None]):
    """What the task waits for that a worker was started in: a cancel of that task comes by here."""

    def __init__(self, cancelled: Callable[[Author], None], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._cancelled_by = cancelled

    def cancel(self, msg: object = None) -> bool:
        author = _author_in(self.get_loop())
        if author is not None:
            self._cancelled_by(author)
        return super().cancel(msg)

    @property
    def shows_cancels(self) -> bool:
        """Whether the task waits here, or is about to hear that it was cancelled here."""
        return not self.done() or self.cancelled()


class _WorkerTask(asyncio.Task[Any]):
    """A task of a worker's own: a job cannot cancel it, nor can what an ended one left behind.

    But by a scope around it, which somebody gave to the job. And a slot's task is cancelled by the job it runs.

    Attributes:
        slot: Whose it is, if it is a slot's.
    """

    slot: "Slot | None" = None

    def cancel(self, msg: object = None) -> bool:
        author = _author_in(self.get_loop())
        return (author is None or self._heeds(author, msg)) and super().cancel(msg)

    def _heeds(self, author: Author, msg: object) -> bool:
        by_scope = isinstance(msg, str) and "cancel scope" in msg  # so anyio says, in all its releases
        own = self.slot is not None and self.slot.run is author
        return by_scope or (own and not author.ended)


class Slot(Protocol):
    """What runs one job after another in a task of its own."""

    @property
    def run(self) -> Author | None:
        """The job that it runs now."""


def be_task_of(slot: Slot) -> None:
    """Say whose task the current one is."""
    with suppress(RuntimeError):  # on trio there is no such task
        task = asyncio.current_task()
        if isinstance(task, _WorkerTask):
            task.slot = slot


def run_as_main(loop: asyncio.AbstractEventLoop, call: Coroutine[Any, Any, Any]) -> None:
    """Run what a process is there for: no job can cancel it."""
    loop.run_until_complete(_WorkerTask(call, loop=loop))


class _TaskFactory:
    """Makes the tasks of an event loop that a worker runs in, as the factory before it would.

    An exit that a task raises goes out of the event loop, and would end the worker. So it does not leave a job's.

    Args:
        make: What made them before.

    Attributes:
        for_worker: Whether those made now are a worker's own.
    """

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make
        self.for_worker = False

    def __call__(self, loop: asyncio.AbstractEventLoop, call: Any, **options: Any) -> Any:
        return self.construct(call, loop=loop, **options)

    def construct(self, call: Any, *, loop: asyncio.AbstractEventLoop, **options: Any) -> Any:
        by_job = _author_in(loop) is not None
        # What the worker's own tasks start, or the driver in them, is the worker's own as well.
        if self.for_worker or (not by_job and isinstance(asyncio.current_task(loop), _WorkerTask)):
            return _WorkerTask(call, loop=loop, **options)
        if by_job and asyncio.iscoroutine(call):
            call = _WithoutExit(call)
        return self._make(call, loop=loop, **options)


class _WithoutExit(Coroutine[Any, Any, Any]):
    """A coroutine that fails where it would exit; else it is the one within, also to who looks at its state.

    No coroutine of its own: cancelled before its first step, it would leave the one within never awaited.
    """

    def __init__(self, call: Coroutine[Any, Any, Any]) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __await__(self) -> Any:
        return self._call.__await__()

    def send(self, value: Any) -> Any:
        with _no_exit:
            return self._call.send(value)

    def throw(self, *error: Any) -> Any:
        with _no_exit:
            return self._call.throw(*error)

    def close(self) -> None:
        self._call.close()


class _NoExit:
    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, SystemExit | KeyboardInterrupt):
            said = f"{type(error).__name__}: {error}"
            raise RuntimeError(f"a task of the handler's raised {said}") from error


_no_exit = _NoExit()


class Guard:
    """Watches over one run of a worker, whose task must be the current one.

    Attributes:
        strikes: How often handlers have cancelled all tasks.
        broken: Whether the worker was cancelled with all else in the event loop: by an error that ends the loop,
            or by who knows whom. It may be the work of a job.
    """

    def __init__(self) -> None:
        self.strikes = 0
        self.broken = False
        self._ending = False  # the event loop is
        self._culprits: WeakSet[Author] = WeakSet()
        self._due: set[object] = set()  # strikes that this task may still hear of
        self._watched: _Watched | None = None
        self._handled = sys.exc_info()[1]
        self._canary: _Canary | None = None
        with suppress(RuntimeError):  # on trio there is nothing to watch
            self._loop = asyncio.get_running_loop()
            task = asyncio.current_task()
            self._cancelling = task.cancelling() if task else 0
            self._canary = _Canary(self._struck, self._loop)
            self._tasks = _make_tasks(self._loop)
            _refuse_stop(self._loop)
            _home.set(self._loop)
        self._within = _author.get()  # a job may run a worker
        _author.set(None)

    def end(self) -> None:
        """Watch no more."""
        _author.set(self._within)
        if self._canary is not None:
            self._canary.end()

    def gate(self) -> Gate:
        """What the worker's task is to wait by: so it shows which job cancels that task."""
        if self._canary is None:
            return gates()()
        self._watched = _Watched(self._cancelled_by, self._loop)
        return AsyncioGate(self._watched)

    @contextmanager
    def own_tasks(self) -> Iterator[None]:
        """The tasks that are started in here are the worker's own."""
        if self._canary is None:
            yield
            return
        self._tasks.for_worker = True
        try:
            yield
        finally:
            self._tasks.for_worker = False

    def blames(self, job: Author) -> bool:
        """Whether a job cancelled all tasks."""
        return job in self._culprits

    def was_meant(self) -> bool:
        """Whether the cancel that the current task got is to end it."""
        return self._ending or was_asked()

    def hit(self, job: Author, strikes: int) -> bool:
        """Whether a job was cancelled because another one cancelled all tasks.

        Args:
            job: The one that was cancelled.
            strikes: How many there had been when it began.
        """
        return self.strikes > strikes and job not in self._culprits

    async def outlast(self, wait: Callable[[], Awaitable[object]]) -> None:
        """Wait, in the worker's own task; again where a handler cancelled it.

        Raises:
            BaseException: The cancel, where somebody meant this task.
        """
        while True:
            try:
                await wait()
                return
            except anyio.get_cancelled_exc_class() as error:
                cancel = error
            try:
                if not self.forgive():
                    # A loop that an exception ends cancels its tasks while that one is being handled.
                    self.broken = self.broken or sys.exc_info()[1] is not self._handled
                    raise cancel
            finally:
                del cancel  # or it would hold itself, through its traceback

    def forgive(self) -> bool:
        """Whether the cancel that the worker's task got was a handler's, to all tasks; it is forgotten then."""
        if not self._due or was_asked():
            return False
        task = asyncio.current_task()
        if task is None or task.cancelling() - self._cancelling > len(self._due):
            return False
        self._due.clear()  # heard; the next cancel is somebody else's
        self._watched = None
        while task.cancelling() > self._cancelling:
            task.uncancel()
        return True

    def _struck(self, author: Author | None) -> None:
        if author is None:
            # When a loop ends in order it cancels what is left once it has stopped.
            self._ending, self.broken = True, self.broken or self._loop.is_running()
            return
        self.strikes += 1
        self._culprits.add(author)
        if self._watched is None or not self._watched.shows_cancels:
            self._expect_cancel()

    def _cancelled_by(self, author: Author) -> None:
        if author is self._within:  # whose worker this is: it may end it, as any caller may
            return
        self._culprits.add(author)
        self._expect_cancel()

    def _expect_cancel(self) -> None:
        self._due.add(strike := object())
        self._loop.call_soon(self._expire, strike, _TURNS)

    def _expire(self, strike: object, turns: int) -> None:
        if turns:
            self._loop.call_soon(self._expire, strike, turns - 1)
        else:
            self._due.discard(strike)


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()


def _make_tasks(loop: asyncio.AbstractEventLoop) -> _TaskFactory:
    before: Any = loop.get_task_factory()
    if isinstance(ours := getattr(before, "redisjobs", before), _TaskFactory):  # another worker's
        return ours
    if _is_eager(before):
        # As asyncio makes them, for so anyio knows one: its own tasks it starts as any other would.
        tasks = _TaskFactory(before.__closure__[0].cell_contents)
        factory: Any = asyncio.create_eager_task_factory(tasks.construct)  # type: ignore[attr-defined, unused-ignore]
        factory.redisjobs = tasks
        loop.set_task_factory(factory)
        return tasks
    tasks = _TaskFactory(
        asyncio.Task if before is None else lambda call, *, loop, **more: before(loop, call, **more)
    )
    loop.set_task_factory(tasks)
    return tasks


def _is_eager(factory: Any) -> bool:
    eager: Any = getattr(asyncio, "eager_task_factory", None)  # since Python 3.12
    return eager is not None and getattr(factory, "__code__", None) is eager.__code__


def _refuse_stop(loop: asyncio.AbstractEventLoop) -> None:
    """Let no handler stop the loop, for as long as there is one: what runs in it would end with it."""
    if getattr(loop.stop, "refuses", False):
        return
    stop = loop.stop

    def refusing_stop() -> None:
        if _author_in(loop) is not None:
            raise RuntimeError("a handler can't stop the event loop: its worker and other jobs run in it")
        stop()

    refusing_stop.refuses = True  # type: ignore[attr-defined]
    with suppress(AttributeError):  # a loop of another kind may not let us
        loop.stop = refusing_stop  # type: ignore[method-assign]
