"""What a schedule fires next: the slots that are due, and the jobs for them. No store is asked."""

from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import anyio.to_thread

from redisjobs.model.definition import Accuracy, Definition, moment, ms_of, slot_job
from redisjobs.model.stored import Firing
from redisjobs.model.transitions import MOST_BYTES, weight_of

_LONG = 86_400_000  # ms; the slots of more are counted in a thread


@dataclass(slots=True)
class Plan:
    """A schedule that this scheduler fires.

    Attributes:
        definition: What it is.
        fingerprint: Of the definition.
        last_ms: The slot that was seen to last.
        next_ms: The slot after that.
        not_before: When it is tried again after an error, by the monotonic clock.
    """

    definition: Definition
    fingerprint: str
    last_ms: int
    next_ms: int = 0
    not_before: float = 0.0

    def __post_init__(self) -> None:
        self.move_to(self.last_ms)

    def move_to(self, slot_ms: int) -> None:
        """Note which slot was seen to last."""
        self.last_ms = slot_ms
        self.next_ms = ms_of(self.definition.rule.next_after(moment(slot_ms)))

    def pass_by(self, now_ms: float) -> None:
        """Note that the slots until then were seen to by others."""
        after = moment(now_ms) + timedelta(microseconds=1)
        self.move_to(ms_of(self.definition.rule.last_before(after)))


async def firing_of(plan: Plan, now_ms: float) -> Firing:
    """What a schedule fires now: all that is due, or as much of it as one call takes, from the first slot on."""
    slots, missed = await slots_due(plan, now_ms)
    jobs = [slot_job(plan.definition, slot) for slot in slots]
    most = max(1, MOST_BYTES // weight_of(jobs[0]))  # what is left is due in the next turn
    return Firing(plan.definition.name, plan.fingerprint, plan.last_ms, slots[:most][-1], missed, jobs[:most])


async def slots_due(plan: Plan, now_ms: float) -> tuple[list[int], int]:
    """The slots, in ms, that get a job now, the first of them first; and how many others are past."""
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
