"""Draws the plan of faults from a seed; the same seed gives the same plan. Pure."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_LEAST_GAP = 0.3  # seconds


@dataclass(frozen=True, slots=True)
class Planned:
    """Faults that are in force together.

    Attributes:
        at: When they begin, in seconds from the start.
        names: Their names; mostly there is one.
        holds: The seconds for which they are in force.
        seed: The seed of their own choices, such as a victim.
    """

    at: float
    names: tuple[str, ...]
    holds: float
    seed: int


def plan(
    seed: int,
    seconds: float,
    kinds: Mapping[str, float],
    pairable: Sequence[str] = (),
    alone: Sequence[str] = (),
) -> list[Planned]:
    """Draw a plan.

    In a first round every kind comes once, without another. Later faults may come in pairs. If the time is too
    short for the first round, the plan takes longer.

    `kinds` has the seconds for which each fault is in force. Faults in `pairable` may come together with one that
    is not in it; those in `alone` always come without another.
    """
    rng = random.Random(seed)
    needed = sum(kinds.values())
    spare = max(0.0, seconds - needed) / (len(kinds) + 1)
    schedule: list[Planned] = []
    at = min(2.0, spare)
    first = True
    while first or at < seconds:
        for name in rng.sample(sorted(kinds), len(kinds)):
            if not first and at + kinds[name] > seconds:
                return schedule
            names: tuple[str, ...] = (name,)
            if not first and name not in (*pairable, *alone) and rng.random() < 0.4:
                names += (rng.choice(sorted(pairable)),) if pairable else ()
            holds = max(kinds[each] for each in names)
            schedule.append(Planned(at, names, holds, rng.getrandbits(32)))
            at += holds + (min(spare, 2.0) if first else rng.uniform(_LEAST_GAP, 2.0))
        first = False
    return schedule
