"""Fires due schedules. In one step, Redis compares a schedule's last slot, sets it, and pushes its jobs."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from redisjobs.client.push import name_in
from redisjobs.errors import WrongType
from redisjobs.events.kinds import JobsPushed, ScheduleFired
from redisjobs.events.middleware import NO_CALLS, PushEnds, before_push
from redisjobs.model import stored
from redisjobs.model.definition import moment
from redisjobs.model.stored import Fire, Fired, ListSchedules
from redisjobs.model.transitions import MOST_BYTES, MOST_JOBS, Pushed, Reply, weight_of
from redisjobs.worker.scheduler.known import KnownSchedules
from redisjobs.worker.scheduler.plan import Plan, firing_of

T = TypeVar("T")

_AGAIN = 5.0  # seconds before a new try of a schedule that could not be fired


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to fire a schedule: the request to Redis, and the hooks that wait for its end."""

    plan: Plan
    firing: stored.Firing
    ends: PushEnds


class Firer:
    """Fires the schedules that one scheduler knows."""

    def __init__(self, known: KnownSchedules) -> None:
        self._known = known

    async def fire_due(self) -> None:
        """Fire what is due now. A retry computes again what that is, because time has passed."""
        known = self._known
        now, past_ms, now_ms = time.monotonic(), known.past_ms, known.now_ms
        due = [plan for plan in known.plans.values() if plan.next_ms <= past_ms and plan.not_before <= now]
        if due and known.leaves_slots and await self._was_fired(random.choice(due)):
            for plan in due:
                plan.pass_by(past_ms)
            return
        for start in range(0, len(due), MOST_JOBS):  # a part at a time: all else in this event loop waits
            await self.fire_these(due[start : start + MOST_JOBS], now_ms)

    async def _was_fired(self, plan: Plan) -> bool:
        """Return whether another scheduler has fired this due schedule. Asking about all would cost far more."""
        page = await self._known.queue.driver.read(ListSchedules(plan.definition.name))
        self._known.record_time(page.server_ms)
        with suppress(ValueError):
            return any(row.last_ms >= plan.next_ms for row in page.rows)
        return False

    async def fire_these(self, due: Sequence[Plan], now_ms: float) -> None:
        """Fire these schedules, which are due."""
        firings = [(plan, await firing_of(plan, now_ms)) for plan in due]
        for some in in_parts(firings, lambda each: (len(each[1].jobs), sum(map(weight_of, each[1].jobs)))):
            attempts = await self._attempts(some)
            while attempts:
                try:
                    fired = await self._fire_some(attempts)
                except WrongType:  # one of them meets a key of the wrong type: fire each by itself
                    for each in attempts:
                        await self._fire_one(each)
                    break
                attempts = attempts[fired:]

    async def _attempts(self, firings: Sequence[tuple[Plan, stored.Firing]]) -> list[Attempt]:
        """Call the push hooks with the jobs, just before these are pushed."""
        hooks, queue = self._known.queue._on_push, self._known.queue.name
        attempts = list[Attempt]()
        try:
            for plan, firing in firings:
                ends = await before_push(hooks, firing.jobs, queue) if hooks else NO_CALLS
                attempts.append(Attempt(plan, firing, ends))
        except BaseException as error:
            for each in attempts:
                each.ends.tell((), error)
            raise
        return attempts

    async def _fire_one(self, attempt: Attempt) -> None:
        try:
            await self._fire_some([attempt])
        except WrongType as error:
            self._put_off(attempt.plan, str(error))

    async def _fire_some(self, attempts: Sequence[Attempt]) -> int:
        """Fire the first of these, as many as one call takes; return how many."""
        change = Fire(self._known.id, [each.firing for each in attempts])
        try:
            answer = await self._known.queue.driver.change(change)
        except BaseException as error:
            if len(attempts) == 1 or not isinstance(error, WrongType):  # else they are tried one by one
                for each in attempts:
                    each.ends.tell((), error)
            raise
        self._known.record_time(answer.server_ms)
        for attempt, fired in zip(attempts, answer.fired, strict=False):
            self._fired(attempt, fired)
        return len(answer.fired)

    def _fired(self, attempt: Attempt, fired: Fired) -> None:
        known, plan, firing = self._known, attempt.plan, attempt.firing
        match fired.reply:
            case Reply.OK | Reply.REPEATED:
                plan.move_to(firing.slot_ms)
                known.warn_once(firing.name, "")
                self._publish(attempt, fired)
                return
            case Reply.FIRED if _has_moved(plan, fired.last_ms):
                pass
            case Reply.EARLY:  # the server's clock was set back: this answer has brought its new time
                pass
            case Reply.CHANGED if firing.name in known.fingerprints:  # or Redis has lost it
                plan.not_before = time.monotonic() + _AGAIN
                known.others.add(firing.name)
                known.report_again()
            case Reply.BUSY:
                self._put_off(plan, "a transaction that stays open has its unique key, or its job")
            case _:  # paused, changed, gone, or its last slot was changed in Redis
                known.plans.pop(firing.name, None)
                known.report_again()
        attempt.ends.tell([False] * len(firing.jobs))

    def _put_off(self, plan: Plan, why: str) -> None:
        plan.not_before = time.monotonic() + _AGAIN
        self._known.warn_once(plan.definition.name, f"it could not be fired, and is tried again: {why}")

    def _publish(self, attempt: Attempt, fired: Fired) -> None:
        """Publish that a schedule was fired."""
        queue, firing = self._known.queue, attempt.firing
        pushed = fired.pushed or [Pushed(Reply.OK)] * len(firing.jobs)  # the reply to the first try was lost
        attempt.ends.tell([each.reply is Reply.OK for each in pushed])
        jobs = [
            (each.holder or job.job_id, name_in(job), each.reply is Reply.OK)
            for job, each in zip(firing.jobs, pushed, strict=True)
        ]
        if queue.events.wanted(JobsPushed):
            queue.events.publish(JobsPushed(queue.name, jobs=jobs))
        if queue.events.wanted(ScheduleFired):
            slot, missed = moment(firing.slot_ms), firing.missed
            event = ScheduleFired(queue.name, schedule=firing.name, slot=slot, missed=missed, jobs=jobs)
            queue.events.publish(event)


def _has_moved(plan: Plan, last_ms: int) -> bool:
    """Move on to the slot that another scheduler has fired, if that is a time; return whether it is."""
    with suppress(ValueError):
        plan.move_to(last_ms)
        return True
    return False


def in_parts(items: Sequence[T], weight: Callable[[T], tuple[int, int]]) -> Iterator[list[T]]:
    """Yield items in lists that one call can take. `weight` returns how many jobs and bytes an item has."""
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
