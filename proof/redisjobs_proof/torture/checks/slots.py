"""Checks that each slot of a schedule was fired once. Pure.

A scheduler that was killed, or whose reply was lost, has not recorded the slots that it fired. So a slot also
counts as fired if its job ran, was settled, or is a dead letter.
"""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from redisjobs.model.definition import Accuracy, ms_of, slot_id
from redisjobs.model.stored import ScheduleInfo
from redisjobs_proof.torture.checks.histories import History, Key
from redisjobs_proof.torture.fleet.final import FinalState
from redisjobs_proof.torture.fleet.rules import SPAN, is_of_other_rule

Slots = Mapping[datetime, History]
"""The jobs of one schedule by their slots."""

_TICK = timedelta(milliseconds=1)


def take_as_pushed(histories: MutableMapping[Key, History], finals: Sequence[FinalState]) -> int:
    """Mark the jobs of slots as pushed, because schedulers pushed them; return how many there are."""
    number = 0
    for db, final in enumerate(finals):
        ids = {history.job for history in histories.values() if history.db == db} | {
            letter.job for letter in final.letters
        }
        for job in sorted(ids):
            if any(_slot(info, job) for info in final.schedules):
                history = histories.setdefault((db, job), History(db=db, job=job))
                history.attempted = history.acknowledged = True
                number += 1
    return number


def misfired(histories: Mapping[Key, History], finals: Sequence[FinalState]) -> Iterator[str]:
    """Yield slots that were fired twice, never, or at a wrong time, in words; call `take_as_pushed` before."""
    for db, final in enumerate(finals):
        for info in final.schedules:
            mine = [history for history in histories.values() if history.db == db and not history.mark]
            slots = {slot: history for history in mine if (slot := _slot(info, history.job))}
            where = f"database {db}: " if db else ""
            yield from (where + what for what in _of_one(info, slots))


def _of_one(info: ScheduleInfo, slots: Slots) -> Iterator[str]:
    if info.error or info.rule is None or info.last_slot is None or not slots:
        yield f"schedule '{info.name}' has {len(slots)} jobs, and its last slot is {info.last_slot}; {info.error}"
        return
    yield from _twice(slots)
    if info.accuracy is Accuracy.ALL and _rules(slots):
        yield from _left_out_by_either(info, slots)
        return
    due = set(info.rule.between(min(slots) - _TICK, info.last_slot))
    for slot in sorted(slots.keys() - due):
        yield f"{slots[slot].job} was fired, and the last slot of '{info.name}' is {info.last_slot:%H:%M:%S}"
    missing = sorted(due - slots.keys())
    if info.accuracy is Accuracy.ALL:
        yield from (f"{slot_id(info.name, ms_of(slot))} was never fired" for slot in missing)
        if info.missed:
            yield f"schedule '{info.name}' has missed {info.missed} slots, and is to make up for all"
    elif not _are_counted(len(missing), info.missed, slots[min(slots)]):
        yield f"schedule '{info.name}' has {len(missing)} slots without a job, and counts {info.missed} as missed"


def _rules(slots: Slots) -> bool:
    """Whether some slots are of the other rule, from a release that was rolled back."""
    return any(map(is_of_other_rule, slots))


def _left_out_by_either(info: ScheduleInfo, slots: Slots) -> Iterator[str]:
    """Yield slots that were left out while one of two rules counted at a time.

    The rule changes at some moment between two slots. So two slots of different rules may be one and a half spans
    apart, but two slots of one rule only one span.
    """
    for first, second in pairwise(sorted(slots)):
        is_change = is_of_other_rule(first) != is_of_other_rule(second)
        if second - first > (1.5 * SPAN if is_change else SPAN):
            yield f"between {slots[first].job} and {slots[second].job} slots were never fired"
    if max(slots) != info.last_slot:
        yield f"the last slot of '{info.name}' is {info.last_slot}, and its last job {slots[max(slots)].job}"
    if info.missed:
        yield f"schedule '{info.name}' has missed {info.missed} slots, and is to make up for all"


def _are_counted(missing: int, counted: int, first: History) -> bool:
    """Whether each slot without a job is counted as missed once; the first firing counts those before it."""
    if not first.fired:
        return counted >= missing
    return bool(counted - first.fired[0]["missed"] == missing)


def _twice(slots: Slots) -> Iterator[str]:
    for _, history in sorted(slots.items()):
        if len(history.fired) > 1:
            processes = " and ".join(str(line["pid"]) for line in history.fired)
            yield f"{history.job} was fired {len(history.fired)} times, by processes {processes}"
        elif any(not line["added"] for line in history.fired):
            yield f"{history.job} was fired by process {history.fired[0]['pid']} when its job was there already"


def _slot(info: ScheduleInfo, job: str) -> datetime | None:
    """Return the slot of a schedule that a job belongs to; None if it belongs to none."""
    name, _, slot = job.rpartition("@")
    return datetime.fromisoformat(slot) if name == info.name else None
