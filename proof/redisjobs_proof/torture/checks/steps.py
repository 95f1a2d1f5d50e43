"""Checks that no step runs again once its result is saved, and that later runs find that result. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from redisjobs.events.recording import Line
from redisjobs_proof.torture.checks.histories import History, Key
from redisjobs_proof.torture.checks.order import held_up


def misremembered(histories: Mapping[Key, History], faults: Sequence[Line]) -> Iterator[str]:
    """Yield steps that ran though their result was saved, or whose result changed, in words."""
    for history in histories.values():
        ran, saved = _by_key(history.noted("ran step")), _by_key(history.noted("saved"))
        for key, lines in saved.items():
            values = {line["value"] for line in lines}
            if len(values) > 1:
                yield f"step {key} of {history.label} ({history.name}) has returned {len(values)} results"
            if not values <= {line["value"] for line in ran[key]}:
                yield f"step {key} of {history.label} ({history.name}) has a result that no run returned"
            since = min(line["at"] for line in lines)
            for line in ran[key]:
                if line["at"] > since and not _is_excused(history, line, since, faults):
                    after = line["at"] - since
                    yield f"step {key} of {history.label} ({history.name}) ran {after:.3f} s after it was saved"


def _is_excused(history: History, ran: Line, since: float, faults: Iterable[Line]) -> bool:
    """Whether a step ran in a run that had lost its lease before, and did not know."""
    lease = ran["worker"], ran["attempt"], ran["deliveries"]
    run = max(
        (run for run in history.runs if run.lease == lease and run.at <= ran["at"]),
        key=lambda run: run.at,
        default=None,
    )
    if run is None:
        return False
    began_before = run.at <= since or any(held_up(fault, run, since) for fault in faults)
    is_owner = run.settled is not None and run.settled["reply"] != "LEASE_LOST"
    return began_before and not is_owner


def _by_key(lines: Iterable[Line]) -> defaultdict[int, list[Line]]:
    found: defaultdict[int, list[Line]] = defaultdict(list)
    for line in lines:
        found[line["key"]].append(line)
    return found
