"""Pushes what the schedules of a queue say is due. Any number of schedulers may run, on any hosts.

There is no lock and no leader: the store compares the last slot of a schedule, sets it, and pushes its job, in one
step. The first one to come does, and time is the server's. What is stored of a schedule is in `stored.py`. Of many
schedulers about eight fire at a slot; the others look a second later, at one schedule, whether these still do.

A scheduler declares all schedules of its code when it begins, and after that only says that it is there. It reads
all schedules once, and then those that have changed. So neither costs more where there are many.
"""

import hashlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from secrets import token_hex
from typing import TypeVar

import anyio
import anyio.to_thread

from redisjobs.base.logger import Log
from redisjobs.base.visible import visible
from redisjobs.client.backoff import retrying
from redisjobs.client.push import name_in
from redisjobs.client.registry import Registry
from redisjobs.errors import DriverError, QueueFull, Unavailable, WrongType, single_cause
from redisjobs.events import JobsPushed, ScheduleFired
from redisjobs.middleware import NOBODY, PushEnds, before_push
from redisjobs.model.driver import Notification
from redisjobs.model.stored import (
    Declarer,
    Definition,
    Fire,
    Fired,
    Firing,
    ListSchedules,
    Put,
    PutSchedules,
    ScheduleRow,
    WithdrawSchedules,
    moment,
)
from redisjobs.model.transitions import MOST_BYTES, MOST_JOBS, Pushed, Reply, weight_of
from redisjobs.scheduler.plan import Plan, firing_of

T = TypeVar("T")

logger = Log("redisjobs.scheduler")

_EVERY = 10.0  # seconds between two times that it says it is there; after 30 s without one it counts as gone
_DECLARED = 86_400.0  # seconds until it declares all again: what no scheduler declares is forgotten after 31 days
_LEAVING = 1.0  # seconds that it takes at most to withdraw what it declares, as it ends
_FIRST = 8  # about as many fire at a slot, however many schedulers there are
_LATER_MS = 1000  # by so much, and up to twice that, the others are later
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
        self._change: int | None = None  # number of the last change of a schedule that was read
        self._is_behind = True  # whether there may be changes to read
        self._fingerprints = dict[str, str]()  # of the schedules that its code declares
        self._release = ""
        self._others = set[str]()  # names of these that the store does not have from this release
        self._lot, self._present = random.random(), 0  # how many schedulers there are of this release
        self._ahead = 0.0  # the server's clock less this process' monotonic one, ms
        self._said_at = self._declared_at = float("-inf")  # when it last said that it is there; declared all
        self._wake: anyio.Event | None = None
        self._scope: anyio.CancelScope | None = None
        self._stopped = self._is_running = False
        self._in_worker = self._has_warned = False
        self._said: dict[str, str] = {}  # of a schedule, what the log has last

    async def run(self, *, listens: bool = True) -> None:
        """Fire what is due, until it is stopped. While the store is away it waits, and makes up for it then.

        Args:
            listens: Whether it listens for changes of schedules, on a connection of its own. A worker, which
                listens anyway, passes on what it hears, by `hear`.

        Raises:
            RuntimeError: This scheduler runs already.
            DriverError: The store refuses for good.
        """
        if self._is_running:
            raise RuntimeError("this scheduler runs already, and goes on; make another Scheduler")
        self._said_at = self._declared_at = float("-inf")
        if self._stopped:
            return
        self._is_running, self._in_worker = True, not listens
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
                await self._withdraw()
                await self._queue.driver.aclose()  # what waits for results in this process goes on

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
            await retrying(partial(self._queue.driver.listen, self.hear))

    def hear(self, notification: Notification) -> None:
        """Take in a notification of the queue. For the event loop it runs in."""
        match notification.kind:
            case "schedules":
                self._is_behind = True
            case "subscribed" | "withdrawn":
                self._say_again()
            case _:
                return
        if self._wake is not None:
            self._wake.set()

    def _say_again(self) -> None:
        """At the next look say that it is there, declare what the store has from others, and read what is new."""
        self._said_at, self._is_behind = float("-inf"), True

    def _begin_again(self) -> None:
        """At the next look declare all, and then read all: the store has an older state, or none."""
        self._declared_at, self._change = float("-inf"), None
        self._say_again()

    def _pause(self) -> float:
        """Seconds until something is to be done."""
        if self._is_behind:
            return 0.0
        now = time.monotonic()
        past_ms = self._past_ms
        waits = [max((plan.next_ms - past_ms) / 1000, plan.not_before - now) for plan in self._plans.values()]
        return max(0.0, min([*waits, self._said_at + _EVERY - now]))

    @property
    def _now_ms(self) -> float:
        """What time it is by the server's clock, or a little earlier."""
        return time.monotonic() * 1000 + self._ahead

    @property
    def _leaves_slots(self) -> bool:
        """Whether enough others are there to fire at a slot."""
        return self._lot * self._present >= _FIRST

    @property
    def _past_ms(self) -> float:
        """The time until which it is to see to slots by now, by the server's clock."""
        return self._now_ms - (_LATER_MS * (1 + self._lot) if self._leaves_slots else 0)

    def _hear(self, server_ms: float) -> None:
        self._ahead = server_ms - time.monotonic() * 1000
        self.trouble = ""
        if self._has_warned:
            self._has_warned = False
            logger.info("the schedules of queue '%s' go on", self._queue.name)

    def _failed(self, error: DriverError) -> None:
        self.trouble = str(error)
        if self._has_warned or (self._in_worker and isinstance(error, Unavailable)):
            return  # a worker logs one line for all that its server's absence stops
        self._has_warned = True
        where = f"'{self._queue.name}' at {self._queue.driver.where}"
        logger.warning("the schedules of queue %s wait for the server: %s", where, error)

    def _say(self, name: str, what: str) -> None:
        """Log what is wrong with a schedule, once for as long as it stays so."""
        if self._said.get(name) != what:
            self._said[name] = what
            logger.warning("schedule '%s' of queue '%s': %s", visible(name), self._queue.name, what)

    # What there is

    async def _look(self) -> None:
        """Say that it is there, where it is time to, and read what has changed."""
        if time.monotonic() >= self._said_at + _EVERY:
            self._said_at = time.monotonic()  # before: what is heard of meanwhile is looked at again
            await self._declare(self._to_declare())
            if self._declared_at == float("-inf"):  # the store lost its data: `_read` would lose the slots seen to
                await self._declare(self._to_declare())
        if self._is_behind:
            self._is_behind = False  # before, likewise
            if names := await self._read():
                await self._declare(names)

    def _to_declare(self) -> list[str]:
        """The names of its schedules that the store may have otherwise; at first, and once a day, of all."""
        declared, now = self._queue.declared, time.monotonic()
        if len(declared) != len(self._fingerprints):
            self._fingerprints = {name: each.fingerprint for name, each in declared.items()}
            text = "\n".join(f"{name} {fingerprint}" for name, fingerprint in sorted(self._fingerprints.items()))
            self._release = hashlib.sha256(text.encode()).hexdigest()[:16]
            self._declared_at, self._change = float("-inf"), None
        if now < self._declared_at + _DECLARED:
            return list(self._others)
        self._declared_at = now
        return list(declared)

    async def _declare(self, names: Sequence[str]) -> None:
        """Declare these schedules of its code; with none, say that it is there."""
        # Half as many as jobs in a call: each is read, and some of it is written.
        for some in list(_parts(names, lambda _: (2, 0))) or [[]]:
            replies = await self._put([Put(name, self._fingerprints[name]) for name in some])
            definitions = [self._queue.declared[name] for name in some]
            self._heed(definitions, replies)
            unknown = [each for each, reply in zip(definitions, replies, strict=True) if reply is Reply.NOT_FOUND]
            for part in _parts(unknown, lambda each: (2, weight_of(each.job))):
                replies = await self._put([Put.whole(each, since_ms=self._seen_to(each)) for each in part])
                self._heed(part, replies)
                for each, reply in zip(part, replies, strict=True):
                    if reply is Reply.CHANGED:
                        await self._take_over(each)

    def _seen_to(self, definition: Definition) -> int | None:
        """The slot that was seen to last, of a schedule that the store has lost; None: it was not known here."""
        plan = self._plans.get(definition.name)
        return None if plan is None else plan.last_ms

    async def _take_over(self, definition: Definition) -> None:
        """Declare a schedule in place of one by another rule, once the slots of that one so far are seen to.

        They are fired as that one's accuracy says; the jobs are those of the new one.
        """
        page = await retrying(
            partial(self._queue.driver.read, ListSchedules(definition.name)), failed=self._failed
        )
        self._hear(page.server_ms)
        if not page.rows:  # it is gone since
            self._said_at = float("-inf")
            return
        now_ms, (row,) = int(page.server_ms), page.rows
        with suppress(ValueError):  # what can't be read has no slots
            plan = Plan(
                replace(Definition.read(row.name, row.fields), job=definition.job), row.fingerprint, row.last_ms
            )
            while not row.is_paused and plan.next_ms <= now_ms:
                last_ms = plan.last_ms
                await retrying(
                    partial(self._fire_these, [plan], now_ms), on=(Unavailable, QueueFull), failed=self._failed
                )
                if plan.last_ms == last_ms:
                    return  # it can't be fired just now, or is another one by now: that is looked at again
            row = replace(row, fields={**row.fields, b"last_slot": b"%d" % plan.last_ms})
        try:
            last_ms = row.last_ms
        except ValueError as error:
            self._say(row.name, f"its last slot can't be read, and it is left alone; remove it: {error}")
            return
        self._heed([definition], await self._put([Put.whole(definition, last_ms, since_ms=now_ms)]))

    async def _put(self, schedules: Sequence[Put]) -> Sequence[Reply]:
        by = Declarer(self._id, self._release, self._began_ms)
        answer = await retrying(
            lambda: self._queue.driver.change(PutSchedules(schedules, by)), failed=self._failed
        )
        self._hear(answer.server_ms)
        self._present = answer.present
        if self._began_ms and not answer.present:  # it was silent for too long, or the store has lost its data
            self._begin_again()
        self._began_ms = self._began_ms or int(answer.server_ms)
        self._is_behind |= answer.change != self._change
        return answer.replies

    async def _withdraw(self) -> None:
        """Withdraw what it declares, if the store answers."""
        if self._began_ms:
            by = Declarer(self._id, self._release, self._began_ms)
            with anyio.move_on_after(_LEAVING), suppress(DriverError):
                await self._queue.driver.change(WithdrawSchedules(by))

    def _heed(self, definitions: Sequence[Definition], replies: Sequence[Reply]) -> None:
        """Log which of these do not count as this release declares them, and why."""
        for name, reply in zip((each.name for each in definitions), replies, strict=True):
            if reply is Reply.OK:
                self._said.pop(name, None)
            elif reply is Reply.NEWER:
                self._say(name, "a newer release declares it differently: it is left to that one")
            elif reply is Reply.KEPT:
                self._say(
                    name, "one of that name was put at run time, and counts; what the code declares does not"
                )
            elif reply is Reply.SPOILED:
                self._plans.pop(name, None)
                self._say(
                    name, "what is stored of it is no schedule, by somebody's hand: it is left alone; remove it"
                )

    async def _read(self) -> list[str]:
        """Make plans of the schedules that have changed since the last time; at first of all.

        Returns:
            The names of those that the code declares, and the store no longer has from this release.
        """
        after, plans, others, change = self._change, self._plans, self._others, None
        if after is None:
            plans, others = dict[str, Plan](), set[str]()
        read, mine = set[str](), set[str]()
        query = ListSchedules(after=after)
        while True:
            page = await retrying(partial(self._queue.driver.read, query), failed=self._failed)
            self._hear(page.server_ms)
            change = page.change if change is None else change  # what has changed since is read again
            if after is not None and change < after:
                self._begin_again()
                return []
            for name in page.gone:
                plans.pop(name, None)
            for row in page.rows:
                plans.pop(row.name, None)
                if (plan := self._plan(row)) is not None:
                    plans[row.name] = plan
            read |= {*page.gone, *(row.name for row in page.rows)}
            mine |= {row.name for row in page.rows if row.fields.get(b"release") == self._release.encode()}
            if page.more is None:
                break
            query = ListSchedules(after=page.more)
        theirs = (read - mine) & self._fingerprints.keys()
        self._plans, self._others, self._change = plans, (others - read) | theirs, change
        return [] if after is None else sorted(theirs)

    def _plan(self, row: ScheduleRow) -> Plan | None:
        """What this scheduler has to do for a schedule; None: nothing."""
        mine = self._fingerprints.get(row.name, "")
        if row.is_paused or (row.is_declared and row.fields.get(b"fingerprint") != mine.encode()):
            return None
        try:
            definition = Definition.read(row.name, row.fields)
            plan = Plan(definition, row.fingerprint, row.last_ms)
            _ = row.is_declared and row.declared_ms
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
        now, past_ms, now_ms = time.monotonic(), self._past_ms, self._now_ms
        due = [plan for plan in self._plans.values() if plan.next_ms <= past_ms and plan.not_before <= now]
        if due and self._leaves_slots and await self._is_seen_to(random.choice(due)):
            for plan in due:
                plan.pass_by(past_ms)
            return
        for start in range(0, len(due), MOST_JOBS):  # so many at a time: what else runs in this event loop waits
            await self._fire_these(due[start : start + MOST_JOBS], now_ms)

    async def _is_seen_to(self, plan: Plan) -> bool:
        """Whether another scheduler has fired a schedule that is due here; to ask of all would cost far more."""
        page = await self._queue.driver.read(ListSchedules(plan.definition.name))
        self._hear(page.server_ms)
        with suppress(ValueError):
            return any(row.last_ms >= plan.next_ms for row in page.rows)
        return False

    async def _fire_these(self, due: Sequence[Plan], now_ms: float) -> None:
        firings = [(plan, await firing_of(plan, now_ms)) for plan in due]
        for some in _parts(firings, lambda each: (len(each[1].jobs), sum(map(weight_of, each[1].jobs)))):
            attempts = await self._attempts(some)
            while attempts:
                try:
                    fired = await self._fire_some(attempts)
                except WrongType:  # one of them meets a key of the wrong type; the others are fired
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
            case Reply.EARLY:  # the server's clock was set back: it was heard just now
                pass
            case Reply.CHANGED if firing.name in self._fingerprints:  # or the store has lost it
                plan.not_before = time.monotonic() + _AGAIN
                self._others.add(firing.name)
                self._say_again()
            case _:  # paused, changed, gone, or its last slot was set by hand
                self._plans.pop(firing.name, None)
                self._say_again()
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
