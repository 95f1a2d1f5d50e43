"""The health that a worker reports."""

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class QueueHealth:
    """The health of a worker in one of its queues; see `Health`."""

    queue: str
    live: bool
    ready: bool
    why: str


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a worker works, judged by what it got done.

    Attributes:
        live: Whether it works, so that it need not be restarted. An unavailable server leaves it live, because a
            restart would not help.
        ready: Whether it takes jobs from at least one of its queues. A quiet worker counts as if it did.
        why: The reason, in a few words, including what is wrong with single queues.
        queues: The health in each of its queues, in order, if it has several; else empty.
    """

    live: bool
    ready: bool
    why: str
    queues: tuple[QueueHealth, ...] = ()


def combined(common: Health, single: Sequence[tuple[str, Health | None]]) -> Health:
    """Return a worker's health from what its queues share, and what is wrong with each (None: nothing)."""
    if len(single) == 1:
        return common if not common.live else single[0][1] or common
    queues = _each(common, single)
    if not common.live:
        return replace(common, queues=queues)
    wrong = [(name, health) for name, health in single if health is not None]
    some_are_well = len(wrong) < len(single)
    told = [f"queue '{name}': {health.why}" for name, health in wrong]
    if some_are_well:
        told = [common.why, *told]
    elif len({health.why for _, health in wrong}) == 1:  # say it once if it is true of all
        told = [wrong[0][1].why]
    live = all(health.live for _, health in wrong)
    return Health(live, live and common.ready and some_are_well, "; ".join(told), queues)


def _each(common: Health, single: Sequence[tuple[str, Health | None]]) -> tuple[QueueHealth, ...]:
    well = replace(common, why="takes jobs") if common.ready else common
    states = [(name, wrong or well) for name, wrong in single]
    return tuple(QueueHealth(name, state.live, state.ready, state.why) for name, state in states)
