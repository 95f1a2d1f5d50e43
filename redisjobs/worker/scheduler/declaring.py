"""Declares the schedules of a scheduler's code, and reads the schedules of the queue."""

import hashlib
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import anyio

from redisjobs.client.backoff import retrying
from redisjobs.errors import DriverError, QueueFull, Unavailable
from redisjobs.model.definition import Definition
from redisjobs.model.stored import Declarer, ListSchedules, Put, PutSchedules, ScheduleRow, WithdrawSchedules
from redisjobs.model.transitions import Reply, weight_of
from redisjobs.worker.scheduler.firing import Firer, in_parts
from redisjobs.worker.scheduler.known import NEVER, KnownSchedules
from redisjobs.worker.scheduler.plan import Plan

EVERY = 10.0  # seconds between reports that it is there; after 30 s without one it counts as gone
_DECLARED = 86_400.0  # seconds before it declares all again; Redis forgets after 31 days what none declares
_LEAVING = 1.0  # seconds at most to withdraw what it declares, when it ends

_REFUSED = {
    Reply.NEWER: "a newer release declares it differently, and that declaration counts",
    Reply.KEPT: "one of that name was put at run time, and counts; what the code declares does not",
    Reply.SPOILED: "its key in Redis holds something else, which is not changed; remove it",
}
"""Why Redis does not use a schedule as this release declares it."""


class Declaring:
    """Keeps Redis and a scheduler in agreement about which schedules there are."""

    def __init__(self, known: KnownSchedules, firing: Firer) -> None:
        self._known = known
        self._firing = firing

    async def look(self) -> None:
        """Report that this scheduler is there, if it is time to, and read what has changed."""
        known = self._known
        if time.monotonic() >= known.reported_at + EVERY:
            known.reported_at = time.monotonic()  # first: a notification that comes meanwhile brings another look
            await self._declare(self._to_declare())
            if known.declared_at == NEVER:  # Redis lost its data: `read` would lose the last slots known here
                await self._declare(self._to_declare())
        if known.is_behind:
            known.is_behind = False  # first, likewise
            if names := await self.read():
                await self._declare(names)

    def _to_declare(self) -> list[str]:
        """Return the names of its schedules that Redis may have otherwise; at first, and once a day, all names."""
        known, declared, now = self._known, self._known.queue.declared, time.monotonic()
        if len(declared) != len(known.fingerprints):
            known.fingerprints = {name: each.fingerprint for name, each in declared.items()}
            text = "\n".join(f"{name} {fingerprint}" for name, fingerprint in sorted(known.fingerprints.items()))
            known.release = hashlib.sha256(text.encode()).hexdigest()[:16]
            known.declared_at, known.change = NEVER, None
        if now < known.declared_at + _DECLARED:
            return list(known.others)
        known.declared_at = now
        return list(declared)

    async def _declare(self, names: Sequence[str]) -> None:
        """Declare these schedules of the code. With none, only report that this scheduler is there."""
        # Half as many as jobs in a call, because Redis reads each, and writes part of it.
        for some in list(in_parts(names, lambda _: (2, 0))) or [[]]:
            replies = await self._put([Put(name, self._known.fingerprints[name]) for name in some])
            definitions = [self._known.queue.declared[name] for name in some]
            self._log_refused(definitions, replies)
            unknown = [each for each, reply in zip(definitions, replies, strict=True) if reply is Reply.NOT_FOUND]
            for part in in_parts(unknown, lambda each: (2, weight_of(each.job))):
                replies = await self._put([Put.whole(each, since_ms=self._last_fired_slot(each)) for each in part])
                self._log_refused(part, replies)
                for each, reply in zip(part, replies, strict=True):
                    if reply is Reply.CHANGED:
                        await self._take_over(each)

    def _last_fired_slot(self, definition: Definition) -> int | None:
        """Return the last fired slot of a schedule that Redis has lost; None if it was not known here."""
        plan = self._known.plans.get(definition.name)
        return None if plan is None else plan.last_ms

    async def _take_over(self, definition: Definition) -> None:
        """Declare a schedule in place of one with another rule, once the due slots of the old rule are fired.

        They are fired with the accuracy of the old schedule and the jobs of the new one.
        """
        page = await retrying(
            partial(self._known.queue.driver.read, ListSchedules(definition.name)), failed=self._known.failed
        )
        self._known.record_time(page.server_ms)
        if not page.rows:  # it was deleted meanwhile
            self._known.reported_at = NEVER
            return
        now_ms, (row,) = int(page.server_ms), page.rows
        with suppress(ValueError):  # a schedule that can't be read has no slots
            stored = replace(Definition.read(row.name, row.fields), job=definition.job)
            plan = Plan(stored, row.fingerprint, row.last_ms)
            while not row.is_paused and plan.next_ms <= now_ms:
                last_ms = plan.last_ms
                fire = partial(self._firing.fire_these, [plan], now_ms)
                await retrying(fire, on=(Unavailable, QueueFull), failed=self._known.failed)
                if plan.last_ms == last_ms:
                    return  # it can't be fired now, or was changed meanwhile: the next look tries again
            row = replace(row, fields={**row.fields, b"last_slot": b"%d" % plan.last_ms})
        try:
            last_ms = row.last_ms
        except ValueError as error:
            self._known.warn_once(
                row.name, f"its last slot can't be read, and it is left alone; remove it: {error}"
            )
            return
        self._log_refused([definition], await self._put([Put.whole(definition, last_ms, since_ms=now_ms)]))

    async def _put(self, schedules: Sequence[Put]) -> Sequence[Reply]:
        known = self._known
        request = PutSchedules(schedules, Declarer(known.id, known.release, known.began_ms))
        answer = await retrying(lambda: known.queue.driver.change(request), failed=known.failed)
        known.record_time(answer.server_ms)
        known.present = answer.present
        if known.began_ms and not answer.present:  # it was silent for too long, or Redis has lost its data
            known.begin_again()
        known.began_ms = known.began_ms or int(answer.server_ms)
        known.is_behind |= answer.change != known.change
        return answer.replies

    async def withdraw(self) -> None:
        """Withdraw what it declares, if Redis answers."""
        known = self._known
        if known.began_ms:
            change = WithdrawSchedules(Declarer(known.id, known.release, known.began_ms))
            with anyio.move_on_after(_LEAVING), suppress(DriverError):
                await known.queue.driver.change(change)

    def _log_refused(self, definitions: Sequence[Definition], replies: Sequence[Reply]) -> None:
        """Log which of these Redis does not use as this release declares them, and why."""
        for name, reply in zip((each.name for each in definitions), replies, strict=True):
            if reply is Reply.OK or reply in _REFUSED:
                self._known.warn_once(name, _REFUSED.get(reply, ""))
            if reply is Reply.SPOILED:
                self._known.plans.pop(name, None)

    async def read(self) -> list[str]:
        """Make plans for the schedules that have changed since the last read; return which to declare again."""
        known = self._known
        after, plans, others, change = known.change, known.plans, known.others, None
        if after is None:
            plans, others = dict[str, Plan](), set[str]()
        read, mine = set[str](), set[str]()
        query = ListSchedules(after=after)
        while True:
            page = await retrying(partial(known.queue.driver.read, query), failed=known.failed)
            known.record_time(page.server_ms)
            change = page.change if change is None else change  # what changes from then on is read again
            if after is not None and change < after:
                known.begin_again()
                return []
            for name in (*page.gone, *(row.name for row in page.rows)):
                plans.pop(name, None)
                read.add(name)
            plans |= {row.name: plan for row in page.rows if (plan := self._plan(row)) is not None}
            mine |= {row.name for row in page.rows if row.fields.get(b"release") == known.release.encode()}
            if page.more is None:
                break
            query = ListSchedules(after=page.more)
        theirs = (read - mine) & known.fingerprints.keys()
        known.plans, known.others, known.change = plans, (others - read) | theirs, change
        return [] if after is None else sorted(theirs)

    def _plan(self, row: ScheduleRow) -> Plan | None:
        """Return this scheduler's plan for a schedule; None if it has nothing to do."""
        mine = self._known.fingerprints.get(row.name, "")
        if row.is_paused or (row.is_declared and row.fields.get(b"fingerprint") != mine.encode()):
            return None
        try:
            definition = Definition.read(row.name, row.fields)
            plan = Plan(definition, row.fingerprint, row.last_ms)
            _ = row.is_declared and row.declared_ms
        except ValueError as error:
            self._known.warn_once(row.name, f"what is stored of it can't be read, and it is left alone: {error}")
            return None
        if not row.is_declared:
            self._known.warn_once(row.name, "")
        return plan
