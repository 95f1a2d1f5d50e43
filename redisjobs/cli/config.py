"""Defaults for the options of commands, from the table `[tool.redisjobs]` of pyproject.toml."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from redisjobs.cli.errors import Mistake

_FILE, _TABLE = "pyproject.toml", "[tool.redisjobs]"
_TEXT, _TEXTS, _NUMBER, _WHOLE, _FLAG = (
    "a text",
    "a text or a list of texts",
    "a number",
    "a whole number",
    "a bool",
)

SHARED = {"app": _TEXTS, "queue": _TEXT, "url": _TEXT, "import": _TEXTS}
"""The keys for all commands: `app` is the MODULE:QUEUE, and --queue too unless `queue` is there."""

WORKER = {
    "strict": _FLAG,
    "concurrency": _WHOLE,
    "processes": _WHOLE,
    "until-idle": _FLAG,
    "lease": _NUMBER,
    "grace": _NUMBER,
    "max-deliveries": _WHOLE,
    "unknown-for": _NUMBER,
    "max-jobs": _WHOLE,
    "max-rss": _TEXT,
    "abandoned": _WHOLE,
    "schedules": _FLAG,
    "health": _TEXT,
    "metrics": _TEXT,
    "log-level": _TEXT,
    "log": _TEXT,
    "reload": _FLAG,
    "reload-dir": _TEXTS,
}
"""The keys for options of `worker`."""


@dataclass(frozen=True, slots=True)
class Config:
    """The table of a file; empty if there is none. An underscore in a key is read as a hyphen."""

    file: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    def defaults(self, command: Any) -> dict[str, Any]:
        """Return the defaults of a command, by the names of its parameters.

        Those of a group also have the defaults of each of its commands that has some.
        """
        below = {name: self.defaults(each) for name, each in getattr(command, "commands", {}).items()}
        keys = {*SHARED, *WORKER} if command.name == "worker" else {*SHARED}
        found = ((parameter, self._value(parameter)) for parameter in command.params)
        values = {parameter.name: value for parameter, (key, value) in found if key in keys and value is not None}
        if "targets" in values and command.name != "worker":  # only workers know weights
            values["targets"] = [target.partition("=")[0] for target in values["targets"]]
        return values | {name: found for name, found in below.items() if found}

    def _value(self, parameter: Any) -> tuple[str, Any]:
        """Return the key for a parameter, and its value or None."""
        if parameter.envvar == "REDISJOBS_APP":
            return "app", self._listed("app")
        key = max(parameter.opts, key=len).removeprefix("--")
        if key == "url" and parameter.envvar is None:  # of `demo` and `torture`, which fill and break a server
            return key, None
        if key == "reload-dir" and self.file is not None:
            return key, [str(self.file.parent / each) for each in self._listed(key) or ()] or None
        if parameter.multiple:
            return key, None if key == "queue" else self._listed(key)
        if key == "queue":
            return key, self.values.get(key, self._only_app())
        return key, self.values.get(key)

    def _listed(self, key: str) -> list[str] | None:
        value = self.values.get(key)
        return [value] if isinstance(value, str) else value

    def _only_app(self) -> str | None:
        apps = self._listed("app") or []
        return apps[0].partition("=")[0] if len(apps) == 1 else None

    def __str__(self) -> str:
        return f"{self.file}: {', '.join(self.values)}"


def load() -> Config:
    """Return the table of the nearest pyproject.toml that has one, in the working directory or above it.

    Raises:
        Mistake: The file can't be read, or a key or a type is wrong.
    """
    try:
        here = Path.cwd()
    except FileNotFoundError:  # it was deleted
        return Config()
    for folder in (here, *here.parents):
        file = folder / _FILE
        if os.path.isfile(file) and (table := _table(file)) is not None:
            return Config(file, dict(_checked(file, table)))
    return Config()


def _table(file: Path) -> Any:
    try:
        text = file.read_text("utf-8")
        if "redisjobs" not in text:  # most often; and the parser takes longer
            return None
        import tomllib

        tool = tomllib.loads(text).get("tool")
    except (OSError, ValueError) as error:
        raise Mistake(f"{file} can't be read: {error}") from None
    return tool.get("redisjobs") if isinstance(tool, dict) else None


def _checked(file: Path, table: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(table, dict):
        raise Mistake(f"{file}: {_TABLE} is not a table")
    types = SHARED | WORKER
    for written, value in table.items():
        key = written.replace("_", "-")
        if key not in types:
            near = get_close_matches(key, types, 1)
            there = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(types)}"
            raise Mistake(f"{file}: {_TABLE} has an unknown key {written!r}; {there}")
        if not _fits(value, types[key]):
            shown = "" if key == "url" else f" = {value!r}"  # a URL may have a password
            raise Mistake(f"{file}: {written}{shown} in {_TABLE} is not {types[key]}")
        yield key, value


def _fits(value: object, kind: str) -> bool:
    match value:
        case bool():  # before int: each bool is one
            return kind == _FLAG
        case int():
            return kind in (_WHOLE, _NUMBER)
        case float():
            return kind == _NUMBER
        case str():
            return kind in (_TEXT, _TEXTS)
        case list():
            return kind == _TEXTS and all(isinstance(each, str) for each in value)
    return False
