"""Reads the scripts in `lua/*.lua`, adds their includes, and numbers their keys.

Each file in `lua/include/` has one function. `--- @include now expect`, in a script or in an include, adds two of
them. A script gets each include once, after the includes that this one needs. An indented line adds them to its
block only.

Scripts write keys by name: `KEYS.jobs`, `KEYS['paused:names']`. We replace the names by numbers, `KEYS[1]`. So a
script declares exactly the keys it uses.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha1
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

_INCLUDE = re.compile(r"^( *)--- @include ([a-z_ ]+)\n", re.MULTILINE)
_KEY = re.compile(r"--.*|\bKEYS(?:\.(\w+)|\['([\w:]+)'\])")
"""A comment, or a key by its name."""


@dataclass(frozen=True)
class Script:
    """One Lua script, with its includes.

    Attributes:
        name: As in `lua/<name>.lua`.
        source: The text that the server gets.
        sha: The hash for EVALSHA. It depends on the text, so two releases can share a server.
        keys: The part after `redisjobs:{queue}:` of each key, in the order of `KEYS`.
    """

    name: str
    source: str
    sha: str
    keys: tuple[str, ...]

    @cached_property
    def careful(self) -> "Script":
        """The same script, without `allow-oom`: a server that is out of memory refuses to run it."""
        first, _, rest = self.source.partition("\n")
        return _script(self.name, f"{first.replace('flags=allow-oom', '').rstrip()}\n{rest}", self.keys)


def _script(name: str, source: str, keys: tuple[str, ...]) -> Script:
    return Script(name, source, sha1(source.encode()).hexdigest(), keys)


def folder() -> Traversable:
    """Return the folder of the scripts: inside an installed wheel, else beside the package in a checkout."""
    installed = files("redisjobs").joinpath("lua")
    return installed if installed.is_dir() else Path(__file__).parents[3] / "lua"


@cache
def script(name: str) -> Script:
    """Return the script `lua/<name>.lua`, ready to be sent."""
    there: list[str] = []  # the includes of the whole script, so far

    def splice(line: re.Match[str]) -> str:
        indent, names = line[1], line[2].split()
        added = _in_order(names, [*there])
        if not indent:
            there.extend(added)
        return "".join(_include(one)[1] for one in added)

    return _with_numbers(name, _INCLUDE.sub(splice, _text(name)))


def _in_order(names: Sequence[str], there: Sequence[str], needed_by: tuple[str, ...] = ()) -> list[str]:
    """Return these includes and those they need, each after those it needs, without those in `there`.

    Raises:
        ValueError: An include needs itself, directly or by another one.
    """
    added: list[str] = []
    for name in names:
        if name in needed_by:
            raise ValueError(f"lua/include: {' needs '.join((*needed_by, name))}")
        if name not in there and name not in added:
            added += _in_order(_include(name)[0], [*there, *added], (*needed_by, name))
            added.append(name)
    return added


@cache  # most of the scripts have the same ones
def _include(name: str) -> tuple[Sequence[str], str]:
    """Return the includes that an include needs before it, and its text with those of its indented lines."""
    text, needed = _text(f"include/{name}"), list[str]()

    def splice(line: re.Match[str]) -> str:
        names = line[2].split()
        if line[1]:
            return "".join(_include(one)[1] for one in _in_order(names, []))
        needed.extend(names)
        return ""

    return needed, _INCLUDE.sub(splice, text)


def _with_numbers(name: str, source: str) -> Script:
    """Return the script with numbers in place of the names of its keys."""
    keys: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        key = found[1] or found[2]
        return f"KEYS[{keys.setdefault(key, len(keys) + 1)}]" if key else found[0]

    return _script(name, _KEY.sub(number, source), tuple(keys))


def _text(name: str) -> str:
    return folder().joinpath(f"{name}.lua").read_text("utf-8")


def names() -> list[str]:
    """Return the names of all scripts, in alphabetical order."""
    return sorted(entry.name.removesuffix(".lua") for entry in folder().iterdir() if entry.name.endswith(".lua"))


@cache
def load() -> None:
    """Read all scripts now, so that an upgrade that replaces the files does not change a running process."""
    for name in names():
        script(name)


def forget() -> None:
    """Forget all scripts, so that each is read again when it is next needed."""
    for cached in (load, script, _include):
        cached.cache_clear()
