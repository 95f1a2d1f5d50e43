"""A server's clock that can be set: its scripts get another time than the machine's.

The torture, its workers and its producers send scripts that add the value of a key of the queue to the reply of
TIME. So all see one clock, and a step also reaches what is under way, as a server's own would. The rest keeps the
real time: entry ids, time-outs of blocking reads, and keys that expire.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file
from pathlib import Path

from redisjobs.drivers.redis import scripts

KEY = "torture:clock"
"""The key after the queue's prefix: the seconds that the clock is ahead, negative if it is behind."""

_ASKS = "local time = redis.call('TIME')\n"
_SET = "  time[1] = time[1] + (redis.call('GET', string.match(KEYS[1], '^.-}:') .. '%s') or 0)\n"


@contextmanager
def settable(directory: Path) -> Iterator[None]:
    """Let all scripts of this process get the settable time, from a copy of them in this new directory."""
    with as_file(scripts.folder()) as original:
        shutil.copytree(original, directory)
    now = directory / "include" / "now.lua"
    text = now.read_text("utf-8")
    assert text.count(_ASKS) == 1, "include/now.lua no longer asks for the time in a way that is known here"
    now.write_text(text.replace(_ASKS, _ASKS + _SET % KEY), "utf-8")
    folder = scripts.folder
    scripts.folder = lambda: directory
    scripts.forget()
    try:
        yield
    finally:
        scripts.folder = folder
        scripts.forget()
