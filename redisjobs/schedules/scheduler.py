"""Pushes what the schedules of a queue say is due. Any number of schedulers may run, on any hosts.

There is no lock and no leader: the store compares the last slot of a schedule, sets it, and pushes its job, in one
step. Whoever comes first does, and time is the server's. What is stored of a schedule is in `stored.py`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from secrets import token_hex
from typing import TypeVar

import anyio
import anyio.to_thread

from redisjobs.backoff import retrying
from redisjobs.driver import Notification
from redisjobs.errors import DriverError, QueueFull, Unavailable, WrongType
from redisjobs.events import JobsPushed, ScheduleFired
from redisjobs.logger import Log
from redisjobs.middleware import NOBODY, PushEnds, before_push
from redisjobs.push import name_in
from redisjobs.registry import Registry
from redisjobs.schedules.plan import Plan, firing_of
from redisjobs.schedules.stored import (
    Definition,
    Fire,
    Fired,
    Firing,
    ListSchedules,
    PutSchedules,
    ScheduleRow,
    moment,
)
from redisjobs.transitions import MOST_BYTES, MOST_JOBS, Pushed, Reply, weight_of
from redisjobs.visible import visible

T = TypeVar("T")

logger = Log("redisjobs.scheduler")

_EVERY = 20.0  # seconds between two declarations; after 60 s without one a schedule has stopped
_AGAIN = 5.0  # seconds after which a schedule that could not be fired is tried again


class Scheduler:
    """Fires the schedules of one queue: those that its code declares, and those that were put at run time.

    Args:
        queue: The queue, async or sync.

    Attributes:
        trouble: Why nothing is fired: what the store said; "" if all is well.
    """

    def __init__(self, queue: Registry) -> None:
        self.trouble = ""
        self._queue = queue
        self._id = token_hex(8)
        self._plans: dict[str, Plan] = {}
        self._began_ms = 0  # when this one began, by the server's clock; 0: it has not declared anything yet
        self._changes = -1  # of the schedules, as far as they were looked at
        self._mine = set[str]()  # names of those that count as this release declares them
        self._ahead = 0.0  # the server's clock less this process' monotonic one, ms
        self._declared_at = float("-inf")
        self._wake: anyio.Event | None = None
        self._scope: anyio.CancelScope | None = None
        self._stopped = self._is_running = False
        self._said: dict[str, str] = {}  # of a schedule, what the log has last

    async def run(self) -> None:
        """Fire what is due, until it is stopped. While the store is away it waits, and makes up for it then.

        Raises:
            RuntimeError: This scheduler runs already.
            DriverError: The store refuses for good.
        """
        if self._is_running:
            raise RuntimeError("this scheduler runs already, and goes on; make another Scheduler")
        self._declared_at = float("-inf")
        if self._stopped:
            return
        self._is_running = True
        try:
            with anyio.CancelScope() as self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._listen)
                    await self._work()
        finally:
            self._is_running = False
            with anyio.CancelScope(shield=True):
                await self._queue.disconnect()

    def stop(self) -> None:
        """Fire nothing from now on; `run` returns. For the event loop it runs in."""
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

    async def _listen(self) -> None:
        while True:
            await retrying(partial(self._queue.driver.listen, self._heard))

    def _heard(self, notification: Notification) -> None:
        if notification.kind in ("schedules", "subscribed"):
            self._declared_at = float("-inf")
            if self._wake is not None:
                self._wake.set()

    def _pause(self) -> float:
        """Seconds until something is to be done."""
        now = time.monotonic()
        waits = [max((plan.next_ms - self._now_ms) / 1000, plan.not_before - now) for plan in self._plans.values()]
        return max(0.0, min([*waits, self._declared_at + _EVERY - now]))

    @property
    def _now_ms(self) -> float:
        """What time it is by the server's clock, or a little earlier."""
        return time.monotonic() * 1000 + self._ahead

    def _hear(self, server_ms: float) -> None:
        self._ahead = server_ms - time.monotonic() * 1000
        if self.trouble:
            self.trouble = ""
            logger.info("the schedules of queue '%s' go on", self._queue.name)

    def _failed(self, error: DriverError) -> None:
        if not self.trouble:
            logger.warning("the schedules of queue '%s' wait for the store: %s", self._queue.name, error)
        self.trouble = str(error)

    def _say(self, name: str, what: str) -> None:
        """Log what is wrong with a schedule, once for as long as it stays so."""
        if self._said.get(name) != what:
            self._said[name] = what
            logger.warning("schedule '%s' of queue '%s': %s", visible(name), self._queue.name, what)

    # What there is

    async def _look(self) -> None:
        """Say which schedules this release declares; look at all of them if they have changed."""
        if time.monotonic() < self._declared_at + _EVERY:
            return
        self._declared_at = time.monotonic()  # before: what is heard of meanwhile is looked at again
        mine, changes = await self._declare()
        if changes != self._changes or mine != self._mine:
            self._mine = mine
            await self._read()

    async def _declare(self) -> tuple[set[str], int]:
        """The names of the schedules that count as this release declares them; how often any were changed."""
        declared = list(self._queue.declared.values())
        mine, changes = set[str](), 0
        # Also where none is: how often they were changed is told in the same answer.
        for some in list(_parts(declared, lambda _: (1, 0))) or [[]]:
            replies, changes = await self._put([(each.name, each.fingerprint, None) for each in some])
            unknown = [each for each, reply in zip(some, replies, strict=True) if reply is Reply.NOT_FOUND]
            mine.update(self._counted(some, replies))
            for part in _parts(unknown, lambda each: (1, weight_of(each.job))):
                replies, changes = await self._put([(each.name, each.fingerprint, each) for each in part])
                mine.update(self._counted(part, replies))
        return mine, changes

    async def _put(self, schedules: Sequence[tuple[str, str, Definition | None]]) -> tuple[Sequence[Reply], int]:
        change = PutSchedules(schedules, self._began_ms)
        answer = await retrying(lambda: self._queue.driver.change(change), failed=self._failed)
        self._hear(answer.server_ms)
        self._began_ms = self._began_ms or int(answer.server_ms)
        return answer.replies, answer.changes

    def _counted(self, definitions: Sequence[Definition], replies: Sequence[Reply]) -> Iterator[str]:
        """The names of those that count; what is against the others goes to the log."""
        for definition, reply in zip(definitions, replies, strict=True):
            name = definition.name
            if reply is Reply.OK:
                self._said.pop(name, None)
                yield name
            elif reply is Reply.NEWER:
                self._say(name, "a newer release declares it differently: it is left to that one")
            elif reply is Reply.KEPT:
                self._say(
                    name, "one of that name was put at run time, and counts; what the code declares does not"
                )
            elif reply is Reply.SPOILED:
                self._say(
                    name, "what is stored of it is no schedule, by somebody's hand: it is left alone; remove it"
                )

    async def _read(self) -> None:
        """Make plans of all schedules that this scheduler may fire."""
        plans, query, changes = dict[str, Plan](), ListSchedules(), None
        while True:
            page = await retrying(partial(self._queue.driver.read, query), failed=self._failed)
            self._hear(page.server_ms)
            changes = page.changes if changes is None else changes  # what has changed since is looked at again
            for row in page.rows:
                if (plan := self._plan(row)) is not None:
                    plans[row.name] = plan
            if not page.more:
                break
            query = ListSchedules(after=page.more)
        self._plans, self._changes = plans, changes

    def _plan(self, row: ScheduleRow) -> Plan | None:
        """What this scheduler has to do for a schedule; None: nothing."""
        if row.is_paused or (row.is_declared and row.name not in self._mine):
            return None
        try:
            definition = Definition.read(row.name, row.fields)
            plan = Plan(definition, row.fingerprint, row.last_ms)
        except ValueError as error:
            self._say(row.name, f"what is stored of it can't be read, and it is left alone: {error}")
            return None
        if not row.is_declared:
            self._said.pop(row.name, None)
        return plan

    # What is due

    async def _fire(self) -> None:
        await retrying(self._fire_due, on=(Unavailable, QueueFull), failed=self._failed)

    async def _fire_due(self) -> None:
        """Fire what is due now. After an error it is asked again what that is: time went by."""
        now, now_ms = time.monotonic(), self._now_ms
        due = [plan for plan in self._plans.values() if plan.next_ms <= now_ms and plan.not_before <= now]
        for start in range(0, len(due), MOST_JOBS):  # so many at a time: what else runs in this event loop waits
            await self._fire_these(due[start : start + MOST_JOBS], now_ms)

    async def _fire_these(self, due: Sequence[Plan], now_ms: float) -> None:
        firings = [(plan, await firing_of(plan, now_ms)) for plan in due]
        for some in _parts(firings, lambda each: (len(each[1].jobs), sum(map(weight_of, each[1].jobs)))):
            attempts = await self._attempts(some)
            while attempts:
                try:
                    fired = await self._fire_some(attempts)
                except WrongType:  # one of them has what somebody spoiled; the others are fired
                    for each in attempts:
                        await self._fire_one(each)
                    break
                attempts = attempts[fired:]

    async def _attempts(self, firings: Sequence[tuple[Plan, Firing]]) -> list["Attempt"]:
        """Let whoever takes part in pushes look at the jobs, just before they are pushed."""
        hooks, queue = self._queue.on_push, self._queue.name
        attempts = list[Attempt]()
        try:
            for plan, firing in firings:
                ends = await before_push(hooks, firing.jobs, queue) if hooks else NOBODY
                attempts.append(Attempt(plan, firing, ends))
        except BaseException as error:
            for each in attempts:
                each.ends.tell((), error)
            raise
        return attempts

    async def _fire_one(self, attempt: "Attempt") -> None:
        try:
            await self._fire_some([attempt])
        except WrongType as error:
            self._put_off(attempt.plan, str(error))

    async def _fire_some(self, attempts: Sequence["Attempt"]) -> int:
        """Fire the first of these, as many as one call of the store takes; how many."""
        try:
            answer = await self._queue.driver.change(Fire(self._id, [each.firing for each in attempts]))
        except BaseException as error:
            if len(attempts) == 1 or not isinstance(error, WrongType):  # else they are tried one by one
                for each in attempts:
                    each.ends.tell((), error)
            raise
        self._hear(answer.server_ms)
        for attempt, fired in zip(attempts, answer.fired, strict=False):
            self._fired(attempt, fired)
        return len(answer.fired)

    def _fired(self, attempt: "Attempt", fired: Fired) -> None:
        plan, firing = attempt.plan, attempt.firing
        match fired.reply:
            case Reply.OK | Reply.REPEATED:
                plan.move_to(firing.slot_ms)
                self._said.pop(firing.name, None)
                self._tell(attempt, fired)
                return
            case Reply.FIRED if self._has_moved(plan, fired.last_ms):
                pass
            case Reply.NO_IDS:
                self._put_off(plan, "the ready streams have no entry ids left, by somebody's hand")
            case Reply.EARLY:  # the server's clock was set back: it was heard just now
                pass
            case _:  # paused, changed, gone, or its last slot was set by hand
                self._plans.pop(firing.name, None)
                self._changes, self._declared_at = -1, float("-inf")
        attempt.ends.tell([False] * len(firing.jobs))

    @staticmethod
    def _has_moved(plan: Plan, last_ms: int) -> bool:
        """Go on from the slot that another scheduler saw to, if that is a time."""
        with suppress(ValueError):
            plan.move_to(last_ms)
            return True
        return False

    def _put_off(self, plan: Plan, why: str) -> None:
        plan.not_before = time.monotonic() + _AGAIN
        self._say(plan.definition.name, f"it could not be fired, and is tried again: {why}")

    def _tell(self, attempt: "Attempt", fired: Fired) -> None:
        firing, events, queue = attempt.firing, self._queue.events, self._queue.name
        pushed = fired.pushed or [Pushed(Reply.OK)] * len(firing.jobs)  # the reply to the first try was lost
        attempt.ends.tell([each.reply is Reply.OK for each in pushed])
        jobs = [
            (each.holder or job.job_id, name_in(job), each.reply is Reply.OK)
            for job, each in zip(firing.jobs, pushed, strict=True)
        ]
        if events.wanted(JobsPushed):
            events.publish(JobsPushed(queue, jobs=jobs))
        if events.wanted(ScheduleFired):
            slot = moment(firing.slot_ms)
            events.publish(ScheduleFired(queue, schedule=firing.name, slot=slot, missed=firing.missed, jobs=jobs))


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to fire a schedule.

    Attributes:
        plan: The schedule.
        firing: What is asked of the store.
        ends: Who wants to hear what became of the jobs.
    """

    plan: Plan
    firing: Firing
    ends: PushEnds


def _parts(items: Sequence[T], weight: Callable[[T], tuple[int, int]]) -> Iterator[list[T]]:
    """Items in lists that one call takes; the weight of one is how many jobs, and how many bytes."""
    part, jobs, size = list[T](), 0, 0
    for item in items:
        more, larger = weight(item)
        if part and (jobs + more > MOST_JOBS or size + larger > MOST_BYTES):
            yield part
            part, jobs, size = [], 0, 0
        part.append(item)
        jobs, size = jobs + more, size + larger
    if part:
        yield part
