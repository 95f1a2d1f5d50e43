"""Checks that each wait of a job ends once, as it should, and that each signal is taken once. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from redisjobs.events.recording import Line
from redisjobs_proof.torture.checks.clock import Clock
from redisjobs_proof.torture.checks.histories import History, Key, Run
from redisjobs_proof.torture.fleet.store import UNSIGNALLED

_ROUNDED = 0.01  # seconds: times of the server are in whole ms
_TAKEN = ("OK", "KEPT", "")
"""The answers to a signal that a job may take; '': there was none."""


def misled(histories: Mapping[Key, History], clock: Clock) -> Iterator[str]:
    """Yield waits that ended too early, twice or not at all, and signals that were lost or doubled, in words."""
    for history in histories.values():
        if not history.flow:
            continue
        about = f"{history.label} ({history.name})"
        passed = _by_key(history.noted("passed"))
        for key, lines in passed.items():
            if len({repr((line["how"], line["value"])) for line in lines}) > 1:
                yield f"wait {key} of {about} has ended in different ways"
            yield from _too_early(history, lines[0], clock)
        yield from _twice(history)
        yield from _signals(history, passed)
        for line in history.noted("left suspended"):
            if line["name"] != UNSIGNALLED:
                yield f"{about} is still suspended though all others have ended"


def woken(history: History, run: Run) -> float | None:
    """Return when a job that a run suspended was made ready again, or a little later; None if unknown."""
    if run.wait is None or run.settled is None or not run.was_suspended:
        return None
    ends = [line for line in history.noted("passed") if line["key"] == run.wait["key"]]
    if not ends or ends[0]["how"] == "children":
        return None
    if ends[0]["how"] != "signal":
        return float(run.settled["at"] + run.wait["seconds"])
    sent = [line["at"] for line in history.noted("signalled") if line["value"] == ends[0]["value"]]
    return max(run.settled["at"], sent[0]) if sent else None


def _too_early(history: History, passed: Line, clock: Clock) -> Iterator[str]:
    """Check that a wait did not end before its time, by the server's clock."""
    if passed["how"] not in ("slept", "timeout"):
        return
    begun = [run for run in history.runs if run.wait is not None and run.wait["key"] == passed["key"]]
    sure = [run for run in begun if run.was_suspended]
    begins = [(run.wait, run.settled) for run in sure or begun if run.wait is not None]
    if not begins:  # it went on at once
        return
    wait, settled = min(begins, key=lambda begin: begin[0]["at"])
    until = passed["at"] if settled is None else min(passed["at"], settled["at"])
    due = clock.earliest(history.db, wait["at"], until) + wait["seconds"]
    early = due - clock.latest(history.db, wait["at"], passed["at"])
    if early > _ROUNDED:
        yield f"wait {passed['key']} of {history.label} ({history.name}) ended {early:.3f} s too early"


def _twice(history: History) -> Iterator[str]:
    """Check that a wait has suspended its job once: how it ended is saved in the step that wakes the job."""
    for key, times in Counter(run.wait["key"] for run in history.runs if run.wait and run.was_suspended).items():
        if times > 1:
            yield f"wait {key} of {history.label} ({history.name}) has suspended it {times} times"


def _signals(history: History, passed: Mapping[int, list[Line]]) -> Iterator[str]:
    taken: defaultdict[str, set[int]] = defaultdict(set)
    for key, lines in passed.items():
        for line in lines:
            if line["how"] == "signal":
                taken[line["value"]].add(key)
    sent = {line["value"]: "" for line in history.noted("signal")}
    answers = {line["value"]: line for line in history.noted("signalled")}
    sent |= {value: line["reply"] for value, line in answers.items()}
    about = f"{history.label} ({history.name})"
    for value, keys in taken.items():
        if value not in sent:
            yield f"{about} has taken signal {value}, which was never sent"
        elif sent[value] not in _TAKEN:
            yield f"{about} has taken signal {value}, whose answer was {sent[value]}"
        if len(keys) > 1:
            yield f"signal {value} was taken by {len(keys)} waits of {about}"
    for value, answer in answers.items():
        if value not in taken and _is_lost(history, answer, passed):
            yield f"signal {value} of {about} was taken by no wait, and its answer was {answer['reply']}"


def _is_lost(history: History, answer: Line, passed: Mapping[int, list[Line]]) -> bool:
    """Whether a signal that no wait took was for the wait that it woke, or for one that began later."""
    if answer["reply"] == "OK":
        return bool(history.completed)
    if answer["reply"] != "KEPT":
        return False
    begins = _by_key(history.noted("waits"))
    in_vain = [key for key, lines in passed.items() if lines[0]["how"] == "timeout"]
    return any(begins[key][0]["at"] > answer["at"] for key in in_vain)


def _by_key(lines: Iterable[Line]) -> defaultdict[int, list[Line]]:
    found: defaultdict[int, list[Line]] = defaultdict(list)
    for line in lines:
        found[line["key"]].append(line)
    return found
