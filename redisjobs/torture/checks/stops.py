"""Whether anything started that an operator had stopped. Pure."""

from collections.abc import Iterable, Iterator, Mapping

from redisjobs.events.recording import Line
from redisjobs.torture.checks.stories import Key, Story


def started_though_stopped(stories: Mapping[Key, Story], lines: Iterable[Line]) -> Iterator[str]:
    """Jobs that were started while their queue or their name was paused, or they were held, in words.

    A job that was pushed before the pause may be in somebody's hands; one that came after can't be, whatever
    fault there was. A job that is held was in nobody's hands when that was said.

    Args:
        stories: All jobs.
        lines: What was written down.
    """
    stops = [line for line in lines if line["what"] == "stopped"]
    for story in stories.values():
        for stop in stops:
            if _is_stopped(story, stop):
                for run in story.runs:
                    if stop["since"] <= run.at < stop["until"]:
                        what = "it was held" if "job" in stop else f"{stop['name'] or 'its queue'} was paused"
                        after = run.at - stop["since"]
                        yield f"{story.label} ({story.name}) was started {after:.3f} s after {what}"


def _is_stopped(story: Story, stop: Line) -> bool:
    if story.db != stop["db"]:
        return False
    if "job" in stop:
        return bool(story.job == stop["job"])
    came_after = story.sent_at is not None and story.sent_at >= stop["since"] and not story.holder
    return came_after and story.expected == "new" and stop["name"] in ("", story.name)
