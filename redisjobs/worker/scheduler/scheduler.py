"""Pushes the jobs of a queue's schedules when they are due. Any number of schedulers may run, on any hosts.

There is no lock and no leader. In one step, Redis compares a schedule's last slot, sets it, and pushes its jobs.
The first scheduler that asks does it, and the time is the server's. `model/stored.py` describes what Redis stores
of a schedule. Of many schedulers, about eight fire at a slot. A second later each of the others checks one
schedule, to see whether the eight still fire.

A scheduler declares all schedules of its code when it begins, and after that only reports that it is there. It
reads all schedules once, and then those that have changed. So neither costs more when there are many.
"""

import time
from functools import partial

import anyio

from redisjobs.client.backoff import retrying
from redisjobs.client.registry import Registry
from redisjobs.errors import QueueFull, Unavailable, single_cause
from redisjobs.model.driver import Notification
from redisjobs.worker.scheduler import declaring
from redisjobs.worker.scheduler.declaring import Declaring
from redisjobs.worker.scheduler.firing import Firer
from redisjobs.worker.scheduler.known import NEVER, KnownSchedules


class Scheduler:
    """Fires the schedules of one queue: those that its code declares, and those that were put at run time.

    Args:
        queue: The queue, async or sync.
    """

    def __init__(self, queue: Registry) -> None:
        self._queue = queue
        self._known = KnownSchedules(queue)
        self._firing = Firer(self._known)
        self._declaring = Declaring(self._known, self._firing)
        self._wake: anyio.Event | None = None
        self._scope: anyio.CancelScope | None = None
        self._stopped = self._is_running = False

    @property
    def trouble(self) -> str:
        """Why nothing can be fired; "" if all is well."""
        return self._known.trouble

    async def run(self, *, listens: bool = True) -> None:
        """Fire what is due until stopped. While Redis is unavailable, wait; then catch up.

        Args:
            listens: Whether to listen for changes of schedules, on a separate connection. A worker listens anyway,
                and passes its notifications to `notified`.

        Raises:
            RuntimeError: This scheduler runs already.
            DriverError: The server refuses, and waiting would not help.
        """
        if self._is_running:
            raise RuntimeError("this scheduler runs already, and goes on; make another Scheduler")
        self._known.reported_at = self._known.declared_at = NEVER
        if self._stopped:
            return
        self._is_running, self._known.in_worker = True, not listens
        try:
            with anyio.CancelScope() as self._scope:
                async with anyio.create_task_group() as tasks:
                    if listens:
                        tasks.start_soon(self._listen)
                    await self._work()
        except BaseExceptionGroup as group:
            cause = single_cause(group)
            raise cause from cause.__cause__
        finally:
            self._is_running = False
            with anyio.CancelScope(shield=True):
                await self._declaring.withdraw()
                await self._queue.driver.aclose()  # code in this process that waits for results goes on

    def stop(self) -> None:
        """Fire nothing from now on, and let `run` return. Call it in the event loop of `run`."""
        self._stopped = True
        if self._scope is not None:
            self._scope.cancel()

    async def _work(self) -> None:
        while True:
            self._wake = anyio.Event()
            await self._look()
            await self._fire()
            with anyio.move_on_after(self._pause()):
                await self._wake.wait()

    async def _look(self) -> None:
        await self._declaring.look()

    async def _fire(self) -> None:
        await retrying(self._firing.fire_due, on=(Unavailable, QueueFull), failed=self._known.failed)

    async def _listen(self) -> None:
        while True:
            await retrying(partial(self._queue.driver.listen, self.notified))

    def notified(self, notification: Notification) -> None:
        """Handle a notification of the queue. Call it in the event loop of `run`."""
        match notification.kind:
            case "schedules":
                self._known.is_behind = True
            case "subscribed" | "withdrawn":
                self._known.report_again()
            case _:
                return
        if self._wake is not None:
            self._wake.set()

    def _pause(self) -> float:
        """Return the seconds until there is something to do."""
        known, now = self._known, time.monotonic()
        if known.is_behind:
            return 0.0
        past_ms = known.past_ms
        waits = [max((plan.next_ms - past_ms) / 1000, plan.not_before - now) for plan in known.plans.values()]
        return max(0.0, min([*waits, known.reported_at + declaring.EVERY - now]))
