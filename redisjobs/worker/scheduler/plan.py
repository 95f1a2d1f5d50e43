"""What a schedule fires next: its due slots, and the jobs for them. Pure: it makes no call to Redis."""

from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import anyio.to_thread

from redisjobs.model.definition import Accuracy, Definition, moment, ms_of, slot_job
from redisjobs.model.stored import Firing
from redisjobs.model.transitions import MOST_BYTES, weight_of

_LONG = 86_400_000  # ms; the slots of a longer time are counted in a thread


@dataclass(slots=True)
class Plan:
    """A schedule that this scheduler fires."""

    definition: Definition
    fingerprint: str
    last_ms: int  # the last slot that was fired, or passed by
    next_ms: int = 0  # the first slot after that
    not_before: float = 0.0  # when to try again after an error, by the monotonic clock

    def __post_init__(self) -> None:
        self.move_to(self.last_ms)

    def move_to(self, slot_ms: int) -> None:
        """Note the last slot that was fired."""
        self.last_ms = slot_ms
        self.next_ms = ms_of(self.definition.rule.next_after(moment(slot_ms)))

    def pass_by(self, now_ms: float) -> None:
        """Note that other schedulers have fired the slots until then."""
        after = moment(now_ms) + timedelta(microseconds=1)
        self.move_to(ms_of(self.definition.rule.last_before(after)))


async def firing_of(plan: Plan, now_ms: float) -> Firing:
    """Return what a schedule fires now: its first due slots, as many as one call takes."""
    slots, missed = await slots_due(plan, now_ms)
    jobs = [slot_job(plan.definition, slot) for slot in slots]
    most = max(1, MOST_BYTES // weight_of(jobs[0]))  # the rest is due in the next turn
    return Firing(plan.definition.name, plan.fingerprint, plan.last_ms, slots[:most][-1], missed, jobs[:most])


async def slots_due(plan: Plan, now_ms: float) -> tuple[list[int], int]:
    """Return the slots that get a job now, in ms and in order, and how many other slots have passed."""
    rule, last, now = plan.definition.rule, moment(plan.last_ms), moment(now_ms)
    first = moment(plan.next_ms)
    if rule.next_after(first) > now:  # the usual case
        return [plan.next_ms], 0
    most = plan.definition.at_most if plan.definition.accuracy is Accuracy.ALL else 1
    slots, after = list[int](), now + timedelta(microseconds=1)
    while len(slots) < most and (after := rule.last_before(after)) > last:
        slots.insert(0, ms_of(after))
    count = partial(rule.count, last, now)
    total = await anyio.to_thread.run_sync(count) if now_ms - plan.last_ms > _LONG else count()
    return slots, total - len(slots)
