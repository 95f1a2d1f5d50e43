"""Whether those that were stopped for longer than their lease were fenced meanwhile. Pure."""

from collections.abc import Iterator, Sequence

from redisjobs.cli.torture.causes import Leases, holds_up
from redisjobs.cli.torture.stories import Line

_WITHIN = 2.5  # seconds after the end of a lease in which somebody fences whose it was


def unfenced(lines: Sequence[Line], faults: Sequence[Line], leases: Leases) -> Iterator[str]:
    """Workers that nobody has taken for dead though they gave no sign of life for long enough, in words.

    Where others could not have known, as something kept them from beating as well, nothing is asked of them.

    Args:
        lines: What was written down, by time.
        faults: Faults and stalls of these.
        leases: Of the workers.
    """
    for fault in faults:
        for worker, pid in zip(fault.get("silent", ()), fault["pids"], strict=False):
            lease = leases.of(pid)
            if fault["ended"] - fault["began"] < lease + _WITHIN or _held_up(fault, faults, leases):
                continue
            seen = [line["at"] for line in lines if line["what"] == "fenced" and line["worker"] == worker]
            if not any(fault["began"] <= at <= fault["ended"] for at in seen):
                seconds = fault["ended"] - fault["began"]
                yield f"{worker} stood still for {seconds:.1f} s, by a lease of {lease:g} s, and was not fenced"


def _held_up(fault: Line, faults: Sequence[Line], leases: Leases) -> bool:
    """Whether the others may have been kept from fencing a worker that a fault has stopped."""
    return any(
        other is not fault
        and holds_up(other, fault["db"])
        and other["began"] <= fault["ended"]
        and fault["began"] <= other["ended"] + max(other["reaches"], other["lingers"]) + leases.longest
        for other in faults
    )
