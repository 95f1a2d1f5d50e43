"""A server's clock that can be set. Nobody can set a server's own here: so its scripts hear another time.

The torture, its workers and its producers send scripts that add to what TIME says what a key of the queue holds.
So the clock is one for all, and it is set for what is under way as well, as a server's own is. What no script asks
for keeps to the real one: entry ids, time-outs of blocking reads, when keys expire.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file
from pathlib import Path

from redisjobs.drivers.redis import scripts

KEY = "torture:clock"
"""What follows the queue's prefix in the key: so many seconds is the clock ahead, or, if negative, behind."""

_ASKS = "local time = redis.call('TIME')\n"
_SET = "  time[1] = time[1] + (redis.call('GET', string.match(KEYS[1], '^.-}:') .. '%s') or 0)\n"


@contextmanager
def settable(directory: Path) -> Iterator[None]:
    """Let all scripts that this process sends be told another time than the server's, by a copy of them.

    Args:
        directory: Where the copy goes; there is nothing yet.
    """
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
