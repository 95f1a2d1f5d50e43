"""Checks that no job started while it was held, or its queue or name was paused. Pure."""

from collections.abc import Iterable, Iterator, Mapping

from redisjobs.events.recording import Line
from redisjobs_proof.torture.checks.histories import History, Key


def started_though_stopped(histories: Mapping[Key, History], lines: Iterable[Line]) -> Iterator[str]:
    """Yield jobs that started while their queue or name was paused, or they were held, in words.

    A worker may hold a job that was pushed before the pause, and start it. It can't hold a job that came after
    the pause, whatever the faults. When an operator holds a job, no worker has it.
    """
    stops = [line for line in lines if line["what"] == "stopped"]
    for history in histories.values():
        for stop in stops:
            if _is_stopped(history, stop):
                for run in history.runs:
                    if stop["since"] <= run.at < stop["until"]:
                        what = "it was held" if "job" in stop else f"{stop['name'] or 'its queue'} was paused"
                        after = run.at - stop["since"]
                        yield f"{history.label} ({history.name}) was started {after:.3f} s after {what}"


def _is_stopped(history: History, stop: Line) -> bool:
    if history.db != stop["db"]:
        return False
    if "job" in stop:
        return bool(history.job == stop["job"])
    came_after = history.sent_at is not None and history.sent_at >= stop["since"] and not history.holder
    return came_after and history.expected == "new" and stop["name"] in ("", history.name)
