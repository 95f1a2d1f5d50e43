"""Reads `lua/*.lua`: one file, one script, one transition. The header of a script names its keys."""

import re
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha1
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

_INCLUDE = re.compile(r'^--- @include "(include/[a-z_]+)"$', re.MULTILINE)
_KEY = re.compile(r"^-- KEYS\[\d+\] +(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Script:
    """One Lua script, includes spliced in.

    Attributes:
        name: As in `lua/<name>.lua`.
        source: What the server is given.
        sha: How EVALSHA calls it: content-addressed, so two releases can share a server.
        keys: What follows `redisjobs:{queue}:` in each of its keys, in the order of its header.
    """

    name: str
    source: str
    sha: str
    keys: tuple[str, ...]

    @cached_property
    def careful(self) -> "Script":
        """The same, but refused whole by a server that is out of memory."""
        first, _, rest = self.source.partition("\n")
        return _script(self.name, f"{first.replace('flags=allow-oom', '').rstrip()}\n{rest}", self.keys)


def _script(name: str, source: str, keys: tuple[str, ...]) -> Script:
    return Script(name, source, sha1(source.encode()).hexdigest(), keys)


def folder() -> Traversable:
    """Where the scripts are: inside an installed wheel, else beside the package in a checkout."""
    installed = files("redisjobs").joinpath("lua")
    return installed if installed.is_dir() else Path(__file__).parents[3] / "lua"


@cache
def script(name: str) -> Script:
    """The script `lua/<name>.lua`, ready to be sent."""
    text = _text(name)
    source = _INCLUDE.sub(lambda line: _text(line[1]), text)
    return _script(name, source, tuple(_KEY.findall(text)))


@cache  # most of the scripts have includes, and the same ones
def _text(name: str) -> str:
    return folder().joinpath(f"{name}.lua").read_text("utf-8")


def names() -> list[str]:
    """The names of all scripts, in alphabetical order."""
    return sorted(entry.name.removesuffix(".lua") for entry in folder().iterdir() if entry.name.endswith(".lua"))


@cache
def load() -> None:
    """Read every script now: a release that takes this one's place on the disk must not reach into its run."""
    for name in names():
        script(name)


def forget() -> None:
    """Read every script anew when it is needed next: others were put in their place."""
    for cached in (load, script, _text):
        cached.cache_clear()
